"""One node: framing, ids, caps, failures, secrets."""

import asyncio
import gzip
import traceback
from typing import Any

import pytest
from aiohttp import web

from keeper.chain.endpoint import Endpoint, Node, nodes_of
from keeper.chain.failures import (
    AnswerTooLarge,
    BadResponse,
    BatchTooLarge,
    MethodMissing,
    NodeFailure,
    RateLimited,
    RpcError,
    TimedOut,
    Unauthorised,
    Unreachable,
)
from keeper.chain.health import NodeState
from keeper.chain.mask import Mask
from keeper.chain.turns import Priority
from keeper.chain.wire import Request, json_of, present
from keeper.errors import Unsafe
from tests.unit.chain.conftest import Pool
from tests.unit.chain.fake_node import (
    SECRET,
    FakeChain,
    FakeNode,
    RealClock,
    Refusal,
    Watcher,
    altered,
    drop,
    hang,
    respond,
)

HEAD: Request = ("eth_blockNumber", ())
CHAIN: Request = ("eth_chainId", ())


async def ask(rpc: Any, *requests: Request, timeout_s: float = 5.0) -> list[Any]:
    found = await rpc.endpoints[0].send(requests, priority=Priority.READ, timeout_s=timeout_s)
    return [answer if isinstance(answer, RpcError) else json_of(answer) for answer in found]


async def failure_of(rpc: Any, *requests: Request, timeout_s: float = 5.0) -> NodeFailure:
    with pytest.raises(NodeFailure) as caught:
        await ask(rpc, *requests, timeout_s=timeout_s)
    return caught.value


async def test_a_batch_is_one_post_and_its_answers_come_in_the_order_of_the_calls(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.append(altered(node, lambda found: found[::-1]))
    assert await ask(rpc, HEAD, CHAIN, HEAD) == ["0x4", "0x7a69", "0x4"]
    assert len(node.posts) == 1
    assert [call["method"] for call in node.posts[0]] == ["eth_blockNumber", "eth_chainId", "eth_blockNumber"]


async def test_a_single_call_is_not_a_batch(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    seen: list[Any] = []

    async def look(_calls: list[dict[str, Any]], request: web.Request) -> None:
        seen.append(await request.json())

    node.faults.append(look)
    await ask(rpc, HEAD)
    assert isinstance(seen[0], dict)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda found: found[:-1],
        lambda found: [*found, found[0]],
        lambda found: [found[0], found[0]],
        lambda found: [{**found[0], "id": 999}, found[1]],
        lambda found: [{**found[0], "id": str(found[0]["id"])}, found[1]],
        lambda found: [{**found[0], "id": None}, found[1]],
        lambda found: found[0],
        lambda found: [{"jsonrpc": "2.0", "id": found[0]["id"]}, found[1]],
        lambda found: [],
        lambda found: "0x1",
        lambda found: [1, 2],
    ],
    ids=[
        "missing",
        "more",
        "duplicate",
        "wrong id",
        "text id",
        "null id",
        "single",
        "no result",
        "empty",
        "text",
        "numbers",
    ],
)
async def test_a_batch_whose_answers_do_not_fit_its_calls_is_refused_whole(
    pool: Pool, node: FakeNode, spoil: Any
) -> None:
    rpc = await pool(node)
    node.faults.append(altered(node, spoil))
    assert isinstance(await failure_of(rpc, HEAD, CHAIN), BadResponse)


