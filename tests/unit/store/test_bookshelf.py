"""The saved book: what is taken down is what was put up, as of a block that is still the chain's, or nothing."""

# ruff: noqa: ASYNC240 - these tests look at a small local file

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text, update

from keeper.domain.ports import Position
from keeper.domain.units import Address, BlockHash, PositionId
from keeper.protocols.aave_v3.contracts import AavePosition, StableDebt
from keeper.protocols.compound_v2.contracts import CompoundPosition, Entry, VaiDebt
from keeper.protocols.morpho_blue.contracts import MorphoPosition
from keeper.protocols.perp_curie.contracts import PerpPosition, Stake, Valuation
from keeper.store import bookshelf as module
from keeper.store.bookshelf import Bookshelf, Page, Place, Trail, open_shelf
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.schema import saved_market, saved_position
from tests.unit.store.values import CHAIN_ID, address

HUGE = 2**256 - 1
PLACE = Place("aave@01", AavePosition, b"0.2.0")
SOMEBODY = Address(b"\xff" * 20)


def held(number: int, debt: int = HUGE) -> AavePosition:
    return AavePosition(PositionId(address(number)), 1, ((0, debt), (3, 5)), ((2, 2**128),))


def changed(*positions: AavePosition, gone: tuple[int, ...] = ()) -> dict[PositionId, Position | None]:
    return {each.id: each for each in positions} | {PositionId(address(each)): None for each in gone}


def trail(*blocks: int) -> Trail:
    return tuple((each, BlockHash(each.to_bytes(32))) for each in blocks)


async def taken_down(database: Database, block: int, place: Place = PLACE) -> tuple[set[Any], frozenset[PositionId]]:
    shelf = await Bookshelf(database).load(place, block)
    assert shelf is not None
    return set(shelf.positions), shelf.aside


@pytest.mark.parametrize(
    "position",
    [
        AavePosition(PositionId(SOMEBODY), 1, ((0, HUGE),), ((2, 2**128),), (StableDebt(1, HUGE, HUGE, 3),)),
        CompoundPosition(
            PositionId(SOMEBODY), (Entry(1, HUGE, 2, 3),), 0, VaiDebt(1, HUGE, 2), frozenset({1, 2}), is_restricted=True
        ),
        MorphoPosition(PositionId(SOMEBODY + b"\x02" * 32), HUGE, 1, (SOMEBODY,)),
        PerpPosition(
            PositionId(SOMEBODY),
            -HUGE,
            None,
            ((SOMEBODY, 5),),
            (Stake(SOMEBODY, -HUGE, HUGE, -1),),
            (SOMEBODY,),
            Valuation(-HUGE, 1, ((SOMEBODY, -3),)),
        ),
    ],
    ids=lambda position: type(position).__name__,
)
async def test_every_protocols_positions_come_back_as_they_were(database: Database, position: Any):
    place = Place("market@01", type(position), b"")
    await Bookshelf(database).save(place, Page(trail(7), {position.id: position}))
    assert await taken_down(database, 7, place) == ({position}, frozenset())


async def test_nothing_was_saved_at_first(database: Database):
    assert await Bookshelf(database).trail(PLACE) == ()
    assert await Bookshelf(database).load(PLACE, 7) is None


async def test_a_save_stores_what_changed_and_leaves_the_rest(database: Database):
    shelf = Bookshelf(database)
    await shelf.save(PLACE, Page(trail(7), changed(held(1), held(2), held(3))))
    await shelf.save(PLACE, Page(trail(7, 9), changed(held(2, 8), gone=(3,))))
    assert await shelf.trail(PLACE) == trail(7, 9)
    assert await taken_down(database, 9) == ({held(1), held(2, 8)}, frozenset())


