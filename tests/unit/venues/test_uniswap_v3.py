"""Uniswap v3 from a chain that is a few dictionaries: what is asked when, and what becomes of nonsense."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import pytest

from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.exchange import Lender, Lenders, Pool, Venue
from keeper.domain.program import Step, StepKind
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, BlockHash, TokenAmount, TxHash
from keeper.errors import Invalid, Transient, Unsafe
from keeper.venues import uniswap_v3_factory as v3
from keeper.venues.ticks import MAX_PRICE, MAX_TICK, MIN_PRICE, MIN_TICK, price_at
from keeper.venues.uniswap_v3 import UniswapV3
from keeper.venues.uniswap_v3_factory import UniswapV3Factory
from keeper.venues.uniswap_v3_flash import UniswapV3Flash
from keeper.venues.uniswap_v3_pool import SWAP_GAS, TICK_GAS, Ladder, Listing, UniswapV3Pool, stand
from tests.toy import head

FACTORY = Address(b"\xfa" * 20)
GOLD, CASH, SALT = (Address(bytes([each]) * 20) for each in (1, 2, 3))
SPACINGS = {500: 10, 3_000: 60}
DEEP = 10**21


@dataclass
class State:
    """What a pool's contract holds."""

    spacing: int
    nets: dict[int, int]
    price: int
    tick: int
    liquidity: int
    balances: dict[Address, int] = field(default_factory=dict)


def around(tick: int, spacing: int, size: int = DEEP) -> State:
    """Return a pool with one wide position and a narrow one."""
    place = tick // spacing * spacing
    nets = {place - 100 * spacing: size, place - spacing: size, place + 2 * spacing: -size, place + 90 * spacing: -size}
    return State(spacing, nets, price_at(tick), tick, 2 * size)


