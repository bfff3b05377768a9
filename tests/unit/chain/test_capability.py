"""What `keeper check` learns of each node, and the generic library behind the same door."""

from typing import Any

import pytest
from eth_utils.crypto import keccak
from web3.exceptions import Web3RPCError

from keeper.chain.capability import probe
from keeper.chain.web3_door import web3_through
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import SECRET, FakeNode, Refusal


async def test_each_nodes_abilities_are_told(pool: Pool, nodes: list[FakeNode]) -> None:
    able, poor = nodes
    able.methods["web3_clientVersion"] = lambda: f"Geth/v1.2 {SECRET}\n"
    able.methods["eth_simulateV1"] = lambda *_: [{}]
    able.methods["eth_feeHistory"] = lambda *_: {}
    able.log_range = 2_000
    poor.methods["eth_call"] = lambda *_: "0x"
    rpc = await pool(able, poor)

    def timed(_call: Any, _block: Any, _state: Any = None, overrides: Any = None) -> str:
        return "0x" + int(overrides["time"], 16).to_bytes(32).hex()

    able.methods["eth_call"] = timed
    first, second = await probe(rpc)
    assert (first.node, first.state, first.chain_id, first.client) == ("rpc-1", "alive", 31_337, "Geth/v1.2 *** ")
    assert (first.pinned_reads, first.block_overrides, first.simulate_v1, first.fee_history) == (True, True, True, True)
    assert first.log_range in (2_000, 10_000)
    assert first.head == able.chain.head
    assert first.head_age_s == pytest.approx(52)
    assert (second.pinned_reads, second.block_overrides, second.simulate_v1, second.fee_history) == (
        False,
        False,
        False,
        False,
    )
    assert (second.client, second.log_range) == (None, 10_000)


async def test_a_node_that_is_gone_has_no_facts(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    await nodes[0].stop()
    first, second = await probe(rpc)
    assert (first.chain_id, first.head, first.log_range, first.simulate_v1) == (None, None, None, None)
    assert second.chain_id == 31_337


async def test_the_library_works_through_the_door_without_extra_requests(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    w3 = web3_through(rpc)
    assert await w3.eth.block_number == 4
    assert await w3.is_connected()
    node.methods["eth_call"] = lambda *_: "0x12"
    assert bytes(await w3.eth.call({"to": "0x" + "00" * 20})) == b"\x12"
    assert node.count == {"eth_blockNumber": 1, "eth_call": 1}
    assert SECRET not in str(w3.provider) + repr(w3.provider)


async def test_the_library_sends_each_transaction_once(pool: Pool, nodes: list[FakeNode]) -> None:
    w3 = web3_through(await pool(*nodes))
    assert bytes(await w3.eth.send_raw_transaction(b"\x02raw")) == keccak(b"\x02raw")
    assert [len(node.sent) for node in nodes] == [1, 1]

    def refuse(_: str) -> None:
        raise Refusal(-32000, "nonce too low")

    for node in nodes:
        node.methods["eth_sendRawTransaction"] = refuse
    with pytest.raises(Web3RPCError, match="nonce too low"):
        await w3.eth.send_raw_transaction(b"\x02raw")
    assert [node.count["eth_sendRawTransaction"] for node in nodes] == [2, 2]


async def test_the_library_gets_refusals_as_it_expects_them(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)

    def revert(*_: Any) -> None:
        raise Refusal(3, "execution reverted: no", "0x08c379a0")

    node.methods["eth_getBalance"] = revert
    with pytest.raises(Web3RPCError, match="execution reverted"):
        await web3_through(rpc).eth.get_balance("0x" + "00" * 20)  # type: ignore[arg-type]
