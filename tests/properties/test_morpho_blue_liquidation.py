"""Liquidations against a plain transcription of the Solidity, which shares no code with the rules."""

import random
from dataclasses import dataclass, replace

import pytest
from eth_abi.abi import decode
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.domain.units import WAD, TokenAmount
from keeper.protocols.morpho_blue import calls, rules
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot, Pair, PreLiquidation, Totals
from tests.unit.protocols.morpho_blue.market import (
    LOAN,
    NOW,
    NOW_S,
    ROOT,
    contract,
    later,
    pair,
    position,
    snapshot,
    without_interest,
)

LLTVS = (38_5, 62_5, 77_0, 86_0, 91_5, 94_5, 96_5, 98_0)
LIQUIDATE = ["(address,address,address,address,uint256)", "address", "uint256", "uint256", "bytes"]
PRE_LIQUIDATE = ["address", "uint256", "uint256", "bytes"]


class Reverted(Exception):
    """What the contract says instead of doing it."""


@dataclass
class Moved:
    """What a call moves."""

    repaid: int
    seized: int


def ceil(a: int, b: int) -> int:
    return (a + b - 1) // b


def less(a: int, b: int) -> int:
    if b > a:
        raise Reverted("panic 0x11")
    return a - b


def shares_to_assets_up(shares: int, assets: int, total: int) -> int:
    return ceil(shares * (assets + 1), total + 10**6)


