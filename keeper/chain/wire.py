"""JSON-RPC on the wire: frames out, frames in, and strict decoding of what matters.

Decoders take the raw bytes of one `result` and raise ValueError for anything that is not exactly right; the pool turns
that into a failure of the node. A null raises `Absent`.
"""

import re
import sys
from binascii import unhexlify
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from keeper.chain.failures import Absent, RpcError
from keeper.domain.chain import BlockHead, Log
from keeper.domain.units import ZERO_ADDRESS, Address, BlockHash, TxHash, Wei

T = TypeVar("T")

Request: TypeAlias = tuple[str, Sequence[Any]]
"""A method and its JSON parameters."""
Answer: TypeAlias = msgspec.Raw | RpcError
"""The raw result of one call, or the node's refusal of it."""
Decode: TypeAlias = Callable[[Sequence[Answer]], T]
"""Turns the answers of one request into a value; raises ValueError when the node's answer cannot be right."""

_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}").fullmatch
_BLOOM_BYTES: Final = 256
_DEEPEST_NESTING: Final = 5_000
_encode = msgspec.json.Encoder().encode


class Envelope(msgspec.Struct, gc=False):
    """One JSON-RPC response object, or notification."""

    id: int | str | float | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"")


_one = msgspec.json.Decoder(Envelope)
_many = msgspec.json.Decoder(list[Envelope])


def frame(requests: Sequence[Request], first_id: int) -> bytes:
    """Return the body of one request: a single call, or a batch when there are more."""
    calls = [
        {"jsonrpc": "2.0", "id": first_id + place, "method": method, "params": params}
        for place, (method, params) in enumerate(requests)
    ]
    return _encode(calls[0] if len(calls) == 1 else calls)


def envelopes(body: bytes | bytearray | str) -> list[Envelope]:
    """Parse a response body.

    Raises: ValueError or RecursionError.
    """
    _bound_nesting()
    start = body[:64].lstrip()[:1]
    if start in (b"[", "["):
        return _many.decode(body)
    return [_one.decode(body)]


def _bound_nesting() -> None:
    """Keep the interpreter's recursion limit where a deeply nested answer still ends as RecursionError.

    py_ecc, which web3 imports, raises the limit to 100,000: an answer that opens as many brackets would then overrun
    the stack and kill the process.
    """
    if sys.getrecursionlimit() > _DEEPEST_NESTING:
        sys.setrecursionlimit(_DEEPEST_NESTING)


def is_null(raw: msgspec.Raw) -> bool:
    """Return whether a field is absent or null."""
    view = memoryview(raw)
    return len(view) == 0 or (len(view) == 4 and bytes(view) == b"null")


def quantity(text: str, bits: int = 256) -> int:
    """Parse a hex quantity; no sign, no separators, bounded."""
    if _QUANTITY(text) is None:
        raise ValueError("not a quantity")
    value = int(text, 16)
    if value >> bits:
        raise ValueError("quantity out of bounds")
    return value


def data(text: str) -> bytes:
    """Parse hex bytes of any length."""
    if text[:2] != "0x":
        raise ValueError("not hex data")
    return unhexlify(text[2:])


def fixed(text: str, size: int) -> bytes:
    """Parse hex bytes of one exact length."""
    if len(text) != 2 + 2 * size:
        raise ValueError("hex data of a wrong length")
    return data(text)


def hex_of(value: bytes) -> str:
    """Return bytes as the wire writes them."""
    return "0x" + value.hex()


def pinned(block_hash: BlockHash) -> dict[str, str | bool]:
    """Return the block parameter that an orphaned or unknown block makes fail."""
    return {"blockHash": hex_of(block_hash), "requireCanonical": True}


class _Header(msgspec.Struct, gc=False, rename="camel"):
    number: str
    hash: str
    parent_hash: str
    timestamp: str
    gas_limit: str
    logs_bloom: str
    base_fee_per_gas: str | None = None
    miner: str | None = None


class LogObject(msgspec.Struct, gc=False, rename="camel"):
    """A mined log as the wire has it."""

    address: str
    topics: tuple[str, ...]
    data: str
    block_number: str
    block_hash: str
    transaction_hash: str
    log_index: str
    removed: bool | None = None


_header = msgspec.json.Decoder(_Header)
_logs = msgspec.json.Decoder(list[LogObject])
_text = msgspec.json.Decoder(str)


def only(answers: Sequence[Answer]) -> msgspec.Raw:
    """Return the single answer's result.

    Raises: RpcError when the node refused the call.
    """
    (answer,) = answers
    return present(answer)


def present(answer: Answer) -> msgspec.Raw:
    """Return an answer's result.

    Raises: RpcError when the node refused the call.
    """
    if isinstance(answer, RpcError):
        raise answer
    return answer


def text_of(raw: msgspec.Raw) -> str:
    """Decode a JSON string."""
    if is_null(raw):
        raise Absent
    return _text.decode(raw)


def quantity_of(raw: msgspec.Raw) -> int:
    """Decode a hex quantity."""
    return quantity(text_of(raw))


def bytes_of(raw: msgspec.Raw) -> bytes:
    """Decode hex data, without an intermediate string."""
    view = memoryview(raw)
    if len(view) < 4 or bytes(view[:3]) != b'"0x' or bytes(view[-1:]) != b'"':
        if is_null(raw):
            raise Absent
        raise ValueError("not hex data")
    return unhexlify(view[3:-1])


def json_of(raw: msgspec.Raw) -> Any:
    """Decode any JSON value."""
    _bound_nesting()
    return msgspec.json.decode(raw)


def head_of(raw: msgspec.Raw) -> BlockHead:
    """Decode a block or header object; unknown fields are ignored, those used are checked."""
    if is_null(raw):
        raise Absent
    header = _header.decode(raw)
    return BlockHead(
        number=quantity(header.number, 64),
        hash=BlockHash(fixed(header.hash, 32)),
        parent_hash=BlockHash(fixed(header.parent_hash, 32)),
        timestamp_s=quantity(header.timestamp, 40),
        base_fee_wei=Wei(0 if header.base_fee_per_gas is None else quantity(header.base_fee_per_gas, 128)),
        gas_limit=quantity(header.gas_limit, 128),
        logs_bloom=fixed(header.logs_bloom, _BLOOM_BYTES),
        coinbase=ZERO_ADDRESS if header.miner is None else Address(fixed(header.miner, 20)),
    )


def logs_of(raw: msgspec.Raw) -> list[Log]:
    """Decode an array of mined logs."""
    if is_null(raw):
        raise Absent
    return [mined_log(item) for item in _logs.decode(raw)]


def mined_log(item: LogObject) -> Log:
    """Return a decoded log, refusing one that is removed or malformed."""
    if item.removed:
        raise ValueError("a removed log")
    if len(item.topics) > 4:
        raise ValueError("too many topics")
    return Log(
        address=Address(fixed(item.address, 20)),
        topics=tuple([fixed(topic, 32) for topic in item.topics]),
        data=data(item.data),
        block_number=quantity(item.block_number, 64),
        block_hash=BlockHash(fixed(item.block_hash, 32)),
        index=quantity(item.log_index, 32),
        tx_hash=TxHash(fixed(item.transaction_hash, 32)),
    )
