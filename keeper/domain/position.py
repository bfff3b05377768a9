"""Positions in the words that all protocols share."""

from dataclasses import dataclass

from keeper.domain.outcome import Reason
from keeper.domain.units import Address, Base, Column, TokenAmount, Wad


@dataclass(frozen=True, slots=True, order=True)
class PositionKey:
    """One account in one market."""

    market: str
    account: Address


@dataclass(frozen=True, slots=True)
class Token:
    """An ERC-20 token. `symbol` is already sanitised: printable ASCII, at most 16 characters."""

    address: Address
    symbol: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Holding:
    """One side of a position in one token, with interest up to the evaluation time."""

    token: Token
    amount: TokenAmount
    value_base: Base


@dataclass(frozen=True, slots=True)
class Health:
    """A position valued exactly as its protocol would.

    `health_factor_wad` is 2**256-1 without debt. `is_liquidatable` is the protocol's own test, not a rounding of it.
    """

    health_factor_wad: Wad
    collateral_base: Base
    debt_base: Base
    is_liquidatable: bool
    collateral: tuple[Holding, ...]
    debt: tuple[Holding, ...]


@dataclass(frozen=True, slots=True)
class Weight:
    """The factor that all accounts share for one column of the linear form.

    An entry of `amount` adds `amount * numerator / denominator` to the margin, in base currency (negative for debt).
    The contract's result may be lower than that by at most `slack_base`, plus the entry's own absolute value
    divided by `relative_divisor` (0: nothing more).
    """

    numerator: int
    denominator: int
    slack_base: int
    relative_divisor: int = 0


Row = tuple[tuple[Column, int], ...]
"""A position as its linear form: columns and exact non-negative amounts, rewritten only when an event touches it."""


@dataclass(frozen=True, slots=True)
class Opportunity:
    """One legal liquidation of one position: what to pay, what comes back, both exact at `at_s`.

    `repay_limit` is what the call may pull at most; the contract caps it to `repay_amount` when that is the largest
    legal amount, so that interest between planning and landing neither leaves dust nor reverts.
    `seized_amount` is what the liquidator receives, after the protocol's fee.
    """

    key: PositionKey
    repay: Token
    repay_amount: TokenAmount
    repay_limit: TokenAmount
    repay_base: Base
    seize: Token
    seized_amount: TokenAmount
    seized_base: Base
    protocol_fee_amount: TokenAmount
    spender: Address
    at_s: int

    @property
    def gross_profit_base(self) -> Base:
        """Return the seized value less the repaid value, before gas."""
        return Base(self.seized_base - self.repay_base)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the exact rules say of one position: its health and, if it can be liquidated, how, or why not."""

    health: Health
    opportunities: tuple[Opportunity, ...]
    blocked: Reason | None
