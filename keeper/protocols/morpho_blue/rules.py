"""Morpho Blue's arithmetic: exact integers, the contracts' roundings in the contracts' order.

Why the screen never misses, in units of the loan token. Let `d = shares * (assets + 1) / (total shares + 10**6)` be the
real debt and `c = collateral * price/10**36 * threshold` the real limit. The contract finds `borrowed = ceil(d)`, so
`borrowed < d + 1`, and truncates twice, so `limit > (collateral * price/10**36 - 1) * threshold - 1 >= c - 2` as no
threshold exceeds 1. A position is liquidatable if and only if `borrowed >= limit + 1`, hence `d > borrowed - 1 >= limit
> c - 2` and the margin `c - d` is below 2: one unit of slack for each of the two columns. Without collateral `c` is 0
exactly and the margin is negative. A pre-liquidation contract demands the same with its own price and threshold, so a
position that allows some has the lowest of all the limits in the column of its collateral, which names them.

What cannot be valued (an oracle or an interest model that reverts, a pair that is not watched) has a margin above any:
the contract reverts for all of its positions, so that none of them can be missed, and `assess` says PRICE_UNKNOWN.

An adaptive-curve model's rate is computed for any moment. Any other model's is asked at the head, where it is exact, as
it is for the moment of landing if it does not depend on the time.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain.abi import number_word
from keeper.domain.chain import Moment
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.position import Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import MAX_UINT256, WAD, ZERO_ADDRESS, Address, Base, Column, TokenAmount, Wad
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot, Pair, PreLiquidation, Totals

_CURSOR_WAD: Final = 3 * WAD // 10
_MAX_INCENTIVE_WAD: Final = 115 * WAD // 100

_YEAR_S: Final = 365 * 86_400
_TARGET_WAD: Final = 9 * WAD // 10
_STEEPNESS: Final = 4
_SPEED: Final = 50 * WAD // _YEAR_S
_INITIAL_RATE: Final = 4 * WAD // 100 // _YEAR_S
_MIN_RATE: Final = WAD // 1_000 // _YEAR_S
_MAX_RATE: Final = 2 * WAD // _YEAR_S
_LN_2: Final = 693147180559945309
_EXP_LOWEST: Final = -41446531673892822312
_EXP_BOUND: Final = 93859467695000404319
_EXP_HIGHEST: Final = 57716089161558943949701069502944508345128422502756744429568

_ROOM: Final = 200  # a plan must still be legal after the price has moved by one part in so many
_INTEREST_ROOM: Final = 1_000  # and the limit lets the debt grow by one part in so many until it lands
_COLLATERAL, _DEBT = b"\x01", b"\x02"


def adaptive_rate(totals: Totals, rate_at_target: int, at_s: int) -> int:
    """Return the average rate per second (wad) since the totals were updated.

    Rounding: toward zero at every step.
    Source: AdaptiveCurveIrm._borrowRate, _curve, _newRateAtTarget, 1.0.0.
    """
    used_wad = totals.borrow_assets * WAD // totals.supply_assets if totals.supply_assets else 0
    room_wad = WAD - _TARGET_WAD if used_wad > _TARGET_WAD else _TARGET_WAD
    error = _toward_zero((used_wad - _TARGET_WAD) * WAD, room_wad)
    average = rate_at_target or _INITIAL_RATE
    adaptation = _toward_zero(_SPEED * error, WAD) * (at_s - totals.updated_s)
    if rate_at_target and adaptation:
        end, middle = (_adapted(rate_at_target, each) for each in (adaptation, _toward_zero(adaptation, 2)))
        average = (rate_at_target + end + 2 * middle) // 4
    steepness = WAD - WAD // _STEEPNESS if error < 0 else (_STEEPNESS - 1) * WAD
    return _toward_zero((_toward_zero(steepness * error, WAD) + WAD) * average, WAD)


def accrued(pair: Pair, at_s: int) -> Totals:
    """Return a readable pair's totals with interest up to a time.

    Source: Morpho._accrueInterest, MathLib.wTaylorCompounded, 1.0.0.
    """
    totals = pair.totals
    elapsed_s = at_s - totals.updated_s
    if elapsed_s <= 0:
        return totals
    if pair.params.irm == ZERO_ADDRESS:
        return replace(totals, updated_s=at_s)
    known = pair.rate_at_target
    rate = (pair.rate or 0) if known is None else adaptive_rate(totals, known, at_s)
    first = rate * elapsed_s
    second = first * first // (2 * WAD)
    growth_wad = first + second + second * first // (3 * WAD)
    interest = totals.borrow_assets * growth_wad // WAD
    supplied, fee = totals.supply_assets + interest, interest * totals.fee_wad // WAD
    minted = fee * (totals.supply_shares + morpho.VIRTUAL_SHARES) // (supplied - fee + morpho.VIRTUAL_ASSETS)
    return Totals(
        supply_assets=supplied,
        supply_shares=totals.supply_shares + minted,
        borrow_assets=totals.borrow_assets + interest,
        borrow_shares=totals.borrow_shares,
        updated_s=at_s,
        fee_wad=totals.fee_wad,
    )


def incentive(lltv_wad: int) -> int:
    """Return what one unit of repaid debt seizes, by value (LIF, wad).

    Source: Morpho.liquidate, ConstantsLib, 1.0.0.
    """
    return min(_MAX_INCENTIVE_WAD, WAD * WAD // (WAD - _CURSOR_WAD * (WAD - lltv_wad) // WAD))


def row(position: MorphoPosition, snapshot: MorphoSnapshot) -> Row:  # noqa: ARG001 - the amounts need no snapshot
    """Return the position's debt shares and collateral by column: pair, side, pre-liquidation contracts.

    Source: Morpho._isHealthy, 1.0.0: what it compares.
    """
    limits = _COLLATERAL + position.pair + b"".join(position.authorised)
    entries = ((limits, position.collateral), (_DEBT + position.pair, position.borrow_shares))
    return tuple((Column(int.from_bytes(name, "big")), amount) for name, amount in entries if amount)


def weights(snapshot: MorphoSnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
    """Return the columns' factors at a moment, in the loan token's units, with the slack that the docstring proves.

    Source: Morpho._isHealthy, 1.0.0; PreLiquidation.preLiquidate, 1.0.0.
    """
    found: dict[Column, Weight] = {}
    known: dict[bytes, Totals] = {}
    for column in columns:
        name = column.to_bytes((column.bit_length() + 7) // 8, "big")
        side, pair_id, rest = name[:1], name[1 : 1 + morpho.ID_BYTES], name[1 + morpho.ID_BYTES :]
        pair = snapshot.pairs.get(pair_id)
        if pair is None or not pair.is_readable:
            found[column] = Weight(1, 1, 0)
        elif side == _DEBT:
            if pair_id not in known:
                known[pair_id] = accrued(pair, at.time_s)
            found[column] = Weight(-known[pair_id].virtual_assets, known[pair_id].virtual_shares, 1)
        else:
            contracts = tuple(Address(rest[begin : begin + 20]) for begin in range(0, len(rest), 20))
            lowest = (pair.price or 0) * pair.params.lltv_wad
            for each in _allowed(snapshot, contracts):
                lowest = min(lowest, (each.price or 0) * each.terms.pre_lltv_wad)
            found[column] = Weight(lowest, morpho.ORACLE_SCALE * WAD, 1)
    return found


def health(position: MorphoPosition, snapshot: MorphoSnapshot, at: Moment) -> Health:
    """Value the position with interest up to a moment.

    The contract has no health factor: it is the limit divided by the debt, rounded down, and stays at 1 or above where
    only a pre-liquidation is open. What cannot be valued is 0, and not liquidatable: the contract reverts.
    Source: Morpho._isHealthy, 1.0.0; PreLiquidation.preLiquidate, 1.0.0.
    """
    return _value(position, snapshot, at).health


def assess(
    position: MorphoPosition, snapshot: MorphoSnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
) -> Assessment:
    """Return the largest safe liquidation, and that of every pre-liquidation contract which is open.

    All of the debt is repaid by shares where the collateral covers that with its bonus, else all of the collateral is
    seized, and the rest is bad debt. Each form must still be legal after a small move of the price in either direction;
    in between, and where the budget is smaller, a part is repaid by shares.
    Source: Morpho.liquidate, 1.0.0; PreLiquidation.preLiquidate, 1.0.0.
    """
    case = _value(position, snapshot, at)
    if case.pair is None or case.pair.params.loan not in snapshot.prices:
        return Assessment(case.health, (), Reason.PRICE_UNKNOWN)
    if not case.health.is_liquidatable:
        return Assessment(case.health, (), Reason.NOT_LIQUIDATABLE)
    if (doubt := snapshot.doubt(case.pair)) is not None:
        return Assessment(case.health, (), doubt)
    funds = None if budget is None else budget.get(case.pair.params.loan, TokenAmount(0))
    sizer = _Sizer(snapshot, position, case.pair, case, at, funds)
    verdicts = [sizer.liquidation()] if case.is_unhealthy else []
    verdicts += [sizer.pre_liquidation(each) for each in case.armed]
    found = [each for each in verdicts if isinstance(each, Opportunity)]
    found.sort(key=lambda each: (-each.gross_profit_base, each.target))
    refused = [each for each in verdicts if isinstance(each, Reason)]
    return Assessment(case.health, tuple(found), None if found else refused[0])


def settlements(
    owner: Address,  # noqa: ARG001 - the port's words
    held: Mapping[Address, TokenAmount],  # noqa: ARG001
    snapshot: MorphoSnapshot,  # noqa: ARG001
    at: Moment,  # noqa: ARG001
) -> tuple[Opportunity, ...]:
    """Return nothing: collateral comes as itself.

    Source: Morpho.liquidate, 1.0.0.
    """
    return ()


@dataclass(frozen=True, slots=True)
class _Case:
    """A position valued; `pair` is None where it cannot be, `armed` are the contracts that are open to it."""

    health: Health
    pair: Pair | None
    totals: Totals
    borrowed: int
    is_unhealthy: bool
    armed: tuple[PreLiquidation, ...]


@dataclass(frozen=True, slots=True)
class _Sizer:
    """Size one position's calls; `funds` is what may be paid at most, or None without a bound."""

    snapshot: MorphoSnapshot
    position: MorphoPosition
    pair: Pair
    case: _Case
    at: Moment
    funds: int | None

    def liquidation(self) -> Opportunity | Reason:
        """Return the largest safe part (`Morpho.liquidate`)."""
        owed, held, price = self.position.borrow_shares, self.position.collateral, self.pair.price or 0
        if not held or not price:
            return Reason.NO_COLLATERAL
        factor = incentive(self.pair.params.lltv_wad)
        seized, needed = self._seized(owed, price, factor), self._shares_for(held, price, factor)
        part = self._shares_within(held - div_up(held, _ROOM), price, factor)
        by_shares, by_assets = (owed, seized, 0), (needed, held, held)
        if seized + div_up(seized, _ROOM) <= held:
            chosen = by_shares
        elif needed + div_up(needed, _ROOM) <= owed:
            chosen = by_assets
        elif (lesser := self._seized(min(owed, part), price, factor)) > 0:
            chosen = min(owed, part), lesser, 0
        else:  # too few units for any room
            chosen = by_shares if seized <= held else by_assets
        shares, seized, by_collateral = chosen
        if not seized:
            return Reason.DUST_RULE
        if self.funds is not None and _limit(self._repaid(shares), by_collateral) > self.funds:
            shares = min(shares, part, self._affordable(self.funds))
            seized, by_collateral = self._seized(shares, price, factor), 0
            if not seized:
                return Reason.INSUFFICIENT_INVENTORY
        words = (by_collateral, 0 if by_collateral else shares)
        terms = morpho.LIQUIDATE + self.pair.params.encoded + b"".join(map(number_word, words))
        return self._opportunity(self.snapshot.root, shares, seized, terms, by_collateral)

    def pre_liquidation(self, contract: PreLiquidation) -> Opportunity | Reason:
        """Return the largest part that stays legal if the price rises a little (`PreLiquidation.preLiquidate`)."""
        if contract.terms.oracle != self.pair.params.oracle:
            return Reason.PRICE_UNKNOWN  # the borrower chose it: it may say anything once the payment is under way
        owed, held, price = self.position.borrow_shares, self.position.collateral, contract.price or 0
        factor = _line(contract.terms.incentives_wad, self._steps(contract, price))
        closed = _line(contract.terms.close_factors_wad, max(0, self._steps(contract, price + div_up(price, _ROOM))))
        shares = whole = min(owed, owed * closed // WAD)
        if self.funds is not None and _limit(self._repaid(shares), 0) > self.funds:
            shares = min(shares, self._affordable(self.funds))
        seized = self._seized(shares, price, factor)
        if not seized:
            return Reason.DUST_RULE if shares == whole else Reason.INSUFFICIENT_INVENTORY
        if seized > held or not self._is_healthy_after(shares, seized):
            return Reason.NOT_LIQUIDATABLE
        terms = morpho.PRE_LIQUIDATE + number_word(0) + number_word(shares)
        return self._opportunity(contract.address, shares, seized, terms, 0)

    def _opportunity(self, target: Address, shares: int, seized: int, terms: bytes, by_collateral: int) -> Opportunity:
        pair, repaid = self.pair, self._repaid(shares)
        return Opportunity(
            key=PositionKey(self.snapshot.market, self.position.id),
            repay=pair.loan,
            repay_amount=TokenAmount(repaid),
            repay_limit=TokenAmount(_limit(repaid, by_collateral)),
            repay_base=_value_up(self.snapshot, pair, repaid),
            seize=pair.collateral,
            seized_amount=TokenAmount(seized),
            seized_base=self.snapshot.worth_base(pair, seized) or Base(0),
            protocol_fee_amount=TokenAmount(0),
            spender=target,
            target=target,
            at=self.at,
            terms=terms,
        )

    def _seized(self, shares: int, price: int, factor: int) -> int:
        return self.case.totals.assets_down(shares) * factor // WAD * morpho.ORACLE_SCALE // price

    def _shares_for(self, seized: int, price: int, factor: int) -> int:
        return self.case.totals.shares_up(div_up(div_up(seized * price, morpho.ORACLE_SCALE) * WAD, factor))

    def _shares_within(self, seized: int, price: int, factor: int) -> int:
        """Return the most shares that seize no more than that."""
        return self.case.totals.shares_down(seized * price // morpho.ORACLE_SCALE * WAD // factor)

    def _affordable(self, funds: int) -> int:
        """Return the most shares that can be paid, with interest until it lands."""
        return self.case.totals.shares_down(max(0, funds - 1) * _INTEREST_ROOM // (_INTEREST_ROOM + 1))

    def _repaid(self, shares: int) -> int:
        return self.case.totals.assets_up(shares)

    def _steps(self, contract: PreLiquidation, price: int) -> int:
        """Return how far the loan-to-value is on the way from pre-LLTV to LLTV (wad), below 0 before it."""
        low, high = contract.terms.pre_lltv_wad, self.pair.params.lltv_wad
        ltv_wad = div_up(self.case.borrowed * WAD, self.position.collateral * price // morpho.ORACLE_SCALE)
        return (ltv_wad - low) * WAD // (high - low)

    def _is_healthy_after(self, shares: int, seized: int) -> bool:
        """Return whether the collateral may be withdrawn once the shares are repaid (`withdrawCollateral`)."""
        totals, left = self.case.totals, self.position.borrow_shares - shares
        assets = max(0, totals.borrow_assets - self._repaid(shares))
        after = replace(totals, borrow_assets=assets, borrow_shares=totals.borrow_shares - shares)
        limit = _limit_of(self.position.collateral - seized, self.pair.price or 0, self.pair.params.lltv_wad)
        return not left or limit >= after.assets_up(left)


def _value(position: MorphoPosition, snapshot: MorphoSnapshot, at: Moment) -> _Case:
    pair = snapshot.pairs.get(position.pair)
    if pair is None or not pair.is_readable or _overflows(position.collateral, pair.price or 0):
        factor = Wad(0 if position.has_debt else MAX_UINT256)
        unknown = Health(factor, Base(0), Base(0), is_liquidatable=False, collateral=(), debt=())
        return _Case(unknown, None, Totals(0, 0, 0, 0, 0, 0), 0, is_unhealthy=False, armed=())
    totals, lltv_wad = accrued(pair, at.time_s), pair.params.lltv_wad
    borrowed = totals.assets_up(position.borrow_shares)
    limit = _limit_of(position.collateral, pair.price or 0, lltv_wad)
    allowed = _allowed(snapshot, position.authorised)
    armed = tuple(each for each in allowed if _is_open(borrowed, position.collateral, each, lltv_wad))
    quoted = TokenAmount(position.collateral * (pair.price or 0) // morpho.ORACLE_SCALE)
    collateral_base = snapshot.value_base(pair.params.loan, quoted) or Base(0)
    debt_base = _value_up(snapshot, pair, borrowed)
    found = Health(
        health_factor_wad=Wad(limit * WAD // borrowed if borrowed else MAX_UINT256),
        collateral_base=collateral_base,
        debt_base=debt_base,
        is_liquidatable=borrowed > limit or bool(armed),
        collateral=_holdings(pair.collateral, position.collateral, collateral_base),
        debt=_holdings(pair.loan, borrowed, debt_base),
    )
    return _Case(found, pair, totals, borrowed, is_unhealthy=borrowed > limit, armed=armed)


def _allowed(snapshot: MorphoSnapshot, authorised: tuple[Address, ...]) -> list[PreLiquidation]:
    """Return the contracts that are watched and have a price."""
    found = (snapshot.pre_liquidations.get(each) for each in authorised)
    return [each for each in found if each is not None and each.price is not None]


def _is_open(borrowed: int, collateral: int, contract: PreLiquidation, lltv_wad: int) -> bool:
    """Return whether the loan-to-value is in the contract's range (`PreLiquidation.preLiquidate`)."""
    price = contract.price or 0
    low, high = (_limit_of(collateral, price, each) for each in (contract.terms.pre_lltv_wad, lltv_wad))
    return low < borrowed <= high and not _overflows(collateral, price)


def _overflows(collateral: int, price: int) -> bool:
    """Return whether the contract cannot multiply the two: every call reverts."""
    return collateral * price > MAX_UINT256


def _limit_of(collateral: int, price: int, lltv_wad: int) -> int:
    return collateral * price // morpho.ORACLE_SCALE * lltv_wad // WAD


def _limit(repaid: int, by_collateral: int) -> int:
    """Return what may be pulled at most: interest until it lands and, where that sets the price, a dearer collateral."""
    return repaid + repaid // _INTEREST_ROOM + 1 + (div_up(repaid, _ROOM) if by_collateral else 0)


def _line(ends_wad: tuple[int, int], way_wad: int) -> int:
    """Return what lies so far between two ends."""
    return way_wad * (ends_wad[1] - ends_wad[0]) // WAD + ends_wad[0]


def _value_up(snapshot: MorphoSnapshot, pair: Pair, amount: int) -> Base:
    """Value an amount of the loan token, rounding up; 0 without a price."""
    price = snapshot.prices.get(pair.params.loan)
    return Base(0 if price is None else div_up(amount * price, 10**pair.loan.decimals))


def _holdings(token: Token, amount: int, value_base: Base) -> tuple[Holding, ...]:
    return (Holding(token, TokenAmount(amount), value_base),) if amount else ()


def _toward_zero(numerator: int, denominator: int) -> int:
    """Divide signed by positive, truncating as Solidity does."""
    return numerator // denominator if numerator >= 0 else -(-numerator // denominator)


def _adapted(rate_at_target: int, adaptation: int) -> int:
    """Return the rate at target after some adaptation (`_newRateAtTarget`)."""
    return min(_MAX_RATE, max(_MIN_RATE, rate_at_target * _exponential(adaptation) // WAD))


def _exponential(x: int) -> int:
    """Return e to the power of x (`ExpLib.wExp`)."""
    if x < _EXP_LOWEST:
        return 0
    if x >= _EXP_BOUND:
        return _EXP_HIGHEST
    half = _LN_2 // 2
    powers = _toward_zero(x + (half if x >= 0 else -half), _LN_2)
    rest = x - powers * _LN_2
    grown = WAD + rest + rest * rest // WAD // 2
    return grown << powers if powers >= 0 else grown >> -powers
