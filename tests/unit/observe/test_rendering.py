"""Any value becomes plain, short, printable, redacted JSON, and nothing raises."""

import dataclasses
import json
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.outcome import Reason
from keeper.domain.position import PositionKey
from keeper.domain.units import PositionId
from keeper.observe.redaction import Redactor
from keeper.observe.rendering import MAX_LINE, MAX_TEXT, clean, json_line, plain, trace

NOTHING = Redactor()
WETH = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"


class Hostile:
    """A value whose every rendering fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


class HostileError(Exception):
    """An exception that cannot be told."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Colour(IntEnum):
    RED = 3


class Odd(Enum):
    THING = Hostile()


@pytest.mark.parametrize(
    ("value", "rendered"),
    [
        (None, None),
        (True, True),
        (2**53 - 1, 2**53 - 1),
        (2**53, "9007199254740992"),
        (-(2**53), "-9007199254740992"),
        (10**40, "1" + "0" * 40),
        (0.5, 0.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (b"\x00\xff", "0x00ff"),
        (bytearray(b"\x01"), "0x01"),
        (bytes.fromhex(WETH[2:]), WETH),
        (Decimal("1.10"), "1.10"),
        (Path("some/where"), "some/where"),
        (Reason.PAUSED, "paused"),
        (Colour.RED, 3),
        (Odd.THING, "<Hostile>"),
        (Hostile(), "<Hostile>"),
        (ValueError("bad"), "ValueError: bad"),
        ({b"\x01": 1, 2: 3, None: 4}, {"0x01": 1, "2": 3, "null": 4}),
        (MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}),
        (frozenset({7}), [7]),
        (PositionKey("main", PositionId(bytes.fromhex(WETH[2:]))), {"market": "main", "id": WETH}),
        (int, "<type>"),
    ],
)
def test_a_value_becomes_what_json_can_hold(value: object, rendered: object) -> None:
    assert plain(value, NOTHING) == rendered


def test_a_giant_integer_is_told_without_counting_its_digits() -> None:
    rendered = plain(1 << 1_000_000, NOTHING)
    assert isinstance(rendered, str)
    assert len(rendered) == MAX_TEXT
    assert rendered.startswith("0x1000")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mUSDC\x1b[0m", "\\x1b[31mUSDC\\x1b[0m"),
        ('USDC\n{"level":"error"}', 'USDC\\n{"level":"error"}'),
        ("US\u202eCD", "US\\u202eCD"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("lone\ud800surrogate", "lone\\ud800surrogate"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("line\u2028break", "line\\u2028break"),
        ("plain é 日本", "plain é 日本"),
    ],
)
def test_a_hostile_token_name_is_made_visible(name: str, shown: str) -> None:
    assert clean(name, NOTHING) == shown
    assert json.loads(json_line({"symbol": clean(name, NOTHING)}, ()))["symbol"] == shown


def test_a_text_is_cut_after_it_was_redacted() -> None:
    secret = "CANARY" + "s" * 40
    redact = Redactor([secret])
    for filler in range(MAX_TEXT - 60, MAX_TEXT + 10):
        shown = clean("." * filler + secret + "tail" * 100, redact)
        assert "CANARY" not in shown
        assert len(shown) == MAX_TEXT


def test_containers_are_cut_in_width_and_depth() -> None:
    assert plain(list(range(100)), NOTHING) == [*range(64), "… 36 more"]
    assert plain({str(n): n for n in range(100)}, NOTHING) == {**{str(n): n for n in range(64)}, "…": 36}
    endless: list[Any] = []
    endless.append(endless)
    assert plain(endless, NOTHING) == [[[["…"]]]]


def test_a_line_that_is_too_long_keeps_what_is_essential() -> None:
    fields = {"event": "e", **{f"field{n}": "x" * 256 for n in range(200)}}
    line = json_line(fields, ("event", "ts"))
    assert json.loads(line) == {"event": "e", "truncated": True}
    assert len(json_line({"event": "e"}, ())) < MAX_LINE


def test_a_traceback_shows_no_local_variables_and_no_giant_message() -> None:
    def fail(private_key: str) -> None:
        raise ValueError("\n".join(["x" * 100_000] * 100))

    try:
        fail("YRANAC"[::-1])
    except ValueError as error:
        lines = trace(error, NOTHING)
    assert "CANARY" not in str(lines)
    assert any("in fail" in str(line) for line in lines)
    assert len(lines) <= 100
    assert all(len(str(line)) <= MAX_TEXT for line in lines)


def test_a_traceback_is_told_of_anything_that_can_be_raised() -> None:
    chained = HostileError()
    chained.__cause__ = ExceptionGroup("several", [ValueError("one"), HostileError()])
    chained.__context__ = chained
    chained.add_note("CANARY note")
    told = str(trace(chained, Redactor(["CANARY"])))
    assert "HostileError" in told
    assert "several" in told
    assert "CANARY" not in told
    assert isinstance(plain(chained, NOTHING), str)


@dataclasses.dataclass
class Half:
    """A dataclass that was never finished."""

    a: int
    b: int = dataclasses.field(init=False)


def test_a_half_made_dataclass_is_told() -> None:
    assert plain(Half(1), NOTHING) == {"a": 1, "b": None}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters())
    | st.binary()
    | st.builds(Hostile),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(alphabet=st.characters()) | st.binary() | st.integers(), inner)
        | st.tuples(inner)
    ),
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), anything))
def test_whatever_is_logged_is_one_line_of_ascii_json(fields: dict[str, object]) -> None:
    rendered = plain(fields, NOTHING)
    assert isinstance(rendered, dict)
    line = json_line(rendered, ())
    assert line.isascii()
    assert "\n" not in line
    json.loads(line, parse_constant=pytest.fail)
