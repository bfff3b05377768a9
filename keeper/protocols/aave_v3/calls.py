"""From an opportunity to calldata, and from revert data to a reason."""

from typing import Final

from keeper.domain import reverts
from keeper.domain.abi import address_word, number_word
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.protocols.aave_v3 import contracts as aave

GAS_ESTIMATE: Final = 500_000
SELECTORS: Final = frozenset({aave.LIQUIDATION_CALL})
PAYABLE: Final[frozenset[bytes]] = frozenset()


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays and receives the underlying token.

    Source: Pool.liquidationCall, all versions.
    """
    arguments = (
        address_word(opportunity.seize.address),
        address_word(opportunity.repay.address),
        address_word(opportunity.key.account),
        number_word(opportunity.repay_limit),
        number_word(0),  # the underlying token, not the aToken
    )
    return Call(opportunity.target, aave.LIQUIDATION_CALL + b"".join(arguments))


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: Aave's strings (to 3.3) and errors (from 3.4), tokens' words, panics, junk."""
    return reverts.decode(data, strings=aave.STRING_ERRORS, errors=aave.CUSTOM_ERRORS)
