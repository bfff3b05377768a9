"""One pass at one head, on a model chain: nothing is lost, nothing is decided twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from keeper.domain.chain import BlockHead, Moment
from keeper.domain.mode import Mode
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.ports import Market
from keeper.domain.position import Action, PositionKey
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Base, Column, PositionId
from keeper.engine.plan import Policy
from keeper.errors import KeeperError, Stale, Transient
from keeper.passes import Pass
from keeper.scanner import ParityPolicy, Scanner
from tests.toy import (
    ANNEX,
    CASH,
    DEBT,
    GOLD,
    POOL,
    RECEIPT,
    ChainReader,
    ToyChain,
    ToyPosition,
    account,
    address,
    toy_market,
)

OBSERVING = Policy(Mode.OBSERVE, Base(1), Base(10**16), 10, None)
SIGNER = address(77)
LIVE = Policy(Mode.LIVE, Base(1), Base(10**16), 10, SIGNER)
NEVER = ParityPolicy(0, 5)
SAFE, RISKY = (100, 5_000), (100, 9_000)
FAILURES = [Transient("down"), Stale("gone")]


class Stopwatch:
    """A clock that advances with every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic_s(self) -> float:
        self.now += 1
        return self.now

    def unix_s(self) -> float:
        return self.now


class World:
    """A model chain with a scanner on it."""

    def __init__(
        self,
        *,
        policy: Policy = OBSERVING,
        parity: ParityPolicy = NEVER,
        depth: int = 8,
        census: Callable[[Market, BlockHead], Awaitable[set[PositionId]]] | None = None,
        others: tuple[str, ...] = (),
    ) -> None:
        self.chain = ToyChain(depth=depth)
        self.reader = ChainReader(chain=self.chain)
        self.others = [ChainReader(market=name, chain=self.chain) for name in others]
        markets = [toy_market(each) for each in (self.reader, *self.others)]
        self.scanner = Scanner(
            markets, self.chain, policy=policy, parity=parity, clock=Stopwatch(), landing_s=12, census=census
        )

    async def start(self, *known: PositionId) -> None:
        await self.scanner.discover(self.chain.head)
        await self.scanner.load(self.chain.head, {"toy": known})

    async def scan(self) -> Pass:
        self.reader.read.clear()
        return await self.scanner.make_pass(self.chain.head)

    async def mine(self, *changed: ToyPosition, price_base: int | None = None) -> Pass:
        self.chain.mine(*changed, price_base=price_base)
        return await self.scan()

    async def fail(self, error: KeeperError, where: str = "reads") -> None:
        self.chain.fail(where, error)
        with pytest.raises(type(error)):
            await self.scanner.make_pass(self.chain.head)
        self.chain.failures.clear()

    async def census(self, head: BlockHead) -> set[PositionId]:
        return self.chain.borrowers(head)

    @property
    def book(self) -> dict[PositionId, ToyPosition]:
        return dict(self.scanner.books["toy"].book.positions)

    @property
    def truth(self) -> dict[PositionId, ToyPosition]:
        return {each: held for each, held in self.chain.blocks[-1].state.items() if held.has_debt}


def position(number: int, size: tuple[int, int]) -> ToyPosition:
    return ToyPosition(account(number), *size)


async def started(*held: ToyPosition, **options: object) -> World:
    world = World(**options)  # type: ignore[arg-type]
    world.chain.mine(*held)
    await world.start(*(each.id for each in held))
    return world


async def test_only_touched_accounts_are_read_again() -> None:
    world = await started(position(1, SAFE), position(2, SAFE), position(3, SAFE))
    done = await world.mine(position(2, (90, 5_000)))
    assert world.reader.read == [[account(2)]]
    assert (done.markets[0].touched, done.markets[0].scan.screened) == (1, 3)
    assert world.book == world.truth


async def test_a_quiet_head_reads_no_position() -> None:
    world = await started(position(1, SAFE))
    await world.mine()
    assert world.reader.read == []


