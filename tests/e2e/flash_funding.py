"""Where the flash tests borrow and trade besides what every devnet has: Balancer, an ERC-3156 lender, a pool of VAI."""

import asyncio
from collections.abc import Sequence
from math import isqrt
from pathlib import Path
from typing import Final

from eth_abi.abi import encode
from vyper import compile_code  # type: ignore[import-untyped]

from keeper.devnet.abi import call_data
from keeper.devnet.artifacts import artifact
from keeper.devnet.chain import ADMIN, MAX_UINT, Tx
from keeper.devnet.compiler import balancer_artifacts
from keeper.devnet.devnet import Devnet
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.packages import default_cache_dir, ensure_packages
from keeper.devnet.uniswap import MAKER, MINT_V3
from keeper.domain.program import Step, StepKind
from tests.e2e.flash_desk import NO_HASH, Desk, mask, mint
from tests.e2e.flash_steps import loan, pool_loan, pull, swap_first

USD: Final = 10**6
ETHER: Final = 10**18
REPAID: Final = 120_000 * USD
"""What is borrowed in all that follows."""
WIDEST_TICK: Final = 887_270
LENDER_SOURCE: Final = Path(__file__).with_name("flash_lender.vy")
JOIN_BALANCER: Final = "joinPool(bytes32,address,address,(address[],uint256[],bytes,bool))"


async def by_aave(desk: Desk) -> Sequence[Step]:
    pool, usdc = desk.aave("3.6").pool, desk.token("USDC")
    return [loan(StepKind.FLASH_AAVE, pool, usdc, REPAID, REPAID * 9 // 10_000 + 1)]


async def by_old_aave(desk: Desk) -> Sequence[Step]:
    pool, usdc = desk.aave("3.0").pool, desk.token("USDC")
    return [loan(StepKind.FLASH_AAVE, pool, usdc, REPAID, REPAID * 9 // 10_000 + 1)]


async def by_morpho(desk: Desk) -> Sequence[Step]:
    return [loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, desk.token("USDC"), REPAID)]


async def by_pool(desk: Desk) -> Sequence[Step]:
    return [pool_loan(desk, desk.token("USDC"), desk.token("USDT"), 100, REPAID)]


async def by_flash_swap(desk: Desk) -> Sequence[Step]:
    return [swap_first(desk, desk.token("WETH"), desk.token("USDC"), 500, REPAID, 50 * ETHER)]


async def by_own_money(desk: Desk) -> Sequence[Step]:
    usdc, operator = desk.token("USDC"), desk.operator
    await mint(desk.chain, usdc, operator, REPAID)
    approval = await desk.send(usdc, call_data(APPROVE, desk.executor.address, REPAID))
    assert approval["status"] == "0x1"
    return [pull(usdc, REPAID)]


async def by_erc3156(desk: Desk) -> Sequence[Step]:
    usdc = desk.token("USDC")
    out = compile_code(LENDER_SOURCE.read_text(encoding="utf-8"), output_formats=["abi", "bytecode"])
    lender = await desk.chain.deploy(artifact("Lender", out["abi"], out["bytecode"], {}), usdc)
    await mint(desk.chain, usdc, lender, 10 * REPAID)
    await desk.authorize((lender, mask(StepKind.FLASH_ERC3156), NO_HASH))
    return [loan(StepKind.FLASH_ERC3156, lender, usdc, REPAID, REPAID // 10_000)]


async def by_balancer(desk: Desk) -> Sequence[Step]:
    vault, _ = await make_balancer(desk)
    return [loan(StepKind.FLASH_BALANCER, vault, desk.token("USDC"), REPAID)]


async def make_balancer(desk: Desk) -> tuple[str, bytes]:
    """Deploy Balancer's vault with a weighted pool of WETH and USDC at the price after the fall, and permit it."""
    chain, packages = desk.chain, await asyncio.to_thread(ensure_packages, default_cache_dir(), sets=("balancer",))
    made = await asyncio.to_thread(balancer_artifacts, packages)
    weth, usdc, nobody, month_s = desk.token("WETH"), desk.token("USDC"), "0x" + "00" * 20, 30 * 86_400
    vault = await chain.deploy(made["Vault"], await chain.deploy(made["Authorizer"], ADMIN), weth, month_s, month_s)
    sides = sorted([(weth, 10**4 * ETHER), (usdc, 28 * 10**6 * USD)], key=lambda side: int(side[0], 16))
    tokens, amounts = zip(*sides, strict=True)
    terms = ([5 * 10**17] * 2, [nobody] * 2, 3 * 10**15, month_s, month_s, ADMIN)
    pool = await chain.deploy(made["WeightedPool"], vault, "weighted", "W", list(tokens), *terms)
    name = bytes(await chain.call(pool, "getPoolId()(bytes32)"))
    join = (list(tokens), list(amounts), encode(["uint256", "uint256[]"], [0, list(amounts)]), False)
    async with chain.held():
        for token, amount in sides:
            await chain.send_all([Tx(ADMIN, token, MINT, (ADMIN, amount)), Tx(ADMIN, token, APPROVE, (vault, amount))])
        await chain.send_all([Tx(ADMIN, vault, JOIN_BALANCER, (name, ADMIN, ADMIN, join))])
    await desk.authorize((vault, mask(StepKind.FLASH_BALANCER, StepKind.SWAP_BALANCER), NO_HASH))
    return vault, name


async def make_vai_pool(devnet: Devnet) -> None:
    """Let Venus' own dollar be traded, and lent, in a Uniswap v3 pool."""
    assert devnet.uniswap is not None
    assert devnet.venus is not None
    chain, uniswap, vai = devnet.chain, devnet.uniswap, devnet.venus.vai
    sides = sorted(
        [(uniswap.assets["USDC"].token, 10**7 * USD), (vai, 10**7 * ETHER)], key=lambda side: int(side[0], 16)
    )
    tokens, amounts = zip(*sides, strict=True)
    manager, price = uniswap.position_manager, isqrt((amounts[1] << 192) // amounts[0])
    create = "createAndInitializePoolIfNecessary(address,address,uint24,uint160)"
    deposit = (*tokens, 500, -WIDEST_TICK, WIDEST_TICK, *amounts, 0, 0, MAKER, MAX_UINT)
    async with chain.held():
        await chain.send_all(
            [
                Tx(MAKER, manager, create, (*tokens, 500, price)),
                *(Tx(ADMIN, token, MINT, (MAKER, amount)) for token, amount in sides),
                *(Tx(MAKER, token, APPROVE, (manager, MAX_UINT)) for token in tokens),
            ]
        )
        await chain.send_all([Tx(MAKER, manager, MINT_V3, (deposit,))])
