"""The chain as it was: what a node answers whose head is an older block."""

from collections.abc import Sequence
from typing import Any, Final

from tests.faults.proxy import Answer, Call, Forward, refused

LATEST: Final = frozenset({"latest", "pending", "safe", "finalized"})
NULL: Final[Answer] = {"result": None}


def ask_of(method: str, *params: object) -> Call:
    """Return a call of our own."""
    return {"jsonrpc": "2.0", "id": 0, "method": method, "params": list(params)}


async def as_of(shown: int, call: Call, forward: Forward) -> Answer:
    """Answer a call as a node would whose head is block `shown`."""
    method, params = call["method"], list(call["params"])
    if method == "eth_blockNumber":
        return {"result": hex(shown)}
    for place, value in enumerate(params):
        params[place] = _shifted(method, value, shown)
    for number in _numbers(params):
        if number > shown:
            return dict(NULL) if method == "eth_getBlockByNumber" else refused("header not found")
    for block_hash in _pins(params):
        block = (await forward(ask_of("eth_getBlockByHash", block_hash, False))).get("result")
        if block is None or int(block["number"], 16) > shown:
            return refused("header not found")
    told = await forward({**call, "params": params})
    found = told.get("result")
    if isinstance(found, dict) and method.startswith(("eth_getTransaction", "eth_getBlock")):
        mined = found.get("blockNumber") or (found.get("number") if method.startswith("eth_getBlock") else None)
        if isinstance(mined, str) and int(mined, 16) > shown:
            if method == "eth_getTransactionByHash":
                return {"result": {**found, "blockHash": None, "blockNumber": None, "transactionIndex": None}}
            return dict(NULL)
    return told


def _shifted(method: str, value: Any, shown: int) -> Any:
    """Point the tags of a parameter at the shown head, and end log queries there."""
    if value in ("latest", "pending") and not (method == "eth_getTransactionCount" and value == "pending"):
        return hex(shown)
    if method == "eth_getLogs" and isinstance(value, dict) and "blockHash" not in value:
        first, last = value.get("fromBlock", "latest"), value.get("toBlock", "latest")
        end = shown if last in LATEST else min(int(last, 16), shown)
        begin = shown if first in LATEST else int(first, 16)
        return {**value, "fromBlock": hex(min(begin, end)), "toBlock": hex(end)}
    return value


def _numbers(params: Sequence[Any]) -> list[int]:
    """Return the block numbers among the plain parameters of the methods that take one last."""
    found = [each for each in params if isinstance(each, str) and each.startswith("0x") and len(each) < 20]
    return [int(each, 16) for each in found[-1:]]


def _pins(params: Sequence[Any]) -> list[str]:
    return [each["blockHash"] for each in params if isinstance(each, dict) and "blockHash" in each]
