"""Arbitrary bytes as answers: whatever a server sends, a failure of that endpoint is all that comes of it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypeVar

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeper.chain.endpoint import Node
from keeper.chain.failures import NodeFailure, RpcError
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import call_alone, simulate
from keeper.chain.transactions import confirmed, data_fees, fee_history, funds, receipts, standing
from keeper.chain.view import latest_head
from keeper.domain.chain import BlockHead, Call, Receipt
from keeper.domain.units import Address, BlockHash, TxHash, Wei
from keeper.errors import Stale, Transient, Unsafe
from tests.faults.node import RunningClock
from tests.unit.chain.fake_node import CHAIN_ID, FakeChain, FakeNode, respond

T = TypeVar("T")

HEAD: Final = BlockHead(
    5, BlockHash(b"\x01" * 32), BlockHash(b"\x02" * 32), 1_700_000_000, Wei(7), 30_000_000, bytes(256)
)
WHO: Final = Address(b"\x11" * 20)
TX: Final = TxHash(b"\x22" * 32)
RECEIPT: Final = Receipt(TX, 4, BlockHash(b"\x03" * 32), True, 21_000, Wei(1), (), Wei(0))
CALL: Final = Call(WHO, b"\x01")

ASKED: Final[tuple[Callable[[Rpc], Awaitable[object]], ...]] = (
    latest_head,
    lambda rpc: funds(rpc, WHO, HEAD),
    lambda rpc: funds(rpc, WHO, HEAD, is_decisive=True),
    lambda rpc: receipts(rpc, [TX]),
    lambda rpc: standing(rpc, WHO, [TX]),
    lambda rpc: confirmed(rpc, [RECEIPT]),
    lambda rpc: fee_history(rpc, blocks=2, percentiles=[50]),
    lambda rpc: data_fees(rpc, WHO, [b"\x01"], HEAD),
    lambda rpc: simulate(rpc, [CALL], sender=WHO, head=HEAD, at_s=1),
    lambda rpc: simulate(rpc, [CALL], sender=WHO, head=HEAD, at_s=1, is_decisive=True),
    lambda rpc: call_alone(rpc, CALL, sender=WHO, block_hash=HEAD.hash),
    lambda rpc: rpc.send_raw(b"\x02"),
    lambda rpc: rpc.batch([("eth_chainId", ()), ("eth_blockNumber", ())]),
)


class Hasty(Rpc):
    """A pool that asks once: repetitions would only take time."""

    async def _persist(self, one_round: Callable[[], Awaitable[T]], limit_s: float) -> T:
        async with asyncio.timeout(limit_s):
            return await one_round()


def _json(value: object) -> bytes:
    return json.dumps(value).encode(errors="surrogatepass")


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
    | st.sampled_from(["0x", "0x1", "0x" + "11" * 32, "0x" + "11" * 20, "0xzz", "-0x1", "latest"])
)  # fmt: skip
names = st.sampled_from(
    ["id", "result", "error", "jsonrpc", "method", "params", "code", "message", "data", "hash", "number", "blockHash",
     "blockNumber", "status", "logs", "calls", "gasUsed", "transactionHash", "baseFeePerGas", "reward", "removed"]
)  # fmt: skip
values = st.recursive(leaves, lambda each: st.lists(each, max_size=4) | st.dictionaries(names, each, max_size=6))
bodies = st.binary(max_size=200) | values.map(_json)
statuses = st.sampled_from([200, 200, 200, 200, 204, 301, 400, 401, 404, 413, 429, 500, 503])


@pytest.fixture
def pair() -> Iterator[tuple[asyncio.Runner, list[FakeNode], Rpc]]:
    """Two nodes that spoil everything alike, and a pool on them."""
    with asyncio.Runner() as runner:
        chain = FakeChain()
        nodes = [FakeNode(chain), FakeNode(chain)]

        async def start() -> Hasty:
            for node in nodes:
                await node.__aenter__()
            rpc = Hasty(
                [Node(f"rpc-{at}", node.url, 100_000) for at, node in enumerate(nodes, 1)], clock=RunningClock()
            )
            await rpc.start(CHAIN_ID)
            return rpc

        async def stop(rpc: Rpc) -> None:
            await rpc.close()
            await asyncio.sleep(0.01)
            for node in nodes:
                await node.stop()

        rpc = runner.run(start())
        yield runner, nodes, rpc
        runner.run(stop(rpc))


async def assert_only_classified(rpc: Rpc, ask: Callable[[Rpc], Awaitable[object]]) -> None:
    """Ask; a value or a classified failure may come of it, and nothing else."""
    for endpoint in rpc.endpoints:  # each answer meets endpoints that are asked
        endpoint.health.__init__()  # type: ignore[misc]
        endpoint.verified()
        endpoint.learnt.missing_methods.clear()
    try:
        async with asyncio.timeout(20):
            await ask(rpc)
    except (NodeFailure, RpcError, Transient, Stale, Unsafe):
        pass


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, status=statuses, ask=st.sampled_from(ASKED))
def test_rpc_06_arbitrary_bytes_are_a_classified_failure(
    pair: tuple[asyncio.Runner, list[FakeNode], Rpc], body: bytes, status: int, ask: Any
) -> None:
    runner, nodes, rpc = pair
    for node in nodes:
        node.always = respond(status=status, body=body)
    runner.run(assert_only_classified(rpc, ask))


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shape=values, is_error=st.booleans(), ask=st.sampled_from(ASKED))
def test_rpc_09_results_and_errors_of_any_shape_are_a_classified_failure(
    pair: tuple[asyncio.Runner, list[FakeNode], Rpc], shape: Any, is_error: bool, ask: Any
) -> None:
    runner, nodes, rpc = pair

    async def told(calls: list[dict[str, Any]], _request: Any) -> Any:
        key = "error" if is_error else "result"
        found = [{"jsonrpc": "2.0", "id": call["id"], key: shape} for call in calls]
        return web.Response(body=_json(found if len(found) > 1 else found[0]), content_type="application/json")

    for node in nodes:
        node.always = told
    runner.run(assert_only_classified(rpc, ask))
