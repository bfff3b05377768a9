"""Sending: once to each node, never again, every answer named."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from eth_utils.crypto import keccak

from keeper.chain.phrases import SendVerdict, send_verdict
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import FakeNode, Refusal, Watcher, eventually, hang, respond

RAW = b"\x02signed"
HASH = keccak(RAW)


def sends(node: FakeNode) -> int:
    return node.count["eth_sendRawTransaction"]


async def test_a_transaction_goes_to_every_node_once(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    report = await rpc.send_raw(RAW)
    assert report.tx_hash == HASH
    assert report.is_accepted
    assert [(each.node, each.verdict) for each in report.answers] == [
        ("rpc-1", SendVerdict.ACCEPTED),
        ("rpc-2", SendVerdict.ACCEPTED),
    ]
    assert nodes[0].sent == nodes[1].sent == ["0x" + RAW.hex()]


def swallow(node: FakeNode) -> Any:
    """Take the transaction, then break the connection before the answer."""

    async def handler(calls: list[dict[str, Any]], request: web.Request) -> web.StreamResponse:
        node.answer(calls[0])
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return handler


@pytest.mark.parametrize(
    "fault",
    [
        swallow,
        lambda _: respond(status=500),
        lambda _: respond(status=429),
        lambda _: respond(body="{"),
        lambda _: hang,
    ],
)
async def test_a_lost_answer_is_never_followed_by_a_second_send(pool: Pool, node: FakeNode, fault: Any) -> None:
    rpc = await pool(node)
    node.always = fault(node)
    report = await rpc.send_raw(RAW, deadline_s=0.2)
    await asyncio.sleep(0.1)
    assert sends(node) == 1
    assert not report.is_accepted
    assert report.verdict is SendVerdict.UNREACHABLE


async def test_one_acceptance_is_enough_and_the_slow_are_not_waited_for(pool: Pool, nodes: list[FakeNode]) -> None:
    rpc = await pool(*nodes)
    nodes[0].always = hang
    report = await rpc.send_raw(RAW, deadline_s=3_600)
    assert report.verdict is SendVerdict.ACCEPTED
    assert [each.verdict for each in report.answers] == [SendVerdict.UNREACHABLE, SendVerdict.ACCEPTED]


async def test_a_node_that_is_behind_its_breaker_is_not_sent_to_while_another_is_well(
    pool: Pool, nodes: list[FakeNode]
) -> None:
    rpc = await pool(*nodes)
    await nodes[0].stop()
    await rpc.call("eth_blockNumber")
    report = await rpc.send_raw(RAW)
    assert [each.node for each in report.answers] == ["rpc-2"]


async def test_with_every_breaker_open_the_nodes_are_tried_all_the_same(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    await node.stop()
    await rpc.send_raw(RAW)
    report = await rpc.send_raw(RAW)
    assert [each.verdict for each in report.answers] == [SendVerdict.UNREACHABLE]


async def test_an_answer_with_another_hash_is_not_an_acceptance(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.methods["eth_sendRawTransaction"] = lambda _: "0x" + "11" * 32
    assert (await rpc.send_raw(RAW)).verdict is SendVerdict.UNKNOWN


async def test_contradicting_answers_are_reported(pool: Pool, nodes: list[FakeNode], watcher: Watcher) -> None:
    rpc = await pool(*nodes)

    def poor(_: str) -> None:
        raise Refusal(-32000, "insufficient funds for gas * price + value")

    nodes[1].methods["eth_sendRawTransaction"] = poor
    assert (await rpc.send_raw(RAW)).is_accepted
    (told,) = watcher.named("rpc.inconsistent")
    assert told["answers"] == {"rpc-1": "accepted", "rpc-2": "insufficient_funds"}


async def test_a_send_waits_behind_no_other_request(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node, options={"max_in_flight": 1, "calls_per_s": 20})
    node.always = hang
    stuck = [asyncio.create_task(rpc.call("eth_blockNumber")) for _ in range(5)]
    await eventually(lambda: bool(node.posts))
    node.always = None
    assert (await rpc.send_raw(RAW)).is_accepted
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("already known", SendVerdict.ALREADY_KNOWN),
        ("transaction already imported", SendVerdict.ALREADY_KNOWN),
        ("Transaction with the same hash was already imported.", SendVerdict.ALREADY_KNOWN),
        ("Known transaction", SendVerdict.ALREADY_KNOWN),
        ("AlreadyKnown", SendVerdict.ALREADY_KNOWN),
        ("nonce too low", SendVerdict.NONCE_TOO_LOW),
        ("nonce too low: next nonce 5, tx nonce 4", SendVerdict.NONCE_TOO_LOW),
        ("Transaction nonce is too low. Try incrementing the nonce.", SendVerdict.NONCE_TOO_LOW),
        ("OldNonce, Current nonce: 7, nonce of rejected tx: 6", SendVerdict.NONCE_TOO_LOW),
        ("nonce too high", SendVerdict.NONCE_TOO_HIGH),
        ("NonceGap, Future nonce. Expected nonce: 3", SendVerdict.NONCE_TOO_HIGH),
        ("replacement transaction underpriced", SendVerdict.REPLACEMENT_UNDERPRICED),
        ("Replacement transaction underpriced", SendVerdict.REPLACEMENT_UNDERPRICED),
        (
            "Transaction gas price supplied is too low. There is another transaction with same nonce in the queue.",
            SendVerdict.REPLACEMENT_UNDERPRICED,
        ),
        ("transaction underpriced", SendVerdict.FEE_TOO_LOW),
        (
            "max fee per gas less than block base fee: address 0xab, maxFeePerGas: 1, baseFee: 7",
            SendVerdict.FEE_TOO_LOW,
        ),
        ("FeeTooLow, MaxFeePerGas too low.", SendVerdict.FEE_TOO_LOW),
        ("Gas price below configured minimum gas price", SendVerdict.FEE_TOO_LOW),
        ("transaction gas price below minimum: gas tip cap 1, minimum needed 25", SendVerdict.FEE_TOO_LOW),
        ("insufficient funds for gas * price + value: balance 0, tx cost 5", SendVerdict.INSUFFICIENT_FUNDS),
        ("Insufficient funds for gas * price + value", SendVerdict.INSUFFICIENT_FUNDS),
        ("Upfront cost exceeds account balance", SendVerdict.INSUFFICIENT_FUNDS),
        ("InsufficientFunds, Account balance: 0, cumulative cost: 1", SendVerdict.INSUFFICIENT_FUNDS),
        ("tx fee (2.00 ether) exceeds the configured cap (1.00 ether)", SendVerdict.EXCEEDS_CAP),
        ("Transaction fee cap exceeded", SendVerdict.EXCEEDS_CAP),
        ("txpool is full", SendVerdict.POOL_FULL),
        ("invalid sender", SendVerdict.INVALID),
        ("Failed to decode transaction", SendVerdict.INVALID),
        ("exceeds block gas limit", SendVerdict.INVALID),
        ("intrinsic gas too low: gas 1, minimum needed 21000", SendVerdict.INVALID),
        (
            "max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: 2, maxFeePerGas: 1",
            SendVerdict.INVALID,
        ),
        ("only replay-protected (EIP-155) transactions allowed over RPC", SendVerdict.INVALID),
        ("a wording of the year 2031", SendVerdict.UNKNOWN),
    ],
)
async def test_what_clients_say_has_one_meaning(message: str, verdict: SendVerdict, pool: Pool, node: FakeNode) -> None:
    assert send_verdict(message) is verdict
    rpc = await pool(node)

    def refuse(_: str) -> None:
        raise Refusal(-32000, message)

    node.methods["eth_sendRawTransaction"] = refuse
    report = await rpc.send_raw(RAW)
    assert report.verdict is verdict
    assert sends(node) == 1
    assert report.is_accepted == (verdict is SendVerdict.ALREADY_KNOWN)


@pytest.mark.parametrize("is_socket", [False, True])
async def test_a_transaction_that_may_not_leave_any_more_when_it_is_written_never_does(
    pool: Pool, node: FakeNode, is_socket: bool
) -> None:
    rpc = await (pool(extra=(replace(node.node("rpc-1"), url=node.ws_url),)) if is_socket else pool(node))
    asked: list[bool] = []

    def stood_still() -> bool:
        asked.append(True)
        return False

    rpc.guard_sends(stood_still)
    report = await rpc.send_raw(RAW)
    assert [each.verdict for each in report.answers] == [SendVerdict.UNREACHABLE]
    await asyncio.sleep(0.05)
    assert asked
    assert sends(node) == 0
    assert node.sent == []
    rpc.guard_sends(lambda: True)
    await eventually(lambda: bool(rpc.usable()))
    assert (await rpc.send_raw(RAW)).is_accepted
