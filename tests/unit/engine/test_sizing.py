"""The trade for one position: how much, in how many stages, by whose money, which way; or why not."""

from dataclasses import replace
from typing import Any

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.ports import Market
from keeper.domain.program import StepKind
from keeper.domain.units import BASE_UNIT, NATIVE, WAD, Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange
from keeper.engine.funding import OwnInventory
from keeper.engine.scan import Candidate
from keeper.engine.sizing import Refused, Trade, best
from keeper.engine.terms import Terms, Values
from keeper.protocols.aave_v3 import calls as aave_calls
from keeper.protocols.aave_v3 import programs as aave_programs
from keeper.protocols.aave_v3 import rules as aave_rules
from keeper.protocols.compound_v2 import calls as compound_calls
from keeper.protocols.compound_v2 import programs as compound_programs
from keeper.protocols.compound_v2 import rules as compound_rules
from keeper.protocols.compound_v2.contracts import CompoundSnapshot, Entry
from keeper.protocols.morpho_blue import calls as morpho_calls
from keeper.protocols.morpho_blue import programs as morpho_programs
from keeper.protocols.morpho_blue import rules as morpho_rules
from tests.unit.engine.pools import Flat, Patient, Product
from tests.unit.protocols import test_compound_v2_rules as compound
from tests.unit.protocols.aave_v3 import market as aave
from tests.unit.protocols.morpho_blue import market as morpho

HELD, OWED = aave.asset(0), aave.asset(1)
WRAPPED = Address(b"\x0e" * 20)
ETHER_BASE = Base(2_000 * BASE_UNIT)
FREE = Flat("free", {OWED: 10**60, HELD: 10**60})
DEEP = Product(1, (HELD, OWED), (10**27, 10**27), 5)
THIN = Product(2, (HELD, OWED), (10**22, 10**22), 5)
NO_READER: Any = object()


def terms(**changes: Any) -> Terms:
    return replace(Terms(Wei(10**9), ETHER_BASE, Base(0), 101, aave.NOW_S + 60), **changes)


def aave_candidate(*, owed: int = 8_200, held: int = 10_000, revision: int = 1, **changes: Any) -> Candidate:
    """Return a position in tokens worth a dollar; what is held counts for 80 % of its value."""
    market = aave.snapshot(revision, [aave.reserve(0, **changes), aave.reserve(1)], native_price_base=ETHER_BASE)
    position = aave.position({0: held * 10**18}, {1: owed * 10**18})
    bound = Market("aave", "aave_v3", 0, NO_READER, aave_rules, aave_calls, programs=aave_programs)
    return Candidate(bound, market, position, aave_rules.assess(position, market, aave.NOW, None))


def compound_candidate(*changes: Any) -> Candidate:
    market: CompoundSnapshot = compound.snapshot(
        [compound.ctoken(0), compound.ctoken(1, **dict(changes))], native_price_base=ETHER_BASE
    )
    position = compound.position(Entry(0, 0, 8 * 10**20, WAD), Entry(1, 5 * 10**12, 0, WAD))
    bound = Market("compound", "compound_v2", 0, NO_READER, compound_rules, compound_calls, programs=compound_programs)
    return Candidate(bound, market, position, compound_rules.assess(position, market, compound.NOW, None))


def solve(candidate: Candidate, *pools: Product, lenders: Any = (FREE,), **changes: Any) -> Trade | Refused:
    exchange = Exchange(pools, [], WRAPPED)
    at = compound.NOW if candidate.market.protocol == "compound_v2" else aave.NOW
    return best(candidate, exchange, at=at, lenders=lenders, terms=terms(**changes))


def traded(candidate: Candidate, *pools: Product, **changes: Any) -> Trade:
    found = solve(candidate, *pools, **changes)
    assert isinstance(found, Trade)
    return found


def refused(candidate: Candidate, *pools: Product, **changes: Any) -> Reason:
    found = solve(candidate, *pools, **changes)
    assert isinstance(found, Refused)
    return found.reason


def repaid(trade: Trade) -> int:
    return sum(each.repay_amount for each in trade.stages)


def test_all_that_is_legal_is_taken_where_the_pool_is_deep():
    candidate = aave_candidate()
    found = traded(candidate, DEEP, max_stages=1)
    assert found.stages == candidate.assessment.opportunities
    (stage,) = found.stages
    out = DEEP.swap(HELD, OWED, stage.seized_amount)
    assert out is not None
    assert found.profit_amount == out.amount - stage.repay_amount
    gas = 60_000 + aave_calls.GAS_ESTIMATE + FREE.gas + DEEP.gas
    assert found.gas == gas
    assert found.profit_base - found.net_base == pytest.approx(gas * 2 * 100, abs=1)
    assert (found.funding, found.route, found.profit_token) == ("free", ("product 1",), OWED)