async def test_a_log_about_an_account_that_owes_nothing_is_no_work() -> None:
    world = await started(position(1, SAFE))
    await world.mine(position(9, (50, 0)))
    assert world.reader.read == []


async def test_a_new_borrower_enters_the_book_and_is_named() -> None:
    world = await started(position(1, SAFE))
    done = await world.mine(position(2, SAFE))
    assert done.markets[0].new_positions == {account(2)}
    assert account(2) in world.book
    assert (await world.mine(position(2, RISKY))).markets[0].new_positions == frozenset()


async def test_an_account_without_debt_leaves_the_book() -> None:
    world = await started(position(1, SAFE), position(2, SAFE))
    done = await world.mine(position(1, (100, 0)))
    assert list(world.book) == [account(2)]
    assert done.markets[0].scan.screened == 1


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("where", ["extend", "logs", "reads"])
async def test_a_failed_pass_loses_nothing(error: KeeperError, where: str) -> None:
    world = await started(position(1, SAFE), position(2, SAFE))
    world.chain.mine(position(1, (80, 5_000)), position(3, SAFE))
    await world.fail(error, where)
    done = await world.mine(position(2, (70, 5_000)))
    assert world.reader.read == [[account(1), account(2), account(3)]]
    assert world.book == world.truth
    assert done.markets[0].new_positions == {account(3)}


async def test_a_liquidation_seen_by_a_failed_pass_is_reported_by_the_next_one() -> None:
    world = await started(position(1, RISKY))
    world.chain.mine(position(1, SAFE), taken=[account(1)])
    await world.fail(Transient("down"))
    done = await world.mine()
    assert [each.key for each in done.markets[0].taken] == [PositionKey("toy", account(1))]
    assert (await world.mine()).markets[0].taken == ()


async def test_the_accounts_of_orphaned_blocks_are_read_again() -> None:
    world = await started(position(1, SAFE), position(2, SAFE))
    await world.mine(position(1, RISKY))
    world.chain.drop(1)
    done = await world.mine()
    assert world.reader.read == [[account(1)]]
    assert len(done.extension.orphaned) == 1
    assert world.book == world.truth


async def test_a_market_that_an_orphaned_block_had_changed_is_discovered_anew() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(gold_column=Column(7))
    await world.mine()
    world.chain.drop(2)
    done = await world.mine()
    assert done.markets[0].is_rediscovered
    assert world.reader.read[-1] == [account(1)]
    assert world.book == world.truth


async def test_who_left_through_a_contract_that_nobody_knew_comes_back_when_its_block_is_orphaned() -> None:
    world = await started(position(1, RISKY))
    world.chain.mine(position(1, (100, 0)), at=ANNEX, annex=True)
    await world.scan()
    assert world.book == {}
    world.chain.drop(1)
    await world.mine()
    assert world.book == world.truth != {}


async def test_an_account_that_left_the_book_in_an_orphaned_block_comes_back() -> None:
    world = await started(position(1, RISKY))
    await world.mine(position(1, (100, 0)))
    assert world.book == {}
    world.chain.drop(1)
    done = await world.mine()
    assert world.book == world.truth != {}
    assert len(done.candidates) == 1


@pytest.mark.parametrize("is_one_pass", [True, False])
async def test_a_borrower_who_repays_before_it_was_read_comes_back_when_the_repayment_is_orphaned(
    is_one_pass: bool,
) -> None:
    world = await started()
    world.chain.mine(position(1, RISKY))
    if not is_one_pass:
        await world.fail(Transient("down"))
    await world.mine(position(1, (100, 0)))
    assert world.book == {}
    world.chain.drop(1)
    await world.mine()
    assert world.book == world.truth != {}


async def test_a_reorganisation_during_a_failure_loses_nothing() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(position(1, RISKY), position(2, SAFE))
    await world.fail(Transient("down"))
    world.chain.drop(1)
    await world.mine()
    assert world.reader.read == [[account(1), account(2)]]
    assert world.book == world.truth


