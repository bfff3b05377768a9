"""Curve's quotes against pools of our own after its published invariant and interface, made to swap for real."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.abi import Unreadable
from keeper.domain.exchange import Pool, Want
from keeper.domain.program import StepKind
from keeper.domain.units import Address, TokenAmount
from keeper.venues.curve import CurveQuoter
from keeper.venues.samples import Samples, ladder
from tests.unit.venues.memory import Memory, MemoryReads, hexed, quote

DECIMALS = (18, 6, 8)
STRANGER = Address(b"\x99" * 20)
STABLE_FEE = 4_000_000


@dataclass(frozen=True, slots=True)
class Site:
    memory: Memory
    pool: Address
    coins: tuple[Address, ...]
    is_volatile: bool = False

    @property
    def reads(self) -> MemoryReads:
        return MemoryReads(self.memory)

    def want(self, i: int, j: int, most: int) -> Want:
        return Want(self.coins[i], self.coins[j], TokenAmount(most))

    def out(self, want: Want, amount: int) -> int:
        kind = "uint256" if self.is_volatile else "int128"
        places = self.coins.index(want.give), self.coins.index(want.take)
        return self.memory.ask(self.pool, f"get_dy({kind},{kind},uint256)(uint256)", *places, amount)

    async def quotes(self, *wanted: Want) -> list[Pool]:
        return list(await CurveQuoter("curve", self.pool).quotes(self.reads, wanted))


def stable_site(balances: tuple[int, int, int] = (10**6, 10**6, 10**6), amplification: int = 200) -> Site:
    """Return a pool of three coins of different decimals; balances in whole coins."""
    memory = Memory()
    coins = tuple(memory.coin(decimals) for decimals in DECIMALS)
    rates = [10 ** (18 - decimals) for decimals in DECIMALS]
    types = ("address[3]", "uint256[3]", "uint256", "uint256")
    pool = memory.deploy("StableSwap", types, [*map(hexed, coins)], rates, amplification, STABLE_FEE)
    for coin in coins:
        memory.allow(coin, pool)
    amounts = [whole * 10**decimals for whole, decimals in zip(balances, DECIMALS, strict=True)]
    memory.send(pool, "fill(uint256[3])", amounts)
    return Site(memory, pool, coins)


def volatile_site(low_fee: int = 3_000_000, high_fee: int = 30_000_000) -> Site:
    """Return a pool of two coins that holds ten times as much of the second as would balance the first."""
    memory = Memory()
    coins = memory.coin(18), memory.coin(18)
    pool = memory.deploy("VolatileSwap", ("address[2]", "uint256", "uint256"), [*map(hexed, coins)], low_fee, high_fee)
    for coin in coins:
        memory.allow(coin, pool)
    memory.send(pool, "fill(uint256[2])", [10**23, 10**24])
    return Site(memory, pool, coins, is_volatile=True)


async def test_every_direction_is_asked_in_one_batch_once_the_coins_are_known():
    site = stable_site()
    quoter = CurveQuoter("curve", site.pool)
    wanted = [site.want(0, 1, 10**22)]
    first, second = site.reads, site.reads
    (pool,) = await quoter.quotes(first, wanted)
    assert await quoter.quotes(second, wanted) == [pool]
    assert (first.rounds, second.rounds) == (2, 1)
    assert set(pool.pairs) == {(want.give, want.take) for want in wanted}
    assert (pool.id, pool.lock, pool.venue) == (site.pool, site.pool, "curve")


async def test_what_was_asked_is_the_pools_own_answer_and_what_is_between_is_hardly_less():
    site = stable_site((10**6, 400_000, 1_700_000))
    wanted = [site.want(0, 1, 300_000 * 10**18)]
    (pool,) = await site.quotes(*wanted)
    for want in wanted:
        assert [quote(pool, want, amount) for amount in ladder(want.most)] == [
            site.out(want, amount) for amount in ladder(want.most)
        ]
        for amount in range(want.most // 40, want.most, want.most // 11):
            told, real = quote(pool, want, amount), site.out(want, amount)
            assert told <= real <= told + told // 2_000
        assert pool.swap(want.give, want.take, TokenAmount(want.most + 1)) is None


def converged(step: Callable[[int], int], start: int) -> int | None:
    """Return where Newton's method settles; None where it does not, which the contract refuses."""
    value = start
    for _ in range(255):
        before, value = value, step(value)
        if abs(value - before) <= 1:
            return value
    return None


