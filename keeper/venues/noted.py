"""Which pools have to be read again, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keeper.domain.units import Address


@dataclass(frozen=True, slots=True)
class Note:
    """Why a pool has to be read again: something changed there up to a block, and perhaps at some ticks.

    `is_all`: nothing that is known of it counts any more.
    """

    block: int
    is_all: bool = False
    ticks: frozenset[int] = frozenset()


class Noted:
    """What is noted of pools, each as one note that is never changed: another one takes its place."""

    def __init__(self) -> None:
        self._notes: dict[Address, Note] = {}

    @property
    def waiting(self) -> Mapping[Address, Note]:
        """Return the notes as they are now."""
        return dict(self._notes)

    def add(self, pool: Address, note: Note) -> None:
        """Note one more thing of a pool."""
        old = self._notes.get(pool, note)
        block, ticks = max(old.block, note.block), old.ticks | note.ticks
        self._notes[pool] = Note(block, old.is_all or note.is_all, ticks)

    def distrust(self, pools: Iterable[Address]) -> None:
        """Note that nothing that is known of some pools counts any more."""
        for pool in pools:
            self.add(pool, Note(0, is_all=True))

    def settle(self, pool: Address, note: Note, block: int) -> None:
        """Forget a note that a pool was read for at a block, unless there is more to read by now."""
        if note.block <= block and self._notes.get(pool) is note:
            del self._notes[pool]