async def test_blocks_between_loading_and_the_first_pass_are_followed() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(position(2, RISKY))
    world.chain.mine()
    done = await world.mine()
    assert (len(done.extension.new), world.book) == (3, world.truth)


async def test_a_gap_is_closed_with_its_logs() -> None:
    world = await started(position(1, SAFE), depth=3)
    world.chain.mine(position(2, SAFE))
    for number in range(3, 20):
        world.chain.mine(position(number, SAFE))
    done = await world.mine(position(1, (100, 0)))
    assert done.extension.is_gap
    assert world.book == world.truth
    assert len(done.markets[0].new_positions) == 18


async def test_blocks_of_a_gap_can_be_orphaned_after_it() -> None:
    world = World(depth=3, census=lambda _market, head: world.census(head))
    world.chain.mine(position(50, RISKY))
    await world.start(account(50))
    for number in range(1, 30):
        world.chain.mine(position(number, SAFE))
    world.chain.mine(position(50, (100, 0)))
    await world.mine()
    assert account(50) not in world.book
    world.chain.drop(3)
    world.chain.mine(position(51, SAFE))
    world.chain.mine()
    assert (await world.scan()).extension.is_rebuild
    assert world.book == world.truth
    assert {account(50), account(51)} <= world.book.keys()


async def test_a_reorganisation_too_deep_to_follow_reads_everybody_again() -> None:
    world = World(depth=3, census=lambda _market, head: world.census(head))
    world.chain.mine(position(1, SAFE), position(2, SAFE))
    await world.start(account(1), account(2))
    for _ in range(6):
        await world.mine()
    await world.mine(position(1, (100, 0)))
    world.chain.drop(6)
    for _ in range(3):
        world.chain.mine(position(3, RISKY))  # in a block whose logs nobody fetches
    for _ in range(3):
        world.chain.mine()
    discovered = world.reader.discovered
    done = await world.scan()
    assert done.extension.is_rebuild
    assert world.reader.read == [[account(1), account(2), account(3)]]
    assert world.reader.discovered == discovered + 1
    assert world.book == world.truth
    assert account(3) in world.book


async def test_a_census_that_fails_leaves_the_rebuild_to_the_next_pass() -> None:
    answers: list[KeeperError] = [Transient("down")]

    async def census(market: Market, head: BlockHead) -> set[PositionId]:
        if answers:
            raise answers.pop()
        return await world.census(head)

    world = World(depth=3, census=census)
    world.chain.mine(position(1, SAFE))
    await world.start(account(1))
    world.chain.drop(1)
    world.chain.mine(position(2, SAFE))
    world.chain.mine()
    with pytest.raises(Transient):
        await world.scan()
    assert (await world.scan()).extension.is_rebuild
    assert world.book == world.truth


async def test_a_market_change_is_discovered_and_rows_are_written_again() -> None:
    world = await started(position(1, SAFE))
    book = world.scanner.books["toy"].book
    assert book.row(account(1)) == ((Column(0), 100), (DEBT, 5_000))
    before = world.reader.discovered
    world.chain.mine(gold_column=Column(7))
    done = await world.scan()
    assert done.markets[0].is_rediscovered
    assert book.row(account(1)) == ((Column(7), 100), (DEBT, 5_000))
    assert world.reader.discovered == before + 1
    assert not (await world.mine()).markets[0].is_rediscovered


async def test_a_market_change_survives_a_failed_pass() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(gold_column=Column(7))
    await world.fail(Transient("down"))
    assert (await world.mine()).markets[0].is_rediscovered


async def test_what_a_new_contract_moved_before_it_was_known_is_read_too() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(annex=True)
    world.chain.mine(ToyPosition(account(1), 60, 5_000), at=ANNEX)
    await world.scan()
    assert world.scanner.filter.addresses == {POOL, ANNEX}
    assert world.book == world.truth
    world.chain.mine(ToyPosition(account(1), 50, 5_000), at=ANNEX)
    await world.scan()
    assert world.book == world.truth


