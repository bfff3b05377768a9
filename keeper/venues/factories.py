"""What factories of pools share: the pairs to ask them for, and where CREATE2 puts a pool."""

from collections.abc import Collection, Iterator
from itertools import combinations

from eth_utils.crypto import keccak

from keeper.domain.units import Address

_MARK = b"\xff"


def pairs(tokens: Collection[Address]) -> Iterator[tuple[Address, Address]]:
    """Return every two of some tokens, in the order in which contracts sort them."""
    return combinations(sorted(set(tokens)), 2)


def created(factory: Address, salt: bytes, init_code_hash: bytes) -> Address:
    """Return where a factory's CREATE2 puts a contract (EIP-1014)."""
    return Address(keccak(_MARK + factory + salt + init_code_hash)[-20:])
