"""The saved book: every market's positions as of one block, so that a restart reads only what logs have touched since.

It is a cache. What is unfinished, damaged, of another layout or of another program is dropped, never believed in part,
and then built again from the chain. It has a file, or a connection, of its own: no intent ever waits for it.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, delete, select, update

from keeper.domain.ports import Position
from keeper.domain.units import BlockHash, PositionId
from keeper.store.database import Database, file_of, is_server
from keeper.store.faults import Fault, StoreFailed
from keeper.store.migration import Reached
from keeper.store.schema import saved_market, saved_position
from keeper.store.upsert import upsert

PositionT = TypeVar("PositionT", bound=Position)

PIECE: Final = 2_000
"""How many positions one transaction stores: a save of more is marked unfinished until its last piece."""
_SUM_BYTES: Final = 4
_REBUILT: Final = frozenset({Fault.CORRUPT, Fault.NOT_A_DATABASE, Fault.SCHEMA, Fault.OTHER_CHAIN})

Trail = tuple[tuple[int, BlockHash], ...]
"""Blocks that a shelf's book has passed, oldest first, up to the one that it is as of: a reorg may have replaced some."""


@dataclass(frozen=True, slots=True)
class Place:
    """Whose positions: a market's stored name, their type, and what else their meaning depends on."""

    name: str
    kind: type[Any]
    layout: bytes

    @property
    def fingerprint(self) -> bytes:
        """Return a hash that differs wherever stored positions may mean something else."""
        schema = msgspec.json.encode(msgspec.json.schema(self.kind), order="sorted")
        return hashlib.sha256(schema + b"\x00" + self.layout).digest()


@dataclass(frozen=True, slots=True)
class Page:
    """What changed since the last save. `changed` holds None for a position that owes nothing any more.

    `aside` are positions of which the book knows that it holds nothing current.
    """

    trail: Trail
    changed: Mapping[PositionId, Position | None]
    aside: frozenset[PositionId] = frozenset()


@dataclass(frozen=True, slots=True)
class Shelf(Generic[PositionT]):
    """Positions as of a block; `aside` are to be read again."""

    positions: Sequence[PositionT]
    aside: frozenset[PositionId]


class Bookshelf:
    """The saved books of all markets."""

    def __init__(self, database: Database, reached: Reached | None = None) -> None:
        """Use a database of its own, from `open_shelf`."""
        self._database = database
        self._reached = reached or (lambda _: None)
        self._continued: set[str] = set()

    async def save(self, place: Place, page: Page) -> None:
        """Store what changed; the first save of a place that was not loaded before holds everything and starts anew.

        Raises: StoreFailed, after which the same changes are to be saved again with those that follow.
        """
        (block, _), encode = page.trail[-1], msgspec.json.Encoder().encode
        ids, is_new = sorted(page.changed), place.name not in self._continued  # in the order of the table: much faster
        if is_new:
            await self.drop(place.name)
        last = max(0, len(ids) - 1) // PIECE * PIECE
        for start in range(0, last + 1, PIECE):
            piece = ids[start : start + PIECE]
            is_whole = start == last

            def work(connection: Connection, piece: Sequence[PositionId] = piece, is_whole: bool = is_whole) -> None:  # noqa: FBT001 - bound here, passed by nobody
                if last and not is_whole:
                    connection.execute(
                        update(saved_market).where(saved_market.c.place == place.name).values(is_whole=False)
                    )
                rows = [_row(place.name, each, block, page.changed[each], encode) for each in piece]
                upsert(connection, saved_position, rows)
                self._reached("mid_snapshot")
                if is_whole:
                    upsert(connection, saved_market, [_market_row(place, page)])

            await self._database.run(work)
        self._continued.add(place.name)

    async def trail(self, place: Place) -> Trail:
        """Return the blocks that a usable shelf has passed, the one it is as of last; nothing where there is none.

        Raises: StoreFailed.
        """
        query = select(saved_market).where(saved_market.c.place == place.name)
        row = await self._database.run(lambda connection: connection.execute(query).mappings().one_or_none())
        if row is None or not row["is_whole"] or row["layout"] != place.fingerprint:
            return ()
        found = _opened(row["trail"], place.name.encode(), Trail)
        return found or ()

    async def load(self, place: Place, block: int) -> Shelf[Any] | None:
        """Return the positions as of a block of the shelf's trail; None, and no shelf, where any of it is damaged.

        Raises: StoreFailed.
        """
        markets = select(saved_market.c.aside).where(saved_market.c.place == place.name)
        positions = select(saved_position.c.id, saved_position.c.block, saved_position.c.body).where(
            saved_position.c.place == place.name
        )
        held, rows = await self._database.run(
            lambda connection: (
                connection.execute(markets).scalar_one_or_none(),
                _shelf(connection.execute(positions), place, block),
            )
        )
        aside = None if held is None else _opened(held, place.name.encode(), frozenset[PositionId])
        if rows is None or aside is None:
            return None
        self._continued.add(place.name)
        return Shelf([each for each in rows.positions if each.id not in aside], rows.aside | aside)

    async def drop(self, name: str) -> None:
        """Forget a market's shelf: the mark first, so that a crash in between leaves nothing that looks whole.

        Raises: StoreFailed.
        """
        self._continued.discard(name)
        await self._database.run(
            lambda connection: connection.execute(delete(saved_market).where(saved_market.c.place == name))
        )
        await self._database.run(
            lambda connection: connection.execute(delete(saved_position).where(saved_position.c.place == name))
        )