async def test_a_single_answer_with_another_id_is_refused(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.append(altered(node, lambda found: {**found, "id": found["id"] + 1}))
    assert isinstance(await failure_of(rpc, HEAD), BadResponse)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (respond(status=502, body="<html>bad gateway</html>"), BadResponse),
        (respond(status=500, body="oops"), BadResponse),
        (respond(status=504), TimedOut),
        (respond(status=401), Unauthorised),
        (respond(status=403, body='{"error": "no"}'), Unauthorised),
        (respond(status=402), Unauthorised),
        (respond(status=307, Location="http://127.0.0.1:1/"), BadResponse),
        (respond(status=429), RateLimited),
        (respond(status=413), BatchTooLarge),
        (respond(body=""), BadResponse),
        (respond(body="<html></html>"), BadResponse),
        (respond(body='{"jsonrpc":"2.0","id":1,"resu'), BadResponse),
        (respond(body=b"\xef\xbb\xbf{}"), BadResponse),
        (respond(body=b"\xff\xfe\x00"), BadResponse),
        (respond(body="[" * 100_000), BadResponse),
        (respond(body="null"), BadResponse),
        (drop, Unreachable),
    ],
)
async def test_every_way_to_fail_has_its_kind(
    pool: Pool, node: FakeNode, handler: Any, kind: type[NodeFailure]
) -> None:
    rpc = await pool(node)
    node.faults.append(handler)
    failure = await failure_of(rpc, HEAD)
    assert type(failure) is kind
    assert failure.node == "rpc-1"


async def test_a_redirect_is_never_followed(pool: Pool, nodes: list[FakeNode]) -> None:
    first, elsewhere = nodes
    rpc = await pool(first)
    first.faults.append(respond(status=307, Location=elsewhere.url))
    await failure_of(rpc, HEAD)
    assert elsewhere.posts == []


