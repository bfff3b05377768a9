"""`keeper demo`: a local chain with the genuine Aave v3 and Uniswap, positions, falling prices, and the real daemon.

Its account has native currency for gas and nothing else: what it repays is borrowed by the executor, and the profit
goes to an address whose key it does not have.
"""

import json
import secrets
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keeper.devnet.chain_file import chain_text
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.executor import DevExecutor
from keeper.devnet.ledger import FlashStatement, read_flash_statement, read_standing, tokens_of
from keeper.devnet.market import AaveMarket, AccountData, Generation
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess, Line, keeper_environment, run_command
from keeper.domain.units import BASE_UNIT, WAD, Wei
from keeper.errors import ExitCode
from keeper.execution.signer import Signer, SigningPolicy
from keeper.text import address_text, amount_text, health_text, usd_text

BLOCK_S: Final = 1
_GAS_WEI: Final = 10**18
_SHOWN: Final = 10
_QUIET_HEADS: Final = 3
_STEP_LIMIT_S: Final = 20.0
_MAJORS: Final[tuple[str, ...]] = ("WETH", "wstETH", "WBTC", "LINK", "CRV")


@dataclass(frozen=True, slots=True)
class Request:
    """What to show."""

    generation: str
    accounts: int
    cache_dir: Path | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One move of the majors' prices, in percent of where they began."""

    title: str
    percent: int


STEPS: Final = (Step("prices drop", 84), Step("a partial recovery", 92), Step("a crash", 60))


async def run(request: Request) -> ExitCode:
    """Play the demo; anything but a reconciled run with liquidations is a failure."""
    started_s = monotonic()
    console = Console(stderr=request.as_json, highlight=False)
    console = console if console.is_terminal else Console(stderr=request.as_json, width=140, highlight=False)
    generation = cast("Generation", request.generation)
    cache_dir = request.cache_dir or default_cache_dir()
    spec = DevnetSpec(generations=(generation,), others=("uniswap",), n_positions=request.accounts)
    console.print(
        f"[bold]keeper demo[/]: a local chain with the genuine Aave v{generation} and Uniswap contracts, no keys needed"
    )

    def tell(line: str) -> None:
        console.print(f"  {escape(line)}", style="dim")

    async with cached_devnet(cache_dir, spec, options=AnvilOptions(block_time_s=BLOCK_S), progress=tell) as devnet:
        with _workplace(devnet) as place:
            show = _Show(devnet, devnet.markets[generation], place, console)
            statement = await show.play()
    prepared = show.summary(statement, monotonic() - started_s)
    if request.as_json:
        console.file.flush()
        print(json.dumps(prepared, indent=2))  # noqa: T201 - the command's answer
    is_good = bool(statement.liquidations) and not statement.difference() and not statement.reverted
    return ExitCode.DONE if is_good and show.exit_code == 0 else ExitCode.CRASHED


@dataclass(frozen=True, slots=True)
class _Place:
    """A folder for one run, with fresh keys in it: of the account that liquidates, and of the executor's owner."""

    folder: Path
    chain_file: Path
    key_file: Path
    address: str
    owner_key_file: Path
    owner: str
    environment: dict[str, str]


@contextmanager
def _workplace(devnet: Devnet) -> Iterator[_Place]:
    """Make the folder: a chain file as in `config/`, and keys that nobody has used."""
    with tempfile.TemporaryDirectory(prefix="keeper-demo-") as name:
        folder = Path(name)
        chain_file = folder / "local.toml"
        chain_file.write_text(chain_text(devnet, block_time_ms=BLOCK_S * 1_000), encoding="utf-8")
        (key_file, address), (owner_key_file, owner) = (_new_key(folder / each) for each in ("key", "owner-key"))
        environment = keeper_environment(
            chain_file=chain_file,
            rpc_url=devnet.node.http_url,
            state_dir=folder / "state",
            http_port=free_port(),
            key_file=key_file,
        )
        yield _Place(folder, chain_file, key_file, address, owner_key_file, owner, environment)


