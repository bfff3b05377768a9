"""What execution needs from the outside: the network as far as transactions go, and somebody who watches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from keeper.chain.broadcast import SendAnswer
from keeper.chain.simulation import Simulated
from keeper.chain.transactions import Funds, Standing
from keeper.domain.chain import BlockHead, Call
from keeper.domain.units import Address, BlockHash, TxHash, Wei


@dataclass(frozen=True, slots=True)
class FeeHistory:
    """What the latest blocks cost: the next block's base fee, and each block's tip at the asked percentile."""

    next_base_fee_wei: Wei
    tips_wei: Sequence[Wei]


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

    async def fee_history(self, *, head: BlockHead, blocks: int, percentile: int) -> FeeHistory:
        """Return what the blocks up to a head cost."""
        ...

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        """Return what the chain takes for each unsigned transaction's data beside its gas: nothing on most."""
        ...

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        """Return an account's nonce and balance at a head."""
        ...

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        """Return the latest nonce and the receipts that exist, in one batched request to one node."""
        ...

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        """Hand a signed transaction to every node at once. Never retried here, and never raises Transient."""
        ...


class Observer(Protocol):
    """Whoever watches: told of events and of a few numbers, never asked."""

    def event(self, name: str, /, **fields: object) -> None:
        """Take one event of the catalogue."""
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

    def transaction(self, state: str) -> None:
        """Ignore a transaction."""

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Ignore the lane."""

    def gas_spent(self, cost_wei: Wei) -> None:
        """Ignore a cost."""

    def inclusion(self, blocks: int) -> None:
        """Ignore a wait."""
