from collections.abc import Sequence
from dataclasses import replace

import pytest
from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import view
from keeper.domain.chain import LogFilter, ViewCall, ViewResult
from keeper.domain.units import RAY, WAD, Address, Base, PositionId
from keeper.errors import Invalid, Stale, Transient, Unsafe
from keeper.protocols.aave_v3 import contracts as aave
from keeper.protocols.aave_v3.contracts import Category, StableDebt
from keeper.protocols.aave_v3.reader import AaveReader
from tests.unit.protocols.aave_v3.fake import (
    A_TOKEN,
    CONFIGURATOR,
    ORACLE,
    ROOT,
    SENTINEL,
    STABLE_TOKEN,
    VARIABLE_TOKEN,
    FakeMarket,
    configuration,
    log,
    text,
    token,
    words,
)
from tests.unit.protocols.aave_v3.market import BORROWER, HELD, NOW_S, POOL, asset, head

OTHER = Address(b"\xc0" * 20)


async def discovered(market: FakeMarket, wrapped_native: Address | None = None) -> AaveReader:
    reader = AaveReader("main", ROOT, wrapped_native)
    await reader.discover(market)
    market.rounds.clear()
    return reader


async def test_a_snapshot_is_one_round_and_carries_its_head():
    market = FakeMarket()
    snapshot = await (await discovered(market, asset(1))).snapshot(market)
    assert len(market.rounds) == 1
    assert snapshot.head == market.head
    assert (snapshot.market, snapshot.revision, snapshot.pool) == ("main", 10, POOL)
    assert (await discovered(market)).market == "main"
    assert [each.price_base for each in snapshot.reserves.values()] == [10**8, 2 * 10**8]
    assert snapshot.native_price_base == Base(2 * 10**8)
    assert [(each.token.address, each.spender) for each in snapshot.payments] == [(asset(0), POOL), (asset(1), POOL)]
    assert snapshot.proceeds == ()
    assert snapshot.targets == {POOL}
    first = snapshot.reserves[0]
    assert (first.threshold_bps, first.bonus_bps, first.fee_bps) == (8_000, 10_500, 1_000)
    assert (first.is_active, first.is_paused) == (True, False)
    assert (first.liquidity_rate_ray, first.borrow_rate_ray) == (10**25, 2 * 10**25)


async def test_flags_come_from_the_configuration():
    market = FakeMarket()
    market.reserve(0, packed=configuration() | 1 << 60)
    market.reserve(1, packed=configuration() & ~(1 << 56))
    snapshot = await (await discovered(market)).snapshot(market)
    assert [each.is_paused for each in snapshot.reserves.values()] == [True, False]
    assert [each.is_active for each in snapshot.reserves.values()] == [True, False]


@pytest.mark.parametrize("price", [0, 2**128, 2**255])
async def test_a_price_that_cannot_be_one_is_unknown_and_spoils_nothing_else(price: int):
    market = FakeMarket()
    market.say(ORACLE, aave.GET_PRICE, price, of=asset(0))
    snapshot = await (await discovered(market, asset(0))).snapshot(market)
    assert [each.price_base for each in snapshot.reserves.values()] == [None, 2 * 10**8]
    assert snapshot.native_price_base is None


async def test_a_reverting_feed_is_an_unknown_price():
    market = FakeMarket()
    market.forget(ORACLE, aave.GET_PRICE, asset(1))
    snapshot = await (await discovered(market)).snapshot(market)
    assert [each.price_base for each in snapshot.reserves.values()] == [10**8, None]


async def test_a_token_that_the_market_does_not_list_gives_no_native_price():
    market = FakeMarket()
    assert (await (await discovered(market, asset(7))).snapshot(market)).native_price_base is None


@pytest.mark.parametrize("revision", [1, 4, 6, 10])
async def test_grace_periods_are_read_where_they_exist(revision: int):
    market = FakeMarket(revision)
    market.say(POOL, aave.GET_GRACE_PERIOD, 12_345, of=asset(0))
    snapshot = await (await discovered(market)).snapshot(market)
    assert snapshot.reserves[0].grace_until_s == (0 if revision == 1 else 12_345)


@pytest.mark.parametrize(
    ("revision", "answer", "is_allowed"), [(10, 1, True), (10, 0, False), (1, None, False), (11, 0, True)]
)
async def test_a_sentinel_allows_only_by_saying_so(revision: int, answer: int | None, is_allowed: bool):
    market = FakeMarket(revision)
    market.say(ROOT, aave.GET_SENTINEL, SENTINEL)
    if answer is not None:
        market.say(SENTINEL, aave.IS_LIQUIDATION_ALLOWED, answer)
    assert (await (await discovered(market)).snapshot(market)).is_liquidation_allowed is is_allowed


