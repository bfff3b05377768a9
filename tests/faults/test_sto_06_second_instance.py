"""A second keeper with the state directory of one that runs: as real processes, with one key and one configuration."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from keeper.errors import ExitCode
from tests.faults.process import Stage, stage_of
from tests.faults.recovery import Recovery

SOON_S: Final = 30.0
"""Starting Python on a busy machine included; waiting for the other one would take for ever."""


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage_of(tmp_path) as stage:
        yield stage


async def test_sto_06_a_second_keeper_ends_at_once_naming_the_first_which_goes_on_and_its_death_lets_the_next_in(
    stage: Stage, recovery: Recovery
) -> None:
    with stage.daemon() as first:
        await first.seen("chain.head")
        with stage.daemon() as second:
            assert await second.ended(SOON_S) == ExitCode.ALREADY_RUNNING
        assert f"pid {first.pid}" in second.text()
        assert "another state directory" in second.text()
        assert second.events("chain.head") == []
        await stage.drop_prices()
        await first.seen("tx.accepted")
        first.process.kill()
        await first.ended()
    begun_s = time.monotonic()
    with stage.daemon() as third:
        await third.seen("chain.head")
        took_s = time.monotonic() - begun_s
        await stage.until_quiet(third)
        assert await third.stop() == ExitCode.DONE
    await stage.check()
    ending = await stage.ending()
    assert len(ending.liquidations) == len(ending.outcomes) >= 3
    recovery("STO-06", seconds=took_s)
