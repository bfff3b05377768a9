"""The websocket side of a view: passes a subscription through to the node, and spoils it on request."""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import ClientWebSocketResponse, WSMsgType, web

if TYPE_CHECKING:
    from tests.faults.proxy import View


class Stream:
    """The sockets that clients opened at one view. Calls go through the view's faults; notices have their own."""

    def __init__(self, view: "View") -> None:
        self._view = view
        self._pairs: list[tuple[web.WebSocketResponse, ClientWebSocketResponse]] = []
        self.opened = 0
        """How many sockets were ever opened."""
        self.refuses = False
        """Refuse new sockets with HTTP 503."""
        self.is_stalled = False
        """Pass nothing in either direction, without a word."""
        self.withholds = False
        """Pass no notices; calls are answered."""
        self.copies = 1
        """How often each notice is passed on: 2 duplicates heads."""
        self.gap = 0
        """How many of the next notices are dropped."""

    def reset(self) -> None:
        """Pass everything on again."""
        self.refuses = self.is_stalled = self.withholds = False
        self.copies, self.gap = 1, 0

    @property
    def live(self) -> int:
        """Return how many sockets are open."""
        return sum(not client.closed for client, _ in self._pairs)

    async def say(self, frame: str | bytes) -> None:
        """Send every client a frame of ours."""
        for client, _ in self._pairs:
            if client.closed:
                continue
            await (client.send_str(frame) if isinstance(frame, str) else client.send_bytes(frame))

    async def close(self, code: int = 1000) -> None:
        """Close every socket cleanly; new ones are welcome."""
        for client, node in list(self._pairs):
            await client.close(code=code)
            await node.close()
        self._pairs.clear()

    def cut(self) -> None:
        """Break every connection without a closing frame."""
        for client, _ in self._pairs:
            transport = client._req.transport if client._req is not None else None
            if transport is not None:
                transport.abort()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Run one client's socket beside one of our own to the node."""
        if self.refuses:
            return web.Response(status=503)
        client = web.WebSocketResponse()
        await client.prepare(request)
        self.opened += 1
        proxy = self._view.proxy
        async with proxy.session.ws_connect(proxy.ws_upstream, max_msg_size=0) as node:
            pair = (client, node)
            self._pairs.append(pair)
            back = asyncio.create_task(self._pass_back(client, node), name="notices")
            try:
                async for message in client:
                    if message.type is WSMsgType.TEXT and not self.is_stalled:
                        await self._take(json.loads(message.data), client, node)
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                if pair in self._pairs:
                    self._pairs.remove(pair)
        return client

    async def _take(self, asked: Any, client: web.WebSocketResponse, node: ClientWebSocketResponse) -> None:
        calls = asked if isinstance(asked, list) else [asked]
        self._view.note(calls)
        if any(call["method"] in ("eth_subscribe", "eth_unsubscribe") for call in calls):
            await node.send_str(json.dumps(asked))
            return
        answers = await self._view.ask(calls)
        if not client.closed:
            await client.send_str(json.dumps(answers if isinstance(asked, list) else answers[0]))

    async def _pass_back(self, client: web.WebSocketResponse, node: ClientWebSocketResponse) -> None:
        async for message in node:
            if message.type is not WSMsgType.TEXT or self.is_stalled or client.closed:
                continue
            copies = 1
            if "method" in json.loads(message.data):
                if self.withholds:
                    continue
                if self.gap > 0:
                    self.gap -= 1
                    continue
                copies = self.copies
            for _ in range(copies):
                await client.send_str(message.data)
        if not client.closed:
            await client.close()
