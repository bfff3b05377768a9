"""Following what is in flight: mined, un-mined by a reorg, used up by others, and in the end final."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.outcome import Reason
from keeper.domain.plan import Outcome, Realised
from keeper.domain.ports import Taken
from keeper.domain.units import BlockHash, TxHash
from keeper.errors import Stale, Transient
from keeper.execution.finality import KEPT_BLOCKS, Finality
from keeper.execution.lane import Lane, Slot
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import Gate, Network, Observer
from keeper.execution.settle import Look, Phase, attempt_of, closed, foreign, is_deep, look, mined, outcome, unmined
from keeper.execution.simulate import Simulator, Step, step_of
from keeper.store.journal import Journal
from keeper.store.records import AttemptKind, Changes, Ending, Entry, Inclusion

Event = tuple[str, Mapping[str, object]]


@dataclass(slots=True)
class _Change:
    """What one head changes about one nonce: committed first, then applied and told."""

    slot: Slot
    entry: Entry
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    receipt: Receipt | None = None
    is_over: bool = False
    is_intruded: bool = False


class Watch:
    """Reads receipts and writes outcomes. It sends nothing."""

    def __init__(
        self,
        *,
        lane: Lane,
        journal: Journal,
        network: Network,
        simulator: Simulator,
        policy: SenderPolicy,
        gate: Gate,
        observer: Observer,
    ) -> None:
        """Follow `lane`, and tell `gate` who else uses the key."""
        self._lane = lane
        self._journal = journal
        self._network = network
        self._simulator = simulator
        self._policy = policy
        self._gate = gate
        self._observer = observer
        self._finality = Finality(
            sender=lane.sender,
            network=network,
            journal=journal,
            gate=gate,
            observer=observer,
            patience=policy.foreign_after_heads,
        )
        self._tip: BlockHead | None = None
        self._blocks: dict[int, BlockHash] = {}
        self._rivals: dict[Step, Taken] = {}

    def remember(self, head: BlockHead, taken: Iterable[Taken]) -> None:
        """Take a head into our chain of hashes, and note who else took what we are after.

        What no parent links to the head is forgotten: blocks that we missed may have been another fork's.
        """
        tip, self._tip = self._tip, head
        self._finality.follow(head, is_linked=tip is None or tip.hash in {head.hash, head.parent_hash})
        if self._blocks.get(head.number - 1) != head.parent_hash:
            self._blocks.clear()
        self._blocks = {
            number: known for number, known in self._blocks.items() if head.number - KEPT_BLOCKS < number < head.number
        }
        self._blocks[head.number - 1] = head.parent_hash
        self._blocks[head.number] = head.hash
        slots = {slot.step: slot for slot in self._lane.ordered}
        self._rivals = {step: rival for step, rival in self._rivals.items() if step in slots}
        for each in taken:
            slot = slots.get(step_of(each))
            if slot is not None and each.log.tx_hash not in {attempt.tx_hash for attempt in slot.entry.attempts}:
                self._rivals.setdefault(step_of(each), each)
                slot.is_suspect = True

    @property
    def is_doubtful(self) -> bool:
        """Return whether something that counts as final has to be found again."""
        return bool(self._finality.doubted)

    async def recall(self, head: BlockHead) -> None:
        """Take from the journal what a reorganisation could still undo.

        Raises: StoreFailed.
        """
        await self._finality.recall(head)

    async def standing(self) -> Standing:
        """Ask for the chain's nonce, and the receipts of every attempt in flight and of what is doubted.

        Raises: Transient.
        """
        hashes = [attempt.tx_hash for slot in self._lane.ordered for attempt in slot.entry.attempts]
        return await self._network.standing(self._lane.sender, [*hashes, *self._finality.hashes])

    async def claim(self) -> None:
        """Look up everything that we ever signed for the nonces that nobody holds: what has a receipt is no gap.

        Nor is what is doubted: it may come back.
        Raises: StoreFailed; Transient.
        """
        lane = self._lane
        lane.claimed = frozenset(self._finality.doubted)
        hashes = {
            attempt.tx_hash: nonce
            for nonce in lane.holes()
            for entry in await self._journal.entries_at(nonce)
            for attempt in entry.attempts
        }
        if hashes:
            standing = await self._network.standing(lane.sender, tuple(hashes))
            lane.claimed |= {hashes[tx_hash] for tx_hash in standing.receipts}

    async def settle(self, head: BlockHead, standing: Standing) -> Sequence[Outcome]:
        """Move every nonce to where the chain says it is, and return the plans that ended.

        Raises: StoreFailed, with nothing changed; Transient.
        """
        doubted = frozenset(self._finality.doubted)
        await self._finality.settle(head, standing, self._blocks)
        self._lane.claimed -= doubted.difference(self._finality.doubted)  # what is known to be gone leaves a gap
        changes = []
        looks = await self._confirmed([(slot, look(slot, standing, self._blocks)) for slot in self._lane.ordered], head)
        for slot, found in looks:
            change = await self._look(slot, found, head)
            if change is not None:
                changes.append(change)
        if not changes:
            return ()
        endings = [Ending(change.entry.intent.id, change.outcome) for change in changes if change.outcome is not None]
        self._observer.reached("before_receipt_commit")
        await self._journal.commit(Changes(tuple(change.entry for change in changes), tuple(endings)))
        self._observer.reached("after_receipt_commit")
        for change in changes:
            self._apply(change, head)
        for change in changes:
            if change.is_intruded:
                await self._gate.intruded(head, change.slot.nonce)
        return [ending.outcome for ending in endings]

    async def _confirmed(self, looks: Sequence[tuple[Slot, Look]], head: BlockHead) -> Sequence[tuple[Slot, Look]]:
        """Have receipts that would be final confirmed by a second node; what it does not tell alike was never mined."""
        asked = [
            found.receipt for _, found in looks if found.receipt and self._is_deep(found.receipt.block_number, head)
        ]
        if not asked:
            return looks
        known = await self._network.confirmed(asked)
        doubted = {each.tx_hash for each in asked if known.get(each.tx_hash) != each}
        for tx_hash in doubted:
            self._observer.event("rpc.inconsistent", method="eth_getTransactionReceipt", tx_hash=f"0x{tx_hash.hex()}")
        return [
            (slot, Look(Phase.PENDING, is_denied=True) if found.receipt and found.receipt.tx_hash in doubted else found)
            for slot, found in looks
        ]

    def _is_ours(self, inclusion: Inclusion) -> bool:
        """Return whether an unbroken chain of parents leads from the newest head to a block."""
        return self._blocks.get(inclusion.block) == inclusion.block_hash

    def _is_deep(self, block: int, head: BlockHead) -> bool:
        return is_deep(block, head, self._policy.confirmations)

    async def _look(self, slot: Slot, found: Look, head: BlockHead) -> _Change | None:
        intent = slot.entry.intent
        before = intent.inclusion
        change = _Change(slot, slot.entry)
        if found.phase is not Phase.USED:
            slot.used_heads = 0
        if found.phase is Phase.PENDING and not found.is_denied and before is not None and self._is_ours(before):
            return None  # a node that lags: the block is on our chain, so that what it lacks is unknown and not absent
        slot.has_landed = _has_landed(found.receipt, head)
        if found.phase is Phase.PENDING:
            if before is None:
                return None
            change.entry = replace(slot.entry, intent=unmined(intent))
            change.events.append(("tx.reorged", self._named(slot, before.tx_hash)))
            return change
        if found.receipt is not None:
            now = mined(intent, found.receipt)
            if before is not None and before != now.inclusion:
                change.events.append(("tx.reorged", self._named(slot, before.tx_hash)))
            if before != now.inclusion:
                change.entry = replace(slot.entry, intent=now)
                change.events.append(self._mined_event(slot, found.receipt))
        elif before is None or before.tx_hash is not None:
            slot.used_heads += 1
            if slot.used_heads < self._policy.foreign_after_heads:
                return None
            change.entry = replace(slot.entry, intent=foreign(intent, head))
            who = await self._stranger(slot)
            change.is_intruded = not who["is_ours"]
            change.events.append(("tx.foreign_nonce", who))
        return await self._conclude(change, found.receipt, head)

    async def _conclude(self, change: _Change, receipt: Receipt | None, head: BlockHead) -> _Change | None:
        """End a nonce that is deep enough; None when nothing changed."""
        inclusion = change.entry.intent.inclusion
        if inclusion is None or not self._is_deep(inclusion.block, head):
            return change if change.events else None
        realised: Realised | None = None
        revert = None
        opportunity = change.entry.intent.opportunity
        if opportunity is not None and receipt is not None:
            realised = self._simulator.realised(opportunity, receipt.logs)
            if not receipt.succeeded:
                revert = await self._why(change.entry, receipt)
        rival = self._rivals.get(step_of(opportunity)) if opportunity else None
        change.outcome = outcome(change.entry, receipt, realised, rival, revert)
        change.entry = closed(change.entry, head.timestamp_s)
        change.is_over, change.receipt = True, receipt
        change.events.append(("tx.finalized", self._named(change.slot, inclusion.tx_hash)))
        return change

    async def _why(self, entry: Entry, receipt: Receipt) -> tuple[Reason, str] | None:
        """Run a reverted call again on the state of its block; None when it works there."""
        key = entry.intent.opportunity.key if entry.intent.opportunity else None
        try:
            again = await self._network.call(entry.intent.call, sender=self._lane.sender, block_hash=receipt.block_hash)
        except (Transient, Stale):
            return Reason.REVERTED, "the state of its block is not available any more"
        return None if again.ok else self._simulator.explain(key, again.data)

    async def _stranger(self, slot: Slot) -> Mapping[str, object]:
        """Tell whether a nonce that is not ours any more was used by something that we had signed and given up."""
        entries = await self._journal.entries_at(slot.nonce)
        given_up = [
            attempt.tx_hash
            for entry in entries
            if entry.intent.id != slot.entry.intent.id
            for attempt in entry.attempts
        ]
        if given_up:
            standing = await self._network.standing(self._lane.sender, given_up)
            for tx_hash in standing.receipts:
                return {**self._named(slot, tx_hash), "is_ours": True}
        return {**self._named(slot, None), "is_ours": False}

    def _apply(self, change: _Change, head: BlockHead) -> None:
        slot, now = change.slot, change.entry.intent.inclusion
        slot.entry = change.entry
        if now is None:
            slot.is_suspect, slot.sent_block, slot.waiting_block = True, -1, head.number
        for name, fields in change.events:
            self._observer.event(name, **fields)
            if name.startswith("tx."):
                self._observer.transaction(name.removeprefix("tx."))
        if change.is_over and now is not None:
            del self._lane.slots[slot.nonce]
            self._observer.gas_spent(now.gas_cost_wei)
            self._observer.inclusion(now.block - change.entry.attempts[0].first_block)
            if change.receipt is not None:
                self._finality.book(slot, succeeded=change.receipt.succeeded)

    def _mined_event(self, slot: Slot, receipt: Receipt) -> Event:
        if attempt_of(slot.entry, receipt.tx_hash).kind is AttemptKind.CANCEL:
            name = "tx.cancelled"
        else:
            name = "tx.mined" if receipt.succeeded else "tx.reverted"
        fields = self._named(slot, receipt.tx_hash)
        return name, {**fields, "block": receipt.block_number, "gas_used": receipt.gas_used}

    def _named(self, slot: Slot, tx_hash: TxHash | None) -> Mapping[str, object]:
        return {
            "intent_id": slot.entry.intent.id,
            "plan_id": slot.entry.intent.plan_id,
            "nonce": slot.nonce,
            "tx_hash": f"0x{tx_hash.hex()}" if tx_hash else None,
        }


def _has_landed(receipt: Receipt | None, head: BlockHead) -> bool:
    """Return whether a transaction succeeded in a block that the head's state includes."""
    return receipt is not None and receipt.succeeded and receipt.block_number <= head.number
