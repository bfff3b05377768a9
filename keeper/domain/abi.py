"""Contract data as bytes: names of functions and events, arguments, and the words of an answer.

The reading functions raise `Unreadable` where an answer is too short to be what was asked for, and `Invalid` for a
value that no contract could hold.
"""

from collections.abc import Sequence
from typing import Final

from eth_utils.crypto import keccak

from keeper.domain.chain import Log, ViewCall, ViewResult
from keeper.domain.units import Address
from keeper.errors import Invalid

WORD: Final = 32
UINT128: Final = 2**128
MAX_SYMBOL: Final = 16
_SIGN: Final = 1 << 255


class Unreadable(Invalid):
    """A contract did not answer as the one that it should be: whoever depends on it is put aside, nobody else."""


def selector(signature: str) -> bytes:
    """Return the first four bytes of a signature's hash: how a function or an error is named in calldata."""
    return keccak(text=signature)[:4]


def topic(signature: str) -> bytes:
    """Return a signature's hash: an event's first topic."""
    return keccak(text=signature)


def address_word(address: Address) -> bytes:
    """Encode an address as an argument."""
    return address.rjust(WORD, b"\0")


def number_word(number: int) -> bytes:
    """Encode a number as an argument, a negative one as two's complement."""
    return (number % (1 << 256)).to_bytes(WORD, "big")


def view(to: Address, function: bytes, *arguments: bytes) -> ViewCall:
    """Return a read-only call with encoded arguments."""
    return ViewCall(to, function + b"".join(arguments))


def split(data: bytes) -> list[int]:
    """Return the whole words of some data."""
    return [int.from_bytes(data[at : at + WORD], "big") for at in range(0, len(data) - WORD + 1, WORD)]


def words(result: ViewResult, count: int, what: str) -> list[int]:
    """Return the first words of an answer."""
    if not result.ok or len(result.data) < count * WORD:
        raise Unreadable(f"{what} cannot be read")
    return split(result.data[: count * WORD])


def number(result: ViewResult, what: str) -> int:
    """Return an answer's first word."""
    return words(result, 1, what)[0]


def signed(word: int) -> int:
    """Return a word as the two's complement number that it is."""
    return word - (1 << 256) if word & _SIGN else word


def array(result: ViewResult, most: int, what: str) -> list[int]:
    """Return the elements of a dynamic array that is an answer's only value."""
    count = within(words(result, 2, what)[1], 0, most + 1, what)
    return words(result, 2 + count, what)[2:]


def within(value: int, low: int, end: int, what: str) -> int:
    """Return a value that a contract could hold."""
    if not low <= value < end:
        raise Invalid(f"{what} says {value}, which no contract could")
    return value


def address(word: int) -> Address:
    """Return an address from a word."""
    return Address(within(word, 0, 2**160, "an address").to_bytes(20, "big"))


def bits(packed: int, place: tuple[int, int]) -> int:
    """Return some bits of a word, by offset and width."""
    offset, width = place
    return packed >> offset & (1 << width) - 1


def named(log: Log, places: Sequence[int]) -> list[Address]:
    """Return the addresses that an event names in its topics."""
    if places and len(log.topics) <= max(places):
        raise Invalid(f"a log in block {log.block_number} lacks a topic")
    return [address(int.from_bytes(log.topics[place], "big")) for place in places]


def log_words(log: Log, count: int) -> list[int]:
    """Return the first words of an event's data."""
    if len(log.data) < count * WORD:
        raise Invalid(f"a log in block {log.block_number} lacks data")
    return split(log.data[: count * WORD])


def symbol(result: ViewResult, token: Address) -> str:
    """Return a token's symbol, text or bytes32, as printable ASCII, or a label made of its address."""
    data = result.data if result.ok else b""
    length = int.from_bytes(data[WORD : 2 * WORD], "big")
    raw = data.rstrip(b"\0") if len(data) == WORD else data[2 * WORD : 2 * WORD + length]
    is_plain = 0 < len(raw) <= WORD and all(0x21 <= byte <= 0x7E for byte in raw)
    return raw[:MAX_SYMBOL].decode() if is_plain else f"0x{token[:2].hex()}..{token[-2:].hex()}"


# what many contracts share
SYMBOL: Final = selector("symbol()")
DECIMALS: Final = selector("decimals()")
BALANCE_OF: Final = selector("balanceOf(address)")
ALLOWANCE: Final = selector("allowance(address,address)")
LATEST_ROUND: Final = selector("latestRoundData()")


def round_answer(result: ViewResult) -> int | None:
    """Return a Chainlink feed's answer, or None for a source that reverts or says nothing that could be a price."""
    if not result.ok or len(result.data) != 5 * WORD:
        return None
    answer = signed(int.from_bytes(result.data[WORD : 2 * WORD], "big"))
    return answer if 0 < answer < UINT128 else None


def round_updated_s(result: ViewResult) -> int | None:
    """Return when a Chainlink feed last reported, or None for a source that is no feed."""
    if not result.ok or len(result.data) != 5 * WORD:
        return None
    return int.from_bytes(result.data[3 * WORD : 4 * WORD], "big")
