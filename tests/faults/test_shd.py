"""Being asked to stop, told to stop, stopped and woken, at the worst moments: the real process, its journal, the next start."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

import pytest

from tests.faults import rules
from tests.faults.process import Stage, is_over, stage_of
from tests.faults.program import Program
from tests.faults.recovery import Recovery

SEND: Final = "eth_sendRawTransaction"
SOON_S: Final = 10.0
"""How long an idle end may take on a machine that is busy with other tests; the figure that counts is in the report."""
SUSPENDED_S: Final = 600
DOCKERFILE: Final = Path(__file__).parents[2] / "Dockerfile"


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage_of(tmp_path) as stage:
        yield stage


def state_of(pid: int) -> str:
    """Return the kernel's letter for what a process does: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]


async def stopped(keeper: Program) -> None:
    """Wait until the process has stopped itself."""
    await keeper.wait_for(lambda program: state_of(program.pid) == "T")


async def busy(stage: Stage, keeper: Program, event: str = "tx.accepted") -> None:
    """Make positions liquidatable and wait until something of it was told, without a block to mine it."""
    await keeper.seen("chain.head")
    await stage.drop_prices()
    await keeper.seen(event)


async def go_on(stage: Stage) -> int:
    """Start the next process, let it come to an end, and assert the invariants; return the blocks."""
    with stage.daemon() as keeper:
        await keeper.seen("chain.head")
        blocks = await stage.until_quiet(keeper)
        assert await keeper.stop() == 0
    await stage.check()
    ending = await stage.ending()
    assert len(ending.liquidations) == len(ending.outcomes) >= 3
    assert {result for _, result, _ in ending.outcomes} == {"won"}
    return blocks


def hashes(stage: Stage) -> set[bytes]:
    return {each.tx_hash for each in stage.arrivals}


async def test_shd_01_asked_to_stop_while_idle_it_ends_at_once_with_code_0(stage: Stage, recovery: Recovery) -> None:
    with stage.daemon(DRAIN_TIMEOUT_S="60") as keeper:
        await keeper.seen("chain.head")
        begun_s = time.monotonic()
        assert await keeper.stop() == 0
        took_s = time.monotonic() - begun_s
        assert took_s < SOON_S
        assert keeper.events("keeper.stopped")
    assert stage.arrivals == []
    recovery("SHD-01", seconds=took_s)


async def test_shd_02_asked_between_the_commit_and_the_send_it_leaves_nothing_half_done(stage: Stage) -> None:
    with stage.daemon(FAILPOINTS="after_commit=stop") as keeper:
        await keeper.seen("chain.head")
        await stage.drop_prices()
        await stopped(keeper)
        assert stage.arrivals == []
        committed = stage.open_nonces()
        assert committed
        keeper.process.send_signal(signal.SIGTERM)
        keeper.process.send_signal(signal.SIGCONT)
        assert await keeper.ended() == 0
    assert stage.open_nonces() == committed
    assert {each.nonce for each in stage.arrivals} <= set(committed)
    await stage.check(is_over=False)
    await go_on(stage)


@pytest.mark.slow
async def test_shd_02_asked_before_the_commit_it_begins_nothing_or_all_of_it(stage: Stage) -> None:
    with stage.daemon(FAILPOINTS="after_decide=stop") as keeper:
        await keeper.seen("chain.head")
        await stage.drop_prices()
        await stopped(keeper)
        keeper.process.send_signal(signal.SIGTERM)
        keeper.process.send_signal(signal.SIGCONT)
        assert await keeper.ended() == 0
    assert {each.nonce for each in stage.arrivals} == set(stage.open_nonces())
    await stage.check(is_over=False)
    await go_on(stage)


@pytest.mark.parametrize(
    "grace_s", ["30", pytest.param("0", marks=pytest.mark.slow)], ids=["waits for the ack", "no time left"]
)
async def test_shd_03_asked_during_a_slow_send_it_keeps_what_left_and_the_next_start_knows_it(
    stage: Stage, grace_s: str
) -> None:
    stage.proxy.add(lambda: rules.delay(1.5, methods=(SEND,)))
    with stage.daemon(DRAIN_TIMEOUT_S=grace_s) as keeper:
        await busy(stage, keeper, "tx.broadcast")
        keeper.process.terminate()
        if grace_s != "0":
            await keeper.seen("tx.accepted")
            await stage.devnet.chain.mine(3)
        assert await keeper.ended() == 0
    stage.proxy.reset()
    await stage.check(is_over=False)
    sent = hashes(stage)
    assert sent
    await go_on(stage)
    assert sent <= hashes(stage)


async def test_shd_04_a_transaction_that_waits_in_the_pool_is_left_there_and_found_again(
    stage: Stage, recovery: Recovery
) -> None:
    with stage.daemon() as keeper:
        await busy(stage, keeper)
        assert await keeper.stop() == 0
        assert [line["in_flight"] for line in keeper.events("keeper.stopping") if "in_flight" in line]
    sent, left = hashes(stage), stage.open_nonces()
    assert left
    recovery("SHD-04", blocks=await go_on(stage))
    again = [each for each in stage.arrivals if each.nonce in left]
    assert sent <= {each.tx_hash for each in again}