class Chain:
    """Answers as the contracts would, at one head; `broken` are pools that answer something else."""

    def __init__(self) -> None:
        self.number = 100
        self.pools: dict[tuple[Address, Address, int], State] = {}
        self.broken: dict[Address, bytes] = {}
        self.fails = False
        self.asked: list[ViewCall] = []
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def head(self) -> BlockHead:
        return head(self.number)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        if self.fails:
            raise Transient("nobody answers")
        self.asked += calls
        self.meanwhile()
        return [self.answer(each) for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def answer(self, call: ViewCall) -> ViewResult:
        if call.to in self.broken:
            return ViewResult(ok=bool(self.broken[call.to]), data=self.broken[call.to])
        for key, state in self.pools.items():
            if call.to == place(*key):
                return ViewResult(ok=True, data=b"".join(map(number_word, self.told(state, call))))
            for token, balance in state.balances.items():
                if call == view(token, bytes.fromhex("70a08231"), address_word(place(*key))):
                    return ViewResult(ok=True, data=number_word(balance))
        spacing = {view(FACTORY, v3.FEE_SPACING, number_word(fee)): each for fee, each in SPACINGS.items()}
        pools = {
            view(FACTORY, v3.GET_POOL, *map(address_word, key[:2]), number_word(key[2])): place(*key)
            for key in self.pools
        }
        if call.to != FACTORY:
            return ViewResult(ok=True, data=b"")
        return ViewResult(
            ok=True, data=address_word(pools[call]) if call in pools else number_word(spacing.get(call, 0))
        )

    @staticmethod
    def told(state: State, call: ViewCall) -> list[int]:
        function, argument = call.data[:4], int.from_bytes(call.data[4:], "big", signed=True)
        if function == v3.SLOT0:
            return [state.price, state.tick, 0, 1, 1, 0, 1]
        if function == v3.LIQUIDITY:
            return [state.liquidity]
        if function == v3.TICK_BITMAP:
            places = (tick // state.spacing for tick in state.nets)
            return [sum(1 << each % 256 for each in places if each // 256 == argument)]
        assert function == v3.TICKS
        net = state.nets.get(argument, 0)
        return [abs(net), net, 0, 0, 0, 0, 0, argument in state.nets]


def place(one: Address, other: Address, fee: int) -> Address:
    factory = UniswapV3Factory("u", FACTORY, v3.INIT_CODE_HASH, ())
    factory._spacings = SPACINGS
    return factory._listing(one, other, fee).address


def log(address: Address, *topics: bytes, block: int = 101, data: bytes = b"") -> Log:
    return Log(address, topics, data, block, BlockHash(bytes(32)), 0, TxHash(bytes(32)))


def minted(address: Address, low: int, high: int, block: int = 101) -> Log:
    return log(address, v3.MINT, address_word(GOLD), number_word(low), number_word(high), block=block)


SWAPPED_POOL = place(GOLD, CASH, 500)
OTHER_POOL = place(CASH, SALT, 3_000)


@pytest.fixture
def chain() -> Chain:
    made = Chain()
    made.pools = {(GOLD, CASH, 500): around(205, 10), (CASH, SALT, 3_000): around(-50_000, 60)}
    return made


def pairs(*tokens: Address) -> list[tuple[Address, Address]]:
    """Return every two of some tokens, sorted."""
    return list(combinations(sorted(set(tokens)), 2))


async def found(chain: Chain, tokens: Sequence[Address] = (GOLD, CASH, SALT), window: int = 2_500) -> UniswapV3:
    venue = UniswapV3("u", FACTORY, window=window)
    await venue.discover(chain, pairs(*tokens))
    return venue


async def ids(venue: UniswapV3, chain: Chain) -> list[bytes]:
    return [each.id for each in await venue.pools(chain)]


def asked_of(chain: Chain) -> set[Address]:
    return {each.to for each in chain.asked}


async def test_it_is_what_the_engine_expects(chain: Chain):
    venue: Venue = await found(chain)
    pool: Pool = (await venue.pools(chain))[0]
    flash: Lenders = UniswapV3Flash("u", FACTORY)
    assert flash.name == venue.name == pool.venue == "u"


async def test_pools_are_found_for_every_pair_and_fee_and_not_looked_for_twice(chain: Chain):
    venue = await found(chain, (CASH, GOLD, NATIVE, ZERO_ADDRESS))
    assert await ids(venue, chain) == [SWAPPED_POOL]
    chain.asked.clear()
    await venue.discover(chain, pairs(GOLD, CASH, SALT))
    assert len(chain.asked) == 2 * len(SPACINGS)  # the new pairs alone
    assert set(await ids(venue, chain)) == {SWAPPED_POOL, OTHER_POOL}
    assert venue.head_filter.addresses == {FACTORY, SWAPPED_POOL, OTHER_POOL}


@pytest.mark.parametrize(
    ("factory", "deployer", "code", "tokens", "pool"),
    [
        (
            "1f98431c8ad98523631ae4a59f267346ea31f984",
            None,
            v3.INIT_CODE_HASH.hex(),
            ("a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48", "c02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"),
            "88e6a0c2ddd26feeb64f039a2c41296fcb3f5640",
        ),
        (
            "0bfbcf9fa4f9c56b0f40a671ad40e0805a091865",
            "41ff9aa7e16b8b1a8a8dc4f0efacd93d02d071c9",
            "6ce8eb472fa82df5469c6ab6d485f17c3ad13c8cd7af59b3d4a8026c5ce0f7e2",
            ("55d398326f99059ff775485246999027b3197955", "bb4cdb9cbd36b01bd1cbaebf2de08d9173bc095c"),
            "36696169c63e42cd08ce11f5deebbcebae652050",
        ),
    ],
    ids=["USDC/WETH of Uniswap on Ethereum", "USDT/WBNB of PancakeSwap on BNB"],
)
async def test_real_pools_are_where_they_are_computed(
    factory: str, deployer: str | None, code: str, tokens: tuple[str, str], pool: str
):
    one, other = (Address(bytes.fromhex(each)) for each in tokens)
    maker = None if deployer is None else Address(bytes.fromhex(deployer))
    root = Address(bytes.fromhex(factory))
    seen = UniswapV3Factory("u", root, bytes.fromhex(code), (500,), maker)
    answers = {v3.FEE_SPACING: number_word(10), v3.GET_POOL: address_word(Address(bytes.fromhex(pool)))}
    chain = Chain()
    chain.answer = lambda call: ViewResult(ok=True, data=answers[call.data[:4]])  # type: ignore[method-assign]
    (listing,) = await seen.find(chain, [(one, other)])
    assert listing.address.hex() == pool
    assert listing.deployer == (maker or root)


async def test_a_swap_of_pancakeswap_is_one_too(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    chain.asked.clear()
    assert v3.SWAP_PANCAKE in venue.head_filter.topics
    venue.follow([log(SWAPPED_POOL, v3.SWAP_PANCAKE)])
    await venue.pools(chain)
    assert asked_of(chain) == {SWAPPED_POOL}


async def test_only_what_changed_is_read_again(chain: Chain):
    venue = await found(chain)
    before = {each.id: each for each in await venue.pools(chain)}
    chain.asked.clear()
    assert len(await venue.pools(chain)) == 2
    assert not chain.asked
    state = chain.pools[GOLD, CASH, 500]
    state.price, state.tick = price_at(207) + 5, 207
    venue.follow([log(SWAPPED_POOL, v3.SWAP), log(Address(b"\x99" * 20), v3.SWAP), log(OTHER_POOL, b"\x77" * 32)])
    chain.number = 101
    after = {each.id: each for each in await venue.pools(chain)}
    assert [each.data[:4] for each in chain.asked] == [v3.SLOT0, v3.LIQUIDITY]
    assert asked_of(chain) == {SWAPPED_POOL}
    assert after[OTHER_POOL] is before[OTHER_POOL]
    assert after[SWAPPED_POOL].tick == 207
    assert after[SWAPPED_POOL].ladder is before[SWAPPED_POOL].ladder


async def test_ticks_that_a_position_begins_and_ends_at_are_read_again(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    state = chain.pools[GOLD, CASH, 500]
    state.nets[100], state.nets[300] = 7, -7
    del state.nets[190], state.nets[220]
    state.liquidity = DEEP + 7
    chain.asked.clear()
    venue.follow([minted(SWAPPED_POOL, 100, 300), minted(SWAPPED_POOL, 190, 220)])
    (pool,) = (each for each in await venue.pools(chain) if each.id == SWAPPED_POOL)
    assert len(chain.asked) == 6
    assert pool.ladder.nets == state.nets
    assert pool.liquidity == state.liquidity


async def test_ticks_beyond_what_is_known_are_not_asked_for(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    chain.asked.clear()
    venue.follow([minted(SWAPPED_POOL, -887_270, 887_270)])
    chain.pools[GOLD, CASH, 500].nets |= {-887_270: DEEP, 887_270: -DEEP}
    chain.pools[GOLD, CASH, 500].liquidity += DEEP
    pools = {each.id: each for each in await venue.pools(chain)}
    assert pools[SWAPPED_POOL].liquidity == 3 * DEEP  # the liquidity of all ticks is known to be new: all were read
    assert v3.TICK_BITMAP in {each.data[:4] for each in chain.asked}


async def test_a_ladder_that_no_longer_fits_is_read_anew(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    state = chain.pools[GOLD, CASH, 500]
    state.nets[100], state.nets[300] = 7, -7  # and no log told
    state.liquidity += 7
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    (pool,) = (each for each in await venue.pools(chain) if each.id == SWAPPED_POOL)
    assert pool.ladder.nets == state.nets


async def test_distrust_has_everything_read_again(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    state = chain.pools[GOLD, CASH, 500]
    state.nets[100], state.nets[150] = 7, -7  # what the swap alone would not show
    venue.distrust()
    pools = {each.id: each for each in await venue.pools(chain)}
    assert pools[SWAPPED_POOL].ladder.nets == state.nets


async def test_a_failed_read_forgets_nothing(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    chain.pools[GOLD, CASH, 500].tick, chain.pools[GOLD, CASH, 500].price = 209, price_at(209)
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    chain.fails = True
    with pytest.raises(Transient):
        await venue.pools(chain)
    chain.fails = False
    assert [each.tick for each in await venue.pools(chain) if each.id == SWAPPED_POOL] == [209]


async def test_what_is_noted_during_a_read_is_read_by_the_next(chain: Chain):
    venue = await found(chain)
    chain.meanwhile = lambda: venue.follow([log(SWAPPED_POOL, v3.SWAP, block=chain.number)])
    await venue.pools(chain)
    chain.meanwhile = lambda: None
    chain.asked.clear()
    await venue.pools(chain)
    assert asked_of(chain) == {SWAPPED_POOL}


async def test_a_log_of_a_later_block_outlasts_a_read_of_an_earlier_one(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    venue.follow([log(SWAPPED_POOL, v3.SWAP, block=102)])
    chain.asked.clear()
    for chain.number, count in ((101, 2), (102, 4), (103, 4)):
        await venue.pools(chain)
        assert len(chain.asked) == count


@pytest.mark.parametrize(
    "nonsense", [b"", b"\x01", b"\xff" * 320, number_word(price_at(300)) + number_word(5) + bytes(224)]
)
async def test_a_pool_that_answers_nonsense_is_left_out_until_it_does_not(chain: Chain, nonsense: bytes):
    venue = await found(chain)
    chain.broken = {SWAPPED_POOL: nonsense}
    assert await ids(venue, chain) == [OTHER_POOL]
    chain.broken = {}
    assert set(await ids(venue, chain)) == {SWAPPED_POOL, OTHER_POOL}
    chain.broken = {SWAPPED_POOL: nonsense}
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    assert await ids(venue, chain) == [OTHER_POOL]
    chain.broken = {}
    assert set(await ids(venue, chain)) == {SWAPPED_POOL, OTHER_POOL}


async def test_liquidity_that_its_ticks_contradict_is_nonsense(chain: Chain):
    chain.pools[GOLD, CASH, 500].liquidity = 1
    venue = await found(chain)
    assert await ids(venue, chain) == [OTHER_POOL]


async def test_a_pool_has_no_quote_before_it_has_a_price_and_liquidity(chain: Chain):
    state = chain.pools[GOLD, CASH, 500]
    chain.pools[GOLD, CASH, 500] = State(10, {}, 0, 0, 0)
    venue = await found(chain)
    assert await ids(venue, chain) == [OTHER_POOL]
    chain.asked.clear()
    chain.pools[GOLD, CASH, 500] = State(10, {}, state.price, state.tick, 0)
    venue.follow([log(SWAPPED_POOL, v3.INITIALIZE)])
    assert await ids(venue, chain) == [OTHER_POOL]
    assert asked_of(chain) == {SWAPPED_POOL}
    chain.pools[GOLD, CASH, 500] = state
    venue.follow([minted(SWAPPED_POOL, low, high) for low, high in ((-795, 1105), (190, 220))])
    assert set(await ids(venue, chain)) == {SWAPPED_POOL, OTHER_POOL}


@pytest.mark.parametrize(
    ("price", "tick"), [(MIN_PRICE, MIN_TICK - 1), (MIN_PRICE + 1, MIN_TICK), (MAX_PRICE - 1, MAX_TICK - 1)]
)
async def test_a_pool_at_the_end_of_all_prices_is_not_asked_about_at_every_head(chain: Chain, price: int, tick: int):
    state = chain.pools[GOLD, CASH, 500]
    chain.pools[GOLD, CASH, 500] = State(10, {}, price, tick, 0)
    venue = await found(chain)
    assert await ids(venue, chain) == [OTHER_POOL]
    chain.asked.clear()
    assert await ids(venue, chain) == [OTHER_POOL]
    assert not chain.asked
    chain.pools[GOLD, CASH, 500] = state
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    assert set(await ids(venue, chain)) == {SWAPPED_POOL, OTHER_POOL}


async def test_a_new_pool_of_known_tokens_is_followed_at_once(chain: Chain):
    venue = await found(chain)
    await venue.pools(chain)
    made = place(GOLD, SALT, 3_000)
    chain.pools[GOLD, SALT, 3_000] = around(7, 60)
    fee, where = number_word(3_000), number_word(60) + address_word(made)
    topics = v3.POOL_CREATED, address_word(GOLD), address_word(SALT), fee
    stranger = log(Address(b"\x66" * 20), *topics, data=where)
    unknown = log(FACTORY, v3.POOL_CREATED, address_word(GOLD), address_word(Address(b"\x09" * 20)), fee, data=where)
    elsewhere = log(FACTORY, *topics, data=number_word(60) + address_word(GOLD))
    dear = log(FACTORY, *topics[:3], number_word(9), data=where)
    venue.follow([stranger, unknown, elsewhere, dear])
    assert made not in venue.head_filter.addresses
    venue.follow([log(FACTORY, *topics, data=where)])
    assert made in venue.head_filter.addresses
    assert made in await ids(venue, chain)


async def test_a_price_near_the_end_of_what_is_known_has_it_read_around_the_new_one(chain: Chain):
    venue = await found(chain, window=1_000)
    first = {each.id: each for each in await venue.pools(chain)}
    state = chain.pools[GOLD, CASH, 500]
    state.tick, state.price, state.liquidity = 705, price_at(705), DEEP
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    pools = {each.id: each for each in await venue.pools(chain)}
    assert (first[SWAPPED_POOL].ladder.low, first[SWAPPED_POOL].ladder.high) == (-795, 1_205)
    assert pools[SWAPPED_POOL].ladder is first[SWAPPED_POOL].ladder
    state.tick, state.price = 706, price_at(706)
    venue.follow([log(SWAPPED_POOL, v3.SWAP)])
    pools = {each.id: each for each in await venue.pools(chain)}
    assert (pools[SWAPPED_POOL].ladder.low, pools[SWAPPED_POOL].ladder.high) == (-294, 1_706)


async def test_a_factory_that_falls_silent_later_stops_nobody(chain: Chain):
    venue = await found(chain, (GOLD, CASH))
    chain.broken = {FACTORY: b""}
    with pytest.raises(Transient):
        await venue.discover(chain, pairs(GOLD, CASH, SALT))
    chain.broken = {}
    await venue.discover(chain, pairs(GOLD, CASH, SALT))
    assert OTHER_POOL in await ids(venue, chain)


@pytest.mark.parametrize("answer", [b"", number_word(0), number_word(2**20)])
async def test_a_root_without_the_usual_fees_is_refused(chain: Chain, answer: bytes):
    chain.broken = {FACTORY: answer}
    with pytest.raises(Unsafe):
        await found(chain)


async def test_the_steps_are_the_executors(chain: Chain):
    (pool,) = await (await found(chain, (GOLD, CASH))).pools(chain)
    fee = number_word(500)
    assert pool.step(GOLD, CASH, 7, 6) == Step(StepKind.SWAP_UNISWAP_V3, FACTORY, GOLD, CASH, 7, 6, fee)
    assert pool.first(CASH, GOLD, 7, 8) == Step(StepKind.SWAP_FIRST_UNISWAP_V3, FACTORY, CASH, GOLD, 7, 8, fee)
    assert pool.pairs == ((GOLD, CASH), (CASH, GOLD))
    assert pool.lock == pool.id == SWAPPED_POOL


async def test_gas_counts_the_ticks_that_are_crossed(chain: Chain):
    (pool,) = await (await found(chain, (GOLD, CASH))).pools(chain)
    little, much = (pool.swap(CASH, GOLD, TokenAmount(each)) for each in (10**6, 4 * 10**18))
    assert little is not None
    assert much is not None
    assert little.gas == SWAP_GAS
    assert much.gas == SWAP_GAS + TICK_GAS
    assert isinstance(much.pool, UniswapV3Pool)
    assert much.pool.liquidity == DEEP


async def test_nothing_is_quoted_between_other_tokens_and_nothing_brings_nothing(chain: Chain):
    (pool,) = await (await found(chain, (GOLD, CASH))).pools(chain)
    for give, take in ((GOLD, SALT), (GOLD, GOLD), (SALT, CASH)):
        assert pool.swap(give, take, TokenAmount(5)) is None
        assert pool.buy(give, take, TokenAmount(5)) is None
    for quote in (pool.swap, pool.buy):
        nothing = quote(GOLD, CASH, TokenAmount(0))
        assert nothing is not None
        assert nothing.amount == 0


async def test_a_pool_lends_what_it_holds(chain: Chain):
    chain.pools[GOLD, CASH, 500].balances = {GOLD: 10**6, CASH: 5}
    chain.pools[CASH, SALT, 3_000].balances = {CASH: 0, SALT: 9}
    venue = UniswapV3Flash("u", FACTORY, bases=(CASH,))
    lenders: Sequence[Lender] = await venue.lenders(chain, [GOLD])
    (lender,) = lenders
    assert [lender.fee(GOLD, TokenAmount(each)) for each in (1, 2_000, 2_001, 10**6, 10**6 + 1)] == [1, 1, 2, 500, None]
    assert lender.fee(CASH, TokenAmount(1)) is None  # it was not asked about
    data = address_word(CASH) + number_word(500)
    assert lender.step(GOLD, TokenAmount(9), TokenAmount(1)) == Step(
        StepKind.FLASH_UNISWAP_V3, FACTORY, ZERO_ADDRESS, GOLD, 9, 1, data
    )
    assert lender.lock == SWAPPED_POOL
    assert lender.name == "u 500"
    chain.asked.clear()
    assert len(await venue.lenders(chain, [GOLD])) == 1
    assert len(chain.asked) == 2  # its liquidity, and what it holds
    assert len(await venue.lenders(chain, [GOLD, SALT])) == 2


async def test_a_pool_without_liquidity_at_its_price_lends_nothing(chain: Chain):
    chain.pools[GOLD, CASH, 500].balances = {GOLD: 10**6}
    chain.pools[GOLD, CASH, 500].liquidity = 0
    assert await UniswapV3Flash("u", FACTORY, bases=(CASH,)).lenders(chain, [GOLD]) == []


def test_a_price_at_the_end_of_what_can_be_has_no_ladder():
    listing = Listing("u", FACTORY, SWAPPED_POOL, GOLD, CASH, 500, 10)
    for tick in (MIN_TICK, MAX_TICK):
        with pytest.raises(Invalid):
            Ladder(listing, (max(tick - 9, MIN_TICK), min(tick + 9, MAX_TICK)), {}, (tick, 1))
    ladder = Ladder(listing, (0, 100), {}, (50, 1))
    with pytest.raises(Invalid):
        stand(listing, ladder, price_at(100), 100)


def test_a_tick_that_was_come_down_to_has_been_crossed():
    listing = Listing("u", FACTORY, SWAPPED_POOL, GOLD, CASH, 500, 10)
    nets = {0: DEEP, 50: DEEP, 100: -2 * DEEP}
    above = stand(listing, Ladder(listing, (-200, 200), nets, (50, 2 * DEEP)), price_at(50), 50)
    below = stand(listing, Ladder(listing, (-200, 200), nets, (49, DEEP)), price_at(50), 49)
    assert (above.liquidity, below.liquidity) == (2 * DEEP, DEEP)
    assert (above.tick, below.tick) == (50, 49)
    down, up = ([each.swap(*pair, TokenAmount(10**9)) for each in (above, below)] for pair in above.pairs)
    assert [each.gas - SWAP_GAS for each in down if each is not None] == [TICK_GAS, 0]
    assert [each.gas - SWAP_GAS for each in up if each is not None] == [0, TICK_GAS]
