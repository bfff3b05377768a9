"""From opportunity to outcome."""

from collections.abc import Mapping
from dataclasses import dataclass

from keeper.domain.abi import BALANCE_OF
from keeper.domain.chain import BlockHead, Call
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.position import Opportunity, PositionKey, Token
from keeper.domain.units import NATIVE, Address, Base, TokenAmount, TxHash, Wei


@dataclass(frozen=True, slots=True)
class Plan:
    """One liquidation that pays, ready to be simulated and sent.

    `gas_estimate` is the protocol's typical cost until the simulation measures it. `native_price_base` is the value of
    10**18 wei, so that the sender can weigh fees against the profit without asking anybody.
    """

    id: str
    head: BlockHead
    opportunity: Opportunity
    call: Call
    gas_estimate: int
    native_price_base: Base
    min_profit_base: Base

    @property
    def key(self) -> PositionKey:
        """Return the position that this plan locks."""
        return self.opportunity.key


@dataclass(frozen=True, slots=True)
class Payment:
    """A way to pay: a token, and the contract that pulls it by an allowance.

    `spender` is None where nothing has to be allowed: native currency that is sent along, or a margin that the
    protocol holds already. A margin goes by the address of the contract that holds it; `balance_of` is that
    contract's function of an owner that tells how much there is.
    """

    token: Token
    spender: Address | None
    balance_of: bytes = BALANCE_OF

    @property
    def is_pulled(self) -> bool:
        """Return whether it is a token that a contract may be allowed to pull, whoever it is."""
        return self.spender is not None and self.balance_of == BALANCE_OF

    @property
    def is_native(self) -> bool:
        """Return whether it is the chain's own currency."""
        return self.token.address == NATIVE


@dataclass(frozen=True, slots=True)
class Approval:
    """An allowance to set before plans that need it: `spender` may pull up to `amount` of `token`."""

    token: Address
    spender: Address
    amount: TokenAmount


@dataclass(frozen=True, slots=True)
class Batch:
    """What one head hands to the sender: approvals first, then plans, best first."""

    head: BlockHead
    approvals: tuple[Approval, ...]
    plans: tuple[Plan, ...]


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """The one recorded decision about one liquidatable position at one head."""

    key: PositionKey
    block: int
    decision: Decision
    reason: Reason | None
    plan_id: str | None
    health_factor_wad: int
    debt_base: int
    profit_base: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Realised:
    """What a mined liquidation really did, from its logs; `profit_amount` is what the executor brought to its owner."""

    repaid_amount: TokenAmount
    seized_amount: TokenAmount
    profit_amount: TokenAmount | None = None

    def profit_base(self, what: Opportunity) -> Base:
        """Value it at its plan's own prices, before gas.

        Rounding: against us everywhere.
        """
        brought = what.proceeds
        if brought is not None:
            return Base(brought.base * (self.profit_amount or 0) // brought.amount) if brought.amount else Base(0)
        if not what.seized_amount or not what.repay_amount:
            return Base(0)
        seized = what.seized_base * self.seized_amount // what.seized_amount
        return Base(seized - div_up(what.repay_base * self.repaid_amount, what.repay_amount))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one way in which an accepted plan ended."""

    plan_id: str
    key: PositionKey
    result: Result
    reason: Reason | None
    detail: str
    block: int
    tx_hash: TxHash | None = None
    gas_cost_wei: Wei = Wei(0)
    realised: Realised | None = None
    opportunity: Opportunity | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """What the signer holds at one head, native currency among the balances as well."""

    native_wei: Wei
    balances: Mapping[Address, TokenAmount]
    allowances: Mapping[tuple[Address, Address], TokenAmount]
