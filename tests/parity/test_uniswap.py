"""Quotes from memory against the genuine Uniswap v3 and v2 contracts on a local node, to the wei."""

import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from vyper import compile_code  # type: ignore[import-untyped]

from keeper.devnet.artifacts import Artifact
from keeper.devnet.chain import MAX_UINT, Reverted, Tx
from keeper.devnet.market import MINT as MINT_TOKENS
from keeper.devnet.uniswap import MAKER
from keeper.devnet.uniswap_market import ARBITRAGEUR
from keeper.domain.units import Address, TokenAmount
from keeper.errors import Unsafe
from keeper.venues.ticks import price_at
from keeper.venues.uniswap_v2 import UniswapV2
from keeper.venues.uniswap_v3 import UniswapV3
from keeper.venues.uniswap_v3_flash import UniswapV3Flash
from keeper.venues.uniswap_v3_pool import TICK_GAS, UniswapV3Pool
from tests.parity.desk import address
from tests.parity.uniswap_desk import MINT, UniswapDesk, name, uniswap_desk

BORROWER = """
# pragma version 0.4.3
interface Pool:
    def flash(recipient: address, amount0: uint256, amount1: uint256, data: Bytes[64]): nonpayable

interface Token:
    def transfer(to: address, amount: uint256) -> bool: nonpayable

struct Loan:
    token: address
    amount: uint256

loan: transient(Loan)
fee: transient(uint256)

@external
def borrow(pool: address, token: address, is_first: bool, amount: uint256, fee: uint256):
    self.loan = Loan(token=token, amount=amount)
    self.fee = fee
    extcall Pool(pool).flash(self, amount if is_first else 0, 0 if is_first else amount, b"")

@external
def uniswapV3FlashCallback(fee0: uint256, fee1: uint256, data: Bytes[64]):
    extcall Token(self.loan.token).transfer(msg.sender, self.loan.amount + self.fee)
"""


@pytest.fixture
async def desk() -> AsyncIterator[UniswapDesk]:
    async with uniswap_desk(seed=3, positions=14) as found:
        yield found


@pytest.fixture
async def bare() -> AsyncIterator[UniswapDesk]:
    async with uniswap_desk(seed=4, positions=0) as found:
        yield found


def venue_of(desk: UniswapDesk, window: int = 2_500) -> UniswapV3:
    return UniswapV3("uniswap-v3", address(desk.market.v3_factory), window=window)


def depth(pool: UniswapV3Pool, pair: tuple[Address, Address]) -> int:
    """Return about the most that a pool can take."""
    least, most = 1, 1
    while pool.swap(*pair, TokenAmount(most)) is not None:
        least, most = most, 2 * most
    while most - least > least // 1_000:
        middle = (least + most) // 2
        least, most = (middle, most) if pool.swap(*pair, TokenAmount(middle)) is not None else (least, middle)
    return least


def image(pool: UniswapV3Pool, low: int, high: int) -> tuple[object, ...]:
    """Return all that a pool knows between two ticks."""
    nets = {tick: net for tick, net in pool.ladder.nets.items() if low < tick < high}
    return pool.listing, pool.price, pool.tick, pool.liquidity, nets


def images(known: dict[bytes, UniswapV3Pool], other: dict[bytes, UniswapV3Pool]) -> dict[bytes, tuple[object, ...]]:
    """Return what some pools know, as far as the others know it too."""
    spans = {
        each: (max(pool.ladder.low, other[each].ladder.low), min(pool.ladder.high, other[each].ladder.high))
        for each, pool in known.items()
    }
    return {each: image(pool, *spans[each]) for each, pool in known.items()}


async def pools_of(venue: UniswapV3, desk: UniswapDesk) -> dict[bytes, UniswapV3Pool]:
    return {each.id: each for each in await venue.pools(await desk.reads())}


async def assert_is_fresh(known: dict[bytes, UniswapV3Pool], desk: UniswapDesk) -> None:
    fresh = await desk.fresh()
    assert known.keys() == fresh.keys()
    assert images(known, fresh) == images(fresh, known)


