"""What Arbitrum takes in gas for a transaction's data, which no simulation counts."""

from collections.abc import Sequence
from typing import Final

from keeper.chain.failures import BlockUnknown
from keeper.chain.rpc import Rpc
from keeper.chain.wire import Answer, bytes_of, hex_of, pinned, present
from keeper.domain.chain import BlockHead, Call
from keeper.domain.units import Address
from keeper.errors import Stale, Transient

_WORD: Final = 32
_ANSWER: Final = 3 * _WORD
_ESTIMATE: Final = bytes.fromhex("77d488a2")
"""`gasEstimateL1Component(address,bool,bytes)`."""
_MOST: Final = 1 << 64


async def data_gas(rpc: Rpc, oracle: Address, calls: Sequence[Call], head: BlockHead) -> tuple[int, ...]:
    """Return the gas that each call's data will take, a tenth more than at the head's own price.

    Source: OffchainLabs/nitro NodeInterface.gasEstimateL1Component.
    Raises: Transient; Stale when the block is gone.
    """
    block = pinned(head.hash)
    asked = [{"to": hex_of(oracle), "data": hex_of(_call(each))} for each in calls]

    def decode(answers: Sequence[Answer]) -> list[bytes]:
        return [bytes_of(present(each)) for each in answers]

    try:
        found = await rpc.ask([("eth_call", (call, block)) for call in asked], decode, is_pinned=True)
    except BlockUnknown as gone:
        raise Stale(f"block {head.number} is gone: {gone}") from None
    amounts = tuple(int.from_bytes(each[:_WORD]) for each in found)
    if any(len(each) != _ANSWER for each in found) or any(each >= _MOST for each in amounts):  # no node's fault
        raise Transient("the contract that should tell the gas for data told something else")
    return amounts


def _call(call: Call) -> bytes:
    words = (int.from_bytes(call.to), 0, 3 * _WORD, len(call.data))
    return _ESTIMATE + b"".join(word.to_bytes(_WORD) for word in words) + call.data + bytes(-len(call.data) % _WORD)