async def open_shelf(
    location: Path | str, chain_id: int, *, is_read_only: bool = False, reached: Reached | None = None
) -> Database:
    """Open where the saved book is kept: a file beside the journal's, or a second connection to its server.

    A file that is damaged, or another program's, is replaced by an empty one.
    Raises: StoreFailed, after which the keeper can go on without.
    """
    if is_server(location):
        return await Database.open(location, chain_id, is_read_only=is_read_only, reached=reached)
    journal = file_of(location)
    path = journal.with_name(f"{journal.stem}.book{journal.suffix}")
    try:
        return await Database.open(path, chain_id, is_read_only=is_read_only, is_cache=True, reached=reached)
    except StoreFailed as failed:
        if is_read_only or failed.fault not in _REBUILT:
            raise
    for each in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        each.unlink(missing_ok=True)
    return await Database.open(path, chain_id, is_cache=True, reached=reached)


def _shelf(rows: Iterable[Any], place: Place, block: int) -> Shelf[Any] | None:
    """Decode every row, or nothing where one is not what was written."""
    positions, aside = [], set()
    decode = msgspec.json.Decoder(place.kind).decode
    prefix = place.name.encode()
    for key, written, body in rows:
        if written > block:
            aside.add(PositionId(key))
        elif body is not None:
            sealed = _unsealed(body, _named(prefix, key, written))
            if sealed is None:
                return None
            try:
                position = decode(sealed)
            except msgspec.MsgspecError:
                return None
            if position.id != key:
                return None
            positions.append(position)
    return Shelf(positions, frozenset(aside))


def _row(
    name: str, key: PositionId, block: int, position: Position | None, encode: Callable[[Any], bytes]
) -> dict[str, Any]:
    body = None if position is None else _sealed(encode(position), _named(name.encode(), key, block))
    return {"place": name, "id": key, "block": block, "body": body}


def _market_row(place: Place, page: Page) -> dict[str, Any]:
    name = place.name.encode()
    return {
        "place": place.name,
        "layout": place.fingerprint,
        "is_whole": True,
        "trail": _sealed(msgspec.json.encode(page.trail), name),
        "aside": _sealed(msgspec.json.encode(page.aside), name),
    }


def _opened(body: bytes, name: bytes, kind: Any) -> Any:
    sealed = _unsealed(body, name)
    try:
        return None if sealed is None else msgspec.json.decode(sealed, type=kind)
    except msgspec.MsgspecError:
        return None


def _named(prefix: bytes, key: bytes, block: int) -> bytes:
    return prefix + b"\x00" + key + block.to_bytes(8)


def _sealed(body: bytes, name: bytes) -> bytes:
    """Put a checksum before a body that also covers what it belongs to: SQLite has none of its own."""
    return zlib.crc32(body, zlib.crc32(name)).to_bytes(_SUM_BYTES) + body


def _unsealed(body: bytes, name: bytes) -> bytes | None:
    sealed = body[_SUM_BYTES:]
    return sealed if _sealed(sealed, name) == body else None
