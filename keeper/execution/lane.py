"""The one owner of the signer's nonces: which are in flight, which is next, and which are nobody's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from keeper.domain.position import PositionKey
from keeper.domain.units import Address
from keeper.execution.fees import FeeQuote
from keeper.execution.simulate import Pending, Step, allowance_of, step_of
from keeper.store.records import Attempt, AttemptKind, AttemptState, Entry, IntentState


@dataclass(slots=True)
class Slot:
    """One nonce in flight. The entry is what the journal holds; the rest is only remembered.

    `sent_block` is when bytes last went out, `waiting_block` since when the newest attempt could have been mined.
    `used_heads` counts the heads at which the nonce was used up and none of our transactions was found.
    `is_suspect` asks for a fresh look: somebody else took the account, or we have just started. `has_landed`: it is in a
    block and succeeded, though not final, so its account may be planned for again.
    """

    entry: Entry
    sent_block: int
    waiting_block: int
    used_heads: int = 0
    is_suspect: bool = False
    is_underpriced: bool = False
    has_landed: bool = False

    @property
    def nonce(self) -> int:
        """Return the nonce."""
        return self.entry.intent.nonce

    @property
    def key(self) -> PositionKey | None:
        """Return the position that it locks."""
        opportunity = self.entry.intent.opportunity
        return opportunity.key if opportunity else None

    @property
    def step(self) -> Step | None:
        """Return what it does to that position."""
        opportunity = self.entry.intent.opportunity
        return step_of(opportunity) if opportunity else None

    @property
    def is_live(self) -> bool:
        """Return whether it was not mined yet."""
        return self.entry.intent.state is IntentState.LIVE

    @property
    def newest(self) -> Attempt:
        """Return the attempt with the highest bid that a node may hold."""
        standing = [each for each in self.entry.attempts if each.state is not AttemptState.REFUSED]
        return (standing or self.entry.attempts)[-1]

    @property
    def is_cancelling(self) -> bool:
        """Return whether the nonce is being taken away from its intent."""
        return self.newest.kind is AttemptKind.CANCEL

    @property
    def bid(self) -> FeeQuote:
        """Return what a replacement has to beat."""
        return FeeQuote(self.newest.max_fee_wei, self.newest.tip_wei)

    @property
    def worst_cost_wei(self) -> int:
        """Return what it takes from the signer at most."""
        gas = max(each.gas_limit * each.max_fee_wei for each in self.entry.attempts)
        return gas + self.entry.intent.call.value_wei


@dataclass(slots=True)
class Lane:
    """Nonces are given out without gaps: the next is the chain's, or the one after our own last if that is higher.

    `own_next` follows the last nonce of ours, and is None before the first. Somebody else's are never counted as ours:
    a reorg may give them back. `told_next` follows the last one that was looked at. `claimed` are those of nobody that
    something of ours has used all the same, by another answer than the chain's nonce.
    """

    sender: Address
    mined_nonce: int = 0
    own_next: int | None = None
    told_next: int | None = None
    slots: dict[int, Slot] = field(default_factory=dict)
    claimed: frozenset[int] = frozenset()

    @property
    def next_nonce(self) -> int:
        """Return the nonce of the next new transaction."""
        return max(self.mined_nonce, self.own_next or 0)

    @property
    def live(self) -> Sequence[Slot]:
        """Return what is not mined yet, by nonce."""
        return [slot for slot in self.ordered if slot.is_live]

    @property
    def ordered(self) -> Sequence[Slot]:
        """Return everything that is not over, by nonce."""
        return [self.slots[nonce] for nonce in sorted(self.slots)]

    @property
    def keys(self) -> frozenset[PositionKey]:
        """Return the positions that a transaction may still change."""
        return frozenset(slot.key for slot in self.slots.values() if slot.key is not None and not slot.has_landed)

    @property
    def pending(self) -> Pending:
        """Return what will run before anything new, and the allowances that it sets."""
        calls = tuple(slot.entry.intent.call for slot in self.live if not slot.is_cancelling)
        return Pending(calls, frozenset(found for call in calls if (found := allowance_of(call)) is not None))

    def observe(self, nonce: int) -> range:
        """Take the chain's nonce, and return the nonces beyond our own that somebody else has used."""
        self.mined_nonce = nonce
        known = [each for each in (self.own_next, self.told_next) if each is not None]
        self.told_next = max(nonce, *known) if known else nonce
        return range(max(known), nonce) if known else range(0)

    def add(self, entries: Iterable[Entry], block: int) -> None:
        """Take over entries that are in the journal."""
        for entry in entries:
            nonce = entry.intent.nonce
            self.slots[nonce] = Slot(entry, block, entry.attempts[-1].first_block)
            self.own_next = max(nonce + 1, self.own_next or 0)

    def void_tail(self, nonces: Iterable[int]) -> None:
        """Give back the highest nonces, which nobody will ever see used by what held them."""
        for nonce in sorted(nonces, reverse=True):
            del self.slots[nonce]
            self.own_next = nonce

    def holes(self) -> list[int]:
        """Return the nonces that the chain waits for and nobody holds."""
        nonces = range(self.mined_nonce, self.next_nonce)
        return [nonce for nonce in nonces if nonce not in self.slots and nonce not in self.claimed]
