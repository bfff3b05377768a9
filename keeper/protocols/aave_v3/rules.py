"""Aave v3's arithmetic: exact integers, the contracts' roundings in the contracts' order, every generation as data.

Why the screen never misses. Let `v = amount * index/RAY * price/unit` be an entry's real value, so that the linear
margin is `m = sum(v*T/1e4) - sum(d)` over collateral with threshold T and debt d.
*Half-up family (3.0 to 3.4).* A collateral value is `V > v - (price/(2*unit) + 1)` and `V <= v + price/(2*unit)`; a debt
value is `D <= d + price/(2*unit)`. With `C = sum(V)`, `W = sum(V*T)` the contract truncates the average threshold, so
`C * (W // C) > W - C`, and rounds half up twice: `P > (W - C)/1e4 - 1/2`. It finds `HF < 1` only if `P <= D - 1`, which
absorbs the half. Hence liquidatable implies `m < slack + sum(v)/1e4`, where the last term is each entry `e = v*T/1e4`
divided by its T (`relative_divisor`), and the slack of a column collects the rest: collateral
`(price/(2*unit) + 1) * T/1e4 + price/(2*unit)/1e4`, debt `price/(2*unit)`.
*Directed family (from 3.5).* `V > v - (price/unit + 1)`, `D < d + price/unit + 1`, and `HF < 1` if and only if
`W < 1e4 * D`. Hence `m < slack` with collateral `(price/unit + 1) * T/1e4` and debt `price/unit + 1`.

What cannot be bounded so (stable debt at the account's own rate, a threshold of zero that counts in the average) gets a
slack beyond any margin. What has no price counts for nothing on either side: the contract reverts for its holders, so
none of them can be missed, and `assess` says PRICE_UNKNOWN.
"""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from operator import floordiv
from types import MappingProxyType
from typing import Final

from keeper.domain import fixed
from keeper.domain.chain import Moment
from keeper.domain.outcome import Reason
from keeper.domain.position import Assessment, Health, Holding, Opportunity, PositionKey, Row, Weight
from keeper.domain.units import BASE_UNIT, BPS, MAX_UINT256, RAY, WAD, Address, Base, Column, TokenAmount, Wad
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, Leg, Reserve

_YEAR_S: Final = 365 * 86_400
_ALMOST_HEALTHY_WAD: Final = 95 * WAD // 100
_SMALL_BASE: Final = 2_000 * BASE_UNIT
_LEFTOVER_BASE: Final = 1_000 * BASE_UNIT
_LEFTOVER_GOAL_BASE: Final = 1_010 * BASE_UNIT  # what shrinking leaves: a price may move before the call lands
_BEYOND_ANY_MARGIN: Final = 2**200
_COLLATERAL, _DEBT, _STABLE_DEBT = range(3)
_OBSTACLES: Final = (  # of several, the first is named
    Reason.INSUFFICIENT_INVENTORY,
    Reason.DUST_RULE,
    Reason.GRACE_PERIOD,
    Reason.PAUSED,
    Reason.NO_COLLATERAL,
)

_Operation = Callable[[int, int], int]


def _binomial_interest(rate_ray: int, elapsed_s: int) -> int:
    """Return a debt's growth by three terms of the binomial (`MathUtils.calculateCompoundedInterest` to 3.3)."""
    second = fixed.ray_mul_half_up(rate_ray, rate_ray) // (_YEAR_S * _YEAR_S)
    third = fixed.ray_mul_half_up(second, rate_ray) // _YEAR_S
    pairs = elapsed_s * (elapsed_s - 1)
    triples = pairs * max(0, elapsed_s - 2)
    return RAY + rate_ray * elapsed_s // _YEAR_S + pairs * second // 2 + triples * third // 6


