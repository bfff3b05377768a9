"""What factories of pools share: the pairs to ask them for, and where CREATE2 puts a pool."""

from collections.abc import Iterable

from eth_utils.crypto import keccak

from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address

_MARK = b"\xff"


def swappable(pairs: Iterable[tuple[Address, Address]]) -> frozenset[tuple[Address, Address]]:
    """Return the pairs that a pool can be of: contracts know no native currency."""
    return frozenset(pair for pair in pairs if not {ZERO_ADDRESS, NATIVE} & set(pair))


def created(factory: Address, salt: bytes, init_code_hash: bytes) -> Address:
    """Return where a factory's CREATE2 puts a contract (EIP-1014)."""
    return Address(keccak(_MARK + factory + salt + init_code_hash)[-20:])