async def test_liquid_modes_carry_their_bitmap():
    market = FakeMarket()
    market.list_category(7, 9_300, 0b10)
    snapshot = await (await discovered(market)).snapshot(market)
    assert snapshot.categories == {7: Category(9_300, 10_100, 0b10)}


async def test_old_modes_are_gathered_from_the_reserves_and_may_have_a_price_of_their_own():
    market = FakeMarket(revision=1)
    market.list_category(1, 9_300, 0)
    market.list_category(2, 9_000, 0, source=OTHER)
    market.say(ORACLE, aave.GET_PRICE, 5 * 10**8, of=OTHER)
    market.reserve(0, packed=configuration(category=2))
    snapshot = await (await discovered(market)).snapshot(market)
    assert snapshot.categories == {
        1: Category(9_300, 10_100, 0),
        2: Category(9_000, 10_100, 0b01, has_own_price=True, price_base=Base(5 * 10**8)),
    }
    market.forget(ORACLE, aave.GET_PRICE, OTHER)
    broken = (await (await discovered(market)).snapshot(market)).categories[2]
    assert (broken.has_own_price, broken.price_base) == (True, None)


async def test_a_changed_layout_is_discovered_within_the_snapshot():
    market = FakeMarket()
    reader = await discovered(market)
    market.list_reserves(0, 1, 2)
    market.list_category(1, 9_000, 1)
    snapshot = await reader.snapshot(market)
    assert snapshot.reserves.keys() == {0, 1, 2}
    assert (await reader.snapshot(market)).head == market.head
    market.list_category(1, 9_100, 1)
    assert (await reader.snapshot(market)).categories[1].threshold_bps == 9_100


async def test_an_upgrade_to_unknown_rules_stops_the_keeper():
    market = FakeMarket()
    reader = await discovered(market)
    market.say(POOL, aave.POOL_REVISION, 12)
    with pytest.raises(Unsafe, match="revision 12"):
        await reader.snapshot(market)


class Fickle(FakeMarket):
    """A node that never answers the same question alike."""

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.list_category(9, 9_000 + len(self.rounds), 0)
        return await super().many(calls)


async def test_a_node_that_contradicts_itself_at_one_block_is_stale():
    market = Fickle()
    reader = await discovered(market)
    with pytest.raises(Stale):
        await reader.snapshot(market)


@pytest.mark.parametrize("revision", [0, 5, 12, 100])
async def test_an_unknown_revision_is_refused_with_the_pool_and_a_cure(revision: int):
    market = FakeMarket()
    market.say(POOL, aave.POOL_REVISION, revision)
    with pytest.raises(Unsafe) as refused:
        await AaveReader("main", ROOT, None).discover(market)
    assert all(
        each in str(refused.value) for each in ("main", to_checksum_address(POOL), f"revision {revision}", "update")
    )


@pytest.mark.parametrize(("currency", "unit"), [(1, 10**8), (0, 10**18)])
async def test_a_base_currency_other_than_dollars_is_refused(currency: int, unit: int):
    market = FakeMarket()
    market.say(ORACLE, aave.BASE_CURRENCY, currency)
    market.say(ORACLE, aave.BASE_CURRENCY_UNIT, unit)
    with pytest.raises(Unsafe, match="US dollars"):
        await AaveReader("main", ROOT, None).discover(market)


@pytest.mark.parametrize(
    ("to", "function", "answer"),
    [
        (ROOT, aave.GET_POOL, None),
        (ROOT, aave.GET_POOL, b""),
        (ROOT, aave.GET_POOL, words(0)),
        (ROOT, aave.GET_POOL, words(2**200)),
        (ROOT, aave.GET_ORACLE, words(0)),
        (POOL, aave.POOL_REVISION, None),
        (POOL, aave.ADDRESSES_PROVIDER, words(OTHER)),
        (POOL, aave.GET_RESERVES, words(32, 10**6)),
        (POOL, aave.GET_RESERVES, words(32, 3)),
        (ORACLE, aave.BASE_CURRENCY, None),
    ],
)
async def test_a_root_that_does_not_answer_as_a_provider_is_refused_by_name(
    to: Address, function: bytes, answer: bytes | None
):
    market = FakeMarket()
    market.answers.pop(view(to, function))
    if answer is not None:
        market.answers[view(to, function)] = answer
    with pytest.raises(Unsafe) as refused:
        await AaveReader("main", ROOT, None).discover(market)
    assert all(each in str(refused.value) for each in ("main", to_checksum_address(ROOT), "chain file"))