async def test_a_mismatch_quarantines_exactly_that_account() -> None:
    world = await started(position(1, SAFE), position(2, SAFE), parity=ParityPolicy(1, 5))
    assert (await world.mine()).markets[0].parity_checked == 2
    world.reader.misread[account(1)] = position(1, RISKY)
    done = await world.mine(position(1, SAFE))
    assert [each.id for each in done.markets[0].mismatches] == [account(1)]
    assert done.quarantined == 1
    assert [(each.key.id, each.reason) for each in done.planned.decisions] == [(account(1), Reason.QUARANTINED)]


async def test_a_quarantined_account_is_read_at_each_head_and_let_back_when_it_agrees() -> None:
    world = await started(position(1, SAFE), position(2, SAFE), parity=ParityPolicy(2, 5))
    world.reader.misread[account(1)] = position(1, (100, 5_001))
    await world.mine(position(1, SAFE))
    await world.mine()
    for _ in range(3):
        done = await world.mine()
        assert world.reader.read == [[account(1)]]
        assert account(1) in {each.id for each in done.markets[0].mismatches}
    world.reader.misread.clear()
    done = await world.mine()
    assert done.markets[0].restored == {account(1)}
    assert done.quarantined == 0
    await world.mine()
    assert world.reader.read == []


async def test_a_quarantined_account_is_sent_only_where_the_chain_itself_calls_it_liquidatable() -> None:
    world = await started(position(1, SAFE), parity=ParityPolicy(1, 5), policy=LIVE)
    world.reader.misread[account(1)] = position(1, (100, 9_500))
    done = await world.mine(position(1, SAFE))
    assert done.planned.batch is None
    done = await world.mine(position(1, RISKY))
    assert done.quarantined == 1
    assert done.planned.batch is not None
    assert [each.key.id for each in done.planned.batch.plans] == [account(1)]


async def test_parity_goes_round_and_never_where_it_is_switched_off() -> None:
    world = await started(*(position(number, SAFE) for number in range(1, 6)), parity=ParityPolicy(2, 2))
    for _ in range(6):
        await world.mine()
    assert {each for turn in world.reader.compared for each in turn} == {account(each) for each in range(1, 6)}
    assert [len(turn) for turn in world.reader.compared] == [2, 2, 2]
    silent = await started(position(1, SAFE))
    assert (await silent.mine()).markets[0].parity_checked == 0


async def test_an_impossible_account_is_put_aside_alone_told_once_and_never_lost() -> None:
    world = await started(position(1, SAFE), position(2, SAFE))
    world.reader.impossible.add(account(1))
    done = await world.mine(position(1, RISKY), position(2, RISKY), position(3, SAFE))
    assert done.markets[0].impossible == (account(1),)
    assert (done.quarantined, done.invalid) == (1, {})
    assert [each.id for each in done.candidates] == [account(2)]
    assert account(3) in world.book
    done = await world.mine()
    assert (done.markets[0].impossible, done.quarantined) == ((), 1)
    assert world.reader.read == [[account(1)]]
    world.reader.impossible.clear()
    done = await world.mine()
    assert done.markets[0].restored == {account(1)}
    assert world.book == world.truth
    assert {each.id for each in done.candidates} == {account(1), account(2)}


async def test_a_new_borrower_that_cannot_be_read_enters_as_soon_as_it_can() -> None:
    world = await started()
    world.reader.impossible.add(account(1))
    done = await world.mine(position(1, RISKY))
    assert done.markets[0].new_positions == {account(1)}
    await world.mine()
    world.reader.impossible.clear()
    done = await world.mine()
    assert world.book == world.truth
    assert len(done.candidates) == 1


async def test_what_the_book_holds_of_an_impossible_account_is_never_sent() -> None:
    world = await started(position(1, RISKY), policy=LIVE, parity=ParityPolicy(1, 5))
    world.reader.impossible.add(account(1))
    done = await world.mine(position(1, (100, 8_500)))
    assert done.planned.batch is None
    assert [each.reason for each in done.planned.decisions] == [Reason.QUARANTINED]


