"""The private route: what is shown to relays alone, until when, and how that ends.

Only what there is to hide goes there: the sending of a liquidation. Allowances, gap fillers and cancellations go to
every node, as an empty transfer and an allowance tell nobody anything. A bundle carries all our nonces in front of the
one that it is for, the public ones included, as it could not be mined without them.

A nonce that a relay has seen is never used for anything else: up to the expiry only for the same call, hidden, or for a
public cancellation; after it for the same call in public, or for a cancellation. Whichever is mined, it is one of ours
and in the journal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from keeper.domain.chain import Call
from keeper.domain.units import TxHash
from keeper.execution.lane import Lane
from keeper.execution.ports import Observer
from keeper.execution.relay import RelayAnswer, Word
from keeper.execution.signer import APPROVE
from keeper.execution.stock import Stock
from keeper.store.faults import StoreFailed
from keeper.store.records import Attempt, AttemptKind, Changes, Route


class PrivateMethod(StrEnum):
    """How a transaction is handed to relays."""

    TRANSACTION = "transaction"
    """`eth_sendPrivateTransaction`: by itself, to be included whenever it fits."""
    BUNDLE = "bundle"
    """`eth_sendBundle`: for one block, with all our nonces in front of it; again at every head."""


class Fallback(StrEnum):
    """What becomes of a transaction that no relay had included in time, or that no relay could be given."""

    PUBLIC = "public"
    """Every node sees it, with the same nonce."""
    CANCEL = "cancel"
    """An empty transfer that every node sees takes its nonce."""


@dataclass(frozen=True, slots=True)
class PrivatePolicy:
    """How the private route is used, where there is one. `blocks`: how many blocks relays have to include it."""

    method: PrivateMethod = PrivateMethod.TRANSACTION
    blocks: int = 5
    fallback: Fallback = Fallback.PUBLIC


class Relays(Protocol):
    """All relays at once. Nothing here ever raises: each relay's answer is data."""

    async def send_transaction(self, raw: bytes, *, tx_hash: TxHash, last_block: int) -> Sequence[RelayAnswer]:
        """Hand over one transaction, to be in a block up to `last_block`."""
        ...

    async def send_bundle(self, raws: Sequence[bytes], *, block: int, name: bytes) -> Sequence[RelayAnswer]:
        """Hand over transactions for one block, in place of the bundle that had the same name."""
        ...

    def withdraw_transaction(self, tx_hash: TxHash) -> None:
        """Ask to forget a transaction."""
        ...

    def withdraw_bundle(self, name: bytes) -> None:
        """Ask to forget a bundle."""
        ...


class PrivateRoute:
    """Decides what is hidden, and hands it over. Only ever called by one task at a time."""

    def __init__(
        self, *, lane: Lane, stock: Stock, relays: Relays | None, policy: PrivatePolicy, observer: Observer
    ) -> None:
        """Hide what `lane` sends; without relays only what a former run left is still hidden until it expires."""
        self.policy = policy
        self._lane = lane
        self._stock = stock
        self._relays = relays
        self._observer = observer

    def expiry(self, call: Call, kind: AttemptKind, block: int) -> int | None:
        """Return the last block for a new transaction that is to be hidden, or None: every node is to see it."""
        is_secret = kind is AttemptKind.SEND and len(call.data) >= 4 and call.data[:4] != APPROVE
        return block + self.policy.blocks if is_secret and self._relays is not None else None

    async def submit(self, attempt: Attempt, block: int) -> Sequence[RelayAnswer]:
        """Hand a hidden attempt to every relay, for the blocks after `block` up to its expiry.

        Where all refuse it, it deserves a fresh look at the next head.
        """
        answers = await self._submitted(attempt, block)
        for answer in answers:
            if answer.word is not Word.TAKEN:
                self._observer.event(
                    "relay.failed",
                    relay=answer.relay,
                    word=answer.word.value,
                    detail=answer.detail,
                    nonce=attempt.nonce,
                )
        slot = self._lane.slots.get(attempt.nonce)
        if slot is not None and answers and all(answer.word is Word.REFUSED for answer in answers):
            slot.is_suspect = True
        return answers

    def withdraw(self, attempt: Attempt, successor: Attempt) -> None:
        """Ask relays to forget a hidden attempt; a bundle has taken the place of the one before it by itself."""
        if self._relays is None:
            return
        if self.policy.method is PrivateMethod.TRANSACTION:
            self._relays.withdraw_transaction(attempt.tx_hash)
        elif not is_hidden(successor):
            self._relays.withdraw_bundle(self._name(attempt))

    async def unhide(self, attempts: Sequence[Attempt]) -> bool:
        """Note that every node will see attempts that no relay has seen; return whether that is in the journal.

        Raises: StoreFailed that no waiting cures; Fenced.
        """
        slots = [self._lane.slots[attempt.nonce] for attempt in attempts]
        entries = [
            replace(
                slot.entry,
                attempts=tuple(
                    unhidden(each) if each.tx_hash == attempt.tx_hash else each for each in slot.entry.attempts
                ),
            )
            for slot, attempt in zip(slots, attempts, strict=True)
        ]
        try:
            await self._stock.commit(Changes(tuple(entries)))
        except StoreFailed as error:
            self._stock.refuse_unless_passing(error)
            return False
        for slot, entry in zip(slots, entries, strict=True):
            slot.entry = entry
        return True

    async def _submitted(self, attempt: Attempt, block: int) -> Sequence[RelayAnswer]:
        if self._relays is None:
            return ()
        if self.policy.method is PrivateMethod.BUNDLE:
            line = self._line(attempt)
            if line is None:
                return ()
            return await self._relays.send_bundle(line, block=block + 1, name=self._name(attempt))
        last_block = attempt.expires_block or block + 1
        return await self._relays.send_transaction(attempt.raw, tx_hash=attempt.tx_hash, last_block=last_block)

    def _line(self, attempt: Attempt) -> Sequence[bytes] | None:
        """Return all our nonces up to an attempt's, or None where one of them is nobody's: nothing can be mined then."""
        raws = []
        for nonce in range(self._lane.mined_nonce, attempt.nonce):
            slot = self._lane.slots.get(nonce)
            if slot is None:
                return None
            raws.append(slot.newest.raw)
        return [*raws, attempt.raw]

    def _name(self, attempt: Attempt) -> bytes:
        return self._lane.sender + attempt.nonce.to_bytes(8)


def is_hidden(attempt: Attempt) -> bool:
    """Return whether only relays may see an attempt."""
    return attempt.route is Route.PRIVATE


def is_over(attempt: Attempt, block: int) -> bool:
    """Return whether no block after `block` is left to relays for a hidden attempt."""
    return is_hidden(attempt) and block >= (attempt.expires_block or 0)


def has_expired(attempt: Attempt, block: int) -> bool:
    """Return whether the last block that relays had for a hidden attempt is on the chain, with another on it."""
    return is_hidden(attempt) and block > (attempt.expires_block or 0)


def unhidden(attempt: Attempt) -> Attempt:
    """Return an attempt as every node may see it; until when it was hidden stays in the journal."""
    return replace(attempt, route=Route.PUBLIC)
