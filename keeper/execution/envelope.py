"""The EIP-1559 envelope: the exact bytes that are signed and sent.

Source: EIP-1559 (transaction type 2) and EIP-2718; recursive length prefix of the yellow paper, appendix B.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_hash.auto import keccak

from keeper.domain.units import Address, Wei

NOBODY: Final = Address(b"")
"""Whom a transaction that creates a contract is to."""
_TYPE: Final = b"\x02"
_EMPTY_LIST: Final = b"\xc0"
_STRING: Final = 0x80
_LIST: Final = 0xC0


@dataclass(frozen=True, slots=True)
class Transaction:
    """A type 2 transaction without access list."""

    chain_id: int
    nonce: int
    tip_wei: Wei
    max_fee_wei: Wei
    gas_limit: int
    to: Address
    value_wei: Wei
    data: bytes


def unsigned_bytes(transaction: Transaction) -> bytes:
    """Return what is hashed for the signature."""
    return _TYPE + _list(_fields(transaction))


def signed_bytes(transaction: Transaction, *, parity: int, r: int, s: int) -> bytes:
    """Return what is sent; its hash is the transaction's."""
    return _TYPE + _list([*_fields(transaction), _integer(parity), _integer(r), _integer(s)])


def created_address(sender: Address, nonce: int) -> Address:
    """Return where a transaction that creates a contract puts it.

    Source: yellow paper, section 7.
    """
    return Address(keccak(_list([_string(sender), _integer(nonce)]))[-20:])


def _fields(transaction: Transaction) -> list[bytes]:
    return [
        _integer(transaction.chain_id),
        _integer(transaction.nonce),
        _integer(transaction.tip_wei),
        _integer(transaction.max_fee_wei),
        _integer(transaction.gas_limit),
        _string(transaction.to),
        _integer(transaction.value_wei),
        _string(transaction.data),
        _EMPTY_LIST,
    ]


def _integer(value: int) -> bytes:
    return _string(value.to_bytes((value.bit_length() + 7) // 8))


def _string(value: bytes) -> bytes:
    if len(value) == 1 and value[0] < _STRING:
        return value
    return _prefix(len(value), _STRING) + value


def _list(items: Sequence[bytes]) -> bytes:
    payload = b"".join(items)
    return _prefix(len(payload), _LIST) + payload


def _prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes([offset + 55 + len(size)]) + size