def _taylor_interest(rate_ray: int, elapsed_s: int) -> int:
    """Return a debt's growth by three terms of the exponential (`MathUtils.calculateCompoundedInterest` from 3.4)."""
    x = rate_ray * elapsed_s // _YEAR_S
    return RAY + x + fixed.ray_mul_half_up(x, x // 2 + fixed.ray_mul_half_up(x, x // 6))


def _average_health(collateral_base: int, weighted: int, debt_base: int) -> int:
    """Return the health factor by the truncated average threshold (`calculateUserAccountData` to 3.4)."""
    average_bps = weighted // collateral_base if collateral_base else 0
    return fixed.div_half_up(fixed.bps_mul_half_up(collateral_base, average_bps) * WAD, debt_base)


def _summed_health(_collateral_base: int, weighted: int, debt_base: int) -> int:
    """Return the health factor by the exact sum (`calculateUserAccountData` from 3.5)."""
    return fixed.div_half_up(weighted * WAD, debt_base) // BPS


@dataclass(frozen=True, slots=True)
class Profile:
    """How one generation of the contracts rounds and decides."""

    version: str
    debt_interest: _Operation = _binomial_interest
    supplied: _Operation = fixed.ray_mul_half_up
    owed: _Operation = fixed.ray_mul_half_up
    debt_value: _Operation = floordiv
    health: Callable[[int, int, int], int] = _average_health
    repay_needed: _Operation = fixed.bps_div_half_up
    with_bonus: _Operation = fixed.bps_mul_half_up
    without_bonus: _Operation = fixed.bps_div_half_up
    protocol_fee: _Operation = fixed.bps_mul_half_up
    is_directed: bool = False
    has_stable_debt: bool = True
    has_category_bitmaps: bool = False
    has_grace_period: bool = False
    has_dust_rule: bool = False
    excludes_zero_threshold: bool = True
    has_sentinel: bool = True


_V30: Final = Profile("3.0")
_V31: Final = replace(_V30, version="3.1", has_grace_period=True)
_V32: Final = replace(_V31, version="3.2", has_stable_debt=False, has_category_bitmaps=True)
_V33: Final = replace(_V32, version="3.3", has_dust_rule=True)
_V34: Final = replace(_V33, version="3.4", debt_interest=_taylor_interest)
_V35: Final = replace(
    _V34,
    version="3.5",
    supplied=fixed.ray_mul_down,
    owed=fixed.ray_mul_up,
    debt_value=fixed.div_up,
    health=_summed_health,
    repay_needed=fixed.bps_div_up,
    is_directed=True,
)
_V36: Final = replace(_V35, version="3.6", excludes_zero_threshold=False)
_V37: Final = replace(
    _V36,
    version="3.7",
    with_bonus=lambda value, bps: value * bps // BPS,
    without_bonus=lambda value, bps: value * BPS // bps,
    protocol_fee=lambda value, bps: fixed.div_up(value * bps, BPS),
    has_sentinel=False,
)
PROFILES: Final[Mapping[int, Profile]] = MappingProxyType(
    {1: _V30, 2: _V30, 3: _V30, 4: _V31, 6: _V32, 7: _V33, 8: _V34, 9: _V35, 10: _V36, 11: _V37}
)
"""By `POOL_REVISION` (`instances/PoolInstance.sol`); 5 (3.2.0) was never deployed."""


def supply_index(reserve: Reserve, at_s: int) -> int:
    """Return the factor from scaled to supplied amounts.

    Source: ReserveLogic.getNormalizedIncome, MathUtils.calculateLinearInterest, all versions.
    """
    growth_ray = RAY + reserve.liquidity_rate_ray * (at_s - reserve.updated_s) // _YEAR_S
    return fixed.ray_mul_half_up(growth_ray, reserve.liquidity_index_ray)


def debt_index(reserve: Reserve, profile: Profile, at_s: int) -> int:
    """Return the factor from scaled to owed amounts.

    Source: ReserveLogic.getNormalizedDebt, MathUtils.calculateCompoundedInterest, by version.
    """
    growth_ray = profile.debt_interest(reserve.borrow_rate_ray, at_s - reserve.updated_s)
    return fixed.ray_mul_half_up(growth_ray, reserve.borrow_index_ray)


def row(position: AavePosition, snapshot: AaveSnapshot) -> Row:
    """Return the position's scaled amounts by column: reserve, eMode category, side.

    Source: GenericLogic.calculateUserAccountData, all versions: what it sums over.
    """
    # A debt's value depends on the category only while categories can have a price of their own.
    category = 0 if PROFILES[snapshot.revision].has_category_bitmaps else position.category
    entries = [(_column(each, position.category, _COLLATERAL), scaled) for each, scaled in position.collateral]
    entries += [(_column(each, category, _DEBT), scaled) for each, scaled in position.debt]
    entries += [(_column(each.reserve_id, category, _STABLE_DEBT), each.principal) for each in position.stable_debt]
    return tuple(entry for entry in entries if entry[1])


def weights(snapshot: AaveSnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
    """Return the columns' factors at a moment, with the bounds that this module's docstring proves.

    Source: GenericLogic.calculateUserAccountData, by version.
    """
    return {column: _weight(snapshot, column, at.time_s) for column in columns}


def health(position: AavePosition, snapshot: AaveSnapshot, at: Moment) -> Health:
    """Value the position with interest up to a moment.

    What has no price counts for nothing, and its holder is not liquidatable: the contract reverts.
    Source: GenericLogic.calculateUserAccountData, by version.
    """
    return _value(position, snapshot, at.time_s)[0]


def assess(
    position: AavePosition, snapshot: AaveSnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
) -> Assessment:
    """Return the largest legal liquidation of every pair of debt and collateral, the most profitable first.

    Source: LiquidationLogic.executeLiquidationCall, ValidationLogic.validateLiquidationCall, by version.
    """
    valued, collaterals, debts, is_priced = _value(position, snapshot, at.time_s)
    profile, category = PROFILES[snapshot.revision], snapshot.categories.get(position.category)
    if not is_priced:
        return Assessment(valued, (), Reason.PRICE_UNKNOWN)
    if not valued.is_liquidatable:
        return Assessment(valued, (), Reason.NOT_LIQUIDATABLE)
    is_guarded = profile.has_sentinel and not snapshot.is_liquidation_allowed
    if is_guarded and valued.health_factor_wad >= _ALMOST_HEALTHY_WAD:
        return Assessment(valued, (), Reason.SENTINEL)
    key = PositionKey(snapshot.market, position.id)
    found: list[Opportunity] = []
    refused = {Reason.NO_COLLATERAL}
    for debt in debts:
        funds = None if budget is None else budget.get(debt.reserve.token.address, TokenAmount(0))
        for collateral in collaterals:
            pair = _Pair(profile, valued, debt, collateral, _terms(collateral.reserve, category).bonus_bps)
            verdict = pair.obstacle(at.time_s) or pair.opportunity(key, snapshot.pool, at, funds)
            if isinstance(verdict, Opportunity):
                found.append(verdict)
            else:
                refused.add(verdict)
    found.sort(key=lambda each: (-each.gross_profit_base, each.repay.address, each.seize.address))
    return Assessment(valued, tuple(found), None if found else min(refused, key=_OBSTACLES.index))


def settlements(*_: object) -> tuple[Opportunity, ...]:
    """Return nothing: a liquidation brings the underlying token itself.

    Source: LiquidationLogic.executeLiquidationCall with `receiveAToken` false, all versions.
    """
    return ()


@dataclass(frozen=True, slots=True)
class _Pair:
    """One debt to repay for one collateral."""

    profile: Profile
    health: Health
    debt: Leg
    collateral: Leg
    bonus_bps: int

    def obstacle(self, at_s: int) -> Reason | None:
        """Return what forbids any amount (`ValidationLogic.validateLiquidationCall`)."""
        reserves = self.debt.reserve, self.collateral.reserve
        if any(each.is_paused or not each.is_active for each in reserves):
            return Reason.PAUSED
        if self.profile.has_grace_period and any(each.grace_until_s >= at_s for each in reserves):
            return Reason.GRACE_PERIOD
        return None if self.debt.amount and self.collateral.amount and self.bonus_bps else Reason.NO_COLLATERAL

    @property
    def cap(self) -> int:
        """Return the largest repayment by the close factor (`executeLiquidationCall`, `_calculateDebt` to 3.2)."""
        owed = self.debt.amount
        if self.health.health_factor_wad <= _ALMOST_HEALTHY_WAD:
            return owed
        if not self.profile.has_dust_rule:
            return fixed.bps_mul_half_up(owed, BPS // 2)
        half = fixed.bps_mul_half_up(self.health.debt_base, BPS // 2)
        if min(self.debt.value, self.collateral.value) < _SMALL_BASE or self.debt.value <= half:
            return owed
        return half * self.debt.reserve.unit // self.debt.price

    def amounts(self, cover: int) -> tuple[int, int, int]:
        """Return what is repaid, what the borrower loses and the fee (`_calculateAvailableCollateralToLiquidate`)."""
        profile, collateral = self.profile, self.collateral
        paid = self.debt.price * collateral.reserve.unit
        taken = collateral.price * self.debt.reserve.unit
        gross = profile.with_bonus(paid * cover // taken, self.bonus_bps)
        if gross > collateral.amount:
            gross = collateral.amount
            cover = profile.repay_needed(taken * gross // paid, self.bonus_bps)
        bonus = gross - profile.without_bonus(gross, self.bonus_bps)
        return cover, gross, profile.protocol_fee(bonus, collateral.reserve.fee_bps)

    def leaves_dust(self, repaid: int, gross: int) -> bool:
        """Return whether too little would be left of the debt or of the collateral (`executeLiquidationCall`)."""
        debt, collateral = self.debt, self.collateral
        if not self.profile.has_dust_rule or repaid >= debt.amount or gross >= collateral.amount:
            return False
        owed = self.profile.debt_value((debt.amount - repaid) * debt.price, debt.reserve.unit)
        held = (collateral.amount - gross) * collateral.price // collateral.reserve.unit
        return min(owed, held) < _LEFTOVER_BASE

    @property
    def dustless(self) -> int:
        """Return a repayment that leaves enough on both sides; below one where there is none."""
        debt, collateral = self.debt, self.collateral
        most_debt = debt.amount - fixed.div_up(_LEFTOVER_GOAL_BASE * debt.reserve.unit, debt.price)
        most = collateral.amount - fixed.div_up(_LEFTOVER_GOAL_BASE * collateral.reserve.unit, collateral.price)
        without_bonus = (most - 1) * BPS // self.bonus_bps  # half up may add one
        return min(
            most_debt, without_bonus * collateral.price * debt.reserve.unit // (debt.price * collateral.reserve.unit)
        )

    def opportunity(self, key: PositionKey, pool: Address, at: Moment, funds: int | None) -> Opportunity | Reason:
        """Return all that is legal and affordable of this pair."""
        debt, collateral, cap = self.debt, self.collateral, self.cap
        cover = cap if funds is None else min(cap, funds)
        if cover <= 0:
            return Reason.INSUFFICIENT_INVENTORY
        repaid, gross, fee = self.amounts(cover)
        if self.leaves_dust(repaid, gross):
            cover = max(0, min(cover, self.dustless))
            repaid, gross, fee = self.amounts(cover)
        if repaid * RAY < debt.index or (gross - fee) * RAY < collateral.index:  # to burn nothing reverts
            return Reason.DUST_RULE
        limit = repaid + repaid // 1_000 + 1  # for interest until it lands, where the contract itself caps that
        if self.amounts(min(limit, cap)) != (repaid, gross, fee):
            limit = cover
        return Opportunity(
            key=key,
            repay=debt.reserve.token,
            repay_amount=TokenAmount(repaid),
            repay_limit=TokenAmount(limit if funds is None else min(limit, funds)),
            repay_base=Base(fixed.div_up(repaid * debt.market_price, debt.reserve.unit)),
            seize=collateral.reserve.token,
            seized_amount=TokenAmount(gross - fee),
            seized_base=Base((gross - fee) * collateral.market_price // collateral.reserve.unit),
            protocol_fee_amount=TokenAmount(fee),
            spender=pool,
            target=pool,
            at=at,
        )


def _value(position: AavePosition, snapshot: AaveSnapshot, at_s: int) -> tuple[Health, list[Leg], list[Leg], bool]:
    profile, category = PROFILES[snapshot.revision], snapshot.categories.get(position.category)
    is_priced = category is None or not category.has_own_price or category.price_base is not None
    collateral, debt, weighted = [], [], 0
    for reserve_id, scaled in position.collateral:
        if (reserve := snapshot.reserves.get(reserve_id)) is not None:
            price = _price(reserve, category)
            is_priced = is_priced and price is not None
            if reserve.threshold_bps or not profile.excludes_zero_threshold:
                index = supply_index(reserve, at_s)
                amount = profile.supplied(scaled, index)
                value = amount * (price or 0) // reserve.unit
                weighted += value * _terms(reserve, category).threshold_bps
                collateral.append(Leg(reserve, amount, value, price or 0, index))
    for reserve_id, scaled in position.debt:
        if (reserve := snapshot.reserves.get(reserve_id)) is not None:
            price = _price(reserve, category)
            is_priced = is_priced and price is not None
            index = debt_index(reserve, profile, at_s)
            amount = profile.owed(scaled, index) + _stable_amount(position, profile, reserve_id, at_s)
            value = profile.debt_value(amount * (price or 0), reserve.unit)
            own = category.price_base if category is not None and category.has_own_price else price
            debt.append(Leg(reserve, amount, value, own or 0, index))
    collateral_base, debt_base = sum(leg.value for leg in collateral), sum(leg.value for leg in debt)
    factor = profile.health(collateral_base, weighted, debt_base) if debt_base else MAX_UINT256
    valued = Health(
        health_factor_wad=Wad(factor),
        collateral_base=Base(collateral_base),
        debt_base=Base(debt_base),
        is_liquidatable=is_priced and factor < WAD,
        collateral=tuple(Holding(leg.reserve.token, TokenAmount(leg.amount), Base(leg.value)) for leg in collateral),
        debt=tuple(Holding(leg.reserve.token, TokenAmount(leg.amount), Base(leg.value)) for leg in debt),
    )
    return valued, collateral, debt, is_priced


def _stable_amount(position: AavePosition, profile: Profile, reserve_id: int, at_s: int) -> int:
    """Return a stable debt with interest (`StableDebtToken.balanceOf`)."""
    return sum(
        fixed.ray_mul_half_up(each.principal, profile.debt_interest(each.rate_ray, at_s - each.updated_s))
        for each in position.stable_debt
        if each.reserve_id == reserve_id
    )


def _weight(snapshot: AaveSnapshot, column: Column, at_s: int) -> Weight:
    profile, side = PROFILES[snapshot.revision], column & 3
    reserve, category = snapshot.reserves.get(column >> 10), snapshot.categories.get(column >> 2 & 0xFF)
    price = None if reserve is None else _price(reserve, category)
    if reserve is None or price is None:
        return Weight(0, 1, 0)
    unit = reserve.unit
    if side == _STABLE_DEBT:
        return Weight(0, 1, _BEYOND_ANY_MARGIN)
    if side == _DEBT:
        rounding = fixed.div_up(price, unit) + 1 if profile.is_directed else fixed.div_up(price, 2 * unit)
        return Weight(-price * debt_index(reserve, profile, at_s), RAY * unit, rounding)
    threshold = _terms(reserve, category).threshold_bps
    if not reserve.threshold_bps and profile.excludes_zero_threshold:
        return Weight(0, 1, 0)
    numerator = price * supply_index(reserve, at_s) * threshold
    if profile.is_directed:
        return Weight(numerator, RAY * unit * BPS, fixed.div_up((price + unit) * threshold, unit * BPS))
    if not threshold:
        return Weight(0, 1, _BEYOND_ANY_MARGIN)
    rounding = fixed.div_up((price + 2 * unit) * threshold + price, 2 * unit * BPS)
    return Weight(numerator, RAY * unit * BPS, rounding, threshold)


def _column(reserve_id: int, category: int, side: int) -> Column:
    return Column(reserve_id << 10 | category << 2 | side)


def _terms(reserve: Reserve, category: Category | None) -> Reserve | Category:
    """Return whose threshold and bonus apply to the reserve as collateral."""
    return reserve if category is None or not category.collateral_bits >> reserve.id & 1 else category


def _price(reserve: Reserve, category: Category | None) -> Base | None:
    """Return the price that a health factor uses (`vars.assetPrice`)."""
    is_own = category is not None and category.has_own_price and category.collateral_bits >> reserve.id & 1
    return category.price_base if category is not None and is_own else reserve.price_base
