"""The local chain's swap venues are what they say: published code, prices that follow the feeds, honest depth."""

from collections.abc import AsyncIterator

import pytest
from eth_abi.abi import encode
from eth_abi.packed import encode_packed
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.chain import LENDER, MAX_UINT
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.uniswap_market import SLOT0, SWAP_V3, V2, DevPool, UniswapMarket

SPEC = DevnetSpec(others=("uniswap",), n_positions=4)
MAINNET_V3 = "0xe34f199b19b2b4f47f68442619d555527d244f78a3297ea89325f843f87b8b54"
MAINNET_V2 = "0x96e8ac4277198ff8b6f785478aa9a39f403cb768dd02cbee326c3e7da348845f"
QUOTE = "quoteExactInputSingle((address,address,uint256,uint24,uint160))(uint256,uint160,uint32,uint256)"
BALANCE = "balanceOf(address)(uint256)"


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    async with cached_devnet(default_cache_dir(), SPEC) as running:
        yield running


def uniswap_of(devnet: Devnet) -> UniswapMarket:
    assert devnet.uniswap is not None
    return devnet.uniswap


def computed(uniswap: UniswapMarket, pool: DevPool) -> str:
    """Return the address that CREATE2 gives a pool."""
    tokens = [uniswap.assets[symbol].token for symbol in (pool.symbol0, pool.symbol1)]
    if pool.version == V2:
        factory, code_hash = uniswap.v2_factory, uniswap.v2_init_code_hash
        salt = keccak(encode_packed(["address", "address"], tokens))
    else:
        factory, code_hash = uniswap.v3_factory, uniswap.v3_init_code_hash
        salt = keccak(encode(["address", "address", "uint24"], [*tokens, pool.fee]))
    parts = b"\xff", bytes.fromhex(factory[2:]), salt, bytes.fromhex(code_hash[2:])
    return to_checksum_address(keccak(b"".join(parts))[-20:])


def off(uniswap: UniswapMarket, found: dict[str, float], prices: dict[str, int]) -> dict[str, float]:
    """Return by what part each pool is away from the feeds."""
    fair = {pool.name: prices[pool.symbol0] / prices[pool.symbol1] for pool in uniswap.pools}
    return {name: abs(price / fair[name] - 1) for name, price in found.items()}


async def test_every_pool_is_where_the_published_code_puts_it(devnet: Devnet) -> None:
    uniswap = uniswap_of(devnet)
    assert (uniswap.v3_init_code_hash, uniswap.v2_init_code_hash) == (MAINNET_V3, MAINNET_V2)
    assert {pool.address: computed(uniswap, pool) for pool in uniswap.pools} == {
        pool.address: pool.address for pool in uniswap.pools
    }


async def test_every_asset_can_be_sold_for_the_wrapped_native_token_and_for_dollars(devnet: Devnet) -> None:
    uniswap = uniswap_of(devnet)
    for symbol in uniswap.assets:
        for other in {"WETH", "USDC"} - {symbol}:
            assert {pool.version for pool in uniswap.pools if {pool.symbol0, pool.symbol1} == {symbol, other}} == {2, 3}


async def test_in_a_crash_the_pools_move_with_the_feeds_in_one_block(devnet: Devnet) -> None:
    uniswap = uniswap_of(devnet)
    before, tip = await uniswap.prices(), await devnet.chain.block_number()
    await devnet.move({name: before[name] * 60 // 100 for name in ("WETH", "wstETH", "WBTC", "LINK", "CRV")})
    assert await devnet.chain.block_number() == tip + 1
    after = await uniswap.prices()
    assert after["WETH"] == before["WETH"] * 60 // 100
    away = off(uniswap, await uniswap.pool_prices(), after)
    assert all(part < 1e-9 for name, part in away.items() if name.startswith("v3"))
    assert all(part < 0.003 for name, part in away.items() if name.startswith("v2"))
    assert await uniswap.arbitrage() == []


async def test_what_the_quoter_says_is_what_the_router_gives(devnet: Devnet) -> None:
    uniswap, chain = uniswap_of(devnet), devnet.chain
    give, take = (uniswap.assets[symbol].token for symbol in ("WETH", "USDC"))
    amount = 1_000 * 10**18
    quoted = (await chain.call(uniswap.quoter, QUOTE, (give, take, amount, 500, 0)))[0]
    await chain.send(give, MINT, LENDER, amount)
    await chain.send(give, APPROVE, uniswap.router, MAX_UINT, sender=LENDER)
    held = await chain.call(take, BALANCE, LENDER)
    await chain.send(uniswap.router, SWAP_V3, (give, take, 500, LENDER, amount, 0, 0), sender=LENDER)
    assert await chain.call(take, BALANCE, LENDER) - held == quoted
    # Three million dollars into 120 million of depth: dearer than the fee alone, cheaper than a liquidation's bonus.
    assert 0.97 < quoted / (3_000 * 1_000 * 10**6) < 0.998
    assert (await chain.call(uniswap.pool(3, "WETH", "USDC", 500).address, SLOT0))[0] > 0


async def test_the_wrapped_native_token_wraps_and_unwraps(devnet: Devnet) -> None:
    chain, weth = devnet.chain, uniswap_of(devnet).assets["WETH"].token
    held = await chain.call(weth, BALANCE, LENDER)
    await chain.rpc("eth_sendTransaction", {"from": LENDER, "to": weth, "value": hex(10**18), "data": "0xd0e30db0"})
    assert await chain.call(weth, BALANCE, LENDER) == held + 10**18
    await chain.send(weth, "withdraw(uint256)", held + 10**18, sender=LENDER)
    assert await chain.call(weth, BALANCE, LENDER) == 0
