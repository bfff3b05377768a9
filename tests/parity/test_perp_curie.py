"""The rules against the genuine Perpetual Protocol v2 contracts (curie 2.8.4) on a local node, to the unit."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from keeper.checks import Status
from keeper.conformance import examine
from keeper.devnet.chain import Reverted
from keeper.devnet.perp_market import PerpMarket, PerpRecord
from keeper.devnet.perp_positions import random_perp_positions
from keeper.domain import abi
from keeper.domain.chain import Log, Moment
from keeper.domain.outcome import Reason
from keeper.domain.ports import Market
from keeper.domain.position import Action, Opportunity
from keeper.domain.units import Address, PositionId, TokenAmount
from keeper.engine.screen import Screen
from keeper.errors import Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.perp_curie import calls, rules
from keeper.protocols.perp_curie import contracts as perp
from keeper.protocols.perp_curie.contracts import PerpPosition, PerpSnapshot
from keeper.protocols.perp_curie.reader import PerpReader
from tests.parity.desk import LIQUIDATOR, address, log_of, raw
from tests.parity.perp_desk import PerpDesk, perp_desk
from tests.unit.protocols.perp_curie_market import base_of, size_of

UNIT = 10**8
CRASH = {"WETH": 2_730 * UNIT, "WBTC": 97_500 * UNIT}
RUIN = {"WETH": 2_420 * UNIT, "WBTC": 105_500 * UNIT}
LANDING_S = 2
MARGIN = 10**15
OWNER = "0x" + "a1" * 20
FIGURES = "(address,address)(int256)"


@pytest.fixture
async def desk() -> AsyncIterator[PerpDesk]:
    async with perp_desk(150, 5) as found:
        yield found


@pytest.fixture
async def small() -> AsyncIterator[PerpDesk]:
    async with perp_desk(30, 6, (1.6, 1.7)) as found:
        yield found


def who(position: PerpPosition) -> str:
    return "0x" + position.id.hex()


async def assert_figures_are_the_chains(desk: PerpDesk, reader: PerpReader) -> Counter[str]:
    """Compare every account, market by market, with the contract's own views; return how many of each."""
    await desk.book(reader)  # so that the largest accounts are known
    snapshot, positions = await desk.book(reader)
    market, ours = desk.market, list[int | None]()
    views: list[tuple[str, str, tuple[object, ...]]] = []
    for token, perpetual in snapshot.perpetuals.items():
        if perpetual.is_open:
            views.append((market.account_balance, "getMarkPrice(address)(uint256)", ("0x" + token.hex(),)))
            ours.append(perpetual.price)
    for position in positions:
        account = rules._account(position, snapshot)
        assert account is not None
        trader = (who(position),)
        views.append((market.clearing_house, "getAccountValue(address)(int256)", trader))
        views.append((market.account_balance, "getMarginRequirementForLiquidation(address)(int256)", trader))
        views.append((market.account_balance, "getTotalAbsPositionValue(address)(uint256)", trader))
        ours += [account.account_value, account.requirement, account.total_value]
        figures = account.account_value, account.requirement, account.total_value
        for leg in account.legs:
            both = (*trader, "0x" + leg.perpetual.token.address.hex())
            views.append((market.account_balance, f"getTotalPositionSize{FIGURES}", both))
            views.append((market.account_balance, f"getTotalPositionValue{FIGURES}", both))
            largest = "getLiquidatablePositionSize(address,address,int256)(int256)"
            views.append((market.account_balance, largest, (*both, account.account_value)))
            ours += [leg.size, leg.value, rules.largest_size(leg.size, leg.value, figures)]
    assert await desk.chain.call_all(views) == ours
    reads = await desk.reads()
    chain = await reader.chain_health(reads, [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        local = rules.health(position, snapshot, reads.head.moment)
        assert replace(local, collateral=(), debt=()) == theirs
    await assert_funding_is_the_chains(desk, snapshot, positions)
    unhealthy = [each for each in chain if each and each.is_liquidatable]
    return Counter(accounts=len(positions), unhealthy=len(unhealthy), figures=len(ours))


async def assert_funding_is_the_chains(desk: PerpDesk, snapshot: PerpSnapshot, positions: list[PerpPosition]) -> None:
    stakes = [(who(each), stake) for each in positions if not each.orders for stake in each.stakes]
    asked = [
        (desk.market.exchange, f"getPendingFundingPayment{FIGURES}", (trader, "0x" + stake.base_token.hex()))
        for trader, stake in stakes
    ]
    for (_, stake), theirs in zip(stakes, await desk.chain.call_all(asked), strict=True):
        growth = snapshot.perpetuals[stake.base_token].growth_x96
        assert growth is not None
        assert abs(rules.pending_funding(stake, growth) - theirs) <= 1


@pytest.mark.timeout(200)
async def test_every_figure_of_every_account_is_the_contracts_as_prices_move_and_funding_accrues(desk: PerpDesk):
    reader = await desk.discovered()
    counted = await assert_figures_are_the_chains(desk, reader)
    await desk.market.move(CRASH)
    counted += await assert_figures_are_the_chains(desk, reader)
    await desk.chain.increase_time(9 * 3_600)
    await desk.market.set_prices({"WETH": 2_800 * UNIT})  # the index alone: a premium, and so funding
    counted += await assert_figures_are_the_chains(desk, reader)
    assert counted["accounts"] >= 450
    assert counted["unhealthy"] >= 60


@pytest.mark.timeout(200)
async def test_the_largest_size_is_the_contracts_for_any_account_value_and_refused_where_that_reverts(desk: PerpDesk):
    await desk.market.deposit(OWNER, "USDC", 10_000 * 10**6)
    await desk.market.trade(OWNER, "vBTC", -60_000)
    await desk.market.trade(OWNER, "vETH", 300)
    reader = await desk.discovered()
    snapshot, positions = await desk.book(reader)
    signature, sizes = "getLiquidatablePositionSize(address,address,int256)(int256)", Counter[str]()
    for position in positions:
        account = rules._account(position, snapshot)
        assert account is not None
        needed, half = account.requirement, account.requirement // 2
        for leg in account.legs:
            for value in (needed, needed - 1, half + 1, half, half - 1, 0, -1):
                ours = rules.largest_size(leg.size, leg.value, (value, needed, account.total_value))
                both = (who(position), "0x" + leg.perpetual.token.address.hex())
                try:
                    theirs = await desk.chain.call(desk.market.account_balance, signature, *both, value)
                except Reverted as reverted:
                    theirs = None if "24 bits" in reverted.reason else reverted
                assert ours == theirs
                sizes["none" if ours is None else "whole" if ours == leg.size else "part" if ours else "nothing"] += 1
    assert min(sizes[each] for each in ("none", "whole", "part", "nothing")) >= 3, sizes


def emitted(entries: list[dict[str, Any]]) -> list[Log]:
    return [log_of(entry) for entry in entries]


def assert_as_planned(reader: PerpReader, snapshot: PerpSnapshot, plan: Opportunity, logs: list[Log]) -> None:
    """Compare what was planned with `PositionLiquidated`, and with the liquidator's own position."""
    (taken,) = [each for each in reader.liquidations(logs) if each.action is Action.LIQUIDATE]
    assert (taken.key, taken.liquidator) == (plan.key, address(LIQUIDATOR))
    assert (taken.repay_token, taken.seize_token) == (plan.repay.address, plan.seize.address)
    assert (taken.realised.repaid_amount, taken.realised.seized_amount) == (plan.repay_amount, plan.seized_amount)
    (event,) = [each for each in logs if each.topics[0] == perp.POSITION_LIQUIDATED]
    notional, size, penalty, _ = abi.log_words(event, 4)
    signed_size = abi.signed(abi.split(plan.terms)[1])
    price = snapshot.perpetuals[base_of(plan)].price
    assert price is not None
    own = [
        each for each in logs if each.topics[0] == perp.POSITION_CHANGED and each.topics[1][12:] == address(LIQUIDATOR)
    ]
    exchanged = abi.signed(abi.log_words(own[-1], 2)[1])
    fee = exchanged + (notional if signed_size > 0 else -notional)
    value = -1 if fee == penalty and penalty else 1
    planned = rules.take_over(signed_size, price, value, snapshot.penalty_ratio)
    assert (abs(planned.notional), abs(planned.size), planned.penalty, planned.fee) == (notional, size, penalty, fee)
    assert plan.gross_profit_base == snapshot.usd(fee)
    assert plan.protocol_fee_amount == (penalty - fee) // snapshot.scale
    assert PositionId(plan.key.account) in reader.touched(logs).positions


async def rehearse(
    desk: PerpDesk, reader: PerpReader, snapshot: PerpSnapshot, plan: Opportunity, gas: list[int]
) -> None:
    (done,) = await desk.rehearse(plan.at, [calls.liquidation(plan)])
    assert done["status"] == "0x1", (plan, calls.decode_revert(raw(done["returnData"])))
    assert_as_planned(reader, snapshot, plan, emitted(done["logs"]))
    gas.append(int(done["gasUsed"], 16))


def kinds(position: PerpPosition, plan: Opportunity) -> list[str]:
    held = next(each.size for each in position.stakes if each.base_token == base_of(plan))
    return ["long" if held > 0 else "short", "whole" if size_of(plan) == abs(held) else "part"]


async def rehearse_all(desk: PerpDesk, reader: PerpReader, source: random.Random) -> Counter[str]:
    """Rehearse every take-over of every unhealthy account, whole and cut by a budget; count them by kind."""
    snapshot, positions = await desk.book(reader)
    at, margin, counted, gas = snapshot.head.landing(LANDING_S), snapshot.margin.address, Counter[str](), [0]
    for position in positions:
        assessment = rules.assess(position, snapshot, at, None)
        assert assessment.blocked is (None if assessment.opportunities else Reason.NOT_LIQUIDATABLE)
        for plan in assessment.opportunities:
            await rehearse(desk, reader, snapshot, plan, gas)
            counted.update([*kinds(position, plan), "plans"])
            if plan.protocol_fee_amount == 0:
                counted.update(["under water"])
            funds = TokenAmount(int(plan.repay_limit * source.uniform(0.02, 0.98)))
            for lesser in rules.assess(position, snapshot, at, {margin: funds}).opportunities:
                if base_of(lesser) == base_of(plan):
                    assert lesser.repay_limit <= funds
                    assert size_of(lesser) < size_of(plan)
                    await rehearse(desk, reader, snapshot, lesser, gas)
                    counted.update(["cut"])
    assert max(gas) < 2 * calls.GAS_ESTIMATE
    return counted


@pytest.mark.timeout(200)
async def test_every_planned_take_over_moves_to_the_unit_what_was_planned(desk: PerpDesk):
    reader = await desk.discovered()
    await desk.fund(MARGIN)
    await desk.market.move(CRASH)
    counted = await rehearse_all(desk, reader, random.Random(5))
    await desk.market.move(RUIN)
    counted += await rehearse_all(desk, reader, random.Random(6))
    assert counted["plans"] >= 100
    assert min(counted[each] for each in ("long", "short", "whole", "part", "cut", "under water")) >= 5, counted


@pytest.mark.timeout(200)
async def test_one_take_over_after_another_lands_as_planned_and_the_book_stays_the_chains(desk: PerpDesk):
    reader = await desk.discovered()
    await desk.fund(MARGIN)
    await desk.market.move(CRASH)
    landed = 0
    for trader in [PositionId(address(owner)) for owner in desk.owners]:
        reads = await desk.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [trader])
        at = reads.head.landing(LANDING_S)
        for plan in rules.assess(position, snapshot, at, None).opportunities[:1]:
            await desk.chain.set_next_timestamp(at.time_s)
            receipt = await desk.send(calls.liquidation(plan))
            assert receipt["status"] == "0x1", plan
            (taken,) = reader.liquidations(emitted(receipt["logs"]))
            assert abs(taken.realised.seized_amount - plan.seized_amount) <= plan.seized_amount // 50
            assert taken.realised.repaid_amount <= plan.repay_limit
            landed += 1
    assert landed >= 25
    await assert_figures_are_the_chains(desk, reader)


async def test_the_margin_that_a_plan_names_is_what_the_contract_asks_for(small: PerpDesk):
    reader = await small.discovered()
    await small.market.move(CRASH)
    await small.fund(1)
    snapshot, positions = await small.book(reader)
    at, tried = snapshot.head.moment, 0
    for position in positions:
        for plan in rules.assess(position, snapshot, at, None).opportunities:
            state = await small.chain.snapshot()
            await small.market.deposit(LIQUIDATOR, "USDC", plan.repay_amount - 4)
            data = await small.revert_data(calls.liquidation(plan))
            assert data is not None
            assert calls.decode_revert(data) == (
                Reason.INSUFFICIENT_INVENTORY,
                "CH_NEFCI: not enough free margin in the vault",
            )
            await small.market.deposit(LIQUIDATOR, "USDC", 3)
            assert await small.revert_data(calls.liquidation(plan)) is None
            await small.chain.revert(state)
            tried += 1
    assert tried >= 8


async def test_an_account_whose_bad_debt_the_insurance_fund_cannot_cover_is_refused_as_the_contract_does(
    small: PerpDesk,
):
    reader = await small.discovered()
    await small.fund(MARGIN)
    await small.market.move(RUIN)
    token, fund, vault = small.market.assets["USDC"].token, small.market.insurance_fund, small.market.vault
    async with small.chain.impersonate(fund):
        await small.chain.send(vault, "withdrawAll(address)", token, sender=fund)
        held = await small.chain.call(token, "balanceOf(address)(uint256)", fund)
        await small.chain.send(token, "transfer(address,uint256)", OWNER, held - 50 * 10**6, sender=fund)
    snapshot, positions = await small.book(reader)
    assert snapshot.insurance == 50 * 10**6
    refused = 0
    for position in positions:
        assessment = rules.assess(position, snapshot, snapshot.head.moment, None)
        for plan in assessment.opportunities:
            assert await small.revert_data(calls.liquidation(plan)) is None
        if assessment.blocked is Reason.NO_COLLATERAL:
            rich = replace(snapshot, insurance=10**15)
            for plan in rules.assess(position, rich, snapshot.head.moment, None).opportunities:
                data = await small.revert_data(calls.liquidation(plan))
                assert data is not None
                assert calls.decode_revert(data)[1].startswith("CH_IIC")
                refused += 1
    assert refused >= 2


async def maker(desk: PerpDesk) -> PositionId:
    """Open a leveraged long with an order beside it, in both markets."""
    await desk.market.deposit(OWNER, "USDC", 6_000 * 10**6)
    await desk.market.trade(OWNER, "vETH", 35_000)
    for symbol, price in (("vETH", 3_000), ("vBTC", 90_000)):
        reach = (price * 95 * UNIT // 100, price * 105 * UNIT // 100)
        await desk.market.add_order(OWNER, symbol, prices_usd=reach, value_usd=5_000)
    return PositionId(address(OWNER))


async def test_orders_are_cancelled_first_and_then_the_account_is_liquidated(small: PerpDesk):
    reader = await small.discovered()
    trader = await maker(small)
    await small.fund(MARGIN)
    _, positions = await small.book(reader)
    assert len(next(each for each in positions if each.id == trader).orders) == 2
    await assert_figures_are_the_chains(small, reader)
    await small.market.move({"WETH": 2_600 * UNIT, "WBTC": 93_000 * UNIT})
    await assert_figures_are_the_chains(small, reader)
    steps = []
    for _ in range(6):
        reads = await small.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [trader])
        found = rules.assess(position, snapshot, reads.head.landing(LANDING_S), None)
        if not found.opportunities:
            break
        plan = found.opportunities[0]
        assert plan.gross_profit_base > 0
        assert (plan.action is Action.PREPARE) == bool(position.orders)
        await small.chain.set_next_timestamp(plan.at.time_s)
        receipt = await small.send(calls.liquidation(plan))
        assert receipt["status"] == "0x1"
        taken = [each for each in reader.liquidations(emitted(receipt["logs"])) if each.key == plan.key]
        assert [each.action for each in taken] == [plan.action]
        steps.append(plan.action)
    assert steps[:2] == [Action.PREPARE, Action.PREPARE]
    assert Action.LIQUIDATE in steps[2:]


async def test_liquidity_that_a_maker_removes_itself_is_no_step_of_a_liquidation(small: PerpDesk):
    reader = await small.discovered()
    trader = await maker(small)
    book, base = small.market.order_book, small.market.perpetuals["vETH"].base_token
    (order,) = await small.chain.call(book, "getOpenOrderIds(address,address)(bytes32[])", OWNER, base)
    types = "(uint128,int24,int24,uint256,int256,int256,int256,uint256,uint256)"
    liquidity, low, high, *_ = await small.chain.call(book, f"getOpenOrderById(bytes32){types}", order)
    terms = (base, low, high, liquidity, 0, 0, 2**255)
    async with small.chain.impersonate(OWNER):
        signature = "removeLiquidity((address,int24,int24,uint128,uint256,uint256,uint256))"
        receipt = await small.chain.send(small.market.clearing_house, signature, terms, sender=OWNER)
    logs = emitted(receipt["logs"])
    assert reader.liquidations(logs) == []
    assert trader in reader.touched(logs).positions
    _, positions = await small.book(reader)
    assert len(next(each for each in positions if each.id == trader).orders) == 1


@pytest.mark.timeout(200)
async def test_the_screen_names_every_unhealthy_account_and_few_others(desk: PerpDesk):
    reader = await desk.discovered()
    await desk.market.move(CRASH)
    await desk.book(reader)
    snapshot, positions = await desk.book(reader)
    screen = Screen()
    for position in positions:
        screen.put(position.id, rules.row(position, snapshot))
    columns = {column for position in positions for column, _ in rules.row(position, snapshot)}
    suspects = set(screen.suspects(rules.weights(snapshot, columns, snapshot.head.moment)))
    chain = await reader.chain_health(await desk.reads(), [each.id for each in positions])
    unhealthy = {each.id for each, health in zip(positions, chain, strict=True) if health and health.is_liquidatable}
    makers = {each.id for each in positions if each.is_opaque}
    assert len(unhealthy) >= 20
    assert makers
    assert unhealthy <= suspects
    assert len(suspects - unhealthy) <= 1


async def test_accounts_that_logs_name_are_all_that_has_to_be_read_again(small: PerpDesk):
    source, market, reader = random.Random(8), small.market, await small.discovered()
    _, positions = await small.book(reader)
    kept = {each.id: replace(each, valuation=None) for each in positions}
    await small.fund(MARGIN)
    begin = await small.chain.block_number() + 1
    await market.move(CRASH)
    await maker(small)
    for owner in source.sample(small.owners, 6):
        await market.deposit(owner, source.choice(["USDC", "WETH"]), 10**9)
    traders = [owner for owner in small.owners if kept[PositionId(address(owner))].balance > 10**8]
    for owner in traders[:3]:
        await market.deposit(owner, "USDC", 10**12)
        await market.trade(owner, "vBTC", 500)
        await market.close(owner, "vBTC")
        await market.withdraw(owner, "USDC", 10**8)
    snapshot, found = await small.book(reader)
    for position in found:
        for plan in rules.assess(position, snapshot, snapshot.head.moment, None).opportunities[:1]:
            await small.send(calls.liquidation(plan))
    touched = reader.touched(await small.logs(reader.head_filter, begin))
    assert not touched.is_market_changed
    _, found = await small.book(reader)
    fresh = {each.id: replace(each, valuation=None) for each in found}
    changed = {each for each in kept.keys() | fresh.keys() if kept.get(each) != fresh.get(each)}
    assert changed <= touched.positions
    assert len(changed) >= 10


async def test_a_market_that_is_paused_or_closed_is_valued_where_it_stands_and_left_alone(small: PerpDesk):
    reader, base = await small.discovered(), small.market.perpetuals["vETH"].base_token
    await small.fund(MARGIN)
    await small.market.move(CRASH)
    snapshot, positions = await small.book(reader)
    plans = [
        plan for each in positions for plan in rules.assess(each, snapshot, snapshot.head.moment, None).opportunities
    ]
    plan = next(each for each in plans if base_of(each) == small.base_token("vETH"))
    await small.chain.send(base, "pause()")
    for close in (False, True):
        if close:
            await small.chain.send(base, "close(uint256)", 2_600 * 10**18)
        await small.chain.increase_time(100)
        await small.chain.mine()
        await assert_figures_are_the_chains(small, reader)
        snapshot, positions = await small.book(reader)
        found = [rules.assess(each, snapshot, snapshot.head.moment, None) for each in positions]
        assert {base_of(plan) for each in found for plan in each.opportunities} <= {small.base_token("vBTC")}
        assert any(each.blocked is Reason.PAUSED for each in found)
        data = await small.revert_data(calls.liquidation(plan))
        assert data is not None
        assert calls.decode_revert(data) == (Reason.PAUSED, "CH_MNO: the market is not open")


async def test_a_paused_clearing_house_liquidates_nobody(small: PerpDesk):
    reader = await small.discovered()
    await small.fund(MARGIN)
    await small.market.move(CRASH)
    await small.chain.send(small.market.clearing_house, "pause()")
    snapshot, positions = await small.book(reader)
    found = [rules.assess(each, snapshot, snapshot.head.moment, None) for each in positions]
    assert {each.blocked for each in found} == {Reason.PAUSED, Reason.NOT_LIQUIDATABLE}
    running = replace(snapshot, is_paused=False)
    plans = [
        plan for each in positions for plan in rules.assess(each, running, snapshot.head.moment, None).opportunities
    ]
    data = await small.revert_data(calls.liquidation(plans[0]))
    assert data is not None
    assert calls.decode_revert(data)[0] is Reason.PAUSED


async def test_a_feed_that_fails_takes_only_its_own_market_out(small: PerpDesk):
    reader, base = await small.discovered(), small.market.perpetuals["vETH"].base_token
    await small.fund(MARGIN)
    await small.market.move(CRASH)
    feed = await small.chain.call(base, "getPriceFeed()(address)")
    await small.chain.rpc("anvil_setCode", feed, "0x60006000fd")
    snapshot, positions = await small.book(reader)
    chain = await reader.chain_health(await small.reads(), [each.id for each in positions])
    valued = 0
    for position, theirs in zip(positions, chain, strict=True):
        found = rules.assess(position, snapshot, snapshot.head.moment, None)
        assert (theirs is None) == (found.blocked is Reason.PRICE_UNKNOWN)
        assert (theirs is None) == any(each.base_token == address(base) for each in position.stakes)
        if theirs is not None:
            assert replace(found.health, collateral=(), debt=()) == theirs
            valued += 1
    assert 3 <= valued < len(positions)


async def test_without_a_price_of_the_settlement_token_nothing_is_offered(small: PerpDesk):
    reader = await small.discovered(small.prices(is_settlement_priced=False))
    await small.market.move(CRASH)
    snapshot, positions = await small.book(reader)
    chain = await reader.chain_health(await small.reads(), [each.id for each in positions])
    assert any(each and each.is_liquidatable for each in chain)
    for position, theirs in zip(positions, chain, strict=True):
        found = rules.assess(position, snapshot, snapshot.head.moment, None)
        assert (found.blocked, found.opportunities) == (Reason.PRICE_UNKNOWN, ())
        assert replace(found.health, collateral=(), debt=()) == theirs


async def test_an_ordinary_head_costs_one_round_for_each_question(small: PerpDesk):
    reader = await small.discovered(Prices(address(small.market.assets["WETH"].token)))
    named = await small.named(reader)
    reads = await small.reads()
    await reader.positions(reads, named)
    for question in (reader.snapshot(reads), reader.positions(reads, named[:20]), reader.chain_health(reads, named)):
        before = reads.rounds
        await question
        assert reads.rounds == before + 1


async def test_markets_and_collaterals_that_no_log_named_are_found_through_the_accounts_in_them(small: PerpDesk):
    reader = PerpReader("perp", address(small.market.clearing_house), prices=small.prices())
    await reader.discover(await small.reads())
    reader.recall([PositionId(address(owner)) for owner in small.owners])
    snapshot = await reader.snapshot(await small.reads())
    assert {each.token.symbol for each in snapshot.perpetuals.values()} == {"vETH", "vBTC"}
    assert {each.token.symbol for each in snapshot.collaterals.values()} == {"WETH"}
    assert all(each.growth_x96 is not None for each in snapshot.perpetuals.values())
    assert {each.token.symbol for each in await reader.price_ages(await small.reads())} == {"vETH", "vBTC", "WETH"}


async def test_what_tells_the_funding_is_replaced_when_it_closes_its_position(small: PerpDesk):
    reader = await small.discovered()
    await small.book(reader)
    (largest, *_) = reader._holders(small.base_token("vETH"))
    for each in reader._witnesses_of(small.base_token("vETH")):
        await small.market.deposit("0x" + each.hex(), "USDC", 10**12)
        await small.market.close("0x" + each.hex(), "vETH")
    await small.chain.increase_time(7_200)
    await small.chain.mine()
    snapshot = await reader.snapshot(await small.reads())
    assert snapshot.perpetuals[small.base_token("vETH")].growth_x96 is not None
    assert largest not in reader._holders(small.base_token("vETH"))
    await assert_figures_are_the_chains(small, reader)


async def test_a_market_can_be_saved_and_bound_again_and_positions_are_drawn_alike_from_the_same_seed(small: PerpDesk):
    record = msgspec.json.decode(msgspec.json.encode(small.market.record()), type=PerpRecord)
    assert record == small.market.record()
    bound = PerpMarket.bind(record, small.chain)
    assert await bound.prices() == await small.market.prices()
    drawn = random_perp_positions(record, 40, 9)
    assert drawn == random_perp_positions(bound, 40, 9)
    assert drawn != random_perp_positions(record, 40, 10)
    assert {len(each.positions) for each in drawn} == {1, 2}
    assert {symbol for each in drawn for symbol in each.deposits} == {"USDC", "WETH"}


async def test_a_root_that_is_no_clearing_house_is_refused_with_what_to_correct(small: PerpDesk):
    for root in (small.market.vault, small.market.assets["USDC"].token, OWNER):
        reader = PerpReader("perp", address(root), prices=small.prices())
        with pytest.raises(Unsafe, match="is not the ClearingHouse"):
            await reader.discover(await small.reads())


@pytest.mark.timeout(200)
async def test_the_protocol_keeps_every_promise_of_the_ports_on_its_own_contracts(desk: PerpDesk):
    reader = await desk.discovered()
    market = Market("perp", "perp_curie", desk.market.from_block, reader, rules, calls, address(OWNER))
    for prices in ({}, CRASH):
        if prices:
            await desk.market.move(prices)
        _, positions = await desk.book(reader)
        checks = await examine(market, await desk.reads(), [each.id for each in positions], desk.revert_data)
        assert {each.status for each in checks} == {Status.OK}, checks


def test_settlements_and_proceeds_are_none():
    assert rules.settlements(Address(bytes(20)), {}, None, Moment(1, 1)) == ()  # type: ignore[arg-type]
