"""What Compound v2, Moonwell and Venus core have on chain: functions, events and errors, and the state of a decision.

Source: compound-finance/compound-protocol a3214f67; moonwell-fi/moonwell-contracts-v2 45866f4c;
@venusprotocol/venus-protocol 10.3.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from keeper.domain import abi
from keeper.domain.abi import WORD, selector
from keeper.domain.chain import BlockHead, Moment, ViewResult
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, WAD, Address, Base, PositionId, TokenAmount
from keeper.errors import Invalid

Kind = Literal["compound", "moonwell", "venus"]

# Comptroller
GET_ALL_MARKETS: Final = selector("getAllMarkets()")
ORACLE: Final = selector("oracle()")
CLOSE_FACTOR: Final = selector("closeFactorMantissa()")
INCENTIVE: Final = selector("liquidationIncentiveMantissa()")
MARKETS: Final = selector("markets(address)")
SEIZE_PAUSED: Final = selector("seizeGuardianPaused()")
IS_DEPRECATED: Final = selector("isDeprecated(address)")
ASSETS_IN: Final = selector("getAssetsIn(address)")
LIQUIDITY: Final = selector("getAccountLiquidity(address)")
# Comptroller of Venus
LAST_POOL: Final = selector("lastPoolId()")
POOLS: Final = selector("pools(uint96)")
POOL_TOKENS: Final = selector("getPoolVTokens(uint96)")
POOL_MARKETS: Final = selector("poolMarkets(uint96,address)")
USER_POOL: Final = selector("userPoolId(address)")
IS_FORCED: Final = selector("isForcedLiquidationEnabled(address)")
IS_FORCED_FOR: Final = selector("isForcedLiquidationEnabledForUser(address,address)")
IS_PAUSED: Final = selector("actionPaused(address,uint8)")
PROTOCOL_PAUSED: Final = selector("protocolPaused()")
LIQUIDATOR: Final = selector("liquidatorContract()")
VAI_CONTROLLER: Final = selector("vaiController()")
REDEEM_FEE: Final = selector("treasuryPercent()")
MINTED_VAI: Final = selector("mintedVAIs(address)")
EFFECTIVE_FACTOR: Final = selector("getEffectiveLtvFactor(address,address,uint8)")
BY_THRESHOLD: Final = 1
REDEEM_ACTION, REPAY_ACTION, SEIZE_ACTION, LIQUIDATE_ACTION = 1, 3, 4, 5
# Liquidator of Venus
TREASURY_SHARE: Final = selector("treasuryPercentMantissa()")
FORCES_VAI: Final = selector("forceVAILiquidate()")
MIN_VAI: Final = selector("minLiquidatableVAI()")
IS_RESTRICTED: Final = selector("liquidationRestricted(address)")
# VAIController
VAI_ADDRESS: Final = selector("getVAIAddress()")
VAI_INDEX: Final = selector("vaiMintIndex()")
VAI_RATE: Final = selector("getVAIRepayRatePerBlock()")
VAI_INTEREST: Final = selector("pastVAIInterest(address)")
VAI_USER_INDEX: Final = selector("getVAIMinterInterestIndex(address)")
VAI_OWED: Final = selector("getVAIRepayAmount(address)")
ACCRUE_VAI: Final = selector("accrueVAIInterest()")
# cToken
UNDERLYING: Final = selector("underlying()")
CASH: Final = selector("getCash()")
BORROWS: Final = selector("totalBorrows()")
RESERVES: Final = selector("totalReserves()")
SUPPLY: Final = selector("totalSupply()")
BORROW_INDEX: Final = selector("borrowIndex()")
RESERVE_FACTOR: Final = selector("reserveFactorMantissa()")
RATE_STORED: Final = selector("exchangeRateStored()")
SEIZE_SHARE: Final = selector("protocolSeizeShareMantissa()")
ACCOUNT: Final = selector("getAccountSnapshot(address)")
ACCRUE: Final = selector("accrueInterest()")
WETH_UNWRAPPER: Final = selector("wethUnwrapper()")
ACCRUED_BLOCK: Final = selector("accrualBlockNumber()")
ACCRUED_TIME: Final = selector("accrualBlockTimestamp()")
RATE_PER_BLOCK: Final = selector("borrowRatePerBlock()")
RATE_PER_SECOND: Final = selector("borrowRatePerTimestamp()")
# price oracle
PRICE: Final = selector("getUnderlyingPrice(address)")
# what the keeper calls
LIQUIDATE: Final = selector("liquidateBorrow(address,uint256,address)")
LIQUIDATE_NATIVE: Final = selector("liquidateBorrow(address,address)")
LIQUIDATE_VENUS: Final = selector("liquidateBorrow(address,address,uint256,address)")
REDEEM: Final = selector("redeem(uint256)")

MAX_MARKETS: Final = 1_000
MAX_POOLS: Final = 1_000
MAX_DECIMALS: Final = 36
ACTIONS: Final = (LIQUIDATE_ACTION, REPAY_ACTION, SEIZE_ACTION, REDEEM_ACTION)
UINT192: Final = 2**192
VENUS_MARKET_WORDS: Final = 7
VAI_ID: Final = -1  # in the place of a cToken's number


def said(result: ViewResult) -> int | None:
    """Return what a contract says, or None where it says nothing: cETH takes a call that it does not know as a deposit."""
    found = int.from_bytes(result.data[:WORD], "big") if result.ok and len(result.data) >= WORD else UINT192
    return found if found < UINT192 else None


def flag(result: ViewResult) -> bool:
    """Return whether a contract says yes; one that has no such function says no."""
    return result.ok and len(result.data) >= WORD and any(result.data[:WORD])


def wad(result: ViewResult, what: str) -> int:
    """Return a share of at most the whole."""
    return abi.within(abi.number(result, what), 0, WAD + 1, what)


def amount(result: ViewResult, what: str) -> int:
    """Return an amount or a factor that calculations with it cannot overflow."""
    return abi.within(abi.number(result, what), 0, UINT192, what)


def price(result: ViewResult) -> int | None:
    """Return a price, or None where the oracle reverts or says nothing that could be one."""
    return said(result) or None


@dataclass(frozen=True, slots=True)
class Profile:
    """What dialects differ in, besides what a market's contracts tell themselves."""

    is_per_second: bool = False
    """Interest accrues by the second, not by the block."""
    needs_every_price: bool = True
    """Also of cTokens that an account has entered and holds nothing in."""
    max_rate: int = 5 * 10**12
    """Above, `accrueInterest` reverts (`borrowRateMaxMantissa`)."""


