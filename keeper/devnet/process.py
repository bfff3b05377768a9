"""A keeper as its operator runs it: a process of its own, an environment, a log of JSON lines."""

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from keeper.errors import Fatal

Line = dict[str, Any]

_LAST_LINES: Final = 20
_KILL_AFTER_S: Final = 60.0


class KeeperProcess:
    """Run `keeper run` and read its log; use it as an async context manager, which asks it to stop."""

    def __init__(
        self, environment: Mapping[str, str], on_line: Callable[[Line], None] | None = None, *, command: str = "run"
    ) -> None:
        """Take the whole environment of the process."""
        self._environment = dict(environment)
        self._command = command
        self._on_line = on_line
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._grown = asyncio.Condition()
        self.lines: list[Line] = []

    async def __aenter__(self) -> Self:
        """Start the process."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "keeper",
            self._command,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        self._reading = asyncio.create_task(self._read(), name="keeper's log")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask the process to stop and wait until it has."""
        await self.stop()

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._started().pid

    def events(self, name: str) -> list[Line]:
        """Return the log lines of one event so far."""
        return [line for line in self.lines if line.get("event") == name]

    async def wait_for(self, wanted: Callable[["KeeperProcess"], bool], timeout_s: float) -> None:
        """Wait until the log satisfies a condition.

        Raises: Fatal with the log's end, when the process ends first or the time is up.
        """
        try:
            async with asyncio.timeout(timeout_s), self._grown:
                while not wanted(self):
                    if self._reading is not None and self._reading.done():
                        raise Fatal(f"the keeper ended early:\n{self.tail()}")
                    await self._grown.wait()
        except TimeoutError:
            raise Fatal(f"the keeper's log did not show what was awaited in {timeout_s} s:\n{self.tail()}") from None

    async def ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the keeper has made its first pass."""
        await self.wait_for(lambda log: bool(log.events("chain.head")), timeout_s)

    async def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        process = self._started()
        if process.returncode is None:
            process.terminate()
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end and return the exit code; kill a process that does not end."""
        process = self._started()
        try:
            await asyncio.wait_for(process.wait(), _KILL_AFTER_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading
        return process.returncode if process.returncode is not None else -1

    def tail(self) -> str:
        """Return the end of the log."""
        return "\n".join(self._last)

    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise Fatal("the keeper was not started")
        return self._process

    async def _read(self) -> None:
        stream = self._started().stdout
        while stream is not None and (raw := await stream.readline()):
            text = raw.decode(errors="replace").rstrip("\n")
            self._last.append(text)
            line = _parsed(text)
            async with self._grown:
                if line is not None:
                    self.lines.append(line)
                    if self._on_line is not None:
                        self._on_line(line)
                self._grown.notify_all()
        async with self._grown:
            self._grown.notify_all()


async def run_command(environment: Mapping[str, str], *arguments: str) -> Any:
    """Run one command of the keeper with `--json` and return what it answers.

    Raises: Fatal with what it said, when it fails.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "keeper",
        *arguments,
        "--json",
        env=dict(environment),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    answer, said = await process.communicate()
    if process.returncode != 0:
        raise Fatal(f"`keeper {' '.join(arguments)}` failed:\n{said.decode(errors='replace')}")
    return msgspec.json.decode(answer)


def keeper_environment(
    *, chain_file: Path, rpc_url: str, state_dir: Path, http_port: int, key_file: Path | None = None, **settings: str
) -> dict[str, str]:
    """Return the environment of a keeper: live when there is a key, observing otherwise.

    `settings` are further variables, without their prefix.
    """
    environment = {
        "KEEPER_CHAIN": str(chain_file),
        "KEEPER_RPC_URLS": rpc_url,
        "KEEPER_STATE_DIR": str(state_dir),
        "KEEPER_HTTP_PORT": str(http_port),
        "KEEPER_LOG_FORMAT": "json",
        "KEEPER_POLL_INTERVAL_MS": "100",
        "KEEPER_REQUESTS_PER_SECOND": "1000",
        "HOME": str(state_dir),
    }
    if key_file is not None:
        environment |= {"KEEPER_MODE": "live", "KEEPER_PRIVATE_KEY_FILE": str(key_file)}
    return environment | {f"KEEPER_{name}": value for name, value in settings.items()}


def _parsed(text: str) -> Line | None:
    try:
        line = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return line if isinstance(line, dict) else None
