"""What calls would do on top of a head: `eth_simulateV1`, or one call alone where no node offers it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec

from keeper.chain.failures import BlockUnknown, MethodMissing, RpcError
from keeper.chain.refusals import hex_data_of
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import (
    Answer,
    Request,
    bytes_of,
    data,
    fixed,
    hex_of,
    only,
    pinned,
    present,
    quantity,
    quantity_of,
)
from keeper.domain.chain import BlockHead, Call, Log
from keeper.domain.units import Address, BlockHash, TxHash
from keeper.errors import Stale, Transient

_NO_HASH: Final = bytes(32)
_TIP_WEI: Final = 10**6
_RICH_WEI: Final = 10**30


@dataclass(frozen=True, slots=True)
class Simulated:
    """What one call would do.

    `data`: return data, or revert data where not `ok`. `logs`: None where the node could not tell; their block and
    transaction hashes are zero, as neither exists.
    """

    ok: bool
    data: bytes
    gas_used: int
    logs: tuple[Log, ...] | None


class _SimulatedLog(msgspec.Struct, gc=False):
    address: str
    topics: tuple[str, ...]
    data: str


class _SimulatedCall(msgspec.Struct, gc=False, rename="camel"):
    status: str
    gas_used: str
    return_data: str = "0x"
    logs: list[_SimulatedLog] = []
    error: dict[str, Any] | None = None


class _SimulatedBlock(msgspec.Struct, gc=False):
    calls: list[_SimulatedCall]


_blocks = msgspec.json.Decoder(list[_SimulatedBlock])


async def simulate(
    rpc: Rpc, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int, is_decisive: bool = False
) -> tuple[Simulated, ...] | None:
    """Run calls one after the other in the next block, at `at_s`, on top of a head; None where no usable node can.

    The block's number is given as well: not every node counts on from the head by itself. So are the fees and the
    coinbase, which are zero in most simulations and in no block: a contract may look for that and behave. The sender is
    rich meanwhile, as its fees are not what is asked here.
    `is_decisive`: money is spent on the answer, so two nodes must agree on all but the gas, where there are two.

    Raises: Transient, Contradiction among it; Stale when the head is gone.
    """
    fees = {"maxFeePerGas": hex(2 * head.base_fee_wei + _TIP_WEI), "maxPriorityFeePerGas": hex(_TIP_WEI)}
    block = {
        "blockOverrides": {
            "number": hex(head.number + 1),
            "time": hex(at_s),
            "baseFeePerGas": hex(head.base_fee_wei),
            "feeRecipient": hex_of(head.coinbase),
        },
        "stateOverrides": {hex_of(sender): {"balance": hex(_RICH_WEI)}},
        "calls": [{"from": hex_of(sender), **_call_fields(call), **fees} for call in calls],
    }
    request: Request = ("eth_simulateV1", ({"blockStateCalls": [block], "validation": False}, pinned(head.hash)))
    try:
        decode = partial(_simulated, len(calls), head)
        if is_decisive:
            return await rpc.agreed([request], decode, is_pinned=True, alike=_effects, pick=_dearest)
        return await rpc.ask([request], decode, is_pinned=True)
    except MethodMissing:
        return None
    except BlockUnknown as gone:
        raise Stale(f"block {head.number} is gone: {gone}") from None
    except RpcError as refused:
        raise Transient(f"the simulation was refused: {refused}") from None


async def call_alone(
    rpc: Rpc, call: Call, *, sender: Address, block_hash: BlockHash, is_decisive: bool = False
) -> Simulated:
    """Run one call on a block's state and estimate its gas; the block's own timestamp applies.

    `is_decisive`: money is spent on the answer, so two nodes must agree on all but the gas, where there are two.

    Raises: Transient, Contradiction among it; Stale when the block is gone.
    """
    fields = ({"from": hex_of(sender), **_call_fields(call)}, pinned(block_hash))
    requests: list[Request] = [("eth_call", fields), ("eth_estimateGas", fields)]
    try:
        if is_decisive:
            (found,) = await rpc.agreed(requests, _called_alone, is_pinned=True, alike=_effects, pick=_dearest)
            return found
        return await rpc.ask(requests, _called, priority=Priority.READ, is_pinned=True)
    except BlockUnknown as gone:
        raise Stale(f"the block is gone: {gone}") from None
    except RpcError as refused:
        raise Transient(f"the call was refused: {refused}") from None


def _call_fields(call: Call) -> dict[str, str]:
    return {"to": hex_of(call.to), "data": hex_of(call.data), "value": hex(call.value_wei)}


def _called(answers: Sequence[Answer]) -> Simulated:
    """Join the answers of `eth_call` and `eth_estimateGas`: whichever failed in the virtual machine decides."""
    called, estimated = answers
    for answer in (called, estimated):
        if isinstance(answer, RpcError) and (answer.is_revert or answer.is_too_heavy):
            return Simulated(ok=False, data=answer.data, gas_used=0, logs=None)
    return Simulated(ok=True, data=bytes_of(present(called)), gas_used=quantity_of(present(estimated)), logs=None)


def _called_alone(answers: Sequence[Answer]) -> tuple[Simulated, ...]:
    return (_called(answers),)


def _effects(found: Sequence[Simulated]) -> Hashable:
    """Return what honest nodes agree on: an estimate of gas, and on rollups even the gas itself, differs by node."""
    return tuple((each.ok, each.data, each.logs) for each in found)


def _dearest(agreeing: Sequence[tuple[Simulated, ...]]) -> tuple[Simulated, ...]:
    """Return one of several answers that agree, with the most gas that any of them tells for each call."""
    together = zip(*agreeing, strict=True)
    return tuple(max(each, key=lambda simulated: simulated.gas_used) for each in together)


def _simulated(count: int, head: BlockHead, answers: Sequence[Answer]) -> tuple[Simulated, ...]:
    blocks = _blocks.decode(only(answers))
    if len(blocks) != 1 or len(blocks[0].calls) != count:
        raise ValueError("a simulation of another shape")
    return tuple(_outcome(item, head) for item in blocks[0].calls)


def _outcome(item: _SimulatedCall, head: BlockHead) -> Simulated:
    ok = quantity(item.status, 1) == 1
    returned = data(item.return_data)
    if not ok and not returned and item.error is not None:
        returned = hex_data_of(item.error.get("data"))
    logs = tuple(
        Log(
            address=Address(fixed(log.address, 20)),
            topics=tuple(fixed(topic, 32) for topic in log.topics),
            data=data(log.data),
            block_number=head.number + 1,
            block_hash=BlockHash(_NO_HASH),
            index=index,
            tx_hash=TxHash(_NO_HASH),
        )
        for index, log in enumerate(item.logs)
    )
    return Simulated(ok=ok, data=returned, gas_used=quantity(item.gas_used, 64), logs=logs)
