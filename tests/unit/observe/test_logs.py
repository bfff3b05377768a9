"""One event is one line, without secrets, and a log call neither raises nor waits."""

import io
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from keeper.observe.events import Event, emit
from keeper.observe.logs import LIBRARIES, Bridge, Output, configure
from keeper.observe.sink import Sink

CANARY = "CANARY0123456789abcdef"
NOW_S = 1_700_000_000.5


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Console:
    """A configured log and what it has written."""

    def __init__(self, stream: io.StringIO, output: Output) -> None:
        self.stream = stream
        self.output = output

    @property
    def text(self) -> str:
        assert self.output.flush(5.0)
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def begin(stream: io.StringIO, **options: Any) -> Console:
    settings: dict[str, Any] = {
        "level": "debug",
        "format": "json",
        "mode": "observe",
        "chain_id": 1,
        "secrets": {CANARY},
        "unix_s": lambda: NOW_S,
    }
    return Console(stream, configure(stream=stream, **(settings | options)))


@pytest.fixture
def console() -> Iterator[Console]:
    made = begin(io.StringIO())
    yield made
    made.output.close()


def test_an_event_is_one_line_with_the_common_fields(console: Console) -> None:
    emit(Event.CHAIN_HEAD, number=7, base_fee_wei=10**20)
    assert console.events == [
        {
            "ts": "2023-11-14T22:13:20.500Z",
            "level": "info",
            "event": "chain.head",
            "mode": "observe",
            "chain_id": 1,
            "number": 7,
            "base_fee_wei": "100000000000000000000",
            "v": 1,
        }
    ]


def test_a_hostile_token_name_stays_within_its_line(console: Console) -> None:
    name = 'X\x1b[2J\n{"event":"tx.mined","level":"info"}\u202e\ud800'
    emit(Event.CHAIN_HEAD, number=1, symbol=name, **{name: 1})
    (event,) = console.events
    assert event["event"] == "chain.head"
    assert event["symbol"] == 'X\\x1b[2J\\n{"event":"tx.mined","level":"info"}\\u202e\\ud800'


def test_a_field_cannot_take_a_common_fields_place(console: Console) -> None:
    names = dict.fromkeys(("ts", "level", "event", "mode", "v", "self", "method_name", "name", "exception"), "forged")
    emit(Event.CHAIN_HEAD, number=1, **names)
    (event,) = console.events
    assert (event["event"], event["level"], event["mode"], event["v"]) == ("chain.head", "info", "observe", 1)
    assert event["event_"] == event["level_"] == event["ts_"] == event["v_"] == "forged"


def test_fields_bound_to_the_context_are_in_every_line(console: Console) -> None:
    with structlog.contextvars.bound_contextvars(plan_id="p1"):
        emit(Event.SIM_OK, plan_id="p1")
        emit(Event.TX_SIGNED, tx_hash=b"\x01" * 32)
    assert [event["plan_id"] for event in console.events] == ["p1", "p1"]


def test_a_traceback_has_no_locals_and_no_secret(console: Console) -> None:
    def connect(url: str) -> None:
        raise ConnectionError(f"cannot connect to https://node/{CANARY}")

    try:
        connect(f"local {CANARY}")
    except ConnectionError as error:
        emit(Event.STORAGE_ERROR, error=error, exc_info=error)
        emit(Event.STORAGE_ERROR, error=repr(error), exc_info=True)
        emit(Event.STORAGE_ERROR, error=str(error), exc_info=sys.exc_info())
    emit(Event.STORAGE_ERROR, error="", exc_info=True)
    assert CANARY not in console.text
    events = console.events
    assert all("connect" in "".join(event["exception"]) for event in events[:3])
    assert "exception" not in events[3]


def test_a_canary_is_hidden_in_every_kind_of_field_at_debug(console: Console) -> None:
    emit(
        Event.CONFIG_LOADED,
        text=f"a{CANARY}b",
        upper=CANARY.upper(),
        nested={"list": [CANARY, {CANARY: CANARY}]},
        error=ValueError(CANARY),
        **{CANARY: 1},
    )
    structlog.get_logger().debug(CANARY)
    logging.getLogger("web3.providers").error("%s", CANARY)
    logging.getLogger("aiohttp.client").warning("url=%r", {"url": CANARY}, exc_info=ValueError(CANARY))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(CANARY, stacklevel=1)
    assert len(console.events) == 5
    assert CANARY.lower() not in console.text.lower()


def test_the_libraries_speak_from_warning_up_only_and_through_our_lines(console: Console) -> None:
    for name in LIBRARIES:
        logging.getLogger(name).info("an URL")
        logging.getLogger(f"{name}.part").debug("an URL")
        logging.getLogger(f"{name}.part").warning("a\nproblem")
    events = console.events
    assert [event["logger"] for event in events] == [f"{name}.part" for name in LIBRARIES]
    assert {event["event"] for event in events} == {"library.logged"}
    assert {event["message"] for event in events} == {"a\\nproblem"}


