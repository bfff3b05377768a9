"""The journal of one signer: what was decided to be sent, committed before any of it leaves the process."""

from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, Table, func, literal_column, select
from sqlalchemy.dialects.sqlite import insert

from keeper.domain.units import Address
from keeper.store.codec import attempt_row, intent_row, outcome_row, read_attempt, read_intent
from keeper.store.database import Database
from keeper.store.records import Attempt, Changes, Entry, IntentState
from keeper.store.schema import attempt, intent, outcome

OPEN: Final = (IntentState.LIVE.value, IntentState.MINED.value)
_ROWID: Final = literal_column("attempt.rowid", Integer)


class Journal:
    """Durable intents, attempts and outcomes of `sender`."""

    def __init__(self, database: Database, sender: Address) -> None:
        """Keep one signer's rows apart from those of any other key that used the same file."""
        self._database = database
        self.sender = sender

    async def commit(self, changes: Changes) -> None:
        """Store all changes in one transaction; they are on the disk when this returns.

        Raises: StoreFailed, with nothing stored.
        """

        def work(connection: Connection) -> None:
            _upsert(connection, intent, [intent_row(entry.intent) for entry in changes.entries])
            attempts = [attempt_row(entry.intent.id, each) for entry in changes.entries for each in entry.attempts]
            _upsert(connection, attempt, attempts)
            if changes.endings:
                connection.execute(insert(outcome), [outcome_row(ending) for ending in changes.endings])

        await self._database.run(work)

    async def open_entries(self) -> tuple[Entry, ...]:
        """Return every intent that is not over, by nonce."""
        return await self._database.run(lambda connection: self._entries(connection, intent.c.state.in_(OPEN)))

    async def entries_at(self, nonce: int) -> tuple[Entry, ...]:
        """Return everything that was ever signed for a nonce, the voided included."""
        return await self._database.run(lambda connection: self._entries(connection, intent.c.nonce == nonce))

    async def entries_of_plan(self, plan_id: str) -> tuple[Entry, ...]:
        """Return what was signed for a plan."""
        return await self._database.run(lambda connection: self._entries(connection, intent.c.plan_id == plan_id))

    async def highest_nonce(self) -> int | None:
        """Return the highest nonce that was used and not voided, or None."""
        query = select(func.max(intent.c.nonce)).where(
            intent.c.sender == self.sender, intent.c.state != IntentState.VOID.value
        )
        found = await self._database.run(lambda connection: connection.execute(query).scalar_one())
        return None if found is None else int(found)

    def _entries(self, connection: Connection, condition: ColumnElement[bool]) -> tuple[Entry, ...]:
        query = select(intent).where(intent.c.sender == self.sender, condition)
        rows = connection.execute(query.order_by(intent.c.nonce, intent.c.created_block)).mappings().all()
        return tuple(Entry(read_intent(row), _attempts(connection, row["id"])) for row in rows)


def _attempts(connection: Connection, intent_id: str) -> tuple[Attempt, ...]:
    query = select(attempt).where(attempt.c.intent_id == intent_id).order_by(_ROWID)
    return tuple(read_attempt(row) for row in connection.execute(query).mappings())


def _upsert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = insert(table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=changed), rows)
