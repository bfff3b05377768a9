"""Heads pushed over a websocket: subscribed, watched, and subscribed again after whatever ended it."""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import msgspec

from keeper.chain.endpoint import Node
from keeper.chain.failures import BadResponse, NodeFailure, RpcError, TimedOut
from keeper.chain.mask import Mask
from keeper.chain.observer import Observer
from keeper.chain.refusals import refusal
from keeper.chain.transport import WsTransport
from keeper.chain.wire import Request, frame, head_of, is_null, quantity_of, text_of
from keeper.domain.chain import BlockHead

_CALL_TIMEOUT_S: Final = 3.0
_SHORTEST_SILENCE_S: Final = 2.0
_SILENT_INTERVALS: Final = 3
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 10.0
_NOTICE_LIMIT: Final = 1 << 20


class _Notice(msgspec.Struct, gc=False):
    subscription: str
    result: msgspec.Raw


_notice = msgspec.json.Decoder(_Notice)


class HeadSubscription:
    """Keeps one `newHeads` subscription alive and hands every head on."""

    def __init__(
        self,
        node: Node,
        *,
        chain_id: int,
        observer: Observer,
        on_head: Callable[[BlockHead], None],
        interval_s: Callable[[], float],
    ) -> None:
        """Take where to subscribe; `interval_s` tells how often a head is expected."""
        self._node = node
        self._chain_id = chain_id
        self._observer = observer
        self._on_head = on_head
        self._interval_s = interval_s
        self._mask = Mask(node.url)
        self._next_id = 1
        self._last_number = 0
        self.is_alive = False
        """Whether the subscription is believed to deliver."""

    async def run(self) -> None:
        """Subscribe for ever; return only when the node turns out to be on another chain."""
        pause_s = _FIRST_PAUSE_S
        while True:
            transport = WsTransport(self._node.alias, self._node.url, max_answer_bytes=_NOTICE_LIMIT)
            delivered = self._last_number
            reason = ""
            try:
                if not await self._subscribe(transport):
                    return
                await self._listen(transport)
            except (NodeFailure, RpcError) as failure:
                reason = str(failure)
            finally:
                self.is_alive = False
                await transport.close()
            self._observer.event("rpc.node_state", node=self._node.alias, state="unsubscribed", reason=reason)
            pause_s = _FIRST_PAUSE_S if self._last_number > delivered else min(pause_s * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret

    async def _subscribe(self, transport: WsTransport) -> bool:
        chain_id = await self._call(transport, ("eth_chainId", ()))
        try:
            answered = quantity_of(chain_id)
            if answered == self._chain_id:
                text_of(await self._call(transport, ("eth_subscribe", ("newHeads",))))
        except ValueError:
            answered = None
        if answered is None:
            raise BadResponse(self._node.alias, "a subscription that cannot be right")
        if answered != self._chain_id:
            reason = f"is on chain {answered}, not {self._chain_id}"
            self._observer.event("rpc.node_state", node=self._node.alias, state="wrong_chain", reason=reason)
            return False
        self.is_alive = True
        self._observer.event("rpc.node_state", node=self._node.alias, state="subscribed", reason="")
        return True

    async def _listen(self, transport: WsTransport) -> None:
        """Hand heads on; when none comes for long, make sure that the socket and the subscription still live."""
        while True:
            silence_s = max(_SHORTEST_SILENCE_S, _SILENT_INTERVALS * self._interval_s())
            try:
                # Not wait_for: on 3.11 it can swallow a cancellation that comes together with a notice.
                async with asyncio.timeout(silence_s):
                    notice = await transport.notices.get()
            except TimeoutError:
                await self._probe(transport)
                continue
            if isinstance(notice, NodeFailure):
                raise notice
            head = self._decoded(notice.params)
            if head is None:
                raise BadResponse(self._node.alias, "a head that cannot be right")
            self.is_alive = True
            self._last_number = head.number
            self._on_head(head)

    def _decoded(self, params: msgspec.Raw) -> BlockHead | None:
        try:
            return head_of(_notice.decode(params).result)
        except (ValueError, RecursionError):
            return None

    async def _probe(self, transport: WsTransport) -> None:
        """Ask for the block number over the same socket.

        Raises: NodeFailure when there is no answer, or heads have been withheld.
        """
        number = await self._call(transport, ("eth_blockNumber", ()))
        try:
            answered = quantity_of(number)
        except ValueError:
            answered = -1
        if answered < 0 or (answered > self._last_number + 1 and transport.notices.empty()):
            raise BadResponse(self._node.alias, "the subscription fell silent")

    async def _call(self, transport: WsTransport, request: Request) -> msgspec.Raw:
        first_id = self._next_id
        self._next_id += 1
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                found = await transport.exchange(frame([request], first_id), first_id)
        except TimeoutError:
            found = []
        if not found:
            raise TimedOut(self._node.alias, f"{request[0]}: no answer over the websocket")
        if not is_null(found[0].error):
            raise refusal(found[0].error, node=self._node.alias, method=request[0], mask=self._mask)
        return found[0].result
