"""How an older store becomes a newer one: one transaction for all steps, never backwards."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Column, Connection, insert, inspect, select, text, update
from sqlalchemy.schema import CreateColumn, CreateIndex

from keeper.store.faults import Fault, Place, StoreFailed
from keeper.store.schema import (
    attempt,
    control,
    decision,
    intent,
    lease,
    meta,
    metadata,
    outcome,
    saved_market,
    saved_position,
    version_table,
)

Reached = Callable[[str], None]
"""Is told each step that a crash could interrupt: the place of a test's failpoint."""

Step = Callable[[Connection], None]


def _create_everything(connection: Connection) -> None:
    metadata.create_all(connection)


def _tell_positions_apart(connection: Connection) -> None:
    """Give an account's positions parts, and opportunities the words that their calls are made of."""
    for table in (intent, outcome, decision):
        if all(each["name"] != "part" for each in inspect(connection).get_columns(table.name)):
            connection.execute(text(f"ALTER TABLE {table.name} ADD COLUMN part BLOB NOT NULL DEFAULT x''"))
    for table, key in ((intent, intent.c.id), (outcome, outcome.c.intent_id)):
        stored = select(key, table.c.opportunity).where(table.c.opportunity.is_not(None))
        for row, document in connection.execute(stored).all():
            fields = json.loads(document)
            if "at_s" in fields:
                fields["id"], fields["at"] = fields.pop("account"), [0, int(fields.pop("at_s"))]
                fields |= {"target": fields["spender"], "terms": "", "action": "liquidate"}
                rewritten = json.dumps(fields, separators=(",", ":"), sort_keys=True)
                connection.execute(update(table).where(key == row).values(opportunity=rewritten))


def _time_and_route(connection: Connection) -> None:
    """Note when intents began and ended, how attempts went out and in what order, and make room for what is new."""
    for column in (intent.c.created_s, intent.c.settled_s):
        _add_column(connection, column)
    for column in (attempt.c.route, attempt.c.expires_block):
        _add_column(connection, column)
    if _add_column(connection, attempt.c.number):
        connection.execute(text("UPDATE attempt SET number = rowid"))  # only SQLite has files as old as this
    metadata.create_all(connection, [control, lease, saved_market, saved_position])
    known = {each["name"] for each in inspect(connection).get_indexes(intent.name)}
    for index in intent.indexes:
        if index.name not in known:
            connection.execute(CreateIndex(index))


def _profit(connection: Connection) -> None:
    """Make room for what the executor brought."""
    _add_column(connection, outcome.c.profit_amount)


def _add_column(connection: Connection, column: Column[Any]) -> bool:
    """Add a column that a table of the first version does not have; return whether it was missing."""
    table = column.table.name
    if any(each["name"] == column.name for each in inspect(connection).get_columns(table)):
        return False
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {definition}"))
    return True


STEPS: Final[Sequence[Step]] = (_create_everything, _tell_positions_apart, _time_and_route, _profit)
"""What turns version n into version n + 1. A released step is never edited: a new one is appended."""


def migrate(
    connection: Connection, place: Place, steps: Sequence[Step] = STEPS, *, reached: Reached | None = None
) -> None:
    """Bring the store to this program's version inside the caller's transaction.

    Raises: StoreFailed when a newer program wrote it.
    """
    found = read_version(connection)
    if found > len(steps):
        raise StoreFailed(Fault.SCHEMA, place, f"version {found}, this program knows {len(steps)}")
    for step in steps[found:]:
        step(connection)
    if found < len(steps) and reached is not None:
        reached("mid_migration")
    if found == 0:
        connection.execute(insert(version_table).values(version=len(steps)))
    elif found < len(steps):
        connection.execute(update(version_table).values(version=len(steps)))


def read_version(connection: Connection) -> int:
    """Return the file's schema version, 0 for an empty file."""
    if not inspect(connection).has_table(version_table.name):
        return 0
    found = connection.execute(select(version_table.c.version)).scalar_one()
    return int(found)


def require_current(connection: Connection, place: Place) -> None:
    """Refuse to read a file of any version but this program's.

    Raises: StoreFailed.
    """
    found = read_version(connection)
    if found != len(STEPS):
        fault = Fault.OUTDATED if 0 < found < len(STEPS) else Fault.SCHEMA
        raise StoreFailed(fault, place, f"version {found}, this program reads {len(STEPS)}")


def claim_chain(connection: Connection, place: Place, chain_id: int) -> None:
    """Bind a new file to its chain, and refuse another chain's file.

    Raises: StoreFailed.
    """
    found = connection.execute(select(meta.c.value).where(meta.c.name == "chain_id")).scalar_one_or_none()
    if found is None:
        connection.execute(insert(meta).values(name="chain_id", value=str(chain_id)))
    elif found != str(chain_id):
        raise StoreFailed(Fault.OTHER_CHAIN, place, f"it belongs to chain {found}, not {chain_id}")


def check_pages(connection: Connection, place: Place) -> None:
    """Refuse a file with a damaged page.

    Raises: StoreFailed.
    """
    verdict = str(connection.execute(text("PRAGMA quick_check(1)")).scalar_one())
    if verdict != "ok":
        raise StoreFailed(Fault.CORRUPT, place, verdict[:120])
