"""The journal of one signer: what was decided to be sent, committed before any of it leaves the process."""

from typing import Final

from sqlalchemy import ColumnElement, Connection, false, func, insert, or_, select

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address, Wei
from keeper.store.codec import attempt_row, intent_row, outcome_row, read_attempt, read_intent
from keeper.store.database import Database
from keeper.store.lease import Lease
from keeper.store.records import Attempt, AttemptKind, Changes, Entry, IntentState, Purpose, Settled
from keeper.store.schema import attempt, intent, outcome
from keeper.store.upsert import upsert

OPEN: Final = (IntentState.LIVE.value, IntentState.MINED.value)


class Journal:
    """Durable intents, attempts and outcomes of `sender`."""

    def __init__(self, database: Database, sender: Address, lease: Lease | None = None) -> None:
        """Keep one signer's rows apart from those of any other key that used the same store.

        With a lease nothing is committed unless it is held at that instant.
        """
        self._database = database
        self._lease = lease
        self.sender = sender

    async def commit(self, changes: Changes) -> None:
        """Store all changes in one transaction; they are on the disk when this returns.

        Raises: StoreFailed, Fenced, with nothing stored.
        """

        def work(connection: Connection) -> None:
            if self._lease is not None:
                self._lease.guard(connection)
            upsert(connection, intent, [intent_row(entry.intent) for entry in changes.entries])
            attempts = [
                attempt_row(entry.intent.id, number, each)
                for entry in changes.entries
                for number, each in enumerate(entry.attempts)
            ]
            upsert(connection, attempt, attempts)
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

    async def booked_since(self, block: int) -> tuple[Entry, ...]:
        """Return every intent that one of our transactions in a block or later has ended, by nonce."""
        is_ours = (intent.c.state == IntentState.FINAL.value) & intent.c.mined_tx.is_not(None)
        condition = is_ours & (intent.c.mined_block >= block)
        return await self._database.run(lambda connection: self._entries(connection, condition))

    async def highest_nonce(self) -> int | None:
        """Return the highest nonce that was used and not voided, or None."""
        query = select(func.max(intent.c.nonce)).where(
            intent.c.sender == self.sender, intent.c.state != IntentState.VOID.value
        )
        found = await self._database.run(lambda connection: connection.execute(query).scalar_one())
        return None if found is None else int(found)

    async def begun_since(self, at_s: int) -> tuple[tuple[int, Reason | None], ...]:
        """Return when each intent began that began at a time or later, oldest first, and why it was voided if it was."""
        query = (
            select(intent.c.created_s, intent.c.state, intent.c.reason)
            .where(intent.c.sender == self.sender, intent.c.created_s >= at_s)
            .order_by(intent.c.created_s)
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return tuple(
            (created_s, Reason(reason) if reason and state == IntentState.VOID.value else None)
            for created_s, state, reason in rows
        )

    async def settled_since(self, at_s: int) -> tuple[Settled, ...]:
        """Return every intent that cost gas and was settled at a time or later, oldest first.

        A loss is a plan that was not won, a gap filler, a cancellation; an approval or a settlement that worked is none.
        """
        bought_nothing = or_(
            intent.c.purpose == Purpose.GAP.value,
            attempt.c.kind == AttemptKind.CANCEL.value,
            outcome.c.result != Result.WON.value,
            intent.c.reason == Reason.REVERTED.value,  # what has no outcome of its own: an approval
        )
        query = (
            select(
                intent.c.id,
                intent.c.created_s,
                intent.c.settled_s,
                intent.c.gas_cost_wei,
                func.coalesce(bought_nothing, false()),
                outcome.c.result,
            )
            .join(attempt, attempt.c.tx_hash == intent.c.mined_tx)
            .outerjoin(outcome, outcome.c.intent_id == intent.c.id)
            .where(intent.c.sender == self.sender, intent.c.state == IntentState.FINAL.value)
            .where(intent.c.settled_s >= at_s)
            .order_by(intent.c.settled_s)
        )
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return tuple(
            Settled(key, created_s, settled_s, Wei(cost), bool(is_loss), Result(result) if result else None)
            for key, created_s, settled_s, cost, is_loss, result in rows
        )

    def _entries(self, connection: Connection, condition: ColumnElement[bool]) -> tuple[Entry, ...]:
        query = select(intent).where(intent.c.sender == self.sender, condition)
        rows = connection.execute(query.order_by(intent.c.nonce, intent.c.created_block)).mappings().all()
        return tuple(Entry(read_intent(row), _attempts(connection, row["id"])) for row in rows)


def _attempts(connection: Connection, intent_id: str) -> tuple[Attempt, ...]:
    query = select(attempt).where(attempt.c.intent_id == intent_id).order_by(attempt.c.number, attempt.c.first_block)
    return tuple(read_attempt(row) for row in connection.execute(query).mappings())