async def test_what_was_written_after_the_last_block_that_still_stands_is_read_again(database: Database):
    shelf = Bookshelf(database)
    await shelf.save(PLACE, Page(trail(7), changed(held(1), held(2), held(3))))
    await shelf.save(PLACE, Page(trail(7, 9), changed(held(2, 8), gone=(3,))))
    assert await taken_down(database, 7) == ({held(1)}, frozenset({held(2).id, held(3).id}))


async def test_what_the_book_itself_did_not_trust_is_read_again(database: Database):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1), held(2)), frozenset({held(2).id})))
    assert await taken_down(database, 7) == ({held(1)}, frozenset({held(2).id}))


async def test_markets_do_not_mix(database: Database):
    shelf, other = Bookshelf(database), replace(PLACE, name="aave@02")
    await shelf.save(PLACE, Page(trail(7), changed(held(1))))
    await shelf.save(other, Page(trail(8), changed(held(2))))
    assert await taken_down(database, 7) == ({held(1)}, frozenset())
    await shelf.drop(other.name)
    assert await shelf.load(other, 8) is None
    assert await taken_down(database, 7) == ({held(1)}, frozenset())


async def test_a_process_that_took_nothing_down_starts_anew(database: Database):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1), held(2))))
    await Bookshelf(database).save(PLACE, Page(trail(9), changed(held(2))))
    assert await taken_down(database, 9) == ({held(2)}, frozenset())


async def test_a_process_that_took_it_down_goes_on_with_it(database: Database):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1), held(2))))
    later = Bookshelf(database)
    assert await later.load(PLACE, 7) is not None
    await later.save(PLACE, Page(trail(7, 9), changed(held(2, 5))))
    assert await taken_down(database, 9) == ({held(1), held(2, 5)}, frozenset())


@pytest.mark.parametrize("place", [replace(PLACE, layout=b"0.3.0"), replace(PLACE, kind=MorphoPosition)])
async def test_another_programs_shelf_is_not_used(database: Database, place: Place):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1))))
    assert await Bookshelf(database).trail(place) == ()


async def test_a_big_save_is_made_of_pieces_and_whole_only_with_the_last(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PIECE", 3)
    positions = [held(each) for each in range(10)]
    pieces: list[str] = []
    await Bookshelf(database, pieces.append).save(PLACE, Page(trail(7), changed(*positions)))
    assert pieces == ["mid_snapshot"] * 4
    assert await taken_down(database, 7) == (set(positions), frozenset())


@pytest.mark.parametrize("survived", range(4))
async def test_sto_03_a_save_that_dies_in_between_leaves_nothing_that_looks_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch, survived: int
):
    monkeypatch.setattr(module, "PIECE", 3)
    calls = iter(range(4))

    def reached(step: str) -> None:
        if next(calls) == survived:
            raise KeyboardInterrupt

    shelf = Bookshelf(database)
    await shelf.save(PLACE, Page(trail(5), changed(held(1))))
    dying = Bookshelf(database, reached)
    assert await dying.load(PLACE, 5) is not None
    with pytest.raises(KeyboardInterrupt):
        await dying.save(PLACE, Page(trail(5, 7), changed(*(held(each, 8) for each in range(10)))))
    found = await Bookshelf(database).trail(PLACE)
    if survived == 0:
        assert found == trail(5)
        assert await taken_down(database, 5) == ({held(1)}, frozenset())
    else:
        assert found == ()


async def test_a_small_save_that_dies_leaves_the_one_before_whole(database: Database):
    def reached(step: str) -> None:
        raise KeyboardInterrupt

    await Bookshelf(database).save(PLACE, Page(trail(5), changed(held(1))))
    dying = Bookshelf(database, reached)
    assert await dying.load(PLACE, 5) is not None
    with pytest.raises(KeyboardInterrupt):
        await dying.save(PLACE, Page(trail(5, 7), changed(held(1, 8), held(2))))
    assert await Bookshelf(database).trail(PLACE) == trail(5)
    assert await taken_down(database, 5) == ({held(1)}, frozenset())


