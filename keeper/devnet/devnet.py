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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from keeper.devnet.aave import deploy_aave
from keeper.devnet.assets import WRAPPED_NATIVE, DevAsset, price_updates
from keeper.devnet.chain import ADMIN, DevChain, Tx
from keeper.devnet.market import MINT, AaveMarket, AaveRecord, Generation
from keeper.devnet.morpho import MorphoMarket, MorphoRecord, deploy_morpho
from keeper.devnet.morpho_positions import open_positions as open_pair_positions
from keeper.devnet.morpho_positions import random_positions as random_pair_positions
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
from keeper.devnet.perp import deploy_perp
from keeper.devnet.perp_market import PerpMarket, PerpRecord
from keeper.devnet.perp_positions import open_perp_positions, random_perp_positions
from keeper.devnet.population import random_positions
from keeper.devnet.positions import PositionSpec, open_positions
from keeper.devnet.spec import DEFAULT_SPEC, MarketSpec
from keeper.devnet.uniswap import deploy_uniswap
from keeper.devnet.uniswap_market import UniswapMarket, UniswapRecord
from keeper.devnet.venus import deploy_venus
from keeper.devnet.venus_market import VenusMarket, VenusRecord
from keeper.devnet.venus_positions import open_venus_positions, random_venus_positions

_STATE: Final = "state.json"
_RECORD: Final = "record.json"
# Interest goes on while a saved chain sleeps; after a week the health factors are no longer what was drawn.
_MAX_AGE_S: Final = 7 * 86_400
# Pools need a past to average over: it must lie before the moment at which the saved chain goes on.
_HISTORY_S: Final = 2 * 3_600
_VENUS_RANGE: Final = (1.05, 1.5)
"""Half of its collateral is dollars: health factors are drawn closer to 1, so that a crash has something to do."""
_BASE_FEE_WEI: Final = 10**9
# Enough for the borrowers that are drawn, however many.
_DEPTH_PER_POSITION_USD: Final = 150_000
_KEEPER_WEI: Final = 100 * 10**18


Other: TypeAlias = Literal["morpho", "venus", "perp", "uniswap"]
"""A protocol beside Aave, on the same tokens and feeds; its package set has the same name. Uniswap has no positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DevnetSpec:
    """What a devnet holds, each market with as many positions; equal specifications share one saved chain."""

    generations: tuple[Generation, ...] = ("3.0",)
    others: tuple[Other, ...] = ()
    n_positions: int = 200
    seed: int = 1
    hf_range: tuple[float, float] = (1.01, 3.0)
    market: MarketSpec = DEFAULT_SPEC
    chain_id: int = 31_337


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A running devnet; `positions` are what was opened on each Aave market, `owners` who holds the others'."""

    node: Anvil
    chain: DevChain
    packages: Packages
    markets: dict[Generation, AaveMarket]
    positions: dict[Generation, tuple[PositionSpec, ...]]
    owners: dict[Other, tuple[str, ...]]
    morpho: MorphoMarket | None = None
    venus: VenusMarket | None = None
    perp: PerpMarket | None = None
    uniswap: UniswapMarket | None = None

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

    async def move(self, prices: Mapping[str, int], *, mine: bool = True) -> list[str]:
        """Move feeds, Morpho's oracles and Uniswap's pools together, and return the oracles' transactions.

        With `mine` all lands in one new block. Without it blocks come by themselves, and pools move first, as markets do:
        who acts on the new prices then finds pools that have them.
        """
        assets = {symbol: asset for market in self.markets.values() for symbol, asset in market.reserves.items()}
        updates = await price_updates(self.chain, {assets[symbol]: price for symbol, price in prices.items()})
        if self.morpho:
            updates += await self.morpho.oracle_updates(prices)
        trades = await self.uniswap.arbitrage(prices) if self.uniswap else []
        if not mine:
            for sent in await self.chain.submit(trades):
                await self.chain.receipt(sent)
            return await self.chain.submit(updates)
        async with self.chain.bulk():
            receipts = await self.chain.send_all([*trades, *updates])
        return [str(receipt["transactionHash"]) for receipt in receipts[len(trades) :]]