async def test_impossible_accounts_share_their_requests() -> None:
    world = await started(*(position(number, SAFE) for number in range(1, 30)))
    world.reader.impossible |= {account(3), account(17)}
    await world.mine(*(position(number, (90, 5_000)) for number in range(1, 30)))
    before = len(world.chain.requests)
    await world.mine()
    assert len(world.chain.requests) == before + 1


async def test_an_impossible_account_does_not_keep_the_keeper_from_starting() -> None:
    world = World()
    world.chain.mine(position(1, SAFE), position(2, SAFE))
    world.reader.impossible.add(account(1))
    await world.start(account(1), account(2))
    done = await world.mine()
    assert done.markets[0].impossible == (account(1),)
    assert list(world.book) == [account(2)]
    world.reader.impossible.clear()
    await world.mine()
    assert world.book == world.truth


async def test_an_impossible_market_stops_no_other_and_owes_its_work() -> None:
    world = World(others=("two",))
    world.chain.mine(position(1, RISKY))
    await world.start(account(1))
    world.reader.is_impossible = True
    done = await world.mine(position(1, (100, 9_500)), position(2, RISKY))
    assert list(done.invalid) == ["toy"]
    assert [each.market.name for each in done.markets] == ["two"]
    assert {each.market for each in done.candidates} == {"two"}
    world.reader.is_impossible = False
    done = await world.mine()
    assert (done.invalid, world.book) == ({}, world.truth)
    assert len(done.candidates) == len(done.planned.decisions) == 4


async def test_new_contracts_make_everybody_be_read_again_also_where_the_pass_that_found_them_fails() -> None:
    world = World()
    world.chain.mine(position(1, SAFE))
    await world.start(account(1))
    world.reader.is_impossible = True
    world.chain.mine(annex=True)
    world.chain.mine(position(1, RISKY), at=ANNEX)  # nobody listened to that contract in this block
    assert list((await world.scan()).invalid) == ["toy"]
    world.reader.is_impossible = False
    await world.scan()
    assert world.book == world.truth


async def test_a_market_whose_logs_make_no_sense_is_read_anew_and_stops_no_other() -> None:
    world = World(others=("two",))
    world.chain.mine(position(1, RISKY))
    await world.start(account(1))
    world.reader.are_logs_impossible = True
    done = await world.mine(position(1, (100, 9_500)))
    assert list(done.invalid) == ["toy"]
    assert {each.market for each in done.candidates} == {"toy", "two"}
    world.reader.are_logs_impossible = False
    done = await world.mine()
    assert (done.invalid, world.book) == ({}, world.truth)


async def test_a_market_that_is_impossible_at_the_start_is_filled_by_the_passes() -> None:
    world = World()
    world.chain.mine(position(1, SAFE))
    world.reader.is_impossible = True
    await world.start(account(1))
    assert world.scanner.snapshot("toy") is None
    assert list((await world.mine()).invalid) == ["toy"]
    world.reader.is_impossible = False
    await world.mine()
    assert world.book == world.truth


async def test_every_candidate_has_one_decision_or_one_plan() -> None:
    held = [position(number, (100, 8_001 + 20 * number)) for number in range(1, 40)]
    world = await started(*held, policy=LIVE)
    done = await world.mine()
    plans = [each.key for each in done.planned.batch.plans] if done.planned.batch else []
    decided = [each.key for each in done.planned.decisions]
    assert sorted([*plans, *decided]) == sorted(done.candidates)
    assert len(plans) == LIVE.max_plans


