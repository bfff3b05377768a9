"""A deployed Venus market, of today's generation or the one before: its addresses, and what a test does with it."""

from dataclasses import dataclass, fields
from typing import Final, Literal, Self, TypeAlias

from keeper.devnet.assets import DevAsset, price_updates
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain, Tx
from keeper.devnet.spec import MarketSpec

VenusGeneration: TypeAlias = Literal["10", "1"]
"""`10` is Venus core v10 with its Liquidator and VAI; `1` is v2.2.1 without them, which is Compound v2 in all but name."""

NATIVE: Final = "BNB"
"""The symbol of native currency, which one vToken takes directly; it is priced as the wrapped native token."""
MINT: Final = "mint(address,uint256)"
APPROVE: Final = "approve(address,uint256)"
ACCRUE: Final = "accrueInterest()"
LIQUIDITY: Final = "getAccountLiquidity(address)(uint256,uint256,uint256)"


@dataclass(frozen=True, slots=True, kw_only=True)
class VenusReserve(DevAsset):
    """An asset as the market lists it."""

    v_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VenusRecord:
    """The addresses of a market and the parameters it was deployed with: plain data that can be saved.

    `pools` holds the symbols in each efficiency mode; `liquidator` and the VAI addresses are empty in generation `1`.
    """

    generation: VenusGeneration
    spec: MarketSpec
    comptroller: str
    oracle: str
    liquidator: str
    vai: str
    vai_controller: str
    from_block: int
    reserves: dict[str, VenusReserve]
    pools: dict[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VenusMarket(VenusRecord):
    """A market on a running node."""

    chain: DevChain

    @classmethod
    def bind(cls, record: VenusRecord, chain: DevChain) -> Self:
        """Join a record with the node that holds its contracts."""
        return cls(chain=chain, **{field.name: getattr(record, field.name) for field in fields(VenusRecord)})

    def record(self) -> VenusRecord:
        """Return what is left of the market without its node."""
        return VenusRecord(**{field.name: getattr(self, field.name) for field in fields(VenusRecord)})

    async def set_prices(self, prices: dict[str, int]) -> None:
        """Move several feeds in one new block (US dollars with eight decimals)."""
        updates = await price_updates(self.chain, {self.reserves[name]: price for name, price in prices.items()})
        async with self.chain.held():
            await self.chain.send_all(updates)

    async def accrue(self, *symbols: str) -> None:
        """Bring some vTokens up to date, and leave the others as they are."""
        async with self.chain.held():
            await self.chain.send_all(Tx(ADMIN, self.reserves[each].v_token, ACCRUE) for each in symbols)

    async def set_forced(self, symbol: str, *, wanted: bool, owner: str | None = None) -> None:
        """Let anybody liquidate all debt in an asset, or only one account's, or no longer."""
        token = self.reserves[symbol].v_token
        if owner is None:
            await self.chain.send(self.comptroller, "_setForcedLiquidation(address,bool)", token, wanted)
        else:
            signature = "_setForcedLiquidationForUser(address,address,bool)"
            await self.chain.send(self.comptroller, signature, owner, token, wanted)

    async def set_paused(self, symbol: str, action: int, *, wanted: bool) -> None:
        """Pause an action (0 mint, 1 redeem, 3 repay, 4 seize, 5 liquidate) of one asset, or let it go on."""
        token, signature = self.reserves[symbol].v_token, "_setActionsPaused(address[],uint8[],bool)"
        await self.chain.send(self.comptroller, signature, [token], [action], wanted)

    async def fund(self, owner: str, *, dollars: int) -> None:
        """Give somebody as much of every token, and let them be paid to whoever may liquidate."""
        for symbol, reserve in self.reserves.items():
            if symbol != NATIVE:
                amount = self.spec.reserve(symbol).amount(dollars)
                spender = self.liquidator or reserve.v_token
                await self.chain.send(reserve.token, MINT, owner, amount)
                await self.chain.send(reserve.token, APPROVE, spender, MAX_UINT, sender=owner)
        if self.vai:
            await self.chain.send(self.vai, MINT, owner, dollars * 10**18)
            await self.chain.send(self.vai, APPROVE, self.liquidator, MAX_UINT, sender=owner)
