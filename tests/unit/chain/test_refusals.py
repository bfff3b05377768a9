"""What error objects mean, in the words of the clients and providers."""

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.chain.failures import (
    BadResponse,
    BatchTooLarge,
    BlockUnknown,
    MethodMissing,
    RangeTooWide,
    RateLimited,
    RpcError,
    Unauthorised,
)
from keeper.chain.mask import Mask, printable
from keeper.chain.refusals import hex_data_of, refusal
from keeper.chain.wire import envelopes

MASK = Mask("http://node.example/")


def classified(error: object, method: str = "eth_call") -> object:
    return refusal(msgspec.Raw(msgspec.json.encode(error)), node="rpc-1", method=method, mask=MASK)


@pytest.mark.parametrize(
    ("method", "code", "message", "kind"),
    [
        # blocks: geth, anvil, erigon, nethermind, besu, reth, avalanche
        ("eth_call", -32000, "header not found", BlockUnknown),
        ("eth_call", -32000, "header for hash not found", BlockUnknown),
        ("eth_call", -32000, "hash 0xab is not currently canonical", BlockUnknown),
        ("eth_call", -32001, "Resource not found", BlockUnknown),
        ("eth_call", -32000, "missing trie node 1234 (path ) state 0x12 is not available", BlockUnknown),
        ("eth_call", -32602, "BlockOutOfRangeError: block height is 5 but requested was 256", BlockUnknown),
        ("eth_call", -32002, "No state available for block 0xab", BlockUnknown),
        ("eth_call", -32000, "World state unavailable", BlockUnknown),
        ("eth_getLogs", -32000, "unknown block", BlockUnknown),
        ("eth_getLogs", -32000, "block range extends beyond current head block", BlockUnknown),
        ("eth_getLogs", -32000, "One of the blocks specified in filter cannot be found", BlockUnknown),
        ("eth_call", -32000, "cannot query unfinalized data", BlockUnknown),
        # log ranges
        ("eth_getLogs", -32005, "query returned more than 10000 results", RangeTooWide),
        ("eth_getLogs", -32602, "Log response size exceeded. this block range should work: [0x1, 0x2]", RangeTooWide),
        ("eth_getLogs", -32000, "exceed maximum block range: 5000", RangeTooWide),
        ("eth_getLogs", -32614, "eth_getLogs is limited to a 10,000 range", RangeTooWide),
        ("eth_getLogs", -32000, "block range is too wide", RangeTooWide),
        ("eth_getLogs", -32602, "query exceeds max results 20000, retry with the range 1-2", RangeTooWide),
        ("eth_getLogs", -32600, "requested too many blocks from 0 to 9, maximum is set to 5", RangeTooWide),
        ("eth_getLogs", -32008, "Response is too big", RangeTooWide),
        ("eth_getLogs", -32000, "query timeout exceeded", RangeTooWide),
        # rates and quotas
        ("eth_call", 429, "Your app has exceeded its compute units per second capacity", RateLimited),
        ("eth_call", -32005, "daily request count exceeded, request rate limited", RateLimited),
        ("eth_call", -32000, "Too many requests", RateLimited),
        ("eth_call", -32007, "50/second request limit reached", RateLimited),
        ("eth_call", -32000, "Monthly capacity limit exceeded", Unauthorised),
        ("eth_call", -32000, "Unauthorized: you must authenticate your request with an API key", Unauthorised),
        ("eth_call", -32052, "API key is not allowed to access blockchain", Unauthorised),
        # methods
        ("eth_simulateV1", -32601, "the method eth_simulateV1 does not exist/is not available", MethodMissing),
        ("debug_x", -32601, "Method not found", MethodMissing),
        ("eth_simulateV1", -32600, "Unsupported method: eth_simulateV1 on ETH_MAINNET", MethodMissing),
        ("eth_simulateV1", -32004, "Method not supported", MethodMissing),
        # batches
        ("", -32600, "batch too large", BatchTooLarge),
        ("", 31, "Batch of more than 3 requests are not allowed on free tier", BatchTooLarge),
        # the node itself
        ("eth_call", -32603, "Internal error", BadResponse),
        ("eth_call", -32011, "no backends available for method", BadResponse),
        ("eth_call", -32046, "Cannot fulfill request", BadResponse),
        ("eth_call", -32000, "Service unavailable", BadResponse),
    ],
)
def test_a_refusal_has_one_meaning(method: str, code: int, message: str, kind: type) -> None:
    assert type(classified({"code": code, "message": message}, method)) is kind


