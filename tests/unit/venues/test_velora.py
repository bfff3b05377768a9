"""Velora: exactly the documented question, and its documented answers."""

import pytest
from eth_utils.address import to_checksum_address

from keeper.domain.abi import DECIMALS, number_word, view
from keeper.domain.chain import ViewResult
from keeper.venues.velora import AUGUSTUS, SWAP_EXACT_AMOUNT_IN
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, TAKE, HeadReads, market


def test_the_router_and_its_function_are_the_published_ones():
    assert to_checksum_address(AUGUSTUS) == "0x6A000F20005980200259B80c5102003040001068"
    assert SWAP_EXACT_AMOUNT_IN.selector.hex() == "e3ead59e"


async def test_the_question_is_the_documented_one():
    async with market("velora", tolerance_bps=75) as shop:
        await shop.pools()
        method, path, fields = shop.stall.asked[0]
        assert (method, path) == ("GET", "/swap")
        assert fields == {
            "srcToken": "0x" + GIVE.hex(),
            "srcDecimals": "18",
            "destToken": "0x" + TAKE.hex(),
            "destDecimals": "6",
            "amount": str(MOST),
            "side": "SELL",
            "network": "1",
            "userAddress": "0x" + EXECUTOR.hex(),
            "receiver": "0x" + EXECUTOR.hex(),
            "slippage": "75",
            "version": "6.2",
            "includeContractMethods": "swapExactAmountIn",
            "ignoreBadUsdPrice": "true",
        }


@pytest.mark.parametrize(
    "told", [ViewResult(ok=False, data=b""), ViewResult(ok=True, data=number_word(78))], ids=["reverts", "absurd"]
)
async def test_a_token_without_decimals_is_not_asked_for(told: ViewResult):
    async with market("velora") as shop:
        assert await shop.pools(reads=HeadReads({view(GIVE, DECIMALS): told})) == []
        assert shop.stall.asked == []
        assert shop.quoter.is_open
        assert shop.notices == []


async def test_a_token_that_once_told_no_decimals_is_asked_again():
    async with market("velora") as shop:
        assert await shop.pools(reads=HeadReads({view(GIVE, DECIMALS): ViewResult(ok=False, data=b"")})) == []
        assert len(await shop.pools()) == 1


async def test_a_token_that_answers_too_little_counts_as_no_answer():
    async with market("velora") as shop:
        assert await shop.pools(reads=HeadReads({view(GIVE, DECIMALS): ViewResult(ok=True, data=b"\x12")})) == []
        assert shop.stall.asked == []
        assert shop.notices == []
