"""The hostile contracts, compiled once, and the words for how they behave; the one place that speaks to the EVM."""

from dataclasses import dataclass
from enum import IntFlag, auto
from functools import cache
from pathlib import Path
from typing import Any, Final

import boa  # type: ignore[import-untyped]

from keeper.domain.units import Address

HERE: Final = Path(__file__).parent
GAS: Final = 30_000_000

env: Final[Any] = boa.Env()
"""An EVM of our own: nothing else undoes what is put there. Every test runs within an `env.anchor()`."""

# Returns, or reverts with, a megabyte of which the first word is 1:
#   PUSH1 1, PUSH0, MSTORE, PUSH3 1_000_000, PUSH0, RETURN | REVERT
RETURN_BOMB: Final = bytes.fromhex("60015f52620f42405ff3")
REVERT_BOMB: Final = bytes.fromhex("60015f52620f42405ffd")
# Takes all the gas that it gets: INVALID
BLACK_HOLE: Final = bytes.fromhex("fe")


class TokenMood(IntFlag):
    """How a token behaves. Each has its comment in `Token.vy`."""

    HONEST = 0
    SILENT = auto()
    REFUSING = auto()
    LIAR = auto()
    TAXED = auto()
    BOMB = auto()
    REVERT_BOMB = auto()
    BURNER = auto()
    STUBBORN = auto()
    NO_ZERO = auto()
    BLOCKING = auto()
    PAUSED = auto()
    HOOKED = auto()
    UNSPENT = auto()
    FLATTERER = auto()
    SHRINKING = auto()
    JUNK = auto()
    DEAF = auto()
    GENEROUS = auto()


class LenderMood(IntFlag):
    """How a lender behaves. Each has its comment in `lending.vy`."""

    HONEST = 0
    OTHER_INITIATOR = auto()
    DEARER = auto()
    TWICE = auto()
    NEVER = auto()
    OTHER_DATA = auto()
    NO_DATA = auto()
    OTHER_AMOUNT = auto()
    OTHER_TOKEN = auto()
    LESS = auto()
    AFTERWARDS = auto()
    TAKES_NOTHING = auto()
    TAKES_LESS = auto()
    TAKES_MORE = auto()
    THROUGH_OTHER = auto()
    SWALLOWING = auto()
    REENTERED = auto()


class TraderMood(IntFlag):
    """How a market, a router or an exchange behaves. Each has its comment in `Trader.vy`."""

    HONEST = 0
    POISON = auto()
    POISON_BOMB = auto()
    BURNER = auto()
    PAYS_NOTHING = auto()
    PAYS_LESS = auto()
    PAYS_OTHER = auto()
    PAYS_JUNK = auto()
    TAKES_NOTHING = auto()
    TAKES_LESS = auto()
    TAKES_MORE = auto()
    REENTERED = auto()
    WATCHING = auto()
    ERROR_CODE = auto()
    LOOTING = auto()


class PoolMood(IntFlag):
    """How a Uniswap v3 pool behaves. Each has its comment in `PoolV3.vy`."""

    HONEST = 0
    ASKS_MORE = auto()
    ASKS_OTHER = auto()
    ASKS_BOTH = auto()
    TWICE = auto()
    NEVER = auto()
    OTHER_DATA = auto()
    NO_DATA = auto()
    PAYS_LESS = auto()
    AFTERWARDS = auto()
    THROUGH_OTHER = auto()
    OTHER_CALLBACK = auto()
    UNWATCHFUL = auto()
    SWALLOWING = auto()
    REENTERED = auto()
    DEARER = auto()


class PairMood(IntFlag):
    """How a Uniswap v2 pair behaves. Each has its comment in `PairV2.vy`."""

    HONEST = 0
    PAYS_LESS = auto()
    PAYS_OTHER = auto()
    FLATTERING = auto()


@cache
def compiled(name: str) -> Any:
    """Return what deploys one of the contracts of this folder."""
    return boa.load_partial(str(HERE / f"{name}.vy"))


def deploy(name: str) -> Any:
    """Put a contract of this folder on the chain."""
    return compiled(name).deploy(env=env)


def at(name: str, where: Any) -> Any:
    """Return a contract of this folder that another one made."""
    return compiled(name).deploy(env=env, override_address=where, skip_initcode=True)


def code_of(name: str) -> bytes:
    """Return a contract's creation code."""
    return bytes(compiled(name).compiler_data.bytecode)


def raw(contract: Any) -> Address:
    """Return a contract's or an account's address as the keeper has it."""
    text = contract if isinstance(contract, str) else contract.address
    return Address(bytes.fromhex(text[2:]))


def account(name: str) -> Any:
    """Return a new account's address, with native currency to spend."""
    made = env.generate_address(name)
    env.set_balance(made, 10**24)
    return made


@dataclass(frozen=True, slots=True)
class Done:
    """How a transaction ended."""

    ok: bool
    output: bytes
    gas_used: int
    logs: tuple[tuple[bytes, tuple[int, ...], bytes], ...]
    """Address, topics and data of each, of all contracts."""


def transact(to: Any, data: bytes, *, sender: Any, value: int = 0, gas: int = GAS, is_new: bool = True) -> Done:
    """Send a transaction, or make another call in the same one: its transient storage is then as it was left."""
    if is_new:
        env.evm.vm.state.clear_transient_storage()
    computation = env.execute_code(to_address=to, sender=sender, data=data, value=value, gas=gas)
    ok = not computation.is_error
    logs = tuple(computation.get_log_entries()) if ok else ()
    return Done(ok, bytes(computation.output), computation.get_gas_used(), logs)


def set_block(*, coinbase: bytes = bytes(19) + b"\x01", number: int | None = None, base_fee: int | None = None) -> None:
    """Set what contracts read of the block."""
    env.evm.patch.coinbase = coinbase
    if number is not None:
        env.evm.patch.block_number = number
    if base_fee is not None:
        env.evm.vm.state.execution_context._base_fee_per_gas = base_fee