@pytest.mark.parametrize(
    ("error", "data", "is_revert", "is_too_heavy"),
    [
        ({"code": 3, "message": "execution reverted: no", "data": "0x08c379a0"}, "08c379a0", True, False),
        ({"code": -32000, "message": "execution reverted"}, "", True, False),
        (
            {"code": 3, "message": "execution reverted: rate limit, header not found, timeout", "data": "0x"},
            "",
            True,
            False,
        ),
        ({"code": -32015, "message": "VM execution error.", "data": "Reverted 0x08c379a0"}, "08c379a0", True, False),
        ({"code": -32015, "message": "VM execution error.", "data": "revert"}, "", True, False),
        (
            {
                "code": -32603,
                "message": "VM Exception while processing transaction: revert",
                "data": {"data": "0x1234"},
            },
            "1234",
            True,
            False,
        ),
        ({"code": -32000, "message": "invalid opcode: INVALID"}, "", True, False),
        ({"code": -32000, "message": "out of gas"}, "", False, True),
        ({"code": -32603, "message": "EVM error OutOfGas"}, "", False, True),
        ({"code": -32000, "message": "execution aborted (timeout = 5s)"}, "", False, True),
        ({"code": -32000, "message": "gas required exceeds allowance (50000000)"}, "", False, True),
        ({"code": -32602, "message": "invalid argument 0: hex string has length 3"}, "", False, False),
        ({"code": -32000, "message": "insufficient funds for gas * price + value"}, "", False, False),
    ],
)
def test_an_execution_error_is_data(error: object, data: str, is_revert: bool, is_too_heavy: bool) -> None:
    found = classified(error)
    assert isinstance(found, RpcError)
    assert (found.data.hex(), found.is_revert, found.is_too_heavy) == (data, is_revert, is_too_heavy)


@pytest.mark.parametrize(
    "error",
    [
        "text",
        5,
        [],
        {},
        {"code": "x"},
        {"message": 5},
        {"code": 1.5, "message": None, "data": [[[]]]},
        True,
        {"data": {"data": {}}},
    ],
)
def test_an_error_of_any_shape_is_classified(error: object) -> None:
    assert isinstance(classified(error), (RpcError, BadResponse))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    st.text(),
    st.integers(),
)
def test_no_error_object_escapes_the_classification(data: object, message: str, code: int) -> None:
    try:
        raw = msgspec.json.encode({"code": code, "message": message, "data": data})
    except (UnicodeEncodeError, msgspec.MsgspecError, OverflowError):
        return
    found = refusal(msgspec.Raw(raw), node="rpc-1", method="eth_getLogs", mask=MASK)
    text = str(found)
    assert text.isprintable()
    assert len(text) < 400


def test_a_deeply_nested_answer_is_unreadable_and_does_not_kill_the_process() -> None:
    """Importing web3 raises the recursion limit so far that decoding one would overrun the stack."""
    import web3

    assert web3 is not None
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        for nested in (b"[" * 200_000, b'{"a":' * 200_000, b'{"id":1,"result":' + b"[" * 200_000):
            with pytest.raises((RecursionError, ValueError)):
                envelopes(nested)
    finally:
        sys.setrecursionlimit(before)


def test_a_deeply_nested_error_is_unreadable_and_no_crash() -> None:
    deep = msgspec.Raw(b'{"code":1,"message":"x","data":' + b"[" * 50_000 + b"]" * 50_000 + b"}")
    assert isinstance(refusal(deep, node="rpc-1", method="eth_call", mask=MASK), RpcError)


def test_revert_data_is_bounded() -> None:
    assert len(hex_data_of("0x" + "00" * (4 << 20))) == 1 << 20
    assert hex_data_of("0xzz") == hex_data_of("Error(0x12)") == hex_data_of(None) == b""


def test_text_is_made_printable_and_short() -> None:
    assert printable("a\x1b[31m\n\u202eb" + "x" * 1_000) == "a [31m  b" + "x" * 247