PROFILES: Final[Mapping[Kind, Profile]] = MappingProxyType(
    {
        "compound": Profile(max_rate=5 * 10**14),
        "moonwell": Profile(is_per_second=True),
        "venus": Profile(needs_every_price=False),
    }
)


@dataclass(frozen=True, slots=True)
class Listing:
    """A cToken: what it takes, what redeeming it pays, and whether it can be asked for its share of what is seized."""

    id: int
    receipt: Token
    underlying: Token
    pays: Token
    tells_share: bool = True


@dataclass(frozen=True, slots=True)
class Terms:
    """How a cToken counts as collateral in one pool: its weight, and 1 plus the bonus."""

    threshold_wad: int
    incentive_wad: int


@dataclass(frozen=True, slots=True)
class CToken:
    """A listed token at one block. `accrued` is the block or, where interest is by the second, the time of the state.

    `pays` is what redeeming brings. `is_forced`: anybody may liquidate all debt in it.
    """

    id: int
    receipt: Token
    underlying: Token
    pays: Token
    price: int | None
    cash: int
    borrows: int
    reserves: int
    supply: int
    borrow_index: int
    accrued: int
    is_per_second: bool
    borrow_rate: int
    reserve_factor_wad: int
    exchange_rate: int
    seize_share_wad: int
    is_forced: bool = False
    is_liquidation_paused: bool = False
    is_seizing_paused: bool = False
    is_redeeming_paused: bool = False

    def accrue(self, at: Moment) -> "CToken":
        """Return it as it is after accruing interest at a moment.

        Source: CToken.accrueInterest, exchangeRateStoredInternal; MToken; VToken 10.3.
        """
        now = at.time_s if self.is_per_second else at.block
        if now <= self.accrued:
            return self
        factor = self.borrow_rate * (now - self.accrued)
        interest = factor * self.borrows // WAD
        borrows = self.borrows + interest
        reserves = self.reserves + self.reserve_factor_wad * interest // WAD
        left = self.cash + borrows - reserves
        return replace(
            self,
            accrued=now,
            borrows=borrows,
            reserves=reserves,
            borrow_index=self.borrow_index + factor * self.borrow_index // WAD,
            exchange_rate=left * WAD // self.supply if self.supply else self.exchange_rate,
        )

    def value_base(self, units: int) -> Base | None:
        """Value an amount of the underlying token, rounding down, or return None without a price."""
        return None if self.price is None else Base(units * self.price // 10**28)


@dataclass(frozen=True, slots=True)
class Vai:
    """Venus' own dollar: its index, as of the snapshot's block, grows linearly by the block."""

    token: Token
    controller: Address
    index: int
    rate: int
    accrued: int
    is_paused: bool
    first_from: int | None
    """From so much debt on it has to be liquidated before any other, where the Liquidator insists on that."""
    lag: int = 0
    """How far the index that the contract stores is behind: that one counts until a liquidation of VAI accrues it."""
    is_forced: bool = False

    def index_at(self, at: Moment) -> int:
        """Return the index of debts at a moment (VAIController.accrueVAIInterest)."""
        return self.index + self.rate * max(0, at.block - self.accrued)


@dataclass(frozen=True, slots=True)
class CompoundSnapshot:
    """The market at one block. `terms` are by pool and cToken; pool 0 is the core."""

    market: str
    kind: Kind
    head: BlockHead
    close_factor_wad: int
    tokens: Mapping[int, CToken]
    terms: Mapping[tuple[int, int], Terms]
    liquidator: Address | None
    treasury_share_wad: int
    redeem_fee_wad: int
    vai: Vai | None
    native_price_base: Base | None
    payments: tuple[Payment, ...]

    @property
    def proceeds(self) -> Sequence[Token]:
        """Return the receipts that liquidations bring."""
        return tuple(each.receipt for each in self.tokens.values())

    @property
    def targets(self) -> frozenset[Address]:
        """Return the contracts that the keeper's calls go to: the cTokens, and Venus' Liquidator."""
        return frozenset(each.receipt.address for each in self.tokens.values()) | (
            frozenset() if self.liquidator is None else frozenset({self.liquidator})
        )

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a listed token, of VAI or of receipts, rounding down, or return None without a price."""
        if self.vai is not None and token == self.vai.token.address:
            return Base(amount // 10**10)
        for each in self.tokens.values():  # of which several may take the same token
            if token in {each.underlying.address, each.pays.address} and each.price is not None:
                return each.value_base(amount)
            if token == each.receipt.address:
                return each.value_base(amount * each.exchange_rate // WAD)
        return self.native_price_base and Base(amount * self.native_price_base // WAD) if token == NATIVE else None


@dataclass(frozen=True, slots=True)
class Entry:
    """What an account has in a cToken: receipts, and its debt when the index was `index`."""

    token: int
    receipts: int
    debt: int
    index: int
    is_entered: bool = True
    """What it has not entered counts for nothing, and all but Venus let it be seized."""

    def owed(self, index: int) -> int:
        """Return the debt at an index: what the contract says or up to `uncertainty` units less.

        Source: CToken.borrowBalanceStoredInternal, all versions.
        """
        return self.debt * index // self.index

    def uncertainty(self, index: int) -> int:
        """Return how many units more the debt may be: principal times index then was below `debt + 1`."""
        return ((self.debt + 1) * index - 1) // self.index - self.owed(index) if self.debt else 0


@dataclass(frozen=True, slots=True)
class VaiDebt:
    """A debt in VAI: what was minted with the interest fixed since, that interest, and the index of then."""

    minted: int
    interest: int
    index: int

    def owed(self, index: int) -> int:
        """Return the debt at an index (VAIController.getVAIRepayAmount)."""
        return self.minted + (index - self.index) * (self.minted - self.interest) // WAD

    def repaid(self, index: int, paid: int) -> int:
        """Return by how much a payment counts as repaid (getVAICalculateRepayAmount, repayVAIFresh)."""
        whole = self.owed(index)
        interest = whole - self.minted + self.interest
        if paid >= whole:
            return whole
        part = paid * WAD // whole
        return (whole - interest) * part // WAD + interest * part // WAD


@dataclass(frozen=True, slots=True)
class CompoundPosition:
    """An account's entries in the order of the cTokens, its pool and its exceptions (Venus)."""

    id: PositionId
    entries: tuple[Entry, ...]
    pool: int = 0
    vai: VaiDebt | None = None
    forced: frozenset[int] = frozenset()
    is_restricted: bool = False

    @property
    def has_debt(self) -> bool:
        """Return whether it owes anything."""
        return self.vai is not None or any(each.debt for each in self.entries)


def ctoken(listing: Listing, answers: Sequence[ViewResult], kind: Kind, *, is_stopped: bool) -> CToken:
    """Decode a cToken; one whose state cannot be read, or that cannot accrue interest, is without price or paused."""
    what = f"cToken {listing.receipt.symbol}"
    sums, (rate, share, told, _, forced, *paused) = answers[:8], answers[8:]
    is_readable = all(said(each) is not None for each in sums)
    values = [said(each) or 0 if is_readable else 0 for each in sums]
    is_stuck = not is_readable or (pace := said(rate)) is None or pace > PROFILES[kind].max_rate
    liquidation, repayment, seizing, redeeming = [flag(each) for each in paused] or [False] * 4
    return CToken(
        id=listing.id,
        receipt=listing.receipt,
        underlying=listing.underlying,
        pays=listing.pays,
        price=price(told) if is_readable else None,
        cash=values[0],
        borrows=values[1],
        reserves=values[2],
        supply=values[3],
        borrow_index=values[4],
        accrued=values[5],
        exchange_rate=values[6],
        reserve_factor_wad=values[7],
        is_per_second=PROFILES[kind].is_per_second,
        borrow_rate=0 if is_stuck else said(rate) or 0,
        seize_share_wad=wad(share, what) if listing.tells_share and said(share) is not None else 0,
        is_forced=flag(forced),
        is_liquidation_paused=is_stuck or is_stopped or liquidation or repayment,
        is_seizing_paused=is_stuck or is_stopped or seizing,
        is_redeeming_paused=is_stuck or redeeming or (kind == "venus" and is_stopped),
    )


def bare(listing: Listing, told: int | None, rate: int, index: int) -> CToken:
    """Return a cToken of which only price, exchange rate and borrow index matter."""
    tokens = listing.receipt, listing.underlying, listing.pays
    return CToken(listing.id, *tokens, told, 0, 0, 0, 0, index, 0, False, 0, 0, rate, 0)  # noqa: FBT003 - is_per_second


def beside(token: int, snapshot: ViewResult) -> list[Entry]:
    """Return what an account has in a cToken that it has not entered, as far as that can be read."""
    words = abi.split(snapshot.data) if snapshot.ok else []
    is_readable = len(words) > 1 and words[0] == 0 and 0 < words[1] < UINT192
    return [Entry(token, words[1], 0, WAD, is_entered=False)] if is_readable else []


def entry(token: int, snapshot: ViewResult, index: ViewResult, what: str) -> Entry:
    """Decode `getAccountSnapshot`, whose first word is an error code."""
    error, receipts, debt, _ = abi.words(snapshot, 4, what)
    if error:
        raise Invalid(f"{what} cannot be read: code {error}")
    receipts, debt = (abi.within(each, 0, UINT192, what) for each in (receipts, debt))
    return Entry(token, receipts, debt, abi.within(abi.number(index, what), 1, UINT192, what))


def venus_terms(result: ViewResult) -> tuple[Terms, bool]:
    """Return a cToken's terms in a pool, and whether it is in it."""
    is_listed, _, _, threshold, incentive, *_ = abi.words(result, VENUS_MARKET_WORDS, "a pool's terms")
    what = "a pool's terms"
    return Terms(abi.within(threshold, 0, WAD + 1, what), abi.within(incentive, 0, UINT192, what)), bool(is_listed)
