"""From bids to transactions that are out: given nonces, journalled, signed, and only then handed to the nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.execution.dispatch import Delivery, Dispatch, Handover, after
from keeper.execution.lane import Lane
from keeper.execution.ports import Gate, Observer
from keeper.execution.prepare import Bid, Prepared
from keeper.execution.signer import SignerFailed
from keeper.execution.stock import Stock
from keeper.execution.verdicts import Accepted, Verdict, skip
from keeper.store.faults import StoreFailed
from keeper.store.records import Attempt, AttemptKind, AttemptState, Changes, Entry, Intent, IntentState, Purpose


@dataclass(frozen=True, slots=True)
class _Signed:
    """What was signed of a batch, in the order of the nonces, and what was not, because a signature is missing."""

    entries: tuple[Entry, ...]
    void: tuple[Entry, ...] = ()
    why: str = ""


class Launch:
    """Gives out nonces. Only ever called by one task at a time."""

    def __init__(self, *, lane: Lane, stock: Stock, dispatch: Dispatch, gate: Gate, observer: Observer) -> None:
        """Send from `lane` what is in `stock`."""
        self._lane = lane
        self._stock = stock
        self._dispatch = dispatch
        self._gate = gate
        self._observer = observer

    async def run(self, head: BlockHead, prepared: Prepared, *, is_stopping: bool) -> Sequence[Verdict]:
        """Send what can be paid for and is admitted; answer for every plan among the bids.

        Raises: StoreFailed that no waiting cures; PolicyRefused; Fenced.
        """
        bids, refused = self._affordable(prepared, is_stopping=is_stopping)
        bids, held = self._admitted(bids, head)
        refused += held
        if not bids:
            return refused
        intents = [self._intent(bid, self._lane.next_nonce + place, head) for place, bid in enumerate(bids)]
        self._observer.reached("after_nonce")
        try:
            signed = await self._journalled(intents, bids, head)
        except StoreFailed as error:
            self._stock.refuse_unless_passing(error)
            return [*refused, *(skip(bid.plan, Reason.STORAGE, error.fault.value) for bid in bids if bid.plan)]
        self._stock.works()
        late = bids[len(signed.entries) :]
        refused += [skip(bid.plan, Reason.SIGNER_FAILED, signed.why) for bid in late if bid.plan]
        if not signed.entries:
            return refused
        return [*refused, *await self._sent(bids[: len(signed.entries)], signed.entries, head)]

    async def _sent(self, bids: Sequence[Bid], entries: Sequence[Entry], head: BlockHead) -> list[Verdict]:
        self._lane.add(entries, head.number)
        for intent in (entry.intent for entry in entries):
            self._observer.event(
                "intent.created",
                intent_id=intent.id,
                plan_id=intent.plan_id,
                nonce=intent.nonce,
                purpose=intent.purpose.value,
            )
        deliveries = await self._dispatch.send([entry.attempts[0] for entry in entries])
        voided = await self._note(entries, deliveries)
        verdicts: list[Verdict] = []
        for bid, entry, delivery in zip(bids, entries, deliveries, strict=True):
            if bid.plan is None:
                continue
            if entry.intent.nonce in voided:
                verdicts.append(skip(bid.plan, delivery.reason, delivery.detail))
            else:
                tx_hash, nonce = entry.attempts[0].tx_hash, entry.intent.nonce
                verdicts.append(Accepted(bid.plan.id, bid.plan.key, tx_hash, nonce, bid.profit_base))
        return verdicts

    def _affordable(self, prepared: Prepared, *, is_stopping: bool) -> tuple[list[Bid], list[Verdict]]:
        """Keep what the signer can pay for in the worst case, with what is in flight already set aside."""
        bids: list[Bid] = []
        refused: list[Verdict] = []
        left = prepared.funds.balance_wei - sum(slot.worst_cost_wei for slot in self._lane.live)
        for bid in prepared.bids:
            if bid.plan is not None and is_stopping:
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
        if is_pointless or is_stopping:
            bids.clear()
        return bids, refused

    def _admitted(self, bids: list[Bid], head: BlockHead) -> tuple[list[Bid], list[Verdict]]:
        """Keep as many plans as the switches and the budgets let begin, the best first; allowances go with them."""
        plans = [bid for bid in bids if bid.plan is not None]
        if not bids:
            return [], []
        wanted = max(1, len(plans))  # an allowance that goes alone begins something too
        count, reason, detail = self._gate.admit(wanted, head)
        if count >= wanted:
            return bids, []
        held: list[Verdict] = [skip(bid.plan, reason, detail) for bid in plans[count:] if bid.plan]
        kept = plans[:count]
        return [bid for bid in bids if bid.plan is None or bid in kept] if kept else [], held

    def _intent(self, bid: Bid, nonce: int, head: BlockHead) -> Intent:
        return Intent(
            id=self._dispatch.name(bid.call, nonce=nonce, gas_limit=bid.gas_limit, quote=bid.quote),
            sender=self._lane.sender,
            nonce=nonce,
            purpose=Purpose.APPROVAL if bid.plan is None else Purpose.LIQUIDATION,
            state=IntentState.LIVE,
            call=bid.call,
            gas_limit=bid.gas_limit,
            fee_limit_wei=bid.fee_limit_wei,
            created_block=head.number,
            created_s=head.timestamp_s,
            plan_id=bid.plan.id if bid.plan else None,
            opportunity=bid.plan.opportunity if bid.plan else None,
            profit_base=bid.profit_base,
        )

    async def _journalled(self, intents: Sequence[Intent], bids: Sequence[Bid], head: BlockHead) -> _Signed:
        """Sign, and have the result on the disk; what a remote signer is asked for is there before it hears of it.

        Raises: StoreFailed, with nothing sent.
        """
        if self._dispatch.is_remote:
            await self._stock.commit_unsigned(intents)
            self._observer.reached("after_intent_commit")
        signed = await self._signed(intents, bids, head)
        self._observer.reached("after_sign")
        await self._stock.commit(Changes((*signed.entries, *signed.void)))
        self._observer.reached("after_commit")
        for entry in signed.void:
            self._observer.event("intent.voided", intent_id=entry.intent.id, detail=signed.why)
        return signed

    async def _signed(self, intents: Sequence[Intent], bids: Sequence[Bid], head: BlockHead) -> _Signed:
        """Sign in the order of the nonces; a signature that fails to come voids everything behind it."""
        entries: list[Entry] = []
        for intent, bid in zip(intents, bids, strict=True):
            try:
                attempt = await self._dispatch.sign(
                    intent.call,
                    nonce=intent.nonce,
                    gas_limit=intent.gas_limit,
                    quote=bid.quote,
                    block=head.number,
                    kind=AttemptKind.SEND,
                )
            except SignerFailed as error:
                why = str(error)[:256]
                void = [
                    replace(each, state=IntentState.VOID, reason=Reason.SIGNER_FAILED, detail=why)
                    for each in intents[len(entries) :]
                ]
                return _Signed(tuple(entries), tuple(Entry(each, ()) for each in void), why)
            entries.append(Entry(intent, (attempt,)))
        return _Signed(tuple(entries))

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
                attempt = _void(attempt)
                intent = replace(intent, state=IntentState.VOID, reason=delivery.reason, detail=delivery.detail)
            changed.append(Entry(intent, (attempt,)))
        try:
            await self._stock.commit(Changes(tuple(changed)))
        except StoreFailed as error:
            self._stock.refuse_unless_passing(error)
            return frozenset()
        for entry, delivery in zip(changed, deliveries, strict=True):
            slot = self._lane.slots[entry.intent.nonce]
            slot.entry, slot.is_underpriced = entry, delivery.needs_fee
            if entry.intent.nonce in voided:
                self._observer.event("intent.voided", intent_id=entry.intent.id, detail=delivery.detail)
        self._lane.void_tail(voided)
        return frozenset(voided)


def _void(attempt: Attempt) -> Attempt:
    return replace(attempt, state=AttemptState.VOID)
