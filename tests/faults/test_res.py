"""What runs for months does not grow, does not choke on its own output, and does not go on with a part of it dead."""

import asyncio
import gc
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keeper.devnet.devnet import Devnet
from keeper.domain.outcome import Decision, Reason
from keeper.domain.plan import DecisionRecord
from keeper.domain.position import PositionKey
from keeper.domain.units import Address, Base, PositionId, Wad
from keeper.errors import Transient
from keeper.settings import Settings
from keeper.store.database import Database
from keeper.store.decisions import Decisions
from tests.faults import rules
from tests.faults.node import CHAIN_ID, world_of
from tests.faults.program import Program
from tests.faults.recovery import Recovery
from tests.operator import Operator

PATIENCE_S = 60.0
MEMORY_LIMIT_KB = 256 * 1024


def metric(program: Program, name: str) -> float:
    """Return the value of a metric without labels."""
    _, _, body = program.page("/metrics")
    (value,) = re.findall(rf"^keeper_{name} (\S+)$", body.decode(), re.MULTILINE)
    return float(value)


async def drop_prices(devnet: Devnet, percent: int) -> None:
    market = devnet.markets["3.0"]
    prices = await market.prices()
    await market.set_prices({each: prices[each] * percent // 100 for each in ("WETH", "wstETH", "WBTC", "LINK")})


STORM = """
import asyncio
from keeper import cli, scanner
from keeper.observe.events import Event, emit

make_pass = scanner.Scanner.make_pass

async def storm(self, head):
    for number in range(3_000):
        emit(Event.INDEX_AUDIT_OK, market="m" * 100, number=number)
    return await make_pass(self, head)

scanner.Scanner.make_pass = storm
cli.main()
"""


@pytest.mark.parametrize("output", ["pipe", "full"])
async def test_res_02_output_that_nobody_reads_or_that_is_full_stops_nothing_and_is_counted(
    output: str, operator: Operator, tmp_path: Path
) -> None:
    sink = Path("/dev/full")
    if output == "pipe":
        os.mkfifo(sink := tmp_path / "pipe")
    environment = operator.environment(LOG_LEVEL="debug")
    with Program(tmp_path / "run", environment, "run", python=("-c", STORM), sink=sink) as program:
        await running_well(program)
        assert await program.stop() == 0
    assert program.stream("stderr") == b""


async def running_well(program: Program) -> None:
    """Wait until lines were dropped; heads must be followed, the loop must turn, and it must be ready, meanwhile."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < deadline_s
        assert program.process.poll() is None
        try:
            if await asyncio.to_thread(metric, program, "log_dropped_total") > 1_000:
                break
        except OSError:
            pass  # it is still starting
        await asyncio.sleep(0.2)
    before = await asyncio.to_thread(metric, program, "head_block")
    while await asyncio.to_thread(metric, program, "head_block") < before + 3:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.2)
    status, _, body = await asyncio.to_thread(program.page, "/readyz")
    assert status == 200, body


@contextmanager
def starved(pid: int, *, share: float, period_s: float = 0.1) -> Iterator[None]:
    """Let a process run for a share of the time, on one processor."""
    os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
    done = threading.Event()

    def strangle() -> None:
        while not done.is_set():
            os.kill(pid, signal.SIGSTOP)
            done.wait(period_s * (1 - share))
            os.kill(pid, signal.SIGCONT)
            time.sleep(period_s * share)

    thread = threading.Thread(target=strangle)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        os.kill(pid, signal.SIGCONT)


async def test_res_03_with_a_tenth_of_one_processor_and_little_memory_it_still_liquidates(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    chain = operator.devnet.chain
    with Program(tmp_path, operator.environment(), "run") as program:
        await program.seen("chain.head")
        with starved(program.pid, share=0.1):
            await drop_prices(operator.devnet, 70)
            begun = await chain.block_number()
            await program.seen("liquidation.won")
            won = program.events("tx.mined")[0]
        peak_kb = int(re.findall(r"VmHWM:\s+(\d+) kB", program.proc("status").decode())[0])
        recovery("RES-03", blocks=max(0, int(won["block"]) - begun))
        assert await program.stop() == 0
        assert not program.events("keeper.crashed")
    assert peak_kb < MEMORY_LIMIT_KB


DIE = """
import asyncio
from keeper import cli
{patch}
cli.main()
"""

PATCHES = {
    "the scan": """
from keeper import scanner
async def die(self, head):
    raise RuntimeError("nobody foresaw this")
scanner.Scanner.make_pass = die
""",
    "the heads": """
from keeper.chain import heads
async def die(self):
    raise RuntimeError("nobody foresaw this")
heads.Heads.__anext__ = die
""",
    "the sender": """
from keeper.execution import sender
async def die(self, *args, **more):
    raise RuntimeError("nobody foresaw this")
sender.Sender.on_head = die
""",
    "the patrol": """
import asyncio
from keeper.chain import patrol
async def die(self, *args, **more):
    await asyncio.sleep(1)
    raise RuntimeError("nobody foresaw this")
patrol.Patrol._watch = die
""",
    "the end of the heads": """
from keeper.chain import heads
async def end(self):
    raise StopAsyncIteration
heads.Heads.__anext__ = end
""",
}


@pytest.mark.parametrize("part", list(PATCHES))
async def test_res_04_a_part_that_dies_takes_the_process_with_it_and_is_told(
    part: str, operator: Operator, tmp_path: Path
) -> None:
    code = DIE.format(patch=PATCHES[part])
    with Program(tmp_path, operator.environment(), "run", python=("-c", code)) as program:
        assert await program.ended() == 1
        (line,) = program.events("keeper.crashed")
        assert line["error"]
        assert not program.events("keeper.stopped")
        assert "never retrieved" not in program.text()


async def flapping(times: int) -> tuple[int, int, int]:
    """Ask a pool whose best endpoint breaks off every other answer; return descriptors, tasks and threads gained."""
    async with world_of(views=2) as world:
        rpc = await world.pool()
        await asks(rpc, 20)
        gc.collect()
        before = (descriptors(), len(asyncio.all_tasks()), threading.active_count())
        view = world.views[0]
        for turn in range(0, times, 100):
            fault = view.add(rules.drop(times=50) if turn % 200 else rules.status(503, "<html>", times=50))
            await asks(rpc, 100)
            view.remove(fault)
            world.proxy.views[0].forget()
            world.proxy.views[1].forget()
        await asks(rpc, 20)
        gc.collect()
        after = (descriptors(), len(asyncio.all_tasks()), threading.active_count())
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]


async def asks(rpc: object, times: int) -> None:
    """Ask so many times; an answer must come each time."""
    for _ in range(times):
        try:
            (answer,) = await rpc.batch([("eth_chainId", ())])  # type: ignore[attr-defined]
        except Transient:
            continue
        assert answer == hex(CHAIN_ID)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_res_05_an_endpoint_that_flaps_leaves_no_descriptor_task_or_thread() -> None:
    gained = await flapping(1_000)
    assert max(gained) <= 8, gained


@pytest.mark.slow
async def test_res_05_ten_thousand_flaps_leave_no_descriptor_task_or_thread() -> None:
    gained = await flapping(10_000)
    assert max(gained) <= 8, gained


@pytest.mark.slow
async def test_res_06_after_an_hours_backlog_the_newest_block_comes_first(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    chain = operator.devnet.chain
    with Program(tmp_path, operator.environment(), "run") as program:
        await program.seen("chain.head", 2)
        os.kill(program.pid, signal.SIGSTOP)
        await chain.set_interval(0)
        await chain.rpc("anvil_mine", hex(1_800), hex(2))
        await drop_prices(operator.devnet, 70)
        newest = await chain.block_number()
        heads = len(program.events("chain.head"))
        woken_s = time.monotonic()
        os.kill(program.pid, signal.SIGCONT)
        await chain.set_interval(1)
        await program.seen("liquidation.won")
        recovery("RES-06", seconds=time.monotonic() - woken_s)
        numbers = [line["number"] for line in program.events("chain.head")[heads:]]
        assert await program.stop() == 0
    assert numbers[0] >= newest
    assert len(numbers) < 60, "it worked through the blocks in between"


def record(block: int, number: int) -> DecisionRecord:
    """Return a decision that differs from the one before, so that it is a row of its own."""
    key = PositionKey("aave", PositionId(Address(number.to_bytes(20, "big"))))
    reason = (Reason.UNPROFITABLE, Reason.DUST_RULE)[block % 2]
    return DecisionRecord(key, block, Decision.SKIPPED, reason, None, Wad(10**17), Base(10**8), Base(1), "d" * 200)


def size_of(folder: Path) -> int:
    """Return how many bytes the files of a folder have."""
    return sum(each.stat().st_size for each in folder.iterdir())


async def test_res_07_a_month_of_decisions_is_pruned_and_its_room_used_again(tmp_path: Path) -> None:
    """Thirty days on a chain of twelve seconds are 216,000 blocks: here a hundredth of each, thrice."""
    path, month, keep = tmp_path / "keeper.sqlite3", 2_160, 500
    database = await Database.open(path, 1)
    sizes = []
    try:
        decisions = Decisions(database)
        for block in range(3 * month):
            decisions.record(block, [record(block, number) for number in range(3)])
            if block % 64 == 63:
                await decisions.flush()
                await decisions.prune(block - keep)
            if block % month == month - 1:
                sizes.append(size_of(tmp_path))
        await decisions.flush()
        rows = len(await decisions.latest(10**6))
    finally:
        await database.close()
    assert rows <= 3 * (keep + 130)
    assert sizes[2] <= sizes[0] * 11 // 10, sizes


MILLION = """
import resource, time
from keeper.domain.position import Weight
from keeper.engine.screen import Screen

rows, screen = {rows}, Screen()
for number in range(rows):
    screen.put(number.to_bytes(20, "big"), ((number % 40, 10**18 + number), (40 + number % 40, 10**17)))
weights = {{column: Weight(10**8 if column < 40 else -10**8, 10**18, 1) for column in range(80)}}
screen.suspects(weights)
started = time.monotonic()
found = screen.suspects(weights)
crash = {{**weights, **{{column: Weight(10**6, 10**18, 1) for column in range(4)}}}}
print(len(found), len(screen.suspects(crash)), int(1000 * (time.monotonic() - started)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
async def test_res_08_a_million_positions_fit_into_memory_and_a_block() -> None:
    """The books keep every position; what a head costs is bounded by `KEEPER_MAX_PLANS_PER_HEAD`, best first."""
    rows = 1_000_000
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", MILLION.format(rows=rows)],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    quiet, crashed, milliseconds, peak_kb = map(int, done.stdout.split())
    assert (quiet, crashed) == (0, rows // 10)
    assert peak_kb < 2 << 20
    assert milliseconds < 12_000, "two heads of a chain of twelve seconds"


def test_res_08_what_a_head_may_begin_is_bounded_by_a_setting() -> None:
    settings = Settings.load({"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS": "http://node.example"})
    assert 0 < settings.max_plans_per_head <= 1_000


async def test_res_09_in_development_mode_no_warning_is_given_and_nothing_is_left_open(
    operator: Operator, tmp_path: Path
) -> None:
    urls = f"{operator.devnet.node.http_url},{operator.devnet.node.ws_url}"
    environment = operator.environment(RPC_URLS=urls, LOG_LEVEL="debug", PARITY_EVERY_HEADS="1")
    python = ("-X", "dev", "-W", "error", "-m", "keeper")
    with Program(tmp_path, environment, "run", python=python) as program:
        await program.seen("chain.head", 2)
        await drop_prices(operator.devnet, 70)
        await program.seen("liquidation.won")
        assert await program.stop() == 0, program.text()[-2000:]
    assert program.stream("stderr") == b""
    lines = [json.loads(line) for line in program.stream("stdout").splitlines()]
    told = [line["message"] for line in lines if line["event"] == "library.logged"]
    assert [each for each in told if not each.startswith("Executing ")] == []  # that a callback was slow
    assert {line["event"] for line in lines} >= {"keeper.ready", "keeper.stopped"}


def test_res_09_the_suite_itself_turns_warnings_into_errors(pytestconfig: pytest.Config) -> None:
    assert "error" in pytestconfig.getini("filterwarnings")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0
