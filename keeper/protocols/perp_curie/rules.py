"""Perpetual Protocol v2's arithmetic: exact integers, the contracts' truncations in the contracts' order.

Why the screen never misses. The unit is 10**-18 of the settlement token. For an account without orders, let
`v = size * price / 1e18` be a position's real value and `f = size * (G - g) / (2**96 * 86400)` its real pending funding
(G the market's growth, g the account's last). The linear margin is

    m = cash + sum(v - f) + sum(collateral) - mmRatio * sum(|v|)

with `cash` the balance, the owed profit and all open notionals, an exact integer. The contract's account value A is
lower than its real one by at most: 1 for a long (its value is truncated; a short's rises), 2 for a pending funding (one
truncation before the division by a day, one after it), 2 more for that the growth is known to within one unit, 3 for a
collateral (price, weight, decimals), and then, once, less than `scale`, since it is rounded down to whole units of the
settlement token. A size below `DUST` has funding but no value; it gets no value column. The requirement is truncated
twice, and so never above the real one. The contract liquidates if and only if `A < requirement`, hence only if

    m < sum(slack)   with slack 1 for value columns, 4 + scale for funding, scale for cash, 3 for collateral.

Whoever can be liquidated has a size, so at least one funding column brings the `scale`. The signs of size, cash and
carry (`size * g`) live in the columns, which makes the row exact for long and short alike.

An account with orders has no linear form: it has a column of its own, whose factor is the margin that the contract itself
tells at every head; until it has told one, a slack beyond any margin makes it a suspect. Where a market has no price, the contract reverts for everybody in it, so its columns weigh
nothing; where only the growth is unknown they are beyond any margin, and `assess` says PRICE_UNKNOWN.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from typing import Final

from keeper.domain import abi, fixed
from keeper.domain.chain import Moment
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import MAX_UINT256, WAD, Address, Base, Column, PositionId, TokenAmount, Wad
from keeper.protocols.perp_curie.contracts import (
    DUST,
    FUNDING_PERIOD_S,
    MILLION,
    Q96,
    Account,
    Collateral,
    Leg,
    Perpetual,
    PerpPosition,
    PerpSnapshot,
    Stake,
    TakeOver,
    mul_div,
    truncated,
)

_SMALL_VALUE: Final = 100 * WAD  # `AccountBalance._MIN_PARTIAL_LIQUIDATE_POSITION_VALUE`
_MOST_RATIO: Final = 2**24  # what `toUint24` refuses
_BEYOND_ANY_MARGIN: Final = 2**200
_PERIOD_X96: Final = Q96 * FUNDING_PERIOD_S
_DRIFT: Final = 100  # a hundredth more margin than a take-over locks: the mark price moves until it lands
_LONG, _SHORT, _FUNDING_LONG, _FUNDING_SHORT, _COLLATERAL, _SHARED, _OPAQUE = range(7)
_CASH, _CASH_OWED, _CARRY, _CARRY_OWED = range(4)
_SIGNS: Final = (1, -1)
_OBSTACLES: Final = (  # of several, the first is named
    Reason.INSUFFICIENT_INVENTORY,
    Reason.PAUSED,
    Reason.NO_COLLATERAL,
)


def row(position: PerpPosition, snapshot: PerpSnapshot) -> Row:
    """Return the account's columns: values and funding of its positions, collateral, cash and carry.

    Source: Vault._getAccountValueAndTotalCollateralValue, 2.8.4.
    """
    if position.is_opaque or not _is_known(position, snapshot):
        return ((_column(_OPAQUE, int.from_bytes(position.id, "big")), 1),)
    entries: list[tuple[Column, int]] = []
    for stake in position.stakes:
        index, is_short, size = snapshot.perpetuals[stake.base_token].id, stake.size < 0, abs(stake.size)
        entries.append((_column(_FUNDING_SHORT if is_short else _FUNDING_LONG, index), size))
        if size >= DUST:
            entries.append((_column(_SHORT if is_short else _LONG, index), size))
    for token, amount in position.collaterals:
        entries.append((_column(_COLLATERAL, snapshot.collaterals[token].id), amount))
    cash = _cash(position, snapshot) + sum(stake.open_notional for stake in position.stakes)
    carry = sum(stake.size * stake.growth_x96 for stake in position.stakes)
    entries.append((_column(_SHARED, _CASH if cash > 0 else _CASH_OWED), abs(cash)))
    entries.append((_column(_SHARED, _CARRY if carry > 0 else _CARRY_OWED), abs(carry)))
    return tuple(entry for entry in entries if entry[1])


def weights(snapshot: PerpSnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:  # noqa: ARG001
    """Return the columns' factors, with the bounds that this module's docstring proves; the head's prices stand.

    Source: Vault._getAccountValueAndTotalCollateralValue, AccountBalance.getMarginRequirementForLiquidation, 2.8.4.
    """
    perpetuals = {each.id: each for each in snapshot.perpetuals.values()}
    collaterals = {each.id: each for each in snapshot.collaterals.values()}
    found = {}
    for column in columns:
        kind, index = column & 7, column >> 3
        if kind == _SHARED:
            found[column] = _shared_weight(index, snapshot.scale)
        elif kind == _OPAQUE:
            found[column] = _opaque_weight(PositionId(index.to_bytes(20, "big")), snapshot)
        elif kind == _COLLATERAL:
            found[column] = _collateral_weight(collaterals.get(index))
        else:
            found[column] = _perpetual_weight(perpetuals.get(index), kind, snapshot)
    return found


def health(position: PerpPosition, snapshot: PerpSnapshot, at: Moment) -> Health:  # noqa: ARG001 - the head's prices
    """Value the account at the head's prices; where one is missing it is worth nothing, and not liquidatable.

    Source: ClearingHouse.getAccountValue, ClearingHouse._isLiquidatable, 2.8.4.
    """
    return _health(position, snapshot, _account(position, snapshot))


def reported(account_value: int, requirement: int, usd: Base | None) -> Health:
    """Turn the contract's two figures (18 decimals) into a health, at a US dollar price of the settlement token.

    Source: ClearingHouse._isLiquidatable, 2.8.4.
    """
    equity, price = max(account_value, 0), usd or 0
    worst = 0 if account_value < 0 else MAX_UINT256  # without any requirement
    factor = equity * WAD // requirement if requirement else worst
    return Health(
        health_factor_wad=Wad(min(factor, MAX_UINT256)),
        collateral_base=Base(equity * price // WAD),
        debt_base=Base(requirement * price // WAD),
        is_liquidatable=account_value < requirement,
        collateral=(),
        debt=(),
    )


def pending_funding(stake: Stake, growth_x96: int) -> int:
    """Return the funding that a position owes (negative: is owed), truncated twice.

    Source: Funding.calcPendingFundingPaymentWithLiquidityCoefficient, 2.8.4.
    """
    return truncated(mul_div(stake.size, growth_x96 - stake.growth_x96, Q96), FUNDING_PERIOD_S)


def largest_size(size: int, value: int, account: tuple[int, int, int]) -> int | None:
    """Return the most that can be taken over of a position, None where the contract cannot tell itself.

    `account` is the account's value, its requirement and its positions' total absolute value, all with 18 decimals.
    Source: AccountBalance.getLiquidatablePositionSize, 2.8.4.
    """
    account_value, requirement, total = account
    if account_value >= requirement or not size:
        return 0
    if abs(value) <= _SMALL_VALUE or account_value < requirement // 2:
        return size
    ratio = total * MILLION // (2 * abs(value))
    return None if ratio >= _MOST_RATIO else mul_div(size, min(ratio, MILLION), MILLION)


def take_over(size: int, price: int, account_value: int, penalty_ratio: int) -> TakeOver:
    """Return what taking over a size at the mark price moves; an account under water pays all to the liquidator.

    Source: ClearingHouse._liquidate, 2.8.4.
    """
    notional = mul_div(size, price, WAD)
    penalty = abs(notional) * penalty_ratio // MILLION
    return TakeOver(size, notional, penalty, penalty if account_value < 0 else penalty // 2)


def margin_needed(notional: int, fee: int, im_ratio: int, scale: int) -> int:
    """Return the margin that a take-over locks, in settlement units, one more than the roundings can ask for.

    A long's debt is what it paid, the notional less the fee; a short's is the notional. What the liquidator holds of
    other positions may lower that, never raise it, unless it realises a loss.
    Source: Vault._getFreeCollateralByRatio, AccountBalance.getTotalDebtValue, 2.8.4.
    """
    debt = notional - fee if notional > 0 else -notional
    return fixed.div_up(debt * im_ratio // MILLION, scale) + 1


def assess(
    position: PerpPosition, snapshot: PerpSnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
) -> Assessment:
    """Return the largest legal take-over in every open market, best first; cancel orders first where there are some.

    `repay` is the margin that it locks, which costs nothing, and `seize` the fee that comes with the position.
    Source: ClearingHouse._liquidate, ClearingHouse._cancelExcessOrders, 2.8.4.
    """
    account = _account(position, snapshot)
    valued = _health(position, snapshot, account)
    if account is None or snapshot.settlement.address not in snapshot.prices:
        return Assessment(valued, (), Reason.PRICE_UNKNOWN)
    if not account.is_liquidatable:
        return Assessment(valued, (), Reason.NOT_LIQUIDATABLE)
    if snapshot.is_paused:
        return Assessment(valued, (), Reason.PAUSED)
    funds = None if budget is None else budget.get(snapshot.margin.address, TokenAmount(0))
    key, found = PositionKey(snapshot.market, position.id), []
    refused = {Reason.NO_COLLATERAL}
    for leg in account.legs:
        verdict = _verdict(leg, account, position, snapshot, funds)
        if isinstance(verdict, TakeOver):
            found.append(_opportunity(key, leg, verdict, snapshot, at))
        else:
            refused.add(verdict)
    found.sort(key=lambda each: (-each.gross_profit_base, each.terms))
    blocking = [each for each in position.orders if snapshot.perpetuals[each].is_open]
    if blocking and found:
        found = [_cancellation(each, found[0]) for each in blocking]
    return Assessment(valued, tuple(found), None if found else min(refused, key=_OBSTACLES.index))


def settlements(
    owner: Address,  # noqa: ARG001 - as the port has it
    held: Mapping[Address, TokenAmount],  # noqa: ARG001
    snapshot: PerpSnapshot,  # noqa: ARG001
    at: Moment,  # noqa: ARG001
) -> tuple[Opportunity, ...]:
    """Return nothing: a position that was taken over is no token, and stays open until the operator closes it.

    Source: ClearingHouse._liquidate, 2.8.4.
    """
    return ()


def _is_known(position: PerpPosition, snapshot: PerpSnapshot) -> bool:
    """Return whether the snapshot has all that the account is in: a market may be younger than it."""
    markets, collaterals = (stake.base_token for stake in position.stakes), (token for token, _ in position.collaterals)
    return snapshot.perpetuals.keys() >= set(markets) and snapshot.collaterals.keys() >= set(collaterals)


def _account(position: PerpPosition, snapshot: PerpSnapshot) -> Account | None:
    """Return the account's figures, the contract's own where only it can tell, or None without a price."""
    if not _is_known(position, snapshot):
        return None
    if position.is_opaque:
        told = snapshot.valuations.get(position.id, position.valuation)
        legs = () if told is None else _legs(told.sizes, snapshot)
        return None if told is None or legs is None else Account(told.account_value, told.requirement, legs)
    legs = _legs(tuple((each.base_token, each.size) for each in position.stakes), snapshot)
    exact = _exact_value(position, snapshot)
    if legs is None or exact is None:
        return None
    total = sum(abs(leg.value) for leg in legs)
    return Account(exact // snapshot.scale * snapshot.scale, total * snapshot.mm_ratio // MILLION, legs)


def _legs(sizes: tuple[tuple[Address, int], ...], snapshot: PerpSnapshot) -> tuple[Leg, ...] | None:
    legs = []
    for base_token, size in sizes:
        perpetual = snapshot.perpetuals[base_token]
        if abs(size) >= DUST:
            if perpetual.price is None:
                return None
            legs.append(Leg(perpetual, perpetual.price, size))
    return tuple(legs)


def _exact_value(position: PerpPosition, snapshot: PerpSnapshot) -> int | None:
    """Return the account value with 18 decimals (`Vault._getAccountValueAndTotalCollateralValue`)."""
    total = _cash(position, snapshot)
    for stake in position.stakes:
        perpetual = snapshot.perpetuals[stake.base_token]
        size = stake.size if abs(stake.size) >= DUST else 0
        if (perpetual.price is None and size) or (perpetual.growth_x96 is None and stake.size):
            return None
        total += stake.open_notional + mul_div(size, perpetual.price or 0, WAD)
        total -= pending_funding(stake, perpetual.growth_x96 or 0)
    for token, amount in position.collaterals:
        value = snapshot.collaterals[token].value(amount)
        if value is None:
            return None
        total += value * snapshot.collaterals[token].ratio // MILLION
    return total


def _cash(position: PerpPosition, snapshot: PerpSnapshot) -> int:
    return position.balance * snapshot.scale + (position.owed or 0)


def _health(position: PerpPosition, snapshot: PerpSnapshot, account: Account | None) -> Health:
    if account is None:
        return Health(Wad(0), Base(0), Base(0), is_liquidatable=False, collateral=(), debt=())
    price = snapshot.prices.get(snapshot.settlement.address)
    figures = reported(account.account_value, account.requirement, price)
    sides: tuple[list[Holding], list[Holding]] = ([], [])
    for is_owed, token, amount in _holdings(position, snapshot, account):
        value = snapshot.value_base(token.address, TokenAmount(amount))
        sides[is_owed].append(Holding(token, TokenAmount(amount), value or Base(0)))
    return replace(figures, collateral=tuple(sides[0]), debt=tuple(sides[1]))


def _holdings(position: PerpPosition, snapshot: PerpSnapshot, account: Account) -> Iterator[tuple[bool, Token, int]]:
    """Yield whether it is owed, what, and how much: the balance, collaterals, longs held and shorts owed."""
    if position.balance:
        yield position.balance < 0, snapshot.settlement, abs(position.balance)
    for token, amount in position.collaterals:
        yield False, snapshot.collaterals[token].token, amount
    for leg in account.legs:
        yield leg.size < 0, leg.perpetual.token, abs(leg.size)


def _verdict(
    leg: Leg, account: Account, position: PerpPosition, snapshot: PerpSnapshot, funds: int | None
) -> TakeOver | Reason:
    """Return the largest take-over that is legal and affordable, or what forbids any."""
    if not leg.perpetual.is_open:
        return Reason.PAUSED
    figures = account.account_value, account.requirement, account.total_value
    most = largest_size(leg.size, leg.value, figures)
    if not most:
        return Reason.NO_COLLATERAL
    taken = take_over(most, leg.price, account.account_value, snapshot.penalty_ratio)
    if funds is not None and _limit(taken, snapshot) > funds:
        least = max(0, (funds - 3) * _DRIFT // (_DRIFT + 1) - 1) * snapshot.scale
        size = least * MILLION // snapshot.im_ratio * WAD // leg.price if snapshot.im_ratio else 0
        size = min(abs(most), size) * (1 if most > 0 else -1)
        taken = take_over(size, leg.price, account.account_value, snapshot.penalty_ratio)
        if abs(size) < DUST or not taken.fee or _limit(taken, snapshot) > funds:
            return Reason.INSUFFICIENT_INVENTORY
    return taken if _is_insured(leg, taken, account, position, snapshot) else Reason.NO_COLLATERAL


def _limit(taken: TakeOver, snapshot: PerpSnapshot) -> int:
    needed = margin_needed(taken.notional, taken.fee, snapshot.im_ratio, snapshot.scale)
    return needed + fixed.div_up(needed, _DRIFT)


def _is_insured(leg: Leg, taken: TakeOver, account: Account, position: PerpPosition, snapshot: PerpSnapshot) -> bool:
    """Return whether the insurance fund covers what the account is short of afterwards (`CH_IIC`)."""
    exact = None if position.is_opaque else _exact_value(position, snapshot)
    value = account.account_value if exact is None else exact
    left = leg.size - taken.size
    value += mul_div(left if abs(left) >= DUST else 0, leg.price, WAD) - leg.value + taken.notional - taken.penalty
    short_of = -(value // snapshot.scale * snapshot.scale)
    fund = snapshot.insurance + taken.fund_fee // snapshot.scale
    return short_of <= 0 or fund * snapshot.scale >= short_of


def _opportunity(key: PositionKey, leg: Leg, taken: TakeOver, snapshot: PerpSnapshot, at: Moment) -> Opportunity:
    margin = margin_needed(taken.notional, taken.fee, snapshot.im_ratio, snapshot.scale)
    price = snapshot.prices[snapshot.settlement.address]
    return Opportunity(
        key=key,
        repay=snapshot.margin,
        repay_amount=TokenAmount(margin),
        repay_limit=TokenAmount(_limit(taken, snapshot)),
        repay_base=Base(0),
        seize=snapshot.settlement,
        seized_amount=TokenAmount(taken.fee // snapshot.scale),
        seized_base=Base(taken.fee * price // WAD),
        protocol_fee_amount=TokenAmount(taken.fund_fee // snapshot.scale),
        spender=None,
        target=snapshot.clearing_house,
        at=at,
        terms=abi.address_word(leg.perpetual.token.address) + abi.number_word(taken.size),
    )


def _cancellation(base_token: Address, best: Opportunity) -> Opportunity:
    """Return the step that cancels a market's orders, with the profit of the best liquidation that they hinder."""
    terms, nothing = abi.address_word(base_token), TokenAmount(0)
    return replace(best, repay_amount=nothing, repay_limit=nothing, terms=terms, action=Action.PREPARE)


