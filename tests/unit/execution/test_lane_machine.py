"""The nonce lane as a state machine: whatever the world does, in whatever order, the books and the chain agree."""

import asyncio
import sqlite3
import tempfile
from collections import Counter
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keeper.chain.phrases import SendVerdict
from keeper.domain.outcome import Result
from keeper.execution.relay import Word
from keeper.execution.verdicts import Accepted
from keeper.store.faults import PASSING, Fault
from keeper.store.outcomes import Outcomes
from keeper.store.records import IntentState, Purpose
from tests.toy import address
from tests.unit.execution.desk import Desk, FarSigner, Switch, desk, new_chain, patient
from tests.unit.execution.fake_chain import GWEI, Fuse, Killed, approval, batch_of, plan_of
from tests.unit.execution.hidden import HIDDEN, FakeRelays, PublicWire

CONFIRMATIONS = 3
ACCOUNTS = [address(number) for number in range(1, 5)]
POLICY = patient(confirmations=CONFIRMATIONS, stale_after_blocks=8)
REFUSALS = [None, *(each for each in SendVerdict if each not in {SendVerdict.ACCEPTED, SendVerdict.ALREADY_KNOWN})]
UNSOUND = {
    "N2: two open intents at one nonce": """
        select nonce from intent where state in ('live', 'mined') group by nonce having count(*) > 1""",
    "N2: one transaction booked for two intents": """
        select mined_tx from intent where mined_tx is not null group by mined_tx having count(*) > 1""",
    "N11: an attempt that is open where its intent is not, or the other way round": """
        select a.tx_hash from attempt a join intent i on i.id = a.intent_id
        where (a.state in ('signed', 'accepted', 'refused')) != (i.state in ('live', 'mined'))""",
    "N11: an intent is over, and not just one attempt was mined": """
        select i.id from intent i left join attempt a on a.intent_id = i.id and a.state = 'mined' where i.state = 'final'
        group by i.id having count(a.tx_hash) != (i.mined_tx is not null)""",
    "N11: a liquidation that is over without its outcome, or an outcome of one that is not": """
        select i.id from intent i left join outcome o on o.intent_id = i.id
        where (i.state = 'final' and i.purpose = 'liquidation') != (o.intent_id is not null)""",
    "N1: an attempt at another nonce than its intent's": """
        select a.tx_hash from attempt a join intent i on i.id = a.intent_id where a.nonce != i.nonce""",
}
"""What no journal may ever hold."""


class LaneMachine(RuleBasedStateMachine):
    """One signer, four accounts, one chain that does what it likes."""

    @initialize(is_far=st.booleans(), is_hidden=st.booleans())
    def begin(self, is_far: bool, is_hidden: bool) -> None:
        self.is_far, self.is_hidden = is_far, is_hidden
        self.gate = Switch()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()  # a Runner would take away the one that pytest-asyncio has set
        self.chain = new_chain(Path(self.folder.name), *ACCOUNTS)
        self.relays = FakeRelays(self.chain) if is_hidden else None
        self.highest = self.chain.head.number
        self.accepted: set[str] = set()
        self.strangers = 0
        self.fuse = Fuse(0)
        self.open()

    def open(self) -> None:
        """Start a process on the same files; it may die while it recovers, and then another one starts."""
        while True:
            self.far = FarSigner(self.chain.journal, self.fuse) if self.is_far else None
            self.place: AbstractAsyncContextManager[Desk] = desk(
                self.chain,
                policy=POLICY,
                fuse=self.fuse,
                recover=False,
                signatory=self.far,
                gate=self.gate,
                relays=self.relays,
                private=HIDDEN,
                wired=PublicWire,
            )
            if self.relays is not None:
                self.relays.fuse = self.fuse
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

    def make_block(self, **world: Any) -> None:
        (self.relays or self.chain).mine(**world)

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
        self.make_block(is_empty=is_empty)
        self.follow()

    @rule(which=st.sampled_from(ACCOUNTS), is_empty=st.booleans())
    def rival(self, which: Any, is_empty: bool) -> None:
        self.make_block(rivals=[which], is_empty=is_empty)
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

    @rule(fault=st.sampled_from([None, *sorted(PASSING)]))
    def set_storage(self, fault: Fault | None) -> None:
        self.one.journal.fault = fault

    @rule(is_paused=st.booleans(), is_halted=st.booleans())
    def switch(self, is_paused: bool, is_halted: bool) -> None:
        self.gate.is_paused, self.gate.is_halted = is_paused, is_halted

    @precondition(lambda self: self.is_hidden)
    @rule(word=st.sampled_from(Word), includes=st.booleans())
    def set_relays(self, word: Word, includes: bool) -> None:
        assert self.relays is not None
        self.relays.word, self.relays.includes = word, includes

    @precondition(lambda self: self.is_far)
    @rule(silent_from=st.one_of(st.none(), st.integers(0, 3)))
    def set_signer(self, silent_from: int | None) -> None:
        assert self.far is not None
        self.far.silent_from = silent_from

    @rule()
    def die_between(self) -> None:
        self.bury()
        self.open()

    @rule(instants=st.integers(1, 12))
    def die_soon(self, instants: int) -> None:
        self.fuse.at = self.fuse.burnt + instants

    @invariant()
    def the_books_are_sound(self) -> None:
        """N1, N2 and N11 on the disk; the lane's nonces are the journal's, without a gap of our own making."""
        with sqlite3.connect(f"file:{self.chain.journal}?mode=ro", uri=True) as books:
            found = {what: rows for what, query in UNSOUND.items() if (rows := books.execute(query).fetchall())}
            query = (
                "select nonce from intent i where state in ('live', 'mined') and exists "
                "(select 1 from attempt a where a.intent_id = i.id) order by nonce"
            )
            stored = [nonce for (nonce,) in books.execute(query).fetchall()]
        books.close()
        assert found == {}
        lane = self.one.sender._lane
        assert sorted(lane.slots) == stored
        used = [slot.nonce for slot in lane.ordered if slot.nonce >= lane.mined_nonce]
        assert used == list(range(lane.next_nonce - len(used), lane.next_nonce)), "N3: a gap between our own"

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
        self.one.journal.fault = None
        self.gate.is_paused = self.gate.is_halted = False
        if self.far is not None:
            self.far.silent_from = None
        for _ in range(40):
            self.make_block()
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
        sent = {tx.hash for tx in chain.seen} | {tx.hash for tx in (self.relays.seen if self.relays else ())}
        ours = chain.receipts.keys() & sent
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


def test_what_was_hidden_at_the_operators_cap_does_not_hold_its_nonce_for_ever():
    """Found by the machine: nothing could outbid it, so it was neither shown nor cancelled once it had expired."""
    machine = LaneMachine()
    machine.begin(is_far=False, is_hidden=True)
    machine.set_base_fee(fee_gwei=400)
    machine.submit(is_approved=False, which=[ACCOUNTS[0]])
    machine.rival(is_empty=False, which=ACCOUNTS[0])
    machine.the_books_are_sound()
    machine.teardown()
