"""What discovery found, and how far it has looked: both are stored together, so no range is ever skipped."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from keeper.domain.units import BlockHash, PositionId
from keeper.errors import Unsafe
from keeper.store.database import Database
from keeper.store.schema import account, coverage
from keeper.store.upsert import insert_new, upsert


@dataclass(frozen=True, slots=True)
class Cursor:
    """Discovery of `market` is complete from `from_block` to `scanned_to`, a block whose hash was `scanned_hash`."""

    market: str
    from_block: int
    scanned_to: int
    scanned_hash: BlockHash


class Findings:
    """The positions, and parts of markets, that logs named, and the coverage of every market."""

    def __init__(self, database: Database) -> None:
        """Use the state directory's database."""
        self._database = database

    async def cursor(self, market: str) -> Cursor | None:
        """Return how far a market was scanned, or None before its first range."""
        return await self._database.run(lambda connection: _read_cursor(connection, market))

    async def load(self, market: str) -> dict[PositionId, int]:
        """Return everything found in a market with the first block that names it."""
        query = select(account.c.address, account.c.first_block).where(account.c.market == market)
        rows = await self._database.run(lambda connection: connection.execute(query).all())
        return {PositionId(address): first_block for address, first_block in rows}

    async def save(self, covered: Cursor, found: Iterable[tuple[PositionId, int]]) -> None:
        """Store a scanned range: what it names with the first block that does, and the coverage that now ends with it.

        `covered` begins where the range begins. The very first range of a market starts its coverage; a range that
        does not follow the stored coverage without a gap is refused.

        Raises: Unsafe, StoreFailed.
        """
        rows = [
            {"market": covered.market, "address": address, "first_block": block}
            for address, block in sorted(found, key=lambda each: each[1])
        ]

        def work(connection: Connection) -> None:
            before = _read_cursor(connection, covered.market)
            start = covered.from_block
            if before is not None:
                if not before.from_block <= covered.from_block <= before.scanned_to + 1:
                    raise Unsafe(
                        f"{covered.market}: blocks from {covered.from_block} do not follow the scanned"
                        f" {before.from_block} to {before.scanned_to}: a range would be skipped"
                    )
                start = before.from_block
                if covered.scanned_to <= before.scanned_to:
                    raise Unsafe(f"{covered.market}: block {covered.scanned_to} was scanned before: rewind first")
            insert_new(connection, account, rows)
            _write_cursor(connection, Cursor(covered.market, start, covered.scanned_to, covered.scanned_hash))

        await self._database.run(work)

    async def rewind(self, market: str, block: int, block_hash: BlockHash) -> None:
        """Take the coverage back to `block` after a reorg; findings stay, as an extra one does no harm.

        Raises: StoreFailed.
        """

        def work(connection: Connection) -> None:
            before = _read_cursor(connection, market)
            if before is not None and block < before.from_block:
                connection.execute(delete(coverage).where(coverage.c.market == market))
            elif before is not None and block <= before.scanned_to:
                _write_cursor(connection, Cursor(market, before.from_block, block, block_hash))

        await self._database.run(work)


def _read_cursor(connection: Connection, market: str) -> Cursor | None:
    row = connection.execute(select(coverage).where(coverage.c.market == market)).one_or_none()
    return None if row is None else Cursor(row.market, row.from_block, row.scanned_to, BlockHash(row.scanned_hash))


def _write_cursor(connection: Connection, cursor: Cursor) -> None:
    row = {
        "market": cursor.market,
        "from_block": cursor.from_block,
        "scanned_to": cursor.scanned_to,
        "scanned_hash": cursor.scanned_hash,
    }
    upsert(connection, coverage, [row])
