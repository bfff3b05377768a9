"""The decision ledger, run-length encoded: one row for as long as the same decision stands at following heads.

A span grows in memory and is written by `flush`, so an account that is dust for a month costs one row.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, select

from keeper.domain.outcome import Decision, Reason
from keeper.domain.plan import DecisionRecord
from keeper.domain.position import PositionKey
from keeper.domain.units import Address
from keeper.store.codec import position_key
from keeper.store.database import Database
from keeper.store.schema import decision as table
from keeper.store.upsert import upsert


@dataclass(frozen=True, slots=True)
class Span:
    """One decision that stood from `first_block` to `last.block`, at `heads` heads; `last` is how it looked then."""

    first_block: int
    heads: int
    last: DecisionRecord


@dataclass(slots=True)
class _Open:
    """A span that may still grow. `row` is None until it was first written."""

    first_block: int
    heads: int
    last: DecisionRecord
    row: int | None = None
    is_dirty: bool = True


class Decisions:
    """The ledger. `record` is called once for each head, in order; `flush` from time to time and at the end."""

    def __init__(self, database: Database) -> None:
        """Use the state directory's database."""
        self._database = database
        self._open: dict[PositionKey, _Open] = {}
        self._ended: list[_Open] = []
        self._head: int | None = None

    def record(self, head: int, records: Iterable[DecisionRecord]) -> None:
        """Note one head's decisions: each extends its account's span, or ends it and starts another."""
        before, self._head = self._head, head
        seen: dict[PositionKey, _Open] = {}
        for record in records:
            span = self._open.get(record.key)
            if span is not None and span.last.block == before and _is_same(span.last, record):
                span.heads += 1
                span.last = record
                span.is_dirty = True
            else:
                if span is not None:
                    self._end(span)
                span = _Open(record.block, 1, record)
            seen[record.key] = span
        for key, span in self._open.items():
            if key not in seen:
                self._end(span)
        self._open = seen

    async def flush(self) -> None:
        """Write every span that is new or has grown, in one transaction.

        Raises: StoreFailed, after which the same spans are written by the next flush.
        """
        dirty = [span for span in (*self._ended, *self._open.values()) if span.is_dirty]
        if not dirty:
            return
        rows = [_row(span) for span in dirty]
        for span in dirty:
            span.is_dirty = False
        ended, self._ended = self._ended, []
        try:
            numbers = await self._database.run(lambda connection: _write(connection, rows))
        except BaseException:
            for span in dirty:
                span.is_dirty = True
            self._ended = ended + self._ended
            raise
        for span, number in zip(dirty, numbers, strict=True):
            span.row = number

    async def of_account(self, account: Address, limit: int = 100) -> tuple[Span, ...]:
        """Return an account's latest decisions in every market, newest first, as far as they were flushed."""
        query = select(table).where(table.c.account == account)
        return await self._read(query.order_by(table.c.last_block.desc(), table.c.id.desc()).limit(limit))

    async def latest(self, limit: int = 100) -> tuple[Span, ...]:
        """Return the latest decisions of all accounts, newest first, as far as they were flushed."""
        return await self._read(select(table).order_by(table.c.last_block.desc(), table.c.id.desc()).limit(limit))

    async def prune(self, before_block: int) -> int:
        """Delete the spans that ended before a block, and return how many."""
        query = delete(table).where(table.c.last_block < before_block)
        return await self._database.run(lambda connection: connection.execute(query).rowcount)

    async def _read(self, query: Any) -> tuple[Span, ...]:
        rows = await self._database.run(lambda connection: connection.execute(query).mappings().all())
        return tuple(_span(row) for row in rows)

    def _end(self, span: _Open) -> None:
        if span.is_dirty:
            self._ended.append(span)


def _is_same(before: DecisionRecord, now: DecisionRecord) -> bool:
    return (before.decision, before.reason, before.plan_id) == (now.decision, now.reason, now.plan_id)


def _write(connection: Connection, rows: list[dict[str, Any]]) -> list[int]:
    """Write spans and return their numbers: new ones follow the highest, whoever wrote that."""
    highest = connection.execute(select(func.coalesce(func.max(table.c.id), 0))).scalar_one()
    following = itertools.count(int(highest) + 1)
    numbers = [next(following) if row["id"] is None else int(row["id"]) for row in rows]
    upsert(connection, table, [row | {"id": number} for row, number in zip(rows, numbers, strict=True)])
    return numbers


def _row(span: _Open) -> dict[str, Any]:
    last = span.last
    return {
        "id": span.row,
        "market": last.key.market,
        "account": last.key.account,
        "part": last.key.part,
        "decision": last.decision.value,
        "reason": last.reason.value if last.reason else None,
        "plan_id": last.plan_id,
        "first_block": span.first_block,
        "last_block": last.block,
        "heads": span.heads,
        "health_factor_wad": last.health_factor_wad,
        "debt_base": last.debt_base,
        "profit_base": last.profit_base,
        "detail": last.detail,
    }


def _span(row: RowMapping) -> Span:
    last = DecisionRecord(
        key=position_key(row),
        block=row["last_block"],
        decision=Decision(row["decision"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        plan_id=row["plan_id"],
        health_factor_wad=row["health_factor_wad"],
        debt_base=row["debt_base"],
        profit_base=row["profit_base"],
        detail=row["detail"],
    )
    return Span(row["first_block"], row["heads"], last)
