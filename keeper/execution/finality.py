"""What is booked for good, as long as a reorganisation could still undo it: looked up again when one may have."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.units import Address, BlockHash, TxHash
from keeper.errors import Stale, Transient
from keeper.execution.lane import Slot
from keeper.execution.ports import Gate, Network, Observer
from keeper.execution.settle import attempt_of, closed, look, mined
from keeper.store.journal import Journal
from keeper.store.records import AttemptState, Changes, Entry, Inclusion

KEPT_BLOCKS: Final = 256
"""How far back of the head what is booked can still be missed: deeper than any reorganisation that was ever seen."""
_OUTLASTING: Final = 8
"""How many times longer nobody may find a receipt whose nonce is used: some nodes are slow to know their receipts."""


@dataclass(slots=True)
class _Booked:
    """One nonce that one of ours has used for good.

    `succeeded` is None where an earlier process saw the receipt. `misses` counts the heads in a row without it.
    """

    slot: Slot
    succeeded: bool | None
    is_doubted: bool = False
    is_told: bool = False
    misses: int = 0


class Finality:
    """Finds out when something that counted as final is gone. It asks nothing as long as every head follows the last."""

    def __init__(
        self, *, sender: Address, journal: Journal, network: Network, gate: Gate, observer: Observer, patience: int
    ) -> None:
        """Believe that something of `sender` is gone after `patience` heads in a row without it, and shut `gate` then."""
        self._sender = sender
        self._journal = journal
        self._network = network
        self._gate = gate
        self._observer = observer
        self._patience = patience
        self._booked: dict[int, _Booked] = {}

    @property
    def doubted(self) -> Collection[int]:
        """Return the nonces of what has to be found again. Nothing else may use them before it is known to be gone."""
        return [nonce for nonce, each in self._booked.items() if each.is_doubted]

    @property
    def hashes(self) -> Sequence[TxHash]:
        """Return the transactions to ask for: any attempt may have come back in place of the one that was booked."""
        return [attempt.tx_hash for nonce in self.doubted for attempt in self._booked[nonce].slot.entry.attempts]

    async def recall(self, head: BlockHead) -> None:
        """Take what earlier processes have booked; who knows what happened since.

        Raises: StoreFailed.
        """
        for entry in await self._journal.booked_since(head.number - KEPT_BLOCKS):
            self._booked.setdefault(entry.intent.nonce, _Booked(Slot(entry, -1, -1), succeeded=None, is_doubted=True))

    def book(self, slot: Slot, *, succeeded: bool) -> None:
        """Take a nonce whose end was committed."""
        self._booked[slot.nonce] = _Booked(slot, succeeded)

    def follow(self, head: BlockHead, *, is_linked: bool) -> None:
        """Take a head; unless it is `is_linked` to the last one, blocks may have been replaced, and all is doubted."""
        kept = {nonce: each for nonce, each in self._booked.items() if _block(each) > head.number - KEPT_BLOCKS}
        self._booked = kept
        for each in kept.values():
            each.is_doubted = each.is_doubted or not is_linked

    async def settle(self, head: BlockHead, standing: Standing, blocks: Mapping[int, BlockHash]) -> None:
        """Compare what is doubted with what a node says of it.

        Raises: StoreFailed, after which the same is done again at the next head.
        """
        for nonce in self.doubted:
            booked = self._booked[nonce]
            found = look(booked.slot, standing, blocks).receipt
            if found is None or not _is_alike(booked, found):
                booked.misses += 1
                if await self._is_gone(booked, found, head):
                    await self._violated(booked, found, head)
                continue
            entry, now = booked.slot.entry, _again(booked.slot.entry, found, head)
            if now != entry:
                await self._journal.commit(Changes((now,)))
                booked.slot.entry = now
                self._observer.event("tx.reorged", **_named(entry), block=found.block_number)
            booked.is_doubted, booked.misses = False, 0

    async def _is_gone(self, booked: _Booked, found: Receipt | None, head: BlockHead) -> bool:
        """Return whether to believe it: where the chain's own count at the head, as nodes agree, says so, soon."""
        if booked.misses < self._patience:
            return False
        if found is not None or booked.misses >= _OUTLASTING * self._patience:
            return True
        try:
            funds = await self._network.funds(self._sender, head)
        except (Transient, Stale):
            return False
        return funds.nonce <= booked.slot.nonce

    async def _violated(self, booked: _Booked, found: Receipt | None, head: BlockHead) -> None:
        """Halt first, so that a crash in between finds the same again; then book what the nonce was used by, if at all."""
        entry, depth = booked.slot.entry, head.number - _block(booked) + 1
        named = _named(entry)
        if not booked.is_told:  # and not again where the store fails now
            booked.is_told = True
            self._observer.event("chain.finality_violation", depth=depth, **named)
        await self._gate.violated(head, f"{named['tx_hash']} is gone, {depth} blocks deep")
        await self._journal.commit(Changes((_again(entry, found, head) if found else _undone(entry),)))
        del self._booked[booked.slot.nonce]


def _block(booked: _Booked) -> int:
    inclusion = booked.slot.entry.intent.inclusion
    return inclusion.block if inclusion else 0


def _is_alike(booked: _Booked, found: Receipt) -> bool:
    """Return whether a receipt stands for the end that was booked: the same kind of attempt, and the same status."""
    entry = booked.slot.entry
    before = entry.intent.inclusion
    if before is None or before.tx_hash is None:
        return False
    is_same_kind = attempt_of(entry, found.tx_hash).kind is attempt_of(entry, before.tx_hash).kind
    return is_same_kind and booked.succeeded in {None, found.succeeded}


def _again(entry: Entry, found: Receipt, head: BlockHead) -> Entry:
    """Note where a nonce was used this time; its outcome stays as it was told."""
    return closed(Entry(mined(entry.intent, found), entry.attempts), entry.intent.settled_s or head.timestamp_s)


def _undone(entry: Entry) -> Entry:
    """Note that nothing of ours has used a nonce; its outcome stays likewise."""
    before = entry.intent.inclusion
    inclusion = Inclusion(None, before.block, before.block_hash) if before else None
    attempts = tuple(replace(each, state=AttemptState.REPLACED) for each in entry.attempts)
    return Entry(replace(entry.intent, inclusion=inclusion), attempts)


def _named(entry: Entry) -> Mapping[str, object]:
    inclusion = entry.intent.inclusion
    return {
        "intent_id": entry.intent.id,
        "plan_id": entry.intent.plan_id,
        "nonce": entry.intent.nonce,
        "tx_hash": f"0x{inclusion.tx_hash.hex()}" if inclusion and inclusion.tx_hash else None,
    }
