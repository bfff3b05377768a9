"""Logs: one event is one line, redacted, and a log call neither raises nor waits."""

import logging
import logging.handlers
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import Any, Final, Literal, TextIO

import structlog

from keeper.observe.redaction import Redactor
from keeper.observe.rendering import Plain, clean, json_line, plain, trace
from keeper.observe.sink import Sink, ignore

Format = Literal["auto", "console", "json"]

LIBRARIES: Final = ("aiohttp", "asyncio", "eth_account", "sqlalchemy", "urllib3", "web3", "websockets")
"""Their DEBUG and INFO lines name URLs with keys in them."""
LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
ESSENTIAL: Final = ("ts", "level", "event", "mode", "chain_id", "block", "plan_id", "tx_hash", "reason", "error")


class Renderer:
    """The one structlog processor: makes a line of an event, whatever its fields hold."""

    def __init__(
        self,
        *,
        common: Mapping[str, object],
        redact: Redactor,
        console: structlog.dev.ConsoleRenderer | None,
        unix_s: Callable[[], float],
    ) -> None:
        self._redact = redact
        self._common = {key: plain(value, redact) for key, value in common.items()}
        self._console = console
        self._unix_s = unix_s
        self._name = lru_cache(maxsize=1024)(lambda key: clean(key, redact))

    def __call__(self, _logger: object, level: str, fields: MutableMapping[str, Any]) -> str:
        """Render one event."""
        event = fields.pop("event", "")
        error = _exception(fields.pop("exc_info", None))
        line: dict[str, Plain] = {
            "ts": datetime.fromtimestamp(self._unix_s(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": plain(event, self._redact),
            **self._common,
        }
        for key, value in fields.items():
            name = self._name(key)
            line[f"{name}_" if name in line else name] = plain(value, self._redact)
        if error is not None:
            line["exception"] = trace(error, self._redact)
        return json_line(line, ESSENTIAL) if self._console is None else self._for_people(line, self._console)

    def _for_people(self, line: dict[str, Plain], console: structlog.dev.ConsoleRenderer) -> str:
        if isinstance(lines := line.pop("exception", None), list):
            line["exception"] = "\n".join(map(str, lines))
        line["ts"] = str(line["ts"])[11:]
        return console(None, str(line["level"]), line)


class Bridge(logging.handlers.QueueHandler):
    """Carries the libraries' own log records over into ours."""

    def __init__(self, render: Renderer, sink: Sink) -> None:
        super().__init__(sink)  # type: ignore[arg-type]
        self._render = render
        self._sink = sink

    def prepare(self, record: logging.LogRecord) -> str:
        """Render a record as an event."""
        level = record.levelname.lower() if record.levelno in LEVELS.values() else "error"
        fields = {"event": "library.logged", "logger": record.name, "message": record.getMessage()}
        return self._render(None, level, {**fields, "exc_info": record.exc_info})

    def enqueue(self, record: str) -> None:  # type: ignore[override]
        """Hand a rendered line over."""
        self._sink.put(record)

    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 - the standard library's name
        """Count a record whose own arguments cannot be rendered."""
        self._sink.drop()


class Output:
    """What `configure` set up, to be closed at the end."""

    def __init__(self, sink: Sink, render: Renderer) -> None:
        self._sink = sink
        self._render = render
        self._root = logging.getLogger()
        self._handlers, self._level = self._root.handlers[:], self._root.level
        self._hooks = (sys.excepthook, sys.unraisablehook, threading.excepthook)

    @property
    def dropped(self) -> int:
        """Return how many lines were lost because nobody read them."""
        return self._sink.dropped

    def flush(self, timeout_s: float = 2.0) -> bool:
        """Wait until every line is written; say whether it is."""
        return self._sink.flush(timeout_s)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what waits, take no more, and leave the standard library as it was; say whether all was written."""
        logging.captureWarnings(capture=False)
        self._root.handlers[:] = self._handlers
        self._root.setLevel(self._level)
        sys.excepthook, sys.unraisablehook, threading.excepthook = self._hooks
        structlog.reset_defaults()
        return self._sink.close(timeout_s)

    def install(self) -> None:
        """Take over what the libraries, the warnings and the last resort would print unredacted."""
        self._root.handlers[:] = [Bridge(self._render, self._sink)]
        self._root.setLevel(logging.WARNING)
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.WARNING)
        logging.captureWarnings(capture=True)
        sys.excepthook = lambda _kind, error, _frames: self._crashed(error)
        threading.excepthook = lambda failure: self._crashed(failure.exc_value)
        sys.unraisablehook = lambda failure: self._crashed(failure.exc_value)

    def _crashed(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, KeyboardInterrupt):
            self._sink.put(self._render(None, "error", {"event": "keeper.crashed", "error": error, "exc_info": error}))
            self._sink.flush(1.0)


def configure(
    *,
    level: str,
    format: Format,  # noqa: A002 - the setting's name
    mode: str,
    chain_id: int | None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
    colour: bool = True,
    on_drop: Callable[[], object] = ignore,
    unix_s: Callable[[], float] = time,
) -> Output:
    """Set up logging for the whole process, once.

    `auto` is console on a terminal, else json; colours are used on a terminal only.
    """
    stream = sys.stdout if stream is None else stream
    is_terminal = stream.isatty()
    is_console = format == "console" or (format == "auto" and is_terminal)
    console = structlog.dev.ConsoleRenderer(
        colors=colour and is_terminal,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
        timestamp_key="ts",
    )
    sink = Sink(stream, on_drop=on_drop)
    render = Renderer(
        common={"mode": mode, "chain_id": chain_id},
        redact=Redactor(secrets),
        console=console if is_console else None,
        unix_s=unix_s,
    )
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level.lower()]),
        logger_factory=lambda *_: sink,
        cache_logger_on_first_use=False,
    )
    output = Output(sink, render)
    output.install()
    return output


def _exception(value: object) -> BaseException | None:
    if isinstance(value, BaseException):
        return value
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[1], BaseException):
        return value[1]
    return sys.exc_info()[1] if value is True else None
