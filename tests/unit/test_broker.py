"""What is on offer at a head: looked for once, read when it changed, and left out when it says nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed

import pytest

from keeper.broker import Broker, Scales, Stall, TradePolicy
from keeper.domain.abi import number_word
from keeper.domain.chain import BlockHead, Call, Log, LogFilter, ViewCall, ViewResult
from keeper.domain.exchange import Lender, Pool, Swapped, Want
from keeper.domain.outcome import Reason
from keeper.domain.ports import Reads
from keeper.domain.program import Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, Address, TokenAmount, Wei
from keeper.engine.scan import Candidate
from keeper.errors import KeeperError, Stale, Transient
from tests.toy import CASH, GOLD, POOL, ToyPosition, ToyPrograms, ToySnapshot, account, address, head, toy_market

ORACLE = address(0xFEE)
EXECUTOR = address(0xE)
BASE, WRAPPED = address(0xB), address(0xC)
POLICY = TradePolicy(5_000, 50, 300, 25, 60)


@dataclass(frozen=True, slots=True)
class Rate:
    """A pool that gives two for one."""

    takes_exactly = False

    give: Address
    take: Address
    venue: str = "rate"

    @property
    def id(self) -> bytes:
        return self.give + self.take

    @property
    def lock(self) -> bytes:
        return self.id

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        return ((self.give, self.take),)

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        return Swapped(TokenAmount(2 * amount), 100_000, self) if (give, take) == (self.give, self.take) else None

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        return Step(StepKind.SWAP_UNISWAP_V3, POOL, give, take, amount, least)


@dataclass
class Shelf:
    """A venue that notes what it is asked."""

    name: str = "shelf"
    failures: list[KeeperError] = field(default_factory=list)
    searched: list[frozenset[tuple[Address, Address]]] = field(default_factory=list)
    followed: list[Sequence[Log]] = field(default_factory=list)
    distrusts: int = 0

    @property
    def head_filter(self) -> LogFilter:
        return LogFilter(frozenset({POOL}), frozenset({bytes(32)}))

    def _refuse(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    async def discover(self, reads: Reads, pairs: Collection[tuple[Address, Address]]) -> None:
        self._refuse()
        self.searched.append(frozenset(pairs))

    def follow(self, logs: Iterable[Log]) -> None:
        self.followed.append(tuple(logs))

    def distrust(self) -> None:
        self.distrusts += 1

    async def pools(self, reads: Reads) -> Sequence[Pool]:
        self._refuse()
        return (Rate(GOLD.address, CASH.address, self.name),)


@dataclass
class Counter:
    """A venue that has to be asked, and notes for what."""

    name: str = "counter"
    failures: list[KeeperError] = field(default_factory=list)
    wanted: list[Sequence[Want]] = field(default_factory=list)
    offers: tuple[Pool, ...] = ()
    is_closed: bool = False

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        if self.failures:
            raise self.failures.pop(0)
        self.wanted.append(wanted)
        return self.offers

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class Silent:
    """A lender that never answers."""

    name: str = "silent"

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        raise Transient("no answer")


@dataclass(frozen=True, slots=True)
class Machine:
    """An executor that runs nothing."""

    address: Address = EXECUTOR
    selectors: frozenset[bytes] = frozenset({b"exec"})

    def call(self, program: Program) -> Call:
        return Call(self.address, b"exec")

    def profits(self, logs: Iterable[Log]) -> Mapping[Address, TokenAmount]:
        return {}

    def decode_revert(self, data: bytes) -> tuple[Reason, str] | None:
        return None


@dataclass
class Answers:
    """Reads that answer every question with the same number."""

    head: BlockHead = field(default_factory=head)
    value: int = 7
    asked: list[ViewCall] = field(default_factory=list)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.asked += calls
        return [ViewResult(True, number_word(self.value)) for _ in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)


def broker(
    *venues: Shelf,
    policy: TradePolicy = POLICY,
    quoters: Sequence[Counter] = (),
    silent: bool = False,
    bases: Sequence[Address] = (BASE,),
) -> Broker:
    return Broker(
        executor=Machine(),
        venues=venues,
        quoters=quoters,
        lenders=[Silent()] if silent else [],
        bases=bases,
        wrapped_native=WRAPPED,
        policy=policy,
    )


def both(one: Address, other: Address) -> tuple[Address, Address]:
    return min(one, other), max(one, other)


def gold_candidate(gold: int = 90) -> Candidate:
    """Return a position of the toy protocol, whose collateral has to be sold for cash."""
    market, snapshot = changed(toy_market(), programs=ToyPrograms()), ToySnapshot(head())
    position = ToyPosition(account(1), gold, 9_000)
    return Candidate(market, snapshot, position, market.rules.assess(position, snapshot, head().landing(12), None))


async def test_pools_are_looked_for_once_and_again_for_a_token_that_is_new() -> None:
    shelf = Shelf()
    desk = broker(shelf)
    for tokens in ({GOLD.address}, {GOLD.address}, {CASH.address}):
        await desk.read(Answers(), tokens)
    first, later = shelf.searched
    assert first == {both(GOLD.address, BASE), both(GOLD.address, WRAPPED), both(BASE, WRAPPED)}
    assert later - first == {both(CASH.address, BASE), both(CASH.address, WRAPPED)}


async def test_a_search_that_failed_is_made_again_and_its_venue_named_meanwhile() -> None:
    shelf = Shelf(failures=[Transient("down")])
    desk = broker(shelf)
    stall = await desk.read(Answers(), {GOLD.address})
    assert stall.silent == {"shelf": "down"}
    assert stall.pools == ()
    assert len((await desk.read(Answers(), {GOLD.address})).pools) == 1
    assert len(shelf.searched) == 1


async def test_a_venue_or_lender_that_says_nothing_takes_nothing_from_the_others() -> None:
    dumb = Shelf("dumb", failures=[Transient("one"), Transient("two")])
    stall = await broker(Shelf(), dumb, silent=True).read(Answers(), ())
    assert [each.venue for each in stall.pools] == ["shelf"]
    assert stall.silent == {"dumb": "one", "silent": "no answer"}


async def test_a_block_that_is_gone_ends_the_round() -> None:
    with pytest.raises(Stale):
        await broker(Shelf(failures=[Stale("gone")])).read(Answers(), ())


async def test_logs_are_passed_on_and_an_orphaned_block_has_everything_read_again() -> None:
    shelf = Shelf()
    desk = broker(shelf)
    desk.follow([], is_broken=False)
    assert (len(shelf.followed), shelf.distrusts) == (1, 0)
    desk.follow([], is_broken=True)
    assert (len(shelf.followed), shelf.distrusts) == (2, 1)
    assert desk.filters == [shelf.head_filter]


async def test_who_must_be_asked_is_asked_for_the_most_that_any_candidate_would_sell_and_for_nobody_otherwise() -> None:
    counter = Counter()
    desk = broker(Shelf(), quoters=[counter])
    await desk.trading(Answers(), head(), Stall(), [])
    assert counter.wanted == []
    await desk.trading(Answers(), head(), Stall(), [gold_candidate(80), gold_candidate(90)])
    most = max(gold_candidate(gold).assessment.opportunities[0].seized_amount for gold in (80, 90))
    assert counter.wanted[-1][0] == Want(GOLD.address, CASH.address, most)
    assert len(counter.wanted) == 1


async def test_who_must_be_asked_is_asked_for_the_way_over_each_base_too() -> None:
    counter, desk_token = Counter(), address(0xD)
    desk = broker(Shelf(), quoters=[counter], bases=[CASH.address, desk_token])
    await desk.trading(Answers(), head(), Stall(), [gold_candidate(90)])
    (wanted,) = counter.wanted
    most = wanted[0].most
    assert set(wanted[1:]) == {
        Want(GOLD.address, desk_token, most, is_hop=True),
        Want(GOLD.address, WRAPPED, most, is_hop=True),
    }  # nothing tells what gold is worth in either, so the second halves are not asked for


async def test_what_a_share_is_turned_into_is_asked_for_in_a_second_round() -> None:
    asset = address(0xA55E7)
    counter = Counter(offers=(Rate(GOLD.address, asset),))
    desk = broker(Shelf(), quoters=[counter])
    await desk.trading(Answers(), head(), Stall(), [gold_candidate(90)])
    first, second = counter.wanted
    assert second[0] == Want(asset, CASH.address, TokenAmount(2 * first[0].most))


async def test_a_token_that_only_a_quote_brings_up_has_pools_looked_for() -> None:
    share, shelf = address(0x5A), Shelf()
    desk = broker(shelf, quoters=[Counter(offers=(Rate(GOLD.address, share),))])
    stall = await desk.read(Answers(), {GOLD.address, CASH.address})
    await desk.trading(Answers(), head(), stall, [gold_candidate()])
    assert both(share, BASE) in shelf.searched[-1]
    assert both(GOLD.address, CASH.address) in shelf.searched[-1]
    await desk.trading(Answers(), head(), stall, [gold_candidate()])
    assert len(shelf.searched) == 2


async def test_a_service_that_does_not_answer_is_named_and_the_others_are_traded_with() -> None:
    counter = Counter(failures=[Transient("busy")])
    desk = broker(Shelf(), quoters=[counter])
    stall = await desk.read(Answers(), {GOLD.address, CASH.address})
    await desk.trading(Answers(), head(), stall, [gold_candidate()])
    assert stall.silent == {"counter": "busy"}


@pytest.mark.parametrize(("last_blocks", "expected"), [(25, 125), (None, MAX_UINT256)])
async def test_a_trade_ends_with_its_block_or_where_contracts_see_other_blocks_with_its_time_alone(
    last_blocks: int | None, expected: int
) -> None:
    trading = await broker(policy=changed(POLICY, last_blocks=last_blocks)).trading(Answers(), head(100), Stall(), [])
    assert trading.last_block == expected
    assert trading.deadline_s == head(100).timestamp_s + 60


async def test_what_a_rollup_takes_for_data_is_asked_where_there_is_somebody_to_ask() -> None:
    reads = Answers()
    assert (await broker().read(reads, ())).data_fee_wei == 0
    assert reads.asked == []
    found = await broker(policy=changed(POLICY, data_fee_oracle=ORACLE)).read(reads, ())
    assert found.data_fee_wei == Wei(7)
    assert [each.to for each in reads.asked] == [ORACLE]


async def test_offers_are_weighed_by_the_prices_of_the_candidates_own_market() -> None:
    scales = Scales()
    assert scales.worth(GOLD.address, CASH.address, TokenAmount(3)) is None
    scales.take([gold_candidate()])
    assert scales.worth(GOLD.address, CASH.address, TokenAmount(3)) == 300
    assert scales.worth(CASH.address, GOLD.address, TokenAmount(399)) == 3
    assert scales.worth(GOLD.address, address(0x99), TokenAmount(3)) is None


async def test_closing_lets_go_of_every_service() -> None:
    counter = Counter()
    await broker(quoters=[counter]).close()
    assert counter.is_closed
