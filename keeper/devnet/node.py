"""One anvil process: started on a free port, killed with its parent, stopped on the way out."""

import asyncio
import ctypes
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Literal, Self

import aiohttp

from keeper.errors import Fatal

_PR_SET_PDEATHSIG: Final = 1
_START_DEADLINE_S: Final = 20.0
_ANSWER_DEADLINE_S: Final = 2.0
_STOP_DEADLINE_S: Final = 3.0
_POLL_S: Final = 0.01
_SHOWN_BYTES: Final = 4_000
_START_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnvilOptions:
    """How the node behaves: the names follow anvil's own flags."""

    chain_id: int = 31_337
    block_time_s: float | None = None
    mining: bool = True
    timestamp_s: int | None = None
    gas_limit: int = 60_000_000
    base_fee_wei: int | None = None
    order: Literal["fees", "fifo"] = "fees"
    load_state: Path | None = None
    prune_history: bool = False
    auto_impersonate: bool = False
    code_size_limit: int | None = None
    slots_in_an_epoch: int | None = None
    port: int | None = None
    extra: tuple[str, ...] = ()

    def arguments(self) -> tuple[str, ...]:
        """Return the command line that these options stand for."""
        valued = {
            "--chain-id": self.chain_id,
            "--gas-limit": self.gas_limit,
            "--order": self.order,
            "--block-time": self.block_time_s,
            "--timestamp": self.timestamp_s,
            "--base-fee": self.base_fee_wei,
            "--load-state": self.load_state,
            "--code-size-limit": self.code_size_limit,
            "--slots-in-an-epoch": self.slots_in_an_epoch,
        }
        switches = {
            "--no-mining": not self.mining,
            "--prune-history": self.prune_history,
            "--auto-impersonate": self.auto_impersonate,
        }
        pairs = [f"{flag}={value}" for flag, value in valued.items() if value is not None]
        flags = [flag for flag, wanted in switches.items() if wanted]
        return ("--quiet", "--no-request-size-limit", *pairs, *flags, *self.extra)


class Anvil:
    """Run a node for as long as the `async with` block lasts."""

    def __init__(self, binary: Path, options: AnvilOptions | None = None) -> None:
        """Keep what to start; nothing runs yet."""
        self._binary = binary
        self._options = options or AnvilOptions()
        self._process: asyncio.subprocess.Process | None = None
        self._output: IO[bytes] | None = None
        self._port = 0

    @property
    def http_url(self) -> str:
        """Return the JSON-RPC address."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def ws_url(self) -> str:
        """Return the WebSocket address."""
        return f"ws://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Return the process id of the running node."""
        if self._process is None:
            raise Fatal("the node is not running")
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start the node and wait for its first answer.

        Raises: Fatal with the node's last output when it does not come up.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the node."""
        await self.stop()

    async def stop(self) -> None:
        """Terminate the node, then kill it; a node that is gone already is fine."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_DEADLINE_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._output is not None:
            self._output.close()
            self._output = None

    async def _start(self) -> None:
        """Retry a start that failed: between finding a free port and using it, another process may take it."""
        attempts = 1 if self._options.port else _START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            await self._spawn()
            if await self._answers():
                return
            why = self._last_output()
            await self.stop()
            if attempt == attempts:
                raise Fatal(f"anvil did not start:\n{why}")

    async def _spawn(self) -> None:
        self._port = self._options.port or _free_port()
        # A file and not a pipe: a pipe that nobody empties would block the node.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        command = (str(self._binary), f"--port={self._port}", "--host=127.0.0.1", *self._options.arguments())
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._output,
            stderr=asyncio.subprocess.STDOUT,
            preexec_fn=_die_with_parent(),
        )

    async def _answers(self) -> bool:
        deadline = time.monotonic() + _START_DEADLINE_S
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_DEADLINE_S)) as session:
            while time.monotonic() < deadline and self._process is not None and self._process.returncode is None:
                try:
                    async with session.post(self.http_url, json=request) as response:
                        body = await response.json()
                        return int(body["result"], 16) == self._options.chain_id
                except (aiohttp.ClientError, TimeoutError):
                    await asyncio.sleep(_POLL_S)
        return False

    def _last_output(self) -> str:
        if self._output is None:
            return ""
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, end - _SHOWN_BYTES))
        return self._output.read().decode(errors="replace")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> Callable[[], None] | None:
    """Return what the child runs before it becomes the node: ask the kernel to kill it when its parent dies."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent died before the request was in place.
            os.kill(os.getpid(), signal.SIGKILL)

    return ask