async def test_a_fork_that_lacks_what_its_revision_has_is_refused():
    market = FakeMarket()
    market.forget(POOL, aave.GET_GRACE_PERIOD, asset(0))
    with pytest.raises(Unsafe, match="T0"):
        await AaveReader("main", ROOT, None).discover(market)


async def test_later_on_an_unreadable_contract_stops_its_market_alone():
    market = FakeMarket()
    reader = await discovered(market)
    market.forget(POOL, aave.GET_RESERVE, asset(0))
    with pytest.raises(Invalid):
        await reader.snapshot(market)
    market.answers.pop(view(ROOT, aave.GET_POOL))
    with pytest.raises(Invalid):
        await reader.snapshot(market)


@pytest.mark.parametrize("change", [{"index": RAY - 1}, {"index": 2**128}, {"updated": NOW_S + 1}])
async def test_a_reserve_that_no_contract_could_hold_is_invalid(change: dict[str, int]):
    market = FakeMarket()
    reader = await discovered(market)
    market.reserve(1, **change)
    with pytest.raises(Invalid, match="T1"):
        await reader.snapshot(market)


async def test_nothing_can_be_asked_before_discovery():
    with pytest.raises(Stale):
        _ = AaveReader("main", ROOT, None).head_filter


@pytest.mark.parametrize(
    ("answer", "symbol"),
    [
        (text(b"USDC.e"), "USDC.e"),
        (text(b"PT-sUSDE-31JUL2025"), "PT-sUSDE-31JUL20"),
        (b"MKR".ljust(32, b"\0"), "MKR"),
        (text("USD₮0".encode()), "0x0000..a000"),
        (text(b""), "0x0000..a000"),
        (text(b"a b"), "0x0000..a000"),
        (text(b"\x1b[31mUSDC"), "0x0000..a000"),
        (text(b"U" * 64), "0x0000..a000"),
        (b"\xff" * 32, "0x0000..a000"),
        (words(32, 2**255), "0x0000..a000"),
        (b"", "0x0000..a000"),
    ],
)
async def test_symbols_are_printable_and_short_whatever_the_token_says(answer: bytes, symbol: str):
    market = FakeMarket()
    market.answers[view(asset(0), abi.SYMBOL)] = answer
    snapshot = await (await discovered(market)).snapshot(market)
    assert snapshot.reserves[0].token.symbol == symbol
    assert symbol.isascii()
    assert len(symbol) <= 16


async def test_a_few_accounts_are_read_in_one_round():
    market = FakeMarket()
    reader = await discovered(market)
    market.account(BORROWER, bits=0b1001, category=7, balances={token(VARIABLE_TOKEN, 0): 5, token(A_TOKEN, 1): 9})
    market.list_category(7, 9_000, 1)
    await reader.discover(market)
    market.rounds.clear()
    (position,) = await reader.positions(market, [HELD])
    assert len(market.rounds) == 1
    assert position.id == HELD
    assert position.category == 7
    assert position.collateral == ((1, 9),)
    assert position.debt == ((0, 5),)
    assert position.has_debt


async def test_many_accounts_are_read_in_two_rounds_and_only_where_their_bitmap_points():
    market = FakeMarket()
    reader = await discovered(market)
    ids = [PositionId(number.to_bytes(20, "big")) for number in range(1_000, 1_300)]
    for number, each in enumerate(ids):
        market.account(Address(each), bits=0b0110 if number % 2 else 0, balances={token(A_TOKEN, 0): number})
    positions = await reader.positions(market, ids)
    assert market.rounds == [600, 300]
    assert [each.id for each in positions] == ids
    assert [each.collateral for each in positions[:2]] == [(), ((0, 1),)]
    assert not positions[1].has_debt


async def test_no_account_is_no_request():
    market = FakeMarket()
    assert await (await discovered(market)).positions(market, []) == []
    assert not market.rounds


async def test_balances_without_a_flag_do_not_count():
    market = FakeMarket()
    reader = await discovered(market)
    market.account(
        BORROWER, bits=0b01, balances={token(A_TOKEN, 0): 7, token(A_TOKEN, 1): 7, token(VARIABLE_TOKEN, 1): 7}
    )
    (position,) = await reader.positions(market, [HELD])
    assert (position.collateral, position.debt) == ((), ((0, 0),))
    assert not position.has_debt


