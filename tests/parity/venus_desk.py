"""What the Venus parity tests share: one saved chain with its positions, and a liquidator with money."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from keeper.devnet.chain import DevChain
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.venus import deploy_venus
from keeper.devnet.venus_market import VenusGeneration, VenusMarket, VenusRecord
from keeper.devnet.venus_positions import open_venus_positions, random_venus_positions
from keeper.domain.units import Address, PositionId
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2.contracts import CompoundPosition, CompoundSnapshot
from keeper.protocols.compound_v2.reader import CompoundReader
from tests.parity.desk import LIQUIDATOR, Desk, address

LANDING_S = 12


class Saved(msgspec.Struct, frozen=True):
    """A chain that was built once."""

    record: VenusRecord
    state: Path
    errors: dict[str, str]


def build(
    folder: Path, accounts: int, seed: int, hf_range: tuple[float, float], generation: VenusGeneration = "10"
) -> Saved:
    """Deploy Venus, open positions, and save the chain."""

    async def made() -> Saved:
        packages = ensure_packages(default_cache_dir(), sets=("core", "venus"))
        async with Anvil(find_anvil(packages), AnvilOptions()) as node, DevChain(node.http_url) as chain:
            await deploy_multicall3(chain, packages)
            market = await deploy_venus(chain, packages, generation)
            await open_venus_positions(market, random_venus_positions(market, accounts, seed, hf_range))
            await chain.set_balance(LIQUIDATOR, 10**25)
            async with chain.impersonate(LIQUIDATOR):
                await market.fund(LIQUIDATOR, dollars=10**9)
            await chain.set_next_base_fee(10**9)
            await chain.mine()
            state = str(await chain.rpc("anvil_dumpState"))
            (folder / "state.json").write_bytes(_unpacked(state))
            return Saved(market.record(), folder / "state.json", dict(chain.errors))

    return asyncio.run(made())


def _unpacked(state: str) -> bytes:
    return gzip.decompress(bytes.fromhex(state.removeprefix("0x")))


@asynccontextmanager
async def opened(saved: Saved) -> AsyncIterator["VenusDesk"]:
    packages = ensure_packages(default_cache_dir(), sets=("core", "venus"))
    async with (
        Anvil(find_anvil(packages), AnvilOptions(load_state=saved.state)) as node,
        DevChain(node.http_url) as chain,
    ):
        chain.errors.update(saved.errors)
        desk = VenusDesk(VenusMarket.bind(saved.record, chain))
        await desk.enter()
        yield desk


@dataclass(frozen=True, slots=True)
class VenusDesk(Desk[VenusMarket]):
    """One Venus on the node."""

    async def discovered(self) -> CompoundReader:
        reader = CompoundReader("venus", address(self.market.comptroller), prices=Prices(self.token("WETH")))
        await reader.discover(await self.reads())
        return reader

    async def borrowers(self, reader: CompoundReader) -> list[PositionId]:
        return sorted(reader.named(await self.logs(reader.discovery_filter, self.market.from_block)))

    async def book(self, reader: CompoundReader) -> tuple[CompoundSnapshot, list[CompoundPosition]]:
        reads, ids = await self.reads(), await self.borrowers(reader)
        return await reader.snapshot(reads), list(await reader.positions(reads, ids))

    def token(self, symbol: str) -> Address:
        return address(self.market.reserves[symbol].token)

    def v_token(self, symbol: str) -> Address:
        return address(self.market.reserves[symbol].v_token)

    async def balances(self, tokens: Iterable[Address]) -> dict[Address, int]:
        asked = [("0x" + each.hex(), "balanceOf(address)(uint256)", (LIQUIDATOR,)) for each in tokens]
        return dict(zip(tokens, await self.chain.call_all(asked), strict=True))
