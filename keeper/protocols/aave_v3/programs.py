"""How a liquidation goes through the executor, and what it leaves of the position."""

from dataclasses import replace

from keeper.domain.abi import address_word
from keeper.domain.fixed import div_half_up, div_up
from keeper.domain.position import Opportunity
from keeper.domain.program import Step, StepKind
from keeper.domain.units import RAY, Address, TokenAmount
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot


def steps(opportunity: Opportunity, _snapshot: AaveSnapshot) -> tuple[Step, ...]:
    """Return the one call: it brings the underlying token."""
    return (
        Step(
            StepKind.LIQUIDATE_AAVE,
            opportunity.target,
            opportunity.repay.address,
            opportunity.seize.address,
            opportunity.repay_limit,
            data=address_word(opportunity.key.account),
        ),
    )


def proceeds(opportunity: Opportunity, _snapshot: AaveSnapshot) -> tuple[Address, TokenAmount]:
    """Return what is seized."""
    return opportunity.seize.address, opportunity.seized_amount


def permits(snapshot: AaveSnapshot) -> frozenset[tuple[Address, StepKind]]:
    """Return the pool."""
    return frozenset({(snapshot.pool, StepKind.LIQUIDATE_AAVE)})


def after(position: AavePosition, snapshot: AaveSnapshot, opportunity: Opportunity) -> AavePosition | None:
    """Return the position as the liquidation leaves it, or None where it leaves no collateral of any worth or no debt.

    From 3.3 the rest of a debt is written off when the collateral is gone. A debt at the account's own rate is not
    followed.
    Rounding: half up to 3.4; from 3.5 collateral is burnt rounding up, debt rounding down. Liquidator and treasury get
    theirs one after the other.
    Source: LiquidationLogic.executeLiquidationCall, ScaledBalanceTokenBase._burnScaled, AToken.transferOnLiquidation, by
    version; TokenMath from 3.5.
    """
    if position.stable_debt:
        return None
    profile, at_s = rules.PROFILES[snapshot.revision], opportunity.at.time_s
    listed = {each.token.address: each for each in snapshot.reserves.values()}
    debt, collateral = listed[opportunity.repay.address], listed[opportunity.seize.address]
    owed, held = dict(position.debt), dict(position.collateral)
    burnt, sent = (div_up, div_up) if profile.is_directed else (div_half_up, div_half_up)
    index = rules.supply_index(collateral, at_s)
    balance = profile.supplied(held[collateral.id], index)
    held[collateral.id] -= burnt(opportunity.seized_amount * RAY, index)
    held[collateral.id] -= min(held[collateral.id], sent(opportunity.protocol_fee_amount * RAY, index))
    if held[collateral.id] <= 0 or opportunity.seized_amount + opportunity.protocol_fee_amount == balance:
        del held[collateral.id]
    index = rules.debt_index(debt, profile, at_s)
    repaid = opportunity.repay_amount * RAY
    owed[debt.id] -= repaid // index if profile.is_directed else div_half_up(repaid, index)
    if owed[debt.id] <= 0:
        del owed[debt.id]
    left = replace(position, collateral=tuple(held.items()), debt=tuple(owed.items()))
    return left if owed and held and rules.health(left, snapshot, opportunity.at).collateral_base else None