@pytest.mark.parametrize(
    "damaged",
    [
        lambda body: {"body": body.replace(b"5", b"6")},  # a digit of an amount: still a position
        lambda body: {"body": body[:-1]},
        lambda body: {"body": b""},
        lambda body: {"body": bytes(4) + b"{}"},
        lambda body: {"block": 6},
        lambda body: {"id": address(3)},
    ],
)
async def test_sto_03_one_damaged_row_makes_the_whole_shelf_worthless(
    database: Database, damaged: Callable[[bytes], dict[str, Any]]
):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1), held(2))))
    row = saved_position.c.id == held(1).id

    def damage(connection: Connection) -> None:
        body = connection.execute(select(saved_position.c.body).where(row)).scalar_one()
        connection.execute(update(saved_position).where(row).values(**damaged(bytes(body))))

    await database.run(damage)
    assert await Bookshelf(database).load(PLACE, 7) is None


async def test_sto_03_a_damaged_list_of_blocks_makes_it_worthless_too(database: Database):
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1))))
    await database.run(
        lambda connection: connection.execute(update(saved_market).values(trail=bytes(9), aside=bytes(9)))
    )
    assert await Bookshelf(database).trail(PLACE) == ()
    assert await Bookshelf(database).load(PLACE, 7) is None


async def test_sto_02_a_failed_save_is_made_up_for_by_the_next(database: Database, monkeypatch: pytest.MonkeyPatch):
    shelf = Bookshelf(database)
    monkeypatch.setattr(module, "PIECE", 2)
    pending = changed(*(held(each) for each in range(5)))
    failing = iter([True, False, False, True])
    run = database.run

    async def sometimes(work: Any) -> Any:
        if next(failing, False):
            raise StoreFailed(Fault.FULL, database.path)
        return await run(work)

    monkeypatch.setattr(database, "run", sometimes)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await shelf.save(PLACE, Page(trail(7), pending))
    await shelf.save(PLACE, Page(trail(8), pending | changed(held(1, 5))))
    assert await taken_down(database, 8) == ({held(1, 5), *(held(each) for each in (0, 2, 3, 4))}, frozenset())


# ------------------------------------------------------------------------------------------------------- its own file


async def test_it_has_a_file_of_its_own_that_holds_no_space_back(path: Path):
    database = await open_shelf(path, CHAIN_ID)
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1))))
    await database.close()
    assert not path.exists()
    assert {each.name for each in path.parent.iterdir()} == {"8453.book.sqlite3"}


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100])
async def test_sto_03_a_damaged_file_is_replaced_by_an_empty_one(path: Path, damage: bytes):
    database = await open_shelf(path, CHAIN_ID)
    await Bookshelf(database).save(PLACE, Page(trail(7), changed(held(1))))
    await database.close()
    path.with_name("8453.book.sqlite3").write_bytes(damage)
    database = await open_shelf(path, CHAIN_ID)
    assert await Bookshelf(database).trail(PLACE) == ()
    await Bookshelf(database).save(PLACE, Page(trail(8), changed(held(1))))
    assert await taken_down(database, 8) == ({held(1)}, frozenset())
    await database.close()


async def test_sto_09_a_newer_programs_file_is_replaced_as_well(path: Path):
    database = await open_shelf(path, CHAIN_ID)
    await database.run(lambda connection: connection.execute(text("UPDATE schema_version SET version = 99")))
    await database.close()
    database = await open_shelf(path, CHAIN_ID)
    assert (
        await database.run(lambda connection: connection.execute(select(func.count(saved_market.c.place))).scalar_one())
        == 0
    )
    await database.close()


async def test_a_reader_replaces_nothing(path: Path):
    path.with_name("8453.book.sqlite3").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreFailed):
        await open_shelf(path, CHAIN_ID, is_read_only=True)
    assert path.with_name("8453.book.sqlite3").stat().st_size == 2_100
