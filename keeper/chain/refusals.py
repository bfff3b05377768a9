"""From a JSON-RPC error object to what it means."""

from typing import Final

import msgspec

from keeper.chain import phrases
from keeper.chain.failures import (
    AnswerTooLarge,
    BadResponse,
    BatchTooLarge,
    BlockUnknown,
    MethodMissing,
    NodeFailure,
    RangeTooWide,
    RateLimited,
    RpcError,
    Unauthorised,
)
from keeper.chain.mask import Mask
from keeper.chain.wire import data as hex_data
from keeper.chain.wire import json_of

_TEXT_READ_LIMIT: Final = 4096
_DATA_LIMIT: Final = 1 << 20
_PAUSE_S: Final = 1.0
_RATE_CODES: Final = frozenset({429, -32005, -32029, -32097, -32429})
_REVERT_CODES: Final = frozenset({3, -32015})
_PARAMS_CODES: Final = frozenset({-32600, -32602, -32700})


def refusal(raw: msgspec.Raw, *, node: str, method: str, mask: Mask) -> NodeFailure | RpcError:
    """Classify the error object that a node gave to a call of `method` ("" for a whole batch)."""
    code, message, data_text = _fields(raw)
    clean = mask.clean(message)
    text = (message + " " + data_text[:_TEXT_READ_LIMIT]).lower()
    if method == "eth_sendRawTransaction" and not phrases.says(text, phrases.METHOD):
        return _send_refusal(code, clean, text, node)
    failure = _failure(code, text, clean, node, method)
    if failure is not None:
        return failure
    is_plain_revert = code in _REVERT_CODES or text.startswith("execution reverted")
    is_too_heavy = not is_plain_revert and phrases.says(text, phrases.HEAVY)
    is_revert = is_plain_revert or (not is_too_heavy and phrases.says(text, phrases.REVERT))
    if not is_revert and not is_too_heavy and _is_broken(code, text):
        return BadResponse(node, f"{method or 'batch'}: {clean} (code {code})")
    return RpcError(code, clean, hex_data_of(data_text), is_revert=is_revert, is_too_heavy=is_too_heavy)


def is_parameter_problem(error: RpcError) -> bool:
    """Return whether the node says that it does not understand the parameters."""
    return error.code in _PARAMS_CODES or phrases.says(error.message.lower(), phrases.PARAMS)


def _send_refusal(code: int, clean: str, text: str, node: str) -> NodeFailure | RpcError:
    """Classify what a node says about a raw transaction: the words of the pool come before all others."""
    if phrases.send_verdict(clean) is phrases.SendVerdict.UNKNOWN:
        if code in _RATE_CODES or phrases.says(text, phrases.RATE):
            return RateLimited(node, clean, _PAUSE_S)
        if phrases.says(text, phrases.QUOTA):
            return Unauthorised(node, clean)
    return RpcError(code, clean, is_revert=False, is_too_heavy=False)


def _failure(code: int, text: str, clean: str, node: str, method: str) -> NodeFailure | None:
    where = f"{method or 'batch'}: {clean}"
    if code in _REVERT_CODES or text.startswith("execution reverted"):
        return None
    if phrases.says(text, phrases.BLOCK):
        return BlockUnknown(node, where)
    if method == "eth_getLogs" and phrases.says(text, phrases.RANGE):
        return RangeTooWide(node, where, phrases.block_limit(text))
    if phrases.says(text, phrases.SIZE):
        return AnswerTooLarge(node, where)
    if "batch" in text:
        return BatchTooLarge(node, where)
    if phrases.says(text, phrases.QUOTA):
        return Unauthorised(node, where)
    if code in _RATE_CODES or phrases.says(text, phrases.RATE):
        return RateLimited(node, where, _PAUSE_S)
    if code in (-32601, -32004) or phrases.says(text, phrases.METHOD):
        return MethodMissing(node, where)
    return None


def _is_broken(code: int, text: str) -> bool:
    """Return whether the node, not the call, is at fault."""
    is_custom = -32099 <= code <= -32001 and code not in (-32003, -32010)
    return code == -32603 or is_custom or phrases.says(text, phrases.BROKEN)


def _fields(raw: msgspec.Raw) -> tuple[int, str, str]:
    """Return code, message and the data's text of an error object of any shape."""
    try:
        value = json_of(raw)
    except (ValueError, RecursionError):
        return 0, "unreadable error", ""
    if not isinstance(value, dict):
        return 0, str(value)[:_TEXT_READ_LIMIT], ""
    code, message, data = value.get("code"), value.get("message"), value.get("data")
    for _ in range(3):
        if isinstance(data, dict):
            data = data.get("data", data.get("result", data.get("message")))
    return (
        code if isinstance(code, int) else 0,
        message[:_TEXT_READ_LIMIT] if isinstance(message, str) else "",
        data if isinstance(data, str) else "",
    )


def hex_data_of(value: object) -> bytes:
    """Return the revert data of an error, also where the client put a word before it."""
    text = value if isinstance(value, str) else ""
    word, found, digits = text.partition("0x")
    if not found or word.strip().lower() not in ("", "reverted"):
        return b""
    try:
        return hex_data("0x" + digits.strip()[: 2 * _DATA_LIMIT])
    except ValueError:
        return b""
