"""The nonce lane as a state machine: whatever the world does, in whatever order, the books and the chain agree."""

import asyncio
import tempfile
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from keeper.chain.phrases import SendVerdict
from keeper.domain.outcome import Result
from keeper.execution.verdicts import Accepted
from keeper.store.outcomes import Outcomes
from keeper.store.records import IntentState, Purpose
from tests.toy import address
from tests.unit.execution.desk import Desk, desk, new_chain, patient
from tests.unit.execution.fake_chain import GWEI, Fuse, Killed, approval, batch_of, plan_of

CONFIRMATIONS = 3
ACCOUNTS = [address(number) for number in range(1, 5)]
POLICY = patient(confirmations=CONFIRMATIONS, stale_after_blocks=8)
REFUSALS = [None, SendVerdict.FEE_TOO_LOW, SendVerdict.INSUFFICIENT_FUNDS, SendVerdict.POOL_FULL]


class LaneMachine(RuleBasedStateMachine):
    """One signer, four accounts, one chain that does what it likes."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()  # a Runner would take away the one that pytest-asyncio has set
        self.chain = new_chain(Path(self.folder.name), *ACCOUNTS)
        self.highest = self.chain.head.number
        self.accepted: set[str] = set()
        self.strangers = 0
        self.fuse = Fuse(0)
        self.open()

    def open(self) -> None:
        """Start a process on the same files; it may die while it recovers, and then another one starts."""
        while True:
            self.place: AbstractAsyncContextManager[Desk] = desk(
                self.chain, policy=POLICY, fuse=self.fuse, recover=False
            )
            self.one = self.loop.run_until_complete(self.place.__aenter__())
            try:
                self.loop.run_until_complete(self.one.sender.recover(self.chain.head))
            except Killed:
                self.bury()
            else:
                return

    def bury(self) -> None:
        self.loop.run_until_complete(self.place.__aexit__(None, None, None))
        self.fuse = Fuse(0)

    def live(self, doing: Any) -> Any:
        """Let the process do something; if it dies, start the next."""
        try:
            return self.loop.run_until_complete(doing)
        except Killed:
            self.bury()
            self.open()
            return ()

    def follow(self) -> None:
        self.highest = max(self.highest, self.chain.head.number)
        self.live(self.one.sender.on_head(self.chain.head, self.chain.blocks[-1].taken))

    @rule(which=st.lists(st.sampled_from(ACCOUNTS), min_size=1, unique=True), is_approved=st.booleans())
    def submit(self, which: list[Any], is_approved: bool) -> None:
        plans = [plan_of(self.chain, each) for each in which]
        batch = batch_of(self.chain, *plans, approvals=[approval()] if is_approved else [])
        for verdict in self.live(self.one.sender.submit(batch)):
            if isinstance(verdict, Accepted):
                self.accepted.add(verdict.plan_id)

    @rule(is_empty=st.booleans())
    def mine(self, is_empty: bool) -> None:
        self.chain.mine(is_empty=is_empty)
        self.follow()

    @rule(which=st.sampled_from(ACCOUNTS), is_empty=st.booleans())
    def rival(self, which: Any, is_empty: bool) -> None:
        self.chain.mine(rivals=[which], is_empty=is_empty)
        self.follow()

    @rule(which=st.sampled_from(ACCOUNTS))
    def borrow_again(self, which: Any) -> None:
        self.chain.state.liquidatable.add(which)

    @rule(fee_gwei=st.sampled_from([1, 10, 30, 90, 400]))
    def set_base_fee(self, fee_gwei: int) -> None:
        self.chain.base_fee = fee_gwei * GWEI

    @rule(count=st.integers(1, 2))
    def use_a_nonce_elsewhere(self, count: int) -> None:
        self.strangers += count
        self.chain.mine(foreign=count, is_empty=True)
        self.follow()

    @rule()
    def drop(self) -> None:
        self.chain.pool.clear()

    @precondition(lambda self: len(self.chain.blocks) > CONFIRMATIONS)
    @rule(depth=st.integers(1, CONFIRMATIONS - 1))
    def reorg(self, depth: int) -> None:
        if self.chain.head.number - depth >= self.highest - CONFIRMATIONS + 1:
            self.chain.reorg(depth)
            self.chain.mine(is_empty=True)
            self.follow()

    @rule(lose=st.booleans(), swallow=st.booleans(), refuse=st.sampled_from(REFUSALS))
    def set_weather(self, lose: bool, swallow: bool, refuse: SendVerdict | None) -> None:
        self.chain.lose, self.chain.swallow, self.chain.refuse = lose, swallow, refuse

    @rule(failing=st.sets(st.sampled_from(["standing", "simulate", "fee_history", "call", "funds"])))
    def set_failing(self, failing: set[str]) -> None:
        self.one.wire.fail = failing

    @rule()
    def die_between(self) -> None:
        self.bury()
        self.open()

    @rule(instants=st.integers(1, 12))
    def die_soon(self, instants: int) -> None:
        self.fuse.at = self.fuse.burnt + instants

    def teardown(self) -> None:
        if not hasattr(self, "one"):
            return
        try:
            self.settle()
            self.loop.run_until_complete(self.check())
        finally:
            self.loop.run_until_complete(self.place.__aexit__(None, None, None))
            self.loop.close()
            self.folder.cleanup()

    def settle(self) -> None:
        """Give the chain good weather until everything has ended."""
        self.chain.lose = self.chain.swallow = False
        self.chain.refuse = None
        self.chain.base_fee = 10 * GWEI
        self.fuse.at = 0
        self.one.wire.fail = set()
        for _ in range(40):
            self.chain.mine()
            self.follow()

    async def check(self) -> None:
        chain, lane = self.chain, self.one.sender._lane
        assert await self.one.journal.open_entries() == ()
        assert self.one.sender.in_flight == frozenset()
        lane.observe(chain.state.nonce)  # an idle lane has not asked
        assert lane.next_nonce == chain.state.nonce, "a gap"
        entries = [entry for nonce in range(chain.state.nonce) for entry in await self.one.journal.entries_at(nonce)]
        final = [entry for entry in entries if entry.intent.state is IntentState.FINAL]
        used = {entry.intent.inclusion.tx_hash for entry in final if entry.intent.inclusion}
        ours = {tx_hash for tx_hash in chain.receipts if any(tx.hash == tx_hash for tx in chain.seen)}
        assert ours <= used, "mined and not in the books"
        assert max(Counter(entry.intent.nonce for entry in final).values(), default=1) == 1
        stored = await Outcomes(self.one.database).latest(10_000)
        plans = Counter(entry.intent.plan_id for entry in final if entry.intent.purpose is Purpose.LIQUIDATION)
        assert Counter(outcome.plan_id for outcome in stored) == plans
        assert self.accepted <= set(plans), "accepted without an outcome"
        won = sum(len([each for each in block.taken if each.liquidator == chain.signer]) for block in chain.blocks)
        assert sum(outcome.result is Result.WON for outcome in stored) == won
        failed = sum(not receipt.succeeded for receipt in chain.receipts.values())
        reverted = sum(outcome.result in {Result.LOST, Result.REVERTED} for outcome in stored)
        assert reverted <= failed


LaneMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
test_n3_the_lane_never_gaps_and_every_plan_ends_once = LaneMachine.TestCase
