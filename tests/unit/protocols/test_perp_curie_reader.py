"""The reader against a table of answers: what is asked, what is told apart, what is refused."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, topic, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.units import ZERO_ADDRESS, Address, BlockHash, PositionId, TxHash
from keeper.errors import Invalid, Stale, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.perp_curie import contracts as perp
from keeper.protocols.perp_curie import rules
from keeper.protocols.perp_curie.reader import PerpReader
from tests.unit.protocols.perp_curie_market import HOUSE, TRADER, USDC, VAULT, WAD, WETH, base_token, head

EXCHANGE, BOOK, ACCOUNTS, FUND, CONFIG, REGISTRY, MANAGER, FEED = (Address(bytes([each]) * 20) for each in range(1, 9))
PRICES = Prices(WETH, feeds={USDC: FEED})
REVERTED = ViewResult(ok=False, data=b"")
ME = address_word(TRADER)


def text(value: bytes) -> bytes:
    return number_word(32) + number_word(len(value)) + value.ljust(32, b"\0")


@dataclass
class FakeHouse:
    """Change `answers` to change the chain; whatever is not in it reverts."""

    head: BlockHead = field(default_factory=head)
    answers: dict[ViewCall, bytes] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        getters = (perp.GET_VAULT, perp.GET_EXCHANGE, perp.GET_ORDER_BOOK, perp.GET_ACCOUNT_BALANCE)
        for function, part in zip(getters, (VAULT, EXCHANGE, BOOK, ACCOUNTS), strict=True):
            self.say(HOUSE, function, part)
        self.say(HOUSE, perp.GET_INSURANCE_FUND, FUND)
        self.say(HOUSE, perp.GET_CONFIG, CONFIG)
        self.say(VAULT, perp.GET_CLEARING_HOUSE, HOUSE)
        self.say(VAULT, perp.GET_SETTLEMENT_TOKEN, USDC)
        self.say(VAULT, perp.GET_COLLATERAL_MANAGER, MANAGER)
        self.say(VAULT, abi.DECIMALS, 6)
        self.say(EXCHANGE, perp.GET_REGISTRY, REGISTRY)
        self.say(HOUSE, perp.IS_PAUSED, 0)
        for function, ratio in (
            (perp.GET_MM_RATIO, 62_500),
            (perp.GET_IM_RATIO, 100_000),
            (perp.GET_PENALTY_RATIO, 25_000),
        ):
            self.say(CONFIG, function, ratio)
        self.say(FUND, perp.GET_CAPACITY, 10**12)
        self.answers[view(USDC, abi.SYMBOL)] = text(b"USDC")
        self.say(FEED, abi.LATEST_ROUND, 1, 10**8, 5, 5, 1)
        self.say(FEED, abi.DECIMALS, 8)
        self.list_market(0)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds.append(len(calls))
        return [ViewResult(ok=True, data=self.answers[each]) if each in self.answers else REVERTED for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        raise AssertionError("nothing that this reader asks changes state")

    def say(self, to: Address, function: bytes, *values: int | Address, of: bytes = b"") -> None:
        words = (address_word(Address(each)) if isinstance(each, bytes) else number_word(each) for each in values)
        self.answers[view(to, function, of)] = b"".join(words)

    def list_market(self, number: int) -> None:
        token = base_token(number)
        self.say(REGISTRY, perp.HAS_POOL, 1, of=address_word(token))
        self.answers[view(token, abi.SYMBOL)] = text(b"v%d" % number)
        self.say(token, abi.DECIMALS, 18)
        for function, said in ((perp.IS_OPEN, 1), (perp.IS_CLOSED, 0), (perp.GET_PAUSED_PRICE, 0)):
            self.say(token, function, said)
        self.say(ACCOUNTS, perp.GET_MARK_PRICE, 140 * WAD, of=address_word(token))
        self.stake(number, 0, 0)

    def stake(self, number: int, size: int, notional: int, *, last: int = 0, pending: int = 0, orders: int = 0) -> None:
        both = ME + address_word(base_token(number))
        self.say(ACCOUNTS, perp.GET_ACCOUNT_INFO, size, notional, last, of=both)
        self.say(BOOK, perp.GET_ORDERS, 32, orders, *range(orders), of=both)
        self.say(EXCHANGE, perp.GET_PENDING_FUNDING, pending, of=both)
        self.say(ACCOUNTS, perp.GET_TOTAL_SIZE, size, of=both)

    def account(self, balance: int, *markets: int) -> None:
        self.say(VAULT, perp.GET_BALANCE, balance, of=ME)
        self.say(ACCOUNTS, perp.GET_PNL, 0, 0, 0, of=ME)
        self.say(ACCOUNTS, perp.GET_BASE_TOKENS, 32, len(markets), *map(base_token, markets), of=ME)
        self.say(VAULT, perp.GET_COLLATERALS, 32, 0, of=ME)


def log(contract: Address, event: bytes, *topics: Address) -> Log:
    return Log(
        address=contract,
        topics=(event, *(address_word(each) for each in topics)),
        data=bytes(32 * 12),
        block_number=100,
        block_hash=BlockHash(bytes(32)),
        index=0,
        tx_hash=TxHash(bytes(32)),
    )


async def discovered(house: FakeHouse, *markets: int) -> PerpReader:
    reader = PerpReader("perp", HOUSE, prices=PRICES)
    reader.recall([PositionId(ZERO_ADDRESS + base_token(each)) for each in markets])
    await reader.discover(house)
    return reader


async def test_before_a_discovery_nothing_is_known():
    with pytest.raises(Stale):
        _ = PerpReader("perp", HOUSE, prices=PRICES).head_filter


async def test_a_vault_that_belongs_to_another_clearing_house_is_refused():
    house = FakeHouse()
    house.say(VAULT, perp.GET_CLEARING_HOUSE, EXCHANGE)
    with pytest.raises(Unsafe, match="another ClearingHouse"):
        await discovered(house)


async def test_logs_name_accounts_and_with_the_zero_address_in_front_markets_and_collaterals():
    reader = await discovered(FakeHouse())
    logs = [
        log(HOUSE, perp.POSITION_CHANGED, TRADER, base_token(0)),
        log(REGISTRY, perp.POOL_ADDED, base_token(3)),
        log(MANAGER, perp.COLLATERAL_ADDED, WETH),
        log(VAULT, perp.POSITION_CHANGED, WETH, base_token(0)),
        log(HOUSE, topic("Paused(address)"), WETH),
    ]
    assert reader.named(logs) == {TRADER, ZERO_ADDRESS + base_token(3), ZERO_ADDRESS + WETH}
    assert {each.address for each in logs[:3]} == reader.discovery_filter.addresses


async def test_logs_touch_whom_they_name_and_other_contracts_nobody():
    reader = await discovered(FakeHouse())
    deposited = topic("Deposited(address,address,uint256)")
    touched = reader.touched([log(VAULT, deposited, USDC, TRADER), log(WETH, deposited, USDC, WETH)])
    assert touched.positions == {PositionId(TRADER)}
    assert not touched.is_market_changed
    assert reader.touched([log(REGISTRY, perp.POOL_ADDED, base_token(3))]).is_market_changed
    assert not reader.touched([log(WETH, perp.POOL_ADDED, base_token(3))]).is_market_changed


async def test_an_account_is_read_in_one_round_and_parts_of_the_market_are_left_out():
    house = FakeHouse()
    house.account(-5, 0)
    house.stake(0, -7 * WAD, 980 * WAD, last=-3)
    reader = await discovered(house, 0)
    house.rounds.clear()
    (found,) = await reader.positions(house, [PositionId(ZERO_ADDRESS + base_token(0)), PositionId(TRADER)])
    assert len(house.rounds) == 1
    assert (found.balance, found.owed, found.orders) == (-5, 0, ())
    assert [(each.base_token, each.size, each.open_notional, each.growth_x96) for each in found.stakes] == [
        (base_token(0), -7 * WAD, 980 * WAD, -3)
    ]


async def test_a_market_that_only_an_account_names_is_discovered():
    house = FakeHouse()
    house.list_market(4)
    house.account(1_000, 4)
    house.stake(4, WAD, -WAD)
    reader = await discovered(house, 0)
    await reader.positions(house, [PositionId(TRADER)])
    snapshot = await reader.snapshot(house)
    assert [each.token.symbol for each in snapshot.perpetuals.values()] == ["v0", "v4"]
    assert [each.id for each in snapshot.perpetuals.values()] == [0, 1]


async def test_a_market_that_the_registry_does_not_know_leaves_its_holder_without_a_price():
    house = FakeHouse()
    house.account(1_000, 9)
    house.say(ACCOUNTS, perp.GET_ACCOUNT_INFO, 1, 1, 1, of=ME + address_word(base_token(9)))
    house.say(BOOK, perp.GET_ORDERS, 32, 0, of=ME + address_word(base_token(9)))
    reader = await discovered(house, 0)
    (found,) = await reader.positions(house, [PositionId(TRADER)])
    snapshot = await reader.snapshot(house)
    assert rules.assess(found, snapshot, house.head.moment, None).blocked is Reason.PRICE_UNKNOWN


async def test_the_funding_growth_comes_with_the_snapshot_in_the_same_round():
    house = FakeHouse()
    house.account(1_000, 0)
    house.stake(0, 10 * WAD, -1_400 * WAD, last=50 * perp.Q96, pending=7 * WAD)
    reader = await discovered(house, 0)
    await reader.positions(house, [PositionId(TRADER)])
    house.rounds.clear()
    snapshot = await reader.snapshot(house)
    assert len(house.rounds) == 2  # the price of the settlement token is asked for at the same time
    growth = snapshot.perpetuals[base_token(0)].growth_x96
    assert growth is not None
    assert growth // perp.Q96 == 50 + 86_400 * 7 // 10


async def test_an_account_whose_profit_cannot_be_told_is_left_to_the_contract():
    house = FakeHouse()
    house.account(1_000, 0)
    house.stake(0, 10 * WAD, -1_400 * WAD)
    del house.answers[view(ACCOUNTS, perp.GET_PNL, ME)]
    reader = await discovered(house, 0)
    (found,) = await reader.positions(house, [PositionId(TRADER)])
    assert (found.owed, found.is_opaque, found.valuation) == (None, True, None)
    house.say(HOUSE, perp.GET_ACCOUNT_VALUE, 5 * WAD, of=ME)
    house.say(ACCOUNTS, perp.GET_REQUIREMENT, 6 * WAD, of=ME)
    snapshot = await reader.snapshot(house)
    assert rules.health(found, snapshot, house.head.moment).is_liquidatable


async def test_a_collateral_balance_below_zero_is_impossible():
    house = FakeHouse()
    house.account(1_000, 0)
    house.say(VAULT, perp.GET_COLLATERALS, 32, 1, WETH, of=ME)
    house.say(VAULT, perp.GET_BALANCE_BY_TOKEN, -1, of=ME + address_word(WETH))
    reader = await discovered(house, 0)
    with pytest.raises(Invalid):
        await reader.positions(house, [PositionId(TRADER)])


async def test_the_contracts_own_figures_are_its_health_and_a_revert_is_none():
    house = FakeHouse()
    house.say(HOUSE, perp.GET_ACCOUNT_VALUE, -5 * WAD, of=ME)
    house.say(ACCOUNTS, perp.GET_REQUIREMENT, 6 * WAD, of=ME)
    reader = await discovered(house, 0)
    mine, other = await reader.chain_health(house, [PositionId(TRADER), PositionId(WETH)])
    assert other is None
    assert mine is not None
    assert (mine.health_factor_wad, mine.collateral_base, mine.debt_base) == (0, 0, 6 * 10**8)
    assert mine.is_liquidatable


async def test_an_insurance_fund_that_does_not_answer_covers_nothing():
    house = FakeHouse()
    del house.answers[view(FUND, perp.GET_CAPACITY)]
    snapshot = await (await discovered(house, 0)).snapshot(house)
    assert snapshot.insurance == 0
    house.say(CONFIG, perp.GET_MM_RATIO, perp.MILLION + 1)
    with pytest.raises(Invalid):
        await (await discovered(house, 0)).snapshot(house)


async def test_a_market_that_does_not_say_whether_it_is_open_has_no_price_and_stops_no_other():
    house = FakeHouse()
    house.list_market(1)
    house.account(1_000 * 10**6, 0)
    house.stake(0, 50 * WAD, -5_000 * WAD)
    reader = await discovered(house, 0, 1)
    for function in (perp.IS_OPEN, perp.IS_CLOSED):
        del house.answers[view(base_token(1), function)]
    await reader.positions(house, [PositionId(TRADER)])
    snapshot = await reader.snapshot(house)
    assert (snapshot.perpetuals[base_token(1)].price, snapshot.perpetuals[base_token(1)].is_open) == (None, False)
    assert snapshot.perpetuals[base_token(0)].price == 140 * WAD


async def test_a_market_whose_funding_reverts_is_not_asked_about_again_through_others_at_every_head():
    house = FakeHouse()
    house.account(1_000 * 10**6, 0)
    house.stake(0, 50 * WAD, -5_000 * WAD)
    reader = await discovered(house, 0)
    await reader.positions(house, [PositionId(TRADER)])
    del house.answers[view(EXCHANGE, perp.GET_PENDING_FUNDING, ME + address_word(base_token(0)))]
    house.rounds.clear()
    assert (await reader.snapshot(house)).perpetuals[base_token(0)].growth_x96 is None
    assert len(house.rounds) == 2  # its own and the prices', which share a request


async def test_an_impossible_account_does_not_stop_the_market_before_anybody_is_known():
    house = FakeHouse()
    house.account(1_000 * 10**6, 0)
    house.say(ACCOUNTS, perp.GET_BASE_TOKENS, 32, 10**6, of=ME)
    reader = await discovered(house, 0)
    reader.recall([PositionId(TRADER)])
    assert (await reader.snapshot(house)).perpetuals.keys() == {base_token(0)}
    with pytest.raises(Invalid):
        await reader.positions(house, [PositionId(TRADER)])
