"""One relay over HTTP: a signature of its own on every request, and every answer sorted, whatever it is."""

import asyncio
import copy
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keeper.domain.units import TxHash
from keeper.errors import ConfigurationError
from keeper.execution.relay import HEADER, Identity, RelayGroup, Word

SECRET = "0x" + "77" * 32
HASH = TxHash(b"\xab" * 32)
TOLD = "0x" + HASH.hex()
TOKEN = "t0kenInThePath"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/{anything:.*}", handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://user:pa55word@127.0.0.1:{runner.addresses[0][1]}/{TOKEN}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def group(*urls: str, timeout_s: int = 20) -> AsyncIterator[RelayGroup]:
    found = RelayGroup(urls, Identity.from_hex(SECRET), timeout_s=timeout_s)
    try:
        yield found
    finally:
        await found.close()


def saying(body: object, status: int = 200) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return web.Response(body=content, status=status, content_type="application/json")

    return answer


async def test_every_request_is_signed_by_the_identity_over_the_very_bytes_that_are_sent():
    seen: list[tuple[str, bytes, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append((request.headers[HEADER], await request.read(), request.headers["Authorization"]))
        return web.json_response({"jsonrpc": "2.0", "id": 1, "result": TOLD})

    async with served(note) as url, group(url) as relays:
        await relays.send_transaction(b"\x02\x01", tx_hash=HASH, last_block=300)
        await relays.send_bundle([b"\x02\x01", b"\x02\x02"], block=299, name=b"one")
        relays.withdraw_transaction(HASH)
        relays.withdraw_bundle(b"one")
        await asyncio.gather(*relays._tasks)
    for header, body, authorization in seen:
        address, _, signature = header.partition(":")
        message = encode_defunct(text="0x" + keccak(body).hex())
        assert Account.recover_message(message, signature=bytes.fromhex(signature[2:])) == address
        assert address == Account.from_key(SECRET).address
        assert authorization.startswith("Basic ")
    calls = {call["method"]: call["params"] for call in (json.loads(body) for _, body, _ in seen)}
    bundle_name = calls["eth_cancelBundle"][0]["replacementUuid"]
    assert calls == {
        "eth_sendPrivateTransaction": [{"tx": "0x0201", "maxBlockNumber": "0x12c"}],
        "eth_sendBundle": [{"txs": ["0x0201", "0x0202"], "blockNumber": "0x12b", "replacementUuid": bundle_name}],
        "eth_cancelPrivateTransaction": [{"txHash": TOLD}],
        "eth_cancelBundle": [{"replacementUuid": bundle_name}],
    }


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        (saying({"result": TOLD}), Word.TAKEN),
        (saying({"result": TOLD.upper().replace("X", "x"), "error": None, "id": "1"}), Word.TAKEN),
        (saying({"result": 200, "error": None, "id": 1}), Word.TAKEN),
        (saying({"result": {"bundleHash": "0x12"}}), Word.TAKEN),
        (saying({"error": {"code": -32000, "message": "already known"}}), Word.TAKEN),
        (saying({"error": {"code": -32000, "message": "execution reverted"}}), Word.REFUSED),
        (saying({"error": "error in signature check"}, 403), Word.REFUSED),
        (saying(b"<html>no</html>", 401), Word.REFUSED),
        (saying(b"", 429), Word.REFUSED),
        (saying(b"", 302), Word.REFUSED),
        (saying({"result": "0x" + "cd" * 32}), Word.UNSURE),
        (saying({"result": None}), Word.UNSURE),
        (saying({"result": False}), Word.UNSURE),
        (saying({}), Word.UNSURE),
        (saying([]), Word.UNSURE),
        (saying([{"result": TOLD}, {"result": TOLD}]), Word.UNSURE),
        (saying(b"<html>"), Word.UNSURE),
        (saying(b"[" * 60_000), Word.UNSURE),
        (saying(b'{"result": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"), Word.UNSURE),
        (saying(b'"' + b"x" * 200_000 + b'"'), Word.UNSURE),
        (saying({"result": TOLD}, 500), Word.UNSURE),
        (saying(b"upstream", 502), Word.UNSURE),
    ],
)
async def test_txl_20_every_answer_is_sorted_by_what_it_may_mean(handler: Handler, word: Word):
    async with served(handler) as url, group(url) as relays:
        (answer,) = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        assert (answer.relay, answer.word) == ("relay-1", word)


async def test_txl_20_a_relay_that_nobody_can_reach_has_not_seen_a_byte():
    async with served(saying({})) as url:
        pass
    async with group(url) as relays:
        (answer,) = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        assert answer.word is Word.UNREACHED


async def test_txl_20_a_relay_that_hangs_up_or_never_answers_may_have_the_bytes():
    async def hang_up(request: web.Request) -> web.Response:
        await request.read()
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async def wait(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with served(hang_up) as first, served(wait) as second, group(first, second, timeout_s=1) as relays:
        answers = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        assert [answer.word for answer in answers] == [Word.UNSURE] * 2


async def test_nobody_waits_for_a_slow_relay_once_another_has_it_and_it_gets_its_copy_all_the_same():
    arrived, answered = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await request.read()
        arrived.set()
        await answered.wait()
        return web.json_response({"result": TOLD})

    async with served(slow) as first, served(saying({"result": TOLD})) as second, group(first, second) as relays:
        answers = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        assert [answer.word for answer in answers] == [Word.UNSURE, Word.TAKEN]
        await asyncio.wait_for(arrived.wait(), 30)
        answered.set()
        (late,) = relays._tasks
        assert (await late).word is Word.TAKEN


async def test_a_redirect_is_not_followed():
    followed: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        followed.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with served(elsewhere) as url, group(url) as relays:
        (answer,) = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        assert answer.word is Word.REFUSED
        assert followed == [f"/{TOKEN}"]


async def test_n7_no_answer_holds_the_address_the_credentials_or_the_key():
    async def echo(request: web.Request) -> web.Response:
        told = f"no {request.url} {TOKEN} user:pa55word {SECRET[2:10]}"
        return web.json_response({"error": {"code": 1, "message": told}})

    async with served(echo) as url, group(url) as relays:
        (answer,) = await relays.send_transaction(b"\x02", tx_hash=HASH, last_block=1)
        told = f"{answer} {relays!r} {relays._relays!r}"
    async with group(url) as relays:
        told += repr(await relays.send_bundle([b"\x02"], block=1, name=b""))
    assert TOKEN not in told
    assert "pa55word" not in told
    assert SECRET[2:] not in told


def test_an_identity_cannot_be_printed_copied_or_pickled_into_giving_the_key_away():
    identity = Identity.from_hex(SECRET)
    assert SECRET[2:] not in repr(identity)
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            way(identity)


@pytest.mark.parametrize("text", ["", "0x", "zz" * 32, "00" * 32, "ff" * 32, "77" * 31])
def test_a_bad_identity_is_refused_without_being_shown(text: str):
    with pytest.raises(ConfigurationError) as refused:
        Identity.from_hex(text)
    assert not text or text not in str(refused.value)


def test_names_are_the_same_again_and_nobody_else_can_tell_them():
    one, other = Identity.from_hex(SECRET), Identity.random()
    assert one.name(b"1") == one.name(b"1")
    assert len({one.name(b"1"), one.name(b"2"), other.name(b"1"), Identity.random().name(b"1")}) == 4


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=400) | st.from_regex(rb'\{"(result|error)": ?.{0,60}\}'), status=st.integers(200, 599)
)
def test_no_answer_whatever_its_bytes_escapes_as_an_error(content: bytes, status: int):
    relay = RelayGroup(["http://127.0.0.1:1/"], Identity.from_hex(SECRET))._relays[0]
    with suppress(ValueError):  # which `ask` takes for unsure
        assert relay._judge(status, content, HASH).word in Word
