"""How a liquidation goes through the executor: it is a door, paid when all the rest is done."""

from typing import Final

from keeper.domain.abi import WORD, address_word
from keeper.domain.position import Opportunity
from keeper.domain.program import Step, StepKind
from keeper.domain.units import Address, TokenAmount
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot

_SELECTOR_BYTES: Final = 4


def steps(opportunity: Opportunity, _snapshot: MorphoSnapshot) -> tuple[Step, ...]:
    """Return the one call, of Morpho or of a pre-liquidation contract.

    Source: Morpho.liquidate, 1.0.0: onMorphoLiquidate; PreLiquidation.preLiquidate, 1.0.0: onPreLiquidate.
    """
    function, terms = opportunity.terms[:_SELECTOR_BYTES], opportunity.terms[_SELECTOR_BYTES:]
    params, amounts = terms[: -2 * WORD], terms[-2 * WORD :]
    is_whole = function == morpho.LIQUIDATE
    return (
        Step(
            StepKind.LIQUIDATE_MORPHO if is_whole else StepKind.PRE_LIQUIDATE_MORPHO,
            opportunity.target,
            opportunity.repay.address,
            opportunity.seize.address,
            opportunity.repay_limit,
            data=params + address_word(opportunity.key.account) + amounts,
        ),
    )


def proceeds(opportunity: Opportunity, _snapshot: MorphoSnapshot) -> tuple[Address, TokenAmount]:
    """Return what is seized."""
    return opportunity.seize.address, opportunity.seized_amount


def permits(snapshot: MorphoSnapshot) -> frozenset[tuple[Address, StepKind]]:
    """Return Morpho and the pre-liquidation contracts."""
    contracts = ((each, StepKind.PRE_LIQUIDATE_MORPHO) for each in snapshot.pre_liquidations)
    return frozenset({(snapshot.root, StepKind.LIQUIDATE_MORPHO), *contracts})


def after(_position: MorphoPosition, _snapshot: MorphoSnapshot, _opportunity: Opportunity) -> None:
    """Return None: there is no close factor, so that one call takes all that pays.

    A second pre-liquidation would depend on totals that the first one has changed.
    """