@pytest.mark.parametrize("revision", [1, 4, 6])
async def test_stable_debt_is_read_where_it_can_exist(revision: int):
    market = FakeMarket(revision)
    reader = await discovered(market)
    market.account(BORROWER, bits=0b01)
    for function, value in ((aave.STABLE_PRINCIPAL, 50), (aave.STABLE_RATE, 10**25), (aave.STABLE_UPDATED, NOW_S - 9)):
        market.say(token(STABLE_TOKEN, 0), function, value, of=BORROWER)
    (position,) = await reader.positions(market, [HELD])
    expected = (StableDebt(0, 50, 10**25, NOW_S - 9),) if revision < 6 else ()
    assert position.stable_debt == expected
    assert position.has_debt is bool(expected)


async def test_an_account_in_a_new_reserve_makes_the_reader_discover_it():
    market = FakeMarket()
    reader = await discovered(market)
    market.list_reserves(0, 1, 2)
    market.account(BORROWER, bits=0b10_00_00, balances={token(A_TOKEN, 2): 4})
    (position,) = await reader.positions(market, [HELD])
    assert position.collateral == ((2, 4),)


async def test_a_dropped_reserve_is_looked_for_once_and_then_ignored_as_on_chain():
    market = FakeMarket()
    reader = await discovered(market)
    market.account(BORROWER, bits=0b11_00_00_00)
    for _ in range(2):
        (position,) = await reader.positions(market, [HELD])
        assert (position.collateral, position.debt) == ((), ())
    assert len(market.rounds) == 1 + 4 + 1


async def test_an_impossible_balance_is_invalid_and_so_is_one_that_cannot_be_read():
    market = FakeMarket()
    reader = await discovered(market)
    market.account(BORROWER, bits=0b10, balances={token(A_TOKEN, 0): 2**128})
    with pytest.raises(Invalid, match=BORROWER.hex()):
        await reader.positions(market, [HELD])
    market.forget(token(A_TOKEN, 0), aave.SCALED_BALANCE, BORROWER)
    with pytest.raises(Invalid, match=BORROWER.hex()):
        await reader.positions(market, [HELD])
    market.say(POOL, aave.GET_USER_CATEGORY, 256, of=BORROWER)
    with pytest.raises(Invalid):
        await reader.positions(market, [HELD])


async def test_the_pool_tells_healths_and_what_it_will_not_tell_is_none():
    market = FakeMarket()
    reader = await discovered(market)
    market.say(POOL, aave.GET_USER_HEALTH, 7, 5, 0, 8_000, 7_000, WAD - 1, of=BORROWER)
    told, untold = await reader.chain_health(market, [HELD, PositionId(OTHER)])
    assert told is not None
    assert (told.collateral_base, told.debt_base, told.health_factor_wad, told.is_liquidatable) == (7, 5, WAD - 1, True)
    assert untold is None


async def test_borrows_of_this_pool_name_accounts():
    reader = await discovered(FakeMarket())
    wanted = reader.discovery_filter
    assert wanted == LogFilter(frozenset({POOL}), frozenset({aave.BORROW}))
    borrow = log(POOL, aave.BORROW, asset(0), BORROWER)
    assert reader.named([borrow, replace(borrow, address=OTHER), log(POOL, aave.LIQUIDATION), log(POOL)]) == {HELD}
    with pytest.raises(Invalid):
        reader.named([log(POOL, aave.BORROW, asset(0))])


