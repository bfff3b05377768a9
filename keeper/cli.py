"""The command line: reads the configuration, runs one command, turns how it ended into an exit code."""

import asyncio
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
import uvloop

from keeper import checks, conformance, executor_cli, preflight, registry
from keeper import positions as listing
from keeper.app import Keeper, Signals
from keeper.daemon import supervise
from keeper.errors import ConfigurationError, ExitCode, Fatal
from keeper.observe import logs
from keeper.observe.events import Event, emit
from keeper.parts import set_switches
from keeper.terminal import Json, configuration, console, finish, progress, quiet

app = typer.Typer(
    name="keeper",
    help="Watches lending positions on an EVM chain and liquidates them the moment their health factor falls below 1.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Settings are environment variables that begin with KEEPER_: see the README. "
    "Exit codes: 0 done, 1 crashed, 2 usage, 3 configuration, 4 preflight or unsafe, 5 another instance, 6 storage, "
    "7 transactions printed for the executor's owner to sign.",
)

protocols = typer.Typer(help="The protocols that this keeper knows.", no_args_is_help=True)
app.add_typer(protocols, name="protocol")
app.add_typer(executor_cli.app, name="executor")

Reason = Annotated[str, typer.Option(help="Why: it is logged, and shown by /readyz.")]


@app.callback(invoke_without_command=True)
def root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Read what all commands share."""
    if show_version:
        typer.echo(version("keeper"))
        raise typer.Exit


@app.command()
def run() -> None:
    """Watch and act until asked to stop: SIGTERM drains and exits 0, a second one aborts."""
    _daemon(is_once=False)


@app.command()
def once() -> None:
    """Make one pass at the current head, follow what it sent to the end, and exit."""
    _daemon(is_once=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Check everything that running needs, one line each, with how to mend it."""
    settings, chain = configuration(as_json=as_json)
    with quiet(settings, chain):
        found = finish(preflight.preflight(settings, chain))
    if as_json:
        typer.echo(checks.as_json(found))
    else:
        checks.show(found, console(settings))
    raise typer.Exit(checks.exit_code(found))


@app.command()
def positions(
    below: Annotated[str | None, typer.Option(help="Only health factors below this, such as 1.05.")] = None,
    market: Annotated[str | None, typer.Option(help="Only this market.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many, the riskiest first.")] = None,
    as_json: Json = False,
) -> None:
    """List every tracked position, riskiest first. It works beside a running daemon."""
    below_wad = _wad(below)
    settings, chain = configuration(as_json=False)
    if market is not None and market not in {each.name for each in chain.markets}:
        known = ", ".join(each.name for each in chain.markets)
        raise typer.BadParameter(f"no such market on {chain.name}; there are {known}", param_hint="--market")
    with quiet(settings, chain), progress() as on_progress:
        found = finish(listing.read_positions(settings, chain, on_progress))
    chosen = found.chosen(below_wad=below_wad, market=market, limit=limit)
    if as_json:
        typer.echo(listing.as_json(chosen))
    else:
        console(settings).print(listing.as_table(chosen))


@app.command()
def pause(reason: Reason = "by the operator") -> None:
    """Begin nothing new until `keeper resume`, restarts included; what is in flight is still looked after."""
    _switch(reason, paused=True)


@app.command()
def halt(reason: Reason = "by the operator") -> None:
    """Sign nothing at all until `keeper resume`, restarts included: no replacement and no cancellation either."""
    _switch(reason, halted=True)


@app.command()
def resume() -> None:
    """Lift `pause` and `halt`."""
    _switch("", paused=False, halted=False)


@protocols.command("list")
def list_protocols() -> None:
    """Name every protocol that a chain file may use."""
    for name in registry.protocol_names():
        typer.echo(name)


@protocols.command("test")
def examine_protocol(
    name: Annotated[str, typer.Argument(help="A protocol that the chain file uses.")],
    limit: Annotated[int, typer.Option(min=1, help="At most so many positions of each market.")] = 300,
    as_json: Json = False,
) -> None:
    """Compare a protocol's four parts with its contracts on the configured chain; nothing is sent."""
    settings, chain = configuration(as_json=as_json)
    used = sorted({each.protocol for each in chain.markets})
    if name not in used:
        raise typer.BadParameter(f"no market of {chain.name} uses it; there are {', '.join(used)}", param_hint="NAME")
    with quiet(settings, chain), progress() as on_progress:
        found = finish(conformance.examine_all(settings, chain, name, limit=limit, on_progress=on_progress))
    if as_json:
        typer.echo(checks.as_json(found))
    else:
        checks.show(found, console(settings))
    raise typer.Exit(checks.exit_code(found))


