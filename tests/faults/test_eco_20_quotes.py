"""A service that quotes swaps turns on us: none of what it writes becomes a step, and nobody waits for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import pytest
from eth_abi.abi import encode

from keeper.domain.abi import selector
from keeper.domain.program import StepKind
from keeper.domain.units import MAX_UINT256, Address
from keeper.venues.oneinch import ROUTER as ONE_INCH
from tests.unit.venues.asking import EXECUTOR, GIVE, MOST, OTHER, SERVICES, STRANGER, TAKE, HeadReads, market, settlers
from tests.unit.venues.service import Deal

NAMES = sorted(SERVICES)

Lie = Callable[[Deal], Deal]

LIES: dict[str, Lie] = {
    "to a stranger": lambda deal: replace(deal, recipient=STRANGER),
    "through another contract": lambda deal: replace(deal, router=STRANGER),
    "through the token": lambda deal: replace(deal, router=GIVE),
    "of another token": lambda deal: replace(deal, give=OTHER),
    "into a worthless token": lambda deal: replace(deal, take=STRANGER),
    "of everything": lambda deal: replace(deal, amount=MAX_UINT256),
    "for nothing": lambda deal: replace(deal, least=0),
    "with native currency": lambda deal: replace(deal, value=10**18),
    "by an unknown function": lambda deal: replace(deal, function=b"\xde\xad\xbe\xef"),
}


def pairs() -> Iterator[tuple[str, Lie]]:
    for (one, first), (two, second) in combinations(LIES.items(), 2):
        yield f"{one}, {two}", lambda deal, first=first, second=second: second(first(deal))  # type: ignore[misc]


def stolen(function: str, *words: object) -> bytes:
    """Return calldata of a token's own function."""
    types = function[function.index("(") + 1 : -1].split(",")
    return selector(function) + encode(types, words)


THEFTS = {
    "approve": stolen("approve(address,uint256)", STRANGER, MAX_UINT256),
    "transfer": stolen("transfer(address,uint256)", STRANGER, MOST),
    "transferFrom": stolen("transferFrom(address,address,uint256)", EXECUTOR, STRANGER, MOST),
    "ownership": stolen("transfer_ownership(address)", STRANGER),
}


@pytest.mark.parametrize("name", NAMES)
async def test_eco_20_no_lie_becomes_a_step(name: str):
    for lie in LIES.values():
        async with market(name) as shop:
            shop.stall.lie = lie
            assert await shop.pools() == []
            assert len(shop.notices) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_eco_20_lies_do_not_cover_for_each_other(name: str):
    for _, lie in pairs():
        async with market(name) as shop:
            shop.stall.lie = lie
            assert await shop.pools() == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", THEFTS.values(), ids=THEFTS.keys())
async def test_eco_20_a_call_of_the_token_itself_is_refused_wherever_it_goes(name: str, data: bytes):
    for router in (None, GIVE, TAKE, EXECUTOR, STRANGER):
        async with market(name) as shop:
            shop.stall.lie = lambda deal, to=router: replace(deal, router=to or deal.router, data=data)  # type: ignore[misc]
            assert await shop.pools() == []


@pytest.mark.parametrize("who", [STRANGER, GIVE, ONE_INCH, EXECUTOR, Address(bytes(20))])
async def test_eco_20_an_allowance_is_lent_to_nobody_but_the_registered_settler(who: Address):
    for lie in (
        lambda deal: replace(deal, operator=who),
        lambda deal: replace(deal, target=who),
        lambda deal: replace(deal, operator=who, target=who),
    ):
        async with market("zerox") as shop:
            shop.stall.lie = lie
            assert await shop.pools(reads=HeadReads(settlers(b"\x5e" * 20, b"\x5f" * 20))) == []
            assert shop.notices[0].is_deceit


@pytest.mark.parametrize("name", NAMES)
async def test_eco_20_a_liar_is_not_asked_again_for_a_while(name: str):
    async with market(name) as shop:
        shop.stall.lie = LIES["to a stranger"]
        await shop.pools()
        asked = len(shop.stall.asked)
        shop.stall.lie = lambda deal: deal
        for _ in range(3):
            assert await shop.pools() == []
        assert len(shop.stall.asked) == asked


@pytest.mark.parametrize("name", NAMES)
async def test_eco_20_a_quote_that_is_too_good_is_not_believed(name: str):
    async with market(name, fair=lambda _give, _take, amount: amount) as shop:
        shop.stall.price = (1_000, 1)
        assert await shop.pools() == []
        shop.stall.price = (1, 1)
        assert len(await shop.pools()) == 1


@pytest.mark.parametrize("name", NAMES)
async def test_eco_20_an_honest_answer_becomes_a_step_that_the_executor_bounds_by_itself(name: str):
    async with market(name) as shop:
        (pool,) = await shop.pools()
        step = pool.step(GIVE, TAKE, MOST, 2 * MOST)
        assert step.kind is StepKind.SWAP_ROUTER
        assert (step.target, step.give, step.take) == (shop.service.profile.routers[1], GIVE, TAKE)
        assert (step.amount, step.limit) == (MOST, 2 * MOST)
        assert step.data.count(EXECUTOR) == (0 if name == "velora" else 1)
        assert step.data.count(STRANGER) == 0
