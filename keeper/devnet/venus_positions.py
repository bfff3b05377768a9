"""Draws positions on a Venus market and opens them with the owners' own transactions, many to a block."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from eth_utils.crypto import keccak

from keeper.devnet.chain import MAX_UINT, Tx
from keeper.devnet.owners import open_in_parts
from keeper.devnet.packages import Progress, silent
from keeper.devnet.positions import owner_address
from keeper.devnet.spec import ReserveSpec
from keeper.devnet.venus_market import APPROVE, MINT, NATIVE, VenusMarket
from keeper.errors import Fatal

_GAS: Final = 4_000_000
_FAILURE: Final = "0x" + keccak(text="Failure(uint256,uint256,uint256)").hex()
_ORDINARY_USD: Final = (200.0, 60_000.0)
_DUST_USD: Final = (0.05, 5.0)
_WHALE_USD: Final = (500_000.0, 5_000_000.0)
_RARE_EVERY: Final = 11
_POOL_EVERY: Final = 5
_VAI_SHARE: Final = 0.15
_NATIVE_SHARE: Final = 0.12
_LEAST_UNITS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VenusPositionSpec:
    """What one owner holds, in the tokens' own units; `vai` is what it mints of Venus' own dollar."""

    owner: str
    supplies: dict[str, int]
    borrows: dict[str, int] = field(default_factory=dict)
    vai: int = 0
    pool: int = 0


def random_venus_positions(
    market: VenusMarket, count: int, seed: int, hf_range: tuple[float, float] = (1.05, 3.0), *, first_owner: int = 0
) -> tuple[VenusPositionSpec, ...]:
    """Draw positions: dust, ordinary ones and whales, with up to three collaterals and debts, pools, VAI and native debt."""
    return tuple(_drawn(market, random.Random(f"{seed}/{each}"), first_owner + each, hf_range) for each in range(count))  # noqa: S311 - drawing test data


def _drawn(market: VenusMarket, source: random.Random, index: int, hf_range: tuple[float, float]) -> VenusPositionSpec:
    spec = market.spec
    pool = source.choice(sorted(market.pools)) if market.pools and index % _POOL_EVERY == 0 else 0
    inside = [spec.reserve(each) for each in market.pools[pool]] if pool else []
    listed = inside or [each for each in spec.reserves if each.collateral]
    lent = inside or [each for each in spec.reserves if each.borrowable]
    bounds = {1: _DUST_USD, 2: _WHALE_USD}.get(index % _RARE_EVERY, _ORDINARY_USD)
    value = bounds[0] * (bounds[1] / bounds[0]) ** source.random()
    supplies: dict[str, int] = {}
    power = 0.0
    for reserve, dollars in _split(source, listed, value):
        supplies[reserve.symbol] = max(_LEAST_UNITS, reserve.amount(dollars))
        power += dollars * _weight(reserve, pool)
    health = hf_range[0] * (hf_range[1] / hf_range[0]) ** source.random()
    debts = _split(source, lent, power / health)
    borrows = {reserve.symbol: amount for reserve, dollars in debts if (amount := reserve.amount(dollars)) > 0}
    vai = 0
    if not pool and source.random() < _VAI_SHARE and (reserve := debts[0][0]).symbol in borrows and market.vai:
        del borrows[reserve.symbol]
        vai = int(debts[0][1] * 10**18)
    elif (
        NATIVE in market.reserves
        and not pool
        and source.random() < _NATIVE_SHARE
        and (reserve := debts[-1][0]).symbol in borrows
    ):
        del borrows[reserve.symbol]
        borrows[NATIVE] = int(debts[-1][1] * 10**18 / 3_000)
    return VenusPositionSpec(owner=owner_address(index, 4), supplies=supplies, borrows=borrows, vai=vai, pool=pool)


def _weight(reserve: ReserveSpec, pool: int) -> float:
    """Return the share of a collateral's value that may be borrowed, a little less than the contract allows."""
    return 0.9 if pool else reserve.ltv_bps / 10_100


def _split(source: random.Random, reserves: Sequence[ReserveSpec], dollars: float) -> list[tuple[ReserveSpec, float]]:
    chosen = source.sample(list(reserves), source.choice(range(1, min(3, len(reserves)) + 1)))
    parts = [0.2 + source.random() for _ in chosen]
    return [(each, dollars * part / sum(parts)) for each, part in zip(chosen, parts, strict=True)]


async def open_venus_positions(
    market: VenusMarket, specs: Sequence[VenusPositionSpec], progress: Progress = silent
) -> tuple[str, ...]:
    """Open the positions and return the owners; every receipt is checked, also for failures that do not revert.

    Raises: Fatal when the market refuses one.
    """

    async def open_part(part: Sequence[VenusPositionSpec]) -> None:
        receipts = await market.chain.send_all(tx for spec in part for tx in _transactions(market, spec))
        failed = {each["from"] for each in receipts for log in each["logs"] if log["topics"][0] == _FAILURE}
        if failed:
            raise Fatal(f"Venus refused what {sorted(failed)} wanted")

    return await open_in_parts(market.chain, specs, open_part, progress)


def _transactions(market: VenusMarket, spec: VenusPositionSpec) -> Iterator[Tx]:
    owner, reserves = spec.owner, market.reserves

    def by_owner(target: str, signature: str, *args: object) -> Tx:
        return Tx(owner, target, signature, args, gas=_GAS)

    for symbol, amount in spec.supplies.items():
        yield by_owner(reserves[symbol].token, MINT, owner, amount)
        yield by_owner(reserves[symbol].token, APPROVE, reserves[symbol].v_token, MAX_UINT)
        yield by_owner(reserves[symbol].v_token, "mint(uint256)", amount)
    entered = [reserves[each].v_token for each in spec.supplies]
    yield by_owner(market.comptroller, "enterMarkets(address[])", entered)
    if spec.pool:
        yield by_owner(market.comptroller, "enterPool(uint96)", spec.pool)
    for symbol, amount in spec.borrows.items():
        yield by_owner(reserves[symbol].v_token, "borrow(uint256)", amount)
    if spec.vai:
        yield by_owner(market.vai_controller, "mintVAI(uint256)", spec.vai)
