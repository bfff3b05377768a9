"""What a Pawnshop has on chain, and the state that a decision needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain.abi import selector, topic
from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, Address, Base, PositionId, TokenAmount

COLLATERAL: Final = selector("collateral()")
LOAN: Final = selector("loan()")
FEED: Final = selector("feed()")
RATE: Final = selector("rate()")
THRESHOLD: Final = selector("THRESHOLD_BPS()")
BONUS: Final = selector("BONUS_BPS()")
CLOSE_FACTOR: Final = selector("CLOSE_FACTOR_BPS()")
LOANS: Final = selector("loans(address)")
DEBT_OF: Final = selector("debtOf(address)")
HEALTH: Final = selector("health(address)")
LIQUIDATE: Final = selector("liquidate(address,uint256)")

OPENED: Final = topic("Opened(address,uint256,uint256)")
REPAID: Final = topic("Repaid(address,uint256,uint256)")
LIQUIDATED: Final = topic("Liquidated(address,address,uint256,uint256)")

CUSTOM_ERRORS: Final = {
    selector("Healthy()"): (Reason.NOT_LIQUIDATABLE, "Healthy"),
    selector("TooMuch()"): (Reason.NOT_LIQUIDATABLE, "TooMuch"),
    selector("TooLittleCollateral()"): (Reason.NOT_LIQUIDATABLE, "TooLittleCollateral"),
    selector("NoPrice()"): (Reason.PRICE_UNKNOWN, "NoPrice"),
    selector("TransferFailed()"): (Reason.TOKEN_BLOCKED, "TransferFailed"),
}


@dataclass(frozen=True, slots=True)
class Terms:
    """What never changes: tokens, the feed, rates and shares."""

    root: Address
    collateral: Token
    loan: Token
    feed: Address
    feed_decimals: int
    rate_wad: int
    threshold_bps: int
    bonus_bps: int
    close_factor_bps: int

    @property
    def collateral_unit(self) -> int:
        """Return by what a collateral amount times a price is divided for whole dollars."""
        return int(10 ** (self.collateral.decimals + self.feed_decimals))

    @property
    def loan_unit(self) -> int:
        """Return a whole loan token."""
        return int(10**self.loan.decimals)


@dataclass(frozen=True, slots=True)
class PawnshopSnapshot:
    """The shop at one block. `price` is the feed's answer, None where the shop has none; `prices` are the chain file's."""

    market: str
    head: BlockHead
    terms: Terms
    price: int | None
    prices: Mapping[Address, Base]

    @property
    def native_price_base(self) -> Base | None:
        """Return the value of 10**18 wei, or None where nothing prices it."""
        return self.prices.get(NATIVE)

    @property
    def payments(self) -> Sequence[Payment]:
        """Return the loan token, which the shop pulls."""
        return (Payment(self.terms.loan, self.terms.root),)

    @property
    def proceeds(self) -> Sequence[Token]:
        """Return nothing: collateral comes as itself."""
        return ()

    @property
    def targets(self) -> frozenset[Address]:
        """Return the shop."""
        return frozenset({self.terms.root})

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a token, rounding down, or return None without a price."""
        decimals = {each.address: each.decimals for each in (self.terms.collateral, self.terms.loan)}
        price = self.prices.get(token)
        return None if price is None or token not in decimals else Base(amount * price // 10 ** decimals[token])


@dataclass(frozen=True, slots=True)
class PawnshopPosition:
    """A loan as it is stored: the debt is that of `updated_s`."""

    id: PositionId
    collateral: int
    debt: int
    updated_s: int

    @property
    def has_debt(self) -> bool:
        """Return whether it owes anything."""
        return self.debt > 0
