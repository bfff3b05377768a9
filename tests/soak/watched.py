"""The keeper under watch: processes one after the other on the same state, their logs, and what the system says of them."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.faults.canary import KEY, PATH_TOKEN, canary_hits
from tests.faults.program import Program
from tests.soak.figures import Sample

Line = dict[str, Any]

SECRETS: Final = (KEY, PATH_TOKEN)
_PAGE_TIMEOUT_S: Final = 1.0
_TAIL_S: Final = 0.05
_PAGES_SEARCHED_EVERY: Final = 10


class Run:
    """One process. `is_ours_to_end`: somebody here has ended it, or is about to."""

    def __init__(self, number: int, program: Program) -> None:
        self.number = number
        self.program = program
        self.begun_s = time.monotonic()
        self.is_ours_to_end = False
        self._read = 0

    def new_lines(self) -> list[Line]:
        """Return what was logged since the last call."""
        with (self.program.folder / "stdout").open("rb") as file:
            file.seek(self._read)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for raw in whole.splitlines():
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": "no json", "level": "error", "text": raw.decode(errors="replace")}
            found.append(line)
        return found


class Watched:
    """Start, watch and end the keeper; `lines` holds the log by event, each with the second at which it was seen."""

    def __init__(self, folder: Path, environment: Mapping[str, str], zero_s: float) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.lines: dict[str, list[Line]] = {}
        self.alarms: Counter[str] = Counter()
        self.runs: list[Run] = []
        self.ended_early: list[str] = []
        self.exit_codes: list[int] = []
        """Of those that were asked to stop."""
        self.leaks: list[str] = []
        self._zero_s = zero_s
        self._pages = 0
        self._session: aiohttp.ClientSession | None = None

    @property
    def now_s(self) -> float:
        """Return the seconds since the soak began."""
        return time.monotonic() - self._zero_s

    @property
    def run(self) -> Run:
        """Return the newest process."""
        return self.runs[-1]

    def start(self) -> None:
        """Start a process where the last one left off."""
        number = len(self.runs) + 1
        program = Program(self.folder / f"run-{number}", self.environment, "run")
        program.__enter__()
        self.runs.append(Run(number, program))

    async def kill(self) -> None:
        """End the process as a power cut would."""
        self.run.is_ours_to_end = True
        self.run.program.process.kill()
        await self.run.program.ended()

    async def stop(self) -> tuple[int, float]:
        """Ask it to stop; return the exit code and the seconds that took."""
        self.run.is_ours_to_end = True
        asked_s = time.monotonic()
        self.run.program.process.terminate()
        code = await self.run.program.ended()
        self.exit_codes.append(code)
        return code, time.monotonic() - asked_s

    async def freeze(self, seconds: float) -> None:
        """Let it do nothing for a while, as a suspended machine does."""
        pid = self.run.program.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """End what still runs."""
        for run in self.runs:
            run.is_ours_to_end = True
            run.program.__exit__(None, None, None)

    async def follow(self) -> None:
        """Read the log for ever, and start the keeper again where it ended by itself, which is noted."""
        while True:
            self.read()
            process = self.run.program.process
            if process.poll() is not None and not self.run.is_ours_to_end:
                self.read()
                last = [str(each.get("error", "")) for each in self.lines.get("keeper.crashed", [])][-1:]
                self.ended_early.append(f"at {self.now_s:.0f} s with exit code {process.returncode} {last}")
                self.start()
            await asyncio.sleep(_TAIL_S)

    def read(self) -> None:
        """Take in what was logged."""
        for line in self.run.new_lines():
            line["at_s"] = self.now_s
            line["run"] = self.run.number
            event = str(line.get("event"))
            self.lines.setdefault(event, []).append(line)
            if line.get("level") in {"warning", "error", "critical"}:
                self.alarms[event] += 1

    def events(self, name: str) -> list[Line]:
        """Return the log lines of one event so far, of all processes."""
        return self.lines.get(name, [])

    @property
    def height(self) -> int:
        """Return the newest block at which the newest process made a pass; -1 for none."""
        for line in reversed(self.events("chain.head")):
            return int(line["number"]) if line["run"] == self.run.number else -1
        return -1

    async def readiness(self) -> tuple[bool | None, tuple[str, ...]]:
        """Ask `/readyz`: its answer, or None where there is none, and its reasons."""
        text = await self._page("/readyz")
        if text is None:
            return None, ()
        told = json.loads(text)
        return told["status"] == "ready", tuple(each["reason"] for each in told["checks"] if not each["ok"])

    async def metrics(self) -> dict[str, float]:
        """Return the metrics, those with labels added up; empty where there is no answer."""
        text = await self._page("/metrics")
        found: dict[str, float] = {}
        for line in (text or "").splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name] = float(value)
                bare = name.partition("{")[0]
                if bare != name:
                    found[bare] = found.get(bare, 0.0) + float(value)
        return found

    async def sample(self, chain_block: int) -> Sample:
        """Take one look."""
        taken = Sample(self.now_s, self.run.number, chain_block)
        self._note_system(taken)
        taken.is_ready, taken.reasons = await self.readiness()
        if taken.is_ready is not None and (shown := await self.metrics()):
            taken.tasks = int(shown["keeper_tasks"]) if "keeper_tasks" in shown else None
            age_s = shown["keeper_head_age_seconds"]
            taken.head_age_s = None if age_s != age_s else age_s  # noqa: PLR0124 - only NaN differs from itself
            taken.loop_lag_s = shown["keeper_loop_lag_seconds"]
            taken.in_flight = int(shown["keeper_inflight"])
            taken.nonce_gap = int(shown["keeper_nonce_gap"])
            taken.violations = int(shown.get("keeper_invariant_violations_total", 0))
        taken.won = len(self.events("liquidation.won"))
        return taken

    def _note_system(self, taken: Sample) -> None:
        """Take what the system says; a process that is just ending says nothing."""
        try:
            status = self.run.program.proc("status").decode()
            taken.descriptors = len(os.listdir(f"/proc/{self.run.program.pid}/fd"))  # noqa: PTH208 - of another process
        except OSError:
            return
        told = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" in told:  # a zombie has none
            taken.rss_kib = int(told["VmRSS"].split()[0])
            taken.threads = int(told["Threads"])

    async def _page(self, path: str) -> str | None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PAGE_TIMEOUT_S))
        try:
            async with self._session.get(f"http://127.0.0.1:{self.environment['KEEPER_HTTP_PORT']}{path}") as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return None
        self._pages += 1
        if self._pages % _PAGES_SEARCHED_EVERY == 0:
            self.leaks += canary_hits({path: text}, SECRETS)
        return text

    async def disconnect(self) -> None:
        """Close the connection to the keeper's pages."""
        if self._session is not None:
            await self._session.close()