@pytest.mark.parametrize(
    "second",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGKILL))],
)
async def test_shd_05_a_second_signal_ends_it_at_once_and_the_next_start_is_safe(
    stage: Stage, second: signal.Signals
) -> None:
    with stage.daemon(DRAIN_TIMEOUT_S="600") as keeper:
        await busy(stage, keeper)
        keeper.process.terminate()
        await keeper.seen("keeper.stopping")
        keeper.process.send_signal(second)
        assert await keeper.ended(SOON_S) != 0  # an end that was cut short is not called a success
    await stage.check(is_over=False)
    await go_on(stage)


def caught(pid: int) -> set[int]:
    """Return the signals that a process has handlers for."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (mask,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


async def test_shd_06_as_the_first_process_of_a_container_it_would_hear_the_signals(stage: Stage) -> None:
    with stage.daemon() as keeper:
        await keeper.seen("keeper.starting")
        assert caught(keeper.pid) >= {signal.SIGTERM, signal.SIGINT}  # without a handler the first process is deaf
        assert await keeper.stop() == 0  # while it still starts


def test_shd_06_the_image_runs_it_as_its_first_process_and_not_under_a_shell() -> None:
    lines = DOCKERFILE.read_text(encoding="utf-8").splitlines()
    starts = [line for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert starts
    assert all(line.split(maxsplit=1)[1].startswith("[") for line in starts)


async def test_shd_07_signals_that_mean_nothing_to_it_do_not_end_it(stage: Stage) -> None:
    with stage.daemon() as keeper:
        await keeper.seen("chain.head")
        for stray in (signal.SIGPIPE, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            keeper.process.send_signal(stray)
        await stage.drop_prices()
        await stage.until_quiet(keeper)
        assert not is_over(keeper)
        assert await keeper.stop() == 0
    await stage.check()
    assert len((await stage.ending()).liquidations) >= 3


async def test_shd_07_woken_after_minutes_it_looks_before_it_acts(stage: Stage, recovery: Recovery) -> None:
    with stage.daemon() as keeper:
        await busy(stage, keeper)
        keeper.process.send_signal(signal.SIGSTOP)
        await stopped(keeper)
        before = len(stage.arrivals)
        await stage.devnet.chain.increase_time(SUSPENDED_S)
        await stage.devnet.chain.mine(20)  # what waited is mined meanwhile
        nonce = int(await stage.devnet.chain.rpc("eth_getTransactionCount", stage.operator.address, "latest"), 16)
        assert nonce > 0
        stage.proxy.views[0].forget()
        keeper.process.send_signal(signal.SIGCONT)
        blocks = await stage.until_quiet(keeper)
        assert all(each.nonce >= nonce for each in stage.arrivals[before:]), "sent again what was long mined"
        assert await keeper.stop() == 0
    await stage.check()
    assert {result for _, result, _ in (await stage.ending()).outcomes} == {"won"}
    recovery("SHD-07", blocks=blocks)


def methods_before(calls: Iterable[dict[str, object]], method: str) -> set[str]:
    """Return the methods of all calls before the first one of a method."""
    found: set[str] = set()
    for call in calls:
        if call["method"] == method:
            break
        found.add(str(call["method"]))
    return found


async def test_shd_08_in_a_crash_loop_nothing_leaves_before_what_is_in_flight_was_looked_up(
    stage: Stage, recovery: Recovery
) -> None:
    with stage.daemon(FAILPOINTS="after_ack=exit137") as keeper:
        await keeper.seen("chain.head")
        await stage.drop_prices()
        assert await keeper.ended() == -signal.SIGKILL
    left = stage.open_nonces()
    assert left
    before = len(stage.arrivals)
    with stage.daemon(FAILPOINTS="before_send=exit137") as keeper:  # a bad deployment: it dies whenever it would send
        assert await keeper.ended() == -signal.SIGKILL
    assert len(stage.arrivals) == before
    assert stage.open_nonces() == left
    stage.proxy.views[0].forget()
    blocks = await go_on(stage)
    asked = methods_before(stage.proxy.views[0].calls, SEND)
    assert {"eth_getTransactionCount", "eth_getTransactionReceipt"} <= asked
    recovery("SHD-08", blocks=blocks)


@pytest.mark.slow
async def test_shd_08_while_the_look_up_fails_it_is_not_ready_and_sends_nothing(stage: Stage) -> None:
    with stage.daemon(FAILPOINTS="after_ack=exit137") as keeper:
        await keeper.seen("chain.head")
        await stage.drop_prices()
        assert await keeper.ended() == -signal.SIGKILL
    before = len(stage.arrivals)
    stage.proxy.add(lambda: rules.error("internal error", methods=("eth_getTransactionReceipt",)))
    with stage.daemon() as keeper:
        await keeper.seen("keeper.not_ready")
        await stage.devnet.chain.mine()
        await asyncio.sleep(1.0)
        assert len(stage.arrivals) == before
        assert not keeper.events("keeper.ready")
        stage.proxy.reset()
        await keeper.seen("keeper.ready")
        await stage.until_quiet(keeper)
        assert await keeper.stop() == 0
    await stage.check()


@pytest.mark.slow
@pytest.mark.parametrize("deed", ["exit137", "raise", "stall:2"])
async def test_n10_a_shutdown_that_is_itself_cut_short_loses_nothing(stage: Stage, deed: str) -> None:
    with stage.daemon(FAILPOINTS=f"mid_shutdown={deed}") as keeper:
        await busy(stage, keeper)
        keeper.process.terminate()
        code = await keeper.ended()
        assert code == {"exit137": -signal.SIGKILL, "raise": 1}.get(deed, 0)
    await stage.check(is_over=False)
    await go_on(stage)
