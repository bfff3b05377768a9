"""Pawnshop's arithmetic: exact integers, its roundings in its order.

Why the screen never misses, in units of the loan token. A debt `p` of the time `u` is really `d = p + p*rate*(t - u)` at
`t`: `p` times `1 + rate*t`, less `p*u` times `rate`, two columns that all loans share. Let `c` be the real limit. The
shop rounds interest up, so its debt is below `d + 1`, and truncates twice, so its limit is above `c - 2` as the
threshold does not exceed 1. A loan can be liquidated if and only if debt >= limit + 1 (the factor, truncated, is then
below 1), hence `d > debt - 1 >= limit > c - 2` and the margin `c - d` is below 2: one unit of slack for the collateral
and one for the debt. Without collateral `c` is 0 exactly and the margin is negative.

Without a price the shop refuses every liquidation: the margin is above any, and `assess` says PRICE_UNKNOWN.
"""

from collections.abc import Mapping, Set
from typing import Final

from keeper.domain.chain import Moment
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.position import Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import BPS, MAX_UINT256, WAD, Address, Base, Column, TokenAmount, Wad

from .contracts import PawnshopPosition, PawnshopSnapshot, Terms

_COLLATERAL, _DEBT, _SINCE = Column(0), Column(1), Column(2)
_UNPRICED: Final = Weight(1, 1, 0)


def debt_at(position: PawnshopPosition, terms: Terms, at_s: int) -> int:
    """Return the debt with interest, rounded up.

    Source: Pawnshop.debtOf.
    """
    return position.debt + div_up(position.debt * terms.rate_wad * (at_s - position.updated_s), WAD)


def row(position: PawnshopPosition, snapshot: PawnshopSnapshot) -> Row:
    """Return collateral, debt, and debt times its age in seconds since 1970.

    Source: Pawnshop.health: what it compares.
    """
    entries = (
        (_COLLATERAL, position.collateral),
        (_DEBT, position.debt),
        (_SINCE, position.debt * position.updated_s),
    )
    return tuple((column, amount) for column, amount in entries if amount)


def weights(snapshot: PawnshopSnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
    """Return the columns' factors at a moment, in the loan token's units, with the slack that the docstring proves.

    Source: Pawnshop.health, debtOf.
    """
    terms = snapshot.terms
    if snapshot.price is None:
        return dict.fromkeys(columns, _UNPRICED)
    limit = snapshot.price * terms.loan_unit * terms.threshold_bps
    found = {
        _COLLATERAL: Weight(limit, terms.collateral_unit * BPS, 1),
        _DEBT: Weight(-(WAD + terms.rate_wad * at.time_s), WAD, 1),
        _SINCE: Weight(terms.rate_wad, WAD, 0),
    }
    return {column: found[column] for column in columns}


def health(position: PawnshopPosition, snapshot: PawnshopSnapshot, at: Moment) -> Health:
    """Value the position with interest up to a moment. Without a price it is 0, and not liquidatable: the shop reverts.

    Source: Pawnshop.health.
    """
    terms, price, debt = snapshot.terms, snapshot.price, debt_at(position, snapshot.terms, at.time_s)
    factor = 0 if debt else MAX_UINT256
    if debt and price is not None:
        value = position.collateral * price * terms.loan_unit // terms.collateral_unit
        factor = value * terms.threshold_bps // BPS * WAD // debt
    collateral_base = snapshot.value_base(terms.collateral.address, TokenAmount(position.collateral)) or Base(0)
    debt_base = _value_up(snapshot, terms.loan, debt)
    return Health(
        health_factor_wad=Wad(factor),
        collateral_base=collateral_base,
        debt_base=debt_base,
        is_liquidatable=price is not None and factor < WAD,
        collateral=_holding(terms.collateral, position.collateral, collateral_base),
        debt=_holding(terms.loan, debt, debt_base),
    )


def assess(
    position: PawnshopPosition, snapshot: PawnshopSnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
) -> Assessment:
    """Return the largest liquidation: the close factor, what the collateral covers with its bonus, what can be paid.

    Source: Pawnshop.liquidate.
    """
    found, terms, price = health(position, snapshot, at), snapshot.terms, snapshot.price
    if price is None or not {terms.loan.address, terms.collateral.address} <= snapshot.prices.keys():
        return Assessment(found, (), Reason.PRICE_UNKNOWN)
    if not found.is_liquidatable:
        return Assessment(found, (), Reason.NOT_LIQUIDATABLE)
    gain, cost = terms.bonus_bps * terms.collateral_unit, BPS * terms.loan_unit * price
    closed = debt_at(position, terms, at.time_s) * terms.close_factor_bps // BPS
    covered = ((position.collateral + 1) * cost - 1) // gain  # the most that seizes no more than there is
    wanted = min(closed, covered)
    repaid = wanted if budget is None else min(wanted, budget.get(terms.loan.address, TokenAmount(0)))
    seized = repaid * gain // cost
    if not seized:
        short = Reason.INSUFFICIENT_INVENTORY if repaid < wanted else Reason.DUST_RULE
        return Assessment(found, (), short if position.collateral else Reason.NO_COLLATERAL)
    return Assessment(found, (_opportunity(position, snapshot, at, repaid=repaid, seized=seized),), None)


def settlements(
    owner: Address,
    held: Mapping[Address, TokenAmount],
    snapshot: PawnshopSnapshot,
    at: Moment,
) -> tuple[Opportunity, ...]:
    """Return nothing: collateral comes as itself.

    Source: Pawnshop.liquidate.
    """
    return ()


def _opportunity(
    position: PawnshopPosition, snapshot: PawnshopSnapshot, at: Moment, *, repaid: int, seized: int
) -> Opportunity:
    terms = snapshot.terms
    return Opportunity(
        key=PositionKey(snapshot.market, position.id),
        repay=terms.loan,
        repay_amount=TokenAmount(repaid),
        repay_limit=TokenAmount(repaid),
        repay_base=_value_up(snapshot, terms.loan, repaid),
        seize=terms.collateral,
        seized_amount=TokenAmount(seized),
        seized_base=snapshot.value_base(terms.collateral.address, TokenAmount(seized)) or Base(0),
        protocol_fee_amount=TokenAmount(0),
        spender=terms.root,
        target=terms.root,
        at=at,
    )


def _value_up(snapshot: PawnshopSnapshot, token: Token, amount: int) -> Base:
    """Value an amount, rounding up; 0 without a price."""
    return Base(div_up(amount * snapshot.prices.get(token.address, Base(0)), 10**token.decimals))


def _holding(token: Token, amount: int, value_base: Base) -> tuple[Holding, ...]:
    return (Holding(token, TokenAmount(amount), value_base),) if amount else ()
