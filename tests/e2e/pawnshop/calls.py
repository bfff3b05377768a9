"""From an opportunity to calldata, and from revert data to a reason."""

from typing import Final

from keeper.domain import reverts
from keeper.domain.abi import address_word, number_word
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity

from . import contracts as shop

GAS_ESTIMATE: Final = 180_000
SELECTORS: Final = frozenset({shop.LIQUIDATE})
PAYABLE: Final[frozenset[bytes]] = frozenset()


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays exactly what was planned: the shop does not cap."""
    data = shop.LIQUIDATE + address_word(opportunity.key.account) + number_word(opportunity.repay_limit)
    return Call(opportunity.target, data)


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: the shop's errors, tokens' words, panics, junk."""
    return reverts.decode(data, strings={}, errors=shop.CUSTOM_ERRORS)
