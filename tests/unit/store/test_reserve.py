"""The space that is kept: there before it is needed, given up once, and never the cause of a failure."""

from pathlib import Path

import pytest

from keeper.store import reserve as module
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.reserve import RESERVE_BYTES, Reserve
from keeper.store.sqlite import SqliteSession
from tests.unit.store.values import CHAIN_ID


async def test_a_file_that_is_written_has_its_space_beside_it_and_one_that_is_read_has_none(path: Path):
    await (await Database.open(path, CHAIN_ID)).close()
    kept = path.with_name("8453.sqlite3.reserve")
    assert kept.stat().st_size == RESERVE_BYTES
    assert kept.stat().st_blocks * 512 >= RESERVE_BYTES  # and not only as a number
    kept.unlink()
    await (await Database.open(path, CHAIN_ID, is_read_only=True)).close()
    assert not kept.exists()


def test_the_space_is_given_up_once(path: Path):
    reserve = Reserve.beside(path)
    assert reserve.is_kept
    assert reserve.give_up()
    assert not reserve.give_up()


def test_half_a_reserve_of_a_crash_is_none_and_is_made_whole(path: Path):
    path.with_name("8453.sqlite3.reserve").write_bytes(b"half")
    assert not Reserve(path.with_name("8453.sqlite3.reserve")).give_up()
    assert Reserve.beside(path).is_kept


def test_a_disk_with_little_room_is_left_alone(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MIN_FREE_BYTES", 2**80)
    assert not Reserve.beside(path).is_kept
    assert list(path.parent.iterdir()) == []


def test_what_fails_for_want_of_space_is_tried_once_more_in_the_space_that_was_kept(path: Path):
    session = SqliteSession.open(path, CHAIN_ID, is_read_only=False, is_cache=False, reached=None)
    tries = []

    def full_once(connection: object) -> str:
        tries.append(connection)
        if len(tries) == 1:
            raise StoreFailed(Fault.FULL, path)
        return "stored"

    assert session.transact(full_once) == "stored"
    assert session.is_short_of_space
    tries.clear()
    with pytest.raises(StoreFailed):
        session.transact(full_once)
    assert len(tries) == 1
    session.close()


def test_the_space_is_kept_again_once_the_disk_has_room(path: Path, monkeypatch: pytest.MonkeyPatch):
    session = SqliteSession.open(path, CHAIN_ID, is_read_only=False, is_cache=False, reached=None)
    kept, room = Reserve.beside(path), module._MIN_FREE_BYTES
    kept.give_up()
    session.is_short_of_space = True
    monkeypatch.setattr(module, "_MIN_FREE_BYTES", 2**80)
    session.transact(lambda _: None)
    assert session.is_short_of_space
    monkeypatch.setattr(module, "_MIN_FREE_BYTES", room)
    session.transact(lambda _: None)
    assert not session.is_short_of_space
    assert kept.is_kept
    session.close()
