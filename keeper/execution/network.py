"""The network port on the pool of nodes."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from keeper.chain import data_gas, simulation, transactions
from keeper.chain.broadcast import SendAnswer
from keeper.chain.failures import RpcError
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import Simulated
from keeper.chain.transactions import Funds, Standing
from keeper.domain.chain import BlockHead, Call, Receipt
from keeper.domain.units import Address, BlockHash, TxHash, Wei
from keeper.errors import Transient
from keeper.execution.ports import FeeHistory

T = TypeVar("T")


class RpcNetwork:
    """Implements `Network`. What a node refuses to tell counts as not told: it can only delay us.

    What decides about money is believed where two nodes agree on it, as far as two can be asked.
    """

    def __init__(
        self, rpc: Rpc, data_fee_oracle: Address | None = None, data_gas_oracle: Address | None = None
    ) -> None:
        """Speak through a started pool; the oracles tell what a rollup takes for a transaction's data, if it does."""
        self._rpc = rpc
        self._data_fee_oracle = data_fee_oracle
        self._data_gas_oracle = data_gas_oracle

    async def simulate(
        self, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int
    ) -> Sequence[Simulated] | None:
        """Run calls one after the other on top of a head, or return None where no node can do that."""
        return await _told(simulation.simulate(self._rpc, calls, sender=sender, head=head, at_s=at_s, is_decisive=True))

    async def call(self, call: Call, *, sender: Address, block_hash: BlockHash) -> Simulated:
        """Run one call on a block's state, alone."""
        asked = simulation.call_alone(self._rpc, call, sender=sender, block_hash=block_hash, is_decisive=True)
        return await _told(asked)

    async def fee_history(self, *, head: BlockHead, blocks: int, percentiles: Sequence[int]) -> FeeHistory:
        """Return what the blocks up to a head cost."""
        asked = transactions.fee_history(self._rpc, blocks=blocks, percentiles=percentiles, newest=head.number)
        found = await _told(asked)
        return FeeHistory(found.base_fees_wei, found.rewards_wei)

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        """Return what the chain takes for each unsigned transaction's data beside its gas."""
        if self._data_fee_oracle is None or not payloads:
            return [Wei(0)] * len(payloads)
        return await _told(transactions.data_fees(self._rpc, self._data_fee_oracle, payloads, head, is_decisive=True))

    async def data_gas(self, calls: Sequence[Call], head: BlockHead) -> Sequence[int]:
        """Return the gas that the chain takes for each call's data on top of what running it takes."""
        if self._data_gas_oracle is None or not calls:
            return [0] * len(calls)
        return await _told(data_gas.data_gas(self._rpc, self._data_gas_oracle, calls, head))

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        """Return an account's nonce and balance at a head."""
        return await _told(transactions.funds(self._rpc, address, head, is_decisive=True))

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        """Return the latest nonce and the receipts that exist, in one batched request to one node."""
        return await _told(transactions.standing(self._rpc, address, hashes))

    async def confirmed(self, receipts: Sequence[Receipt]) -> Mapping[TxHash, Receipt]:
        """Return those receipts that a second node tells alike; all of them where there is no second node."""
        return await _told(transactions.confirmed(self._rpc, receipts))

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        """Hand a signed transaction to every node at once, once each."""
        return (await self._rpc.send_raw(raw)).answers


async def _told(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except RpcError as refused:
        raise Transient(str(refused)) from None
