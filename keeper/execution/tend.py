"""Looking after what is not mined: sent again when dropped, outbid when stuck, cancelled when it no longer pays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keeper.domain.chain import BlockHead, Call
from keeper.domain.outcome import Reason
from keeper.domain.units import Wei
from keeper.execution.dispatch import Delivery, Dispatch, Handover, after
from keeper.execution.fees import FeeMarket, FeeQuote, bump, quote
from keeper.execution.lane import Lane, Slot
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Observer
from keeper.execution.prepare import Preparation
from keeper.execution.simulate import Simulator
from keeper.store.journal import Journal
from keeper.store.records import Attempt, AttemptKind, AttemptState, Changes, Entry, Intent, IntentState, Purpose

Why = tuple[Reason, str]


@dataclass(frozen=True, slots=True)
class _Replacement:
    """A new attempt at a nonce, not yet in the journal."""

    slot: Slot
    entry: Entry
    attempt: Attempt
    event: str


class Tend:
    """Replaces and sends again. New nonces are only taken to fill a gap."""

    def __init__(
        self,
        *,
        lane: Lane,
        journal: Journal,
        dispatch: Dispatch,
        simulator: Simulator,
        preparation: Preparation,
        policy: SenderPolicy,
        observer: Observer,
    ) -> None:
        """Look after `lane`."""
        self._lane = lane
        self._journal = journal
        self._dispatch = dispatch
        self._simulator = simulator
        self._preparation = preparation
        self._policy = policy
        self._observer = observer
        self._holes: dict[int, int] = {}

    async def tend(self, head: BlockHead) -> None:
        """Replace what is stuck or has lost its point, and send the rest again where due.

        Raises: StoreFailed, before anything of that head was sent; Transient, Stale.
        """
        doomed = await self._examine(head)
        wanting = [slot for slot in self._lane.live if slot.nonce in doomed or self._is_stuck(slot, head)]
        if wanting:
            market = await self._preparation.market(head)
            made = [self._replacement(slot, head, market, doomed.get(slot.nonce)) for slot in wanting]
            await self._replace([each for each in made if each is not None], head)
        await self.resend(head)

    async def resend(self, head: BlockHead) -> None:
        """Send the newest attempt of each nonce again, the same bytes, when it has waited long enough.

        Raises: StoreFailed, after which the journal knows less than the nodes, which is safe.
        """
        due = [slot for slot in self._lane.live if head.number - slot.sent_block >= self._policy.resend_after_blocks]
        if not due:
            return
        attempts = [slot.newest for slot in due]
        deliveries = await self._dispatch.send(attempts)
        for slot, attempt, delivery in zip(due, attempts, deliveries, strict=True):
            if delivery.handover is Handover.HELD and attempt.state is AttemptState.ACCEPTED:
                self._tell("tx.dropped", slot, attempt)
        await self._note(list(zip(due, attempts, deliveries, strict=True)), head)

    async def fill(self, head: BlockHead, *, at_once: bool) -> None:
        """Use up the nonces that the chain waits for and nobody holds, once enough heads in a row agree.

        Raises: StoreFailed; Transient.
        """
        self._holes = {nonce: self._holes.get(nonce, 0) + 1 for nonce in self._lane.holes()}
        patience = 1 if at_once else self._policy.gap_after_heads
        ripe = [nonce for nonce, heads in self._holes.items() if heads >= patience]
        if not ripe:
            return
        bid = quote(await self._preparation.market(head), self._policy.fees.max_fee_wei, self._policy.fees)
        if isinstance(bid, Reason):
            self._observer.event("limit.tripped", limit="max_fee", reason=bid.value)
            return
        entries = [self._filler(nonce, head, bid) for nonce in ripe]
        await self._journal.commit(Changes(tuple(entries)))
        self._lane.add(entries, head.number)
        slots = [self._lane.slots[nonce] for nonce in ripe]
        for slot in slots:
            self._tell("tx.gap_filled", slot, slot.newest)
        attempts = [slot.newest for slot in slots]
        await self._note(list(zip(slots, attempts, await self._dispatch.send(attempts), strict=True)), head)

    async def _examine(self, head: BlockHead) -> Mapping[int, Why]:
        """Return which liquidations in flight have lost their point, and why."""
        doomed: dict[int, Why] = {}
        asked = []
        for slot in self._lane.live:
            if slot.is_cancelling or slot.entry.intent.purpose is not Purpose.LIQUIDATION:
                continue
            if head.number - slot.entry.intent.created_block >= self._policy.stale_after_blocks:
                doomed[slot.nonce] = Reason.SUPERSEDED, f"not mined within {self._policy.stale_after_blocks} blocks"
            elif slot.is_suspect or self._is_stuck(slot, head):
                asked.append(slot)
        if asked:
            line = [slot for slot in self._lane.live if not slot.is_cancelling]
            calls = [slot.entry.intent.call for slot in line]
            at_s = head.timestamp_s + self._policy.block_time_s
            found = await self._simulator.still_works(head, calls, [slot.key for slot in line], at_s=at_s)
            doomed |= {slot.nonce: why for slot, why in zip(line, found, strict=True) if why and slot in asked}
        for slot in asked:
            slot.is_suspect = False
        return doomed

    def _is_stuck(self, slot: Slot, head: BlockHead) -> bool:
        """Return whether a nonce holds up the line: only the first one can, and only it is outbid."""
        if slot.nonce != self._lane.mined_nonce:
            return False
        waited = head.number - slot.waiting_block
        return waited >= self._policy.bump_after_blocks or (slot.is_underpriced and waited > 0)

    def _replacement(self, slot: Slot, head: BlockHead, market: FeeMarket, why: Why | None) -> _Replacement | None:
        fees, intent = self._policy.fees, slot.entry.intent
        if why is None and not slot.is_cancelling:
            bid = bump(slot.bid, market, intent.fee_limit_wei, fees)
            if bid is not None and len(slot.entry.attempts) <= self._policy.max_replacements:
                attempt = self._dispatch.sign(
                    intent.call,
                    nonce=slot.nonce,
                    gas_limit=intent.gas_limit,
                    quote=bid,
                    block=head.number,
                    kind=AttemptKind.SEND,
                )
                return self._with(slot, intent, attempt, "tx.replaced")
            why = Reason.UNPROFITABLE, "a higher fee would eat the profit"
        bid = bump(slot.bid, market, fees.max_fee_wei, fees)
        if bid is None:
            self._observer.event("limit.tripped", limit="max_fee", nonce=slot.nonce)
            return None
        attempt = self._dispatch.sign_transfer(nonce=slot.nonce, gas=fees.transfer_gas, quote=bid, block=head.number)
        if why is not None:
            intent = replace(intent, reason=why[0], detail=why[1])
        return self._with(slot, intent, attempt, "tx.replaced")

    def _with(self, slot: Slot, intent: Intent, attempt: Attempt, event: str) -> _Replacement:
        """Add an attempt; one that was refused for want of money and is tried again has the same hash."""
        kept = tuple(each for each in slot.entry.attempts if each.tx_hash != attempt.tx_hash)
        return _Replacement(slot, Entry(intent, (*kept, attempt)), attempt, event)

    async def _replace(self, made: Sequence[_Replacement], head: BlockHead) -> None:
        if not made:
            return
        await self._journal.commit(Changes(tuple(each.entry for each in made)))
        for each in made:
            each.slot.entry, each.slot.waiting_block = each.entry, head.number
            each.slot.is_underpriced = False
            self._tell(each.event, each.slot, each.attempt)
        deliveries = await self._dispatch.send([each.attempt for each in made])
        await self._note(
            [(each.slot, each.attempt, delivery) for each, delivery in zip(made, deliveries, strict=True)], head
        )

    async def _note(self, sent: Sequence[tuple[Slot, Attempt, Delivery]], head: BlockHead) -> None:
        """Keep what the nodes said."""
        changed = []
        for slot, attempt, delivery in sent:
            slot.sent_block = head.number
            slot.is_underpriced = delivery.needs_fee
            now = after(attempt, delivery)
            if now != attempt:
                kept = tuple(now if each.tx_hash == now.tx_hash else each for each in slot.entry.attempts)
                slot.entry = replace(slot.entry, attempts=kept)
                changed.append(slot.entry)
        if changed:
            await self._journal.commit(Changes(tuple(changed)))

    def _filler(self, nonce: int, head: BlockHead, bid: FeeQuote) -> Entry:
        attempt = self._dispatch.sign_transfer(
            nonce=nonce, gas=self._policy.fees.transfer_gas, quote=bid, block=head.number
        )
        intent = Intent(
            id=f"0x{attempt.tx_hash.hex()}",
            sender=self._lane.sender,
            nonce=nonce,
            purpose=Purpose.GAP,
            state=IntentState.LIVE,
            call=Call(self._lane.sender, b"", Wei(0)),
            gas_limit=attempt.gas_limit,
            fee_limit_wei=self._policy.fees.max_fee_wei,
            created_block=head.number,
        )
        return Entry(intent, (attempt,))

    def _tell(self, name: str, slot: Slot, attempt: Attempt) -> None:
        self._observer.event(
            name,
            intent_id=slot.entry.intent.id,
            plan_id=slot.entry.intent.plan_id,
            nonce=slot.nonce,
            tx_hash=f"0x{attempt.tx_hash.hex()}",
            kind=attempt.kind.value,
            max_fee_wei=attempt.max_fee_wei,
            tip_wei=attempt.tip_wei,
        )
        self._observer.transaction(name.removeprefix("tx."))