def _shared_weight(index: int, scale: int) -> Weight:
    sign = _SIGNS[index & 1]
    return Weight(sign, 1, scale) if index in (_CASH, _CASH_OWED) else Weight(sign, _PERIOD_X96, 0)


def _opaque_weight(who: PositionId, snapshot: PerpSnapshot) -> Weight:
    told = snapshot.valuations.get(who)
    return Weight(0, 1, _BEYOND_ANY_MARGIN) if told is None else Weight(told.account_value - told.requirement, 1, 0)


def _collateral_weight(collateral: Collateral | None) -> Weight:
    if collateral is None or collateral.price is None:
        return Weight(0, 1, 0)
    numerator = collateral.price * collateral.ratio * 10**18
    return Weight(numerator, collateral.price_unit * MILLION * 10**collateral.token.decimals, 3)


def _perpetual_weight(perpetual: Perpetual | None, kind: int, snapshot: PerpSnapshot) -> Weight:
    if perpetual is None or perpetual.price is None:
        return Weight(0, 1, 0)
    if perpetual.growth_x96 is None:
        return Weight(0, 1, _BEYOND_ANY_MARGIN)
    if kind == _LONG:
        return Weight(perpetual.price * (MILLION - snapshot.mm_ratio), WAD * MILLION, 1)
    if kind == _SHORT:
        return Weight(-perpetual.price * (MILLION + snapshot.mm_ratio), WAD * MILLION, 1)
    sign = _SIGNS[kind == _FUNDING_LONG]
    return Weight(sign * perpetual.growth_x96, _PERIOD_X96, 4 + snapshot.scale)


def _column(kind: int, index: int) -> Column:
    return Column(index << 3 | kind)