async def test_a_planned_account_is_locked_until_its_outcome_and_read_again_after_it() -> None:
    world = await started(position(1, RISKY), policy=LIVE)
    done = await world.mine()
    assert done.planned.batch is not None
    plan = done.planned.batch.plans[0]
    done = await world.mine()
    assert [each.reason for each in done.planned.decisions] == [Reason.IN_FLIGHT]
    world.scanner.settle(Outcome(plan.id, plan.key, Result.WON, None, "", done.head.number))
    done = await world.mine()
    assert world.reader.read == [[account(1)]]
    assert done.planned.batch is not None


async def test_an_outcome_in_a_market_that_was_taken_out_only_frees_its_account() -> None:
    world = await started()
    key = PositionKey("gone", account(1))
    world.scanner.limits.lock(key, "recovered")
    world.scanner.settle(Outcome("plan", key, Result.REVERTED, Reason.REVERTED, "", 1))
    assert not world.scanner.limits.is_locked(key)


async def test_positions_are_judged_at_the_moment_of_landing() -> None:
    world = await started(position(1, RISKY), policy=LIVE)
    done = await world.mine()
    assert done.planned.batch is not None
    assert done.planned.batch.plans[0].opportunity.at == Moment(done.head.number + 1, done.head.timestamp_s + 12)


PART = PositionId(ZERO_ADDRESS + b"a part")


async def test_what_is_known_from_before_is_recalled_before_the_market_is_discovered_at_load() -> None:
    world = World()
    world.chain.mine(position(1, SAFE))
    await world.start(account(1), PART)
    assert world.reader.known_at_discovery == [frozenset(), {account(1), PART}]
    assert world.reader.read == [[account(1), PART]]
    assert list(world.book) == [account(1)]


async def test_what_logs_name_is_recalled_before_the_market_is_discovered_anew() -> None:
    world = await started(position(1, SAFE))
    world.chain.mine(position(2, SAFE))
    await world.scan()
    assert world.reader.recalled == {account(1), account(2)}
    world.chain.mine(position(3, SAFE), annex=True)
    done = await world.scan()
    assert done.markets[0].is_rediscovered
    assert world.reader.known_at_discovery[-1] == {account(1), account(2), account(3)}


async def test_what_a_census_finds_is_recalled_before_the_market_is_discovered_anew() -> None:
    census: list[Callable[[Market, BlockHead], Awaitable[set[PositionId]]]] = []

    async def ask(market: Market, head: BlockHead) -> set[PositionId]:
        return await census[0](market, head) | {PART}

    world = World(depth=2, census=ask)
    census.append(lambda _, head: world.census(head))
    await world.start()
    for _ in range(4):
        await world.mine()
    world.chain.drop(4)
    world.chain.mine(position(4, SAFE))
    for _ in range(4):
        world.chain.mine()
    done = await world.scan()
    assert done.markets[0].is_rediscovered
    assert world.reader.known_at_discovery[-1] == {account(4), PART}
    assert world.book == world.truth


async def test_a_part_of_a_market_that_a_log_names_is_handed_on_and_is_no_position() -> None:
    world = await started(position(1, SAFE))
    done = await world.mine(ToyPosition(PART, 0, 1))
    assert done.markets[0].new_positions == {PART}
    assert PART in world.reader.recalled
    assert list(world.book) == [account(1)]
    world.chain.mine()
    await world.scan()
    assert world.reader.read == []


async def test_an_accounts_positions_in_one_market_are_kept_apart() -> None:
    first, second = (PositionId(account(1) + bytes([each])) for each in (1, 2))
    world = await started(ToyPosition(first, *RISKY), ToyPosition(second, *RISKY), position(1, SAFE), policy=LIVE)
    done = await world.mine()
    assert set(world.book) == {account(1), first, second}
    assert [each.key.id for each in done.planned.batch.plans] == [first, second]  # type: ignore[union-attr]
    assert {each.account for each in done.candidates} == {address(1)}
    assert [each.part for each in sorted(done.candidates)] == [b"\x01", b"\x02"]
    assert len({each.id for each in done.planned.batch.plans}) == 2  # type: ignore[union-attr]
    failed, _ = done.planned.batch.plans  # type: ignore[union-attr]
    reverted = Outcome(failed.id, failed.key, Result.REVERTED, Reason.REVERTED, "", done.head.number)
    world.scanner.settle(replace(reverted, opportunity=failed.opportunity))
    done = await world.mine()
    assert world.reader.read == [[first]]
    assert {each.key.id: each.reason for each in done.planned.decisions} == {
        first: Reason.COOLING_DOWN,
        second: Reason.IN_FLIGHT,
    }


