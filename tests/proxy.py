"""A JSON-RPC proxy on loopback before a real node: it forwards, records, and answers by itself where a rule says so."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

Call = dict[str, Any]
Rule = Callable[[Call], Call | None]
"""Answers a call with `{"result": …}` or `{"error": …}`, or leaves it to the node with None."""


@dataclass
class Proxy:
    """A proxy that runs; `calls` is every JSON-RPC call that came through."""

    url: str
    calls: list[Call] = field(default_factory=list)

    def methods(self) -> list[str]:
        """Return the methods in their order."""
        return [call["method"] for call in self.calls]


@asynccontextmanager
async def proxied(upstream: str, rule: Rule = lambda _call: None, *, path: str = "/") -> AsyncIterator[Proxy]:
    """Run a proxy before a node, answering under any path."""
    proxy = Proxy("")

    async def handle(request: web.Request) -> web.Response:
        body = await request.json()
        calls = body if isinstance(body, list) else [body]
        proxy.calls += calls
        own = {call["id"]: told for call in calls if (told := rule(call)) is not None}
        rest = [call for call in calls if call["id"] not in own]
        answers = [{"jsonrpc": "2.0", "id": each, **told} for each, told in own.items()]
        if rest:
            async with session.post(upstream, json=rest) as response:
                answers += await response.json()
        return web.json_response(answers if isinstance(body, list) else answers[0])

    application = web.Application(client_max_size=2**26)
    application.router.add_post("/{anything:.*}", handle)
    runner = web.AppRunner(application)
    async with aiohttp.ClientSession() as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        proxy.url = f"http://127.0.0.1:{port}{path}"
        try:
            yield proxy
        finally:
            await runner.cleanup()
