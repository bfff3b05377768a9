"""The network port on the pool of nodes."""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from keeper.chain import simulation, transactions
from keeper.chain.broadcast import SendAnswer
from keeper.chain.failures import RpcError
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import Simulated
from keeper.chain.transactions import Funds, Standing
from keeper.domain.chain import BlockHead, Call
from keeper.domain.units import Address, BlockHash, TxHash, Wei
from keeper.errors import Transient
from keeper.execution.ports import FeeHistory

T = TypeVar("T")


class RpcNetwork:
    """Implements `Network`. What a node refuses to tell counts as not told: it can only delay us."""

    def __init__(self, rpc: Rpc, data_fee_oracle: Address | None = None) -> None:
        """Speak through a started pool; `data_fee_oracle` tells what a rollup takes for a transaction's data."""
        self._rpc = rpc
        self._data_fee_oracle = data_fee_oracle

    async def simulate(
        self, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int
    ) -> Sequence[Simulated] | None:
        """Run calls one after the other on top of a head, or return None where no node can do that."""
        return await _told(simulation.simulate(self._rpc, calls, sender=sender, head=head, at_s=at_s))

    async def call(self, call: Call, *, sender: Address, block_hash: BlockHash) -> Simulated:
        """Run one call on a block's state, alone."""
        return await _told(simulation.call_alone(self._rpc, call, sender=sender, block_hash=block_hash))

    async def fee_history(self, *, head: BlockHead, blocks: int, percentile: int) -> FeeHistory:
        """Return what the blocks up to a head cost."""
        found = await _told(
            transactions.fee_history(self._rpc, blocks=blocks, percentiles=[percentile], newest=head.number)
        )
        return FeeHistory(found.base_fees_wei[-1], [tips[0] for tips in found.rewards_wei if tips])

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        """Return what the chain takes for each unsigned transaction's data beside its gas."""
        if self._data_fee_oracle is None or not payloads:
            return [Wei(0)] * len(payloads)
        return await _told(transactions.data_fees(self._rpc, self._data_fee_oracle, payloads, head))

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        """Return an account's nonce and balance at a head."""
        return await _told(transactions.funds(self._rpc, address, head))

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        """Return the latest nonce and the receipts that exist, in one batched request to one node."""
        return await _told(transactions.standing(self._rpc, address, hashes))

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        """Hand a signed transaction to every node at once, once each."""
        return (await self._rpc.send_raw(raw)).answers


async def _told(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except RpcError as refused:
        raise Transient(str(refused)) from None
