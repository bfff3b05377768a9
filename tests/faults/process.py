"""The whole daemon as a process on genuine Aave contracts behind the fault proxy; the test mines the blocks."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.ledger import LIQUIDATION
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.domain.units import Address
from keeper.store.database import Database
from keeper.store.outcomes import Outcomes
from tests.faults.books import Arrivals, check_books, mined_by
from tests.faults.node import CHAIN_ID
from tests.faults.program import Program
from tests.faults.proxy import FaultProxy
from tests.operator import Operator, prepare

GENERATION: Final = "3.0"
MAJORS: Final = ("WETH", "wstETH", "WBTC", "LINK", "CRV")
DROP_TO_PERCENT: Final = 85
QUIET_HEADS: Final = 2
PATIENCE_S: Final = 60.0
MOST_BLOCKS: Final = 30
_CHEAP_WEI: Final = 10**6
_SPEC: Final = DevnetSpec(generations=(GENERATION,), n_positions=30)


@dataclass(frozen=True)
class Ending:
    """What came of everything, without what time alone decides."""

    nonce: int
    liquidations: tuple[tuple[str, ...], ...]
    outcomes: tuple[tuple[str, str, str | None], ...]


@dataclass(repr=False)
class Stage:
    """A devnet that mines when told, a proxy before it, and an operator with a funded key."""

    devnet: Devnet
    proxy: FaultProxy
    operator: Operator
    arrivals: Arrivals
    start: int
    runs: int = 0

    @property
    def journal(self) -> Path:
        """Return the daemon's database."""
        return self.operator.folder / "state" / "local.sqlite3"

    def daemon(self, *, has_key: bool = True, **settings: str) -> Program:
        """Return a daemon to start on the same state."""
        self.runs += 1
        defaults = {"RPC_URLS": ",".join(self.proxy.urls), "DRAIN_TIMEOUT_S": "1"} | settings
        environment = self.operator.environment(is_live=has_key, **defaults)
        return Program(self.operator.folder / f"run-{self.runs}", environment, "run")

    async def drop_prices(self, percent: int = DROP_TO_PERCENT) -> None:
        """Make several positions liquidatable in one new block, where gas costs next to nothing.

        What a thin profit allows would otherwise depend on the block in which a process happens to send.
        """
        await self.devnet.chain.set_next_base_fee(_CHEAP_WEI)
        market = self.devnet.markets[GENERATION]
        prices = await market.prices()
        await market.set_prices({name: prices[name] * percent // 100 for name in MAJORS if name in prices})

    async def until(self, keeper: Program, wanted: Callable[[Program], object]) -> int:
        """Mine until the log satisfies a condition or the process is gone; return how many blocks that took."""
        for count in range(MOST_BLOCKS):
            if is_over(keeper) or wanted(keeper):
                return count
            await self.devnet.chain.mine()
            await _settled(keeper, wanted)
        raise AssertionError(f"it did not come to that in {MOST_BLOCKS} blocks:\n{keeper.text()[-4000:]}")

    async def until_quiet(self, keeper: Program) -> int:
        """Mine until at some heads in a row nothing is sent, and the journal says that everything is over."""
        seen = len(keeper.events("chain.head"))

        def is_quiet(log: Program) -> bool:
            heads = log.events("chain.head")[seen:][-QUIET_HEADS:]
            return len(heads) == QUIET_HEADS and not any(line["plans"] for line in heads) and not self.open_nonces()

        return await self.until(keeper, is_quiet)

    def open_nonces(self) -> list[int]:
        """Return the nonces that the journal holds as in flight, as another process reads it."""
        with sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True) as connection:
            query = "select nonce from intent where state in ('live', 'mined') order by nonce"
            rows = connection.execute(query).fetchall()
        connection.close()
        return [nonce for (nonce,) in rows]

    async def check(self, *, is_over: bool = True) -> None:
        """Assert N1, N2, N3 and N11."""
        assert self.arrivals.unaccounted == [], "N1"
        mined = await mined_by(self.devnet.chain.rpc, self.operator.address, self.start)
        await check_books(self.journal, Address(bytes.fromhex(self.operator.address[2:])), mined, is_over=is_over)

    async def ending(self) -> Ending:
        """Tell what came of everything."""
        market = self.devnet.markets[GENERATION]
        query = {"address": market.pool, "fromBlock": hex(self.start), "topics": [LIQUIDATION]}
        logs = await self.devnet.chain.rpc("eth_getLogs", query)
        database = await Database.open(self.journal, CHAIN_ID)
        try:
            ended = await Outcomes(database).latest(1_000)
        finally:
            await database.close()
        return Ending(
            int(await self.devnet.chain.rpc("eth_getTransactionCount", self.operator.address, "latest"), 16),
            tuple(sorted(tuple(log["topics"][1:]) for log in logs)),
            tuple(sorted((each.key.account.hex(), each.result.value, each.reason) for each in ended)),
        )


def is_over(keeper: Program) -> bool:
    """Return whether the process has ended."""
    return keeper.process.poll() is not None


async def _settled(keeper: Program, wanted: Callable[[Program], object]) -> None:
    """Wait until the daemon had its chance with a block: it told of one head more, or is gone."""
    seen = len(keeper.events("chain.head"))
    for _ in range(int(PATIENCE_S * 20)):
        if is_over(keeper) or wanted(keeper):
            return
        if len(keeper.events("chain.head")) > seen:
            await asyncio.sleep(0.15)  # what it decided is on its way
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"no head in {PATIENCE_S} s:\n{keeper.text()[-4000:]}")


@asynccontextmanager
async def stage_of(folder: Path, views: int = 1) -> AsyncIterator[Stage]:
    """Start everything but the daemon."""
    async with cached_devnet(default_cache_dir(), _SPEC, options=AnvilOptions(mining=False)) as devnet:
        operator = await prepare(devnet, folder)
        start = await devnet.chain.block_number()
        async with FaultProxy(devnet.node.http_url, views) as proxy:
            stage = Stage(devnet, proxy, operator, Arrivals(folder / "state" / "local.sqlite3"), start)
            proxy.raw_transactions = stage.arrivals
            yield stage
