"""The whole daemon dies, fails or stands still at every step, on genuine contracts, and ends where it would have ended."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from keeper.failpoints import STEPS
from tests.faults.process import Ending, Stage, is_over, stage_of

ELSEWHERE: Final = {"after_intent_commit", "mid_migration", "mid_snapshot", "mid_shutdown"}
"""Steps of a remote signer, of the store and of the end: they have tests of their own."""
DEEDS: Final = ("exit137", "raise", "stall:2")
ALWAYS: Final = (
    ("after_sign", "raise"),
    ("after_commit", "exit137"),
    ("before_send", "stall:2"),
    ("after_send_before_ack", "exit137"),
    ("before_receipt_commit", "exit137"),
    ("after_receipt_commit", "raise"),
)
"""What every run of the tests tries; the rest is for `make faults`."""
SELDOM: Final = tuple(
    (step, deed) for step in sorted(STEPS - ELSEWHERE) for deed in DEEDS if (step, deed) not in ALWAYS
)
CRASHED: Final = 1
_unharmed: list[Ending] = []


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage_of(tmp_path) as stage:
        yield stage


async def unharmed(folder: Path) -> Ending:
    """Tell how it ends where nothing goes wrong: the same for every test of this process."""
    if not _unharmed:
        async with stage_of(folder) as stage:
            with stage.daemon() as keeper:
                await keeper.seen("chain.head")
                await stage.drop_prices()
                await stage.until_quiet(keeper)
                assert await keeper.stop() == 0
            await stage.check()
            _unharmed.append(await stage.ending())
    assert len(_unharmed[0].liquidations) >= 3
    return _unharmed[0]


async def end_as_if_nothing_had_happened(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, step: str, deed: str
) -> int:
    """Let one process run into a failpoint and, where that ends it, another one go on; return the blocks of that one."""
    with stage.daemon(FAILPOINTS=f"{step}={deed}") as keeper:
        await keeper.seen("chain.head")
        await stage.drop_prices()
        blocks = await stage.until_quiet(keeper)
        if deed.startswith("stall"):
            assert await keeper.stop() == 0
        else:
            expected = -signal.SIGKILL if deed == "exit137" else CRASHED
            assert is_over(keeper), "the step was not reached"
            assert await keeper.ended() == expected
    if not deed.startswith("stall"):
        with stage.daemon() as keeper:
            await keeper.seen("chain.head")
            blocks = await stage.until_quiet(keeper)
            assert await keeper.stop() == 0
    await stage.check()
    assert await stage.ending() == await unharmed(tmp_path_factory.mktemp("unharmed"))
    return blocks


@pytest.mark.parametrize(("step", "deed"), ALWAYS)
async def test_n10_the_daemon_ends_as_if_nothing_had_happened(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, step: str, deed: str
) -> None:
    await end_as_if_nothing_had_happened(stage, tmp_path_factory, step, deed)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "deed"), SELDOM)
async def test_n10_the_daemon_ends_as_if_nothing_had_happened_at_any_other_step(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, step: str, deed: str
) -> None:
    await end_as_if_nothing_had_happened(stage, tmp_path_factory, step, deed)
