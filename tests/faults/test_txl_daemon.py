"""The whole daemon dies, fails or stands still at every step, on genuine contracts, and ends where it would have ended."""

import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from keeper.failpoints import STEPS
from tests.faults.process import Ending, Stage, is_over, stage_of
from tests.faults.recovery import Recovery
from tests.faults.test_sec_07_remote_signer import result, served, signed

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
CASES: Final = {
    "after_decide": "TXL-01",
    "after_nonce": "TXL-01",
    "after_sign": "TXL-03",
    "after_commit": "TXL-03",
    "before_send": "TXL-03",
    "after_send_before_ack": "TXL-04",
    "after_ack": "TXL-04",
    "before_receipt_commit": "TXL-05",
    "after_receipt_commit": "TXL-05",
}
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


async def assert_ends_as_if_nothing_had_happened(
    stage: Stage,
    tmp_path_factory: pytest.TempPathFactory,
    step: str,
    deed: str,
    *,
    has_key: bool = True,
    **settings: str,
) -> tuple[int, float]:
    """Let one process run into a failpoint and, where that ends it, another one go on.

    Return after how many blocks all was over, and how many seconds the second process needed until it could act.
    """
    took_s = 0.0
    with stage.daemon(has_key=has_key, FAILPOINTS=f"{step}={deed}", **settings) as keeper:
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
        begun_s = time.monotonic()
        with stage.daemon(has_key=has_key, **settings) as keeper:
            await keeper.seen("keeper.ready")
            took_s = time.monotonic() - begun_s
            blocks = await stage.until_quiet(keeper)
            assert await keeper.stop() == 0
    await stage.check()
    assert await stage.ending() == await unharmed(tmp_path_factory.mktemp("unharmed"))
    return blocks, took_s


@pytest.mark.parametrize(("step", "deed"), ALWAYS)
async def test_n10_the_daemon_ends_as_if_nothing_had_happened(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, step: str, deed: str, recovery: Recovery
) -> None:
    blocks, took_s = await assert_ends_as_if_nothing_had_happened(stage, tmp_path_factory, step, deed)
    recovery(CASES[step], blocks=blocks, seconds=took_s)


@pytest.mark.slow
@pytest.mark.parametrize("deed", DEEDS)
async def test_txl_02_with_a_remote_signer_the_daemon_ends_as_if_nothing_had_happened_before_the_signature(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, deed: str
) -> None:
    key = stage.operator.key_file.read_text(encoding="ascii")

    def signature(body: dict[str, Any]) -> web.Response:
        (call,) = body["params"]
        return result("0x" + signed(call, key=key, to=bytes.fromhex(call["to"][2:])).hex())

    async with served(signature) as server:
        settings = {
            "MODE": "live",
            "ADDRESS": stage.operator.address,
            "REMOTE_SIGNER_URL": f"http://127.0.0.1:{server.port}/",
        }
        await assert_ends_as_if_nothing_had_happened(
            stage, tmp_path_factory, "after_intent_commit", deed, has_key=False, **settings
        )
        assert server.asked


@pytest.mark.slow
@pytest.mark.parametrize(("step", "deed"), SELDOM)
async def test_n10_the_daemon_ends_as_if_nothing_had_happened_at_any_other_step(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory, step: str, deed: str
) -> None:
    await assert_ends_as_if_nothing_had_happened(stage, tmp_path_factory, step, deed)
