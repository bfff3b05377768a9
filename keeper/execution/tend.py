"""Looking after what is not mined: sent again when dropped, outbid when stuck, cancelled when it no longer pays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from keeper.domain.chain import BlockHead, Call
from keeper.domain.outcome import Reason
from keeper.domain.units import Wei
from keeper.execution.dispatch import Delivery, Dispatch, Handover, after
from keeper.execution.fees import FeeMarket, FeeQuote, bump, quote, worst_base_fee
from keeper.execution.lane import Lane, Slot
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Observer
from keeper.execution.prepare import Preparation
from keeper.execution.route import Fallback, PrivatePolicy, has_expired, is_hidden, is_over, unhidden
from keeper.execution.signer import SignerFailed
from keeper.execution.simulate import Simulator
from keeper.execution.stock import Stock
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
        stock: Stock,
        dispatch: Dispatch,
        simulator: Simulator,
        preparation: Preparation,
        policy: SenderPolicy,
        private: PrivatePolicy,
        observer: Observer,
    ) -> None:
        """Look after `lane`."""
        self._lane = lane
        self._stock = stock
        self._dispatch = dispatch
        self._simulator = simulator
        self._preparation = preparation
        self._policy = policy
        self._private = private
        self._observer = observer
        self._holes: dict[int, int] = {}
        self._is_capped = False

    async def tend(self, head: BlockHead) -> None:
        """Replace what is stuck or has lost its point, and send the rest again where due.

        Raises: StoreFailed, before anything of that head was sent; Transient, Stale.
        """
        doomed = await self._examine(head)
        wanting = [slot for slot in self._lane.live if slot.nonce in doomed or self._is_due(slot, head)]
        if wanting:
            market = await self._preparation.market(head)
            made = [await self._replacement(slot, head, market, doomed.get(slot.nonce)) for slot in wanting]
            await self._replace([each for each in made if each is not None], head)
        await self.resend(head)

    async def resend(self, head: BlockHead) -> None:
        """Send the newest attempt of each nonce again, the same bytes, when it has waited long enough.

        What is hidden goes to relays again at every head until it expires, and nowhere after that.

        Raises: StoreFailed, after which the journal knows less than the nodes, which is safe.
        """
        due = [slot for slot in self._lane.live if self._is_unsent(slot, head)]
        if not due:
            return
        attempts = [slot.newest for slot in due]
        deliveries = await self._dispatch.send(attempts, again_at=head.number)
        for slot, attempt, delivery in zip(due, attempts, deliveries, strict=True):
            if delivery.handover is Handover.HELD and attempt.state is AttemptState.ACCEPTED:
                self._tell("tx.dropped", slot, attempt)
        await self._note(list(zip(due, attempts, deliveries, strict=True)), head)

    async def fill(self, head: BlockHead, *, at_once: bool) -> None:
        """Use up the nonces that the chain waits for and nobody holds, once enough heads in a row agree.

        Raises: StoreFailed; Transient, SignerFailed among it.
        """
        self._holes = {nonce: self._holes.get(nonce, 0) + 1 for nonce in self._lane.holes()}
        patience = 1 if at_once else self._policy.gap_after_heads
        ripe = [nonce for nonce, heads in self._holes.items() if heads >= patience]
        if not ripe:
            return
        market = await self._preparation.market(head)
        bid = quote(market.modest, self._policy.fees.max_fee_wei, self._policy.fees)
        if isinstance(bid, Reason):
            self._tell_cap(ripe[0])
            return
        intents = [self._filler(nonce, head, market.transfer_gas, bid) for nonce in ripe]
        if self._dispatch.is_remote:
            await self._stock.commit_unsigned(intents)
        entries, void = await self._signed_fillers(intents, head, bid)
        await self._stock.commit(Changes((*entries, *void)))
        if not entries:
            return
        self._lane.add(entries, head.number)
        slots = [self._lane.slots[entry.intent.nonce] for entry in entries]
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
            elif slot.is_suspect or self._is_due(slot, head):
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

    def _is_due(self, slot: Slot, head: BlockHead) -> bool:
        """Return whether something has to take the place of a nonce's newest attempt, or another route."""
        return has_expired(slot.newest, head.number) or self._is_stuck(slot, head)

    def _is_unsent(self, slot: Slot, head: BlockHead) -> bool:
        if is_over(slot.newest, head.number):
            return False
        patience = 1 if is_hidden(slot.newest) else self._policy.resend_after_blocks
        return head.number - slot.sent_block >= patience

    def _is_stuck(self, slot: Slot, head: BlockHead) -> bool:
        """Return whether a nonce holds up the line: only the first one can, and only it is outbid.

        What is hidden waits for a block of its relays' making, not for a higher bid, unless the next block asks more.
        """
        if slot.nonce != self._lane.mined_nonce:
            return False
        waited = head.number - slot.waiting_block
        if is_hidden(slot.newest):
            asked = worst_base_fee(head.base_fee_wei, 1) + slot.newest.tip_wei
            return waited > 0 and slot.newest.max_fee_wei < asked and not is_over(slot.newest, head.number)
        return waited >= self._policy.bump_after_blocks or (slot.is_underpriced and waited > 0)

    async def _replacement(
        self, slot: Slot, head: BlockHead, market: FeeMarket, why: Why | None
    ) -> _Replacement | None:
        """Sign what takes a transaction's place; None where nothing can, until the next head."""
        try:
            return await self._outbid(slot, head, market, why)
        except SignerFailed as error:
            self._observer.event("keeper.degraded", reason="signer_failed", nonce=slot.nonce, detail=str(error)[:256])
            return None

    async def _outbid(self, slot: Slot, head: BlockHead, market: FeeMarket, why: Why | None) -> _Replacement | None:
        """Raise the bid of what still has a point, and take the nonce from the rest."""
        newest, is_past = slot.newest, has_expired(slot.newest, head.number)
        if is_past and why is None and self._private.fallback is Fallback.CANCEL:
            why = Reason.SUPERSEDED, f"no relay had it included by block {newest.expires_block}"
        if why is not None or slot.is_cancelling:
            return await self._cancelled(slot, head, market, why)
        if is_past and newest.max_fee_wei >= market.base_fee_wei + newest.tip_wei:
            shown = replace(unhidden(newest), state=AttemptState.SIGNED)
            return self._with(slot, slot.entry.intent, shown, "tx.unhidden")
        intent = slot.entry.intent
        bid = bump(slot.bid, market, intent.fee_limit_wei, self._policy.fees)
        if bid is not None and len(slot.entry.attempts) <= self._policy.max_replacements:
            attempt = await self._dispatch.sign(
                intent.call,
                nonce=slot.nonce,
                gas_limit=intent.gas_limit,
                quote=bid,
                block=head.number,
                kind=AttemptKind.SEND,
                before=unhidden(newest) if is_past else newest,
            )
            return self._with(slot, intent, attempt, "tx.replaced")
        if is_hidden(newest) and not is_past:
            return None  # the base fee may fall again before it expires, and until then nobody knows of it
        return await self._cancelled(slot, head, market, (Reason.UNPROFITABLE, "a higher fee would eat the profit"))

    async def _cancelled(self, slot: Slot, head: BlockHead, market: FeeMarket, why: Why | None) -> _Replacement | None:
        """Take the nonce from its intent; also what is hidden is cancelled where every node sees it: it tells nothing."""
        fees, intent = self._policy.fees, slot.entry.intent
        bid = bump(slot.bid, market.modest, fees.max_fee_wei, fees)
        if bid is None and is_hidden(slot.newest):  # no node knows what it would have to beat
            fresh = quote(market.modest, fees.max_fee_wei, fees)
            bid = None if isinstance(fresh, Reason) else fresh
        if bid is None:
            self._tell_cap(slot.nonce)
            return None
        attempt = await self._dispatch.sign_transfer(
            nonce=slot.nonce, gas=market.transfer_gas, quote=bid, block=head.number
        )
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
        await self._stock.commit(Changes(tuple(each.entry for each in made)))
        before = [each.slot.newest for each in made]
        self._is_capped = False
        for each in made:
            each.slot.entry, each.slot.waiting_block = each.entry, head.number
            each.slot.is_underpriced = False
            self._tell(each.event, each.slot, each.attempt)
        deliveries = await self._dispatch.send([each.attempt for each in made], again_at=head.number)
        for old, each in zip(before, made, strict=True):
            self._dispatch.withdraw(old, each.attempt)
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
            await self._stock.commit(Changes(tuple(changed)))

    def _filler(self, nonce: int, head: BlockHead, gas: int, bid: FeeQuote) -> Intent:
        call = Call(self._lane.sender, b"", Wei(0))
        return Intent(
            id=self._dispatch.name(call, nonce=nonce, gas_limit=gas, quote=bid),
            sender=self._lane.sender,
            nonce=nonce,
            purpose=Purpose.GAP,
            state=IntentState.LIVE,
            call=call,
            gas_limit=gas,
            fee_limit_wei=self._policy.fees.max_fee_wei,
            created_block=head.number,
            created_s=head.timestamp_s,
        )

    async def _signed_fillers(
        self, intents: Sequence[Intent], head: BlockHead, bid: FeeQuote
    ) -> tuple[list[Entry], list[Entry]]:
        """Sign in the order of the nonces; return what was signed, and as void what a signature is missing for.

        A void one leaves its nonce to the next head: two live ones at a nonce cannot be in the journal.
        """
        signed: list[Entry] = []
        for intent in intents:
            try:
                attempt = await self._dispatch.sign_transfer(
                    nonce=intent.nonce, gas=intent.gas_limit, quote=bid, block=head.number
                )
            except SignerFailed as error:
                why = str(error)[:256]
                self._observer.event("keeper.degraded", reason="signer_failed", nonce=intent.nonce, detail=why)
                late = [
                    replace(each, state=IntentState.VOID, reason=Reason.SIGNER_FAILED, detail=why)
                    for each in intents[len(signed) :]
                ]
                return signed, [Entry(each, ()) for each in late]
            signed.append(Entry(intent, (attempt,)))
        return signed, []

    def _tell_cap(self, nonce: int) -> None:
        """Tell once that the operator's cap forbids what the line waits for, until something is replaced again."""
        if not self._is_capped:
            self._is_capped = True
            self._observer.event("limit.tripped", limit="max_fee", nonce=nonce)

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
