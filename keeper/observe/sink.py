"""The sink: a bounded queue and a thread between the log calls and an output that may stop being read."""

import io
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, Full, Queue
from typing import Final, TextIO

CAPACITY: Final = 4096
MAX_LINES_A_WRITE: Final = 256


def ignore() -> None:
    """Do nothing about a dropped line."""


class Sink:
    """Writes lines in order from a thread of its own; what does not fit in the queue is dropped and counted.

    It writes to the file descriptor itself: a thread that hangs in Python's own buffer would hang the exit as well.
    """

    def __init__(self, stream: TextIO, *, capacity: int = CAPACITY, on_drop: Callable[[], object] = ignore) -> None:
        self._queue: Queue[str | None] = Queue(capacity)
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._on_drop = on_drop
        self._dropped = 0
        self._counting = threading.Lock()
        self._is_closed = False
        self._descriptor = _duplicate(stream)
        self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Return how many lines were lost."""
        return self._dropped

    def put(self, line: str) -> None:
        """Take a line without ever waiting."""
        if self._is_closed:
            self.drop()
            return
        try:
            self._queue.put_nowait(line)
        except Full:
            self.drop()

    debug = info = warning = error = critical = msg = put

    def drop(self, lines: int = 1) -> None:
        """Count lines that nobody will see."""
        with self._counting:
            self._dropped += lines
        for _ in range(lines):
            self._on_drop()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything taken so far is written; say whether it is."""
        with self._queue.all_tasks_done:
            return self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Take no more lines, write what waits, give up after a while; say whether all was written."""
        if self._is_closed:
            return True
        self._is_closed = True
        is_done = self.flush(timeout_s)
        if not is_done:
            self.drop(self._queue.qsize())
            return False
        self._queue.put_nowait(None)
        self._thread.join(timeout_s)
        return True

    def _drain(self) -> None:
        while (line := self._queue.get()) is not None:
            lines = [line]
            while len(lines) < MAX_LINES_A_WRITE:
                try:
                    following = self._queue.get_nowait()
                except Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                lines.append(following)
            try:
                self._write("".join(f"{one}\n" for one in lines))
            except (OSError, ValueError):  # the reader is gone, or the stream closed
                self.drop(len(lines))
            for _ in lines:
                self._queue.task_done()
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _write(self, text: str) -> None:
        data = text.encode(self._encoding, "backslashreplace")
        if self._descriptor is None:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
            return
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # whoever shares the pipe has made it non-blocking
                select.select([], [self._descriptor], [], 1.0)


def _duplicate(stream: TextIO) -> int | None:
    try:
        stream.flush()
        return os.dup(stream.fileno())
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
