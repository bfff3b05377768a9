"""What each node can do, asked one by one: facts for `keeper check`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import NodeFailure, RangeTooWide, RpcError
from keeper.chain.mask import printable
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, bytes_of, head_of, json_of, only, quantity_of, text_of
from keeper.domain.chain import BlockHead

_TIMEOUT_S: Final = 5.0
_RANGES: Final = (10_000, 2_000, 500, 10)
_NOBODY: Final = "0x" + "00" * 19 + "01"
_A_TIME: Final = 0x12345678
_RETURN_TIMESTAMP: Final = "0x4260005260206000f3"
"""TIMESTAMP, MSTORE at 0, RETURN 32 bytes: run as creation code, it answers the block's time."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one node answered; None where it did not."""

    node: str
    state: str
    reason: str
    chain_id: int | None
    client: str | None
    head: BlockHead | None
    head_age_s: float | None
    latency_s: float
    pinned_reads: bool | None
    log_range: int | None
    """The widest range of blocks that a log query was answered for; 0 for none."""
    block_overrides: bool | None
    simulate_v1: bool | None
    fee_history: bool | None


async def probe(rpc: Rpc) -> tuple[NodeFacts, ...]:
    """Ask every node what it can do, whatever its state; start the pool before, even if that raised."""
    return tuple(await asyncio.gather(*(_probe(rpc, endpoint) for endpoint in rpc.endpoints)))


async def _probe(rpc: Rpc, endpoint: Endpoint) -> NodeFacts:
    chain_id = await _tried(endpoint, ("eth_chainId", ()), _quantity)
    client = await _tried(endpoint, ("web3_clientVersion", ()), _text)
    head = await _tried(endpoint, ("eth_getBlockByNumber", ("latest", False)), _head)
    age_s = None if head is None else max(0.0, rpc.clock.unix_s() - head.timestamp_s)
    simulated = {"blockStateCalls": [{"calls": [{"from": _NOBODY, "to": _NOBODY}]}]}
    timed: tuple[Any, ...] = ({"data": _RETURN_TIMESTAMP}, "latest", {}, {"time": hex(_A_TIME)})
    return NodeFacts(
        node=endpoint.alias,
        state=endpoint.health.state.value,
        reason=endpoint.health.reason,
        chain_id=chain_id,
        client=None if client is None else printable(endpoint.mask.clean(client), 64),
        head=head,
        head_age_s=age_s,
        latency_s=endpoint.health.latency_s,
        pinned_reads=endpoint.learnt.is_pinned_exact,
        log_range=None if head is None else await _log_range(endpoint, head.number),
        block_overrides=await _works(endpoint, ("eth_call", timed), _is_a_time),
        simulate_v1=await _works(endpoint, ("eth_simulateV1", (simulated, "latest")), _is_list),
        fee_history=await _works(endpoint, ("eth_feeHistory", ("0x1", "latest", [50])), _is_object),
    )


async def _log_range(endpoint: Endpoint, number: int) -> int | None:
    """Return the widest of some ranges that the node answers; the filter matches nothing."""
    for width in _RANGES:
        query = {"fromBlock": hex(max(0, number - width + 1)), "toBlock": hex(number), "topics": [["0x" + "00" * 32]]}
        try:
            await endpoint.ask([("eth_getLogs", (query,))], _json, priority=Priority.BACKFILL, timeout_s=_TIMEOUT_S)
        except (RangeTooWide, RpcError):
            continue
        except NodeFailure:
            return None
        return width
    return 0


async def _tried(endpoint: Endpoint, request: Request, decode: Any) -> Any:
    """Return the decoded answer, or None where the node gave none."""
    try:
        return await endpoint.ask([request], decode, priority=Priority.HEAD, timeout_s=_TIMEOUT_S)
    except (NodeFailure, RpcError):
        return None


async def _works(endpoint: Endpoint, request: Request, decode: Any) -> bool | None:
    """Return whether the node offers something; None where it could not be asked."""
    try:
        return bool(await endpoint.ask([request], decode, priority=Priority.READ, timeout_s=_TIMEOUT_S))
    except RpcError:
        return False
    except NodeFailure as failure:
        return None if failure.is_retried else False


def _quantity(answers: Sequence[Answer]) -> int:
    return quantity_of(only(answers))


def _text(answers: Sequence[Answer]) -> str:
    return text_of(only(answers))


def _head(answers: Sequence[Answer]) -> BlockHead:
    return head_of(only(answers))


def _json(answers: Sequence[Answer]) -> Any:
    return json_of(only(answers))


def _is_list(answers: Sequence[Answer]) -> bool:
    return isinstance(json_of(only(answers)), list)


def _is_object(answers: Sequence[Answer]) -> bool:
    return isinstance(json_of(only(answers)), dict)


def _is_a_time(answers: Sequence[Answer]) -> bool:
    return int.from_bytes(bytes_of(only(answers))) == _A_TIME
