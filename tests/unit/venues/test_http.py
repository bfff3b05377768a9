"""The door to a service: on time or not at all, bounded, at its pace, and silent about addresses and keys."""

import asyncio
import gzip
import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from keeper.errors import ConfigurationError
from keeper.forms import Secret
from keeper.venues.allow import Ask, Offer
from keeper.venues.door import MAX_ANSWER_BYTES, Door, Line, NoOffer, Unanswered, check_url
from keeper.venues.http import HttpQuoter
from keeper.venues.oneinch import PROFILE, OneInch
from keeper.venues.velora import AUGUSTUS, Velora
from tests.unit.venues.asking import EXECUTOR, MOST, ORIGIN, WANT, HeadReads, LoopClock, Market, market
from tests.unit.venues.service import KEY, PATH, Handler

TOKEN = PATH.strip("/")
ROUTER = PROFILE.routers[1]


class ShiftedClock(LoopClock):
    """The loop's time, and what it was set forward by."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


def saying(body: bytes | str = b"", status: int = 200, **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        content = body.encode() if isinstance(body, str) else body
        return web.Response(body=content, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


async def dripping(request: web.Request) -> web.StreamResponse:
    """Say a little, and never end."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"dstAmount": "')
    await asyncio.sleep(30)
    return response


async def breaking(request: web.Request) -> web.StreamResponse:
    """Hang up in the middle."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"{")
    assert request.transport is not None
    request.transport.close()
    return response


def told(shop: Market) -> list[str]:
    return [notice.what for notice in shop.notices]


MALFORMED = {
    "html": saying("<html>hello</html>"),
    "empty": saying(""),
    "null": saying("null"),
    "list": saying("[]"),
    "half": saying('{"dstAmount": "12'),
    "other fields": saying('{"amount": "12"}'),
    "number for a text": saying('{"dstAmount": 12, "tx": {"to": "0x", "data": "0x", "value": "0"}}'),
    "negative": saying(json.dumps({"dstAmount": "-5", "tx": {"to": "0x" + ROUTER.hex(), "data": "0x", "value": "0"}})),
    "fraction": saying(json.dumps({"dstAmount": "1.5", "tx": {"to": "0x" + ROUTER.hex(), "data": "0x", "value": "0"}})),
    "endless digits": saying(
        json.dumps({"dstAmount": "9" * 5000, "tx": {"to": "0x" + ROUTER.hex(), "data": "0x", "value": "0"}})
    ),
    "no hexadecimal": saying(
        json.dumps({"dstAmount": "1", "tx": {"to": "0x" + ROUTER.hex(), "data": "0xzz", "value": "0"}})
    ),
    "short address": saying(json.dumps({"dstAmount": "1", "tx": {"to": "0x11", "data": "0x", "value": "0"}})),
    "other digits": saying(
        json.dumps({"dstAmount": "١", "tx": {"to": "0x" + ROUTER.hex(), "data": "0x", "value": "0"}})
    ),
    "not unicode": saying(b'{"dstAmount": "\xff\xfe"}'),
    "deep": saying(b"[" * 100_000),
    "compressed": saying(gzip.compress(b"{}" * 1_000_000), Content_Encoding="gzip"),
}


@pytest.mark.parametrize("handler", MALFORMED.values(), ids=MALFORMED.keys())
async def test_an_answer_of_another_form_brings_nothing_and_counts_against_the_service(handler: Handler):
    async with market("oneinch") as shop:
        shop.stall.handler = handler
        assert await shop.pools() == []
        assert told(shop) == ["an answer of another form"]
        assert not shop.quoter.is_open


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_service_that_has_nothing_to_offer_is_asked_again(status: int):
    async with market("oneinch") as shop:
        shop.stall.handler = saying('{"error": "insufficient liquidity"}', status)
        for _ in range(5):
            assert await shop.pools() == []
        assert shop.quoter.is_open
        assert told(shop) == []
        shop.stall.handler = None
        assert len(await shop.pools()) == 1


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_a_service_that_fails_in_a_row_is_left_alone_for_ever_longer(status: int):
    clock = ShiftedClock()
    async with market("oneinch", clock=clock) as shop:
        shop.stall.handler = saying("oops", status)
        for rest_s in (15, 30, 60):
            assert await shop.pools() == []
            assert not shop.quoter.is_open
            clock.ahead_s += rest_s - 1
            assert not shop.quoter.is_open
            clock.ahead_s += 2
            assert shop.quoter.is_open
        shop.stall.handler = None
        assert len(await shop.pools()) == 1
        shop.stall.handler = saying("oops", status)
        await shop.pools()
        clock.ahead_s += 16
        assert shop.quoter.is_open


@pytest.mark.parametrize(("status", "rest_s"), [(401, 600), (402, 600), (403, 600)])
async def test_a_service_that_refuses_the_key_is_left_alone_for_long(status: int, rest_s: int):
    clock = ShiftedClock()
    async with market("oneinch", clock=clock) as shop:
        shop.stall.handler = saying("who are you", status)
        assert await shop.pools() == []
        clock.ahead_s += rest_s - 5
        assert not shop.quoter.is_open
        clock.ahead_s += 10
        assert shop.quoter.is_open


async def test_a_service_that_asks_for_a_pause_gets_it():
    clock = ShiftedClock()
    async with market("oneinch", clock=clock) as shop:
        shop.stall.handler = saying("too many requests", 429, Retry_After="40")
        assert await shop.pools() == []
        clock.ahead_s += 35
        assert not shop.quoter.is_open
        asked = len(shop.stall.asked)
        assert await shop.pools() == []
        assert len(shop.stall.asked) == asked
        clock.ahead_s += 10
        shop.stall.handler = None
        assert len(await shop.pools()) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_and_nobody_else_sees_the_key(status: int):
    async with market("oneinch") as elsewhere, market("oneinch") as shop:
        shop.stall.handler = saying("", status, Location=elsewhere.stall.url + "/swap/v6.1/1/swap")
        assert await shop.pools() == []
        assert elsewhere.stall.asked == []
        assert not shop.quoter.is_open


async def test_a_huge_answer_is_cut_off():
    async with market("oneinch") as shop:
        written = 0

        async def flood(request: web.Request) -> web.StreamResponse:
            nonlocal written
            response = web.StreamResponse()
            await response.prepare(request)
            for _ in range(400):
                await response.write(b" " * (1 << 18))
                written += 1 << 18
            return response

        shop.stall.handler = flood
        assert await shop.pools() == []
        assert not shop.quoter.is_open
        assert written < 64 * MAX_ANSWER_BYTES


async def test_a_slow_answer_is_dropped_and_what_came_in_time_is_kept():
    async with market("oneinch", timeout_ms=400) as shop:
        answered = 0

        async def first_only(request: web.Request) -> web.StreamResponse:
            nonlocal answered
            answered += 1
            if int(request.query["amount"]) != MOST:
                await asyncio.sleep(30)
            return web.json_response(shop.stall.answer(request, request.path.removeprefix(PATH), dict(request.query)))

        shop.stall.handler = first_only
        (pool,) = await shop.pools()
        assert [quoted.size for quoted in pool.quoted] == [MOST]
        assert answered == 3
        assert shop.quoter.is_open


@pytest.mark.parametrize("handler", [None, dripping], ids=["silent", "dripping"])
async def test_a_service_that_is_always_late_holds_nobody_up_and_is_left_alone(handler: Handler | None):
    async with market("oneinch", timeout_ms=60) as shop:
        shop.stall.handler = handler
        shop.stall.delay_s = 0.0 if handler else 30.0
        for _ in range(3):
            assert shop.quoter.is_open
            async with asyncio.timeout(10):
                assert await shop.pools() == []
        assert not shop.quoter.is_open


async def test_a_question_that_is_cancelled_leaves_nothing_behind():
    async with market("oneinch", timeout_ms=30_000) as shop:
        shop.stall.delay_s = 30.0
        asking = asyncio.create_task(shop.pools())
        for _ in range(3):
            await shop.stall.arrived.acquire()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "oneinch"] == []
        for _ in range(3):
            await shop.stall.given_up.acquire()


async def test_a_broken_connection_brings_nothing():
    async with market("oneinch") as shop:
        shop.stall.handler = breaking
        assert await shop.pools() == []
        assert not shop.quoter.is_open


async def test_nobody_listening_brings_nothing():
    async with market("oneinch") as shop:
        pass
    quoter = HttpQuoter(
        OneInch(1, ROUTER), executor=EXECUTOR, origin=ORIGIN, clock=LoopClock(), key=Secret(KEY), url=shop.stall.url
    )
    shop.quoter = quoter
    assert await shop.pools() == []
    await quoter.close()


async def test_connections_are_kept_between_heads():
    async with market("oneinch") as shop:
        ports: set[object] = set()

        async def note(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            ports.add(request.transport.get_extra_info("peername"))
            return web.json_response(shop.stall.answer(request, request.path.removeprefix(PATH), dict(request.query)))

        shop.stall.handler = note
        for _ in range(5):
            assert len(await shop.pools()) == 1
        assert len(ports) <= 3


async def test_no_request_leaves_before_its_turn_at_the_services_pace():
    times: list[float] = []
    async with market("oneinch", pace_ms=50) as shop:

        async def note(request: web.Request) -> web.StreamResponse:
            times.append(asyncio.get_running_loop().time())
            return web.Response(status=404)

        shop.stall.handler = note
        began = asyncio.get_running_loop().time()
        await shop.pools()
        assert len(times) == 3
        assert all(at - began >= 0.05 * turn for turn, at in enumerate(sorted(times)))


async def test_what_has_no_time_left_at_the_services_pace_is_not_asked():
    async with market("oneinch", pace_ms=10_000, timeout_ms=2000) as shop:
        (pool,) = await shop.pools()
        assert [quoted.size for quoted in pool.quoted] == [MOST]
        assert len(shop.stall.asked) == 1
        for _ in range(4):
            assert await shop.pools() == []
        assert len(shop.stall.asked) == 1
        assert shop.quoter.is_open


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.invalid",
        "ftp://127.0.0.1",
        "https://",
        "",
        "https://api.example.invalid/?key=canary",
        "https://api.example.invalid/#x",
        "https://[",
        "api.example.invalid",
    ],
)
def test_a_key_goes_nowhere_but_over_https_or_to_this_machine(url: str):
    with pytest.raises(ConfigurationError) as caught:
        check_url(url)
    assert "example" not in str(caught.value)
    assert check_url("https://api.example.invalid/v1/") == "https://api.example.invalid/v1"
    assert check_url("http://127.0.0.1:8080") == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"key": None}, "API key"), ({"tolerance_bps": 0}, "tolerance_bps"), ({"tolerance_bps": 1001}, "tolerance_bps")],
)
def test_a_venue_that_could_not_work_is_refused_at_the_start(options: dict[str, object], words: str):
    given: dict[str, object] = {"key": Secret(KEY), **options}
    with pytest.raises(ConfigurationError, match=words):
        HttpQuoter(OneInch(1, ROUTER), executor=EXECUTOR, origin=ORIGIN, clock=LoopClock(), **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="no API keys"):
        HttpQuoter(Velora(1, AUGUSTUS), executor=EXECUTOR, origin=ORIGIN, clock=LoopClock(), key=Secret(KEY))
    with pytest.raises(ConfigurationError, match="url must be"):
        HttpQuoter(Velora(31_337, AUGUSTUS), executor=EXECUTOR, origin=ORIGIN, clock=LoopClock())


FAILURES: dict[str, Handler] = {
    **{name: MALFORMED[name] for name in ("html", "deep", "compressed")},
    "refused": saying(f"bad key {KEY}", 401),
    "bad request": saying(f"bad key {KEY} at {TOKEN}", 400),
    "redirect": saying("", 302, Location=f"http://127.0.0.1/{TOKEN}?key={KEY}"),
    "broken": breaking,
    "echo": saying(json.dumps({"dstAmount": KEY, "tx": {"to": KEY, "data": TOKEN, "value": "0"}})),
}


@pytest.mark.parametrize("handler", FAILURES.values(), ids=FAILURES.keys())
async def test_no_failure_tells_the_key_or_the_address(handler: Handler, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    async with market("oneinch") as shop:
        shop.stall.handler = handler
        await shop.pools()
        door = shop.quoter._door
        door._rests_until_s = 0.0
        raised = await _failure(lambda: door.exchange("GET", "/x", LoopClock().monotonic_s() + 2))
        texts = [
            *(repr(each) for each in (shop.quoter, door, shop.notices, raised)),
            "" if raised is None else "".join(traceback.format_exception(raised)),
            *(repr(link) for link in _chain(raised)),
            caplog.text,
        ]
    for text in texts:
        for secret in (KEY, TOKEN, str(shop.stall.port)):
            assert secret not in text


async def _failure(ask: Callable[[], Awaitable[bytes]]) -> Exception | None:
    try:
        await ask()
    except (Unanswered, NoOffer) as error:
        return error
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return what an error was raised from and in, which a log would show as well."""
    found = list[BaseException]()
    while error is not None:
        error = error.__cause__ or error.__context__
        if error is not None:
            found.append(error)
    return found