def liquidate(held: MorphoPosition, tba: int, tbs: int, price: int, lltv: int, *, seized: int, shares: int) -> Moved:
    """Do what `Morpho.liquidate` does after the accrual."""
    limit = held.collateral * price // 10**36 * lltv // 10**18
    if limit >= shares_to_assets_up(held.borrow_shares, tba, tbs):
        raise Reverted("position is healthy")
    factor = min(115 * 10**16, 10**18 * 10**18 // (10**18 - 3 * 10**17 * (10**18 - lltv) // 10**18))
    if (seized == 0) == (shares == 0):
        raise Reverted("inconsistent input")
    if seized:
        quoted = ceil(seized * price, 10**36)
        shares = ceil(ceil(quoted * 10**18, factor) * (tbs + 10**6), tba + 1)
    else:
        seized = shares * (tba + 1) // (tbs + 10**6) * factor // 10**18 * 10**36 // price
    repaid = shares_to_assets_up(shares, tba, tbs)
    less(held.borrow_shares, shares)
    less(tbs, shares)
    less(held.collateral, seized)
    return Moved(repaid, seized)


def pre_liquidate(
    held: MorphoPosition, tba: int, tbs: int, by: PreLiquidation, *, own_price: int, lltv: int, shares: int
) -> Moved:
    """Do what `PreLiquidation.preLiquidate` and the `repay` and `withdrawCollateral` inside it do."""
    price, terms = by.price or 0, by.terms
    quoted = held.collateral * price // 10**36
    borrowed = shares_to_assets_up(held.borrow_shares, tba, tbs)
    if borrowed > quoted * lltv // 10**18:
        raise Reverted("LiquidatablePosition")
    if borrowed <= quoted * terms.pre_lltv_wad // 10**18:
        raise Reverted("NotPreLiquidatablePosition")
    ltv = ceil(borrowed * 10**18, quoted)
    quotient = (ltv - terms.pre_lltv_wad) * 10**18 // (lltv - terms.pre_lltv_wad)
    factor = quotient * (terms.incentives_wad[1] - terms.incentives_wad[0]) // 10**18 + terms.incentives_wad[0]
    seized = shares * (tba + 1) // (tbs + 10**6) * factor // 10**18 * 10**36 // price
    closing = quotient * (terms.close_factors_wad[1] - terms.close_factors_wad[0]) // 10**18
    if shares > held.borrow_shares * (closing + terms.close_factors_wad[0]) // 10**18:
        raise Reverted("PreLiquidationTooLarge")
    repaid = shares_to_assets_up(shares, tba, tbs)
    left, tbs, tba = less(held.borrow_shares, shares), less(tbs, shares), max(0, tba - repaid)
    if seized == 0:
        raise Reverted("zero assets")
    limit = less(held.collateral, seized) * own_price // 10**36 * lltv // 10**18
    if left and limit < shares_to_assets_up(left, tba, tbs):
        raise Reverted("insufficient collateral")
    return Moved(repaid, seized)


def carry_out(planned: Opportunity, held: MorphoPosition, market: MorphoSnapshot, now: Totals) -> Moved:
    """Read the planned call's data and do what the contract would."""
    found, data = market.pairs[held.pair], calls.liquidation(planned).data[4:]
    tba, tbs, price, lltv = now.borrow_assets, now.borrow_shares, found.price or 0, found.params.lltv_wad
    if planned.target == ROOT:
        _, _, seized, shares, _ = decode(LIQUIDATE, data)
        return liquidate(held, tba, tbs, price, lltv, seized=seized, shares=shares)
    _, _, shares, _ = decode(PRE_LIQUIDATE, data)
    return pre_liquidate(
        held, tba, tbs, market.pre_liquidations[planned.target], own_price=price, lltv=lltv, shares=shares
    )


def between(source: random.Random, low: float, high: float) -> int:
    """Draw evenly on a logarithmic scale."""
    return int(10 ** source.uniform(low, high))


def draw(source: random.Random) -> tuple[MorphoPosition, MorphoSnapshot]:
    """Draw a position near or beyond one of its thresholds, from single units to 10**27 of them."""
    tba = between(source, 0, 28)
    totals = Totals(
        supply_assets=tba + between(source, 0, 27),
        supply_shares=between(source, 6, 34),
        borrow_assets=tba,
        borrow_shares=int(tba * 10**6 / source.uniform(1, 3)) + 1,
        updated_s=NOW_S - source.choice((0, 12, 86_400)),
        fee_wad=source.choice((0, WAD // 4)),
    )
    lltv = source.choice(LLTVS) * 10**15
    found = pair(lltv, price=between(source, 12, 50), totals=totals, rate_at_target=between(source, 7.6, 10.7))
    if source.random() < 0.2:
        found = without_interest(found)
    cap = WAD * WAD // lltv
    low = source.randrange(WAD, cap + 1)
    first = source.randrange(WAD // 50, WAD + 1)
    contracts = [
        contract(
            found,
            number,
            price=(found.price or 0) * source.choice((100, 100, 101, 97)) // 100,
            pre_lltv_wad=lltv * source.randrange(60, 99) // 100,
            close_factors_wad=(first, first + source.randrange(WAD)),
            incentives_wad=(low, source.randrange(low, cap + 1)),
        )
        for number in range(source.choice((0, 1, 2)))
    ]
    shares = max(1, min(totals.borrow_shares, between(source, 0, 34)))
    borrowed = rules.accrued(found, NOW.time_s).assets_up(shares)
    aim = source.choice((source.uniform(0.2, 1.1), source.uniform(0.93, 1.02), 1.0, 1 / 1.05))
    collateral = int(borrowed * 10**36 * 10**18 / ((found.price or 1) * lltv) * aim) + source.randrange(3)
    held = position(found, shares, min(collateral, 2**127), *contracts)
    return held, snapshot([found], contracts)


@pytest.mark.timeout(300)
@settings(max_examples=400)
@given(seed=st.integers(0, 2**64 - 1))
def test_what_is_planned_is_what_the_contract_would_move(seed: int):
    source = random.Random(seed)
    for _ in range(10):
        held, market = draw(source)
        now = rules.accrued(market.pairs[held.pair], NOW.time_s)
        whole = rules.assess(held, market, NOW, None)
        if not whole.opportunities:
            assert whole.blocked in {
                Reason.NOT_LIQUIDATABLE,
                Reason.NO_COLLATERAL,
                Reason.DUST_RULE,
                Reason.PRICE_UNKNOWN,
            }
            continue
        most = max(each.repay_limit for each in whole.opportunities)
        funds = {LOAN.address: TokenAmount(int(most * source.random()))}
        cut = rules.assess(held, market, NOW, funds)
        assert all(each.repay_limit <= funds[LOAN.address] for each in cut.opportunities)
        for planned in (*whole.opportunities, *cut.opportunities):
            assert carry_out(planned, held, market, now) == Moved(planned.repay_amount, planned.seized_amount)
            assert 0 < planned.seized_amount <= held.collateral
            assert planned.repay_amount < planned.repay_limit


def moved_market(market: MorphoSnapshot, found: Pair, percent_mille: int) -> MorphoSnapshot:
    """Return the market after its prices have moved."""
    priced = replace(found, price=(found.price or 0) * (1_000 + percent_mille) // 1_000)
    contracts = {
        key: replace(each, price=(each.price or 0) * (1_000 + percent_mille) // 1_000)
        for key, each in market.pre_liquidations.items()
    }
    return replace(market, pairs={found.params.id: priced}, pre_liquidations=contracts)


@pytest.mark.timeout(300)
@settings(max_examples=400)
@given(seed=st.integers(0, 2**64 - 1), move=st.sampled_from((-4, -1, 0, 1, 4)), late_s=st.sampled_from((0, 12, 600)))
def test_a_plan_outlives_a_small_move_of_the_price_and_some_blocks(seed: int, move: int, late_s: int):
    """Only a position that is no longer to be liquidated refuses it, or one of so few units that there is no room."""
    source = random.Random(seed)
    for _ in range(10):
        held, market = draw(source)
        found = market.pairs[held.pair]
        for planned in rules.assess(held, market, NOW, None).opportunities:
            if min(planned.seized_amount, held.collateral - planned.seized_amount or held.collateral) < 10**4:
                continue
            if planned.repay_amount < 10**4:
                continue
            then = moved_market(market, found, move)
            now = rules.accrued(found, later(late_s).time_s)
            try:
                done = carry_out(planned, held, then, now)
            except Reverted as refused:
                healthy = {"position is healthy", "NotPreLiquidatablePosition", "LiquidatablePosition"}
                assert str(refused) in healthy | {"insufficient collateral"}, (planned, move)  # noqa: PT017 - which one
                continue
            assert done.repaid <= planned.repay_limit


@settings(max_examples=300)
@given(seed=st.integers(0, 2**64 - 1))
def test_the_best_comes_first_and_health_never_rises_with_debt(seed: int):
    source = random.Random(seed)
    held, market = draw(source)
    assessment = rules.assess(held, market, NOW, None)
    profits = [each.gross_profit_base for each in assessment.opportunities]
    assert profits == sorted(profits, reverse=True)
    assert (assessment.blocked is None) is bool(profits)
    more = replace(held, borrow_shares=held.borrow_shares + source.randrange(10**9))
    assert rules.health(more, market, NOW).health_factor_wad <= assessment.health.health_factor_wad
