"""Rendering: any value as plain, short, printable, redacted JSON. Nothing here calls foreign code, so nothing raises."""

import dataclasses
import json
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from math import isfinite
from pathlib import PurePath
from types import MappingProxyType
from typing import Final
from uuid import UUID

from eth_utils.address import to_checksum_address

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
Redact = Callable[[str], str]

MAX_TEXT: Final = 256
MAX_SCANNED: Final = 1 << 16
"""Characters of a text that are looked at; far more than can end up within the first `MAX_TEXT`."""
MAX_ITEMS: Final = 64
MAX_DEPTH: Final = 4
MAX_FRAMES: Final = 16
MAX_TRACE_LINES: Final = 100
MAX_LINE: Final = 1 << 15
MAX_EXACT_INT: Final = 1 << 53
"""Beyond it, readers that hold numbers as doubles lose digits."""
MAX_DECIMAL_BITS: Final = 4096
ADDRESS_BYTES: Final = 20


def clean(text: str, redact: Redact) -> str:
    """Return a text redacted, cut to `MAX_TEXT` characters, with everything unprintable escaped."""
    text = redact(text[:MAX_SCANNED])
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT - 1]}…"
    return text if text.isprintable() else "".join(map(_visible, text))


def plain(value: object, redact: Redact, depth: int = 0) -> Plain:
    """Return a value as JSON can hold it: great integers as decimal text, bytes as hex, strangers by their type."""
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < MAX_EXACT_INT else clean(_digits(value), redact)
    if isinstance(value, float):
        return float(value) if isfinite(value) else str(float(value))
    if isinstance(value, str):
        return clean(str(value), redact)
    if isinstance(value, bytes | bytearray):
        return clean(_hex(bytes(value[:MAX_SCANNED])), redact)
    if isinstance(value, BaseException):
        return clean("".join(traceback.format_exception_only(value)).rstrip(), redact)
    if isinstance(value, PurePath | Decimal | Fraction | UUID | date):
        return clean(str(value), redact)
    return _container(value, redact, depth)


def _container(value: object, redact: Redact, depth: int) -> Plain:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if not isinstance(value, dict | MappingProxyType | list | tuple | set | frozenset | deque):
        return f"<{clean(type(value).__name__, redact)}>"
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        items = list(value.items())
        pairs = {_key(key, redact): plain(item, redact, depth + 1) for key, item in items[:MAX_ITEMS]}
        return pairs if len(items) <= MAX_ITEMS else {**pairs, "…": len(items) - MAX_ITEMS}
    members = list(value)
    rendered = [plain(member, redact, depth + 1) for member in members[:MAX_ITEMS]]
    return rendered if len(members) <= MAX_ITEMS else [*rendered, f"… {len(members) - MAX_ITEMS} more"]


def trace(error: BaseException, redact: Redact) -> list[Plain]:
    """Return an exception's traceback as lines, without local variables."""
    report = traceback.TracebackException(
        type(error), error, error.__traceback__, limit=-MAX_FRAMES, max_group_width=8, max_group_depth=4
    )
    lines: list[Plain] = []
    for chunk in report.format():
        pieces = redact(chunk[:MAX_SCANNED]).splitlines()
        lines += [clean(piece, redact) for piece in pieces[:MAX_FRAMES]]
        if len(lines) >= MAX_TRACE_LINES:
            break
    return lines[:MAX_TRACE_LINES]


def json_line(fields: Mapping[str, Plain], essential: Iterable[str]) -> str:
    """Return plain fields as one line of ASCII JSON; of too many, only the essential ones."""
    line = json.dumps(fields, separators=(",", ":"))
    if len(line) <= MAX_LINE:
        return line
    kept: dict[str, Plain] = {key: fields[key] for key in essential if key in fields}
    return json.dumps({**kept, "truncated": True}, separators=(",", ":"))


def _key(key: object, redact: Redact) -> str:
    rendered = plain(key, redact, MAX_DEPTH)
    return rendered if isinstance(rendered, str) else json.dumps(rendered)


def _digits(value: int) -> str:
    return str(int(value)) if value.bit_length() <= MAX_DECIMAL_BITS else hex(value)


def _hex(value: bytes) -> str:
    return _checksummed(value) if len(value) == ADDRESS_BYTES else f"0x{value.hex()}"


@lru_cache(maxsize=4096)
def _checksummed(address: bytes) -> str:
    return to_checksum_address(address)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
