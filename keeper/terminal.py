"""What all commands share: reading the configuration, running work, and writing to the terminal."""

import asyncio
import resource
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from keeper import checks
from keeper.chain.backfill import Progress as ScanProgress
from keeper.chainfile import ChainFile
from keeper.errors import ConfigurationError, ExitCode, Fatal, KeeperError
from keeper.observe import logs
from keeper.observe.events import Event, emit
from keeper.parts import OnProgress
from keeper.settings import Settings, load_configuration

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; an error raised on purpose is one message on standard error, and its exit code."""
    try:
        return asyncio.run(work)
    except KeeperError as error:
        for line in str(error).splitlines():
            typer.echo(f"keeper: {line}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, Fatal) else ExitCode.CRASHED) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.CRASHED) from None


def configuration(*, as_json: bool) -> tuple[Settings, ChainFile]:
    """Load the configuration, or print every problem of it at once and exit."""
    _forbid_core_dumps()
    try:
        return load_configuration()
    except ConfigurationError as error:
        if as_json:
            found = tuple(checks.Check("configuration", checks.Status.FAIL, each) for each in error.problems)
            typer.echo(checks.as_json(found))
        many = len(error.problems)
        typer.echo(f"keeper: {many} problem{'s' if many > 1 else ''} in the configuration", err=True)
        for problem in error.problems:
            typer.echo(f"  {problem}", err=True)
        raise typer.Exit(ExitCode.CONFIGURATION) from None


def _forbid_core_dumps() -> None:
    """Keep the key out of core dumps: a limit of 1 byte also stops those that are piped to a program, which ignore 0."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 0 if hard == 0 else 1
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


@contextmanager
def quiet(settings: Settings, chain: ChainFile) -> Iterator[None]:
    """Send warnings of the parts to standard error, so that standard output holds the answer alone."""
    output = logs.configure(
        level="warning",
        format=settings.log_format,
        mode=settings.mode.value,
        chain_id=chain.chain_id,
        secrets=settings.secrets(),
        stream=sys.stderr,
        colour=not settings.no_color,
    )
    try:
        yield
    finally:
        output.close()


@contextmanager
def progress() -> Iterator[OnProgress]:
    """Draw a bar for each market whose logs are read; on anything but a terminal, log now and then instead."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield _logged_progress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("blocks, {task.fields[logs]} logs"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(market: str, progress: ScanProgress) -> None:
            task = tasks.get(market)
            if task is None:
                task = tasks[market] = bars.add_task(f"accounts of {market}", total=len(progress.whole), logs=0)
            bars.update(task, total=len(progress.whole), completed=len(progress.done), logs=progress.logs)

        yield draw


def _logged_progress() -> OnProgress:
    told: dict[str, int] = {}

    def log(market: str, progress: ScanProgress) -> None:
        percent = 100 * len(progress.done) // max(1, len(progress.whole))
        if percent >= told.get(market, -1) + 5 or percent == 100:
            told[market] = percent
            emit(Event.INDEX_BACKFILL, market=market, percent=percent, block=progress.done.last, logs=progress.logs)

    return log


def console(settings: Settings) -> Console:
    """Return standard output: as wide as needed where it is not a terminal, and without colour where asked."""
    output = Console(no_color=settings.no_color or None)
    return output if output.is_terminal else Console(width=240, no_color=True)
