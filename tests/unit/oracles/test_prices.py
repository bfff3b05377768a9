"""Prices in US dollars: a token's own feed before the oracle, and nothing where neither says one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from keeper.domain import abi
from keeper.domain.abi import number_word, view
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.units import NATIVE, Address
from keeper.oracles.prices import GET_PRICE, Prices
from tests.toy import address, head

WRAPPED, TOKEN, ODD, ORACLE, FEED = (address(number) for number in range(1, 6))
DOLLAR = 10**8


@dataclass
class FakeSources:
    """Implements `ports.Reads` from a table; whatever is not in it reverts."""

    answers: dict[ViewCall, bytes] = field(default_factory=dict)
    asked: list[ViewCall] = field(default_factory=list)
    head: BlockHead = field(default_factory=head)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.asked += calls
        return [ViewResult(ok=each in self.answers, data=self.answers.get(each, b"")) for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def feed(self, answer: int, decimals: int, *, at: Address = FEED) -> None:
        rounds = (7, answer, 5, 6, 7)
        self.answers[view(at, abi.LATEST_ROUND)] = b"".join(map(number_word, rounds))
        self.answers[view(at, abi.DECIMALS)] = number_word(decimals)

    def oracle(self, prices: Mapping[Address, int]) -> None:
        for token, price in prices.items():
            self.answers[view(ORACLE, GET_PRICE, abi.address_word(token))] = number_word(price)


async def test_a_tokens_own_feed_counts_before_the_oracle() -> None:
    sources = FakeSources()
    sources.feed(3 * DOLLAR, 8)
    sources.oracle({TOKEN: 9 * DOLLAR, ODD: 5 * DOLLAR, WRAPPED: 2_000 * DOLLAR})
    prices = Prices(WRAPPED, ORACLE, {TOKEN: FEED})
    assert await prices.read(sources, [TOKEN, ODD]) == {
        TOKEN: 3 * DOLLAR,
        ODD: 5 * DOLLAR,
        WRAPPED: 2_000 * DOLLAR,
        NATIVE: 2_000 * DOLLAR,
    }
    assert view(ORACLE, GET_PRICE, abi.address_word(TOKEN)) not in sources.asked


async def test_a_feed_that_fails_is_not_replaced_by_the_oracle() -> None:
    sources = FakeSources()
    sources.oracle({TOKEN: 9 * DOLLAR})
    assert await Prices(WRAPPED, ORACLE, {TOKEN: FEED}).read(sources, [TOKEN]) == {}


@pytest.mark.parametrize(
    ("answer", "decimals", "price"),
    [
        (3 * 10**18, 18, 3 * DOLLAR),
        (3, 0, 3 * DOLLAR),
        (199_999_999_999, 18, 19),
        (10**10 - 1, 18, None),
        (10**36, 36, DOLLAR),
        (10**37, 37, None),
        (5 * DOLLAR, 2**255, None),
        (0, 8, None),
        (-5 * DOLLAR, 8, None),
        (2**128, 8, None),
    ],
)
async def test_a_feeds_answer_is_scaled_to_eight_decimals_rounded_down(
    answer: int, decimals: int, price: int | None
) -> None:
    sources = FakeSources()
    sources.feed(answer, decimals)
    found = await Prices(WRAPPED, None, {TOKEN: FEED}).read(sources, [TOKEN])
    assert found == ({} if price is None else {TOKEN: price})


async def test_a_feed_without_decimals_and_one_without_a_round_price_nothing() -> None:
    for missing in (abi.DECIMALS, abi.LATEST_ROUND):
        sources = FakeSources()
        sources.feed(3 * DOLLAR, 8)
        del sources.answers[view(FEED, missing)]
        assert await Prices(WRAPPED, None, {TOKEN: FEED}).read(sources, [TOKEN]) == {}


@pytest.mark.parametrize("word", [number_word(0), number_word(2**128), number_word(-1), b"\x01", b"", bytes(64)])
async def test_what_the_oracle_says_that_is_no_price_is_left_out(word: bytes) -> None:
    sources = FakeSources()
    sources.oracle({ODD: 5 * DOLLAR})
    sources.answers[view(ORACLE, GET_PRICE, abi.address_word(TOKEN))] = word
    assert await Prices(WRAPPED, ORACLE).read(sources, [TOKEN, ODD]) == {ODD: 5 * DOLLAR}


async def test_native_currency_is_priced_as_the_token_that_wraps_it_and_never_asked_for() -> None:
    sources = FakeSources()
    sources.feed(1_800 * 10**6, 6)
    prices = Prices(WRAPPED, ORACLE, {WRAPPED: FEED})
    assert await prices.read(sources, [NATIVE]) == {WRAPPED: 1_800 * DOLLAR, NATIVE: 1_800 * DOLLAR}
    assert {call.to for call in sources.asked} == {FEED}
    assert all(call.data.find(NATIVE) == -1 for call in sources.asked)


async def test_without_any_source_nothing_is_asked_and_nothing_priced() -> None:
    sources = FakeSources()
    assert await Prices(WRAPPED).read(sources, [TOKEN]) == {}
    assert sources.asked == []
