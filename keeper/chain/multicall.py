"""Multicall3's `aggregate3`, packed and unpacked by hand: many views, one `eth_call`.

aggregate3((address target, bool allowFailure, bytes callData)[]) returns ((bool success, bytes returnData)[])
Source: mds1/multicall3, src/Multicall3.sol.
"""

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.units import Address

MULTICALL3: Final = Address(bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11"))
_AGGREGATE3: Final = bytes.fromhex("82ad56cb")
_GET_ETH_BALANCE: Final = bytes.fromhex("4d2301cc")
_GET_TIMESTAMP: Final = bytes.fromhex("0f28c97d")
_WORD: Final = 32
_ONE: Final = (1).to_bytes(32, "big")
_TUPLE_HEAD: Final = (96).to_bytes(32, "big")
_ARRAY_HEAD: Final = (32).to_bytes(32, "big")

_Words: TypeAlias = NDArray[np.uint64]
_Numbers: TypeAlias = NDArray[np.int64]


def balance_call(address: Address, multicall: Address) -> ViewCall:
    """Return the view of an account's native currency."""
    return ViewCall(multicall, _GET_ETH_BALANCE + bytes(12) + address)


def time_call(multicall: Address) -> ViewCall:
    """Return the view of the time of the block that it runs in."""
    return ViewCall(multicall, _GET_TIMESTAMP)


def pack(calls: Sequence[ViewCall]) -> bytes:
    """Return the calldata of `aggregate3` with every call allowed to fail."""
    offsets: list[bytes] = []
    bodies: list[bytes] = []
    place = _WORD * len(calls)
    for call in calls:
        size = len(call.data)
        padding = -size % _WORD
        offsets.append(place.to_bytes(_WORD, "big"))
        bodies += (bytes(12), call.to, _ONE, _TUPLE_HEAD, size.to_bytes(_WORD, "big"), call.data, bytes(padding))
        place += 4 * _WORD + size + padding
    count = len(calls).to_bytes(_WORD, "big")
    return b"".join([_AGGREGATE3, _ARRAY_HEAD, count, *offsets, *bodies])


def packed_size(call: ViewCall) -> int:
    """Return how many bytes a call adds to the calldata."""
    return 5 * _WORD + len(call.data) + -len(call.data) % _WORD


def unpack(answer: bytes, count: int) -> list[ViewResult]:
    """Return the results of `aggregate3`; every offset and length is checked against the answer.

    Raises: ValueError for anything else than `count` well-formed results.
    """
    total = len(answer)
    if total % _WORD or total < _WORD * (2 + count):
        raise ValueError("a truncated aggregate")
    words = np.frombuffer(answer, dtype=">u8").reshape(-1, 4)
    if int.from_bytes(answer[:_WORD]) != _WORD or int.from_bytes(answer[_WORD : 2 * _WORD]) != count:
        raise ValueError("an aggregate of another size")
    starts = _small(words, np.arange(2, 2 + count), total) + 2 * _WORD
    if np.any(starts % _WORD) or np.any(starts + 3 * _WORD > total):
        raise ValueError("an offset outside the aggregate")
    rows = starts // _WORD
    flags, heads, sizes = (_small(words, rows + place, total) for place in range(3))
    begins = starts + 3 * _WORD
    ends = begins + sizes
    if np.any(flags > 1) or np.any(heads != 2 * _WORD) or np.any(ends > total):
        raise ValueError("a malformed result in the aggregate")
    spans = zip(flags.tolist(), begins.tolist(), ends.tolist(), strict=True)
    return [ViewResult(flag == 1, answer[begin:end]) for flag, begin, end in spans]


def _small(words: _Words, rows: _Numbers, bound: int) -> _Numbers:
    """Return the values of 32-byte words that must not exceed `bound`."""
    picked = words[rows]
    if np.any(picked[:, :3]) or np.any(picked[:, 3] > bound):
        raise ValueError("a number out of bounds in the aggregate")
    return picked[:, 3].astype(np.int64)
