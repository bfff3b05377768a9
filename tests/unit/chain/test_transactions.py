"""Fees, funds, nonces, receipts and simulations: strict, in one request, unknown is not zero."""

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import decode

from keeper.chain.rpc import _DEADLINES_S, Rpc
from keeper.chain.simulation import Simulated, call_alone, simulate
from keeper.chain.transactions import Funds, Nonces, balance, data_fees, fee_history, funds, nonces, receipts, standing
from keeper.chain.turns import Priority
from keeper.domain.chain import Call, Log
from keeper.domain.units import BlockHash, TxHash, Wei
from keeper.errors import Stale, Transient
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import ALICE, EVENT, POOL, FakeChain, FakeNode, Refusal, canonical, log_json

FIRST, SECOND = TxHash(b"\x01" * 32), TxHash(b"\x02" * 32)


def receipt_json(tx_hash: TxHash, **changes: Any) -> dict[str, Any]:
    log = Log(POOL, (EVENT,), b"\x05", 3, BlockHash(b"\xbb" * 32), 7, tx_hash)
    return {
        "transactionHash": "0x" + tx_hash.hex(),
        "blockHash": "0x" + "bb" * 32,
        "blockNumber": "0x3",
        "gasUsed": "0x5208",
        "status": "0x1",
        "effectiveGasPrice": "0x77",
        "logs": [log_json(log)],
        "l1Fee": "0x99",
        "type": "0x7e",
        **changes,
    }


def mined(node: FakeNode, **found: Any) -> None:
    node.methods["eth_getTransactionReceipt"] = lambda tx_hash: found.get(tx_hash[2:4])
    node.methods["eth_getTransactionCount"] = lambda _, tag: {"latest": "0x5", "pending": "0x8"}.get(str(tag), "0x4")


async def test_receipts_come_in_one_request_and_null_is_unknown(pool: Pool, node: FakeNode) -> None:
    mined(node, **{"01": receipt_json(FIRST)})
    rpc = await pool(node)
    found = await receipts(rpc, [FIRST, SECOND])
    assert found[SECOND] is None
    receipt = found[FIRST]
    assert receipt is not None
    assert (receipt.succeeded, receipt.gas_used, receipt.effective_gas_price_wei) == (True, 21_000, 0x77)
    assert (receipt.data_fee_wei, receipt.cost_wei) == (0x99, 21_000 * 0x77 + 0x99)
    assert (receipt.block_number, receipt.logs[0].data, receipt.logs[0].index) == (3, b"\x05", 7)
    assert len(node.posts) == 1
    assert await receipts(rpc, []) == {}
    assert len(node.posts) == 1


async def test_standing_is_one_answer_of_one_node(pool: Pool, node: FakeNode) -> None:
    mined(node, **{"02": receipt_json(SECOND, status="0x0", logs=[])})
    told = await standing(await pool(node), ALICE, [FIRST, SECOND])
    assert told.nonce == 5
    assert list(told.receipts) == [SECOND]
    assert not told.receipts[SECOND].succeeded
    assert len(node.posts) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"transactionHash": "0x" + "03" * 32},
        {"status": "0x2"},
        {"status": None},
        {"gasUsed": "-0x1"},
        {"blockHash": None},
        {"blockNumber": "0x" + "f" * 20},
        {"blockHash": "0x" + "cc" * 32},
        {"logs": None},
        {"logs": [{}]},
    ],
)
async def test_a_receipt_that_cannot_be_right_is_asked_of_another_node(
    pool: Pool, nodes: list[FakeNode], change: dict[str, Any]
) -> None:
    mined(nodes[0], **{"01": receipt_json(FIRST, **change)})
    mined(nodes[1], **{"01": receipt_json(FIRST)})
    found = await receipts(await pool(*nodes), [FIRST])
    receipt = found[FIRST]
    assert receipt is not None
    assert receipt.block_hash == b"\xbb" * 32
    assert nodes[1].count["eth_getTransactionReceipt"] == 1


