"""From an opportunity to calldata, and from revert data to a reason."""

from typing import Final

from keeper.domain import reverts
from keeper.domain.abi import WORD, address_word, number_word
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.protocols.morpho_blue import contracts as morpho

GAS_ESTIMATE: Final = 320_000
SELECTORS: Final = frozenset({morpho.LIQUIDATE, morpho.PRE_LIQUIDATE})
PAYABLE: Final[frozenset[bytes]] = frozenset()
_SELECTOR_BYTES: Final = 4


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays out of the caller's own loan tokens.

    Source: Morpho.liquidate, 1.0.0; PreLiquidation.preLiquidate, 1.0.0.
    """
    return liquidation_with_callback(opportunity, b"")


def liquidation_with_callback(opportunity: Opportunity, data: bytes) -> Call:
    """Return the call that hands `data` to the caller, which is a contract, between the collateral and the payment.

    Without data nobody is called back.
    Source: Morpho.liquidate, 1.0.0: onMorphoLiquidate; PreLiquidation.preLiquidate, 1.0.0: onPreLiquidate.
    """
    function, terms = opportunity.terms[:_SELECTOR_BYTES], opportunity.terms[_SELECTOR_BYTES:]
    params, amounts = terms[: -2 * WORD], terms[-2 * WORD :]
    head = params + address_word(opportunity.key.account) + amounts
    padded = data + bytes(-len(data) % WORD)
    body = number_word(len(head) + WORD) + number_word(len(data)) + padded
    return Call(opportunity.target, function + head + body)


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: Morpho's strings, pre-liquidation's errors, tokens' words, panics, junk."""
    return reverts.decode(data, strings=morpho.STRING_ERRORS, errors=morpho.CUSTOM_ERRORS)
