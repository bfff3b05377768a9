"""The tables, the same in SQLite and PostgreSQL."""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement

WHOLE: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A block, a nonce, a time: 64 bits everywhere, which SQLite's own integer has anyway."""


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


class NoBytes(ColumnElement[bytes]):
    """An empty string of bytes in a table's definition, which the dialects write differently."""

    inherit_cache = True


@compiles(NoBytes)
def _sqlite_no_bytes(_element: NoBytes, _compiler: Any, **_: Any) -> str:
    return "x''"


@compiles(NoBytes, "postgresql")
def _postgresql_no_bytes(_element: NoBytes, _compiler: Any, **_: Any) -> str:
    return "''::bytea"


def _part() -> Column[bytes]:
    """Return what stands beside an account where a market knows several positions of it."""
    return Column("part", LargeBinary, nullable=False, server_default=NoBytes())


metadata: Final = MetaData()

version_table: Final = Table("schema_version", metadata, Column("version", WHOLE, nullable=False))

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
    Column("nonce", WHOLE, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("plan_id", Text),
    Column("market", Text),
    Column("account", LargeBinary),
    _part(),
    Column("target", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("value_wei", Amount, nullable=False),
    Column("gas_limit", WHOLE, nullable=False),
    Column("fee_limit_wei", Amount, nullable=False),
    Column("profit_base", Amount, nullable=False),
    Column("created_block", WHOLE, nullable=False),
    Column("reason", Text),
    Column("detail", Text, nullable=False),
    Column("opportunity", Text),
    Column("mined_tx", LargeBinary),
    Column("mined_block", WHOLE),
    Column("mined_hash", LargeBinary),
    Column("gas_cost_wei", Amount, nullable=False),
    Column("created_s", WHOLE, nullable=False, server_default=text("0")),
    Column("settled_s", WHOLE),
)
Index("intent_plan", intent.c.plan_id)
Index("intent_account", intent.c.account)
_OPEN: Final = intent.c.state.in_(("live", "mined"))
Index(
    "intent_open_nonce",
    intent.c.sender,
    intent.c.nonce,
    unique=True,
    sqlite_where=_OPEN,
    postgresql_where=_OPEN,
)
Index("intent_created", intent.c.sender, intent.c.created_s)
Index("intent_settled", intent.c.sender, intent.c.settled_s)

attempt: Final = Table(
    "attempt",
    metadata,
    Column("tx_hash", LargeBinary, primary_key=True),
    Column("intent_id", Text, ForeignKey("intent.id"), nullable=False),
    Column("nonce", WHOLE, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("max_fee_wei", Amount, nullable=False),
    Column("tip_wei", Amount, nullable=False),
    Column("gas_limit", WHOLE, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("first_block", WHOLE, nullable=False),
    Column("route", Text, nullable=False, server_default="public"),
    Column("expires_block", WHOLE),
    Column("number", WHOLE, nullable=False, server_default=text("0")),
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
    Column("block", WHOLE, nullable=False),
    Column("tx_hash", LargeBinary),
    Column("gas_cost_wei", Amount, nullable=False),
    Column("repaid_amount", Amount),
    Column("seized_amount", Amount),
    Column("profit_amount", Amount),
    Column("opportunity", Text),
)
Index("outcome_block", outcome.c.block)

account: Final = Table(
    "account",
    metadata,
    Column("market", Text, primary_key=True),
    Column("address", LargeBinary, primary_key=True),
    Column("first_block", WHOLE, nullable=False),
    sqlite_with_rowid=False,
)

coverage: Final = Table(
    "coverage",
    metadata,
    Column("market", Text, primary_key=True),
    Column("from_block", WHOLE, nullable=False),
    Column("scanned_to", WHOLE, nullable=False),
    Column("scanned_hash", LargeBinary, nullable=False),
)

decision: Final = Table(
    "decision",
    metadata,
    Column("id", WHOLE, primary_key=True, autoincrement=False),
    Column("market", Text, nullable=False),
    Column("account", LargeBinary, nullable=False),
    _part(),
    Column("decision", Text, nullable=False),
    Column("reason", Text),
    Column("plan_id", Text),
    Column("first_block", WHOLE, nullable=False),
    Column("last_block", WHOLE, nullable=False),
    Column("heads", WHOLE, nullable=False),
    Column("health_factor_wad", Amount, nullable=False),
    Column("debt_base", Amount, nullable=False),
    Column("profit_base", Amount),
    Column("detail", Text, nullable=False),
)
Index("decision_account", decision.c.account, decision.c.last_block)
Index("decision_last_block", decision.c.last_block)

control: Final = Table(
    "control",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at_s", WHOLE, nullable=False),
)

lease: Final = Table(
    "lease",
    metadata,
    Column("sender", LargeBinary, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", WHOLE, nullable=False),
    Column("expires_ms", WHOLE, nullable=False),
)

saved_market: Final = Table(
    "saved_market",
    metadata,
    Column("place", Text, primary_key=True),
    Column("layout", LargeBinary, nullable=False),
    Column("is_whole", Boolean, nullable=False),
    Column("trail", LargeBinary, nullable=False),
    Column("aside", LargeBinary, nullable=False),
)

saved_position: Final = Table(
    "saved_position",
    metadata,
    Column("place", Text, primary_key=True),
    Column("id", LargeBinary, primary_key=True),
    Column("block", WHOLE, nullable=False),
    Column("body", LargeBinary),
    sqlite_with_rowid=False,
)
