"""Draws varied perpetual positions and opens them with the owners' own transactions, many to a block."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from keeper.devnet.chain import ADMIN, MAX_UINT, Tx
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.owners import open_in_parts
from keeper.devnet.packages import Progress, silent
from keeper.devnet.perp_market import DEPOSIT_FOR, GAS, PerpMarket, PerpRecord
from keeper.devnet.positions import owner_address
from keeper.devnet.spec import DEFAULT_SPEC

_BLOCK_S: Final = 15
# Kinds and sizes are dealt out and not drawn, so that even a small population has all of them.
_DUST_EVERY: Final = 10
_WHALE_EVERY: Final = 33
_COLLATERAL_EVERY: Final = 3
_ONLY_COLLATERAL_EVERY: Final = 12
_DUST_USD: Final = (2.0, 90.0)
_ORDINARY_USD: Final = (150.0, 150_000.0)
_WHALE_USD: Final = (300_000.0, 700_000.0)
_ROOM: Final = 0.015  # fees, and the pool's own movement while others open
_INITIAL_MARGIN: Final = 0.1
_FIRST_OWNER: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PerpPositionSpec:
    """What one owner deposits (in the tokens' own units) and opens (US dollars, negative for short)."""

    owner: str
    deposits: dict[str, int]
    positions: dict[str, float] = field(default_factory=dict)


def random_perp_positions(
    market: PerpRecord, n: int, seed: int, hf_range: tuple[float, float] = (1.6, 3.0), *, first_owner: int = 0
) -> tuple[PerpPositionSpec, ...]:
    """Draw positions whose health factors lie in the range at the starting prices; the same seed draws the same.

    The initial margin lets nobody open below 1.6: a price has to move first.
    """
    source = random.Random(f"perp/{seed}/{first_owner}")  # noqa: S311 - reproducible on purpose
    owners = [owner_address(_FIRST_OWNER + first_owner + index, seed) for index in range(n)]
    return tuple(_draw(market, source, index, owner, hf_range) for index, owner in enumerate(owners))


def _draw(
    market: PerpRecord, source: random.Random, index: int, owner: str, hf_range: tuple[float, float]
) -> PerpPositionSpec:
    low, high = _DUST_USD if index % _DUST_EVERY == 1 else _WHALE_USD if index % _WHALE_EVERY == 2 else _ORDINARY_USD
    value = low * (high / low) ** source.random()
    markets = source.sample(sorted(market.perpetuals), source.choice((1, 1, 2)))
    shares = [0.2 + source.random() for _ in markets]
    positions = {
        name: source.choice((1, -1)) * value * share / sum(shares) for name, share in zip(markets, shares, strict=True)
    }
    health = hf_range[0] + (hf_range[1] - hf_range[0]) * source.random() ** 2.5
    margin = value * (max(_INITIAL_MARGIN, health / 16) + _ROOM) + 0.01
    in_collateral = source.uniform(0.3, 0.9) if index % _COLLATERAL_EVERY == 0 else 0.0
    if index % _ONLY_COLLATERAL_EVERY == 0:
        in_collateral = 1.0
    deposits = {market.settlement: _units(market, market.settlement, margin * (1 - in_collateral))}
    weighted = margin * in_collateral / (market.collateral_ratio / 10**6)
    deposits[market.collateral] = DEFAULT_SPEC.reserve(market.collateral).amount(weighted)
    return PerpPositionSpec(owner=owner, deposits={k: v for k, v in deposits.items() if v}, positions=positions)


def _units(market: PerpRecord, symbol: str, dollars: float) -> int:
    return int(dollars * 10 ** market.assets[symbol].decimals)


async def open_perp_positions(
    market: PerpMarket, specs: Sequence[PerpPositionSpec], progress: Progress = silent
) -> tuple[str, ...]:
    """Open the positions and return the owners; every receipt is checked.

    Raises: Reverted when the market refuses one.
    """

    async def open_part(part: Sequence[PerpPositionSpec]) -> None:
        chain, symbols = market.chain, {symbol for spec in part for symbol in spec.deposits}
        await chain.send_all(tx for symbol in sorted(symbols) for tx in _funding(market, symbol, part))
        await chain.increase_time(_BLOCK_S)
        await chain.send_all(tx for spec in part for tx in _deposits(market, spec))
        await chain.send_all(tx for spec in part for tx in _openings(market, spec))

    return await open_in_parts(market.chain, specs, open_part, progress)


def _funding(market: PerpMarket, symbol: str, specs: Sequence[PerpPositionSpec]) -> Iterator[Tx]:
    token, total = market.assets[symbol].token, sum(spec.deposits.get(symbol, 0) for spec in specs)
    yield Tx(ADMIN, token, MINT, (ADMIN, total), gas=GAS)
    yield Tx(ADMIN, token, APPROVE, (market.vault, MAX_UINT), gas=GAS)


def _deposits(market: PerpMarket, spec: PerpPositionSpec) -> Iterator[Tx]:
    for symbol, amount in spec.deposits.items():
        yield Tx(ADMIN, market.vault, DEPOSIT_FOR, (spec.owner, market.assets[symbol].token, amount), gas=GAS)


def _openings(market: PerpMarket, spec: PerpPositionSpec) -> Iterator[Tx]:
    for symbol, value in spec.positions.items():
        yield market.opening(spec.owner, symbol, value)