def _new_key(file: Path) -> tuple[Path, str]:
    """Write a new key, and return its file and its address."""
    key = secrets.token_hex(32)
    file.touch(mode=0o600)
    file.write_text(key, encoding="utf-8")
    return file, address_text(Signer.from_hex(key, SigningPolicy(31_337, Wei(0), 0)).address)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class _Show:
    """One run of the demo."""

    def __init__(self, devnet: Devnet, market: AaveMarket, place: _Place, console: Console) -> None:
        self._devnet = devnet
        self._market = market
        self._place = place
        self._console = console
        self._owners = tuple(each.owner for each in next(iter(devnet.positions.values())))
        self._gas_wei = 0
        self._profit_base = 0
        self._skipped: dict[str, str] = {}
        self.exit_code = -1

    async def play(self) -> FlashStatement:
        """Create the executor, start the daemon, move the prices, stop it, and read what the chain says."""
        chain, market, place = self._devnet.chain, self._market, self._place
        for address in (place.address, place.owner):
            await chain.set_balance(address, _GAS_WEI)
        executor = await self._executor()
        before = await read_standing(chain, tokens_of([market]), place.address, executor)
        keeper = KeeperProcess(place.environment, self._line)
        async with keeper:
            await keeper.ready()
            self._console.print(
                f"\n[bold]the daemon watches[/] (live, as {place.address}, which has"
                f" {amount_text(before.account.native_wei, 18)} ETH for gas and no token at all)"
            )
            await self._accounts()
            start = await market.prices()
            for step in STEPS:
                await self._step(keeper, step, start)
            self.exit_code = await keeper.stop()
        await chain.set_interval(0)
        return await read_flash_statement(chain, {"aave": market}, place.address, executor, before)

    async def _executor(self) -> DevExecutor:
        """Create and authorise the executor as an operator does, and put it into the chain file."""
        place = self._place
        self._console.print(f"\n[bold]keeper executor deploy[/] --owner {place.owner}")
        made = await run_command(place.environment, "executor", "deploy", "--owner", place.owner)
        executor = DevExecutor(
            address=made["address"], owner=place.owner, code_hash=made["code_hash"], from_block=made["from_block"]
        )
        text = chain_text(self._devnet, block_time_ms=BLOCK_S * 1_000, executor=executor)
        place.chain_file.write_text(text, encoding="utf-8")
        self._console.print(f"  {executor.address}, code hash {executor.code_hash}", style="dim")
        self._console.print("[bold]keeper executor authorize[/] --owner-key-file …")
        key_file = str(place.owner_key_file)
        sent = await run_command(place.environment, "executor", "authorize", "--owner-key-file", key_file)
        for each in sent["sent"]:
            self._console.print(f"  {escape(str(each['meaning']))}", style="dim")
        return executor

    async def _step(self, keeper: KeeperProcess, step: Step, start: dict[str, int]) -> None:
        """Move the majors, and wait until the daemon has nothing left to do."""
        wanted = {name: start[name] * step.percent // 100 for name in _MAJORS if name in start}
        moves = ", ".join(f"{name} {usd_text(price)}" for name, price in wanted.items())
        self._console.print(f"\n[bold]{step.title}[/]: {moves}")
        heads = len(keeper.events("chain.head"))
        await self._devnet.move(wanted, mine=False)

        def is_settled(log: KeeperProcess) -> bool:
            latest = log.events("chain.head")[heads + 1 :][-_QUIET_HEADS:]
            return len(latest) == _QUIET_HEADS and all(_is_quiet(line) for line in latest)

        await keeper.wait_for(is_settled, _STEP_LIMIT_S)
        await self._accounts()

    async def _accounts(self) -> None:
        """Draw the positions by health factor, as the protocol itself values them now."""
        data = await self._market.accounts_data(self._owners)
        found = sorted(
            ((owner, each) for owner, each in zip(self._owners, data, strict=True) if each.debt_base),
            key=lambda pair: pair[1].health_factor_wad,
        )
        self._console.print(_distribution([each for _, each in found]))
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("account", "health factor", "collateral", "debt", "why it is left"):
            table.add_column(name, justify="left" if name in {"account", "why it is left"} else "right")
        for owner, each in found[:_SHOWN]:
            style = (
                "red" if each.health_factor_wad < WAD else "yellow" if each.health_factor_wad < 105 * WAD // 100 else ""
            )
            health = health_text(each.health_factor_wad)
            why = self._skipped.get(owner, "") if each.health_factor_wad < WAD else ""
            table.add_row(owner, health, usd_text(each.collateral_base), usd_text(each.debt_base), why, style=style)
        self._console.print(table)

    def _line(self, line: Line) -> None:
        """Show a liquidation at the moment the daemon reports it, and anything that went wrong."""
        event = line.get("event")
        if event == "liquidation.won" and "repaid" in line:
            gas_wei = int(line["gas_cost_wei"])
            self._gas_wei += gas_wei
            self._profit_base += int(line["profit_base"])
            self._console.print(
                f"  [green]liquidated[/] {line['account']}  repaid {escape(line['repaid'])}"
                f"  seized {escape(line['seized'])}  gas {amount_text(gas_wei, 18)} ETH"
                f"  profit {escape(line['profit'])}"
            )
        elif event == "decision.skipped":
            self._skipped[str(line["account"])] = str(line["reason"])
        elif line.get("level") in {"warning", "error"}:
            self._console.print(f"  [yellow]{escape(str(line.get('event')))}[/] {escape(str(line.get('detail', '')))}")

    def summary(self, statement: FlashStatement, seconds: float) -> dict[str, Any]:
        """Draw the end: what was repaid, seized and earned per token, and whether it adds up."""
        symbols = {each.token: (name, each.decimals) for name, each in self._market.reserves.items()}
        table = Table(box=box.SIMPLE_HEAD, title="what the chain says, token by token", title_justify="left")
        for name in ("token", "repaid", "seized", "sold and bought", f"earned by {self._place.owner}"):
            table.add_column(name, justify="left" if name == "token" else "right")
        before, after = statement.before.owner.tokens, statement.after.owner.tokens
        for token, (symbol, decimals) in symbols.items():
            repaid = sum(each.repaid for each in statement.liquidations if each.debt_token == token)
            seized = sum(each.seized for each in statement.liquidations if each.collateral_token == token)
            earned = after[token] - before[token]
            if repaid or seized or earned:
                row = (-repaid, seized, earned + repaid - seized, earned)
                table.add_row(symbol, *(amount_text(each, decimals) for each in row))
        self._console.print()
        self._console.print(table)
        difference = statement.difference()
        verdict = "[green]reconciled to the wei[/]" if not difference else f"[red]does not add up: {difference}[/]"
        self._console.print(
            f"{len(statement.liquidations)} liquidations, {statement.transactions} transactions,"
            f" {statement.reverted} reverted, gas {amount_text(statement.gas_wei, 18)} ETH,"
            f" profit before gas {usd_text(self._profit_base)}: {verdict} ({seconds:.0f} s)"
        )
        return {
            "liquidations": len(statement.liquidations),
            "transactions": statement.transactions,
            "reverted": statement.reverted,
            "gas_wei": str(statement.gas_wei),
            "profit_base": str(self._profit_base),
            "profit": {symbols[token][0]: str(each) for token, each in statement.profits.items() if each},
            "reconciled": not difference,
            "difference": {
                f"{party} {symbols.get(token, ('native', 18))[0]}": str(each)
                for (party, token), each in difference.items()
            },
            "exit_code": self.exit_code,
            "seconds": round(seconds, 1),
        }


def _is_quiet(line: Line) -> bool:
    """Return whether a head left the daemon nothing to send and nothing to wait for."""
    return not line.get("plans") and "in_flight" not in line.get("skipped", {})


def _distribution(accounts: list[AccountData]) -> str:
    """Count positions by health factor."""
    bounds = ((WAD, "below 1"), (105 * WAD // 100, "to 1.05"), (125 * WAD // 100, "to 1.25"), (2 * WAD, "to 2"))
    counts: list[str] = []
    low = 0
    for high, name in bounds:
        counts.append(f"{sum(low <= each.health_factor_wad < high for each in accounts)} {name}")
        low = high
    counts.append(f"{sum(each.health_factor_wad >= low for each in accounts)} above")
    debt = sum(each.debt_base for each in accounts) // BASE_UNIT
    return f"{len(accounts)} positions, ${debt:,} of debt; health factor: {', '.join(counts)}"