async def test_nonces_and_funds(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    mined(node)

    def held(_: str, block: Any) -> str:
        canonical(chain, block)
        return "0x64"

    node.methods["eth_getBalance"] = held
    rpc = await pool(node)
    assert await nonces(rpc, ALICE) == Nonces(latest=5, pending=8)
    assert await balance(rpc, ALICE) == 100
    node.posts.clear()
    head = chain.head
    assert await funds(rpc, ALICE, head) == Funds(nonce=4, balance_wei=100)  # type: ignore[arg-type]
    assert [call["params"][1] for call in node.posts[0]] == [
        {"blockHash": "0x" + head.hash.hex(), "requireCanonical": True}
    ] * 2
    chain.reorg(1)
    with pytest.raises(Stale):
        await funds(rpc, ALICE, head)


async def test_the_fees_for_data_are_asked_together_at_the_head(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    asked: list[bytes] = []

    def l1_fee(call: dict[str, str], block: Any) -> str:
        canonical(chain, block)
        assert call["to"] == "0x" + POOL.hex()
        (payload,) = decode(["bytes"], bytes.fromhex(call["data"][10:]))
        asked.append(payload)
        return "0x" + (16 * len(payload)).to_bytes(32).hex()

    node.methods["eth_call"] = l1_fee
    rpc = await pool(node)
    assert await data_fees(rpc, POOL, [b"\x02" * 33, b""], chain.head) == (528, 0)
    assert asked == [b"\x02" * 33, b""]
    assert len(node.posts) == 1
    head = chain.head
    chain.reorg(1)
    with pytest.raises(Stale):
        await data_fees(rpc, POOL, [b"\x02"], head)


async def test_a_fee_for_data_that_is_no_word_is_an_error_and_not_zero(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.methods["eth_call"] = lambda call, _block: "0x" if call["to"] == "0x" + POOL.hex() else "0x" + "00" * 32
    with pytest.raises(Transient):
        await data_fees(rpc, POOL, [b"\x02"], node.chain.head)


def fees(**changes: Any) -> dict[str, Any]:
    return {
        "oldestBlock": "0x3",
        "baseFeePerGas": ["0x7", "0x8", "0x9"],
        "gasUsedRatio": [0.5, 1],
        "reward": [["0x1", "0x2"], ["0x3", "0x4"]],
        "baseFeePerBlobGas": ["0x1"],
        **changes,
    }


async def test_the_fee_history_ends_with_the_next_blocks_base_fee(pool: Pool, node: FakeNode) -> None:
    asked: list[Any] = []

    def answer(*params: Any) -> Any:
        asked.append(params)
        return fees()

    node.methods["eth_feeHistory"] = answer
    rpc = await pool(node)
    told = await fee_history(rpc, blocks=2, percentiles=[10, 50], newest=4)
    assert (told.oldest_block, told.base_fees_wei, told.rewards_wei) == (3, (7, 8, 9), ((1, 2), (3, 4)))
    assert told.fullness_bps == (5_000, 10_000)
    await fee_history(rpc, blocks=2, percentiles=[10])
    assert asked == [("0x2", "0x4", [10, 50]), ("0x2", "latest", [10])]


@pytest.mark.parametrize(
    "change",
    [
        {"baseFeePerGas": []},
        {"baseFeePerGas": ["0x1"]},
        {"oldestBlock": None},
        {"reward": [["-0x1"]]},
        {"gasUsedRatio": ["x"]},
    ],
)
async def test_a_fee_history_that_cannot_be_right_is_asked_of_another_node(
    pool: Pool, nodes: list[FakeNode], change: dict[str, Any]
) -> None:
    nodes[0].methods["eth_feeHistory"] = lambda *_: fees(**change)
    nodes[1].methods["eth_feeHistory"] = lambda *_: fees()
    assert (await fee_history(await pool(*nodes), blocks=2, percentiles=[10])).oldest_block == 3


async def test_calls_are_simulated_in_order_on_top_of_the_head_at_a_time(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    asked: list[Any] = []

    def simulated(payload: Any, block: Any) -> Any:
        canonical(chain, block)
        asked.append(payload)
        log = {"address": "0x" + POOL.hex(), "topics": ["0x" + EVENT.hex()], "data": "0x05", "removed": False}
        return [
            {
                "number": "0x5",
                "calls": [
                    {"status": "0x1", "gasUsed": "0x5611", "returnData": "0x12", "logs": [log]},
                    {
                        "status": "0x0",
                        "gasUsed": "0x1",
                        "returnData": "0xaa",
                        "logs": [],
                        "error": {"code": 3, "message": "x"},
                    },
                    {"status": "0x0", "gasUsed": "0x1", "error": {"code": 3, "message": "x", "data": "0xbb"}},
                ],
            }
        ]

    node.methods["eth_simulateV1"] = simulated
    calls = [Call(POOL, b"\x01"), Call(POOL, b"\x02"), Call(POOL, b"\x03")]
    told = await simulate(await pool(node), calls, sender=ALICE, head=chain.head, at_s=1_234)
    assert told is not None
    assert [(each.ok, each.data, each.gas_used) for each in told] == [
        (True, b"\x12", 0x5611),
        (False, b"\xaa", 1),
        (False, b"\xbb", 1),
    ]
    assert told[0].logs is not None
    assert (told[0].logs[0].address, told[0].logs[0].data) == (POOL, b"\x05")
    (block,) = asked[0]["blockStateCalls"]
    assert [call["data"] for call in block["calls"]] == ["0x01", "0x02", "0x03"]
    assert {call["from"] for call in block["calls"]} == {"0x" + ALICE.hex()}


async def test_a_simulation_runs_in_the_landing_block_for_which_an_accrual_per_block_is_sized(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    """A plan repays what is owed one block on: on a node that counts from the head itself it would be too much."""
    asked: list[Any] = []

    def simulated(payload: Any, block: Any) -> list[dict[str, Any]]:
        asked.append((payload, block))
        return [{"calls": [{"status": "0x1", "gasUsed": "0x1"}]}]

    node.methods["eth_simulateV1"] = simulated
    landing = chain.head.landing(12)
    await simulate(await pool(node), [Call(POOL, b"")], sender=ALICE, head=chain.head, at_s=landing.time_s)
    ((payload, pinned),) = asked
    assert pinned["blockHash"] == "0x" + chain.head.hash.hex()
    overrides = payload["blockStateCalls"][0]["blockOverrides"]
    assert overrides["number"] == hex(landing.block)
    assert overrides["time"] == hex(landing.time_s)


async def test_a_simulation_looks_like_a_real_block_to_whoever_would_behave_in_one_that_does_not(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    asked: list[Any] = []

    def simulated(payload: Any, _block: Any) -> list[dict[str, Any]]:
        asked.append(payload["blockStateCalls"][0])
        return [{"calls": [{"status": "0x1", "gasUsed": "0x1"}]}]

    node.methods["eth_simulateV1"] = simulated
    head = replace(chain.head, base_fee_wei=Wei(7), coinbase=POOL)
    await simulate(await pool(node), [Call(POOL, b"")], sender=ALICE, head=head, at_s=1)
    (block,) = asked
    assert block["blockOverrides"]["baseFeePerGas"] == "0x7"
    assert block["blockOverrides"]["feeRecipient"] == "0x" + POOL.hex()
    (call,) = block["calls"]
    assert int(call["maxFeePerGas"], 16) > 7
    assert int(call["maxPriorityFeePerGas"], 16) > 0
    assert list(block["stateOverrides"]) == ["0x" + ALICE.hex()]


@pytest.mark.parametrize(
    "result", [[], [{}], [{"calls": []}], [{"calls": [{"status": "0x3", "gasUsed": "0x1"}]}], {}, "0x", None]
)
async def test_a_simulation_of_another_shape_is_not_believed(
    pool: Pool, nodes: list[FakeNode], chain: FakeChain, result: Any
) -> None:
    nodes[0].methods["eth_simulateV1"] = lambda *_: result
    nodes[1].methods["eth_simulateV1"] = lambda *_: [{"calls": [{"status": "0x1", "gasUsed": "0x1"}]}]
    told = await simulate(await pool(*nodes), [Call(POOL, b"")], sender=ALICE, head=chain.head, at_s=1)
    assert told == (Simulated(ok=True, data=b"", gas_used=1, logs=()),)


async def test_where_no_node_can_simulate_one_call_can_be_tried_alone(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    rpc = await pool(node)
    call = Call(POOL, b"\x01")
    assert await simulate(rpc, [call], sender=ALICE, head=chain.head, at_s=1) is None
    node.methods["eth_call"] = lambda *_: "0x1234"
    node.methods["eth_estimateGas"] = lambda *_: "0x5208"
    node.posts.clear()
    told = await call_alone(rpc, call, sender=ALICE, block_hash=chain.head.hash)
    assert told == Simulated(ok=True, data=b"\x12\x34", gas_used=21_000, logs=None)
    assert len(node.posts) == 1


async def test_a_call_that_reverts_alone_is_told_with_its_data(pool: Pool, node: FakeNode, chain: FakeChain) -> None:
    rpc = await pool(node)

    def revert(*_: Any) -> None:
        raise Refusal(3, "execution reverted", "0xaabb")

    node.methods["eth_call"] = node.methods["eth_estimateGas"] = revert
    told = await call_alone(rpc, Call(POOL, b""), sender=ALICE, block_hash=chain.head.hash)
    assert told == Simulated(ok=False, data=b"\xaa\xbb", gas_used=0, logs=None)


async def simulation_refused(rpc: Rpc, chain: FakeChain) -> None:
    await simulate(rpc, [Call(POOL, b"")], sender=ALICE, head=chain.head, at_s=1)


async def test_other_refusals_of_a_simulation_are_transient_and_a_gone_head_is_stale(
    pool: Pool, node: FakeNode, chain: FakeChain
) -> None:
    rpc = await pool(node)

    def refuse(*_: Any) -> None:
        raise Refusal(-38014, "insufficient funds for gas * price + value")

    node.methods["eth_simulateV1"] = node.methods["eth_call"] = node.methods["eth_estimateGas"] = refuse
    with pytest.raises(Transient):
        await simulation_refused(rpc, chain)
    with pytest.raises(Transient):
        await call_alone(rpc, Call(POOL, b""), sender=ALICE, block_hash=chain.head.hash)

    def gone(*_: Any) -> None:
        raise Refusal(-32000, "header not found")

    node.methods["eth_simulateV1"] = node.methods["eth_call"] = gone
    with pytest.raises(Stale):
        await simulation_refused(rpc, chain)
    with pytest.raises(Stale):
        await call_alone(rpc, Call(POOL, b""), sender=ALICE, block_hash=chain.head.hash)


async def test_a_refused_receipt_is_an_error_of_the_node(
    pool: Pool, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_DEADLINES_S, Priority.RECEIPT, 0.1)
    rpc = await pool(node)

    def refuse(*_: Any) -> None:
        raise Refusal(-32602, "invalid argument 0")

    node.methods["eth_getTransactionReceipt"] = refuse
    with pytest.raises(Transient, match="invalid argument 0"):
        await receipts(rpc, [FIRST])
