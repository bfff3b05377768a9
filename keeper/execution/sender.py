"""The sender: every nonce is its own, nothing leaves before it is in the journal, and every plan ends once.

The life of a plan: simulated and priced, given a nonce, signed, committed, broadcast, watched, and final. A crash
between any two of these is made good by `recover`: what is in the journal may have left, so its nonce is only ever used
again for the same bytes or for a replacement.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keeper.chain.quorum import Contradiction
from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, Outcome, Plan
from keeper.domain.ports import Executor, Market, Taken
from keeper.domain.position import PositionKey
from keeper.errors import Stale, Transient, Unsafe
from keeper.execution.dispatch import Dispatch
from keeper.execution.lane import Lane
from keeper.execution.launch import Launch
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Fence, Gate, Network, Observer, OpenGate, SilentObserver, Unfenced
from keeper.execution.prepare import Preparation
from keeper.execution.route import PrivatePolicy, PrivateRoute, Relays
from keeper.execution.signer import Signatory
from keeper.execution.simulate import Simulator
from keeper.execution.stock import Stock
from keeper.execution.tend import Tend
from keeper.execution.verdicts import Verdict, skip
from keeper.execution.watch import Watch
from keeper.store.faults import StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import Changes, Entry, IntentState

T = TypeVar("T")

Deliver = Callable[[Outcome], None]
"""Takes an outcome that is already stored. It must not raise and must not block."""


class Sender:
    """Sends plans and follows them to their outcomes. Call `recover` once before anything else."""

    def __init__(
        self,
        *,
        network: Network,
        journal: Journal,
        signer: Signatory,
        markets: Mapping[str, Market],
        executor: Executor | None = None,
        policy: SenderPolicy,
        deliver: Deliver,
        gate: Gate | None = None,
        fence: Fence | None = None,
        relays: Relays | None = None,
        private: PrivatePolicy | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Own the nonces of `signer`, with its journal; liquidations go to `relays` first, through `executor`, if any."""
        self._deliver = deliver
        self._observer: Observer = observer or SilentObserver()
        self._gate: Gate = gate or OpenGate()
        self._stock = Stock(journal, self._observer)
        self._lane = Lane(signer.address)
        self._lock = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_recovered = False
        self._is_stopping = False
        self._is_drained = False
        self._undisturbed: set[asyncio.Task[Any]] = set()
        simulator = Simulator(network, markets, signer.address, executor)
        self._preparation = Preparation(
            network=network, simulator=simulator, sender=signer.address, fees=policy.fees, observer=self._observer
        )
        hidden = private or PrivatePolicy()
        route = PrivateRoute(lane=self._lane, stock=self._stock, relays=relays, policy=hidden, observer=self._observer)
        dispatch = Dispatch(signer, network, fence or Unfenced(), route, self._observer)
        self._launch = Launch(
            lane=self._lane, stock=self._stock, dispatch=dispatch, gate=self._gate, observer=self._observer
        )
        self._watch = Watch(
            lane=self._lane,
            journal=journal,
            network=network,
            simulator=simulator,
            policy=policy,
            gate=self._gate,
            observer=self._observer,
        )
        self._tend = Tend(
            lane=self._lane,
            stock=self._stock,
            dispatch=dispatch,
            simulator=simulator,
            preparation=self._preparation,
            policy=policy,
            private=hidden,
            observer=self._observer,
        )

    @property
    def in_flight(self) -> frozenset[PositionKey]:
        """Return the positions that a transaction may still change: to be locked, after `recover` too."""
        return self._lane.keys

    async def recover(self, head: BlockHead) -> None:
        """Bring the journal and the chain together: settle, cancel what is stale, send the rest again, fill gaps.

        Raises: Transient or Stale, after which it may be called again; StoreFailed.
        """

        async def work() -> None:
            await self._gate.refresh(head)
            await self._take_over()
            await self._watch.recall(head)
            self._watch.remember(head, ())
            standing = await self._observed(head)
            self._announce(await self._watch.settle(head, standing))
            if not self._gate.is_halted:
                await self._tend.tend(head)
                await self._watch.claim()
                await self._tend.fill(head, at_once=bool(self._lane.live))
            self._is_recovered = True

        await self._alone(work)

    async def submit(self, batch: Batch) -> tuple[Verdict, ...]:
        """Simulate, price, journal and broadcast a batch; answer for each plan in order.

        Raises: StoreFailed when the journal cannot be trusted any more; PolicyRefused.
        """
        if not self._is_recovered:
            raise Unsafe("the sender must recover what is in flight before it sends")
        self._observer.reached("after_decide")
        verdicts: dict[str, Verdict] = {}
        wanted: list[Plan] = []
        for plan in batch.plans:
            if self._is_stopping:
                verdicts[plan.id] = skip(plan, Reason.STOPPING)
            elif plan.key in self._lane.keys or any(plan.key == other.key for other in wanted):
                verdicts[plan.id] = skip(plan, Reason.IN_FLIGHT)
            else:
                wanted.append(plan)
        if wanted:
            found = await self._send_wanted(batch, wanted)
            verdicts |= {verdict.plan_id: verdict for verdict in found}
        return tuple(verdicts[plan.id] for plan in batch.plans)

    async def on_head(self, head: BlockHead, taken: Sequence[Taken] = ()) -> None:
        """Follow everything in flight to a new head; `taken` is every liquidation since the head before.

        One request while something is in flight and none otherwise, unless something has to be replaced. A failed
        request leaves everything as it was until the next head.

        Raises: StoreFailed when the journal cannot be trusted any more.
        """
        if self._is_drained:
            return  # the journal may be closed by now

        async def work() -> None:
            self._watch.remember(head, taken)
            try:
                await self._gate.refresh(head)
                if self._lane.slots or self._lane.holes() or self._watch.is_doubtful:
                    await self._follow(head)
            except (Transient, Stale) as error:
                self._observer.event("keeper.degraded", reason="transactions_unwatched", detail=str(error)[:256])
            except StoreFailed as error:
                self._stock.refuse_unless_passing(error)
            lane = self._lane
            self._observer.lane(
                mined_nonce=lane.mined_nonce,
                next_nonce=lane.next_nonce,
                in_flight=len(lane.slots),
                gap=len(lane.holes()),
            )

        await self._alone(work)

    async def drain(self, timeout_s: int) -> frozenset[PositionKey]:
        """Take nothing new and replace nothing, wait for what is in flight, and return what still is: it is stored.

        Heads have to keep coming in through `on_head` meanwhile.
        """
        self._is_stopping = True
        self._observer.reached("mid_shutdown")
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            self._observer.event("keeper.stopping", reason="drain_timed_out", in_flight=len(self._lane.slots))
        while self._undisturbed:
            await asyncio.wait(self._undisturbed)
        self._is_drained = True
        return self._lane.keys

    async def _take_over(self) -> None:
        """Take what the journal knows of as in flight; what never got a signature cannot have left, and is void."""
        entries = await self._stock.journal.open_entries()
        unsigned = [replace(entry.intent, state=IntentState.VOID) for entry in entries if not entry.attempts]
        if unsigned:
            await self._stock.commit(Changes(tuple(Entry(intent, ()) for intent in unsigned)))
        highest = await self._stock.journal.highest_nonce()
        self._lane.slots.clear()
        self._lane.own_next = self._lane.told_next = None if highest is None else highest + 1
        self._lane.add((entry for entry in entries if entry.attempts), -1)
        for slot in self._lane.ordered:
            slot.is_suspect = True

    async def _observed(self, head: BlockHead) -> Standing:
        """Ask where everything stands, and tell the gate who else has used the key."""
        standing = await self._watch.standing()
        await self._intruded(standing.nonce, head)
        return standing

    async def _intruded(self, nonce: int, head: BlockHead) -> None:
        """Take the chain's nonce; those beyond our own were somebody else's."""
        strangers = self._lane.observe(nonce)
        if strangers:
            self._observer.event("tx.foreign_nonce", nonce=strangers[0], last_nonce=strangers[-1])
            await self._gate.intruded(head, strangers[0])

    async def _follow(self, head: BlockHead) -> None:
        standing = await self._observed(head)
        self._announce(await self._watch.settle(head, standing))
        if self._gate.is_halted:
            return
        if self._is_stopping:
            await self._tend.resend(head)
        else:
            await self._tend.tend(head)
            await self._watch.claim()
            await self._tend.fill(head, at_once=False)
        self._stock.works()

    async def _send_wanted(self, batch: Batch, wanted: Sequence[Plan]) -> Sequence[Verdict]:
        try:
            prepared = await self._preparation.run(batch, wanted, self._lane.pending)
        except Stale as error:
            return [skip(plan, Reason.SUPERSEDED, str(error)) for plan in wanted]
        except Contradiction as error:
            return [skip(plan, Reason.NODES_DISAGREE, str(error)) for plan in wanted]
        except Transient as error:
            return [skip(plan, Reason.SIMULATION_FAILED, str(error)) for plan in wanted]
        if self._is_drained:
            return [skip(plan, Reason.STOPPING) for plan in wanted]
        if not prepared.bids:
            return prepared.skipped

        async def work() -> Sequence[Verdict]:
            try:
                await self._gate.refresh(batch.head)  # what was switched or spent since the last head counts now
                await self._intruded(prepared.funds.nonce, batch.head)
            except StoreFailed as error:
                self._stock.refuse_unless_passing(error)
                return [skip(bid.plan, Reason.STORAGE, error.fault.value) for bid in prepared.bids if bid.plan]
            return await self._launch.run(batch.head, prepared, is_stopping=self._is_stopping)

        return [*prepared.skipped, *await self._alone(work)]

    def _announce(self, outcomes: Sequence[Outcome]) -> None:
        for each in outcomes:
            self._deliver(each)

    async def _alone(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run work on the lane with nobody beside it, to its end even when the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(self._locked(work), name="sender")
        self._undisturbed.add(task)
        task.add_done_callback(self._undisturbed.discard)
        return await asyncio.shield(task)

    async def _locked(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._lock:
            try:
                return await work()
            finally:
                if self._lane.slots:
                    self._idle.clear()
                else:
                    self._idle.set()
