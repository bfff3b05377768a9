"""A deployed Aave market: its addresses, and what a test or a demo does with it."""

from dataclasses import dataclass, fields
from typing import Final, Literal, Self, TypeAlias

from keeper.devnet.assets import DevAsset, price_updates
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain, Receipt
from keeper.devnet.spec import MarketSpec, ReserveSpec
from keeper.errors import Fatal

Generation: TypeAlias = Literal["3.0", "3.6"]

VARIABLE_RATE: Final = 2
NO_REFERRAL: Final = 0
SUPPLY: Final = "supply(address,uint256,address,uint16)"
BORROW: Final = "borrow(address,uint256,uint256,uint16,address)"
WITHDRAW: Final = "withdraw(address,uint256,address)"
SET_EMODE: Final = "setUserEMode(uint8)"
SET_COLLATERAL: Final = "setUserUseReserveAsCollateral(address,bool)"
MINT: Final = "mint(address,uint256)"
APPROVE: Final = "approve(address,uint256)"
ACCOUNT_DATA: Final = "getUserAccountData(address)(uint256,uint256,uint256,uint256,uint256,uint256)"
_LIQUIDATION_CALL: Final = "liquidationCall(address,address,address,uint256,bool)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevReserve(DevAsset):
    """An asset as a market lists it."""

    a_token: str
    variable_debt_token: str


@dataclass(frozen=True, slots=True)
class AccountData:
    """What `getUserAccountData` says; base values have eight decimals, the health factor eighteen."""

    collateral_base: int
    debt_base: int
    available_borrows_base: int
    liquidation_threshold_bps: int
    ltv_bps: int
    health_factor_wad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AaveRecord:
    """The addresses of a market and the parameters it was deployed with: plain data that can be saved."""

    generation: Generation
    spec: MarketSpec
    provider: str
    pool: str
    oracle: str
    configurator: str
    acl_manager: str
    data_provider: str
    liquidation_data_provider: str | None
    from_block: int
    reserves: dict[str, DevReserve]

    def listed(self) -> tuple[ReserveSpec, ...]:
        """Return the reserves of the specification that this generation accepts."""
        return tuple(reserve for reserve in self.spec.reserves if reserve.symbol in self.reserves)


