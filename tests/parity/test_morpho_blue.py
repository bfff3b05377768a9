"""The rules against the genuine contracts, to the unit: Morpho Blue and its adaptive interest model on a local node."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from keeper.devnet.chain import ADMIN, Reverted
from keeper.devnet.morpho import BORROW, PARAMS
from keeper.domain.abi import number_word, selector, view
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.domain.units import PositionId, TokenAmount
from keeper.engine.screen import Screen
from keeper.errors import Unsafe
from keeper.protocols.morpho_blue import calls, rules
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot, position_id
from keeper.protocols.morpho_blue.reader import MorphoReader
from tests.parity.desk import LIQUIDATOR, address, log_of, raw
from tests.parity.morpho_desk import POSITIONS, MorphoDesk, morpho_desk

HOUR_S = 3_600
LANDING_S = 12
BALANCE_OF = selector("balanceOf(address)")
SET_PRICE = selector("setPrice(uint256)")
CRASH = {"WETH": 0.9, "WBTC": 0.84, "LINK": 0.7, "PEPE": 0.6, "GOLD": 0.6, "CRV": 0.6, "USDC": 0.9}
REPAY = f"repay({PARAMS},uint256,uint256,address,bytes)"
WITHDRAW = f"withdrawCollateral({PARAMS},uint256,address,address)"


@pytest.fixture
async def desk() -> AsyncIterator[MorphoDesk]:
    async with morpho_desk() as found:
        yield found


async def assert_health_is_the_chains(
    desk: MorphoDesk, reader: MorphoReader, ids: Sequence[PositionId]
) -> tuple[MorphoSnapshot, list[MorphoPosition]]:
    snapshot, positions = await desk.book(reader, ids)
    reads = await desk.reads()
    chain = await reader.chain_health(reads, [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        assert theirs is not None
        assert replace(rules.health(position, snapshot, reads.head.moment), collateral=(), debt=()) == theirs
    assert len(positions) >= POSITIONS
    return snapshot, positions


async def test_every_position_is_the_chains_after_hours_of_interest_and_a_crash(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    await desk.pass_time(7 * HOUR_S + 13)
    await assert_health_is_the_chains(desk, reader, ids)
    await desk.pass_time(19 * 24 * HOUR_S)
    await assert_health_is_the_chains(desk, reader, ids)
    await desk.crash(CRASH)
    snapshot, positions = await assert_health_is_the_chains(desk, reader, ids)
    unhealthy = [each for each in positions if rules.health(each, snapshot, snapshot.head.moment).is_liquidatable]
    assert len(unhealthy) >= 100
    assert len({each.pair for each in unhealthy}) >= 8
    assert min(each.borrow_shares for each in unhealthy) < 10**9  # less than a thousand units of the loan token
    assert {pair.rate_at_target is None for pair in snapshot.pairs.values()} == {True, False}


async def test_the_totals_and_health_foreseen_for_the_next_block_are_the_chains_in_it(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    for seconds in (5 * HOUR_S, 1, 40 * 24 * HOUR_S):
        await desk.pass_time(seconds)
        snapshot, positions = await desk.book(reader, ids)
        at = snapshot.head.landing(LANDING_S)
        await desk.chain.set_next_timestamp(at.time_s)
        await desk.chain.mine()
        reads = await desk.reads()
        assert reads.head.moment == at
        for pair_id, pair in snapshot.pairs.items():
            accrue = view(snapshot.root, morpho.ACCRUE_INTEREST, pair.params.encoded)
            _, told = await reads.sequence([accrue, view(snapshot.root, morpho.MARKET, pair_id)])
            assert rules.accrued(pair, at.time_s) == morpho.totals(told)
        chain = await reader.chain_health(reads, [each.id for each in positions])
        for position, theirs in zip(positions, chain, strict=True):
            assert replace(rules.health(position, snapshot, at), collateral=(), debt=()) == theirs


def assert_as_planned(reader: MorphoReader, opportunity: Opportunity, entries: Sequence[dict[str, str]]) -> None:
    logs = [log_of(each) for each in entries]
    (taken,) = reader.liquidations(logs)
    assert (taken.key, taken.liquidator) == (opportunity.key, address(LIQUIDATOR))
    assert (taken.repay_token, taken.seize_token) == (opportunity.repay.address, opportunity.seize.address)
    assert taken.realised.repaid_amount == opportunity.repay_amount <= opportunity.repay_limit
    assert taken.realised.seized_amount == opportunity.seized_amount
    assert opportunity.key.id in reader.touched(logs).positions


async def rehearse(desk: MorphoDesk, reader: MorphoReader, opportunities: Sequence[Opportunity]) -> int:
    """Execute each at its time without a trace, and compare everything that it moves."""
    who = address(LIQUIDATOR).rjust(32, b"\0")
    plans = []
    for each in opportunities:
        balances = [Call(token.address, BALANCE_OF + who) for token in (each.repay, each.seize)]
        plans.append([*balances, calls.liquidation(each), *balances])
    done = await desk.rehearse_each(opportunities[0].at, plans)
    for opportunity, results in zip(opportunities, done, strict=True):
        assert results[2]["status"] == "0x1", (opportunity, calls.decode_revert(raw(results[2]["returnData"])))
        assert_as_planned(reader, opportunity, results[2]["logs"])
        paid, got, left, has = (int(results[place]["returnData"], 16) for place in (0, 1, 3, 4))
        assert (paid - left, has - got) == (opportunity.repay_amount, opportunity.seized_amount)
        assert int(results[2]["gasUsed"], 16) < calls.GAS_ESTIMATE
    return len(opportunities)


async def test_every_planned_liquidation_moves_to_the_unit_what_was_planned(desk: MorphoDesk):
    source = random.Random(5)
    reader, ids = await desk.discovered()
    await desk.pass_time(5 * HOUR_S)
    await desk.crash(CRASH)
    snapshot, positions = await desk.book(reader, ids)
    at = snapshot.head.landing(LANDING_S)
    whole, cut, bad = [], [], 0
    for position in positions:
        assessment = rules.assess(position, snapshot, at, None)
        if not assessment.opportunities:
            assert assessment.blocked in {Reason.NOT_LIQUIDATABLE, Reason.DUST_RULE}
            continue
        (opportunity,) = assessment.opportunities
        whole.append(opportunity)
        bad += opportunity.seized_amount == position.collateral
        funds = {opportunity.repay.address: TokenAmount(int(opportunity.repay_limit * source.uniform(0.02, 1.0)))}
        afforded = rules.assess(position, snapshot, at, funds)
        assert afforded.opportunities or afforded.blocked is Reason.INSUFFICIENT_INVENTORY
        for lesser in afforded.opportunities:
            assert lesser.repay_limit <= funds[lesser.repay.address]
            cut.append(lesser)
    assert await rehearse(desk, reader, whole) >= 120
    assert await rehearse(desk, reader, cut) >= 80
    assert 10 <= bad < len(whole) - 10


async def test_a_plan_outlives_a_small_move_of_the_price_and_pulls_no_more_than_its_limit(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    await desk.crash(CRASH)
    snapshot, positions = await desk.book(reader, ids)
    at = snapshot.head.landing(LANDING_S)
    planned = [each for position in positions for each in rules.assess(position, snapshot, at, None).opportunities]
    landed = 0
    for per_mille in (996, 999, 1_001, 1_004):
        plans = []
        for each in planned:
            params = snapshot.pairs[each.key.part].params
            price = (snapshot.pairs[each.key.part].price or 0) * per_mille // 1_000
            plans.append([Call(params.oracle, SET_PRICE + number_word(price)), calls.liquidation(each)])
        done = await desk.rehearse_each(replace(at, time_s=at.time_s + 60), plans)
        for opportunity, (_, result) in zip(planned, done, strict=True):
            if result["status"] == "0x1":
                (taken,) = reader.liquidations([log_of(each) for each in result["logs"]])
                assert taken.realised.repaid_amount <= opportunity.repay_limit
                landed += 1
            elif min(opportunity.repay_amount, opportunity.seized_amount) > 10**3:  # fewer units leave no room
                assert calls.decode_revert(raw(result["returnData"]))[1] == "position is healthy"
    assert landed >= 400


async def test_one_liquidation_after_another_lands_as_planned_while_they_move_the_totals(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    await desk.pass_time(HOUR_S)
    await desk.crash(CRASH)
    landed = 0
    for each in ids[:120]:
        snapshot, (position,) = await desk.book(reader, [each])
        at = snapshot.head.landing(LANDING_S)
        for opportunity in rules.assess(position, snapshot, at, None).opportunities:
            await desk.chain.set_next_timestamp(at.time_s)
            receipt = await desk.send(calls.liquidation(opportunity))
            assert receipt["status"] == "0x1", opportunity
            assert_as_planned(reader, opportunity, receipt["logs"])
            landed += 1
    assert landed >= 30
    await assert_health_is_the_chains(desk, reader, ids)


async def test_the_price_at_which_a_position_turns_is_the_contracts_to_the_unit(desk: MorphoDesk):
    """At the highest price that the rules call liquidatable it is, at the next one Morpho says that it is healthy."""
    reader, ids = await desk.discovered()
    await desk.pass_time(3 * HOUR_S)
    snapshot, positions = await desk.book(reader, ids)
    at = snapshot.head.landing(LANDING_S)
    plans, verdicts = [], []
    for position in positions[::2]:
        pair = snapshot.pairs[position.pair]

        def is_liquidatable(price: int, position: MorphoPosition = position) -> bool:
            priced = replace(snapshot.pairs[position.pair], price=price)
            market = replace(snapshot, pairs={position.pair: priced})
            return rules.health(position, market, at).is_liquidatable

        low, high = 0, 2 * (pair.price or 0)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_liquidatable(middle) else (low, middle)
        terms = morpho.LIQUIDATE + pair.params.encoded + number_word(0) + number_word(1)
        for price in (low, high):
            set_price = Call(pair.params.oracle, SET_PRICE + number_word(price))
            least = Call(snapshot.root, calls_data(terms, position))
            plans.append([set_price, least])
            verdicts.append(price == low)
    done = await desk.rehearse_each(at, plans)
    for is_open, (_, result) in zip(verdicts, done, strict=True):
        assert (result["status"] == "0x1") is is_open
        if not is_open:
            assert calls.decode_revert(raw(result["returnData"])) == (Reason.NOT_LIQUIDATABLE, "position is healthy")
    assert len(verdicts) >= POSITIONS


def calls_data(terms: bytes, position: MorphoPosition) -> bytes:
    """Return the call that the terms and a borrower make, by hand."""
    head, amounts = terms[: 4 + 5 * 32], terms[4 + 5 * 32 :]
    return head + position.id[:20].rjust(32, b"\0") + amounts + number_word(9 * 32) + number_word(0)


async def test_the_screen_names_every_position_that_the_chain_calls_unhealthy(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    await desk.crash(CRASH)
    snapshot, positions = await desk.book(reader, ids)
    screen = Screen()
    for position in positions:
        screen.put(position.id, rules.row(position, snapshot))
    columns = {column for position in positions for column, _ in rules.row(position, snapshot)}
    suspects = set(screen.suspects(rules.weights(snapshot, columns, snapshot.head.moment)))
    chain = await reader.chain_health(await desk.reads(), [each.id for each in positions])
    unhealthy = {each.id for each, health in zip(positions, chain, strict=True) if health and health.is_liquidatable}
    assert unhealthy <= suspects
    assert len(suspects) <= len(unhealthy) + 5
    assert len(unhealthy) >= 100


async def test_positions_that_logs_name_are_all_that_has_to_be_read_again(desk: MorphoDesk):
    source, chain = random.Random(8), desk.chain
    reader, ids = await desk.discovered()
    _, positions = await desk.book(reader, ids)
    kept = {each.id: each for each in positions}
    begin = await chain.block_number() + 1
    pairs = {desk.pair_id(name): name for name in desk.market.pairs}
    for position in source.sample([each for each in positions if each.borrow_shares > 10**12], 20):
        owner, pair = "0x" + position.id[:20].hex(), desk.market.pairs[pairs[position.pair]]
        match source.randrange(4):
            case 0:
                await desk.supply(owner, pair.spec.name, 1 + position.collateral // 7)
            case 1:
                with suppress(Reverted):  # where it would not be healthy without it
                    await desk.act(owner, WITHDRAW, pair.params, 1 + position.collateral // 50, owner, owner)
            case 2:
                with suppress(Reverted):  # where it is at its limit
                    await desk.act(owner, BORROW, pair.params, 1, 0, owner, owner)
            case _:
                shares = position.borrow_shares // 3
                await chain.send(pair.loan.token, "approve(address,uint256)", desk.market.morpho, 2**255)
                await chain.send(pair.loan.token, "mint(address,uint256)", ADMIN, 10 ** (pair.loan.decimals + 9))
                await chain.send(desk.market.morpho, REPAY, pair.params, 0, shares, owner, b"")
    touched = reader.touched(await desk.logs(reader.head_filter, begin))
    assert not touched.is_market_changed
    reads = await desk.reads()
    again = await reader.positions(reads, sorted(touched.positions & kept.keys()))
    assert reads.rounds == 1
    patched = kept | {each.id: each for each in again}
    fresh = await reader.positions(reads, sorted(kept))
    assert [patched[each.id] for each in fresh] == fresh
    assert 8 <= sum(kept[each.id] != each for each in fresh) < len(kept) // 2


async def test_an_oracle_that_reverts_spoils_only_its_pair(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    broken = desk.market.pairs["WBTC/USDC/8600/adaptive"]
    await desk.crash(CRASH)
    await desk.chain.rpc("anvil_setCode", broken.oracle, "0x60006000fd")
    snapshot, positions = await desk.book(reader, ids)
    chain = await reader.chain_health(await desk.reads(), [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        assessment = rules.assess(position, snapshot, snapshot.head.moment, None)
        is_spoilt = position.pair == raw(broken.id)
        assert (theirs is None) is is_spoilt
        assert (assessment.blocked is Reason.PRICE_UNKNOWN) is is_spoilt
        if theirs is not None:
            assert replace(assessment.health, collateral=(), debt=()) == theirs
    rows = {each.id: rules.row(each, snapshot) for each in positions if each.pair == raw(broken.id)}
    screen = Screen()
    for key, row in rows.items():
        screen.put(key, row)
    columns = {column for row in rows.values() for column, _ in row}
    assert len(rows) >= 30
    assert screen.suspects(rules.weights(snapshot, columns, snapshot.head.moment)) == []


async def test_a_head_costs_one_round_even_where_a_model_has_to_be_asked(desk: MorphoDesk):
    reader, ids = await desk.discovered()
    await reader.snapshot(await desk.reads())
    await desk.pass_time(HOUR_S)
    reads = await desk.reads()
    before = await reader.snapshot(reads)
    own_rounds = reads.rounds - 1  # the feeds are asked beside it, in the same request
    assert own_rounds == 1
    pair = desk.market.pairs["GOLD/WETH/7700/linear"]
    await desk.chain.send(desk.market.morpho, f"accrueInterest({PARAMS})", pair.params)
    reads = await desk.reads()
    after = await reader.snapshot(reads)
    assert reads.rounds - 1 == 2  # the model's last answer was for other totals
    assert after.pairs[raw(pair.id)].rate != before.pairs[raw(pair.id)].rate
    await assert_health_is_the_chains(desk, reader, ids)


async def test_an_adaptive_model_that_is_only_asked_agrees_with_the_chain_at_the_head(desk: MorphoDesk):
    prices = desk.prices()
    reader, ids = await desk.discovered(MorphoReader("morpho", address(desk.market.morpho), prices))
    await desk.pass_time(9 * HOUR_S)
    snapshot, _ = await assert_health_is_the_chains(desk, reader, ids)
    assert all(pair.rate_at_target is None for pair in snapshot.pairs.values())


async def test_a_pair_under_the_floor_sleeps_until_an_event_touches_it(desk: MorphoDesk):
    floor_usd = 35_000_000
    reader, ids = await desk.discovered(desk.reader(floor_base=floor_usd * 10**8))
    reads = await desk.reads()
    snapshot, chain = await reader.snapshot(reads), await reader.chain_health(reads, ids)
    positions = await reader.positions(reads, ids)
    small = {desk.pair_id(name) for name, pair in desk.market.pairs.items() if pair.spec.usage_bps <= 2_000}
    assert snapshot.pairs.keys() == {desk.pair_id(name) for name in desk.market.pairs} - small
    for position, theirs in zip(positions, chain, strict=True):
        is_asleep = position.pair in small
        assert (theirs is None) is is_asleep
        assert (rules.assess(position, snapshot, reads.head.moment, None).blocked is Reason.PRICE_UNKNOWN) is is_asleep
    await reader.snapshot(await desk.reads())  # their positions were read, which wakes them for one head
    assert (await reader.snapshot(await desk.reads())).pairs.keys() == snapshot.pairs.keys()
    begin = await desk.chain.block_number() + 1
    name = next(name for name in desk.market.pairs if desk.pair_id(name) in small)
    await desk.supply("0x" + ids[0][:20].hex(), name, 10**6)
    reader.touched(await desk.logs(reader.head_filter, begin))
    assert desk.pair_id(name) in (await reader.snapshot(await desk.reads())).pairs
    assert desk.pair_id(name) not in (await reader.snapshot(await desk.reads())).pairs


async def test_an_allow_list_is_all_that_is_read(desk: MorphoDesk):
    only = desk.pair_id("WETH/USDC/8600/adaptive")
    reader, ids = await desk.discovered(desk.reader(allow=frozenset({only})))
    assert {each[20:] for each in ids} == {only}
    other = position_id(address(LIQUIDATOR), desk.pair_id("WBTC/DAI/7700/adaptive"))
    reads = await desk.reads()
    assert [each.id for each in await reader.positions(reads, [*ids, other])] == ids
    snapshot = await reader.snapshot(reads)
    assert snapshot.pairs.keys() == {only}
    assert [each.token.symbol for each in snapshot.payments] == ["USDC"]


async def test_a_new_pair_is_found_by_its_log_and_its_first_borrower_is_read_at_once(desk: MorphoDesk):
    reader, _ = await desk.discovered()
    begin = await desk.chain.block_number() + 1
    old = desk.market.pairs["WETH/USDC/8600/adaptive"]
    params = (*old.params[:4], 385 * 10**15)
    await desk.chain.send(desk.market.morpho, f"createMarket({PARAMS})", params)
    logs = await desk.logs(reader.head_filter, begin)
    assert reader.touched(logs).is_market_changed
    (part,) = reader.named(logs)
    reader.recall([part])
    await reader.discover(await desk.reads())
    assert part[20:] not in (await reader.snapshot(await desk.reads())).pairs  # nobody owes anything there
    begin = await desk.chain.block_number() + 1
    await desk.supply(ADMIN, old.spec.name, 10**18)
    await desk.chain.send(old.loan.token, "mint(address,uint256)", ADMIN, 10**12)
    await desk.chain.send(old.loan.token, "approve(address,uint256)", desk.market.morpho, 2**255)
    await desk.chain.send(
        desk.market.morpho, f"supply({PARAMS},uint256,uint256,address,bytes)", params, 10**11, 0, ADMIN, b""
    )
    await desk.chain.send(old.collateral.token, "mint(address,uint256)", ADMIN, 10**18)
    await desk.chain.send(
        desk.market.morpho, f"supplyCollateral({PARAMS},uint256,address,bytes)", params, 10**18, ADMIN, b""
    )
    await desk.chain.send(desk.market.morpho, BORROW, params, 10**9, 0, ADMIN, ADMIN)
    logs = await desk.logs(reader.head_filter, begin)
    mine = position_id(address(ADMIN), part[20:])
    assert mine in reader.named(logs)
    assert mine in reader.touched(logs).positions
    snapshot, (position,) = await desk.book(reader, [mine])
    (theirs,) = await reader.chain_health(await desk.reads(), [mine])
    assert replace(rules.health(position, snapshot, snapshot.head.moment), collateral=(), debt=()) == theirs


async def test_every_price_is_told_and_a_root_that_is_none_is_refused(desk: MorphoDesk):
    reader, _ = await desk.discovered()
    ages = {each.token.symbol: each.price_base for each in await reader.price_ages(await desk.reads())}
    prices = await desk.market.prices()
    assert ages.keys() == prices.keys()
    assert all(abs((ages[name] or 0) - price) <= 1 + price // 10**5 for name, price in prices.items())
    weth = address(desk.market.assets["WETH"].token)
    for root in (weth, address(LIQUIDATOR), address(desk.market.adaptive_irm)):
        with pytest.raises(Unsafe, match="no Morpho"):
            await MorphoReader("morpho", root, desk.prices()).discover(await desk.reads())
    root = address(desk.market.morpho)
    with pytest.raises(Unsafe, match="no pair"):
        await MorphoReader("morpho", root, desk.prices(), allow=frozenset({bytes(32)})).discover(await desk.reads())
    with pytest.raises(Unsafe, match="interest model"):
        await MorphoReader("morpho", root, desk.prices(), adaptive_irm=weth).discover(await desk.reads())
    stranger = MorphoReader("morpho", root, desk.prices(), pre_liquidation_factories=frozenset({weth}))
    with pytest.raises(Unsafe, match="another Morpho"):
        await stranger.discover(await desk.reads())
