"""The rules against the genuine contracts, to the unit: core 3.0.2 and origin 3.6.0 on a local node."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest

from keeper.devnet.chain import Reverted
from keeper.devnet.devnet import DevnetSpec, cached_devnet
from keeper.devnet.market import Generation
from keeper.devnet.packages import default_cache_dir, ensure_packages
from keeper.devnet.positions import PositionSpec, open_positions, owner_address
from keeper.devnet.sentinel import set_price_oracle_sentinel
from keeper.domain.chain import Call, Log
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity, PositionKey
from keeper.domain.units import Address, Base, PositionId, TokenAmount
from keeper.engine.screen import Screen
from keeper.errors import Fatal, Invalid, Unsafe
from keeper.protocols.aave_v3 import calls, rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot
from keeper.protocols.aave_v3.reader import AaveReader
from tests.parity.aave_desk import AaveDesk
from tests.parity.desk import LIQUIDATOR, address, log_of, raw

ACCOUNTS = 400
SPEC = DevnetSpec(n_positions=ACCOUNTS, seed=11, hf_range=(1.005, 1.7))
HOUR_S = 3_600
LANDING_S = 12
BALANCE_OF = bytes.fromhex("70a08231")
CRASH = {"WETH": 2_300, "wstETH": 2_800, "WBTC": 67_000, "LINK": 13, "CRV": 0.5, "USDT": 0.93}


@pytest.fixture(params=["3.0", "3.6"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[AaveDesk]:
    generation = cast("Generation", request.param)
    async with cached_devnet(default_cache_dir(), replace(SPEC, generations=(generation,))) as devnet:
        yield AaveDesk(devnet.markets[generation])


async def discovered(desk: AaveDesk) -> AaveReader:
    weth = address(desk.market.reserves["WETH"].token)
    reader = AaveReader("aave", address(desk.market.provider), weth)
    await reader.discover(await desk.reads())
    return reader


async def borrowers(desk: AaveDesk, reader: AaveReader) -> list[PositionId]:
    return sorted(reader.named(await desk.logs(reader.discovery_filter, desk.market.from_block)))


async def book(desk: AaveDesk, reader: AaveReader) -> tuple[AaveSnapshot, list[AavePosition]]:
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    return snapshot, list(await reader.positions(reads, await borrowers(desk, reader)))


async def crash(desk: AaveDesk) -> None:
    await desk.market.set_prices(
        {name: int(price * 10**8) for name, price in CRASH.items() if name in desk.market.reserves}
    )


async def assert_health_is_the_chains(desk: AaveDesk, reader: AaveReader, at_least: int) -> list[AavePosition]:
    snapshot, positions = await book(desk, reader)
    reads = await desk.reads()
    chain = await reader.chain_health(reads, [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        ours = rules.health(position, snapshot, reads.head.moment)
        assert replace(ours, collateral=(), debt=()) == theirs
    assert len(positions) >= at_least
    return positions


async def test_every_health_factor_is_the_chains_after_hours_of_interest_and_a_crash(desk: AaveDesk):
    reader = await discovered(desk)
    await desk.pass_time(7 * HOUR_S + 13)
    await assert_health_is_the_chains(desk, reader, ACCOUNTS)
    await desk.pass_time(11)
    await crash(desk)
    positions = await assert_health_is_the_chains(desk, reader, ACCOUNTS)
    assert {each.category for each in positions} >= {0, 1, 2}
    assert any(len(each.collateral) > 1 and len(each.debt) > 1 for each in positions)


async def test_the_health_foreseen_for_the_next_block_is_the_chains_in_it(desk: AaveDesk):
    reader = await discovered(desk)
    await desk.pass_time(HOUR_S)
    snapshot, positions = await book(desk, reader)
    landing = snapshot.head.landing(LANDING_S)
    await desk.chain.set_next_timestamp(landing.time_s)
    await desk.chain.mine()
    reads = await desk.reads()
    assert reads.head.moment == landing
    chain = await reader.chain_health(reads, [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        assert replace(rules.health(position, snapshot, landing), collateral=(), debt=()) == theirs


def assert_as_planned(reader: AaveReader, opportunity: Opportunity, logs: Sequence[Log]) -> None:
    (taken,) = reader.liquidations(logs)
    assert taken.key == opportunity.key
    assert taken.liquidator == address(LIQUIDATOR)
    assert (taken.repay_token, taken.seize_token) == (opportunity.repay.address, opportunity.seize.address)
    assert taken.realised.repaid_amount == opportunity.repay_amount
    assert taken.realised.seized_amount == opportunity.seized_amount
    assert opportunity.key.id in reader.touched(logs).positions


async def rehearse(desk: AaveDesk, reader: AaveReader, opportunity: Opportunity) -> None:
    """Execute the opportunity at its time without a trace, and compare everything that it moves."""
    who = address(LIQUIDATOR).rjust(32, b"\0")
    balances = [Call(each.address, BALANCE_OF + who) for each in (opportunity.repay, opportunity.seize)]
    done = await desk.rehearse(opportunity.at, [*balances, calls.liquidation(opportunity), *balances])
    assert done[2]["status"] == "0x1", (opportunity, calls.decode_revert(raw(done[2]["returnData"])))
    assert_as_planned(reader, opportunity, [log_of(entry) for entry in done[2]["logs"]])
    paid, got, left, has = (int(done[place]["returnData"], 16) for place in (0, 1, 3, 4))
    if opportunity.repay != opportunity.seize:
        assert (paid - left, has - got) == (opportunity.repay_amount, opportunity.seized_amount)
    assert int(done[2]["gasUsed"], 16) < 2 * calls.GAS_ESTIMATE


async def assert_plans_come_true(desk: AaveDesk, reader: AaveReader, source: random.Random) -> tuple[int, int]:
    """Rehearse the best and the worst pair of every unhealthy account, whole and cut by a budget; return how many."""
    snapshot, positions = await book(desk, reader)
    landing = snapshot.head.landing(LANDING_S)
    whole = cut = 0
    for position in positions:
        assessment = rules.assess(position, snapshot, landing, None)
        assert assessment.blocked is (None if assessment.opportunities else Reason.NOT_LIQUIDATABLE)
        chosen = dict.fromkeys([*assessment.opportunities[:1], *assessment.opportunities[-1:]])
        for opportunity in chosen:
            await rehearse(desk, reader, opportunity)
            whole += 1
            token = opportunity.repay.address
            funds = TokenAmount(int(opportunity.repay_amount * source.uniform(0.02, 1.0)))
            afforded = rules.assess(position, snapshot, landing, {token: funds})
            assert afforded.opportunities or afforded.blocked in {Reason.DUST_RULE, Reason.INSUFFICIENT_INVENTORY}
            for lesser in afforded.opportunities[:1]:
                assert lesser.repay_limit <= funds
                await rehearse(desk, reader, lesser)
                cut += 1
    return whole, cut


@pytest.mark.timeout(200)
async def test_every_planned_liquidation_moves_to_the_unit_what_was_planned(desk: AaveDesk):
    reader = await discovered(desk)
    await desk.open()
    await desk.pass_time(5 * HOUR_S)
    await crash(desk)
    whole, cut = await assert_plans_come_true(desk, reader, random.Random(5))
    assert whole >= 100
    assert cut >= 50


async def test_one_liquidation_after_another_lands_as_planned_while_they_move_the_indexes(desk: AaveDesk):
    reader = await discovered(desk)
    await desk.open()
    await desk.pass_time(HOUR_S)
    await crash(desk)
    landed = 0
    for each in (await borrowers(desk, reader))[:250]:
        reads = await desk.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [each])
        landing = reads.head.landing(LANDING_S)
        for opportunity in rules.assess(position, snapshot, landing, None).opportunities[:1]:
            await desk.chain.set_next_timestamp(landing.time_s)
            receipt = await desk.send(calls.liquidation(opportunity))
            assert receipt["status"] == "0x1", opportunity
            assert_as_planned(reader, opportunity, [log_of(entry) for entry in receipt["logs"]])
            landed += 1
    assert landed >= 50
    await assert_health_is_the_chains(desk, reader, ACCOUNTS)


async def test_the_screen_names_every_account_that_the_chain_calls_unhealthy(desk: AaveDesk):
    reader = await discovered(desk)
    await crash(desk)
    snapshot, positions = await book(desk, reader)
    screen = Screen()
    for position in positions:
        screen.put(position.id, rules.row(position, snapshot))
    columns = {column for position in positions for column, _ in rules.row(position, snapshot)}
    suspects = set(screen.suspects(rules.weights(snapshot, columns, snapshot.head.moment)))
    reads = await desk.reads()
    chain = await reader.chain_health(reads, [each.id for each in positions])
    unhealthy = {each.id for each, health in zip(positions, chain, strict=True) if health and health.is_liquidatable}
    assert unhealthy <= suspects
    assert len(suspects) < len(unhealthy) + 5
    assert len(unhealthy) >= 60


async def test_accounts_that_logs_name_are_all_that_has_to_be_read_again(desk: AaveDesk):
    source, market, chain = random.Random(8), desk.market, desk.chain
    reader = await discovered(desk)
    _, positions = await book(desk, reader)
    kept = {each.id: each for each in positions}
    begin = await chain.block_number() + 1
    await chain.auto_impersonate(wanted=True)
    for owner in source.sample(sorted(kept), 24):
        who = "0x" + owner.hex()
        symbol = source.choice(["USDC", "WETH", "DAI"])
        token, unit = market.reserves[symbol], 10 ** market.reserves[symbol].decimals
        await chain.set_balance(who, 10**20)
        await market.supply(who, symbol, unit)
        match source.randrange(5):
            case 0:
                with suppress(Reverted):  # where the account would not be healthy without it
                    await market.set_collateral(who, symbol, wanted=False)
            case 1:
                receiver = "0x" + source.choice(sorted(kept)).hex()
                await chain.send(token.a_token, "transfer(address,uint256)", receiver, unit // 2, sender=who)
            case 2:
                await market.withdraw(who, symbol, unit // 3)
            case 3:
                (debt_id, _), *_ = kept[owner].debt
                owed = next(
                    each for each in market.reserves.values() if address(each.token) == token_of(reader, debt_id)
                )
                await market.repay(who, owed.symbol, 10**owed.decimals // 2)
            case _:
                await chain.increase_time(60)
        await chain.auto_impersonate(wanted=True)
    await chain.auto_impersonate(wanted=False)
    touched = reader.touched(await desk.logs(reader.head_filter, begin))
    assert not touched.is_market_changed
    reads = await desk.reads()
    again = await reader.positions(reads, sorted(touched.positions & kept.keys()))
    patched = kept | {each.id: each for each in again}
    assert reads.rounds <= 2
    for fresh in await reader.positions(reads, sorted(kept)):
        assert patched[fresh.id] == fresh
    assert len(touched.positions & kept.keys()) < len(kept) // 2


def token_of(reader: AaveReader, reserve_id: int) -> Address:
    return reader._layout.listings[reserve_id].token.address


async def sinking(desk: AaveDesk, *, supply: int = 10) -> tuple[str, AaveReader]:
    """Open 10 WETH against 24,000 USDC, and let WETH fall to where the health factor is between 0.95 and 1."""
    owner = owner_address(77_777)
    weth, usdc = supply * 10**18, 2_400 * supply * 10**6
    await open_positions(desk.market, [PositionSpec(owner=owner, supplies={"WETH": weth}, borrows={"USDC": usdc})])
    await desk.open()
    reader = await discovered(desk)
    await desk.market.set_prices({"WETH": 2_850 * 10**8})
    return owner, reader


async def verdict(desk: AaveDesk, reader: AaveReader, owner: str) -> tuple[Reason | None, Reason]:
    """Return what the rules say, and what the pool says to the call that would be right were it not forbidden."""
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    (position,) = await reader.positions(reads, [PositionId(address(owner))])
    assessment = rules.assess(position, snapshot, reads.head.moment, None)
    tokens = {each.token.symbol: each.token for each in snapshot.reserves.values()}
    opportunity = Opportunity(
        key=PositionKey("aave", PositionId(address(owner))),
        repay=tokens["USDC"],
        repay_amount=TokenAmount(10**9),
        repay_limit=TokenAmount(10**9),
        repay_base=Base(0),
        seize=tokens["WETH"],
        seized_amount=TokenAmount(0),
        seized_base=Base(0),
        protocol_fee_amount=TokenAmount(0),
        spender=snapshot.pool,
        target=snapshot.pool,
        at=reads.head.moment,
    )
    data = await desk.revert_data(calls.liquidation(opportunity))
    return assessment.blocked, Reason.UNKNOWN if data is None else calls.decode_revert(data)[0]


async def test_a_healthy_account_is_refused_by_rules_and_chain_alike(desk: AaveDesk):
    owner, reader = await sinking(desk)
    await desk.market.set_prices({"WETH": 3_000 * 10**8})
    assert await verdict(desk, reader, owner) == (Reason.NOT_LIQUIDATABLE, Reason.NOT_LIQUIDATABLE)


async def test_a_paused_reserve_is_refused_by_rules_and_chain_alike(desk: AaveDesk):
    owner, reader = await sinking(desk)
    await desk.market.set_paused("WETH", paused=True)
    assert await verdict(desk, reader, owner) == (Reason.PAUSED, Reason.PAUSED)


async def test_a_grace_period_is_refused_by_rules_and_chain_alike_until_it_has_passed(desk: AaveDesk):
    owner, reader = await sinking(desk)
    if desk.market.generation == "3.0":
        with pytest.raises(Fatal):
            await desk.market.set_grace_period("WETH", 600)
        return
    await desk.market.set_grace_period("WETH", 600)
    assert await verdict(desk, reader, owner) == (Reason.GRACE_PERIOD, Reason.GRACE_PERIOD)
    await desk.pass_time(601)
    assert await verdict(desk, reader, owner) == (None, Reason.UNKNOWN)


async def test_a_sentinel_is_found_without_a_log_and_refuses_only_the_nearly_healthy(desk: AaveDesk):
    owner, reader = await sinking(desk)
    packages = ensure_packages(default_cache_dir(), sets=("core", "origin"))
    sentinel = await set_price_oracle_sentinel(desk.market, packages, grace_period_s=3_600)
    assert await verdict(desk, reader, owner) == (None, Reason.UNKNOWN)
    await sentinel.set_sequencer(is_down=True, since_s=int((await desk.head()).timestamp_s))
    assert await verdict(desk, reader, owner) == (Reason.SENTINEL, Reason.SENTINEL)
    await desk.market.set_prices({"WETH": 2_600 * 10**8})
    assert await verdict(desk, reader, owner) == (None, Reason.UNKNOWN)


async def test_a_collateral_flag_that_was_taken_away_leaves_the_other_collateral(desk: AaveDesk):
    owner, reader = await sinking(desk)
    await desk.market.set_prices({"WETH": 3_000 * 10**8})
    await desk.market.supply(owner, "DAI", 40_000 * 10**18)
    await desk.market.set_collateral(owner, "WETH", wanted=False)
    await desk.market.set_prices({"DAI": int(0.7 * 10**8)})
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    (position,) = await reader.positions(reads, [PositionId(address(owner))])
    assessment = rules.assess(position, snapshot, reads.head.moment, None)
    assert {each.seize.symbol for each in assessment.opportunities} == {"DAI"}
    assert await verdict(desk, reader, owner) == (None, Reason.NO_COLLATERAL)


async def test_a_reverting_feed_spoils_only_its_holders(desk: AaveDesk):
    owner, reader = await sinking(desk)
    nobody = "0x" + "00" * 20
    link = desk.market.reserves["LINK"].token
    await desk.configure("setAssetSources(address[],address[])", [link], [nobody], to=desk.market.oracle)
    snapshot, positions = await book(desk, reader)
    reads = await desk.reads()
    chain = await reader.chain_health(reads, [each.id for each in positions])
    unpriced = {each.id for each in snapshot.reserves.values() if each.price_base is None}
    assert len(unpriced) == 1
    for position, theirs in zip(positions, chain, strict=True):
        is_holder = bool(unpriced & {each for each, _ in (*position.collateral, *position.debt)})
        assert (theirs is None) is is_holder
        assessment = rules.assess(position, snapshot, reads.head.moment, None)
        assert (assessment.blocked is Reason.PRICE_UNKNOWN) is is_holder
        if not is_holder:
            assert replace(assessment.health, collateral=(), debt=()) == theirs
    assert await verdict(desk, reader, owner) == (None, Reason.UNKNOWN)


async def test_every_feed_tells_when_it_last_reported(desk: AaveDesk):
    reader = await discovered(desk)
    await desk.market.set_prices({"WETH": 2_999 * 10**8})
    reads = await desk.reads()
    ages = {each.token.symbol: each for each in await reader.price_ages(reads)}
    assert ages.keys() == desk.market.reserves.keys()
    assert (ages["WETH"].price_base, ages["WETH"].updated_s) == (2_999 * 10**8, reads.head.timestamp_s)


async def test_a_new_oracle_and_a_new_mode_are_found_without_their_logs(desk: AaveDesk):
    owner, reader = await sinking(desk)
    before = await reader.snapshot(await desk.reads())
    if desk.market.generation == "3.0":
        define = "setEModeCategory(uint8,uint16,uint16,uint16,address,string)"
        await desk.configure(define, 3, 8_500, 8_800, 10_200, "0x" + "00" * 20, "late")
        for symbol in ("WETH", "USDC"):
            token = desk.market.reserves[symbol].token
            await desk.configure("setAssetEModeCategory(address,uint8)", token, 3)
    else:
        await desk.configure("setEModeCategory(uint8,uint16,uint16,uint16,string)", 3, 8_500, 8_800, 10_200, "late")
        for symbol, kind in (("WETH", "Collateral"), ("USDC", "Borrowable")):
            token = desk.market.reserves[symbol].token
            await desk.configure(f"setAsset{kind}InEMode(address,uint8,bool)", token, 3, True)
    await desk.market.set_user_emode(owner, 3)
    reads = await desk.reads()
    (position,) = await reader.positions(reads, [PositionId(address(owner))])
    snapshot = await reader.snapshot(reads)
    assert position.category == 3
    assert snapshot.categories.keys() - before.categories.keys() == {3}
    (theirs,) = await reader.chain_health(reads, [PositionId(address(owner))])
    assert replace(rules.health(position, snapshot, reads.head.moment), collateral=(), debt=()) == theirs
    await desk.configure("setPriceOracle(address)", owner, to=desk.market.provider)
    with pytest.raises(Invalid):
        await reader.snapshot(await desk.reads())
    await desk.configure("setPriceOracle(address)", desk.market.oracle, to=desk.market.provider)
    assert (await reader.snapshot(await desk.reads())).reserves.keys() == snapshot.reserves.keys()


async def test_a_root_that_is_none_is_refused_with_its_name_and_cure(desk: AaveDesk):
    for root in (desk.market.pool, LIQUIDATOR, desk.market.reserves["WETH"].token):
        with pytest.raises(Unsafe, match=r"PoolAddressesProvider.*chain file"):
            await AaveReader("aave", address(root), None).discover(await desk.reads())


@pytest.fixture
async def old_desk() -> AsyncIterator[AaveDesk]:
    async with cached_devnet(default_cache_dir(), replace(SPEC, generations=("3.0",))) as devnet:
        yield AaveDesk(devnet.markets["3.0"])


@pytest.mark.timeout(200)
async def test_stable_debt_is_valued_and_liquidated_to_the_unit(old_desk: AaveDesk):
    desk, chain = old_desk, old_desk.chain
    reader = await discovered(desk)
    _, positions = await book(desk, reader)
    swapped = 0
    for symbol in ("USDC", "USDT", "DAI"):
        reserve = desk.market.reserves[symbol]
        await desk.configure("setReserveStableRateBorrowing(address,bool)", reserve.token, True)
        for position in positions[:120]:
            who = "0x" + position.id.hex()
            if any(token_of(reader, each) == address(reserve.token) and scaled for each, scaled in position.debt):
                with suppress(Reverted):  # where the account's collateral is the same token
                    async with chain.impersonate(who):
                        swap = "swapBorrowRateMode(address,uint256)"
                        await chain.send(desk.market.pool, swap, reserve.token, 2, sender=who)
                    swapped += 1
                    if swapped % 2:
                        await desk.market.borrow(who, symbol, 3 * 10**reserve.decimals)
    await desk.pass_time(31 * HOUR_S)
    await assert_health_is_the_chains(desk, reader, ACCOUNTS)
    await crash(desk)
    positions = await assert_health_is_the_chains(desk, reader, ACCOUNTS)
    assert sum(bool(each.stable_debt) for each in positions) >= 30
    assert any(each.stable_debt and dict(each.debt)[each.stable_debt[0].reserve_id] for each in positions)
    await desk.open()
    await assert_plans_come_true(desk, reader, random.Random(6))


@pytest.mark.timeout(200)
async def test_a_category_with_a_price_of_its_own_is_valued_and_liquidated_to_the_unit(old_desk: AaveDesk):
    desk = old_desk
    reader = await discovered(desk)
    define = "setEModeCategory(uint8,uint16,uint16,uint16,address,string)"
    weth = desk.market.reserves["WETH"].token
    await desk.configure(define, 1, 9_300, 9_500, 10_100, weth, "priced as WETH")
    assert reader.touched(await desk.logs(reader.head_filter, await desk.chain.block_number())).is_market_changed
    await desk.pass_time(HOUR_S)
    await desk.market.set_prices({"WETH": 2_800 * 10**8, "wstETH": 3_500 * 10**8})
    positions = await assert_health_is_the_chains(desk, reader, ACCOUNTS)
    assert sum(each.category == 1 for each in positions) >= 10
    await desk.open()
    await assert_plans_come_true(desk, reader, random.Random(7))