async def test_retry_after_is_honoured_and_bounded(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.append(respond(status=429, Retry_After="7"))
    first = await failure_of(rpc, HEAD)
    assert isinstance(first, RateLimited)
    assert first.retry_after_s == 7
    assert rpc.endpoints[0].health.state is NodeState.RATE_LIMITED
    date = {"Date": "Fri, 20 Nov 2026 12:00:00 GMT", "Retry_After": "Fri, 20 Nov 2026 12:00:30 GMT"}
    for header, seconds in ({"Retry_After": "99999999"}, 300), (date, 30), ({"Retry_After": "soon"}, 1), ({}, 1):
        node.faults.append(respond(status=429, **header))
        told = await failure_of(rpc, HEAD)
        assert isinstance(told, RateLimited)
        assert told.retry_after_s == seconds


async def test_a_huge_answer_is_cut_off_while_it_arrives(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node, options={"max_answer_bytes": 1 << 20})
    written = 0

    async def flood(_calls: list[dict[str, Any]], request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(800):
                await response.write(b" " * 65_536)
                written += 65_536
        except ConnectionError:
            pass
        return response

    node.faults.append(flood)
    assert isinstance(await failure_of(rpc, HEAD), AnswerTooLarge)
    assert written < 50 << 20


async def test_a_compressed_bomb_counts_by_what_it_expands_to(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node, options={"max_answer_bytes": 1 << 20})
    bomb = gzip.compress(b'{"jsonrpc":"2.0","id":1,"result":"' + b"0" * (50 << 20) + b'"}')
    node.faults.append(respond(body=bomb, Content_Encoding="gzip"))
    assert isinstance(await failure_of(rpc, HEAD), AnswerTooLarge)
    assert await ask(rpc, HEAD) == ["0x4"]


async def test_a_compressed_answer_is_read(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)

    async def compressed(calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse:
        response = web.json_response(node.answer(calls[0]))
        response.enable_compression(web.ContentCoding.gzip)
        return response

    node.faults.append(compressed)
    assert await ask(rpc, HEAD) == ["0x4"]


async def test_a_node_that_accepts_and_hangs_is_cut_by_the_deadline(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    node.faults.append(hang)
    assert isinstance(await failure_of(rpc, HEAD, timeout_s=0.1), TimedOut)


async def test_a_dripping_body_is_cut_by_the_deadline(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)

    async def drip(_calls: list[dict[str, Any]], request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1_000):
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    node.faults.append(drip)
    assert isinstance(await failure_of(rpc, HEAD, timeout_s=0.1), TimedOut)


async def test_a_refused_connection_opens_the_breaker(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    await node.stop()
    failure = await failure_of(rpc, HEAD)
    assert isinstance(failure, Unreachable)
    assert rpc.endpoints[0].health.state is NodeState.UNREACHABLE
    assert not rpc.endpoints[0].is_usable()


async def test_three_bad_answers_in_a_row_open_the_breaker_and_a_good_one_between_prevents_it(
    pool: Pool, node: FakeNode
) -> None:
    rpc = await pool(node)
    junk = respond(body="junk")
    for handler in (junk, junk, None, junk, junk):
        if handler is not None:
            node.faults.append(handler)
            await failure_of(rpc, HEAD)
        else:
            await ask(rpc, HEAD)
    assert rpc.endpoints[0].is_usable()
    node.faults.append(junk)
    await failure_of(rpc, HEAD)
    assert rpc.endpoints[0].health.state is NodeState.UNREACHABLE


async def test_a_missing_method_is_learnt(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)
    request: Request = ("eth_simulateV1", ())
    assert isinstance(await failure_of(rpc, request), MethodMissing)
    assert rpc.endpoints[0].lacks([request])
    assert rpc.endpoints[0].is_usable()


async def test_a_refused_call_in_a_batch_is_a_value_beside_the_others(pool: Pool, node: FakeNode) -> None:
    rpc = await pool(node)

    def revert(*_: object) -> None:
        raise Refusal(3, "execution reverted: no", "0x08c379a0")

    node.methods["eth_call"] = revert
    first, second = await ask(rpc, ("eth_call", ({}, "latest")), HEAD)
    assert isinstance(first, RpcError)
    assert (first.code, first.data, first.is_revert) == (3, bytes.fromhex("08c379a0"), True)
    assert second == "0x4"
    with pytest.raises(RpcError):
        present(first)


async def test_a_batch_that_is_too_large_is_learnt_and_cut_without_the_caller_noticing(
    pool: Pool, node: FakeNode
) -> None:
    rpc = await pool(node)

    async def at_most_three(calls: list[dict[str, Any]], _request: web.Request) -> web.StreamResponse | None:
        if len(calls) <= 3:
            return None
        return web.json_response(
            {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "batch of more than 3 requests"}}
        )

    node.always = at_most_three
    assert await ask(rpc, *([HEAD] * 10)) == ["0x4"] * 10
    assert rpc.endpoints[0].max_batch == 2
    posts = len(node.posts)
    await ask(rpc, *([HEAD] * 4))
    assert len(node.posts) == posts + 2


async def test_requests_are_counted_by_node_method_and_result(pool: Pool, node: FakeNode, watcher: Watcher) -> None:
    rpc = await pool(node)
    await ask(rpc, HEAD)
    await ask(rpc, HEAD, CHAIN)
    node.faults.append(respond(status=500))
    await failure_of(rpc, HEAD)
    told = [(each["node"], each["method"], each["result"], each["requests"]) for each in watcher.requests]
    assert told == [
        ("rpc-1", "eth_blockNumber", "ok", 1),
        ("rpc-1", "batch", "ok", 2),
        ("rpc-1", "eth_blockNumber", "bad_response", 1),
    ]


ECHOES = [
    respond(status=500, body=f"key {SECRET} is bad"),
    respond(body=f"<html>{SECRET}</html>"),
    respond(status=401, body=SECRET),
    respond(status=307, Location=f"http://127.0.0.1:1/{SECRET}"),
    respond(status=429),
    drop,
    hang,
]


@pytest.mark.parametrize("handler", ECHOES)
async def test_the_key_in_the_address_is_in_no_text_of_a_failure(
    pool: Pool, node: FakeNode, handler: Any, watcher: Watcher
) -> None:
    rpc = await pool(node)
    node.faults.append(handler)
    failure = await failure_of(rpc, HEAD, timeout_s=0.1)
    assert_secretless(failure, rpc, watcher)


def assert_secretless(failure: BaseException, rpc: Any, watcher: Watcher) -> None:
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [failure]
    while pending:
        error = pending.pop()
        if error is not None and error not in seen:
            seen.append(error)
            pending += [error.__cause__, error.__context__]
    told = [str(each) + repr(each) + "".join(traceback.format_exception(each)) for each in seen]
    told += [
        repr(rpc.endpoints),
        repr(rpc.endpoints[0].node),
        repr(rpc.endpoints[0].mask),
        repr(vars(rpc.endpoints[0])["_transport"]),
    ]
    told += [repr(watcher.events), repr(watcher.requests)]
    for text in told:
        assert SECRET not in text
        assert "127.0.0.1" not in text


@pytest.mark.parametrize("in_batch", [True, False])
async def test_a_key_that_the_node_itself_repeats_is_masked(
    pool: Pool, node: FakeNode, watcher: Watcher, in_batch: bool
) -> None:
    rpc = await pool(node)

    def tell(*_: object) -> None:
        raise Refusal(-32000, f"see {node.url} or ask about {SECRET}\x1b[31m\n" + "x" * 10_000)

    node.methods["eth_call"] = tell
    requests: list[Request] = [("eth_call", ()), *([HEAD] if in_batch else [])]
    refused = (await ask(rpc, *requests))[0]
    assert isinstance(refused, RpcError)
    assert len(refused.message) <= 256
    assert refused.message.isprintable()
    assert_secretless(refused, rpc, watcher)


async def test_a_dead_address_is_masked_in_the_failure_of_the_start(watcher: Watcher) -> None:
    from keeper.chain.rpc import Rpc

    dead = Node("rpc-1", f"http://{SECRET}:{SECRET}@127.0.0.1:1/{SECRET}")
    rpc = Rpc([dead], clock=RealClock(), observer=watcher)
    with pytest.raises(Unsafe) as caught:
        await rpc.start(1)
    await rpc.close()
    assert "rpc-1" in str(caught.value)
    assert_secretless(caught.value, rpc, watcher)


@pytest.mark.parametrize(
    "url",
    [
        f"https://node.example/v3/{SECRET}",
        f"https://node.example/?key={SECRET}&x=1",
        f"https://user:{SECRET}@node.example/",
        f"https://{SECRET}.node.example/rpc",
        f"wss://node.example/ws/{SECRET[:8]}%2F{SECRET[8:]}",
    ],
)
def test_every_place_of_a_key_in_an_address_is_masked(url: str) -> None:
    mask = Mask(url)
    plain = url.replace("%2F", "/")
    told = mask.clean(
        f"failed at {url} and {plain} with {SECRET} / {SECRET[:8]}/{SECRET[8:]} / {SECRET[:8]}%2F{SECRET[8:]}"
    )
    assert url not in told
    assert SECRET not in told or SECRET not in url
    assert f"{SECRET[:8]}/{SECRET[8:]}" not in told or "%2F" not in url
    assert SECRET not in repr(nodes_of([url]))


async def test_a_proxy_of_the_environment_is_not_used(
    pool: Pool, nodes: list[FakeNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, proxy = nodes
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    rpc = await pool(first)
    await ask(rpc, HEAD)
    assert proxy.posts == []


async def test_requests_go_through_a_websocket_where_there_is_nothing_else(chain: FakeChain, watcher: Watcher) -> None:
    async with FakeNode(chain) as node:
        endpoint = Endpoint(Node("rpc-1", node.ws_url), clock=RealClock(), observer=watcher)
        answers = await asyncio.gather(
            *(endpoint.send([HEAD, CHAIN], priority=Priority.READ, timeout_s=5) for _ in range(20))
        )
        assert all([json_of(present(each)) for each in found] == ["0x4", "0x7a69"] for found in answers)
        assert len(node.sockets) == 1
        await node.sockets[0].close()
        await asyncio.sleep(0.05)
        assert [
            json_of(present(each)) for each in await endpoint.send([HEAD], priority=Priority.READ, timeout_s=5)
        ] == ["0x4"]
        assert len(node.sockets) == 2
        await endpoint.close()
        await asyncio.sleep(0.01)


async def test_a_websocket_handshake_that_redirects_is_refused(chain: FakeChain, watcher: Watcher) -> None:
    async with FakeNode(chain) as node:

        async def elsewhere(request: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(node.ws_url)

        app = web.Application()
        app.router.add_get("/{tail:.*}", elsewhere)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"ws://127.0.0.1:{runner.addresses[0][1]}/{SECRET}"
        endpoint = Endpoint(Node("rpc-1", url), clock=RealClock(), observer=watcher)
        with pytest.raises(Unreachable):
            await endpoint.send([HEAD], priority=Priority.READ, timeout_s=5)
        assert node.sockets == []
        await endpoint.close()
        await runner.cleanup()
