"""The sender: every nonce is its own, nothing leaves before it is in the journal, and every plan ends once.

The life of a plan: simulated and priced, given a nonce, signed, committed, broadcast, watched, and final. A crash
between any two of these is made good by `recover`: what is in the journal may have left, so its nonce is only ever used
again for the same bytes or for a replacement.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, Outcome, Plan
from keeper.domain.ports import Market, Taken
from keeper.domain.position import PositionKey
from keeper.errors import Stale, Transient, Unsafe
from keeper.execution.dispatch import Delivery, Dispatch, Handover, after
from keeper.execution.lane import Lane
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Network, Observer, SilentObserver
from keeper.execution.prepare import Bid, Preparation, Prepared
from keeper.execution.signer import Signer
from keeper.execution.simulate import Simulator
from keeper.execution.tend import Tend
from keeper.execution.verdicts import Accepted, Skipped, Verdict, skip
from keeper.execution.watch import Watch
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import AttemptKind, AttemptState, Changes, Entry, Intent, IntentState, Purpose

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
        signer: Signer,
        markets: Mapping[str, Market],
        policy: SenderPolicy,
        deliver: Deliver,
        observer: Observer | None = None,
    ) -> None:
        """Own the nonces of `signer`, whose journal is `journal`."""
        self._network = network
        self._journal = journal
        self._policy = policy
        self._deliver = deliver
        self._observer: Observer = observer or SilentObserver()
        self._lane = Lane(signer.address)
        self._lock = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_recovered = False
        self._is_storage_failing = False
        self._is_stopping = False
        self._undisturbed: set[asyncio.Task[Any]] = set()
        simulator = Simulator(network, markets, signer.address)
        self._preparation = Preparation(
            network=network, simulator=simulator, sender=signer.address, fees=policy.fees, observer=self._observer
        )
        self._dispatch = Dispatch(signer, network, self._observer)
        self._watch = Watch(
            lane=self._lane,
            journal=journal,
            network=network,
            simulator=simulator,
            markets=markets,
            policy=policy,
            observer=self._observer,
        )
        self._tend = Tend(
            lane=self._lane,
            journal=journal,
            dispatch=self._dispatch,
            simulator=simulator,
            preparation=self._preparation,
            policy=policy,
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
            entries = await self._journal.open_entries()
            highest = await self._journal.highest_nonce()
            self._lane.slots.clear()
            self._lane.own_next = self._lane.told_next = None if highest is None else highest + 1
            self._lane.add(entries, -1)
            for slot in self._lane.ordered:
                slot.is_suspect = True
            self._watch.remember(head, ())
            standing = await self._watch.standing()
            self._announce(await self._watch.settle(head, standing))
            await self._tend.tend(head)
            await self._tend.fill(head, at_once=bool(self._lane.live))
            self._is_recovered = True

        await self._alone(work)

    async def submit(self, batch: Batch) -> tuple[Verdict, ...]:
        """Simulate, price, journal and broadcast a batch; answer for each plan in order.

        Raises: StoreFailed when the journal cannot be trusted any more; PolicyRefused.
        """
        if not self._is_recovered:
            raise Unsafe("the sender must recover what is in flight before it sends")
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

        async def work() -> None:
            self._watch.remember(head, taken)
            if self._lane.slots or self._lane.holes():
                try:
                    await self._follow(head)
                except (Transient, Stale) as error:
                    self._observer.event("keeper.degraded", reason="transactions_unwatched", detail=str(error)[:256])
                except StoreFailed as error:
                    self._refuse_unless_passing(error)
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
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            self._observer.event("keeper.stopping", reason="drain_timed_out", in_flight=len(self._lane.slots))
        if self._undisturbed:
            await asyncio.wait(self._undisturbed)
        return self._lane.keys

    async def _follow(self, head: BlockHead) -> None:
        standing = await self._watch.standing()
        self._announce(await self._watch.settle(head, standing))
        if self._is_stopping:
            await self._tend.resend(head)
        else:
            await self._tend.tend(head)
            await self._tend.fill(head, at_once=False)
        self._storage_works()

    async def _send_wanted(self, batch: Batch, wanted: Sequence[Plan]) -> Sequence[Verdict]:
        try:
            prepared = await self._preparation.run(batch, wanted, self._lane.pending)
        except Stale as error:
            return [skip(plan, Reason.SUPERSEDED, str(error)) for plan in wanted]
        except Transient as error:
            return [skip(plan, Reason.SIMULATION_FAILED, str(error)) for plan in wanted]
        if not prepared.bids:
            return prepared.skipped
        return [*prepared.skipped, *await self._alone(lambda: self._commit_and_send(batch.head, prepared))]

    async def _commit_and_send(self, head: BlockHead, prepared: Prepared) -> Sequence[Verdict]:
        """Give out the nonces, put everything in the journal in one commit, and only then let it leave."""
        strangers = self._lane.observe(prepared.funds.nonce)
        if strangers:
            self._observer.event("tx.foreign_nonce", nonce=strangers[0], last_nonce=strangers[-1])
        bids, refused = self._affordable(prepared)
        if not bids:
            return refused
        entries = [self._entry(bid, self._lane.next_nonce + place, head) for place, bid in enumerate(bids)]
        try:
            await self._journal.commit(Changes(tuple(entries)))
        except StoreFailed as error:
            self._refuse_unless_passing(error)
            return [*refused, *(skip(bid.plan, Reason.STORAGE, error.fault.value) for bid in bids if bid.plan)]
        self._storage_works()
        self._lane.add(entries, head.number)
        for entry in entries:
            intent = entry.intent
            self._observer.event(
                "intent.created",
                intent_id=intent.id,
                plan_id=intent.plan_id,
                nonce=intent.nonce,
                purpose=intent.purpose.value,
            )
        deliveries = await self._dispatch.send([entry.attempts[0] for entry in entries])
        voided = await self._note(entries, deliveries)
        verdicts: list[Verdict] = list(refused)
        for bid, entry, delivery in zip(bids, entries, deliveries, strict=True):
            if bid.plan is None:
                continue
            if entry.intent.nonce in voided:
                verdicts.append(skip(bid.plan, delivery.reason, delivery.detail))
            else:
                tx_hash, nonce = entry.attempts[0].tx_hash, entry.intent.nonce
                verdicts.append(Accepted(bid.plan.id, bid.plan.key, tx_hash, nonce, bid.profit_base))
        return verdicts

    def _affordable(self, prepared: Prepared) -> tuple[list[Bid], list[Skipped]]:
        """Keep what the signer can pay for in the worst case, with what is in flight already set aside."""
        bids: list[Bid] = []
        refused: list[Skipped] = []
        left = prepared.funds.balance_wei - sum(slot.worst_cost_wei for slot in self._lane.live)
        for bid in prepared.bids:
            if bid.plan is not None and self._is_stopping:
                refused.append(skip(bid.plan, Reason.STOPPING))
            elif bid.plan is not None and bid.plan.key in self._lane.keys:
                refused.append(skip(bid.plan, Reason.IN_FLIGHT))
            elif bid.plan is None or bid.worst_cost_wei <= left:
                left -= bid.worst_cost_wei
                bids.append(bid)
            else:
                short = bid.worst_cost_wei - left
                self._observer.event("funds.low", balance_wei=prepared.funds.balance_wei, short_wei=short)
                detail = f"needs {bid.worst_cost_wei} wei: top up {short}"
                refused.append(skip(bid.plan, Reason.INSUFFICIENT_GAS_MONEY, detail))
        is_pointless = all(bid.plan is None for bid in bids) and (refused or left < 0)
        if is_pointless or self._is_stopping:
            bids.clear()
        return bids, refused

    def _entry(self, bid: Bid, nonce: int, head: BlockHead) -> Entry:
        attempt = self._dispatch.sign(
            bid.call,
            nonce=nonce,
            gas_limit=bid.gas_limit,
            quote=bid.quote,
            block=head.number,
            kind=AttemptKind.SEND,
        )
        intent = Intent(
            id=f"0x{attempt.tx_hash.hex()}",
            sender=self._lane.sender,
            nonce=nonce,
            purpose=Purpose.APPROVAL if bid.plan is None else Purpose.LIQUIDATION,
            state=IntentState.LIVE,
            call=bid.call,
            gas_limit=bid.gas_limit,
            fee_limit_wei=bid.fee_limit_wei,
            created_block=head.number,
            plan_id=bid.plan.id if bid.plan else None,
            opportunity=bid.plan.opportunity if bid.plan else None,
            profit_base=bid.profit_base,
        )
        return Entry(intent, (attempt,))

    async def _note(self, entries: Sequence[Entry], deliveries: Sequence[Delivery]) -> frozenset[int]:
        """Keep what the nodes said; give back the last nonces that every node refused, and return them."""
        voided: set[int] = set()
        for entry, delivery in reversed(list(zip(entries, deliveries, strict=True))):
            if delivery.handover is not Handover.REFUSED or entry.intent.nonce + 1 + len(voided) != self._lane.own_next:
                break
            voided.add(entry.intent.nonce)
        changed = []
        for entry, delivery in zip(entries, deliveries, strict=True):
            intent, attempt = entry.intent, after(entry.attempts[0], delivery)
            if intent.nonce in voided:
                attempt = replace(attempt, state=AttemptState.VOID)
                intent = replace(intent, state=IntentState.VOID, reason=delivery.reason, detail=delivery.detail)
            changed.append(Entry(intent, (attempt,)))
        try:
            await self._journal.commit(Changes(tuple(changed)))
        except StoreFailed as error:
            self._refuse_unless_passing(error)
            return frozenset()
        for entry, delivery in zip(changed, deliveries, strict=True):
            slot = self._lane.slots[entry.intent.nonce]
            slot.entry, slot.is_underpriced = entry, delivery.needs_fee
            if entry.intent.nonce in voided:
                self._observer.event("intent.voided", intent_id=entry.intent.id, detail=delivery.detail)
        self._lane.void_tail(voided)
        return frozenset(voided)

    def _announce(self, outcomes: Sequence[Outcome]) -> None:
        for each in outcomes:
            self._deliver(each)

    def _refuse_unless_passing(self, error: StoreFailed) -> None:
        """Raise a fault that no waiting cures; tell of the others."""
        if not error.is_passing:
            raise error
        self._is_storage_failing = True
        name = "storage.full" if error.fault is Fault.FULL else "storage.error"
        self._observer.event(name, error=str(error), fault=error.fault.value)

    def _storage_works(self) -> None:
        if self._is_storage_failing:
            self._is_storage_failing = False
            self._observer.event("storage.recovered")

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