def test_less_is_taken_where_the_pool_is_thin_to_where_one_more_would_cost():
    candidate = aave_candidate(owed=8_200 * 10, held=10_000 * 10)
    found = traded(candidate, THIN, max_stages=1, max_slippage_bps=1_000)
    (stage,) = found.stages
    assert stage.repay_amount < candidate.assessment.opportunities[0].repay_amount // 10

    def profit(amount: int) -> int:
        budget = {OWED: TokenAmount(amount)}
        (part,) = candidate.market.rules.assess(candidate.position, candidate.snapshot, aave.NOW, budget).opportunities
        out = THIN.swap(HELD, OWED, part.seized_amount)
        assert out is not None
        return out.amount - part.repay_amount

    most = max(profit(stage.repay_amount * each // 100) for each in range(50, 151))
    assert profit(stage.repay_amount) >= most * 9_999 // 10_000


def test_a_second_liquidation_takes_half_of_what_the_close_factor_left():
    candidate = aave_candidate()
    once, found = traded(candidate, DEEP, max_stages=1), traded(candidate, DEEP)
    first, second = found.stages
    left = aave_programs.after(candidate.position, candidate.snapshot, first)  # type: ignore[arg-type]
    assert left is not None
    still = aave_rules.health(left, candidate.snapshot, aave.NOW)  # type: ignore[arg-type]
    assert still.is_liquidatable
    assert still.health_factor_wad > WAD * 999 // 1_000
    assert second.repay_amount == (8_200 * 10**18 - first.repay_amount + 1) // 2
    assert repaid(found) > repaid(once)
    assert found.net_base > once.net_base
    assert [each.kind for each in found.program.steps].count(StepKind.LIQUIDATE_AAVE) == 2


def test_a_second_liquidation_is_left_where_its_gas_is_more_than_it_brings():
    assert len(traded(aave_candidate(), DEEP, gas_price_wei=Wei(4 * 10**10)).stages) == 1


def test_a_bonus_that_makes_the_position_worse_is_taken_again_and_again():
    candidate = aave_candidate(owed=8_300, threshold_bps=8_100, bonus_bps=13_000)
    assert len(traded(candidate, DEEP, max_stages=2).stages) == 2
    found = traded(candidate, DEEP, max_stages=3)
    assert len(found.stages) >= 2
    assert repaid(found) > candidate.assessment.opportunities[0].repay_amount


def test_compound_is_liquidated_twice_and_redeemed_once():
    candidate = compound_candidate()
    receipt, token = compound.address(201), compound.address(101)
    debt = compound.address(100)
    found = traded(candidate, Product(1, (token, debt), (10**27, 10**27)), lenders=[Flat("free", {debt: 10**60})])
    kinds = [each.kind for each in found.program.steps]
    assert kinds.count(StepKind.LIQUIDATE_COMPOUND) == len(found.stages) > 1
    assert kinds.count(StepKind.REDEEM_COMPOUND) == 1
    assert {each.seize.address for each in found.stages} == {receipt}


def test_morpho_waits_for_its_money_and_needs_no_lender():
    pair = morpho.pair()
    market = morpho.snapshot([pair], prices={morpho.LOAN.address: BASE_UNIT, NATIVE: ETHER_BASE})
    held = morpho.position(pair, 1_800 * 10**12, 10**18)
    bound = Market("morpho", "morpho_blue", 0, NO_READER, morpho_rules, morpho_calls, programs=morpho_programs)
    candidate = Candidate(bound, market, held, morpho_rules.assess(held, market, morpho.NOW, None))
    pool = Product(1, (morpho.COLLATERAL.address, morpho.LOAN.address), (10**24, 2_000 * 10**12))
    found = traded(candidate, pool, lenders=())
    assert found.funding == "the protocol"
    assert [each.kind for each in found.program.steps] == [StepKind.LIQUIDATE_MORPHO, StepKind.SWAP_UNISWAP_V2]


def test_what_is_seized_pays_by_itself_where_it_is_what_is_owed():
    market = aave.snapshot(1, [aave.reserve(0)], native_price_base=ETHER_BASE)
    position = aave.position({0: 10_000 * 10**18}, {0: 8_200 * 10**18})
    found = aave_rules.assess(position, market, aave.NOW, None)
    bound = Market("aave", "aave_v3", 0, NO_READER, aave_rules, aave_calls, programs=aave_programs)
    trade = traded(Candidate(bound, market, position, found), max_stages=1)
    (stage,) = trade.stages
    assert trade.route == ()
    assert trade.profit_amount == stage.seized_amount - stage.repay_amount
    assert [each.kind for each in trade.program.steps] == [StepKind.FLASH_AAVE, StepKind.LIQUIDATE_AAVE]


def test_a_pool_that_is_paid_last_needs_no_lender_and_leaves_the_profit_in_what_is_seized():
    pool = Patient(1, (HELD, OWED), (10**27, 10**27), 5)
    found = traded(aave_candidate(), pool, lenders=(), max_stages=1)
    (stage,) = found.stages
    bought = pool.buy(HELD, OWED, stage.repay_limit)
    assert bought is not None
    assert (found.profit_token, found.profit_amount) == (HELD, stage.seized_amount - bought.amount)
    kinds = [each.kind for each in found.program.steps]
    assert kinds == [StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.LIQUIDATE_AAVE]
    again = found.exchange_after.routes(
        HELD, OWED, 10**18, Values("other", aave_candidate().snapshot, terms(), WRAPPED)
    )
    assert again[0][0].pool == bought.pool


def test_our_own_tokens_are_used_where_they_reach_and_cost_less_gas():
    own = OwnInventory({OWED: TokenAmount(10**24)})
    assert traded(aave_candidate(), DEEP, lenders=(FREE, own)).funding == "own inventory"
    little = OwnInventory({OWED: TokenAmount(10**18)})
    assert traded(aave_candidate(), DEEP, lenders=(FREE, little)).funding == "free"


def test_competing_trades_are_quoted_on_what_is_left_of_the_pool():
    candidate, pool = aave_candidate(), replace(THIN, reserves=(10**23, 10**23))
    exchange = Exchange([pool], [], WRAPPED)
    first = best(candidate, exchange, at=aave.NOW, lenders=[FREE], terms=terms())
    assert isinstance(first, Trade)
    second = best(candidate, first.exchange_after, at=aave.NOW, lenders=[FREE], terms=terms())
    assert not isinstance(second, Trade) or second.net_base < first.net_base


def test_the_best_of_several_pairs_is_chosen_by_what_can_be_sold():
    reserves = [aave.reserve(0), aave.reserve(1), aave.reserve(2, bonus_bps=10_900)]
    market = aave.snapshot(1, reserves, native_price_base=ETHER_BASE)
    position = aave.position({0: 5_000 * 10**18, 2: 5_000 * 10**18}, {1: 8_200 * 10**18})
    found = aave_rules.assess(position, market, aave.NOW, None)
    assert found.opportunities[0].seize.address == aave.asset(2)
    bound = Market("aave", "aave_v3", 0, NO_READER, aave_rules, aave_calls, programs=aave_programs)
    thin = Product(2, (aave.asset(2), OWED), (10**20, 10**20), 5)
    trade = traded(Candidate(bound, market, position, found), DEEP, thin)
    assert {each.seize.address for each in trade.stages} == {HELD}


def test_why_there_is_no_trade_is_named():
    candidate = aave_candidate()
    assert refused(aave_candidate(owed=7_000), DEEP) is Reason.NOT_LIQUIDATABLE
    assert refused(aave_candidate(is_paused=True), DEEP) is Reason.PAUSED
    assert refused(replace(candidate, market=replace(candidate.market, programs=None)), DEEP) is Reason.NO_PROGRAM
    assert refused(candidate) is Reason.NO_ROUTE
    assert refused(candidate, DEEP, lenders=()) is Reason.NO_LENDER
    assert refused(candidate, DEEP, lenders=[Flat("pool", {OWED: 10**60}, lock=DEEP.lock)]) is Reason.NO_LENDER
    bait = replace(DEEP, reserves=(10**27, 10**27 * 90 // 100))
    assert refused(candidate, bait) is Reason.PRICE_IMPACT
    assert refused(candidate, DEEP, gas_price_wei=Wei(10**12)) is Reason.UNPROFITABLE
    assert refused(candidate, DEEP, min_profit_base=Base(10**6 * BASE_UNIT)) is Reason.UNPROFITABLE


@pytest.mark.parametrize("change", [("cash", 0), ("is_redeeming_paused", True)])
def test_receipts_that_nobody_redeems_are_named(change: tuple[str, int]):
    pool = Product(1, (compound.address(101), compound.address(100)), (10**27, 10**27))
    lender = Flat("free", {compound.address(100): 10**60})
    assert refused(compound_candidate(change), pool, lenders=[lender]) is Reason.NOT_REDEEMABLE


def test_no_more_receipts_are_seized_than_the_cash_redeems():
    pool = Product(1, (compound.address(101), compound.address(100)), (10**27, 10**27))
    lender = Flat("free", {compound.address(100): 10**60})
    cash = 10**20
    found = traded(compound_candidate(("cash", cash)), pool, lenders=[lender], max_stages=1)
    (stage,) = found.stages
    brought = stage.seized_amount * compound.ctoken(1).exchange_rate // WAD
    assert cash * 99 // 100 < brought <= cash
