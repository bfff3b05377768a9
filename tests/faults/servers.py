"""Servers that answer a JSON-RPC client badly, each from a thread of its own, and remember what they were asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, cast


class Asked(NamedTuple):
    """One request: where it went, its headers in one text, its body."""

    path: str
    headers: str
    body: bytes

    @property
    def echo(self) -> str:
        """Return everything of the request that could hold a secret."""
        return f"{self.path}\n{self.headers}"

    def calls(self) -> list[dict[str, Any]]:
        """Return the JSON-RPC calls."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]


class Answer(NamedTuple):
    """What a server says."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Reply = Callable[[Asked], Answer | None]
"""Answers a request; None hangs up."""


class BadServer(ThreadingHTTPServer):
    """A server that answers as it was told."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply: Reply) -> None:
        """Listen on a free port of this machine."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.asked: list[Asked] = []

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave a client that hung up alone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        server = cast("BadServer", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.path, str(self.headers), body)
        server.asked.append(asked)
        answer = server.reply(asked)
        self.close_connection = True
        if answer is None:
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST = do_PUT = do_CONNECT = _serve  # noqa: N815 - the names that the library looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def serving(reply: Reply) -> Iterator[BadServer]:
    """Run a server."""
    server = BadServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def as_json(document: object) -> Answer:
    """Answer with a JSON document."""
    return Answer(200, json.dumps(document).encode(), (("Content-Type", "application/json"),))


def each(asked: Asked, told: Callable[[dict[str, Any]], dict[str, Any]]) -> Answer:
    """Answer each JSON-RPC call by itself, with `result` or `error`."""
    answers = [{"jsonrpc": "2.0", "id": call["id"], **told(call)} for call in asked.calls()]
    return as_json(answers if isinstance(json.loads(asked.body), list) else answers[0])
