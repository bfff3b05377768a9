"""A deployed Perpetual Protocol v2: its addresses, and what a test or a demo does with it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isqrt, log
from typing import Final, Self

from keeper.devnet.assets import DevAsset, price_updates
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain, Receipt, Tx
from keeper.devnet.market import APPROVE, MINT

NO_DEADLINE: Final = 2**255
OPEN_POSITION: Final = "openPosition((address,bool,bool,uint256,uint256,uint256,uint160,bytes32))"
ADD_LIQUIDITY: Final = "addLiquidity((address,uint256,uint256,int24,int24,uint256,uint256,bool,uint256))"
REMOVE_LIQUIDITY: Final = "removeLiquidity((address,int24,int24,uint128,uint256,uint256,uint256))"
DEPOSIT_FOR: Final = "depositFor(address,address,uint256)"
WITHDRAW: Final = "withdraw(address,uint256)"
GAS: Final = 5_000_000
MOVER: Final = "0x" + "4d" * 20
"""Trades a pool to where the index goes; nobody has its key."""

_WAD: Final = 10**18
_Q96: Final = 2**96
_TICK_SPACING: Final = 200
_STEP: Final = 0.05  # the contract lets a pool move ten per cent in fifteen seconds
_STEP_S: Final = 20
_TWAP_S: Final = 1_900  # longer than the mark price looks back
_MOVER_USD: Final = 10**10
_PRICE_PLACES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DevPerpetual:
    """One perpetual market: its base token and pool, and the shared asset whose feed is its index."""

    symbol: str
    index: str
    base_token: str
    pool: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PerpRecord:
    """The addresses of a ClearingHouse: plain data that can be saved."""

    clearing_house: str
    vault: str
    exchange: str
    order_book: str
    account_balance: str
    insurance_fund: str
    config: str
    registry: str
    collateral_manager: str
    quote_token: str
    settlement: str
    collateral: str
    collateral_ratio: int
    from_block: int
    assets: dict[str, DevAsset]
    perpetuals: dict[str, DevPerpetual]


def sqrt_price_x96(price_usd: int) -> int:
    """Return a pool's square root price for a price in US dollars with eight decimals."""
    return isqrt(price_usd * 2**192 // 10**_PRICE_PLACES)


def tick_at(price_usd: int) -> int:
    """Return the usable tick at or below a price in US dollars with eight decimals."""
    return int(log(price_usd / 10**_PRICE_PLACES) / log(1.0001)) // _TICK_SPACING * _TICK_SPACING


@dataclass(frozen=True, slots=True, kw_only=True)
class PerpMarket(PerpRecord):
    """A ClearingHouse on a running node."""

    chain: DevChain

    @classmethod
    def bind(cls, record: PerpRecord, chain: DevChain) -> Self:
        """Join a record with the node that holds its contracts."""
        return cls(chain=chain, **{field.name: getattr(record, field.name) for field in fields(PerpRecord)})

    def record(self) -> PerpRecord:
        """Return what is left of the market without its node."""
        return PerpRecord(**{field.name: getattr(self, field.name) for field in fields(PerpRecord)})

    async def deposit(self, owner: str, symbol: str, amount: int) -> None:
        """Mint tokens to the administrator and deposit them into somebody's margin."""
        token = self.assets[symbol].token
        await self.chain.send(token, MINT, ADMIN, amount)
        await self.chain.send(token, APPROVE, self.vault, MAX_UINT)
        await self.chain.send(self.vault, DEPOSIT_FOR, owner, token, amount)

    async def withdraw(self, owner: str, symbol: str, amount: int) -> Receipt:
        """Take margin out."""
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.vault, WITHDRAW, self.assets[symbol].token, amount, sender=owner)

    def opening(self, owner: str, symbol: str, value_usd: float) -> Tx:
        """Return the transaction that buys (positive) or sells a market for so many dollars of quote."""
        base_token, is_short = self.perpetuals[symbol].base_token, value_usd < 0
        terms = (base_token, is_short, not is_short, int(abs(value_usd) * 10**6) * 10**12, 0, NO_DEADLINE, 0, bytes(32))
        return Tx(owner, self.clearing_house, OPEN_POSITION, (terms,), gas=GAS)

    async def trade(self, owner: str, symbol: str, value_usd: float) -> Receipt:
        """Buy (positive) or sell a market for so many dollars of quote."""
        tx = self.opening(owner, symbol, value_usd)
        async with self.chain.impersonate(owner):
            return await self.chain.send(tx.to, tx.signature, *tx.args, sender=owner)

    async def close(self, owner: str, symbol: str) -> Receipt:
        """Close somebody's position at the pool's price."""
        terms = (self.perpetuals[symbol].base_token, 0, 0, NO_DEADLINE, bytes(32))
        signature = "closePosition((address,uint160,uint256,uint256,bytes32))"
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.clearing_house, signature, terms, sender=owner)

    async def add_order(self, owner: str, symbol: str, *, prices_usd: tuple[int, int], value_usd: int) -> Receipt:
        """Let somebody make a market between two prices (eight decimals), with so many dollars on each side."""
        index = (await self.prices())[self.perpetuals[symbol].index]
        ticks = [tick_at(each) for each in prices_usd]
        base = value_usd * 10**_PRICE_PLACES * _WAD // index
        terms = (self.perpetuals[symbol].base_token, base, value_usd * _WAD, *ticks, 0, 0, False, NO_DEADLINE)
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.clearing_house, ADD_LIQUIDITY, terms, sender=owner)

    async def prices(self) -> dict[str, int]:
        """Read what the shared feeds say now (US dollars with eight decimals)."""
        calls = [(asset.feed, "latestAnswer()(int256)", ()) for asset in self.assets.values()]
        return dict(zip(self.assets, await self.chain.call_all(calls), strict=True))

    async def set_prices(self, prices: Mapping[str, int]) -> None:
        """Move several shared feeds, and no pool: in one new block, or in the next one where blocks come by themselves."""
        updates = await price_updates(self.chain, {self.assets[s]: p for s, p in prices.items()})
        if await self.chain.is_automining():
            async with self.chain.held():
                await self.chain.send_all(updates)
        else:
            for sent in await self.chain.submit(updates):
                await self.chain.receipt(sent)

    async def move(self, prices: Mapping[str, int], *, wait_s: int = _TWAP_S) -> None:
        """Move feeds and pools together, a few per cent at a time, and wait until the mark price has followed.

        Feeds that are no market's index move at once.
        """
        now = await self.prices()
        steps = max(1, *(int(abs(log(price / now[name])) / _STEP) + 1 for name, price in prices.items()))
        await self._fund_mover()
        for step in range(1, steps + 1):
            part = {name: int(now[name] * (price / now[name]) ** (step / steps)) for name, price in prices.items()}
            await self.chain.increase_time(_STEP_S)
            await self.set_prices(part)
            for each in self.perpetuals.values():
                if each.index in part:
                    await self._trade_to(each, part[each.index])
        if wait_s:
            await self.chain.increase_time(wait_s)
            if await self.chain.is_automining():
                await self.chain.mine()

    async def _trade_to(self, perpetual: DevPerpetual, price_usd: int) -> None:
        """Let the mover trade a pool to a price."""
        target = sqrt_price_x96(price_usd)
        signature = "slot0()(uint160,int24,uint16,uint16,uint16,uint8,bool)"
        current = (await self.chain.call(perpetual.pool, signature))[0]
        if current == target:
            return
        is_short = target < current
        terms = (perpetual.base_token, is_short, True, 10**8 * _WAD, 0, NO_DEADLINE, target, bytes(32))
        async with self.chain.impersonate(MOVER):
            await self.chain.send(self.clearing_house, OPEN_POSITION, terms, sender=MOVER)

    async def _fund_mover(self) -> None:
        token = self.assets[self.settlement].token
        if not await self.chain.call(self.vault, "getBalanceByToken(address,address)(int256)", MOVER, token):
            await self.deposit(MOVER, self.settlement, _MOVER_USD * 10 ** self.assets[self.settlement].decimals)
