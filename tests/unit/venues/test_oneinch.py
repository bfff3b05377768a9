"""1inch: exactly the documented question, and its documented answers."""

import json
from dataclasses import replace

import pytest
from aiohttp import web
from eth_utils.address import to_checksum_address

from keeper.domain.units import Address
from keeper.venues.oneinch import ROUTER, SWAP, OneInch
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, ORIGIN, TAKE, market
from tests.unit.venues.service import KEY


def test_the_router_and_its_function_are_the_published_ones():
    assert to_checksum_address(ROUTER) == "0x111111125421cA6dc452d289314280a0f8842A65"
    assert SWAP.selector.hex() == "07ed2379"
    assert OneInch(8453, ROUTER).router == ROUTER


async def test_the_question_is_the_documented_one():
    async with market("oneinch", tolerance_bps=5) as shop:
        await shop.pools()
        method, path, fields = shop.stall.asked[0]
        assert (method, path) == ("GET", "/swap/v6.1/1/swap")
        assert fields == {
            "src": "0x" + GIVE.hex(),
            "dst": "0x" + TAKE.hex(),
            "amount": str(MOST),
            "from": "0x" + EXECUTOR.hex(),
            "origin": "0x" + ORIGIN.hex(),
            "receiver": "0x" + EXECUTOR.hex(),
            "slippage": "0.05",
            "disableEstimate": "true",
            "allowPartialFill": "false",
            "compatibility": "true",
            "includeGas": "true",
        }
        assert shop.stall.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("flags", [1, 2, 4, 5])
async def test_a_swap_in_part_with_currency_or_by_signature_is_refused(flags: int):
    async with market("oneinch") as shop:
        shop.stall.lie = lambda deal: replace(deal, flags=flags)
        assert await shop.pools() == []
        assert shop.notices[0].what == "flags that nobody asked for"


async def test_a_wrong_key_closes_the_door_for_a_while():
    async with market("oneinch") as shop:

        async def refuse(_request: web.Request) -> web.StreamResponse:
            body = {"error": "Unauthorized", "description": "no", "statusCode": 401, "meta": [], "requestId": "1"}
            return web.Response(status=401, body=json.dumps(body).encode())

        shop.stall.handler = refuse
        assert await shop.pools() == []
        assert not shop.quoter.is_open


async def test_a_zero_receiver_stands_for_the_caller():
    async with market("oneinch") as shop:
        shop.stall.lie = lambda deal: replace(deal, recipient=Address(bytes(20)))
        assert len(await shop.pools()) == 1
