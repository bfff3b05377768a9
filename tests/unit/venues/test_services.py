"""What all five services have in common: a good answer becomes a pool, and nothing that could hurt gets through."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.exchange import Want
from keeper.domain.program import ALL, StepKind
from keeper.domain.units import NATIVE, Address, TokenAmount
from keeper.errors import ConfigurationError, Stale, Transient
from tests.unit.venues.asking import (
    EXECUTOR,
    GIVE,
    MOST,
    OTHER,
    SERVICES,
    STRANGER,
    TAKE,
    WANT,
    HeadReads,
    market,
)
from tests.unit.venues.service import Deal

NAMES = sorted(SERVICES)


class HangingReads(HeadReads):
    """A node that never answers."""

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        await asyncio.sleep(3600)
        return []


each = pytest.mark.parametrize("name", NAMES)


@each
async def test_every_service_is_asked_for_three_sizes_and_quotes_each(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        sizes = [MOST, MOST // 2, MOST // 4]
        assert [quoted.size for quoted in pool.quoted] == sizes
        assert [quoted.offer.amount for quoted in pool.quoted] == [2 * size for size in sizes]
        assert shop.notices == []
        assert pool.venue == name


@each
async def test_a_swap_takes_the_largest_quoted_amount_that_is_not_more(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        assert pool.pairs == [(GIVE, TAKE)]
        for amount, size in [(MOST, MOST), (MOST + 1, MOST), (MOST - 1, MOST // 2), (MOST // 4, MOST // 4)]:
            swapped = pool.swap(GIVE, TAKE, TokenAmount(amount))
            assert swapped is not None
            assert swapped.amount == 2 * size
            assert pool.step(GIVE, TAKE, amount, 5).amount == size
        assert pool.swap(GIVE, TAKE, TokenAmount(MOST // 4 - 1)) is None
        assert pool.swap(TAKE, GIVE, MOST) is None


@each
async def test_a_pool_that_was_used_has_nothing_more_to_give(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        swapped = pool.swap(GIVE, TAKE, MOST)
        assert swapped is not None
        assert swapped.pool.id == pool.id
        assert swapped.pool.pairs == []
        assert swapped.pool.swap(GIVE, TAKE, MOST) is None


@each
async def test_the_step_hands_the_routers_own_calldata_on_and_bounds_it(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        step = pool.step(GIVE, TAKE, MOST, 1_234)
        assert (step.kind, step.target, step.give, step.take) == (
            StepKind.SWAP_ROUTER,
            shop.service.profile.routers[1],
            GIVE,
            TAKE,
        )
        assert (step.amount, step.limit, step.gas) == (MOST, 1_234, 0)
        assert step.data == pool.quoted[0].offer.data
        assert step.data[:4] in {layout.selector for layout in shop.service.profile.layouts}
        for nothing in (ALL, MOST // 4 - 1):
            with pytest.raises(ValueError, match="no quote"):
                pool.step(GIVE, TAKE, nothing, 0)


@each
async def test_what_a_swap_takes_is_what_the_service_says_within_reason(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        swapped = pool.swap(GIVE, TAKE, MOST)
        assert swapped is not None
        told = pool.quoted[0].offer.gas
        assert swapped.gas == (told or 450_000)
        assert 150_000 <= swapped.gas <= 3_000_000


@each
async def test_the_tolerance_reaches_the_calldatas_own_least_amount(name: str):
    leasts: list[int] = []

    def note(deal: Deal) -> Deal:
        leasts.append(deal.least)
        return deal

    for tolerance_bps in (1, 50, 1000):
        async with market(name, tolerance_bps=tolerance_bps) as shop:
            shop.stall.lie = note
            assert len(await shop.pools()) == 1
    assert {2 * MOST * share // 10_000 for share in (9_999, 9_950, 9_000)} <= set(leasts)


LIES: list[tuple[str, Callable[[Deal], Deal], str]] = [
    ("router", lambda deal: replace(deal, router=STRANGER), "another router"),
    ("recipient", lambda deal: replace(deal, recipient=STRANGER), "another recipient"),
    ("value", lambda deal: replace(deal, value=1), "native currency is to be sent along"),
    ("given token", lambda deal: replace(deal, give=OTHER), "other tokens"),
    ("taken token", lambda deal: replace(deal, take=OTHER), "other tokens"),
    ("turned around", lambda deal: replace(deal, give=deal.take, take=deal.give), "other tokens"),
    ("more given", lambda deal: replace(deal, amount=deal.amount + 1), "another amount"),
    ("all given", lambda deal: replace(deal, amount=0), "another amount"),
    ("no least amount", lambda deal: replace(deal, least=0), "no least amount"),
]


@each
@pytest.mark.parametrize(("lie", "what"), [(lie, what) for _, lie, what in LIES], ids=[name for name, _, _ in LIES])
async def test_an_answer_that_would_do_something_else_is_refused_and_noticed(
    name: str, lie: Callable[[Deal], Deal], what: str
):
    async with market(name) as shop:
        shop.stall.lie = lie
        assert await shop.pools() == []
        assert [(notice.venue, notice.what, notice.is_deceit) for notice in shop.notices] == [(name, what, True)]
        shop.stall.lie = lambda deal: deal
        assert not shop.quoter.is_open
        asked = len(shop.stall.asked)
        assert await shop.pools() == []
        assert len(shop.stall.asked) == asked


@each
async def test_one_lie_among_honest_answers_spoils_them_all(name: str):
    async with market(name) as shop:
        shop.stall.lie = lambda deal: replace(deal, recipient=STRANGER) if deal.amount == MOST // 4 else deal
        assert await shop.pools() == []
        assert not shop.quoter.is_open


@each
@pytest.mark.parametrize(
    ("lie", "what"),
    [
        (
            lambda deal: replace(deal, function=b"\xde\xad\xbe\xef"),
            {"another function of the router", "carries another function"},
        ),
        (lambda deal: replace(deal, least=deal.bought + 1), {"a least amount above the quote"}),
        (lambda deal: replace(deal, least=deal.least * 9 // 10), {"a least amount below the tolerance"}),
    ],
    ids=["function", "least above", "least below"],
)
async def test_an_answer_that_is_no_use_is_left_out(name: str, lie: Callable[[Deal], Deal], what: set[str]):
    async with market(name) as shop:
        shop.stall.lie = lie
        assert await shop.pools() == []
        assert {notice.what for notice in shop.notices} <= what
        assert len(shop.notices) == 1


@each
async def test_calldata_that_is_cut_off_before_a_word_that_matters_is_refused(name: str):
    one = Want(GIVE, TAKE, TokenAmount(1))
    async with market(name) as shop:
        (pool,) = await shop.pools(one)
        whole = pool.quoted[0].offer.data
        words = 7 if name == "odos" else 8
        for length in (0, 3, *range(4, 4 + 32 * words, 32)):
            shop.quoter._door._rests_until_s = 0.0
            shop.stall.lie = lambda deal, cut=whole[:length]: replace(deal, data=cut)  # type: ignore[misc]
            assert await shop.pools(one) == []


@each
async def test_more_calldata_than_the_executor_takes_is_left_out(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        whole = pool.quoted[0].offer.data
        shop.stall.lie = lambda deal: replace(deal, data=whole.ljust(8193, b"\0"))
        assert await shop.pools() == []
        assert [notice.what for notice in shop.notices] == ["more calldata than the executor takes"]


@each
async def test_native_currency_and_odd_wants_are_never_asked_for(name: str):
    odd = [Want(NATIVE, TAKE, MOST), Want(GIVE, NATIVE, MOST), Want(GIVE, GIVE, MOST), Want(GIVE, TAKE, TokenAmount(0))]
    async with market(name) as shop:
        assert await shop.pools(*odd) == []
        assert shop.stall.asked == []


@each
async def test_an_amount_too_small_to_be_parted_is_asked_for_once(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools(Want(GIVE, TAKE, TokenAmount(1)))
        assert [quoted.size for quoted in pool.quoted] == [1]


@each
async def test_only_the_first_wants_are_asked_for(name: str):
    wanted = [Want(GIVE, TAKE, TokenAmount(1)), Want(OTHER, TAKE, TokenAmount(1)), Want(OTHER, TAKE, TokenAmount(2))]
    async with market(name, most_wants=2) as shop:
        assert [(pool.give, pool.quoted[0].size) for pool in await shop.pools(*wanted)] == [(GIVE, 1), (OTHER, 1)]


@each
async def test_a_quote_far_from_what_it_is_worth_is_left_out(name: str):
    async with market(name, fair=lambda _give, _take, amount: TokenAmount(amount * 2)) as shop:
        for price, is_kept in [((206, 100), True), ((207, 100), False), ((141, 100), True), ((139, 100), False)]:
            shop.stall.price = price
            assert bool(await shop.pools()) is is_kept
        assert {notice.what for notice in shop.notices} == {
            "a quote far above what it is worth",
            "a quote far below what it is worth",
        }


@each
async def test_without_a_price_to_compare_with_a_quote_stands_for_itself(name: str):
    async with market(name, fair=lambda _give, _take, _amount: None) as shop:
        shop.stall.price = (1_000_000, 1)
        assert await shop.pools() != []


@pytest.mark.parametrize("name", ["velora", "zerox"])
async def test_an_orphaned_head_ends_the_question_and_an_unread_one_brings_nothing(name: str):
    async with market(name, timeout_ms=100) as shop:
        assert await shop.pools(reads=HeadReads(error=Transient("no node"))) == []
        assert await shop.pools(reads=HangingReads()) == []
        with pytest.raises(Stale):
            await shop.pools(reads=HeadReads(error=Stale("gone")))
        assert shop.stall.asked == []
        assert shop.quoter.is_open


@each
def test_another_router_than_the_services_own_is_refused_on_its_chains(name: str):
    _, service_type = SERVICES[name]
    with pytest.raises(ConfigurationError, match="router"):
        _ = service_type(1, STRANGER).router
    assert service_type(31_337, STRANGER).router == STRANGER
    assert service_type(31_337, STRANGER).profile.url_on(31_337, is_keyed=True) == ""
    profile = service_type(1, Address(bytes(20))).profile
    assert {1, 10, 56, 137, 8453, 42161, 43114} <= profile.routers.keys()
    assert profile.url_on(1, is_keyed=False).startswith("https://")
    assert profile.url_on(1, is_keyed=True).startswith("https://")


@each
async def test_the_executor_is_who_gets_what_is_bought_in_every_question(name: str):
    async with market(name) as shop:
        await shop.pools()
        spoken = [str(fields).lower() for _, _, fields in shop.stall.asked]
        assert any(EXECUTOR.hex() in text for text in spoken)
        assert not any(STRANGER.hex() in text for text in spoken)


@each
async def test_what_never_changes_is_read_once(name: str):
    async with market(name) as shop:
        reads = HeadReads()
        assert await shop.pools(reads=reads)
        first = list[ViewCall](reads.asked)
        assert await shop.pools(reads=reads)
        again = len(first) * (1 if shop.service.profile.views_last else 2)
        assert len(reads.asked) == again
        assert WANT.most == MOST
