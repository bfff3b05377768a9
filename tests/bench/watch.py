"""A running keeper seen from outside: its log, its metrics, and what the kernel counts for it."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from keeper.devnet.process import KeeperProcess, Line
from tests.bench.figures import Reaction, Steady

STAGES: Final = ("logs", "read", "scan", "plan")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_MIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests so far by method, and the JSON-RPC calls in them, as the metrics say."""

    requests: Mapping[str, float]
    calls: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel counts: processor time, bytes read and written by any means, and bytes of log among them."""

    cpu_s: float
    received: int
    sent: int


async def read_tally(http_port: int) -> Tally:
    """Scrape the daemon's metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{http_port}/metrics") as answer,
    ):
        text = await answer.text()
    requests: dict[str, float] = {}
    calls = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "keeper_rpc_requests_total":
                name = sample.labels["method"]
                requests[name] = requests.get(name, 0.0) + sample.value
            elif sample.name == "keeper_rpc_calls_total":
                calls += sample.value
    return Tally(requests, calls)


def read_usage(pid: int) -> Usage:
    """Read what a process has used so far."""
    process = Path("/proc") / str(pid)
    fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
    counts = dict(line.split(": ") for line in (process / "io").read_text().splitlines())
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(counts["rchar"]), int(counts["wchar"]))


def read_memory_mib(pid: int, name: str = "VmRSS") -> float:
    """Read a process's resident memory, or with `VmHWM` its highest."""
    lines = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return next(int(line.split()[1]) / _MIB for line in lines if line.startswith(f"{name}:"))


def at_ms(line: Line) -> float:
    """Return when a line was logged, in milliseconds since 1970."""
    return datetime.fromisoformat(str(line["ts"])).timestamp() * 1_000


def taken_ms(head: Line) -> float:
    """Return when the daemon took a head in hand: its line is logged when the pass is over."""
    return at_ms(head) - float(head["duration_us"]) / 1_000


class BlockClock:
    """Notes when the node announces each block, by a subscription of its own."""

    def __init__(self, ws_url: str) -> None:
        self._url = ws_url
        self._task: asyncio.Task[None] | None = None
        self.announced_ms: dict[int, float] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen(), name="block clock")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self) -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url) as socket:
            await socket.send_json({"jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["newHeads"]})
            async for message in socket:
                now_ms = time.time() * 1_000
                told: dict[str, Any] = msgspec.json.decode(message.data)
                if "params" in told:
                    self.announced_ms[int(told["params"]["result"]["number"], 16)] = now_ms


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment between two heads."""

    heads: int
    lines: int
    tally: Tally
    usage: Usage


async def mark(keeper: KeeperProcess, http_port: int) -> Mark:
    """Wait for the middle of the time between two heads, and note where everything stands."""
    before = len(keeper.events("chain.head"))
    await keeper.wait_for(lambda log: len(log.events("chain.head")) > before, 60)
    await asyncio.sleep(0.3)
    tally, usage = await read_tally(http_port), read_usage(keeper.pid)
    return Mark(len(keeper.events("chain.head")), len(keeper.lines), tally, usage)


def steady_between(keeper: KeeperProcess, clock: BlockClock, first: Mark, last: Mark) -> Steady:
    """Return what the heads between two marks took."""
    heads = keeper.events("chain.head")[first.heads : last.heads]
    numbers = [int(head["number"]) for head in heads]
    count = len(heads)
    methods = {
        name: (value - first.tally.requests.get(name, 0.0)) / count for name, value in last.tally.requests.items()
    }
    logged = sum(len(msgspec.json.encode(line)) + 1 for line in keeper.lines[first.lines : last.lines])
    seen = [
        taken_ms(head) - announced
        for head in heads
        if (announced := clock.announced_ms.get(int(head["number"]))) is not None
    ]
    return Steady(
        heads=count,
        blocks=numbers[-1] - numbers[0] + 1,
        requests_per_head=sum(methods.values()),
        calls_per_head=(last.tally.calls - first.tally.calls) / count,
        requests_by_method={name: round(value, 3) for name, value in methods.items() if value},
        received_bytes_per_head=(last.usage.received - first.usage.received) / count,
        sent_bytes_per_head=(last.usage.sent - first.usage.sent - logged) / count,
        cpu_ms_per_head=(last.usage.cpu_s - first.usage.cpu_s) * 1_000 / count,
        pass_ms=[float(head["duration_us"]) / 1_000 for head in heads],
        stages_ms={stage: [float(head[f"{stage}_us"]) / 1_000 for head in heads] for stage in STAGES},
        seen_after_ms=seen,
    )


def first_plans(keeper: KeeperProcess, begin: int, block: int) -> Line | None:
    """Return the first head from a block on at which something was planned, among the lines from `begin` on."""
    heads = (line for line in keeper.lines[begin:] if line.get("event") == "chain.head")
    return next((head for head in heads if int(head["number"]) >= block and head["plans"]), None)


def is_quiet(keeper: KeeperProcess, begin: int, heads: int) -> bool:
    """Return whether the latest heads since a line left nothing to send and nothing in flight."""
    latest = [line for line in keeper.lines[begin:] if line.get("event") == "chain.head"][-heads:]
    return len(latest) == heads and not any(head["plans"] or "in_flight" in head["skipped"] for head in latest)


def reaction_since(keeper: KeeperProcess, clock: BlockClock, begin: int, block: int) -> Reaction | None:
    """Follow one move, mined in a block, through the lines since it was sent; None where nothing was planned."""
    head = first_plans(keeper, begin, block)
    if head is None:
        return None
    number = int(head["number"])
    after = keeper.lines[keeper.lines.index(head, begin) :]
    accepted = {line["plan_id"] for line in _named(after, "decision.accepted") if int(line["block"]) == number}
    intents = _named(after, "intent.created")
    plans = {int(line["nonce"]) for line in intents if line["plan_id"] in accepted}
    if not plans:
        return None
    # What the first plan waits for was given a nonce before it: allowances.
    batch = plans | {int(line["nonce"]) for line in intents if int(line["nonce"]) < max(plans)}
    sent_ms: dict[int, float] = {}
    for line in _named(after, "tx.broadcast"):
        if int(line["nonce"]) in batch:
            sent_ms.setdefault(int(line["nonce"]), at_ms(line))
    mined = {int(line["nonce"]): int(line["block"]) for line in _named(after, "tx.mined")}
    announced_ms = clock.announced_ms.get(number, float("nan"))
    first_ms, last_ms = min(sent_ms.values()), max(sent_ms.values())
    return Reaction(
        positions=len(plans),
        transactions=len(batch),
        behind_blocks=number - block,
        pass_ms=float(head["duration_us"]) / 1_000,
        seen_to_first_ms=first_ms - taken_ms(head),
        seen_to_last_ms=last_ms - taken_ms(head),
        mined_to_first_ms=first_ms - announced_ms,
        mined_to_last_ms=last_ms - announced_ms,
        landed_after_blocks=[mined[nonce] - block for nonce in sorted(plans) if nonce in mined],
    )


def _named(lines: list[Line], event: str) -> list[Line]:
    return [line for line in lines if line.get("event") == event]
