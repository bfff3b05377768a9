"""A real node behind the fault proxy, and pools of connections through it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from keeper.chain.rpc import Rpc
from keeper.devnet.chain import ADMIN, DevChain
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import Packages, default_cache_dir, ensure_packages, find_anvil
from keeper.domain.units import Address
from tests.faults.proxy import FaultProxy, View
from tests.unit.chain.fake_node import Watcher

CHAIN_ID: Final = 31_337
EMITTER: Final = Address(b"\xe0" * 20)
TOPIC: Final = b"\x70" * 32
_EMITTER_CODE: Final = "0x365f5f37" + "7f" + TOPIC.hex() + "365fa100"
"""Copy the call data, log it under one topic, stop."""


class RunningClock:
    """The machine's clock."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()


@dataclass
class World:
    """One anvil that mines when told, the proxy before it, and pools that look through its views."""

    chain: DevChain
    node: Anvil
    proxy: FaultProxy
    packages: Packages
    watcher: Watcher = field(default_factory=Watcher)
    pools: list[Rpc] = field(default_factory=list)

    @property
    def views(self) -> tuple[View, ...]:
        return self.proxy.views

    async def pool(self, *views: View, **options: Any) -> Rpc:
        """Start a pool on views (all by default), and forget what it asked to get there."""
        used = views or self.views
        rpc = Rpc([view.node() for view in used], clock=RunningClock(), observer=self.watcher, **options)
        self.pools.append(rpc)
        await rpc.start(CHAIN_ID)
        for view in used:
            view.forget()
        return rpc

    async def cheat(self, method: str, *params: object) -> Any:
        """Ask the node itself, past the proxy."""
        return await self.chain.rpc(method, *params)

    async def mine(self, count: int = 1) -> int:
        """Mine blocks and return the new head's number."""
        await self.chain.mine(count)
        return await self.chain.block_number()

    async def emit(self, *payloads: bytes) -> None:
        """Mine one block with a log for each payload."""
        for place, payload in enumerate(payloads):
            nonce = int(await self.cheat("eth_getTransactionCount", ADMIN, "latest"), 16) + place
            fields = {"from": ADMIN, "to": "0x" + EMITTER.hex(), "data": "0x" + payload.hex(), "nonce": hex(nonce)}
            await self.cheat("eth_sendTransaction", {**fields, "gas": "0x30d40"})
        await self.mine()

    async def close(self) -> None:
        """Close the pools."""
        await asyncio.gather(*(rpc.close() for rpc in self.pools))
        await asyncio.sleep(0.01)  # connections close in the loop's next turns


@asynccontextmanager
async def world_of(views: int = 3, options: AnvilOptions | None = None) -> AsyncIterator[World]:
    """Start a node and the proxy before it; a few blocks are there already."""
    packages = ensure_packages(default_cache_dir(), print)
    chosen = options or AnvilOptions(mining=False, chain_id=CHAIN_ID)
    async with (
        Anvil(find_anvil(packages), chosen) as node,
        DevChain(node.http_url) as chain,
        FaultProxy(node.http_url, views) as proxy,
    ):
        await chain.rpc("anvil_setCode", "0x" + EMITTER.hex(), _EMITTER_CODE)
        await chain.mine(5)
        world = World(chain, node, proxy, packages)
        try:
            yield world
        finally:
            proxy.reset()
            await world.close()


def aliases(views: Sequence[Any]) -> list[str]:
    """Return the names of endpoints."""
    return [each.alias for each in views]
