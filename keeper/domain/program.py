"""What the executor runs in one transaction: typed steps, and what has to come out of them."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from keeper.domain.units import MAX_UINT256, ZERO_ADDRESS, Address, TokenAmount

ALL: Final = MAX_UINT256
"""As a step's amount: all that the executor holds of what the step gives."""


class StepKind(IntEnum):
    """What a step does. The numbers are the contract's.

    A door runs every step behind it inside its own callback, and is closed (repaid) when they are through: doors nest.
    """

    # doors
    PULL = 1
    """Take the caller's own tokens by an allowance, and give as many back at the end."""
    FLASH_AAVE = 2
    FLASH_MORPHO = 3
    FLASH_UNISWAP_V3 = 4
    FLASH_BALANCER = 5
    FLASH_ERC3156 = 6
    SWAP_FIRST_UNISWAP_V3 = 7
    """Receive an exact amount of `take` now, and pay `give` for it, at most `limit`, when all the rest is done."""
    LIQUIDATE_MORPHO = 8
    """Receive the collateral now, and pay the debt when all the rest is done."""
    PRE_LIQUIDATE_MORPHO = 9
    # liquidations that are paid first
    LIQUIDATE_AAVE = 16
    LIQUIDATE_COMPOUND = 17
    LIQUIDATE_VENUS = 18
    REDEEM_COMPOUND = 19
    # swaps
    SWAP_UNISWAP_V3 = 32
    SWAP_UNISWAP_V2 = 33
    SWAP_CURVE = 34
    SWAP_BALANCER = 35
    SWAP_ROUTER = 36
    # wrappers
    REDEEM_ERC4626 = 48
    UNWRAP_WSTETH = 49
    WRAP_NATIVE = 50
    UNWRAP_NATIVE = 51


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    `target` is the contract that is called; of a Uniswap pool, the factory that it must come from.
    `give` and `take` are tokens, the zero address where there is none. `amount` is of what is given, or borrowed.
    `limit` is the least of `take` that a swap must bring, the most that a loan may cost, or the most that is given for
    what is received first. `data` holds what only this kind needs, as the contract documents it.
    With a `gas` a step may fail within that much, and the next one is run; with 0 the whole transaction fails.
    """

    kind: StepKind
    target: Address
    give: Address = ZERO_ADDRESS
    take: Address = ZERO_ADDRESS
    amount: int = ALL
    limit: int = 0
    data: bytes = b""
    gas: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """A token of which the executor must hold at least so much more in the end; all of it goes to the owner."""

    token: Address
    least: TokenAmount


@dataclass(frozen=True, slots=True)
class Program:
    """One transaction of the executor. `last_block` and `deadline_s` are the last at which it may run."""

    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    last_block: int
    deadline_s: int
