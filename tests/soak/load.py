"""What goes on at the market for all the time: prices walk, borrowers come, a rival is sometimes faster."""

import asyncio
import random
from dataclasses import replace
from typing import Final

import aiohttp

from keeper.devnet.chain import MAX_UINT, Tx
from keeper.devnet.market import APPROVE, MINT, AaveRecord
from keeper.devnet.population import random_positions
from keeper.devnet.positions import _transactions
from keeper.domain.units import WAD
from keeper.errors import Fatal
from tests.soak.scene import Scene

MAJORS: Final[tuple[str, ...]] = ("WETH", "wstETH", "WBTC", "LINK", "CRV")
RIVAL: Final = "0x14dC79964da2C08b23698B3D3cc7Ca32193d9955"
_LOW, _HIGH = 62, 104
_STEP: Final = (1.0, 4.0)
_PAUSE_S: Final = (1.5, 4.0)
_NEWCOMERS: Final = 3
_NEWCOMERS_EVERY: Final = 4
_NEWCOMERS_HEALTH: Final = (1.01, 1.25)
_RIVAL_SHARE: Final = 0.2
_ORACLE_FEE_WEI: Final = 400 * 10**9
_RIVAL_FEE_WEI: Final = 300 * 10**9
_FUNDS_USD: Final = 1_000_000_000
_OWNER_WEI: Final = 10**19
_LIQUIDATION_CALL: Final = "liquidationCall(address,address,address,uint256,bool)"


class Load:
    """Move the market until it is told to rest; whatever a reorganisation takes away is tried again later."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._random = random.Random(f"{scene.wish.seed}/load")
        self._level = 100.0
        self._trend = -1
        self._start: dict[str, int] = {}
        self._drawn = 0
        self.steps = 0
        self.rival_bids = 0

    async def run(self, seconds: float) -> None:
        """Work for so long."""
        self._start = await self._scene.market.prices()
        await self._equip_rival()
        deadline_s = self._scene.keeper.now_s + seconds
        while self._scene.keeper.now_s < deadline_s:
            try:
                await self._turn()
            except (Fatal, aiohttp.ClientError) as error:  # a reorganisation between two requests
                self._scene.hiccups.append(f"{type(error).__name__}: {str(error)[:120]}")
            await asyncio.sleep(self._random.uniform(*_PAUSE_S))

    async def _turn(self) -> None:
        if self._scene.is_stalled:
            return
        self.steps += 1
        await self._move()
        if self._random.random() < _RIVAL_SHARE:
            await self._scene.blocks(1, timeout_s=3)
            await self._compete()
        if self.steps % _NEWCOMERS_EVERY == 0:
            await self._scene.blocks(1, timeout_s=3)
            await self._welcome()

    async def _move(self) -> None:
        """Move the majors one step, mostly together."""
        self._level += self._trend * self._random.uniform(*_STEP)
        if not _LOW < self._level < _HIGH:
            self._trend = -self._trend
            self._level = min(max(self._level, _LOW), _HIGH)
        elif self._random.random() < 0.1:
            self._trend = -self._trend
        wanted: dict[str, int] = {
            name: int(self._start[name] * self._level * self._random.uniform(0.985, 1.015)) // 100
            for name in MAJORS
            if name in self._start
        }
        await self._scene.market.set_prices(wanted, mine=False, max_fee_wei=_ORACLE_FEE_WEI)

    async def _welcome(self) -> None:
        """Let new borrowers open positions close to the limit, at the prices of now."""
        record = await self._record_now()
        first = 10_000 + self._drawn
        self._drawn += _NEWCOMERS
        drawn = random_positions(record, _NEWCOMERS, self._scene.wish.seed, _NEWCOMERS_HEALTH, first_owner=first)
        chain = self._scene.chain
        await chain.batch([("anvil_setBalance", (each.owner, hex(_OWNER_WEI))) for each in drawn])
        txs = [tx for spec in drawn for tx in _transactions(self._scene.market, spec)]
        await chain.submit([replace(tx, gas=800_000) for tx in txs], max_fee_wei=_RIVAL_FEE_WEI)
        self._scene.owners |= {each.owner: each for each in drawn}

    async def _record_now(self) -> AaveRecord:
        prices = await self._scene.market.prices()
        record = self._scene.market.record()
        reserves = tuple(
            replace(each, price_usd=prices.get(each.symbol, each.price_usd)) for each in record.spec.reserves
        )
        return replace(record, spec=replace(record.spec, reserves=reserves))

    async def _equip_rival(self) -> None:
        """Give the rival tokens and let the pool take them."""
        market = self._scene.market
        await self._scene.chain.set_balance(RIVAL, 10**21)
        txs = []
        for name, reserve in market.reserves.items():
            amount = market.spec.reserve(name).amount(_FUNDS_USD)
            txs.append(Tx(RIVAL, reserve.token, MINT, (RIVAL, amount), gas=200_000))
            txs.append(Tx(RIVAL, reserve.token, APPROVE, (market.pool, MAX_UINT), gas=200_000))
        await self._scene.chain.submit(txs, max_fee_wei=_RIVAL_FEE_WEI)

    async def _compete(self) -> None:
        """Bid for somebody who can be liquidated, far above everybody else."""
        market, owners = self._scene.market, tuple(self._scene.owners)
        found = await market.accounts_data(owners)
        unhealthy = [
            owner
            for owner, each in zip(owners, found, strict=True)
            if each.health_factor_wad < WAD and each.debt_base > 10**10
        ]
        if not unhealthy:
            return
        spec = self._scene.owners[self._random.choice(unhealthy)]
        if not spec.supplies or not spec.borrows:
            return
        collateral, debt = (market.reserves[next(iter(each))].token for each in (spec.supplies, spec.borrows))
        call = Tx(RIVAL, market.pool, _LIQUIDATION_CALL, (collateral, debt, spec.owner, MAX_UINT, False), gas=1_000_000)
        await self._scene.chain.submit([call], max_fee_wei=_RIVAL_FEE_WEI)
        self.rival_bids += 1
