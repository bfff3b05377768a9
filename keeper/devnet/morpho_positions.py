"""Draws and opens varied positions in a Morpho market, from single units to whales, many to a block."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.devnet.chain import MAX_UINT, Tx
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.morpho import BORROW, SUPPLY_COLLATERAL, DevPair, MorphoMarket, MorphoRecord
from keeper.devnet.owners import open_in_parts
from keeper.devnet.packages import Progress, silent
from keeper.devnet.positions import owner_address
from keeper.devnet.spec import BPS

# Kinds are dealt out and not drawn, so that even a small population has all of them.
_TINY_EVERY: Final = 9
_DUST_EVERY: Final = 10
_WHALE_EVERY: Final = 33
_TINY_USD: Final = (0.0001, 0.05)
_DUST_USD: Final = (1.0, 60.0)
_ORDINARY_USD: Final = (200.0, 300_000.0)
_WHALE_USD: Final = (1_000_000.0, 5_000_000.0)
# Health factors crowd towards the lower end, as they do where leverage is the purpose.
_SKEW: Final = 2.5
_GAS: Final = 1_000_000
_ORACLE_SCALE: Final = 10**36


@dataclass(frozen=True, slots=True, kw_only=True)
class MorphoPositionSpec:
    """What one owner holds in one pair: amounts in the tokens' own units."""

    owner: str
    pair: str
    collateral: int
    debt: int


def random_positions(
    market: MorphoRecord,
    n: int,
    seed: int,
    hf_range: tuple[float, float] = (1.005, 3.0),
    first_owner: int = 0,
) -> tuple[MorphoPositionSpec, ...]:
    """Draw positions whose health factors at the starting prices lie in the range; the same seed draws the same.

    Every pair gets its share. Two units of the loan token at least are left to the limit.
    """
    source = random.Random(f"morpho {seed}/{first_owner}")  # noqa: S311 - reproducible on purpose
    prices = {reserve.symbol: reserve.price_usd for reserve in market.spec.reserves}
    pairs = list(market.pairs.values())
    return tuple(
        _position(
            market, pairs[index % len(pairs)], source, index, owner_address(first_owner + index, seed), prices, hf_range
        )
        for index in range(n)
    )


def _position(  # noqa: PLR0917 - one drawing, in the order of its caller
    market: MorphoRecord,
    pair: DevPair,
    source: random.Random,
    index: int,
    owner: str,
    prices: Mapping[str, int],
    hf_range: tuple[float, float],
) -> MorphoPositionSpec:
    health_bps = int(BPS * (hf_range[0] + (hf_range[1] - hf_range[0]) * source.random() ** _SKEW)) + 1
    collateral = max(1, market.spec.reserve(pair.spec.collateral).amount(_value_usd(source, index)))
    price, lltv_wad = pair.price(prices), pair.params[-1]
    while (debt := _limit(collateral, price, lltv_wad) * BPS // health_bps - 2) < 1:
        collateral = collateral * 5 // 4 + 1  # a single unit of what is owed would be more than that allows
    return MorphoPositionSpec(owner=owner, pair=pair.spec.name, collateral=collateral, debt=debt)


def _limit(collateral: int, price: int, lltv_wad: int) -> int:
    return collateral * price // _ORACLE_SCALE * lltv_wad // 10**18


def _value_usd(source: random.Random, index: int) -> float:
    for every, bounds in ((_TINY_EVERY, _TINY_USD), (_DUST_EVERY, _DUST_USD), (_WHALE_EVERY, _WHALE_USD)):
        if index % every == every - 1:
            return _log_uniform(source, bounds)
    return _log_uniform(source, _ORDINARY_USD)


def _log_uniform(source: random.Random, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return float(low * (high / low) ** source.random())


async def open_positions(
    market: MorphoMarket, specs: Sequence[MorphoPositionSpec], progress: Progress = silent
) -> tuple[str, ...]:
    """Open the positions with their owners' own transactions and return the owners; every receipt is checked.

    Raises: Reverted when Morpho refuses one.
    """

    async def open_part(part: Sequence[MorphoPositionSpec]) -> None:
        await market.chain.send_all(tx for spec in part for tx in _transactions(market, spec))

    return await open_in_parts(market.chain, specs, open_part, progress)


def _transactions(market: MorphoMarket, spec: MorphoPositionSpec) -> Iterator[Tx]:
    pair, owner = market.pairs[spec.pair], spec.owner
    token, params = pair.collateral.token, pair.params
    yield Tx(owner, token, MINT, (owner, spec.collateral), gas=_GAS)
    yield Tx(owner, token, APPROVE, (market.morpho, MAX_UINT), gas=_GAS)
    yield Tx(owner, market.morpho, SUPPLY_COLLATERAL, (params, spec.collateral, owner, b""), gas=_GAS)
    yield Tx(owner, market.morpho, BORROW, (params, spec.debt, 0, owner, owner), gas=_GAS)
