"""The tables, and how an older file becomes a newer one: one transaction per step, never backwards."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    insert,
    inspect,
    select,
    text,
    update,
)

from keeper.store.faults import Fault, StoreFailed


class Amount(TypeDecorator[int]):
    """An integer of any size, kept as a decimal string: 64 bits are too few for wei."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> str | None:
        """Write the decimal digits."""
        del dialect
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Any) -> int | None:
        """Read the decimal digits."""
        del dialect
        return None if value is None else int(value)


def _part() -> Column[bytes]:
    """Return what stands beside an account where a market knows several positions of it."""
    return Column("part", LargeBinary, nullable=False, server_default=text("x''"))


metadata: Final = MetaData()

version_table: Final = Table("schema_version", metadata, Column("version", Integer, nullable=False))

meta: Final = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

intent: Final = Table(
    "intent",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sender", LargeBinary, nullable=False),
    Column("nonce", Integer, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("plan_id", Text),
    Column("market", Text),
    Column("account", LargeBinary),
    _part(),
    Column("target", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("value_wei", Amount, nullable=False),
    Column("gas_limit", Integer, nullable=False),
    Column("fee_limit_wei", Amount, nullable=False),
    Column("profit_base", Amount, nullable=False),
    Column("created_block", Integer, nullable=False),
    Column("reason", Text),
    Column("detail", Text, nullable=False),
    Column("opportunity", Text),
    Column("mined_tx", LargeBinary),
    Column("mined_block", Integer),
    Column("mined_hash", LargeBinary),
    Column("gas_cost_wei", Amount, nullable=False),
)
Index("intent_plan", intent.c.plan_id)
Index("intent_account", intent.c.account)
Index(
    "intent_open_nonce",
    intent.c.sender,
    intent.c.nonce,
    unique=True,
    sqlite_where=intent.c.state.in_(("live", "mined")),
)

attempt: Final = Table(
    "attempt",
    metadata,
    Column("tx_hash", LargeBinary, primary_key=True),
    Column("intent_id", Text, ForeignKey("intent.id"), nullable=False),
    Column("nonce", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("max_fee_wei", Amount, nullable=False),
    Column("tip_wei", Amount, nullable=False),
    Column("gas_limit", Integer, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("first_block", Integer, nullable=False),
)
Index("attempt_intent", attempt.c.intent_id)
Index("attempt_nonce", attempt.c.nonce)

outcome: Final = Table(
    "outcome",
    metadata,
    Column("intent_id", Text, ForeignKey("intent.id"), primary_key=True),
    Column("plan_id", Text, nullable=False),
    Column("market", Text, nullable=False),
    Column("account", LargeBinary, nullable=False),
    _part(),
    Column("result", Text, nullable=False),
    Column("reason", Text),
    Column("detail", Text, nullable=False),
    Column("block", Integer, nullable=False),
    Column("tx_hash", LargeBinary),
    Column("gas_cost_wei", Amount, nullable=False),
    Column("repaid_amount", Amount),
    Column("seized_amount", Amount),
    Column("opportunity", Text),
)
Index("outcome_block", outcome.c.block)

account: Final = Table(
    "account",
    metadata,
    Column("market", Text, primary_key=True),
    Column("address", LargeBinary, primary_key=True),
    Column("first_block", Integer, nullable=False),
    sqlite_with_rowid=False,
)

coverage: Final = Table(
    "coverage",
    metadata,
    Column("market", Text, primary_key=True),
    Column("from_block", Integer, nullable=False),
    Column("scanned_to", Integer, nullable=False),
    Column("scanned_hash", LargeBinary, nullable=False),
)

decision: Final = Table(
    "decision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("market", Text, nullable=False),
    Column("account", LargeBinary, nullable=False),
    _part(),
    Column("decision", Text, nullable=False),
    Column("reason", Text),
    Column("plan_id", Text),
    Column("first_block", Integer, nullable=False),
    Column("last_block", Integer, nullable=False),
    Column("heads", Integer, nullable=False),
    Column("health_factor_wad", Amount, nullable=False),
    Column("debt_base", Amount, nullable=False),
    Column("profit_base", Amount),
    Column("detail", Text, nullable=False),
)
Index("decision_account", decision.c.account, decision.c.last_block)
Index("decision_last_block", decision.c.last_block)

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


STEPS: Final[Sequence[Step]] = (_create_everything, _tell_positions_apart)
"""What turns version n into version n + 1. A released step is never edited: a new one is appended."""


def migrate(connection: Connection, path: Path, steps: Sequence[Step] = STEPS) -> None:
    """Bring the file to this program's version inside the caller's transaction.

    Raises: StoreFailed when a newer program wrote it.
    """
    found = read_version(connection)
    if found > len(steps):
        raise StoreFailed(Fault.SCHEMA, path, f"version {found}, this program knows {len(steps)}")
    for step in steps[found:]:
        step(connection)
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


def require_current(connection: Connection, path: Path) -> None:
    """Refuse to read a file of any version but this program's.

    Raises: StoreFailed.
    """
    found = read_version(connection)
    if found != len(STEPS):
        fault = Fault.OUTDATED if 0 < found < len(STEPS) else Fault.SCHEMA
        raise StoreFailed(fault, path, f"version {found}, this program reads {len(STEPS)}")


def claim_chain(connection: Connection, path: Path, chain_id: int) -> None:
    """Bind a new file to its chain, and refuse another chain's file.

    Raises: StoreFailed.
    """
    found = connection.execute(select(meta.c.value).where(meta.c.name == "chain_id")).scalar_one_or_none()
    if found is None:
        connection.execute(insert(meta).values(name="chain_id", value=str(chain_id)))
    elif found != str(chain_id):
        raise StoreFailed(Fault.OTHER_CHAIN, path, f"it belongs to chain {found}, not {chain_id}")


def check_pages(connection: Connection, path: Path) -> None:
    """Refuse a file with a damaged page.

    Raises: StoreFailed.
    """
    verdict = str(connection.execute(text("PRAGMA quick_check(1)")).scalar_one())
    if verdict != "ok":
        raise StoreFailed(Fault.CORRUPT, path, verdict[:120])