async def test_proceeds_are_settled_until_the_outcome_frees_the_chore() -> None:
    world = await started(policy=LIVE)
    world.reader.proceeds = (RECEIPT,)
    await world.mine()
    world.chain.funds[RECEIPT.address] = 50
    done = await world.mine()
    assert done.inventory is not None
    assert done.inventory.balances[RECEIPT.address] == 50
    assert (done.candidates, done.planned.decisions) == ({}, ())
    assert done.planned.batch is not None
    (plan,) = done.planned.batch.plans
    assert plan.opportunity.action is Action.SETTLE
    assert plan.opportunity.at == done.head.landing(12)
    assert (await world.mine()).planned.batch is None
    world.scanner.settle(Outcome(plan.id, plan.key, Result.WON, None, "", done.head.number))
    assert (await world.mine()).planned.batch is not None


async def test_nothing_is_settled_without_a_signer_or_by_watching() -> None:
    for policy in (OBSERVING, replace(OBSERVING, signer=SIGNER), replace(LIVE, mode=Mode.SHADOW)):
        world = await started(policy=policy)
        world.reader.proceeds = (RECEIPT,)
        world.chain.funds[RECEIPT.address] = 50
        await world.mine()
        assert (await world.mine()).planned.batch is None


async def test_a_pass_makes_one_request_whatever_it_reads() -> None:
    world = World(others=("two", "three"), policy=LIVE, parity=ParityPolicy(1, 5))
    world.chain.mine(position(1, SAFE))
    await world.start(account(1))
    before = len(world.chain.requests)
    await world.mine(position(1, RISKY), position(2, SAFE))
    assert len(world.chain.requests) == before + 1
    assert {call.to for call in world.chain.requests[-1][1]} >= {POOL, CASH.address, SIGNER}


async def test_the_inventory_is_read_with_everything_else() -> None:
    world = await started(position(1, RISKY), policy=LIVE)
    world.chain.funds[CASH.address] = 2_000
    done = await world.mine()
    assert done.inventory is not None
    assert done.inventory.balances == {CASH.address: 2_000, NATIVE: 10**18}
    assert done.planned.batch is not None
    assert done.planned.batch.plans[0].opportunity.repay_amount == 2_000
    assert GOLD.address not in done.inventory.balances


async def test_where_one_market_cannot_be_read_no_other_read_goes_on_alone() -> None:
    world = await started(position(1, SAFE))
    hanging = asyncio.Event()

    async def hang(*_: object) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            hanging.set()

    world.reader.chain_health = hang  # type: ignore[method-assign,assignment]
    await world.fail(Transient("down"))
    assert hanging.is_set()


async def test_the_stages_of_a_pass_are_timed() -> None:
    world = await started()
    done = await world.mine()
    assert done.stages_s == {"logs": 1, "read": 1, "scan": 1, "plan": 1}


async def test_a_failure_of_long_ago_is_forgotten_when_the_account_recovered() -> None:
    world = await started(position(1, RISKY), policy=LIVE)
    done = await world.mine()
    key = PositionKey("toy", account(1))
    world.scanner.settle(Outcome("plan", key, Result.REVERTED, Reason.REVERTED, "", done.head.number))
    await world.mine()
    assert len(world.scanner.limits._cool) == 1
    world.scanner.limits.sweep(done.head.number + 4 + 256, {key})
    assert len(world.scanner.limits._cool) == 1
    world.scanner.limits.sweep(done.head.number + 4 + 256, set())
    assert len(world.scanner.limits._cool) == 0
