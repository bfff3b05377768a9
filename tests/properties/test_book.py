"""Whatever happens on the chain and to the node: the book is what a rebuild at the head would give (N5), and every
position that can be liquidated has exactly one decision or one plan (N6)."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from keeper.domain.chain import BlockHead
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import Outcome, Plan
from keeper.domain.ports import Market
from keeper.domain.units import Address, Base, Column, PositionId
from keeper.engine.plan import Policy
from keeper.errors import Stale, Transient
from keeper.passes import Pass
from keeper.scanner import ParityPolicy, Scanner
from tests.toy import (
    ANNEX,
    POOL,
    ChainReader,
    ToyChain,
    ToyPosition,
    ToyRules,
    ToySnapshot,
    account,
    address,
    toy_market,
)

DEPTH = 5
ACCOUNTS = [account(number) for number in range(1, 7)]
accounts = st.sampled_from(ACCOUNTS)
changes = st.dictionaries(accounts, st.tuples(st.integers(0, 3), st.integers(0, 250)), max_size=3)
errors = st.sampled_from([Transient, Stale])


class StoppedClock:
    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return 0.0


class BookMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.chain = ToyChain(depth=DEPTH)
        self.reader = ChainReader(chain=self.chain)
        self.scanner = Scanner(
            [toy_market(self.reader)],
            self.chain,
            policy=Policy(Mode.LIVE, Base(1), Base(10**16), 2, address(77)),
            parity=ParityPolicy(3, 2),
            clock=StoppedClock(),
            landing_s=12,
            census=self.census,
        )
        self.flying: list[Plan] = []

    async def census(self, market: Market, head: BlockHead) -> set[PositionId]:
        return self.chain.borrowers(head)

    @initialize(blocks=st.lists(changes, max_size=4))
    def start(self, blocks: list[dict[PositionId, tuple[int, int]]]) -> None:
        for each in blocks:
            self.mine(each, 100, at=POOL, annex=False, is_redrawn=False)
        head = self.chain.head
        self.runner.run(self.scanner.discover(head))
        self.runner.run(self.scanner.load(head, {"toy": sorted(self.chain.borrowers(head))}))

    @rule(
        changed=changes,
        price=st.integers(60, 140),
        at=st.sampled_from([POOL, ANNEX]),
        annex=st.booleans(),
        is_redrawn=st.booleans(),
    )
    def mine(
        self, changed: dict[PositionId, tuple[int, int]], price: int, *, at: Address, annex: bool, is_redrawn: bool
    ) -> None:
        block = self.chain.blocks[-1]
        borrows = any(size[1] > (held.cash if (held := block.state.get(who)) else 0) for who, size in changed.items())
        known = at in block.contracts or annex
        self.chain.mine(
            *(ToyPosition(who, *size) for who, size in changed.items()),
            price_base=price * 10**8,
            at=at if known and not borrows else POOL,
            annex=annex,
            gold_column=Column(2 + block.head.number % 3) if is_redrawn else None,
        )

    @rule(depth=st.integers(1, 2 * DEPTH), blocks=st.lists(changes, max_size=2 * DEPTH))
    def reorganise(self, depth: int, blocks: list[dict[PositionId, tuple[int, int]]]) -> None:
        self.chain.drop(min(depth, len(self.chain.blocks) - 1))
        self.mine({}, 100, at=POOL, annex=False, is_redrawn=False)
        for each in blocks:
            self.mine(each, 100, at=POOL, annex=False, is_redrawn=False)

    @rule(where=st.sampled_from(["extend", "logs", "reads"]), error=errors)
    def fail(self, where: str, error: type[Transient] | type[Stale]) -> None:
        self.chain.fail(where, error("as asked"))
        with suppress(Transient, Stale):
            self.check(self.runner.run(self.scanner.make_pass(self.chain.head)))
        self.chain.failures.clear()

    @rule(impossible=st.sets(accounts, max_size=2), is_impossible=st.booleans())
    def spoil(self, impossible: set[PositionId], is_impossible: bool) -> None:
        self.reader.impossible, self.reader.is_impossible = impossible, is_impossible

    @rule(misread=st.dictionaries(accounts, st.just((1, 1)), max_size=1))
    def misread_once(self, misread: dict[PositionId, tuple[int, int]]) -> None:
        self.reader.misread = {who: ToyPosition(who, *size) for who, size in misread.items()}
        self.runner.run(self.scanner.make_pass(self.chain.head))
        self.reader.misread = {}
        for desk in self.scanner._desks.values():  # as if the next heads' parity had found them
            desk.pending |= misread.keys()

    @rule(won=st.booleans())
    def land(self, won: bool) -> None:
        for plan in self.flying:
            reason = None if won else Reason.REVERTED
            result = Result.WON if won else Result.REVERTED
            self.scanner.settle(Outcome(plan.id, plan.key, result, reason, "", self.chain.head.number))
        self.flying = []

    @rule()
    def look(self) -> None:
        self.check(self.runner.run(self.scanner.make_pass(self.chain.head)))

    def check(self, done: Pass) -> None:
        block = self.chain.blocks[-1]
        assert done.head == block.head
        self.flying += done.planned.batch.plans if done.planned.batch else ()
        if done.invalid:
            return
        rules, snapshot = ToyRules(), ToySnapshot(block.head, block.price_base, gold_column=block.gold_column)
        unread = self.scanner._desks["toy"].impossible
        assert unread <= self.reader.impossible
        truth = {who: held for who, held in block.state.items() if held.has_debt and who not in unread}
        book = self.scanner.books["toy"].book
        assert {who: held for who, held in book.positions.items() if who not in unread} == truth
        assert all(book.row(who) == rules.row(held, snapshot) for who, held in truth.items())
        liquidatable = {
            who for who, held in truth.items() if rules.health(held, snapshot, block.head.moment).is_liquidatable
        }
        assert {key.id for key in done.candidates if key.id not in unread} == liquidatable
        plans = [each.key for each in done.planned.batch.plans] if done.planned.batch else []
        decided = [each.key for each in done.planned.decisions]
        assert sorted([*plans, *decided]) == sorted(done.candidates)
        assert all(each.decision is Decision.SKIPPED and each.reason for each in done.planned.decisions)
        assert not {each.account for each in plans} & unread

    def teardown(self) -> None:
        self.runner.close()


TestBook = BookMachine.TestCase
TestBook.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("depth", range(1, 12))
def test_a_repayment_that_is_orphaned_at_any_depth_is_undone(depth: int) -> None:
    machine = BookMachine()
    machine.start([{account(1): (1, 200)}])
    for _ in range(3):
        machine.chain.mine()
    machine.chain.mine(ToyPosition(account(1), 1, 0))
    for _ in range(depth - 1):
        machine.chain.mine()
        machine.look()
    machine.look()
    machine.reorganise(depth, [])
    machine.look()
    assert account(1) in machine.scanner.books["toy"].book
    machine.teardown()