@app.command()
def demo(
    generation: Annotated[str, typer.Option(help="Which genuine Aave v3 to deploy: 3.0 or 3.6.")] = "3.0",
    accounts: Annotated[int, typer.Option(min=5, max=500, help="How many positions to open.")] = 40,
    cache_dir: Annotated[Path | None, typer.Option(help="Where the node and the contracts are kept.")] = None,
    as_json: Json = False,
) -> None:
    """See it work: a local chain, the genuine Aave v3, falling prices, and the real daemon in live mode."""
    if generation not in {"3.0", "3.6"}:
        raise typer.BadParameter("there are 3.0 and 3.6", param_hint="--generation")
    from keeper import demo as demonstration  # noqa: PLC0415 - the local chain's libraries take a second to import

    request = demonstration.Request(generation=generation, accounts=accounts, cache_dir=cache_dir, as_json=as_json)
    raise typer.Exit(finish(demonstration.run(request)))


def main() -> None:
    """Run the command line."""
    app()


def _daemon(*, is_once: bool) -> NoReturn:
    """Run the keeper under supervision; standard output is its log."""
    settings, chain = configuration(as_json=False)
    with progress() as on_progress:
        keeper = Keeper(settings, chain, on_progress)
        output = logs.configure(
            level=settings.log_level,
            format=settings.log_format,
            mode=settings.mode.value,
            chain_id=chain.chain_id,
            secrets=settings.secrets(),
            colour=not settings.no_color,
            on_drop=keeper.metrics.log_dropped.inc,
        )
        try:
            code = uvloop.run(_supervised(keeper, is_once=is_once))
        except (asyncio.CancelledError, KeyboardInterrupt):
            code = ExitCode.CRASHED
        finally:
            output.close()
    raise typer.Exit(code)


async def _supervised(keeper: Keeper, *, is_once: bool) -> ExitCode:
    """Tell the start, run to the end, and tell how it ended."""
    signals = Signals()
    emit(Event.KEEPER_STARTING, version=version("keeper"), command="once" if is_once else "run")
    for problem in (*keeper.settings.warnings, *keeper.chain.warnings):
        emit(Event.CONFIG_DOUBTFUL, problem=problem)
    code = await supervise(keeper.once(signals.stop) if is_once else keeper.run(signals.stop), _crashed)
    if code is ExitCode.DONE:
        emit(Event.KEEPER_STOPPED)
    return code


def _crashed(error: Exception) -> None:
    """Tell how the process ends: an error raised on purpose by its words, any other with its traceback."""
    if isinstance(error, ConfigurationError):
        for problem in error.problems:
            emit(Event.CONFIG_INVALID, problem=problem)
    elif isinstance(error, Fatal):
        emit(Event.KEEPER_CRASHED, error=str(error), kind=type(error).__name__, exit_code=error.exit_code)
    else:
        emit(Event.KEEPER_CRASHED, error=str(error), kind=type(error).__name__, exc_info=error)


def _switch(reason: str, **switches: bool) -> None:
    """Set switches in the store, beside a running daemon or before one starts, and say how they stand."""
    settings, chain = configuration(as_json=False)
    with quiet(settings, chain):
        found = finish(set_switches(settings, chain, switches, reason=reason))
    state = "halted" if found.halted else "paused" if found.paused else "running"
    typer.echo(f"{chain.name}: {state}{f' ({found.reason})' if found.reason else ''}")


def _wad(text: str | None) -> int | None:
    """Read a decimal health factor exactly."""
    if text is None:
        return None
    whole, _, part = text.partition(".")
    if not (whole.isdecimal() and len(whole) < 12 and (part.isdecimal() or not part) and len(part) <= 18):
        raise typer.BadParameter("a decimal number such as 1.05", param_hint="--below")
    return int(whole) * 10**18 + int(part.ljust(18, "0") or "0")
