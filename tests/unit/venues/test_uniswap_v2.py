"""Uniswap v2 and its forks from a chain that is a dictionary."""

from collections.abc import Sequence
from itertools import combinations

import pytest

from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.exchange import Pool, Venue
from keeper.domain.program import Step, StepKind
from keeper.domain.units import Address, BlockHash, TokenAmount, TxHash
from keeper.errors import Transient, Unsafe
from keeper.venues import uniswap_v2 as v2
from keeper.venues.uniswap_v2 import Listing, UniswapV2, UniswapV2Pool
from tests.toy import head

# the mainnet's factory and tokens, as published by Uniswap, Circle and MakerDAO
FACTORY = Address(bytes.fromhex("5c69bee701ef814a2b6a3edd4b1652cb9cc5aa6f"))
USDC = Address(bytes.fromhex("a0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"))
WETH = Address(bytes.fromhex("c02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"))
SALT = Address(b"\xdd" * 20)
USDC_WETH = Address(bytes.fromhex("b4e16d0168e52d35cacd2c6185b44281ec28c9dc"))


class Chain:
    """Answers as the factory and its pairs would."""

    def __init__(self) -> None:
        self.number = 100
        self.pairs: dict[tuple[Address, Address], tuple[Address, int, int]] = {
            (USDC, WETH): (USDC_WETH, 3 * 10**12, 10**21)
        }
        self.answers: dict[Address, ViewResult] = {}
        self.fails = False
        self.asked: list[ViewCall] = []

    @property
    def head(self) -> BlockHead:
        return head(self.number)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        if self.fails:
            raise Transient("nobody answers")
        self.asked += calls
        return [self.answers.get(each.to) or self.answer(each) for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def answer(self, call: ViewCall) -> ViewResult:
        for tokens, (pair, *reserves) in self.pairs.items():
            if call == view(FACTORY, v2.GET_PAIR, *map(address_word, tokens)):
                return ViewResult(ok=True, data=address_word(pair))
            if call == view(pair, v2.GET_RESERVES):
                return ViewResult(ok=True, data=b"".join(map(number_word, (*reserves, 7))))
        return ViewResult(ok=True, data=bytes(32) if call.to == FACTORY else b"")


def log(address: Address, *topics: bytes, block: int = 101, data: bytes = b"") -> Log:
    return Log(address, topics, data, block, BlockHash(bytes(32)), 0, TxHash(bytes(32)))


def pairs(*tokens: Address) -> list[tuple[Address, Address]]:
    """Return every two of some tokens, sorted."""
    return list(combinations(sorted(set(tokens)), 2))


async def found(chain: Chain, *tokens: Address) -> UniswapV2:
    venue = UniswapV2("u", FACTORY)
    await venue.discover(chain, pairs(*(tokens or (WETH, USDC))))
    return venue


def pair_of(reserve0: int, reserve1: int, fee_bps: int = 30) -> UniswapV2Pool:
    return UniswapV2Pool(Listing("u", FACTORY, USDC_WETH, USDC, WETH, fee_bps), reserve0, reserve1)


async def test_the_mainnets_pair_is_where_it_is_computed():
    venue: Venue = await found(Chain())
    assert venue.head_filter.addresses == {FACTORY, USDC_WETH}
    assert venue.head_filter.topics == {v2.SYNC, v2.PAIR_CREATED}
    (pool,) = await venue.pools(Chain())
    checked: Pool = pool
    assert checked.id == checked.lock == USDC_WETH
    assert checked.venue == "u"


@pytest.mark.parametrize(
    ("give", "reserves", "fee_bps", "out"),
    [
        (10, (100, 100), 30, 9),  # 10 · 9970 · 100 / (100 · 10000 + 10 · 9970) = 9.066
        (1, (100, 100), 30, 0),
        (10**18, (5 * 10**18, 10 * 10**18), 30, 1662497915624478906),  # v2-core, test/UniswapV2Pair.spec.ts
        (10**18, (10 * 10**18, 5 * 10**18), 30, 453305446940074565),  # likewise
        (2 * 10**18, (10 * 10**18, 5 * 10**18), 30, 831248957812239453),  # likewise
        (10**6, (10**9, 10**9), 25, 996_505),  # 10⁶ · 9975 · 10⁹ / (10¹³ + 10⁶ · 9975) = 996505.98
        (10**6, (10**9, 10**9), 0, 999_000),
    ],
)
def test_a_quote_is_the_librarys(give: int, reserves: tuple[int, int], fee_bps: int, out: int):
    quoted = pair_of(*reserves, fee_bps).swap(USDC, WETH, TokenAmount(give))
    assert quoted is not None
    assert quoted.amount == out
    assert isinstance(quoted.pool, UniswapV2Pool)
    assert (quoted.pool.reserve0, quoted.pool.reserve1) == (reserves[0] + give, reserves[1] - out)
    mirrored = pair_of(reserves[1], reserves[0], fee_bps).swap(WETH, USDC, TokenAmount(give))
    assert mirrored is not None
    assert mirrored.amount == out
    assert isinstance(mirrored.pool, UniswapV2Pool)
    assert (mirrored.pool.reserve1, mirrored.pool.reserve0) == (reserves[0] + give, reserves[1] - out)


def test_a_reserve_holds_112_bits():
    pool = pair_of(10**18, 10**18)
    assert pool.swap(USDC, WETH, TokenAmount(2**112 - 1 - 10**18)) is not None
    assert pool.swap(USDC, WETH, TokenAmount(2**112 - 10**18)) is None
    assert pool.swap(USDC, SALT, TokenAmount(1)) is None
    assert pool.swap(USDC, USDC, TokenAmount(1)) is None


def test_the_step_is_the_executors():
    step = pair_of(1, 1, 25).step(WETH, USDC, 7, 6)
    assert step == Step(StepKind.SWAP_UNISWAP_V2, FACTORY, WETH, USDC, 7, 6, number_word(25))


async def test_only_what_said_sync_is_read_again():
    chain = Chain()
    venue = await found(chain)
    (before,) = await venue.pools(chain)
    chain.asked.clear()
    assert list(await venue.pools(chain)) == [before]
    assert not chain.asked
    chain.pairs[USDC, WETH] = (USDC_WETH, 5, 6)
    venue.follow([log(USDC_WETH, v2.SYNC), log(SALT, v2.SYNC), log(USDC_WETH, b"\x01" * 32)])
    chain.fails = True
    with pytest.raises(Transient):
        await venue.pools(chain)
    chain.fails, chain.number = False, 101
    (after,) = await venue.pools(chain)
    assert (after.reserve0, after.reserve1) == (5, 6)
    chain.pairs[USDC, WETH] = (USDC_WETH, 7, 8)
    venue.distrust()
    (again,) = await venue.pools(chain)
    assert (again.reserve0, again.reserve1) == (7, 8)
    assert len(chain.asked) == 2


@pytest.mark.parametrize("nonsense", [b"", b"\x01" * 31, b"\xff" * 96])
async def test_a_pair_that_answers_nonsense_is_left_out_until_it_does_not(nonsense: bytes):
    chain = Chain()
    venue = await found(chain)
    chain.answers = {USDC_WETH: ViewResult(ok=True, data=nonsense)}
    assert list(await venue.pools(chain)) == []
    chain.answers = {}
    assert len(await venue.pools(chain)) == 1


async def test_an_empty_pair_offers_nothing():
    chain = Chain()
    chain.pairs[USDC, WETH] = (USDC_WETH, 0, 0)
    venue = await found(chain)
    assert list(await venue.pools(chain)) == []
    chain.pairs[USDC, WETH] = (USDC_WETH, 5, 6)
    venue.follow([log(USDC_WETH, v2.SYNC, block=100)])
    assert len(await venue.pools(chain)) == 1


async def test_a_new_pair_of_known_tokens_is_followed_at_once():
    chain = Chain()
    (tokens, made), *_ = chain.pairs.items()
    chain.pairs = {}
    venue = await found(chain)
    assert list(await venue.pools(chain)) == []
    topics = v2.PAIR_CREATED, *map(address_word, tokens)
    venue.follow(
        [
            log(SALT, *topics, data=address_word(USDC_WETH)),
            log(FACTORY, *topics, data=address_word(SALT)),
            log(FACTORY, topics[0], address_word(SALT), topics[2], data=address_word(USDC_WETH)),
        ]
    )
    assert venue.head_filter.addresses == {FACTORY}
    chain.pairs = {tokens: made}
    venue.follow([log(FACTORY, *topics, data=address_word(USDC_WETH) + number_word(1))])
    assert [each.id for each in await venue.pools(chain)] == [USDC_WETH]


async def test_a_root_that_is_no_factory_or_has_other_pairs_is_refused():
    chain = Chain()
    chain.answers = {FACTORY: ViewResult(ok=True, data=b"")}
    with pytest.raises(Unsafe, match="no factory"):
        await found(chain)
    chain.answers = {}
    with pytest.raises(Unsafe, match="init_code_hash"):
        await UniswapV2("u", FACTORY, init_code_hash=bytes(32)).discover(chain, pairs(USDC, WETH))
    venue = await found(chain)
    chain.answers = {FACTORY: ViewResult(ok=False, data=b"")}
    with pytest.raises(Transient):
        await venue.discover(chain, pairs(SALT, WETH))
