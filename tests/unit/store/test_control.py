"""The operator's switches: set beside a running keeper, kept over restarts."""

import subprocess
import sys
from pathlib import Path

import pytest

from keeper.store.control import Control, Switches
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import Changes
from tests.unit.store.values import CHAIN_ID, SENDER, entry

ROOT = Path(__file__).parents[3]


async def test_nothing_is_forbidden_at_first(database: Database):
    assert await Control(database).read() == Switches(paused=False, halted=False)


async def test_a_switch_keeps_its_reason_and_its_time_until_it_is_turned_back(database: Database):
    control = Control(database)
    await control.set_paused(True, reason="maintenance", at_s=100)
    assert await control.read() == Switches(True, False, "maintenance", 100)
    await control.set_paused(False, reason="done", at_s=200)
    assert await control.read() == Switches(False, False)


async def test_of_two_switches_the_stricter_one_is_the_reason(database: Database):
    control = Control(database)
    await control.set_halted(True, reason="the key is shared", at_s=100)
    await control.set_paused(True, reason="maintenance", at_s=200)
    assert await control.read() == Switches(True, True, "the key is shared", 100)
    await control.set_halted(False, reason="", at_s=300)
    assert await control.read() == Switches(True, False, "maintenance", 200)


async def test_htp_09_another_process_sets_a_switch_beside_a_keeper_that_goes_on_writing(
    path: Path, database: Database
):
    program = f"""
import asyncio
from pathlib import Path
from keeper.store.control import Control
from keeper.store.database import Database
async def main():
    database = await Database.open(Path({str(path)!r}), {CHAIN_ID})
    await Control(database).set_paused(True, reason="by hand", at_s=7)
    await database.close()
asyncio.run(main())
"""
    await Journal(database, SENDER).commit(Changes((entry(0),)))
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)  # noqa: ASYNC221 - we are the keeper
    await Journal(database, SENDER).commit(Changes((entry(1),)))
    assert await Control(database).read() == Switches(True, False, "by hand", 7)
    later = await Database.open(path, CHAIN_ID, is_read_only=True)
    assert (await Control(later).read()).paused
    await later.close()


async def test_a_word_that_this_program_did_not_write_counts_as_on(database: Database):
    control = Control(database)
    await control.set_paused(True, reason="", at_s=1)
    await database.run(lambda connection: connection.exec_driver_sql("UPDATE control SET value = 'soon'"))
    assert (await control.read()).paused


async def test_switches_that_cannot_be_read_are_not_off(database: Database):
    await database.run(lambda connection: connection.exec_driver_sql("DROP TABLE control"))
    with pytest.raises(StoreFailed):
        await Control(database).read()
