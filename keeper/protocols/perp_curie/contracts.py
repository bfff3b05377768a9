"""What Perpetual Protocol v2 has on chain: functions and events as bytes, and the state that a decision needs.

Source: @perp/curie-contract 2.8.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import selector, signed, topic
from keeper.domain.chain import BlockHead, ViewResult
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import WAD, ZERO_ADDRESS, Address, Base, PositionId, TokenAmount

# ClearingHouse
GET_VAULT: Final = selector("getVault()")
GET_EXCHANGE: Final = selector("getExchange()")
GET_ORDER_BOOK: Final = selector("getOrderBook()")
GET_ACCOUNT_BALANCE: Final = selector("getAccountBalance()")
GET_INSURANCE_FUND: Final = selector("getInsuranceFund()")
GET_CONFIG: Final = selector("getClearingHouseConfig()")
GET_ACCOUNT_VALUE: Final = selector("getAccountValue(address)")  # 18 decimals here, the settlement token's in the Vault
IS_PAUSED: Final = selector("paused()")
LIQUIDATE: Final = selector("liquidate(address,address,int256)")
CANCEL_ORDERS: Final = selector("cancelAllExcessOrders(address,address)")
# ClearingHouseConfig
GET_MM_RATIO: Final = selector("getMmRatio()")
GET_IM_RATIO: Final = selector("getImRatio()")
GET_PENALTY_RATIO: Final = selector("getLiquidationPenaltyRatio()")
# AccountBalance
GET_BASE_TOKENS: Final = selector("getBaseTokens(address)")
GET_ACCOUNT_INFO: Final = selector("getAccountInfo(address,address)")
GET_PNL: Final = selector("getPnlAndPendingFee(address)")
GET_REQUIREMENT: Final = selector("getMarginRequirementForLiquidation(address)")
GET_TOTAL_SIZE: Final = selector("getTotalPositionSize(address,address)")
GET_MARK_PRICE: Final = selector("getMarkPrice(address)")
# OrderBook, Exchange and MarketRegistry
GET_ORDERS: Final = selector("getOpenOrderIds(address,address)")
GET_PENDING_FUNDING: Final = selector("getPendingFundingPayment(address,address)")
GET_REGISTRY: Final = selector("getMarketRegistry()")
HAS_POOL: Final = selector("hasPool(address)")
# base tokens
IS_OPEN: Final = selector("isOpen()")
IS_CLOSED: Final = selector("isClosed()")
GET_PAUSED_PRICE: Final = selector("getPausedIndexPrice()")
GET_CLOSED_PRICE: Final = selector("getClosedPrice()")
GET_PRICE_FEED: Final = selector("getPriceFeed()")
# Vault, CollateralManager and InsuranceFund
GET_CLEARING_HOUSE: Final = selector("getClearingHouse()")
GET_SETTLEMENT_TOKEN: Final = selector("getSettlementToken()")
GET_COLLATERAL_MANAGER: Final = selector("getCollateralManager()")
GET_BALANCE: Final = selector("getBalance(address)")
GET_BALANCE_BY_TOKEN: Final = selector("getBalanceByToken(address,address)")
GET_COLLATERALS: Final = selector("getCollateralTokens(address)")
GET_FREE_COLLATERAL: Final = selector("getFreeCollateral(address)")
IS_COLLATERAL: Final = selector("isCollateral(address)")
GET_COLLATERAL_CONFIG: Final = selector("getCollateralConfig(address)")
GET_PRICE: Final = selector("getPrice(address,uint256)")
GET_PRICE_DECIMALS: Final = selector("getPriceFeedDecimals(address)")
GET_CAPACITY: Final = selector("getInsuranceFundCapacity()")
# price feeds of base tokens
GET_CHAINLINK_FEED: Final = selector("getChainlinkPriceFeedV3()")
GET_AGGREGATOR: Final = selector("getAggregator()")

MILLION: Final = 10**6
"""The denominator of every ratio (`1e6`)."""
Q96: Final = 2**96
FUNDING_PERIOD_S: Final = 86_400  # `Funding._DEFAULT_FUNDING_PERIOD`
COLLATERAL_TWAP_S: Final = 900  # `Vault._COLLATERAL_TWAP_INTERVAL`
DUST: Final = 10  # `AccountBalance._DUST`: a smaller size counts as none
MAX_DECIMALS: Final = 18
MAX_FEED_DECIMALS: Final = 36
MOST_TOKENS: Final = 255  # an account's markets or collaterals: `uint8`
MOST_ORDERS: Final = 1_000

POSITION_CHANGED: Final = topic("PositionChanged(address,address,int256,int256,uint256,int256,int256,uint256)")
LIQUIDITY_CHANGED: Final = topic("LiquidityChanged(address,address,address,int24,int24,int256,int256,int128,uint256)")
POSITION_LIQUIDATED: Final = topic("PositionLiquidated(address,address,uint256,uint256,uint256,address)")
POOL_ADDED: Final = topic("PoolAdded(address,uint24,address)")
COLLATERAL_ADDED: Final = topic("CollateralAdded(address,address,uint24,uint24,uint256)")

# Which topic of an event names the account whose state it changed.
ACCOUNT_EVENTS: Final = {
    POSITION_CHANGED: 1,
    LIQUIDITY_CHANGED: 1,
    POSITION_LIQUIDATED: 1,
    topic("PositionClosed(address,address,int256,int256,int256,int256,uint256)"): 1,
    topic("FundingPaymentSettled(address,address,int256)"): 1,
    topic("PnlRealized(address,int256)"): 1,
    topic("Deposited(address,address,uint256)"): 2,
    topic("Withdrawn(address,address,uint256)"): 2,
    topic("CollateralLiquidated(address,address,address,uint256,uint256,uint256,uint24)"): 1,
    topic("BadDebtSettled(address,uint256)"): 1,
}
PART_EVENTS: Final = frozenset({POOL_ADDED, COLLATERAL_ADDED})
MARKET_EVENTS: Final = PART_EVENTS | frozenset(
    map(topic, ("Upgraded(address)", "CollateralManagerChanged(address)", "AccountBalanceChanged(address)"))
)


@dataclass(frozen=True, slots=True)
class Perpetual:
    """One base token's market at one block.

    `price` is the mark price, or the price at which a paused or closed market stands still. `growth_x96` is the funding
    growth, known well enough that no account's pending funding is off by more than one unit of 10**-18. Each is None
    where it cannot be told; then whoever holds a position there has no account value either.
    """

    id: int
    token: Token
    is_open: bool
    price: int | None
    growth_x96: int | None


@dataclass(frozen=True, slots=True)
class Collateral:
    """A collateral that is not the settlement token: its price in units of 1/`price_unit`, and its weight."""

    id: int
    token: Token
    price: int | None
    price_unit: int
    ratio: int

    def value(self, amount: int) -> int | None:
        """Return an amount's value with 18 decimals, before its weight (`Vault._getSettlementByCollateral`)."""
        if self.price is None:
            return None
        more: int = 10 ** max(0, MAX_DECIMALS - self.token.decimals)
        less: int = 10 ** max(0, self.token.decimals - MAX_DECIMALS)
        return amount * more * self.price // self.price_unit // less