class _Saved(msgspec.Struct, frozen=True):
    """What has to be known about a saved chain to go on with it."""

    markets: dict[Generation, AaveRecord]
    positions: dict[Generation, tuple[PositionSpec, ...]]
    owners: dict[Other, tuple[str, ...]]
    morpho: MorphoRecord | None
    venus: VenusRecord | None
    perp: PerpRecord | None
    uniswap: UniswapRecord | None
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
    sets = _package_sets(wanted)
    packages = await asyncio.to_thread(ensure_packages, cache_dir, progress, sets=sets)
    binary = find_anvil(packages)
    folder = cache_dir / "devnets" / await asyncio.to_thread(_key, wanted, binary, sets)
    if not _is_fresh(folder):
        await _build(wanted, packages, binary, folder, progress)
    saved = msgspec.json.decode((folder / _RECORD).read_bytes(), type=_Saved)
    running = replace(options or AnvilOptions(), load_state=folder / _STATE, chain_id=wanted.chain_id)
    async with Anvil(binary, running) as node, DevChain(node.http_url) as chain:
        chain.errors.update(saved.errors)
        markets = {generation: AaveMarket.bind(record, chain) for generation, record in saved.markets.items()}
        await _refresh_feeds(chain, markets.values())
        progress(
            f"the local chain runs with {sum(map(len, (*saved.positions.values(), *saved.owners.values())))} positions"
        )
        yield Devnet(
            node=node,
            chain=chain,
            packages=packages,
            markets=markets,
            positions=saved.positions,
            owners=saved.owners,
            morpho=MorphoMarket.bind(saved.morpho, chain) if saved.morpho else None,
            venus=VenusMarket.bind(saved.venus, chain) if saved.venus else None,
            perp=PerpMarket.bind(saved.perp, chain) if saved.perp else None,
            uniswap=UniswapMarket.bind(saved.uniswap, chain) if saved.uniswap else None,
        )


def _package_sets(spec: DevnetSpec) -> tuple[PackageSet, ...]:
    """Return what has to be installed."""
    sets: tuple[PackageSet, ...] = ("core", "origin") if "3.6" in spec.generations else ("core",)
    return (*sets, *spec.others)


async def _refresh_feeds(chain: DevChain, markets: Iterable[AaveMarket]) -> None:
    assets: dict[str, DevAsset] = {}
    prices: dict[str, int] = {}
    for market in markets:
        assets |= market.reserves
        prices |= await market.prices()
    async with chain.held():
        await chain.send_all(await price_updates(chain, {assets[symbol]: price for symbol, price in prices.items()}))


async def _build(spec: DevnetSpec, packages: Packages, binary: Path, folder: Path, progress: Progress) -> None:
    begin_s = int(time.time()) - _HISTORY_S
    async with (
        Anvil(binary, AnvilOptions(chain_id=spec.chain_id, prune_history=True, timestamp_s=begin_s)) as node,
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
    beside = await _populate_others(spec, packages, chain, assets, progress)
    # Huge blocks let the base fee decay: one ordinary block brings it back to what a keeper expects.
    await chain.set_next_base_fee(_BASE_FEE_WEI)
    await chain.mine()
    return _Saved(
        markets=markets,
        positions=positions,
        owners=beside.owners,
        morpho=beside.morpho,
        venus=beside.venus,
        perp=beside.perp,
        uniswap=beside.uniswap,
        errors=chain.errors,
    )


@dataclass(slots=True)
class _Beside:
    """What stands beside Aave."""

    owners: dict[Other, tuple[str, ...]] = field(default_factory=dict)
    morpho: MorphoRecord | None = None
    venus: VenusRecord | None = None
    perp: PerpRecord | None = None
    uniswap: UniswapRecord | None = None


async def _populate_others(
    spec: DevnetSpec, packages: Packages, chain: DevChain, assets: Mapping[str, DevAsset], progress: Progress
) -> _Beside:
    """Deploy the other protocols on the tokens and feeds that are there, and open their positions."""
    made = _Beside()
    if "morpho" in spec.others:
        morpho = await deploy_morpho(chain, packages, assets=assets, progress=progress)
        pairs = random_pair_positions(morpho, spec.n_positions, spec.seed, spec.hf_range)
        made.owners["morpho"] = await open_pair_positions(morpho, pairs, progress)
        made.morpho = morpho.record()
    if "venus" in spec.others:
        venus = await deploy_venus(chain, packages, assets=assets, progress=progress)
        drawn = random_venus_positions(venus, spec.n_positions, spec.seed, _VENUS_RANGE)
        made.owners["venus"] = await open_venus_positions(venus, drawn, progress)
        made.venus = venus.record()
    if "perp" in spec.others:
        perp = await deploy_perp(chain, packages, assets, progress=progress)
        margins = random_perp_positions(perp, spec.n_positions, spec.seed)
        made.owners["perp"] = await open_perp_positions(perp, margins, progress)
        made.perp = perp.record()
    if "uniswap" in spec.others:
        traded = {**(made.morpho.assets if made.morpho else {}), **assets}
        wrapped = traded[WRAPPED_NATIVE].token
        uniswap = await deploy_uniswap(chain, packages, traded, wrapped_native=wrapped, progress=progress)
        made.uniswap = uniswap.record()
    return made


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


def _key(spec: DevnetSpec, binary: Path, sets: Iterable[PackageSet]) -> str:
    """Name the saved chain by everything that went into it: this package, the npm locks, the node, the parameters."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    files = files_key(*sources, *(file for name in sets for file in shipped_files(name)))
    version = subprocess.run((str(binary), "--version"), capture_output=True, check=True).stdout  # noqa: S603 - found by find_anvil
    return hashlib.sha256(msgspec.json.encode((files, version, spec))).hexdigest()[:16]


def _is_fresh(folder: Path) -> bool:
    record = folder / _RECORD
    return record.is_file() and time.time() - record.stat().st_mtime < _MAX_AGE_S
