"""The place of a soak: the genuine market, a node that mines by itself, the fault proxy with geth's rules, the keeper."""

import asyncio
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from keeper.devnet.chain import DevChain
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.ledger import Balances, read_balances
from keeper.devnet.market import AaveMarket
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.positions import PositionSpec
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.text import address_text
from tests.faults.books import Arrivals
from tests.faults.canary import KEY, PATH_TOKEN
from tests.faults.geth import Pool, StrictGeth, promote
from tests.faults.proxy import FaultProxy, View
from tests.operator import FUNDS_USD, Operator, write_files
from tests.soak.figures import Wish
from tests.soak.watched import Watched

GENERATION: Final = "3.0"
BASE_FEE_WEI: Final = 10**9
MAX_HEAD_AGE_S: Final = 5
GRACE_S: Final = 8
_TICK_S: Final = 0.5
_LOOK_S: Final = 0.1
_LATE_S: Final = 1
_STATE_MIB: Final = 160
_POOLED: Final = frozenset({"eth_sendRawTransaction", "eth_getTransactionByHash"})


@dataclass
class Scene:
    """Everything that faults, load and verdicts act upon."""

    wish: Wish
    devnet: Devnet
    proxy: FaultProxy
    pool: Pool
    arrivals: Arrivals
    operator: Operator
    keeper: Watched
    zero_s: float
    """The moment that all times count from, by `time.monotonic`."""
    before: Balances
    random: random.Random
    """Decides on the faults alone, so that a seed repeats them whatever else happens."""
    has_small_disk: bool
    base_fee_wei: int = BASE_FEE_WEI
    is_stalled: bool = False
    height: int = 0
    """The chain's newest block, as last seen by the sampler."""
    owners: dict[str, PositionSpec] = field(default_factory=dict)
    foreign: dict[int, str] = field(default_factory=dict)
    """Nonce and hash of what somebody else sent with the keeper's key."""
    foreign_wei: int = 0
    foreign_gas_wei: int = 0
    breaches: list[tuple[str, str]] = field(default_factory=list)
    """What was seen to break an invariant while it happened: its name, and what was seen."""
    lies: list[tuple[float, float]] = field(default_factory=list)
    """When an endpoint lied about the state, so that the audit may have seen a difference."""
    _newest: int = 0
    _timed_block: int = 0
    hiccups: list[str] = field(default_factory=list)
    """What the load could not do, as the chain moved under it."""

    @property
    def chain(self) -> DevChain:
        """Return the node itself, past the proxy."""
        return self.devnet.chain

    @property
    def market(self) -> AaveMarket:
        return self.devnet.markets[GENERATION]

    @property
    def views(self) -> tuple[View, ...]:
        return self.proxy.views

    @property
    def state_dir(self) -> Path:
        return self.operator.folder / "state"

    @property
    def database(self) -> Path:
        return self.state_dir / f"{self.operator.chain_file.stem}.sqlite3"

    async def nonce(self) -> int:
        """Return the keeper's next nonce by the chain."""
        return int(await self.chain.rpc("eth_getTransactionCount", self.operator.address, "latest"), 16)

    async def busy(self, timeout_s: float = 15.0) -> int:
        """Wait until transactions of the keeper are in the pool, at least for a while, and return how many are."""
        for _ in range(int(timeout_s / _LOOK_S)):
            pending = int(await self.chain.rpc("eth_getTransactionCount", self.operator.address, "pending"), 16)
            if (count := pending - await self.nonce()) > 0:
                return count
            await asyncio.sleep(_LOOK_S)
        return 0

    async def blocks(self, count: int, timeout_s: float = 30.0) -> None:
        """Wait until the chain has grown by so many blocks."""
        wanted = await self.chain.block_number() + count
        for _ in range(int(timeout_s / _LOOK_S)):
            if await self.chain.block_number() >= wanted:
                return
            await asyncio.sleep(_LOOK_S)

    async def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the keeper beside the daemon, as its operator would."""
        return await asyncio.to_thread(
            lambda: self.operator.command(*arguments, is_live=True, **settings_of(self.proxy))
        )

    async def tick(self) -> None:
        """Hold the base fee and the time, give the node what waited, and forget what was asked: for ever."""
        while True:
            await self._keep_time()
            await self.chain.set_next_base_fee(self.base_fee_wei + int(time.time() * 10) % 20 * BASE_FEE_WEI // 400)
            try:
                await promote(self.proxy, self.pool)
            except RuntimeError as error:  # the nonce was used, or somebody else promoted it just now
                self.hiccups.append(str(error))
            for view in self.views:
                view.forget()
            await asyncio.sleep(_TICK_S)

    async def _keep_time(self) -> None:
        """Let blocks be stamped by the clock again: the node's reorganisations leave it some seconds behind."""
        newest = await self.chain.header()
        number, late_s = int(newest["number"], 16), int(time.time() - int(newest["timestamp"], 16))
        is_new, self._newest = number > self._newest, max(number, self._newest)
        if is_new and late_s > _LATE_S and number > self._timed_block + 2:  # an old block tells nothing of the next one
            await self.chain.increase_time(late_s)
            self._timed_block = number


