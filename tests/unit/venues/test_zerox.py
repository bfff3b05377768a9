"""0x: the AllowanceHolder flavour, and only through a Settler that the registry knows."""

from dataclasses import replace

import pytest
from eth_utils.address import to_checksum_address

from keeper.domain.units import Address
from keeper.venues.zerox import ALLOWANCE_HOLDER, EXEC, REGISTRY, ZeroEx
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, ORIGIN, STRANGER, TAKE, HeadReads, market, settlers
from tests.unit.venues.service import KEY, SETTLER, ZeroExStall

NEXT = b"\x5f" * 20


def test_the_contracts_and_the_function_are_the_published_ones():
    assert to_checksum_address(ALLOWANCE_HOLDER) == "0x0000000000001fF3684f28c67538d4D072C22734"
    assert to_checksum_address(REGISTRY) == "0x00000000000004533Fe15556B1E086BB1A72cEae"
    assert EXEC.selector.hex() == "2213bc0b"
    assert [call.data[:4].hex() for call in ZeroEx(1, ALLOWANCE_HOLDER).views([])] == ["6352211e", "e2603dc2"]
    assert {call.to for call in ZeroEx(1, ALLOWANCE_HOLDER).views([])} == {REGISTRY}


async def test_the_question_is_the_documented_one():
    async with market("zerox", tolerance_bps=75) as shop:
        await shop.pools()
        method, path, fields = shop.stall.asked[0]
        assert (method, path) == ("GET", "/swap/allowance-holder/quote")
        assert fields == {
            "chainId": "1",
            "sellToken": "0x" + GIVE.hex(),
            "buyToken": "0x" + TAKE.hex(),
            "sellAmount": str(MOST),
            "taker": "0x" + EXECUTOR.hex(),
            "txOrigin": "0x" + ORIGIN.hex(),
            "recipient": "0x" + EXECUTOR.hex(),
            "slippageBps": "75",
        }
        assert (shop.stall.headers[0]["0x-api-key"], shop.stall.headers[0]["0x-version"]) == (KEY, "v2")


@pytest.mark.parametrize(
    ("current", "before", "is_good"),
    [
        (SETTLER, None, True),
        (SETTLER, NEXT, True),
        (NEXT, SETTLER, True),
        (NEXT, None, False),
        (NEXT, STRANGER, False),
        (None, SETTLER, False),
        (b"", b"", False),
        (b"\x01" * 12 + SETTLER, None, False),
    ],
    ids=[
        "current",
        "with another before",
        "the one before",
        "replaced",
        "long replaced",
        "paused",
        "silent",
        "no address",
    ],
)
async def test_a_settler_is_trusted_only_as_the_registry_tells_at_the_head(
    current: bytes | None, before: bytes | None, is_good: bool
):
    async with market("zerox") as shop:
        pools = await shop.pools(reads=HeadReads(settlers(current, before)))
        assert bool(pools) is is_good
        assert [notice.what for notice in shop.notices] == (
            [] if is_good else ["a contract that is not the service's own"]
        )


@pytest.mark.parametrize("place", ["operator", "target"])
@pytest.mark.parametrize("who", [STRANGER, GIVE, EXECUTOR, Address(bytes(20))])
async def test_nobody_else_may_take_the_token_or_be_called(place: str, who: Address):
    async with market("zerox") as shop:
        shop.stall.lie = lambda deal: replace(deal, **{place: who})  # type: ignore[arg-type]
        assert await shop.pools() == []
        assert shop.notices[0].is_deceit


async def test_a_zero_recipient_is_refused():
    async with market("zerox") as shop:
        shop.stall.lie = lambda deal: replace(deal, recipient=Address(bytes(20)))
        assert await shop.pools() == []
        assert shop.notices[0].what == "another recipient"


async def test_no_liquidity_is_no_fault_of_the_service():
    async with market("zerox") as shop:
        assert isinstance(shop.stall, ZeroExStall)
        shop.stall.liquid = False
        for _ in range(4):
            assert await shop.pools() == []
        assert shop.quoter.is_open
        shop.stall.liquid = True
        assert len(await shop.pools()) == 1


async def test_the_registry_is_asked_at_every_head():
    async with market("zerox") as shop:
        assert len(await shop.pools()) == 1
        assert await shop.pools(reads=HeadReads(settlers(NEXT, None))) == []
