"""Revert data to a reason: strings, custom errors, panics, tokens' words, junk."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keeper.domain.abi import WORD, selector
from keeper.domain.outcome import Reason

Named = tuple[Reason, str]
MAX_TEXT: Final = 256

_ERROR_STRING: Final = selector("Error(string)")
_PANIC: Final = selector("Panic(uint256)")
_PANICS: Final = {0x01: "assertion", 0x11: "overflow", 0x12: "division by zero", 0x32: "index out of range"}
_TOKEN_PHRASES: Final = {
    "exceeds balance": Reason.INSUFFICIENT_INVENTORY,
    "insufficient balance": Reason.INSUFFICIENT_INVENTORY,
    "insufficient-balance": Reason.INSUFFICIENT_INVENTORY,
    "allowance": Reason.INSUFFICIENT_INVENTORY,
    "blacklist": Reason.TOKEN_BLOCKED,
    "blocklist": Reason.TOKEN_BLOCKED,
    "denylist": Reason.TOKEN_BLOCKED,
    "sanction": Reason.TOKEN_BLOCKED,
    "paused": Reason.TOKEN_BLOCKED,
}
_TOKEN_ERRORS: Final[Mapping[bytes, Named]] = MappingProxyType(  # ERC-6093, then common words
    {
        selector("ERC20InsufficientBalance(address,uint256,uint256)"): (
            Reason.INSUFFICIENT_INVENTORY,
            "ERC20InsufficientBalance",
        ),
        selector("ERC20InsufficientAllowance(address,uint256,uint256)"): (
            Reason.INSUFFICIENT_INVENTORY,
            "ERC20InsufficientAllowance",
        ),
        selector("ERC20InvalidReceiver(address)"): (Reason.TOKEN_BLOCKED, "ERC20InvalidReceiver"),
        selector("ERC20InvalidSender(address)"): (Reason.TOKEN_BLOCKED, "ERC20InvalidSender"),
        selector("EnforcedPause()"): (Reason.TOKEN_BLOCKED, "EnforcedPause"),
    }
)


def decode(data: bytes, *, strings: Mapping[str, Named], errors: Mapping[bytes, Named]) -> Named:
    """Classify revert data by a protocol's own strings and errors first, then by what tokens say.

    `strings` maps the whole text, `errors` the selector. The text returned has at most `MAX_TEXT` printable characters.
    """
    if not data:
        return Reason.REVERTED, "reverted without a reason"
    name, body = data[:4], data[4:]
    if name == _ERROR_STRING and (message := _string(body)) is not None:
        return _classify(message, strings)
    if name == _PANIC and len(body) >= WORD:
        code = int.from_bytes(body[:WORD], "big")
        return Reason.REVERTED, f"panic {code:#x}: {_PANICS.get(code, 'unnamed')}"[:MAX_TEXT]
    known = errors.get(name) or _TOKEN_ERRORS.get(name)
    if known is not None:
        return known
    return Reason.UNKNOWN, f"unknown revert data {data[:64].hex()}, {len(data)} bytes"


def _classify(message: str, strings: Mapping[str, Named]) -> Named:
    if message in strings:
        reason, name = strings[message]
        return reason, message if name == message else f"{message}: {name}"
    lowered = message.lower()
    for phrase, reason in _TOKEN_PHRASES.items():
        if phrase in lowered:
            return reason, message
    return Reason.REVERTED, message or "reverted with an empty reason"


def _string(body: bytes) -> str | None:
    """Return an ABI string made printable, or None where the bytes are not one."""
    offset = int.from_bytes(body[:WORD], "big")
    start = offset + WORD
    length = int.from_bytes(body[offset:start], "big")
    if start > len(body) or length > len(body) - start:
        return None
    raw = body[start : start + min(length, MAX_TEXT)]
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)
