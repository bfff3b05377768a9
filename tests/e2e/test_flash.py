"""The executor pays on the genuine contracts: no capital, one transaction, all profit to the cold account, to the wei."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from keeper.domain.program import StepKind
from tests.e2e.flash_desk import NATIVE, OWNER, Desk, opened
from tests.e2e.flash_funding import REPAID, USD, by_morpho
from tests.e2e.flash_paths import FELL, PATHS, aave, aave_borrower
from tests.e2e.flash_steps import liquidate_aave, loan, swap_v3

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWN_MONEY = {name for name in PATHS if "own money" in name}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[Desk]:
    async with opened() as desk:
        yield desk


@pytest_asyncio.fixture(loop_scope="module")
async def desk(shared: Desk) -> AsyncIterator[Desk]:
    """Give each test the chain as it was."""
    snapshot = await shared.chain.snapshot()
    yield shared
    await shared.chain.revert(snapshot)


@pytest.mark.parametrize("name", PATHS)
async def test_profit_lands_in_the_cold_account_and_nothing_is_left_behind(desk: Desk, name: str) -> None:
    path = await PATHS[name](desk)
    books = await desk.books()
    held = {token for token in (*desk.tokens, NATIVE) if books[desk.operator, token]}
    assert held == {NATIVE} | ({desk.token("USDC")} if name in OWN_MONEY else set())
    done = await desk.run(path.steps, path.outputs)
    assert not done.failed
    assert all(done.profits[token] >= least for token, least in path.outputs.items())
    assert sum(done.profits.values()) > 0


async def test_profit_is_what_the_sale_brought_less_what_was_repaid_and_lent(desk: Desk) -> None:
    path = await PATHS["aave v3.6, aave loan"](desk)
    done = await desk.run(path.steps, path.outputs)
    usdc, weth = desk.token("USDC"), desk.token("WETH")
    pool = desk.uniswap.pool(3, "WETH", "USDC", 500).address
    reserves = desk.aave("3.6").reserves
    repaid, fee = done.moved[usdc, reserves["USDC"].a_token], REPAID * 5 // 10_000
    assert repaid == -REPAID - fee  # lent and given back, and repaid in between
    assert done.moved[weth, reserves["WETH"].a_token] == -done.moved[weth, pool]
    assert done.profits == {usdc: done.moved[usdc, pool] - REPAID - fee}


async def test_a_program_that_would_bring_one_unit_less_reverts_and_costs_gas_alone(desk: Desk) -> None:
    path = await aave("3.6", by_morpho)(desk)
    usdc = desk.token("USDC")
    landing_s = int((await desk.chain.header())["timestamp"], 16) + 100
    before = await desk.chain.snapshot()
    await desk.chain.set_next_timestamp(landing_s)
    await desk.submit(path.steps, {usdc: 1})
    profit = (await desk.books())[OWNER, usdc]
    await desk.chain.revert(before)
    before, start = await desk.chain.snapshot(), await desk.books()
    await desk.chain.set_next_timestamp(landing_s)
    receipt = await desk.submit(path.steps, {usdc: profit + 1})
    assert receipt["status"] == "0x0"
    assert "executor: least" in await desk.why(receipt)
    cost = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    purse = desk.operator, NATIVE
    assert await desk.books() == start | {purse: start[purse] - cost}
    await desk.chain.revert(before)
    await desk.chain.set_next_timestamp(landing_s)
    assert (await desk.submit(path.steps, {usdc: profit}))["status"] == "0x1"
    assert (await desk.books())[OWNER, usdc] == profit


async def test_an_optional_step_that_comes_too_late_takes_nothing_from_the_others(desk: Desk) -> None:
    pool, weth, usdc = desk.aave("3.6").pool, desk.token("WETH"), desk.token("USDC")
    sunk, saved = await aave_borrower(desk, "3.6"), await aave_borrower(desk, "3.6")
    await desk.devnet.move(FELL)
    await desk.aave("3.6").repay(saved, "USDC", 60_000 * USD)
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, 2 * REPAID),
        *(liquidate_aave(pool, who, debt=usdc, collateral=weth, amount=REPAID, gas=800_000) for who in (saved, sunk)),
        swap_v3(desk, weth, usdc, 500),
    ]
    (failure,) = (await desk.run(steps, {usdc: 1})).failed
    assert failure.index == 1
    assert desk.chain.errors["0x" + failure.reason.hex()] == "HealthFactorNotBelowThreshold"


async def test_without_a_sale_the_cold_account_is_paid_in_what_was_seized(desk: Desk) -> None:
    path = await PATHS["aave v3.6, own money"](desk)
    usdc, weth = desk.token("USDC"), desk.token("WETH")
    sale = swap_v3(desk, weth, usdc, 500, amount=44 * 10**18)
    done = await desk.run([*path.steps[:-1], sale], {usdc: 1, weth: 1})
    assert done.profits[weth] == done.moved[weth, desk.aave("3.6").reserves["WETH"].a_token] - 44 * 10**18
