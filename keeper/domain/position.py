"""Positions in the words that all protocols share."""

from dataclasses import dataclass
from enum import StrEnum

from keeper.domain.chain import Moment
from keeper.domain.outcome import Reason
from keeper.domain.units import Address, Base, Column, PositionId, TokenAmount, Wad

_ADDRESS_BYTES = 20


@dataclass(frozen=True, slots=True, order=True)
class PositionKey:
    """One position in one market."""

    market: str
    id: PositionId

    @property
    def account(self) -> Address:
        """Return whose position it is."""
        return Address(self.id[:_ADDRESS_BYTES])

    @property
    def part(self) -> bytes:
        """Return what tells it from the account's other positions in the market."""
        return self.id[_ADDRESS_BYTES:]


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

    An entry of `amount` adds `amount * numerator / denominator` to the margin (negative for debt), in whatever unit all
    columns of the row share. The contract's result may be lower than that by at most `slack`, plus the entry's own
    absolute value divided by `relative_divisor` (0: nothing more).
    """

    numerator: int
    denominator: int
    slack: int
    relative_divisor: int = 0


Row = tuple[tuple[Column, int], ...]
"""A position as its linear form: columns and exact non-negative amounts, rewritten only when an event touches it."""


class Action(StrEnum):
    """What a call does."""

    LIQUIDATE = "liquidate"
    PREPARE = "prepare"
    """Makes the position ready to be liquidated in a later block; it pays only then."""
    SETTLE = "settle"
    """Turns what earlier liquidations brought, such as receipt tokens, into what it stands for."""


@dataclass(frozen=True, slots=True)
class Proceeds:
    """What a plan through the executor is to bring to its owner: `amount` of a token, worth `base`, never below `least`.

    It is what remains of the sale when the debt and the loan are paid; gas is not in it. `stake_base` is what the whole
    position was worth to a liquidator by its protocol's own prices: it changes with the position, not with the pools.
    """

    token: Token
    amount: TokenAmount
    base: Base
    least: TokenAmount
    stake_base: Base


@dataclass(frozen=True, slots=True)
class Opportunity:
    """One legal step of one position's liquidation: what to pay, what comes back, both exact at `at`.

    `repay_limit` is what the call may pull at most; the contract caps it to `repay_amount` when that is the largest
    legal amount, so that interest between planning and landing neither leaves dust nor reverts.
    `seized_amount` is what the liquidator receives, after the protocol's fee.
    `spender` pulls the repayment by an allowance; None where nothing has to be allowed.
    `target` is the contract to call. `terms` are further words of the call that only the protocol itself reads.
    `proceeds` are there where the executor sells what is seized.
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
    spender: Address | None
    target: Address
    at: Moment
    terms: bytes = b""
    action: Action = Action.LIQUIDATE
    proceeds: Proceeds | None = None

    @property
    def gross_profit_base(self) -> Base:
        """Return what it brings before gas: the proceeds, or the seized value less the repaid value."""
        return self.stake_base if self.proceeds is None else self.proceeds.base

    @property
    def stake_base(self) -> Base:
        """Return the seized value less the repaid value by the protocol's own prices, however it is sold."""
        if self.proceeds is not None:
            return self.proceeds.stake_base
        return Base(self.seized_base - self.repay_base)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the exact rules say of one position: its health and, if it can be liquidated, how, or why not."""

    health: Health
    opportunities: tuple[Opportunity, ...]
    blocked: Reason | None