async def test_quotes_are_those_of_the_quoter(desk: UniswapDesk):
    rng, seen = random.Random(11), Counter[str]()
    for pool in (await desk.fresh()).values():
        for pair in pool.pairs:
            most = depth(pool, pair)
            sizes = [1, 2, *(most * rng.randint(1, 999) // 1_000 for _ in range(7)), 3 * most, rng.randint(1, 2**100)]
            for amount in [*sizes, *(most >> rng.randint(1, 60) for _ in range(3))]:
                for kind, quote in (("Input", pool.swap), ("Output", pool.buy)):
                    if amount == 0 or (amount > most and kind == "Output"):
                        continue
                    ours, told = quote(*pair, TokenAmount(amount)), await desk.quoted(pool, pair, amount, kind)
                    if ours is None:
                        edges = price_at(pool.ladder.low), price_at(pool.ladder.high)
                        assert not told or not edges[0] < told[1] < edges[1]
                        seen["beyond"] += 1
                        continue
                    assert isinstance(ours.pool, UniswapV3Pool)
                    assert [ours.amount, ours.pool.price] == told, (pool.listing, pair, amount, kind)
                    seen[f"{pool.listing.fee}"] += 1
                    seen["crossing"] += ours.gas > 2 * TICK_GAS + 90_000
                    seen[kind] += 1
    assert min(seen[fee] for fee in ("100", "500", "3000", "10000")) > 100
    assert seen["crossing"] > 200
    assert seen["beyond"] > 40
    assert min(seen["Input"], seen["Output"]) > 300


async def test_what_a_swap_leaves_is_what_the_chain_has_then(desk: UniswapDesk):
    rng = random.Random(12)
    for pool in list((await desk.fresh()).values())[:8]:
        ours = pool
        for _ in range(4):
            pair = ours.pairs[rng.randint(0, 1)]
            amount = max(1, depth(ours, pair) * rng.randint(1, 600) // 1_000)
            quoted = ours.swap(*pair, TokenAmount(amount))
            assert quoted is not None
            assert isinstance(quoted.pool, UniswapV3Pool)
            ours = quoted.pool
            await desk.swap(pool, pair, amount)
            state = await desk.chain.call(name(pool.id), "slot0()(uint160,int24,uint16,uint16,uint16,uint8,bool)")
            liquidity = await desk.chain.call(name(pool.id), "liquidity()(uint128)")
            assert (ours.price, ours.tick, ours.liquidity) == (*state[:2], liquidity)


async def test_logs_alone_keep_the_pools_as_they_are(desk: UniswapDesk):
    rng, venue = random.Random(13), venue_of(desk)
    await venue.discover(await desk.reads(), desk.pairs)
    known = await pools_of(venue, desk)
    asked = list[int]()
    for turn in range(30):
        pool = known[rng.choice(sorted(known))]
        block = (await desk.head()).number
        if turn % 3 == 0:
            pair = pool.pairs[rng.randint(0, 1)]
            await desk.swap(pool, pair, max(1, depth(pool, pair) * rng.randint(1, 200) // 1_000))
        elif turn % 3 == 1:
            await desk.mint(pool, rng, 3)
        else:
            await desk.burn(rng.randint(1, 200), rng.choice((30, 100, 100)))
        venue.follow(await desk.logs(venue.head_filter, block + 1))
        reads = await desk.counting()
        known = {each.id: each for each in await venue.pools(reads)}
        asked.append(reads.calls)
        await assert_is_fresh(known, desk)
    assert sum(asked) / len(asked) < 12
    assert min(asked) == 2  # where it stands, and its liquidity


async def test_a_head_without_logs_asks_nothing(bare: UniswapDesk):
    venue = venue_of(bare)
    await venue.discover(await bare.reads(), bare.pairs)
    first = await pools_of(venue, bare)
    reads = await bare.counting()
    again = {each.id: each for each in await venue.pools(reads)}
    assert reads.calls == 0
    assert all(again[each] is pool for each, pool in first.items())


async def test_a_price_that_has_gone_far_takes_its_window_along(desk: UniswapDesk):
    venue, block = venue_of(desk), (await desk.head()).number
    await venue.discover(await desk.reads(), desk.pairs)
    before = await pools_of(venue, desk)
    fallen = {"WETH": (await desk.market.prices())["WETH"] * 70 // 100}
    async with desk.chain.bulk():  # many ticks take much gas
        await desk.chain.send_all(replace(each, gas=10**7) for each in await desk.market.arbitrage(fallen))
    venue.follow(await desk.logs(venue.head_filter, block + 1))
    after = await pools_of(venue, desk)
    moved = [each for each in after if after[each].tick != before[each].tick]
    assert len(moved) > 5
    assert all(abs(after[each].tick - before[each].tick) < 4_000 for each in moved)
    assert all(after[each].ladder.low + 1_250 <= after[each].tick <= after[each].ladder.high - 1_250 for each in after)
    await assert_is_fresh(after, desk)


async def test_after_a_reorganisation_everything_is_as_the_new_chain_has_it(desk: UniswapDesk):
    rng, venue = random.Random(14), venue_of(desk)
    await venue.discover(await desk.reads(), desk.pairs)
    before = await pools_of(venue, desk)
    snapshot, block = await desk.chain.snapshot(), (await desk.head()).number
    for pool in list(before.values())[:6]:
        await desk.mint(pool, rng, 4)
        await desk.swap(pool, pool.pairs[0], depth(pool, pool.pairs[0]) // 3)
    venue.follow(await desk.logs(venue.head_filter, block + 1))
    orphaned = await pools_of(venue, desk)
    assert images(orphaned, before) != images(before, orphaned)
    await desk.chain.revert(snapshot)
    pool = before[min(before)]
    await desk.swap(pool, pool.pairs[1], depth(pool, pool.pairs[1]) // 5)
    venue.distrust()
    await assert_is_fresh(await pools_of(venue, desk), desk)


async def test_a_new_pool_is_known_from_its_first_liquidity_on(bare: UniswapDesk):
    venue, market, chain = venue_of(bare), bare.market, bare.chain
    await venue.discover(await bare.reads(), bare.pairs)
    known, block = await pools_of(venue, bare), (await bare.head()).number
    tokens = sorted((market.assets[each].token for each in ("DAI", "GUSD")), key=lambda each: int(each, 16))
    await chain.send(market.v3_factory, "createPool(address,address,uint24)", *tokens, 500)
    venue.follow(await bare.logs(venue.head_filter, block + 1))
    assert (await pools_of(venue, bare)).keys() == known.keys()
    pool = await chain.call(market.v3_factory, "getPool(address,address,uint24)(address)", *tokens, 500)
    assert address(pool) in venue.head_filter.addresses
    block = (await bare.head()).number
    await chain.send(pool, "initialize(uint160)", price_at(0))
    spots = ((-900, -300), (-200, -100), (100, 400))  # nothing at the price, and a gap below it
    for symbol in ("DAI", "GUSD"):
        await chain.send(market.assets[symbol].token, MINT_TOKENS, MAKER, 10**30, sender=MAKER)
    terms = [(*tokens, 500, *ticks, 10**24, 10**24, 0, 0, MAKER, MAX_UINT) for ticks in spots]
    async with chain.bulk():
        await chain.send_all(Tx(MAKER, market.position_manager, MINT, (each,), gas=1_500_000) for each in terms)
    venue.follow(await bare.logs(venue.head_filter, block + 1))
    after = await pools_of(venue, bare)
    assert after.keys() - known.keys() == {address(pool)}
    await assert_is_fresh(after, bare)
    made = after[address(pool)]
    assert made.liquidity == 0
    for pair in made.pairs:
        for share in (1, 30, 400, 999):
            amount = depth(made, pair) * share // 1_000
            ours = made.swap(*pair, TokenAmount(amount))
            assert ours is not None
            assert isinstance(ours.pool, UniswapV3Pool)
            assert [ours.amount, ours.pool.price] == await bare.quoted(made, pair, amount, "Input")


async def test_a_pool_lends_for_exactly_the_fee_that_it_is_said_to_take(bare: UniswapDesk):
    market, chain = bare.market, bare.chain
    code = compile_code(BORROWER, output_formats=["bytecode"])["bytecode"].removeprefix("0x")
    borrower = await chain.deploy(Artifact("Borrower", code, {}, (), {}))
    usdc, weth = (address(market.assets[each].token) for each in ("USDC", "WETH"))
    for token in (usdc, weth):
        await chain.send(name(token), MINT_TOKENS, borrower, 10**30)
    venue = UniswapV3Flash("uniswap-v3", address(market.v3_factory), bases=bare.tokens)
    lenders = await venue.lenders(await bare.reads(), [usdc, weth])
    assert len({each.lock for each in lenders}) == len(lenders) > 8
    borrow = "borrow(address,address,bool,uint256,uint256)"
    for lender in lenders:
        for token, held in lender.held.items():
            assert held == await chain.call(name(token), "balanceOf(address)(uint256)", name(lender.lock))
            assert lender.fee(token, TokenAmount(held + 1)) is None
            is_first = token == lender.listing.token0
            for amount in (1, held // 3, held):
                fee = lender.fee(token, TokenAmount(amount))
                assert fee
                await chain.call(borrower, borrow, name(lender.lock), name(token), is_first, amount, fee)
                with pytest.raises(Reverted):
                    await chain.call(borrower, borrow, name(lender.lock), name(token), is_first, amount, fee - 1)
    counted = await bare.counting()
    await venue.lenders(counted, [usdc, weth])
    assert counted.rounds == 1


async def test_quotes_of_v2_are_what_its_router_swaps(bare: UniswapDesk):
    market, chain, rng = bare.market, bare.chain, random.Random(15)
    venue = UniswapV2("uniswap-v2", address(market.v2_factory))
    await venue.discover(await bare.reads(), bare.pairs)
    swap = "swapExactTokensForTokens(uint256,uint256,address[],address)"
    for turn in range(3):
        block = (await bare.head()).number
        reads = await bare.counting()
        pools = await venue.pools(reads)
        assert len(pools) == sum(each.version == 2 for each in market.pools)
        assert reads.calls == (len(pools) if turn == 0 else 5)
        for pool in pools:
            for pair in pool.pairs:
                amount = (
                    pool.reserve0 * rng.randint(1, 10**6) // 10**6
                    if pair == pool.pairs[0]
                    else pool.reserve1 // rng.randint(1, 10**5)
                )
                ours = pool.swap(*pair, TokenAmount(amount))
                assert ours is not None
                terms = (amount, 0, list(map(name, pair)), ARBITRAGEUR)
                told = await chain.call(market.router, f"{swap}(uint256)", *terms, sender=ARBITRAGEUR)
                assert ours.amount == told
        for pool in pools[:5]:
            ours = pool.swap(*pool.pairs[0], TokenAmount(pool.reserve0 // 10))
            assert ours is not None
            terms = (pool.reserve0 // 10, 0, list(map(name, pool.pairs[0])), ARBITRAGEUR)
            await chain.send(market.router, swap, *terms, sender=ARBITRAGEUR)
            left = await chain.call(name(pool.id), "getReserves()(uint112,uint112,uint32)")
            assert (ours.pool.reserve0, ours.pool.reserve1) == tuple(left[:2])  # type: ignore[attr-defined]
        venue.follow(await bare.logs(venue.head_filter, block + 1))


async def test_a_root_that_is_no_factory_or_has_other_pools_is_refused(bare: UniswapDesk):
    market, reads = bare.market, await bare.reads()
    for root in (market.v2_factory, market.router, ARBITRAGEUR):
        with pytest.raises(Unsafe, match="root"):
            await UniswapV3("uniswap-v3", address(root)).discover(reads, bare.pairs)
    with pytest.raises(Unsafe, match="root"):
        await UniswapV2("uniswap-v2", address(market.v3_factory)).discover(reads, bare.pairs)
    with pytest.raises(Unsafe, match="init_code_hash"):
        await UniswapV3("u", address(market.v3_factory), init_code_hash=bytes(32)).discover(reads, bare.pairs)
    with pytest.raises(Unsafe, match="init_code_hash"):
        await UniswapV2("u", address(market.v2_factory), init_code_hash=bytes(32)).discover(reads, bare.pairs)
    with pytest.raises(Unsafe, match="these fees"):
        await UniswapV3("u", address(market.v3_factory), fees=(500, 2_500)).discover(reads, bare.pairs)
