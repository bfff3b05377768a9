"""KyberSwap: a route, then its call, exactly as documented."""

from dataclasses import replace

import pytest
from aiohttp import web
from eth_utils.address import to_checksum_address

from keeper.domain.units import Address
from keeper.venues.allow import Ask
from keeper.venues.door import NoOffer
from keeper.venues.kyberswap import ROUTER, SLUGS, SWAP, SWAP_SIMPLE_MODE, KyberSwap
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, ORIGIN, STRANGER, TAKE, LoopClock, market
from tests.unit.venues.service import KyberStall


def test_the_router_and_its_functions_are_the_published_ones():
    assert to_checksum_address(ROUTER) == "0x6131B5fae19EA4f9D964eAc0408E4408b66337b5"
    assert (SWAP.selector.hex(), SWAP_SIMPLE_MODE.selector.hex()) == ("e21fd0e9", "8af033fb")


async def test_the_questions_are_the_documented_ones_and_the_summary_goes_back_as_it_came():
    async with market("kyberswap", tolerance_bps=75) as shop:
        await shop.pools()
        asked = {(method, path): fields for method, path, fields in reversed(shop.stall.asked)}
        route = asked["GET", "/ethereum/api/v1/routes"]
        assert route == {
            "tokenIn": "0x" + GIVE.hex(),
            "tokenOut": "0x" + TAKE.hex(),
            "amountIn": str(MOST),
            "origin": "0x" + ORIGIN.hex(),
        }
        built = asked["POST", "/ethereum/api/v1/route/build"]
        assert built == {
            "routeSummary": {
                **route,
                "amountIn": built["routeSummary"]["amountIn"],
                "route": [[]],
                "gas": "200000",
                "l1FeeUsd": "0",
                "checksum": "1",
            },
            "sender": "0x" + EXECUTOR.hex(),
            "recipient": "0x" + EXECUTOR.hex(),
            "origin": "0x" + ORIGIN.hex(),
            "slippageTolerance": 75,
            "source": "keeper",
        }
        assert shop.stall.headers[0]["x-client-id"] == "keeper"


async def test_the_routers_simple_mode_is_read_as_well():
    async with market("kyberswap") as shop:
        assert isinstance(shop.stall, KyberStall)
        shop.stall.simple = True
        (pool,) = await shop.pools()
        assert pool.quoted[0].offer.data[:4] == SWAP_SIMPLE_MODE.selector
        shop.stall.lie = lambda deal: replace(deal, recipient=STRANGER)
        assert await shop.pools() == []


@pytest.mark.parametrize("flags", [1, 2, 8, 16])
async def test_a_swap_in_part_with_currency_or_with_burning_is_refused(flags: int):
    async with market("kyberswap") as shop:
        shop.stall.lie = lambda deal: replace(deal, flags=flags)
        assert await shop.pools() == []
        assert shop.notices[0].what == "flags that nobody asked for"


@pytest.mark.parametrize("flags", [0, 4, 32, 64, 128, 256])
async def test_flags_that_the_service_sets_for_itself_pass(flags: int):
    async with market("kyberswap") as shop:
        shop.stall.lie = lambda deal: replace(deal, flags=flags)
        assert len(await shop.pools()) == 1


async def test_a_code_in_the_answer_is_no_fault_of_the_service():
    async with market("kyberswap") as shop:

        async def none(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"code": 4008, "message": "route not found", "details": None, "requestId": "1"})

        shop.stall.handler = none
        for _ in range(4):
            assert await shop.pools() == []
        assert shop.quoter.is_open


def test_every_chain_with_a_router_has_its_name():
    assert SLUGS.keys() == KyberSwap(1, ROUTER).profile.routers.keys()


async def test_a_chain_without_a_name_is_asked_for_by_its_number_or_by_a_given_one():
    async with market("kyberswap") as shop:
        line = shop.quoter._door.until(LoopClock().monotonic_s() + 5)
        ask = Ask(GIVE, TAKE, MOST, EXECUTOR, ORIGIN, 50)
        with pytest.raises(NoOffer):
            await KyberSwap(31_337, ROUTER).offer(line, ask)
        assert shop.stall.asked[-1][1] == "/31337/api/v1/routes"
        offer = await KyberSwap(31_337, ROUTER, slug="ethereum").offer(line, ask)
        assert (offer.router, offer.amount, offer.value) == (Address(ROUTER), 2 * MOST, 0)
