"""A block's logs bloom: proof that none of a filter's logs is in it.

A log's address and each of its topics set three of 2,048 bits: the low 11 bits of the first three 16-bit words of
their keccak hash. Source: Ethereum yellow paper, section 4.4.3 (M3:2048).
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from eth_utils.crypto import keccak
from numpy.typing import NDArray

from keeper.domain.chain import LogFilter

_BITS: Final = 2048
_BELIEVED: Final = 1 / 64
"""How likely a filter may be to fit a block by chance, where its fitting is to mean something."""


class BloomTest:
    """One filter's bit positions, computed once."""

    def __init__(self, wanted: LogFilter) -> None:
        """Hash every address and topic of the filter."""
        self._addresses = _positions(wanted.addresses)
        self._topics = _positions(wanted.topics)

    def may_contain(self, logs_bloom: bytes) -> bool:
        """Return whether a block with this bloom can hold a log of the filter; False is a proof."""
        bits = _bits(logs_bloom)
        return _any_set(bits, self._addresses) and _any_set(bits, self._topics)

    def is_likely(self, logs_bloom: bytes) -> bool:
        """Return whether a block with this bloom holds a log of the filter, but for a small chance.

        A full block's bloom fits everything and proves nothing.
        """
        if not self.may_contain(logs_bloom):
            return False
        by_chance = float(_bits(logs_bloom).mean()) ** 3
        addresses, topics = (1 - (1 - by_chance) ** len(each) for each in (self._addresses, self._topics))
        return (addresses if len(self._addresses) else 1.0) * (topics if len(self._topics) else 1.0) < _BELIEVED


def _bits(logs_bloom: bytes) -> NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(logs_bloom, dtype=np.uint8)).astype(bool)


def _positions(items: Iterable[bytes]) -> NDArray[np.int64]:
    """Return three places per item, counted from the most significant bit as the bloom is written."""
    found = []
    for item in items:
        digest = keccak(item)
        found.append([_BITS - 1 - (int.from_bytes(digest[at : at + 2]) & (_BITS - 1)) for at in (0, 2, 4)])
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _any_set(bits: NDArray[np.bool_], positions: NDArray[np.int64]) -> bool:
    """Return whether all three bits of some item are set; no items mean no condition."""
    return len(positions) == 0 or bool(bits[positions].all(axis=1).any())
