"""The rules against the genuine contracts of Venus core 10.3, to the unit, on a local node."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from keeper.domain.abi import address_word, selector, view
from keeper.domain.chain import Log
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Opportunity
from keeper.domain.units import NATIVE, Address, PositionId, TokenAmount
from keeper.engine.screen import Screen
from keeper.errors import Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2 import calls, rules
from keeper.protocols.compound_v2.contracts import CompoundPosition
from keeper.protocols.compound_v2.reader import CompoundReader
from tests.parity.desk import LIQUIDATOR, address, log_of, raw
from tests.parity.venus_desk import LANDING_S, Saved, VenusDesk, build, opened

ACCOUNTS = 320
BLOCKS = 150  # half a day of interest, at the rates of this market
FEW_BLOCKS = 40
CRASH = {"WETH": 1_750, "wstETH": 1_900, "WBTC": 52_000, "LINK": 10.5, "CRV": 0.4, "USDT": 0.88, "DAI": 0.93}
DEBT_CURRENT = selector("borrowBalanceCurrent(address)")
DEPOSIT_CURRENT = selector("balanceOfUnderlying(address)")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return build(tmp_path_factory.mktemp("venus"), ACCOUNTS, 7, (1.02, 1.45))


@pytest.fixture
async def desk(saved: Saved) -> AsyncIterator[VenusDesk]:
    async with opened(saved) as found:
        yield found


async def crash(desk: VenusDesk) -> None:
    await desk.market.set_prices({name: int(price * 10**8) for name, price in CRASH.items()})


async def mismatches(desk: VenusDesk, reader: CompoundReader, positions: Sequence[CompoundPosition]) -> tuple[int, int]:
    """Compare positions that were read at any earlier block; return how many are off, and how many are liquidatable."""
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    chain = await reader.chain_health(reads, [each.id for each in positions])
    ours = [rules.health(each, snapshot, reads.head.moment) for each in positions]
    wrong = [
        (one, other)
        for one, other in zip(ours, chain, strict=True)
        if other is None or replace(one, collateral=(), debt=()) != replace(other, collateral=(), debt=())
    ]
    assert not wrong[:3]
    return len(wrong), sum(each.is_liquidatable for each in ours)


async def test_every_accounts_health_is_the_chains_while_some_markets_are_stale_and_after_a_crash(desk: VenusDesk):
    reader = await desk.discovered()
    _, positions = await desk.book(reader)
    assert len(positions) >= ACCOUNTS
    assert any(each.vai for each in positions)
    assert {each.pool for each in positions} == {0, 1, 2}
    assert (await mismatches(desk, reader, positions))[0] == 0
    await desk.chain.mine(BLOCKS)
    await desk.market.accrue("USDC", "WBTC", "GUSD", "BNB")
    assert (await mismatches(desk, reader, positions))[0] == 0  # what was read long ago is still right
    _, fresh = await desk.book(reader)
    await desk.chain.mine(BLOCKS // 3)
    await desk.market.accrue("DAI", "WETH")
    await crash(desk)
    wrong, liquidatable = await mismatches(desk, reader, fresh)
    assert wrong == 0
    assert liquidatable >= 60


async def test_prices_of_a_dust_token_and_of_a_huge_one_are_valued_alike(desk: VenusDesk):
    reader = await desk.discovered()
    _, positions = await desk.book(reader)
    await desk.chain.mine(50)
    await desk.market.set_prices({"CRV": 3, "WBTC": 4 * 10**16, "LINK": 12_345_678_901})
    assert (await mismatches(desk, reader, positions))[0] == 0


async def test_every_balance_with_interest_is_the_chains(desk: VenusDesk):
    reader = await desk.discovered()
    _, old = await desk.book(reader)
    await desk.chain.mine(FEW_BLOCKS)
    await desk.market.accrue("WETH", "LINK", "USDT")
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    compared = uncertain = 0
    by_id = {each.id: each for each in snapshot.tokens.values()}
    for position in old:
        word = address_word(Address(position.id))
        for entry in position.entries:
            token = by_id[entry.token]
            asked = [view(token.receipt.address, each, word) for each in (DEBT_CURRENT, DEPOSIT_CURRENT)]
            debt, deposit = (int.from_bytes(each.data, "big") for each in await reads.sequence(asked))
            now = token.accrue(reads.head.moment)
            assert deposit == entry.receipts * now.exchange_rate // 10**18
            low = entry.owed(now.borrow_index)
            assert low <= debt <= low + entry.uncertainty(now.borrow_index)
            uncertain += debt != low
            compared += 1
    assert compared >= ACCOUNTS
    assert 0 < uncertain < compared  # the principal is not public


def assert_as_planned(reader: CompoundReader, opportunity: Opportunity, logs: Sequence[Log]) -> None:
    (taken,) = [each for each in reader.liquidations(logs) if each.key == opportunity.key]
    assert (taken.liquidator, taken.action) == (address(LIQUIDATOR), opportunity.action)
    assert (taken.repay_token, taken.seize_token) == (opportunity.repay.address, opportunity.seize.address)
    assert taken.realised.repaid_amount == opportunity.repay_amount
    assert taken.realised.seized_amount == opportunity.seized_amount
    if opportunity.action is Action.LIQUIDATE:
        assert opportunity.key.id in reader.touched(logs).positions


async def rehearse(desk: VenusDesk, reader: CompoundReader, opportunity: Opportunity) -> int:
    (done,) = await desk.rehearse(opportunity.at, [calls.liquidation(opportunity)])
    assert done["status"] == "0x1", (opportunity, calls.decode_revert(raw(done["returnData"])))
    assert_as_planned(reader, opportunity, [log_of(entry) for entry in done["logs"]])
    return int(done["gasUsed"], 16)


async def test_every_planned_liquidation_moves_to_the_unit_what_was_planned(desk: VenusDesk):
    source, reader = random.Random(5), await desk.discovered()
    _, positions = await desk.book(reader)
    await desk.chain.mine(FEW_BLOCKS)
    await desk.market.accrue("USDC", "CRV")
    await crash(desk)
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    whole, cut, gas, tokens = 0, 0, [0], set[str]()
    for position in positions:
        assessment = rules.assess(position, snapshot, reads.head.landing(LANDING_S), None)
        assert assessment.blocked is (None if assessment.opportunities else Reason.NOT_LIQUIDATABLE)
        for opportunity in dict.fromkeys([*assessment.opportunities[:1], *assessment.opportunities[-1:]]):
            gas.append(await rehearse(desk, reader, opportunity))
            whole += 1
            tokens.add(opportunity.repay.symbol)
            address = opportunity.repay.address
            funds = {address: TokenAmount(int(opportunity.repay_amount * source.uniform(0.02, 1.0)))}
            afforded = rules.assess(position, snapshot, opportunity.at, funds)
            for lesser in afforded.opportunities[:1]:
                assert lesser.repay_limit <= funds[address]
                await rehearse(desk, reader, lesser)
                cut += 1
    assert whole >= 100
    assert cut >= 50
    assert tokens >= {"VAI", "native", "USDC", "GUSD", "WBTC"}
    assert max(gas) < 2 * calls.GAS_ESTIMATE


async def test_liquidations_land_one_after_another_and_what_they_seize_is_redeemed_to_the_wei(desk: VenusDesk):
    reader = await desk.discovered()
    await desk.chain.mine(FEW_BLOCKS)
    await crash(desk)
    landed = 0
    for key in await desk.borrowers(reader):
        reads = await desk.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [key])
        for opportunity in rules.assess(position, snapshot, reads.head.landing(LANDING_S), None).opportunities[:1]:
            receipt = await desk.send(calls.liquidation(opportunity))
            assert receipt["status"] == "0x1", opportunity
            assert_as_planned(reader, opportunity, [log_of(entry) for entry in receipt["logs"]])
            landed += 1
    assert landed >= 50
    _, positions = await desk.book(reader)
    assert (await mismatches(desk, reader, positions))[0] == 0
    redeemed = 0
    for symbol in desk.market.reserves:
        reads = await desk.reads()
        snapshot, receipts = await reader.snapshot(reads), [desk.v_token(symbol)]
        held = {token: TokenAmount(amount) for token, amount in (await desk.balances(receipts)).items()}
        for step in rules.settlements(address(LIQUIDATOR), held, snapshot, reads.head.landing(LANDING_S)):
            paid = await desk.balances([step.seize.address]) if step.seize.address != NATIVE else {}
            receipt = await desk.send(calls.liquidation(step))
            assert receipt["status"] == "0x1", step
            assert_as_planned(reader, step, [log_of(entry) for entry in receipt["logs"]])
            assert 0 < step.seized_base - step.repay_base <= step.seized_base // 100 + 1 or step.seized_base < 100
            for token, before in paid.items():
                assert (await desk.balances([token]))[token] - before == step.seized_amount
            assert (await desk.balances(receipts))[receipts[0]] == held[receipts[0]] - step.repay_amount
            redeemed += 1
    assert redeemed >= 5


async def test_redeeming_takes_no_more_than_the_cash_that_is_there(desk: VenusDesk):
    reader, market, chain = await desk.discovered(), desk.market, desk.chain
    usdc = market.reserves["USDC"]
    async with chain.impersonate(LIQUIDATOR):
        await chain.send(usdc.token, "approve(address,uint256)", usdc.v_token, 10**30, sender=LIQUIDATOR)
        await chain.send(usdc.v_token, "mint(uint256)", 10**13, sender=LIQUIDATOR)
        dai = market.reserves["DAI"]
        await chain.send(dai.token, "approve(address,uint256)", dai.v_token, 10**40, sender=LIQUIDATOR)
        await chain.send(dai.v_token, "mint(uint256)", 5 * 10**26, sender=LIQUIDATOR)
        await chain.send(market.comptroller, "enterMarkets(address[])", [dai.v_token], sender=LIQUIDATOR)
        cash = await chain.call(usdc.v_token, "getCash()(uint256)")
        await chain.send(usdc.v_token, "borrow(uint256)", cash - 5 * 10**11, sender=LIQUIDATOR)
    await chain.rpc("anvil_impersonateAccount", LIQUIDATOR)
    await chain.mine(3)
    reads = await desk.reads()
    held = {desk.v_token("USDC"): TokenAmount((await desk.balances([desk.v_token("USDC")]))[desk.v_token("USDC")])}
    snapshot = await reader.snapshot(reads)
    (step,) = rules.settlements(address(LIQUIDATOR), held, snapshot, reads.head.landing(LANDING_S))
    token = snapshot.tokens[next(each.id for each in snapshot.tokens.values() if each.underlying.symbol == "USDC")]
    assert 49 * 10**10 < step.seized_amount <= token.cash - token.reserves
    assert step.repay_amount < held[desk.v_token("USDC")]
    receipt = await desk.send(calls.liquidation(step))
    assert_as_planned(reader, step, [log_of(entry) for entry in receipt["logs"]])


async def test_the_screen_names_every_account_that_the_chain_calls_liquidatable(desk: VenusDesk):
    reader = await desk.discovered()
    _, positions = await desk.book(reader)
    await desk.chain.mine(FEW_BLOCKS)
    await crash(desk)
    reads = await desk.reads()
    snapshot, screen = await reader.snapshot(reads), Screen()
    rows = {position.id: rules.row(position, snapshot) for position in positions}
    for key, row in rows.items():
        screen.put(key, row)
    columns = {column for row in rows.values() for column, _ in row}
    suspects = set(screen.suspects(rules.weights(snapshot, columns, reads.head.moment)))
    chain = await reader.chain_health(reads, [each.id for each in positions])
    unhealthy = {each.id for each, health in zip(positions, chain, strict=True) if health and health.is_liquidatable}
    assert unhealthy <= suspects
    assert len(suspects) < len(unhealthy) + 6
    assert len(unhealthy) >= 60


async def one(desk: VenusDesk, reader: CompoundReader, wanted: PositionId) -> tuple[Reason | None, list[Opportunity]]:
    reads = await desk.reads()
    snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [wanted])
    found = rules.assess(position, snapshot, reads.head.landing(LANDING_S), None)
    assert (await mismatches(desk, reader, [position]))[0] == 0
    return found.blocked, list(found.opportunities)


async def debtor(desk: VenusDesk, reader: CompoundReader, symbol: str) -> PositionId:
    """Return a healthy account of the core pool that owes one token only, as much as makes sense."""
    snapshot, positions = await desk.book(reader)
    wanted = next(each.id for each in snapshot.tokens.values() if each.underlying.symbol == symbol)
    return next(
        each.id
        for each in positions
        if not each.pool
        and each.vai is None
        and [entry.token for entry in each.entries if entry.debt > 10**6] == [wanted]
        and len([entry for entry in each.entries if entry.receipts]) > 1
    )


async def test_a_healthy_account_whose_debt_is_forced_may_lose_all_of_it(desk: VenusDesk):
    reader = await desk.discovered()
    who = await debtor(desk, reader, "USDC")
    assert (await one(desk, reader, who))[0] is Reason.NOT_LIQUIDATABLE
    begin = await desk.chain.block_number() + 1
    await desk.market.set_forced("USDC", wanted=True, owner="0x" + who.hex())
    assert who in reader.touched(await desk.logs(reader.head_filter, begin)).positions
    blocked, found = await one(desk, reader, who)
    assert blocked is None
    await rehearse(desk, reader, found[0])
    _, positions = await desk.book(reader)
    assert sum(bool(each.forced) for each in positions) == 1
    await desk.market.set_forced("USDC", wanted=False, owner="0x" + who.hex())
    await desk.market.set_forced("USDC", wanted=True)
    blocked, again = await one(desk, reader, who)
    assert blocked is None
    assert [each.repay_amount for each in again] == [each.repay_amount for each in found] or again[0].repay_amount > 0
    await rehearse(desk, reader, again[0])


async def test_paused_and_restricted_accounts_are_refused_by_rules_and_chain_alike(desk: VenusDesk):
    reader = await desk.discovered()
    who = await debtor(desk, reader, "USDC")
    await desk.market.set_forced("USDC", wanted=True)
    _, found = await one(desk, reader, who)
    symbols = {reserve.v_token: symbol for symbol, reserve in desk.market.reserves.items()}
    seized = next(symbol for token, symbol in symbols.items() if address(token) == found[0].seize.address)
    for symbol, action in (("USDC", 5), ("USDC", 3), (seized, 4)):
        await desk.market.set_paused(symbol, action, wanted=True)
        data = await desk.revert_data(calls.liquidation(found[0]))
        assert data is not None
        assert calls.decode_revert(data)[0] is Reason.PAUSED
        blocked, left = await one(desk, reader, who)
        assert (blocked is Reason.PAUSED) if symbol == "USDC" else all(each.seize != found[0].seize for each in left)
        await desk.market.set_paused(symbol, action, wanted=False)
    await desk.chain.send(desk.market.liquidator, "restrictLiquidation(address)", "0x" + who.hex())
    assert (await one(desk, reader, who))[0] is Reason.PAUSED
    assert calls.decode_revert(await desk.revert_data(calls.liquidation(found[0])) or b"")[0] is Reason.PAUSED


async def test_a_healthy_account_is_refused_by_the_chain_too(desk: VenusDesk):
    reader = await desk.discovered()
    who = await debtor(desk, reader, "USDC")
    await desk.market.set_forced("USDC", wanted=True)
    _, found = await one(desk, reader, who)
    await desk.market.set_forced("USDC", wanted=False)
    data = await desk.revert_data(calls.liquidation(found[0]))
    assert calls.decode_revert(data or b"")[0] is Reason.NOT_LIQUIDATABLE


async def test_debt_in_vai_has_to_be_liquidated_first(desk: VenusDesk):
    reader = await desk.discovered()
    await desk.chain.mine(FEW_BLOCKS)
    await crash(desk)
    reads = await desk.reads()
    snapshot, positions = await desk.book(reader)
    assert snapshot.vai is not None
    assert snapshot.vai.first_from == 10**21
    seen = 0
    for position in positions:
        found = rules.assess(position, snapshot, reads.head.landing(LANDING_S), None).opportunities
        owed = 0 if position.vai is None else position.vai.owed(snapshot.vai.index)
        if found and owed >= snapshot.vai.first_from and any(entry.debt for entry in position.entries):
            assert {each.repay.symbol for each in found} == {"VAI"}
            seen += 1
    assert seen >= 1


async def test_what_has_no_price_spoils_only_its_holders(desk: VenusDesk):
    reader = await desk.discovered()
    link, nobody = desk.market.reserves["LINK"], "0x" + "00" * 20
    config = ((link.token, (link.feed, nobody, nobody), (True, False, False), False),)
    await desk.chain.send(desk.market.oracle, "setTokenConfig((address,address[3],bool[3],bool))", *config)
    snapshot, positions = await desk.book(reader)
    reads = await desk.reads()
    bare = {each.id for each in snapshot.tokens.values() if each.price is None}
    assert len(bare) == 1
    chain = await reader.chain_health(reads, [each.id for each in positions])
    for position, theirs in zip(positions, chain, strict=True):
        is_holder = any(entry.token in bare and (entry.receipts or entry.debt) for entry in position.entries)
        assert (theirs is None) is is_holder
        assert (rules.assess(position, snapshot, reads.head.moment, None).blocked is Reason.PRICE_UNKNOWN) is is_holder


async def test_accounts_that_logs_name_are_all_that_has_to_be_read_again(desk: VenusDesk):
    source, market, chain = random.Random(8), desk.market, desk.chain
    reader = await desk.discovered()
    _, positions = await desk.book(reader)
    kept = {each.id: each for each in positions}
    begin = await chain.block_number() + 1
    await chain.auto_impersonate(wanted=True)
    for owner in source.sample(sorted(key for key, each in kept.items() if not each.pool), 20):
        who, reserve = "0x" + owner.hex(), market.reserves[source.choice(["USDC", "WETH", "DAI"])]
        unit = 10**reserve.decimals
        await chain.send(reserve.token, "mint(address,uint256)", who, unit)
        await chain.send(reserve.token, "approve(address,uint256)", reserve.v_token, unit, sender=who)
        await chain.send(reserve.v_token, "mint(uint256)", unit, sender=who)
        match source.randrange(3):
            case 0:
                await chain.send(market.comptroller, "enterMarkets(address[])", [reserve.v_token], sender=who)
            case 1:
                receiver = "0x" + source.choice(sorted(kept)).hex()
                await chain.send(reserve.v_token, "transfer(address,uint256)", receiver, 10**6, sender=who)
            case _:
                await chain.send(reserve.v_token, "borrow(uint256)", unit // 1_000, sender=who)
    await chain.auto_impersonate(wanted=False)
    touched = reader.touched(await desk.logs(reader.head_filter, begin))
    assert not touched.is_market_changed
    reads = await desk.reads()
    again = await reader.positions(reads, sorted(touched.positions & kept.keys()))
    patched = kept | {each.id: each for each in again}
    for fresh in await reader.positions(reads, sorted(kept)):
        held = patched[fresh.id]
        assert [(each.token, each.receipts) for each in held.entries] == [
            (each.token, each.receipts) for each in fresh.entries
        ]
        for old, new in zip(held.entries, fresh.entries, strict=True):
            assert 0 <= new.debt - old.owed(new.index) <= old.uncertainty(new.index)
        assert replace(held, entries=()) == replace(fresh, entries=())
    assert len(touched.positions & kept.keys()) < len(kept) // 2


async def test_a_root_that_is_none_is_refused_with_its_name_and_cure(desk: VenusDesk):
    for root in (desk.v_token("WETH"), address(LIQUIDATOR), desk.token("WETH")):
        with pytest.raises(Unsafe, match=r"comptroller.*chain file"):
            await CompoundReader("venus", root, prices=Prices(desk.token("WETH"))).discover(await desk.reads())
