"""The journal as the sender uses it: what it refuses is told, and so is that it works again."""

from collections.abc import Sequence
from dataclasses import replace

from keeper.domain.outcome import Reason
from keeper.execution.ports import Observer
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import Changes, Entry, Intent, IntentState


class Stock:
    """Commits, and remembers whether that fails at present."""

    def __init__(self, journal: Journal, observer: Observer) -> None:
        """Write to `journal`."""
        self.journal = journal
        self._observer = observer
        self._is_failing = False
        self._unsigned: dict[str, Intent] = {}

    async def commit_unsigned(self, intents: Sequence[Intent]) -> None:
        """Store intents before a remote signer hears of them; `commit` then stores what became of them.

        Those for which it never could are orphans: their nonces were free again, and they are void from here on.
        Raises: StoreFailed, with nothing stored; Fenced.
        """
        named = {intent.id: intent for intent in intents}
        orphans = [
            Entry(replace(each, state=IntentState.VOID, reason=Reason.STORAGE), ())
            for each in self._unsigned.values()
            if each.id not in named
        ]
        await self.journal.commit(Changes((*orphans, *(Entry(intent, ()) for intent in intents))))
        self._unsigned = named

    async def commit(self, changes: Changes) -> None:
        """Store all changes, on the disk when this returns.

        Raises: StoreFailed, with nothing stored; Fenced.
        """
        await self.journal.commit(changes)
        for entry in changes.entries:
            self._unsigned.pop(entry.intent.id, None)

    def refuse_unless_passing(self, error: StoreFailed) -> None:
        """Raise a fault that no waiting cures; tell of the others."""
        if not error.is_passing:
            raise error
        self._is_failing = True
        name = "storage.full" if error.fault is Fault.FULL else "storage.error"
        self._observer.event(name, error=str(error), fault=error.fault.value)

    def works(self) -> None:
        """Take that it was written to; tell so where it failed before."""
        if self._is_failing:
            self._is_failing = False
            self._observer.event("storage.recovered")
