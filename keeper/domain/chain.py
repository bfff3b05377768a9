"""What the chain says: heads, logs, calls."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.units import ZERO_ADDRESS, Address, BlockHash, TxHash, Wei


@dataclass(frozen=True, slots=True)
class Moment:
    """A block as contracts see it from within: what interest and prices are computed up to."""

    block: int
    time_s: int


@dataclass(frozen=True, slots=True)
class BlockHead:
    """One block; every value made from its state carries it."""

    number: int
    hash: BlockHash
    parent_hash: BlockHash
    timestamp_s: int
    base_fee_wei: Wei
    gas_limit: int
    logs_bloom: bytes
    coinbase: Address = ZERO_ADDRESS

    @property
    def moment(self) -> Moment:
        """Return the block's own moment, which calls at it see."""
        return Moment(self.number, self.timestamp_s)

    def landing(self, after_s: int) -> Moment:
        """Return the moment of the next block, where a transaction sent now would land."""
        return Moment(self.number + 1, self.timestamp_s + after_s)


@dataclass(frozen=True, slots=True)
class Log:
    """One event log, as the node gave it, in bytes."""

    address: Address
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: BlockHash
    index: int
    tx_hash: TxHash


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which logs to ask for: any of the addresses, and any of the first topics.

    Empty `addresses` means every address.
    """

    addresses: frozenset[Address]
    topics: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class ViewCall:
    """A read-only contract call."""

    to: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class ViewResult:
    """The answer of a `ViewCall`: return data, or revert data where `ok` is false."""

    ok: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class Call:
    """A state-changing call that the keeper may send."""

    to: Address
    data: bytes
    value_wei: Wei = Wei(0)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a mined transaction. `data_fee_wei` is what a rollup took beside the gas."""

    tx_hash: TxHash
    block_number: int
    block_hash: BlockHash
    succeeded: bool
    gas_used: int
    effective_gas_price_wei: Wei
    logs: Sequence[Log]
    data_fee_wei: Wei = Wei(0)

    @property
    def cost_wei(self) -> Wei:
        """Return all that it took from its sender but the value that it carried."""
        return Wei(self.gas_used * self.effective_gas_price_wei + self.data_fee_wei)
