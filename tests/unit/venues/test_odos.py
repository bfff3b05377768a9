"""Odos: a quote, then its transaction, exactly as documented."""

from dataclasses import replace

import pytest
from aiohttp import web
from eth_utils.address import to_checksum_address

from keeper.domain.units import Address
from keeper.venues.odos import ROUTER, SWAP, Odos
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, TAKE, market
from tests.unit.venues.service import KEY, PATH


def test_the_router_and_its_function_are_the_published_ones():
    assert to_checksum_address(ROUTER) == "0x0D05a7D3448512B78fa8A9e46c4872C88C4a0D05"
    assert SWAP.selector.hex() == "30f80b4c"


async def test_the_questions_are_the_documented_ones():
    async with market("odos", tolerance_bps=75) as shop:
        await shop.pools()
        user = to_checksum_address(EXECUTOR)
        quotes = [fields for method, path, fields in shop.stall.asked if (method, path) == ("POST", "/sor/quote/v3")]
        assert quotes[0] == {
            "chainId": 1,
            "inputTokens": [{"tokenAddress": to_checksum_address(GIVE), "amount": str(MOST)}],
            "outputTokens": [{"tokenAddress": to_checksum_address(TAKE), "proportion": 1}],
            "userAddr": user,
            "slippageLimitPercent": 0.75,
            "compact": False,
        }
        assembled = [fields for method, path, fields in shop.stall.asked if (method, path) == ("POST", "/sor/assemble")]
        assert {fields.pop("pathId") for fields in assembled} == {"path-0", "path-1", "path-2"}
        assert assembled == [{"userAddr": user, "simulate": False, "receiver": user}] * 3
        assert shop.stall.headers[0]["x-api-key"] == KEY
        assert shop.stall.headers[0]["Content-Type"] == "application/json"


def test_without_a_key_none_is_sent_and_with_one_another_host_is_asked():
    assert Odos(1, ROUTER).headers("") == {}
    profile = Odos(1, ROUTER).profile
    assert profile.url_on(1, is_keyed=False) == "https://api.odos.xyz"
    assert profile.url_on(1, is_keyed=True) == "https://enterprise-api.odos.xyz"


async def test_a_pair_without_a_path_is_no_fault_of_the_service():
    async with market("odos") as shop:

        async def none(_request: web.Request) -> web.StreamResponse:
            return web.json_response({"pathId": None, "outAmounts": ["0"]})

        shop.stall.handler = none
        for _ in range(4):
            assert await shop.pools() == []
        assert shop.quoter.is_open


@pytest.mark.parametrize("count", [0, 2])
async def test_not_exactly_one_output_is_an_answer_of_another_form(count: int):
    async with market("odos") as shop:

        async def change(request: web.Request) -> web.StreamResponse:
            found = shop.stall.answer(request, request.path.removeprefix(PATH), await request.json())
            if "outputTokens" in found:
                found["outputTokens"] *= count
            return web.json_response(found)

        shop.stall.handler = change
        assert await shop.pools() == []
        assert [notice.what for notice in shop.notices] == ["an answer of another form"]


async def test_a_zero_receiver_stands_for_the_caller():
    async with market("odos") as shop:
        shop.stall.lie = lambda deal: replace(deal, recipient=Address(bytes(20)))
        assert len(await shop.pools()) == 1