def settings_of(proxy: FaultProxy) -> dict[str, str]:
    """Return what the operator has set; the second endpoint also speaks websocket, the third one's address holds a secret."""
    first, second, third = proxy.views
    return {
        "RPC_URLS": f"{first.url},{second.url},{second.ws_url},{third.url}",
        "LOG_LEVEL": "debug",
        "MAX_HEAD_AGE_S": str(MAX_HEAD_AGE_S),
        "CONFIRMATIONS": "5",
        "PARITY_EVERY_HEADS": "3",
        "PARITY_SAMPLE": "500",
        "APPROVAL_USD": "10000000",
        "BREAKER_PAUSE_S": "5",
        "MAX_LOSS_PER_HOUR_GWEI": "5000000000",
        "MAX_LOSS_PER_DAY_GWEI": "5000000000",
        "DRAIN_TIMEOUT_S": str(GRACE_S),
    }


@asynccontextmanager
async def scene_of(wish: Wish, folder: Path) -> AsyncIterator[Scene]:
    """Set the scene; the keeper is not started yet."""
    spec = DevnetSpec(generations=(GENERATION,), n_positions=wish.positions)
    options = AnvilOptions(block_time_s=wish.block_s)
    with _small_disk(folder / "state") as has_small_disk:
        async with (
            cached_devnet(default_cache_dir(), spec, options=options) as devnet,
            FaultProxy(devnet.node.http_url, views=3) as proxy,
        ):
            proxy.views[2].path = f"/v3/{PATH_TOKEN}"
            operator = _operator(devnet, folder)
            await _fund(devnet, operator.address)
            zero_s = time.monotonic()
            watched = Watched(folder, operator.environment(is_live=True, **settings_of(proxy)), zero_s)
            scene = Scene(
                wish=wish,
                devnet=devnet,
                proxy=proxy,
                pool=Pool(),
                arrivals=Arrivals(folder / "state" / f"{operator.chain_file.stem}.sqlite3"),
                operator=operator,
                keeper=watched,
                zero_s=zero_s,
                before=await read_balances(devnet.chain, [devnet.markets[GENERATION]], operator.address),
                random=random.Random(wish.seed),
                has_small_disk=has_small_disk,
                owners={each.owner: each for each in devnet.positions[GENERATION]},
            )
            proxy.raw_transactions = scene.arrivals
            for view in proxy.views:
                view.add(StrictGeth(pool=scene.pool, is_lasting=True, methods=_POOLED))
            try:
                yield scene
            finally:
                watched.close()
                await watched.disconnect()


def _operator(devnet: Devnet, folder: Path) -> Operator:
    """Prepare an operator whose key is the canary."""
    operator = write_files(devnet, folder)
    operator.key_file.write_text(KEY)
    return replace(operator, address=address_text(Signer.from_hex(KEY, SigningPolicy(31_337, Wei(0), 0)).address))


async def _fund(devnet: Devnet, address: str) -> None:
    """Give the keeper what borrowers owe, and everybody the freedom to act without a key."""
    market = devnet.markets[GENERATION]
    await devnet.fund_keeper(
        address, {name: market.spec.reserve(name).amount(4 * FUNDS_USD) for name in market.reserves}
    )
    await devnet.chain.auto_impersonate(wanted=True)


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """Give the keeper's state a file system of its own that can be filled, where the system allows that."""
    folder.mkdir(mode=0o700, parents=True)
    options = f"size={_STATE_MIB}m,mode=0700"
    try:
        done = _mount("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    except OSError:
        done = False
    try:
        yield done
    finally:
        if done:
            shutil.copytree(folder, folder.with_name("state-kept"))
            _mount("umount", "--lazy", str(folder))


def _mount(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
