"""From an opportunity to calldata, and from revert data to a reason."""

from typing import Final

from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.protocols.aave_v3 import contracts as aave

GAS_ESTIMATE: Final = 500_000
SELECTORS: Final = frozenset({aave.LIQUIDATION_CALL})
_TEXT: Final = 256


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays and receives the underlying token.

    Source: Pool.liquidationCall, all versions.
    """
    arguments = (
        aave.address_word(opportunity.seize.address),
        aave.address_word(opportunity.repay.address),
        aave.address_word(opportunity.key.account),
        aave.number_word(opportunity.repay_limit),
        aave.number_word(0),  # the underlying token, not the aToken
    )
    return Call(opportunity.spender, aave.LIQUIDATION_CALL + b"".join(arguments))


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: Aave's strings (to 3.3) and errors (from 3.4), tokens' words, panics, junk."""
    if not data:
        return Reason.REVERTED, "reverted without a reason"
    name, body = data[:4], data[4:]
    if name == aave.ERROR_STRING and (message := _string(body)) is not None:
        return _classify(message)
    if name == aave.PANIC and len(body) >= aave.WORD:
        code = int.from_bytes(body[: aave.WORD], "big")
        return Reason.REVERTED, f"panic {code:#x}: {aave.PANICS.get(code, 'unnamed')}"[:_TEXT]
    if name in aave.CUSTOM_ERRORS:
        return aave.CUSTOM_ERRORS[name]
    return Reason.UNKNOWN, f"unknown revert data {data[:64].hex()}, {len(data)} bytes"


def _classify(message: str) -> tuple[Reason, str]:
    if message in aave.STRING_ERRORS:
        reason, name = aave.STRING_ERRORS[message]
        return reason, f"{message}: {name}"
    lowered = message.lower()
    for phrase, reason in aave.TOKEN_PHRASES.items():
        if phrase in lowered:
            return reason, message
    return Reason.REVERTED, message or "reverted with an empty reason"


def _string(body: bytes) -> str | None:
    """Return an ABI string made printable, or None where the bytes are not one."""
    offset = int.from_bytes(body[: aave.WORD], "big")
    start = offset + aave.WORD
    length = int.from_bytes(body[offset:start], "big")
    if start > len(body) or length > len(body) - start:
        return None
    raw = body[start : start + min(length, _TEXT)]
    return "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in raw)
