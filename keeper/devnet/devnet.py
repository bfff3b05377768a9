"""A whole devnet at once: node, markets and positions, built the first time and loaded from the cache afterwards."""

import asyncio
import gzip
import hashlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from keeper.devnet.aave import deploy_aave
from keeper.devnet.assets import DevAsset, price_updates
from keeper.devnet.chain import ADMIN, DevChain, Tx
from keeper.devnet.market import MINT, AaveMarket, AaveRecord, Generation
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import (
    Packages,
    PackageSet,
    Progress,
    ensure_packages,
    exclusive,
    files_key,
    find_anvil,
    shipped_files,
    silent,
)
from keeper.devnet.population import random_positions
from keeper.devnet.positions import PositionSpec, open_positions
from keeper.devnet.spec import DEFAULT_SPEC, MarketSpec

_STATE: Final = "state.json"
_RECORD: Final = "record.json"
# Interest goes on while a saved chain sleeps; after a week the health factors are no longer what was drawn.
_MAX_AGE_S: Final = 7 * 86_400
_BASE_FEE_WEI: Final = 10**9
# Enough for the borrowers that are drawn, however many.
_DEPTH_PER_POSITION_USD: Final = 150_000
_KEEPER_WEI: Final = 100 * 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class DevnetSpec:
    """What a devnet holds; equal specifications share one saved chain."""

    generations: tuple[Generation, ...] = ("3.0",)
    n_positions: int = 200
    seed: int = 1
    hf_range: tuple[float, float] = (1.01, 3.0)
    market: MarketSpec = DEFAULT_SPEC
    chain_id: int = 31_337


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A running devnet; `positions` are what was opened on each market."""

    node: Anvil
    chain: DevChain
    packages: Packages
    markets: dict[Generation, AaveMarket]
    positions: dict[Generation, tuple[PositionSpec, ...]]

    async def fund_keeper(
        self, address: str, amounts: Mapping[str, int] | None = None, *, native_wei: int = _KEEPER_WEI
    ) -> None:
        """Give an account a native balance and freshly minted tokens (in their own units)."""
        await self.chain.set_balance(address, native_wei)
        reserves = {symbol: reserve for market in self.markets.values() for symbol, reserve in market.reserves.items()}
        mints = [
            Tx(ADMIN, reserves[symbol].token, MINT, (address, amount)) for symbol, amount in (amounts or {}).items()
        ]
        async with self.chain.held():
            await self.chain.send_all(mints)


class _Saved(msgspec.Struct, frozen=True):
    """What has to be known about a saved chain to go on with it."""

    markets: dict[Generation, AaveRecord]
    positions: dict[Generation, tuple[PositionSpec, ...]]
    errors: dict[str, str]


@asynccontextmanager
async def cached_devnet(
    cache_dir: Path, spec: DevnetSpec | None = None, *, options: AnvilOptions | None = None, progress: Progress = silent
) -> AsyncIterator[Devnet]:
    """Run a devnet for as long as the `async with` block lasts.

    The first time it is built with real transactions and saved with its logs; then it is loaded in well under two
    seconds. State before the saved block is not there to be read, only its blocks, receipts and logs are. The feeds
    report their prices again in the first new block, since the clock has moved on.
    """
    wanted = spec or DevnetSpec()
    sets: tuple[PackageSet, ...] = ("core", "origin") if "3.6" in wanted.generations else ("core",)
    packages = await asyncio.to_thread(ensure_packages, cache_dir, progress, sets=sets)
    binary = find_anvil(packages)
    folder = cache_dir / "devnets" / await asyncio.to_thread(_key, wanted, binary)
    if not _is_fresh(folder):
        await _build(wanted, packages, binary, folder, progress)
    saved = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Saved)
    running = replace(options or AnvilOptions(), load_state=folder / _STATE, chain_id=wanted.chain_id)
    async with Anvil(binary, running) as node, DevChain(node.http_url) as chain:
        chain.errors.update(saved.errors)
        markets = {generation: AaveMarket.bind(record, chain) for generation, record in saved.markets.items()}
        await _refresh_feeds(chain, markets.values())
        progress(f"the local chain runs with {sum(map(len, saved.positions.values()))} positions")
        yield Devnet(node=node, chain=chain, packages=packages, markets=markets, positions=saved.positions)


async def _refresh_feeds(chain: DevChain, markets: Iterable[AaveMarket]) -> None:
    assets: dict[str, DevAsset] = {}
    prices: dict[str, int] = {}
    for market in markets:
        assets |= market.reserves
        prices |= await market.prices()
    async with chain.held():
        await chain.send_all(await price_updates(chain, {assets[symbol]: price for symbol, price in prices.items()}))


async def _build(spec: DevnetSpec, packages: Packages, binary: Path, folder: Path, progress: Progress) -> None:
    async with (
        Anvil(binary, AnvilOptions(chain_id=spec.chain_id, prune_history=True)) as node,
        DevChain(node.http_url) as chain,
    ):
        saved = await _populate(spec, packages, chain, progress)
        progress("saving the chain")
        state = str(await chain.rpc("anvil_dumpState"))
    await asyncio.to_thread(_publish, folder, state, saved)


async def _populate(spec: DevnetSpec, packages: Packages, chain: DevChain, progress: Progress) -> _Saved:
    await deploy_multicall3(chain, packages)
    markets: dict[Generation, AaveRecord] = {}
    positions: dict[Generation, tuple[PositionSpec, ...]] = {}
    assets: dict[str, DevAsset] = {}
    market_spec = replace(spec.market, depth_usd=max(spec.market.depth_usd, spec.n_positions * _DEPTH_PER_POSITION_USD))
    for number, generation in enumerate(spec.generations):
        market = await deploy_aave(chain, packages, generation, market_spec, assets=assets, progress=progress)
        drawn = random_positions(
            market, spec.n_positions, spec.seed, spec.hf_range, first_owner=number * spec.n_positions
        )
        await open_positions(market, drawn, progress)
        assets |= market.reserves
        markets[generation], positions[generation] = market.record(), drawn
    # Huge blocks let the base fee decay: one ordinary block brings it back to what a keeper expects.
    await chain.set_next_base_fee(_BASE_FEE_WEI)
    await chain.mine()
    return _Saved(markets=markets, positions=positions, errors=chain.errors)


def _publish(folder: Path, state: str, saved: _Saved) -> None:
    """Write beside the final place and rename: two builders at once waste work but never mix files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        (staging / _STATE).write_bytes(_slim(state))
        (staging / _RECORD).write_bytes(msgspec.json.encode(saved))
        with exclusive(folder.parent / "publish.lock"):
            for sibling in folder.parent.iterdir():
                if time.time() - sibling.stat().st_mtime > _MAX_AGE_S:
                    shutil.rmtree(sibling, ignore_errors=True)
            if not _is_fresh(folder):
                staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _slim(state: str) -> bytes:
    """Return the node's dump without the call traces, which are nearly all of it; logs and receipts stay."""
    dump = msgspec.json.decode(gzip.decompress(bytes.fromhex(state.removeprefix("0x"))))
    for transaction in dump["transactions"]:
        transaction["info"]["traces"] = []
    return msgspec.json.encode(dump)


def _key(spec: DevnetSpec, binary: Path) -> str:
    """Name the saved chain by everything that went into it: this package, the npm locks, the node, the parameters."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    files = files_key(*sources, *shipped_files("core"), *shipped_files("origin"))
    version = subprocess.run((str(binary), "--version"), capture_output=True, check=True).stdout  # noqa: S603 - found by find_anvil
    return hashlib.sha256(msgspec.json.encode((files, version, spec))).hexdigest()[:16]


def _is_fresh(folder: Path) -> bool:
    record = folder / _RECORD
    return record.is_file() and time.time() - record.stat().st_mtime < _MAX_AGE_S
