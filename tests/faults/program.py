"""The keeper as a process whose every output is kept, raw, in files."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 60.0
POLL_S = 0.05


class Program:
    """A keeper process; use it as a context manager, which ends it."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *arguments: str,
        python: Sequence[str] = ("-m", "keeper"),
        sink: Path | None = None,
    ) -> None:
        """Take the whole environment, how Python is told to run the program, and where else its log is to go."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.environment = {"PATH": os.defpath, **environment}
        self.command = [sys.executable, *python, *arguments]
        self._sink = sink or folder / "stdout"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        mode = "r+b" if self._sink.exists() else "wb"  # a pipe without a reader can be opened for both only
        with self._sink.open(mode, buffering=0) as out, (self.folder / "stderr").open("wb") as err:
            self._process = subprocess.Popen(self.command, env=self.environment, stdout=out, stderr=err)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """Return the process."""
        assert self._process is not None, "the program was not started"
        return self._process

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self.process.pid

    def proc(self, name: str) -> bytes:
        """Return what the system tells of the process."""
        return Path(f"/proc/{self.pid}/{name}").read_bytes()

    def stream(self, name: str) -> bytes:
        """Return what was written to `stdout` or `stderr` so far."""
        return (self.folder / name).read_bytes()

    def output(self) -> dict[str, bytes]:
        """Return everything written so far, by the stream."""
        return {name: self.stream(name) for name in ("stdout", "stderr") if (self.folder / name).exists()}

    def text(self) -> str:
        """Return both streams as text."""
        return "\n".join(content.decode(errors="replace") for content in self.output().values())

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log's lines of one event so far; of all where none is named."""
        lines = (self.folder / "stdout").read_bytes().split(b"\n")[:-1]
        return [
            line
            for raw in lines
            if (name.encode() in raw and (line := json.loads(raw)).get("event") == name) or not name
        ]

    async def wait_for(self, wanted: Callable[["Program"], object], timeout_s: float = PATIENCE_S) -> None:
        """Wait until the program satisfies a condition; fail where it ends first, or the time is up."""
        deadline_s = time.monotonic() + timeout_s
        while not wanted(self):
            assert self.process.poll() is None, f"it ended early:\n{self.text()[-4000:]}"
            assert time.monotonic() < deadline_s, f"it did not come to that:\n{self.text()[-4000:]}"
            await asyncio.sleep(POLL_S)

    async def seen(self, event: str, times: int = 1, timeout_s: float = PATIENCE_S) -> None:
        """Wait until an event was logged so many times."""
        await self.wait_for(lambda program: len(program.events(event)) >= times, timeout_s)

    async def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for the end and return the exit code."""
        return await asyncio.to_thread(self.process.wait, timeout_s)

    async def stop(self, timeout_s: float = PATIENCE_S) -> int:
        """Ask it to stop, wait for the end and return the exit code."""
        self.process.terminate()
        return await self.ended(timeout_s)

    def page(self, path: str, *, method: str = "GET", timeout_s: float = 5.0) -> tuple[int, bytes, bytes]:
        """Ask the program's own endpoints: status, headers and body."""
        port = self.environment["KEEPER_HTTP_PORT"]
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_s) as answer:
                return answer.status, bytes(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, bytes(error.headers), error.read()


def finished(
    folder: Path, environment: Mapping[str, str], *arguments: str, python: Sequence[str] = ("-m", "keeper")
) -> tuple[int, Program]:
    """Run a command to its end; return the exit code and what it left."""
    with Program(folder, environment, *arguments, python=python) as program:
        return program.process.wait(PATIENCE_S), program
