"""Draws varied positions: ordinary, efficiency-mode and isolated accounts, from dust to whales."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keeper.devnet.market import AaveRecord
from keeper.devnet.positions import PositionSpec, owner_address
from keeper.devnet.spec import BPS, EModeSpec, ReserveSpec

# Kinds and sizes are dealt out and not drawn, so that even a small population has all of them.
_ISOLATED_EVERY: Final = 12
_EMODE_EVERY: Final = 7
_DUST_EVERY: Final = 10
_WHALE_EVERY: Final = 33
_DUST_USD: Final = (8.0, 60.0)
_ORDINARY_USD: Final = (200.0, 300_000.0)
_WHALE_USD: Final = (1_000_000.0, 8_000_000.0)
_ISOLATED_USD: Final = (200.0, 50_000.0)
_OUTSIDER_SHARE: Final = 0.25
# Health factors crowd towards the lower end, as they do where leverage is the purpose.
_SKEW: Final = 2.5
# The contract rounds average thresholds down to whole basis points: aim a little above the lower end.
_ROUNDING_MARGIN: Final = 1.0005
# Below the limit by more than the contract's rounding of averages down to whole basis points.
_LIMIT_MARGIN: Final = 0.997


@dataclass(frozen=True, slots=True)
class _Draft:
    """A position before its amounts are known: dollars of each collateral, and which assets are owed."""

    collateral_usd: dict[ReserveSpec, float]
    debts: tuple[ReserveSpec, ...]
    emode: EModeSpec | None


def random_positions(
    market: AaveRecord,
    n: int,
    seed: int,
    hf_range: tuple[float, float] = (1.01, 3.0),
    first_owner: int = 0,
) -> tuple[PositionSpec, ...]:
    """Draw positions whose health factors at the starting prices lie in the range; the same seed draws the same."""
    source = random.Random(f"{seed}/{first_owner}")  # noqa: S311 - reproducible on purpose
    return tuple(
        _position(market, source, index, owner_address(first_owner + index, seed), hf_range) for index in range(n)
    )


def _position(
    market: AaveRecord, source: random.Random, index: int, owner: str, hf_range: tuple[float, float]
) -> PositionSpec:
    draft = _draft(market.listed(), market.spec.emodes, source, index)
    low, high = hf_range[0] * _ROUNDING_MARGIN, hf_range[1]
    health = low + (high - low) * source.random() ** _SKEW
    weighted_usd = sum(value * _threshold_bps(asset, draft.emode) for asset, value in draft.collateral_usd.items())
    debt_usd = weighted_usd / BPS / health
    limit_usd = sum(value * _ltv_bps(asset, draft.emode) for asset, value in draft.collateral_usd.items()) / BPS
    # What the limit does not allow is opened with more collateral, which is taken out again.
    scale = max(1.0, debt_usd / (limit_usd * _LIMIT_MARGIN))
    weights = [0.2 + source.random() for _ in draft.debts]
    kept = {asset.symbol: asset.amount(value) for asset, value in draft.collateral_usd.items()}
    supplied = {asset.symbol: asset.amount(value * scale) for asset, value in draft.collateral_usd.items()}
    owed = {
        asset.symbol: asset.amount(debt_usd * weight / sum(weights))
        for asset, weight in zip(draft.debts, weights, strict=True)
    }
    return PositionSpec(
        owner=owner,
        supplies=supplied,
        borrows={symbol: amount for symbol, amount in owed.items() if amount},
        withdrawals={symbol: amount - kept[symbol] for symbol, amount in supplied.items() if amount > kept[symbol]},
        emode=draft.emode.id if draft.emode else 0,
    )


def _draft(reserves: Sequence[ReserveSpec], emodes: Sequence[EModeSpec], source: random.Random, index: int) -> _Draft:
    isolated = [asset for asset in reserves if asset.isolated]
    if isolated and index % _ISOLATED_EVERY == _ISOLATED_EVERY - 1:
        lendable = [asset for asset in reserves if asset.borrowable and asset.borrowable_in_isolation]
        value = _log_uniform(source, _ISOLATED_USD)
        return _Draft({source.choice(isolated): value}, _some(source, lendable, 2), None)
    value = _value_usd(source, index)
    if emodes and index % _EMODE_EVERY == _EMODE_EVERY - 1:
        return _emode_draft(reserves, emodes[index // _EMODE_EVERY % len(emodes)], source, value)
    collaterals = _some(source, [asset for asset in reserves if asset.collateral and not asset.isolated], 3)
    debts = _some(source, [asset for asset in reserves if asset.borrowable], 3)
    return _Draft(_split(source, collaterals, value), debts, None)


def _emode_draft(reserves: Sequence[ReserveSpec], emode: EModeSpec, source: random.Random, value_usd: float) -> _Draft:
    collaterals = _some(source, [asset for asset in reserves if asset.symbol in emode.collaterals], 2)
    outsiders = [
        asset for asset in reserves if asset.collateral and not asset.isolated and asset.symbol not in emode.collaterals
    ]
    if outsiders and source.random() < _OUTSIDER_SHARE:
        collaterals = (*collaterals, source.choice(outsiders))
    debts = _some(source, [asset for asset in reserves if asset.borrowable and asset.symbol in emode.borrowables], 2)
    return _Draft(_split(source, collaterals, value_usd), debts, emode)


def _value_usd(source: random.Random, index: int) -> float:
    if index % _DUST_EVERY == _DUST_EVERY - 1:
        return _log_uniform(source, _DUST_USD)
    if index % _WHALE_EVERY == _WHALE_EVERY - 1:
        return _log_uniform(source, _WHALE_USD)
    return _log_uniform(source, _ORDINARY_USD)


def _log_uniform(source: random.Random, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return float(low * (high / low) ** source.random())


def _split(source: random.Random, assets: Sequence[ReserveSpec], value_usd: float) -> dict[ReserveSpec, float]:
    weights = [0.2 + source.random() for _ in assets]
    return {asset: value_usd * weight / sum(weights) for asset, weight in zip(assets, weights, strict=True)}


def _some(source: random.Random, assets: Sequence[ReserveSpec], most: int) -> tuple[ReserveSpec, ...]:
    count = min(len(assets), source.choice(range(1, most + 1)))
    return tuple(source.sample(assets, count))


def _threshold_bps(asset: ReserveSpec, emode: EModeSpec | None) -> int:
    inside = emode is not None and asset.symbol in emode.collaterals
    return emode.liquidation_threshold_bps if emode is not None and inside else asset.liquidation_threshold_bps


def _ltv_bps(asset: ReserveSpec, emode: EModeSpec | None) -> int:
    inside = emode is not None and asset.symbol in emode.collaterals
    return emode.ltv_bps if emode is not None and inside else asset.ltv_bps