@dataclass(frozen=True, slots=True, kw_only=True)
class AaveMarket(AaveRecord):
    """A market on a running node."""

    chain: DevChain

    @classmethod
    def bind(cls, record: AaveRecord, chain: DevChain) -> Self:
        """Join a record with the node that holds its contracts."""
        return cls(chain=chain, **{field.name: getattr(record, field.name) for field in fields(AaveRecord)})

    def record(self) -> AaveRecord:
        """Return what is left of the market without its node."""
        return AaveRecord(**{field.name: getattr(self, field.name) for field in fields(AaveRecord)})

    async def account_data(self, owner: str, *, block: str = "latest") -> AccountData:
        """Read one account's totals and health factor."""
        return AccountData(*await self.chain.call(self.pool, ACCOUNT_DATA, owner, block=block))

    async def accounts_data(self, owners: tuple[str, ...], *, block: str = "latest") -> tuple[AccountData, ...]:
        """Read many accounts' totals in batches."""
        found = await self.chain.call_all(((self.pool, ACCOUNT_DATA, (owner,)) for owner in owners), block)
        return tuple(AccountData(*values) for values in found)

    async def prices(self) -> dict[str, int]:
        """Read what the market's oracle says now (US dollars with eight decimals)."""
        reserves = self.reserves.values()
        calls = [(self.oracle, "getAssetPrice(address)(uint256)", (reserve.token,)) for reserve in reserves]
        return dict(zip(self.reserves, await self.chain.call_all(calls), strict=True))

    async def set_prices(
        self, prices: dict[str, int], *, mine: bool = True, max_fee_wei: int | None = None
    ) -> list[str]:
        """Move several feeds and return the transactions' hashes.

        With `mine` they land together in one new block, whatever the node's mining mode; without it they go to the
        pool, bidding `max_fee_wei`, and the node's mode decides.
        """
        updates = await price_updates(self.chain, {self.reserves[name]: price for name, price in prices.items()})
        if not mine:
            return await self.chain.submit(updates, max_fee_wei=max_fee_wei)
        async with self.chain.held():
            receipts = await self.chain.send_all(updates)
        return [str(receipt["transactionHash"]) for receipt in receipts]

    async def mint(self, symbol: str, owner: str, amount: int) -> Receipt:
        """Give somebody tokens."""
        return await self.chain.send(self.reserves[symbol].token, MINT, owner, amount)

    async def supply(self, owner: str, symbol: str, amount: int) -> Receipt:
        """Mint tokens to an account and supply them in its name, with its own transactions."""
        token = self.reserves[symbol].token
        await self.mint(symbol, owner, amount)
        async with self.chain.impersonate(owner):
            await self.chain.send(token, APPROVE, self.pool, amount, sender=owner)
            return await self.chain.send(self.pool, SUPPLY, token, amount, owner, NO_REFERRAL, sender=owner)

    async def borrow(self, owner: str, symbol: str, amount: int) -> Receipt:
        """Borrow at the variable rate."""
        token = self.reserves[symbol].token
        async with self.chain.impersonate(owner):
            return await self.chain.send(
                self.pool, BORROW, token, amount, VARIABLE_RATE, NO_REFERRAL, owner, sender=owner
            )

    async def repay(self, owner: str, symbol: str, amount: int) -> Receipt:
        """Mint tokens to an account and repay its debt with them."""
        token = self.reserves[symbol].token
        await self.mint(symbol, owner, amount)
        async with self.chain.impersonate(owner):
            await self.chain.send(token, APPROVE, self.pool, amount, sender=owner)
            repay = "repay(address,uint256,uint256,address)"
            return await self.chain.send(self.pool, repay, token, amount, VARIABLE_RATE, owner, sender=owner)

    async def withdraw(self, owner: str, symbol: str, amount: int) -> Receipt:
        """Take collateral out."""
        token = self.reserves[symbol].token
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.pool, WITHDRAW, token, amount, owner, sender=owner)

    async def set_collateral(self, owner: str, symbol: str, wanted: bool) -> Receipt:  # noqa: FBT001 - as the contract
        """Switch an account's supply on or off as collateral."""
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.pool, SET_COLLATERAL, self.reserves[symbol].token, wanted, sender=owner)

    async def set_user_emode(self, owner: str, emode: int) -> Receipt:
        """Put an account into an efficiency mode; 0 leaves it."""
        async with self.chain.impersonate(owner):
            return await self.chain.send(self.pool, SET_EMODE, emode, sender=owner)

    async def liquidate(
        self, owner: str, *, collateral: str, debt: str, amount: int = MAX_UINT, receive_a_token: bool = False
    ) -> Receipt:
        """Liquidate an account by hand, with freshly minted tokens of the administrator."""
        token = self.reserves[debt].token
        held = await self.chain.call(self.reserves[debt].variable_debt_token, "balanceOf(address)(uint256)", owner)
        # Interest of the blocks until the call is mined is repaid too: mint a little more than is owed now.
        await self.mint(debt, ADMIN, min(amount, held + held // 1_000 + 1))
        await self.chain.send(token, APPROVE, self.pool, MAX_UINT)
        seized = self.reserves[collateral].token
        return await self.chain.send(self.pool, _LIQUIDATION_CALL, seized, token, owner, amount, receive_a_token)

    async def set_paused(self, symbol: str, paused: bool) -> Receipt:  # noqa: FBT001 - as the contract
        """Pause or resume one reserve."""
        return await self.chain.send(
            self.configurator, "setReservePause(address,bool)", self.reserves[symbol].token, paused
        )

    async def set_grace_period(self, symbol: str, seconds: int) -> Receipt:
        """Resume a reserve with a period during which nobody is liquidated.

        Raises: Fatal on Aave v3.0, which has no such thing.
        """
        if self.generation == "3.0":
            raise Fatal("Aave v3.0 has no liquidation grace period")
        signature, paused = "setReservePause(address,bool,uint40)", False
        return await self.chain.send(self.configurator, signature, self.reserves[symbol].token, paused, seconds)
