"""What execution needs from the outside: the network as far as transactions go, and somebody who watches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from keeper.chain.broadcast import SendAnswer
from keeper.chain.simulation import Simulated
from keeper.chain.transactions import Funds, Standing
from keeper.domain.chain import BlockHead, Call, Receipt
from keeper.domain.outcome import Reason
from keeper.domain.units import Address, BlockHash, TxHash, Wei


@dataclass(frozen=True, slots=True)
class FeeHistory:
    """What the latest blocks cost, oldest first.

    `base_fees_wei` ends with the next block's. `tips_wei`: per block, one tip for each asked percentile.
    """

    base_fees_wei: Sequence[Wei]
    tips_wei: Sequence[Sequence[Wei]]


class Network(Protocol):
    """The network, as far as transactions go. Every method may raise Transient; those at a head also Stale."""

    async def simulate(
        self, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int
    ) -> Sequence[Simulated] | None:
        """Run calls one after the other on top of a head, or return None where no node can do that."""
        ...

    async def call(self, call: Call, *, sender: Address, block_hash: BlockHash) -> Simulated:
        """Run one call on a block's state, alone."""
        ...

    async def fee_history(self, *, head: BlockHead, blocks: int, percentiles: Sequence[int]) -> FeeHistory:
        """Return what the blocks up to a head cost."""
        ...

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        """Return what the chain takes for each unsigned transaction's data beside its gas: nothing on most."""
        ...

    async def data_gas(self, calls: Sequence[Call], head: BlockHead) -> Sequence[int]:
        """Return the gas that the chain takes for each call's data on top of what running it takes: none on most."""
        ...

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        """Return an account's nonce and balance at a head."""
        ...

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        """Return the latest nonce and the receipts that exist, in one batched request to one node."""
        ...

    async def confirmed(self, receipts: Sequence[Receipt]) -> Mapping[TxHash, Receipt]:
        """Return those receipts that a second node tells alike; all of them where there is no second node."""
        ...

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        """Hand a signed transaction to every node at once. Never retried here, and never raises Transient."""
        ...


class Fence(Protocol):
    """Proof that this process is the only one that sends with its key."""

    async def check(self) -> None:
        """Make sure of it, right before bytes leave.

        Raises: Fenced, where another process has taken over.
        """
        ...


class Gate(Protocol):
    """What the operator and the budgets allow at present."""

    @property
    def is_halted(self) -> bool:
        """Return whether nothing at all may be signed, not even a replacement."""
        ...

    async def refresh(self, head: BlockHead) -> None:
        """Read the switches and what was spent lately, once at each head.

        Raises: StoreFailed.
        """
        ...

    def admit(self, wanted: int, head: BlockHead) -> tuple[int, Reason, str]:
        """Return how many of `wanted` transactions may begin now, and why not more."""
        ...

    async def intruded(self, head: BlockHead, nonce: int) -> None:
        """Take that somebody else has used the key.

        Raises: StoreFailed.
        """
        ...

    async def violated(self, head: BlockHead, detail: str) -> None:
        """Take that something which counted as final is gone from the chain.

        Raises: StoreFailed.
        """
        ...


class Unfenced:
    """No other process can hold the key: a lock on this host says so."""

    async def check(self) -> None:
        """Find nothing wrong."""


class OpenGate:
    """Neither switches nor budgets."""

    is_halted = False

    async def refresh(self, head: BlockHead) -> None:
        """Read nothing."""

    def admit(self, wanted: int, head: BlockHead) -> tuple[int, Reason, str]:
        """Let everything through."""
        del head
        return wanted, Reason.UNKNOWN, ""

    async def intruded(self, head: BlockHead, nonce: int) -> None:
        """Let it be."""

    async def violated(self, head: BlockHead, detail: str) -> None:
        """Let it be."""


class Observer(Protocol):
    """Whoever watches: told of events and of a few numbers, never asked."""

    def event(self, name: str, /, **fields: object) -> None:
        """Take one event of the catalogue."""
        ...

    def reached(self, step: str, /) -> None:
        """Take that a transaction's life has reached a step; the tests of crashes end the process here."""
        ...

    def transaction(self, state: str) -> None:
        """Count one transaction that reached a state."""
        ...

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Take the lane's numbers, once a head."""
        ...

    def gas_spent(self, cost_wei: Wei) -> None:
        """Add what a final transaction cost."""
        ...

    def inclusion(self, blocks: int) -> None:
        """Take how many blocks a transaction waited."""
        ...


class SilentObserver:
    """Watch nothing."""

    def event(self, name: str, /, **fields: object) -> None:
        """Ignore an event."""

    def reached(self, step: str, /) -> None:
        """Ignore a step."""

    def transaction(self, state: str) -> None:
        """Ignore a transaction."""

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Ignore the lane."""

    def gas_spent(self, cost_wei: Wei) -> None:
        """Ignore a cost."""

    def inclusion(self, blocks: int) -> None:
        """Ignore a wait."""