async def test_the_same_trouble_is_told_once_in_a_while():
    clock = ShiftedClock()
    async with market("oneinch", clock=clock, fair=lambda _give, _take, amount: amount) as shop:
        for _ in range(3):
            await shop.pools()
        assert told(shop) == ["a quote far above what it is worth"]
        clock.ahead_s += 700
        await shop.pools()
        assert told(shop) == ["a quote far above what it is worth"] * 2


async def test_a_door_can_be_closed_before_and_after_it_was_used():
    door = Door(name="x", url="http://127.0.0.1:1", headers={}, clock=LoopClock(), pace_s=0.0)
    await door.close()
    with pytest.raises(Unanswered):
        await door.exchange("GET", "/", LoopClock().monotonic_s() + 1)
    await door.close()


async def test_a_quote_that_a_smaller_amount_betters_is_left_out():
    async with market("oneinch") as shop:
        shop.stall.lie = lambda deal: replace(deal, bought=1_000, least=1_000) if deal.amount == MOST else deal
        (pool,) = await shop.pools()
        assert [quoted.size for quoted in pool.quoted] == [MOST // 2, MOST // 4]
        swapped = pool.swap(pool.give, pool.take, MOST)
        assert swapped is not None
        assert swapped.amount == 2 * (MOST // 2)


async def test_a_fault_of_our_own_is_not_taken_for_the_services():
    class Faulty(OneInch):
        async def offer(self, line: Line, ask: Ask) -> Offer:
            raise ZeroDivisionError

    quoter = HttpQuoter(
        Faulty(1, ROUTER), executor=EXECUTOR, origin=ORIGIN, clock=LoopClock(), key=Secret(KEY), url="http://127.0.0.1"
    )
    with pytest.raises(ZeroDivisionError):
        await quoter.quotes(HeadReads(), [WANT])
    await quoter.close()