@dataclass(frozen=True, slots=True)
class Valuation:
    """What the contract itself says of an account: values with 18 decimals, total sizes with those in orders."""

    account_value: int
    requirement: int
    sizes: tuple[tuple[Address, int], ...]


@dataclass(frozen=True, slots=True)
class Stake:
    """An account's taker position in one market."""

    base_token: Address
    size: int
    open_notional: int
    growth_x96: int


@dataclass(frozen=True, slots=True)
class PerpPosition:
    """An account: its margin, its positions, and in which markets it has orders.

    `owed` is the realised profit not yet in the vault, None where the contract cannot tell for want of a price.
    `valuation` is the contract's own at the block of reading, for an account that only the contract can value.
    """

    id: PositionId
    balance: int
    owed: int | None
    collaterals: tuple[tuple[Address, int], ...]
    stakes: tuple[Stake, ...]
    orders: tuple[Address, ...] = ()
    valuation: Valuation | None = None

    @property
    def has_debt(self) -> bool:
        """Return whether it is in any market, with a position or with orders."""
        return bool(self.stakes)

    @property
    def is_opaque(self) -> bool:
        """Return whether only the contract can value it."""
        return bool(self.orders) or self.owed is None


@dataclass(frozen=True, slots=True)
class PerpSnapshot:
    """The ClearingHouse at one block. `scale` brings the settlement token's units to 18 decimals."""

    market: str
    head: BlockHead
    clearing_house: Address
    settlement: Token
    margin: Token
    scale: int
    is_paused: bool
    mm_ratio: int
    im_ratio: int
    penalty_ratio: int
    insurance: int
    perpetuals: Mapping[Address, Perpetual]
    collaterals: Mapping[Address, Collateral]
    valuations: Mapping[PositionId, Valuation | None]
    prices: Mapping[Address, Base]
    native_price_base: Base | None

    @property
    def payments(self) -> Sequence[Payment]:
        """Return the free margin in the vault: nothing is paid, but a take-over locks some."""
        return (Payment(self.margin, None, balance_of=GET_FREE_COLLATERAL),)

    @property
    def proceeds(self) -> Sequence[Token]:
        """Return nothing: positions that were taken over are no tokens."""
        return ()

    @property
    def targets(self) -> frozenset[Address]:
        """Return the ClearingHouse."""
        return frozenset({self.clearing_house})

    def usd(self, value: int) -> Base | None:
        """Convert a value with 18 decimals of the settlement token, rounding down, or return None without a price."""
        price = self.prices.get(self.settlement.address)
        return None if price is None else Base(value * price // WAD)

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value margin, the settlement token, a collateral, or a size of a market at its price."""
        if token in (self.margin.address, self.settlement.address):
            return self.usd(amount * self.scale)
        if (perpetual := self.perpetuals.get(token)) is not None:
            return None if perpetual.price is None else self.usd(amount * perpetual.price // WAD)
        held, price = self.collaterals.get(token), self.prices.get(token)
        return None if held is None or price is None else Base(amount * price // 10**held.token.decimals)


@dataclass(frozen=True, slots=True)
class Part:
    """A base token or a collateral, by a number that stays its own."""

    id: int
    token: Token


@dataclass(frozen=True, slots=True)
class Layout:
    """What was discovered."""

    root: Address
    vault: Address
    exchange: Address
    order_book: Address
    account_balance: Address
    insurance_fund: Address
    config: Address
    registry: Address
    collateral_manager: Address
    settlement: Token
    im_ratio: int
    perpetuals: Mapping[Address, Part]
    collaterals: Mapping[Address, Part]

    @property
    def margin(self) -> Token:
        """Return the free margin in the vault as the token that a liquidator needs."""
        name = f"{self.settlement.symbol[: abi.MAX_SYMBOL - 7]} margin"
        return Token(self.vault, name, self.settlement.decimals)

    @property
    def scale(self) -> int:
        """Return what brings the settlement token's units to 18 decimals."""
        return int(10 ** (MAX_DECIMALS - self.settlement.decimals))


@dataclass(frozen=True, slots=True)
class Leg:
    """A position, or what one would be without orders, at its market's price."""

    perpetual: Perpetual
    price: int
    size: int

    @property
    def value(self) -> int:
        """Return its value with 18 decimals, negative for a short."""
        return mul_div(self.size, self.price, WAD)


@dataclass(frozen=True, slots=True)
class Account:
    """An account as the liquidation rules see it; `account_value` in whole units of the settlement token."""

    account_value: int
    requirement: int
    legs: tuple[Leg, ...]

    @property
    def is_liquidatable(self) -> bool:
        """Return the contract's own test."""
        return self.account_value < self.requirement

    @property
    def total_value(self) -> int:
        """Return the absolute values' sum."""
        return sum(abs(leg.value) for leg in self.legs)


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What a liquidation moves: the size (the trader's sign), its notional and the penalty's shares, 18 decimals."""

    size: int
    notional: int
    penalty: int
    fee: int

    @property
    def fund_fee(self) -> int:
        """Return the insurance fund's share of the penalty."""
        return self.penalty - self.fee


def perpetual(part: Part, answers: Sequence[ViewResult], growth_x96: int | None) -> Perpetual:
    """Decode a market: open or not, closed or not, then the prices when paused, closed and open.

    One that does not say has no price: the contract reverts for whoever is in it.
    Source: AccountBalance._getReferencePrice, 2.8.4.
    """
    if not all(each.ok and each.data for each in answers[:2]):
        return Perpetual(part.id, part.token, is_open=False, price=None, growth_x96=growth_x96)
    is_open, is_closed = (bool(abi.number(each, "a market's status")) for each in answers[:2])
    paused, closed, mark = answers[2:5]
    stands = price(mark if is_open else closed if is_closed else paused)
    return Perpetual(part.id, part.token, is_open, stands, growth_x96)


def collateral(part: Part, answers: Sequence[ViewResult]) -> Collateral:
    """Decode a collateral: its average price, its feed's decimals, its configuration."""
    average, places, config = answers
    decimals = abi.within(abi.number(places, "a feed"), 0, MAX_FEED_DECIMALS + 1, "a feed") if places.ok else 0
    ratio = abi.within(abi.words(config, 2, "a collateral")[1], 0, MILLION + 1, "a collateral's ratio")
    return Collateral(part.id, part.token, price(average) if places.ok else None, 10**decimals, ratio)


def price(result: ViewResult) -> int | None:
    """Return a price, or None where the contract reverts or says nothing that could be one."""
    said = int.from_bytes(result.data, "big") if result.ok and len(result.data) == abi.WORD else 0
    return said if 0 < said < abi.UINT128 else None


def growth(witnesses: Sequence[Sequence[ViewResult]]) -> int | None:
    """Return a market's funding growth from accounts' information, orders and pending funding; None without any.

    A payment p of a size s says that `s * (growth - last) / 2**96` lies between `p` and `p + 1` days: its middle is
    taken. Another account's payment, with a smaller size, is then off by half a unit before its own truncation.
    Source: Funding.calcPendingFundingPaymentWithLiquidityCoefficient, 2.8.4.
    """
    best: tuple[int, int] | None = None
    for info, orders, pending in witnesses:
        size, _, last = (signed(word) for word in abi.words(info, 3, "an account's position"))
        if size and pending.ok and not abi.array(orders, MOST_ORDERS, "an account's orders"):
            paid = signed(abi.number(pending, "a pending funding"))
            middle = (2 * abs(paid) + 1) * FUNDING_PERIOD_S * Q96 // (2 * abs(size)) if paid else 0
            found = last + (middle if (paid > 0) == (size > 0) else -middle)
            best = max(best or (0, 0), (abs(size), found))
    return None if best is None else best[1]


def valuation(answers: Sequence[ViewResult], base_tokens: Sequence[Address]) -> Valuation | None:
    """Decode the contract's own valuation of an account, or None where it reverts for want of a price."""
    if not all(each.ok for each in answers):
        return None
    value, requirement, *sizes = (signed(abi.number(each, "an account's valuation")) for each in answers)
    return Valuation(value, requirement, tuple(zip(base_tokens, sizes, strict=True)))


def named_address(result: ViewResult) -> Address:
    """Return the address that a contract names, or the zero address where it names none."""
    return abi.address(abi.number(result, "an address")) if result.ok and len(result.data) >= abi.WORD else ZERO_ADDRESS


def mul_div(a: int, b: int, denominator: int) -> int:
    """Multiply and divide, truncating toward zero (`PerpMath.mulDiv`)."""
    return truncated(a * b, denominator)


def truncated(a: int, b: int) -> int:
    """Divide by a positive number, truncating toward zero, as Solidity does."""
    return a // b if a >= 0 else -(-a // b)