TOUCHES = [
    (POOL, "Borrow(address,address,address,uint256,uint8,uint256,uint16)", (asset(0), BORROWER, b""), {HELD}),
    (POOL, "Repay(address,address,address,uint256,bool)", (asset(0), BORROWER, OTHER), {HELD}),
    (POOL, "UserEModeSet(address,uint8)", (BORROWER,), {HELD}),
    (POOL, "ReserveUsedAsCollateralEnabled(address,address)", (asset(0), BORROWER), {HELD}),
    (POOL, "ReserveUsedAsCollateralDisabled(address,address)", (asset(0), BORROWER), {HELD}),
    (
        POOL,
        "LiquidationCall(address,address,address,uint256,uint256,address,bool)",
        (asset(0), asset(1), BORROWER),
        {HELD},
    ),
    (token(A_TOKEN, 0), "Mint(address,address,uint256,uint256,uint256)", (OTHER, BORROWER), {HELD}),
    (token(VARIABLE_TOKEN, 1), "Burn(address,address,uint256,uint256,uint256)", (BORROWER, OTHER), {HELD}),
    (
        token(A_TOKEN, 1),
        "BalanceTransfer(address,address,uint256,uint256)",
        (BORROWER, OTHER),
        {HELD, PositionId(OTHER)},
    ),
    (token(A_TOKEN, 9), "Mint(address,address,uint256,uint256,uint256)", (OTHER, BORROWER), set()),
    (OTHER, "Borrow(address,address,address,uint256,uint8,uint256,uint16)", (asset(0), BORROWER, b""), set()),
    (POOL, "ReserveDataUpdated(address,uint256,uint256,uint256,uint256,uint256)", (asset(0),), set()),
]
CHANGES = [
    (CONFIGURATOR, "ReserveInitialized(address,address,address,address,address)"),
    (CONFIGURATOR, "CollateralConfigurationChanged(address,uint256,uint256,uint256)"),
    (CONFIGURATOR, "EModeCategoryAdded(uint8,uint256,uint256,uint256,address,string)"),
    (CONFIGURATOR, "AssetCollateralInEModeChanged(address,uint8,bool)"),
    (CONFIGURATOR, "LiquidationGracePeriodChanged(address,uint40)"),
    (ORACLE, "AssetSourceUpdated(address,address)"),
    (ROOT, "PriceOracleUpdated(address,address)"),
    (ROOT, "PriceOracleSentinelUpdated(address,address)"),
    (POOL, "Upgraded(address)"),
    (token(A_TOKEN, 0), "Upgraded(address)"),
]


@pytest.mark.parametrize(("contract", "event", "topics", "positions"), TOUCHES)
async def test_a_log_names_the_accounts_that_it_changed(
    contract: Address, event: str, topics: tuple[bytes, ...], positions: set[PositionId]
):
    reader = await discovered(FakeMarket())
    touched = reader.touched([log(contract, abi.topic(event), *topics), log(contract)])
    assert touched.positions == positions
    assert not touched.is_market_changed
    if positions:
        assert contract in reader.head_filter.addresses
        assert abi.topic(event) in reader.head_filter.topics


@pytest.mark.parametrize(("contract", "event"), CHANGES)
async def test_a_log_of_an_authority_changes_the_market(contract: Address, event: str):
    reader = await discovered(FakeMarket())
    change = log(contract, abi.topic(event), asset(0), asset(0), asset(0))
    assert reader.touched([change]).is_market_changed
    assert not reader.touched([replace(change, address=OTHER)]).is_market_changed
    assert contract in reader.head_filter.addresses
    assert change.topics[0] in reader.head_filter.topics


async def test_liquidations_are_told_of_this_pool_only_and_whole():
    reader = await discovered(FakeMarket())
    data = words(100, 90, OTHER, 0)
    done = log(POOL, aave.LIQUIDATION, asset(1), asset(0), BORROWER, data=data)
    (taken,) = reader.liquidations([done, replace(done, address=OTHER), log(POOL)])
    assert (taken.key.market, taken.key.id, taken.liquidator) == ("main", HELD, OTHER)
    assert (taken.realised.repaid_amount, taken.realised.seized_amount) == (100, 90)
    assert (taken.repay_token, taken.seize_token, taken.log) == (asset(0), asset(1), done)
    for broken in (replace(done, data=data[:-1]), replace(done, topics=done.topics[:3])):
        with pytest.raises((Invalid, Transient)):
            reader.liquidations([broken])


async def test_a_later_head_is_read_with_the_same_layout():
    market = FakeMarket()
    reader = await discovered(market)
    market.head = head(NOW_S + 12, 101)
    assert (await reader.snapshot(market)).head.number == 101
    assert len(market.rounds) == 1


async def test_prices_carry_the_time_that_their_feed_gives_and_none_where_the_source_is_no_feed():
    market = FakeMarket()
    reader = await discovered(market)
    market.say(ORACLE, aave.GET_PRICE_SOURCE, OTHER, of=asset(0))
    market.say(OTHER, abi.LATEST_ROUND, 7, 10**8, NOW_S - 60, NOW_S - 50, 7)
    market.say(ORACLE, aave.GET_PRICE_SOURCE, SENTINEL, of=asset(1))
    market.forget(ORACLE, aave.GET_PRICE, asset(1))
    ages = await reader.price_ages(market)
    assert [(each.token.symbol, each.price_base, each.updated_s) for each in ages] == [
        ("T0", 10**8, NOW_S - 50),
        ("T1", None, None),
    ]
