"""Pause and halt: set beside the keeper with no node to ask, kept over restarts, and obeyed at once on a real chain."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.execution.verdicts import Accepted, Skipped
from keeper.store.control import Control
from keeper.store.database import Database
from tests.faults.gated import process
from tests.faults.node import CHAIN_ID
from tests.faults.program import finished
from tests.faults.recovery import Recovery
from tests.faults.world import Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB


@asynccontextmanager
async def beside(path: Path) -> AsyncIterator[Control]:
    """Open the store a second time, as the command does, while the keeper runs."""
    database = await Database.open(path, CHAIN_ID)
    try:
        yield Control(database)
    finally:
        await database.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3", views=2) as found:
        yield found


async def test_htp_09_paused_nothing_new_begins_and_what_is_in_flight_is_outbid_and_won(
    scene: Scene, recovery: Recovery
) -> None:
    async with process(scene) as one:
        assert isinstance(await one.submit(ALICE), Accepted)
        async with beside(scene.path) as control:
            await control.set_paused(True, reason="gas war", at_s=1)
        await one.mine(2, base_fee_gwei=8)
        assert [fields["reason"] for name, fields in one.told.events if name == "keeper.paused"] == ["gas war"]
        assert "tx.replaced" in one.told.names
        verdict = await one.submit(BOB)
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.OPERATOR_PAUSED
        assert "gas war" in verdict.detail
    nonces = {each.nonce for each in scene.arrivals}
    async with process(scene) as two:
        assert list(two.warden.holds) == ["paused"]
        assert isinstance(await two.submit(BOB), Skipped)
        await two.mine(4, base_fee_gwei=1)
        assert [each.result for each in two.outcomes] == [Result.WON]
        assert {each.nonce for each in scene.arrivals} == nonces
        async with beside(scene.path) as control:
            await control.set_paused(False, reason="", at_s=2)
        await two.mine()
        assert two.told.names.count("keeper.resumed") == 1
        assert isinstance(await two.submit(BOB), Accepted)
        await two.mine(3, base_fee_gwei=1)
    await scene.check()
    recovery("HTP-09", blocks=1)


async def test_htp_09_halted_not_one_byte_leaves_not_even_after_a_restart(scene: Scene) -> None:
    async with process(scene) as one:
        assert isinstance(await one.submit(ALICE), Accepted)
        async with beside(scene.path) as control:
            await control.set_halted(True, reason="key shared", at_s=1)
        await scene.world.cheat("anvil_dropAllTransactions")
        sent = len(scene.arrivals)
        await one.mine(4, base_fee_gwei=20)
        verdict = await one.submit(BOB)
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.OPERATOR_PAUSED
    async with process(scene) as two:
        assert two.warden.is_halted
        await two.mine(2, base_fee_gwei=1)
        assert len(scene.arrivals) == sent
        async with beside(scene.path) as control:
            await control.set_halted(False, reason="", at_s=2)
        await two.mine(4, base_fee_gwei=1)
        assert [each.result for each in two.outcomes] == [Result.WON]
    await scene.check()


def test_htp_09_the_commands_need_no_node_and_the_state_outlives_them(tmp_path: Path) -> None:
    state = tmp_path / "state"
    environment = {
        "KEEPER_CHAIN": "ethereum",
        "KEEPER_RPC_URLS": "http://127.0.0.1:1",
        "KEEPER_STATE_DIR": str(state),
    }

    def command(*words: str) -> str:
        code, program = finished(tmp_path / words[0], environment, *words)
        assert code == 0, program.text()
        return program.text()

    def stored() -> dict[str, tuple[str, str]]:
        (file,) = state.glob("*.sqlite3")
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            return {
                name: (value, why) for name, value, why in connection.execute("select name, value, reason from control")
            }

    assert "paused" in command("pause", "--reason", "gas war")
    assert stored() == {"paused": ("on", "gas war")}
    assert "halted" in command("halt")
    assert {name: value for name, (value, _) in stored().items()} == {"paused": "on", "halted": "on"}
    assert "running" in command("resume")
    assert {value for value, _ in stored().values()} == {"off"}