def test_a_log_call_never_raises(console: Console) -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

        __str__ = __repr__

    emit("no.such.event", value=Hostile())
    emit(Event.TX_MINED)
    (bridge,) = (handler for handler in logging.getLogger().handlers if isinstance(handler, Bridge))
    for message, arguments in (("%d and %s", ("one",)), ("%s", (Hostile(),))):
        bridge.handle(logging.LogRecord("web3", logging.ERROR, "", 1, message, arguments, None))
    emit(Event.CHAIN_HEAD, number=float("nan"), data={b"\xff": 1 << 300})
    unknown, missing, last = console.events
    assert unknown["is_catalogued"] is False
    assert unknown["value"] == "<Hostile>"
    assert missing["missing_fields"] == ["tx_hash"]
    assert last["number"] == "nan"
    assert console.output.dropped == 2


def test_the_level_filters() -> None:
    console = begin(io.StringIO(), level="warning")
    emit(Event.CHAIN_HEAD, number=1)
    emit(Event.CHAIN_STALLED)
    assert [event["event"] for event in console.events] == ["chain.stalled"]
    console.output.close()


def test_what_nobody_caught_is_told_redacted(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    thread = threading.Thread(target=lambda: int(CANARY))
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError(CANARY), None)
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert [event["event"] for event in console.events] == ["keeper.crashed", "keeper.crashed"]
    assert CANARY not in console.text
    assert capsys.readouterr().err == ""


def test_closing_leaves_the_standard_library_as_it_was() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, sys.unraisablehook, threading.excepthook)
    console = begin(io.StringIO())
    assert root.handlers != before[0]
    assert console.output.close()
    assert (root.handlers, root.level, sys.excepthook, sys.unraisablehook, threading.excepthook) == before
    assert console.output.close()


def test_people_get_a_console_on_a_terminal_and_colours_only_there() -> None:
    for stream, options, is_json, is_coloured in (
        (Terminal(), {"format": "auto"}, False, True),
        (Terminal(), {"format": "auto", "colour": False}, False, False),
        (io.StringIO(), {"format": "auto"}, True, False),
        (io.StringIO(), {"format": "console"}, False, False),
        (Terminal(), {"format": "json"}, True, False),
    ):
        console = begin(stream, **options)
        emit(Event.CHAIN_HEAD, number=7, symbol="\x1b[31m\nX", secret=CANARY)
        text = console.text
        console.output.close()
        assert text.startswith("{") == is_json
        assert ("\x1b[" in text) == is_coloured
        assert "\x1b[31m" not in text
        assert text.count("\n") == 1
        assert CANARY not in text
        assert "chain.head" in text


def test_people_get_a_traceback_in_lines() -> None:
    console = begin(io.StringIO(), format="console")
    try:
        int(CANARY)
    except ValueError as error:
        emit(Event.STORAGE_ERROR, error="x", exc_info=error)
    assert "Traceback" in console.text.splitlines()[1]
    assert CANARY not in console.text
    console.output.close()


def test_a_reader_that_stops_reading_never_holds_up_a_log_call() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w", encoding="utf-8")
    drops: list[int] = []
    output = configure(
        level="info", format="json", mode="observe", chain_id=1, stream=stream, on_drop=lambda: drops.append(1)
    )

    for number in range(12_000):  # were it to wait, it would wait for ever: nobody reads
        emit(Event.CHAIN_HEAD, number=number, filler="x" * 200)
    assert output.dropped > 1000
    assert output.dropped == len(drops)
    assert not output.close(0.2)
    taken = bytearray()
    while chunk := os.read(reading, 1 << 16):  # the reader comes back: what was taken is whole lines, in order
        taken += chunk
        if len(taken.splitlines()) + output.dropped >= 12_000:
            break
    os.close(reading)
    stream.close()


def test_a_closed_pipe_drops_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        sink = Sink(stream)
        os.close(reading)
        sink.put("into the void")
        assert sink.flush(5.0)
        assert sink.dropped == 1
        assert sink.close(1.0)
        sink.put("after the end")
        assert sink.dropped == 2


def test_lines_come_out_whole_and_in_order_through_a_non_blocking_pipe() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        sink = Sink(stream)
        taken = bytearray()

        def read() -> None:
            while chunk := os.read(reading, 4096):
                taken.extend(chunk)

        reader = threading.Thread(target=read)
        for number in range(2000):
            sink.put(f"{number} " + "x" * 100)
        assert not sink.flush(0.1)
        reader.start()
        assert sink.close(10.0)
    reader.join(10.0)
    os.close(reading)
    assert [int(line.split()[0]) for line in bytes(taken).decode().splitlines()] == list(range(2000))


def test_a_stream_of_a_small_alphabet_gets_escapes() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    sink = Sink(stream)
    sink.put("é日")
    assert sink.close(1.0)
    assert raw.getvalue() == b"\\xe9\\u65e5\n"