def solved(give: int, take: int, amount: int, scaled: list[int], amplification: int) -> int | None:
    """Return what is left of a coin after an amount of another one: the invariant as the contract solves it."""
    weight, total = 3 * amplification, sum(scaled)

    def invariant(d: int) -> int:
        part = d
        for each in scaled:
            part = part * d // (each * 3)
        return (weight * total + part * 3) * d // ((weight - 1) * d + 4 * part)

    d = converged(invariant, total)
    if d is None:
        return None
    c, rest = d, 0
    for place, held in enumerate(scaled):
        if place != take:
            each = held + amount if place == give else held
            rest, c = rest + each, c * d // (each * 3)
    last, b = c * d // (weight * 3), rest + d // weight - d
    return converged(lambda y: (y * y + last) // (2 * y + b), d)


def stable_out(balances: tuple[int, ...], amplification: int, i: int, j: int, amount: int) -> int | None:
    """Return `get_dy` of our stable pool, computed here."""
    rates = [10 ** (18 - decimals) for decimals in DECIMALS]
    scaled = [whole * 10**18 for whole in balances]
    left = solved(i, j, amount * rates[i], scaled, amplification)
    if left is None or left >= scaled[j]:
        return None
    out = (scaled[j] - left - 1) // rates[j]
    return int(out - out * STABLE_FEE // 10**10)


def test_the_pool_computed_here_is_the_contract():
    balances, amplification = (10**6, 340_000, 2_500_000), 57
    site = stable_site(balances, amplification)
    for i, j in permutations(range(3), 2):
        amount = balances[i] * 10 ** DECIMALS[i] // 7 + 1_234_567
        told = site.out(site.want(i, j, 1), amount)
        assert told == stable_out(balances, amplification, i, j, amount)


@given(
    balances=st.tuples(*[st.integers(10**3, 10**7)] * 3),
    amplification=st.integers(2, 5_000),
    places=st.sampled_from(list(permutations(range(3), 2))),
    share=st.integers(1, 2_000),
    parts=st.lists(st.integers(1, 10**6), min_size=1, max_size=8),
)
def test_no_quote_of_any_stable_pool_is_more_than_the_pool_gives(
    balances: tuple[int, int, int], amplification: int, places: tuple[int, int], share: int, parts: list[int]
):
    i, j = places
    most = balances[i] * 10 ** DECIMALS[i] * share // 1_000
    samples = Samples.of((each, stable_out(balances, amplification, i, j, each)) for each in ladder(most))
    if samples is None:
        assert stable_out(balances, amplification, i, j, most) is None
        return
    for amount in (max(1, most * part // 10**6) for part in parts):
        told, real = samples.out(amount), stable_out(balances, amplification, i, j, amount)
        assert told is None or real is None or told <= real


@pytest.mark.parametrize("site", [stable_site, volatile_site])
async def test_the_step_names_the_exchange_that_brings_what_was_quoted(site: Callable[[], Site]):
    stand = site()
    want = stand.want(1, 0, 10**9)
    (pool,) = await stand.quotes(want)
    least = quote(pool, want, 10**9)
    step = pool.step(want.give, want.take, 10**9, least)
    assert (step.kind, step.target, step.give, step.take) == (StepKind.SWAP_CURVE, stand.pool, want.give, want.take)
    i, j, is_uint256 = (int.from_bytes(step.data[at : at + 32]) for at in (0, 32, 64))
    kind = "uint256" if is_uint256 else "int128"
    before = stand.memory.balance(want.take)
    stand.memory.send(stand.pool, f"exchange({kind},{kind},uint256,uint256)", i, j, step.amount, step.limit)
    assert stand.memory.balance(want.take) - before == least


async def test_a_pool_that_was_used_offers_nothing_until_it_is_asked_again():
    site = stable_site()
    want = site.want(0, 1, 10**22)
    (pool,) = await site.quotes(want, site.want(1, 0, 10**10))
    swapped = pool.swap(want.give, want.take, TokenAmount(10**21))
    assert swapped is not None
    assert swapped.gas > 0
    assert swapped.pool.id == pool.id
    assert swapped.pool.pairs == ()
    assert swapped.pool.swap(want.give, want.take, TokenAmount(1)) is None


async def test_where_a_larger_amount_gets_a_better_rate_no_line_promises_more_than_the_pool_gives():
    site = volatile_site(0, 9_000_000_000)  # most of it, until the trade has balanced the pool
    want = site.want(0, 1, 2 * 10**22)
    amounts = ladder(want.most)[::4]
    answers = [site.out(want, amount) for amount in amounts]
    rates = [(b - a) / (y - x) for a, b, x, y in zip(answers, answers[1:], amounts, amounts[1:], strict=False)]
    assert any(later > earlier for earlier, later in pairwise(rates))  # it is not concave
    (pool,) = await site.quotes(want)
    for amount in range(want.most // 500, want.most, want.most // 97):
        assert quote(pool, want, amount) <= site.out(want, amount)


async def test_a_killed_pool_that_still_tells_a_rate_offers_nothing():
    site = stable_site()
    want = site.want(0, 1, 10**20)
    assert await site.quotes(want)
    site.memory.send(site.pool, "kill(bool)", True)
    assert site.out(want, 10**20) > 0
    assert await site.quotes(want) == []


async def test_other_coins_the_same_coin_and_nothing_are_not_asked_about():
    site = stable_site()
    other = Want(site.coins[0], STRANGER, TokenAmount(1))
    assert await site.quotes(other, site.want(0, 0, 5), site.want(0, 1, 0)) == []
    (pool,) = await site.quotes(other, site.want(0, 1, 10**20))
    assert pool.pairs == ((site.coins[0], site.coins[1]),)


async def test_a_pool_that_says_more_than_any_token_has_is_left_out():
    site = volatile_site()
    want, quoter = site.want(0, 1, 10**22), CurveQuoter("curve", site.pool)
    assert await quoter.quotes(site.reads, [want])
    site.memory.send(site.pool, "lie(uint256)", 1)
    assert await quoter.quotes(site.reads, [want]) == []


async def test_a_pool_that_gives_less_for_more_is_believed_only_as_far_as_it_rises():
    site = volatile_site()
    want, quoter = site.want(0, 1, 10**22), CurveQuoter("curve", site.pool)
    assert await quoter.quotes(site.reads, [want])
    site.memory.send(site.pool, "lie(uint256)", 2)
    (pool,) = await quoter.quotes(site.reads, [want])
    first, second, *_ = ladder(want.most)
    assert pool.swap(want.give, want.take, TokenAmount(first)) is not None
    assert pool.swap(want.give, want.take, TokenAmount(second)) is None


async def test_what_is_no_pool_says_so_and_is_asked_again_later():
    memory = Memory()
    coin = memory.coin(18)
    quoter = CurveQuoter("curve", coin)
    reads = MemoryReads(memory)
    want = Want(coin, STRANGER, TokenAmount(1))
    for rounds in (1, 2):
        with pytest.raises(Unreadable):
            await quoter.quotes(reads, [want])
        assert reads.rounds == rounds
