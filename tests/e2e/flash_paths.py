"""Every way through the executor on the genuine contracts: a position to liquidate, and the program that does it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from keeper.devnet.abi import call_data
from keeper.devnet.market import Generation
from keeper.devnet.morpho_positions import MorphoPositionSpec
from keeper.devnet.morpho_positions import open_positions as open_pair_positions
from keeper.devnet.positions import PositionSpec, open_positions, owner_address
from keeper.devnet.uniswap_market import SWAP_V3
from keeper.devnet.venus import deploy_venus
from keeper.devnet.venus_market import NATIVE as NATIVE_SYMBOL
from keeper.devnet.venus_market import VenusMarket
from keeper.devnet.venus_positions import VenusPositionSpec, open_venus_positions
from keeper.domain.program import Step, StepKind
from tests.e2e.flash_desk import NATIVE, NO_HASH, OWNER, Desk, mask
from tests.e2e.flash_funding import (
    ETHER,
    REPAID,
    USD,
    by_aave,
    by_balancer,
    by_erc3156,
    by_flash_swap,
    by_morpho,
    by_old_aave,
    by_own_money,
    by_pool,
    make_balancer,
    make_vai_pool,
)
from tests.e2e.flash_steps import (
    liquidate_aave,
    liquidate_compound,
    liquidate_morpho,
    liquidate_venus,
    loan,
    pool_loan,
    redeem,
    step,
    swap_v2,
    swap_v3,
    unwrap,
    wrap,
)

FELL: Final = {"WETH": 2_800 * 10**8}
AAVE_CALL: Final = "liquidationCall(address,address,address,uint256,bool)"
MORPHO_CALL: Final = "liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)"
VENUS_CALL: Final = "liquidateBorrow(address,address,uint256,address)"
COMPOUND_CALL: Final = "liquidateBorrow(address,uint256,address)"
GENERATIONS: Final[tuple[Generation, ...]] = ("3.0", "3.6")
_NUMBERS: Final = count(9_000)


@dataclass(frozen=True, slots=True)
class Direct:
    """The same liquidation as an account makes it that has what it repays, and keeps what it seizes."""

    to: str
    signature: str
    args: tuple[object, ...]
    token: str
    spender: str
    wei: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A program, the tokens that have to come out of it, and the direct call beside it."""

    steps: Sequence[Step]
    outputs: Mapping[str, int]
    direct: Direct | None = None
    own: Mapping[str, int] = field(default_factory=dict)


Scene = Callable[[Desk], Awaitable[Prepared]]


def aave(generation: Generation, fund: Callable[[Desk], Awaitable[Sequence[Step]]]) -> Scene:
    """Return the liquidation of half a WETH position that owes USDC, with some way of funding, sold in Uniswap v3."""

    async def prepared(desk: Desk) -> Prepared:
        opening = await fund(desk)
        borrower = await aave_borrower(desk, generation)
        await desk.devnet.move(FELL)
        weth, usdc = desk.token("WETH"), desk.token("USDC")
        pool = desk.aave(generation).pool
        repay = liquidate_aave(pool, borrower, debt=usdc, collateral=weth, amount=REPAID)
        beside = Direct(pool, AAVE_CALL, (weth, usdc, borrower, REPAID, False), usdc, pool)
        if opening[0].kind == StepKind.SWAP_FIRST_UNISWAP_V3:
            return Prepared([*opening, repay], {weth: 1}, beside)
        own = {usdc: REPAID} if opening[0].kind == StepKind.PULL else {}
        return Prepared([*opening, repay, swap_v3(desk, weth, usdc, 500)], {usdc: 1}, beside, own)

    return prepared


async def aave_borrower(desk: Desk, generation: Generation, owed: int = 240_000 * USD) -> str:
    """Open a position that is healthy until WETH falls."""
    borrower = owner_address(next(_NUMBERS))
    spec = PositionSpec(owner=borrower, supplies={"WETH": 100 * ETHER}, borrows={"USDC": owed})
    await open_positions(desk.aave(generation), [spec])
    return borrower


async def sold_in_balancer(desk: Desk) -> Prepared:
    """Sell in a pool of Balancer, whose vault is locked while it lends: the loan is another's."""
    vault, pool = await make_balancer(desk)
    path = await aave("3.6", by_morpho)(desk)
    weth, usdc = desk.token("WETH"), desk.token("USDC")
    sale = step(StepKind.SWAP_BALANCER, vault, give=weth, take=usdc, limit=REPAID, data=pool)
    return replace(path, steps=[*path.steps[:-1], sale])


async def sold_in_v2(desk: Desk) -> Prepared:
    """Sell in a Uniswap v2 pair."""
    path = await aave("3.6", by_morpho)(desk)
    return replace(path, steps=[*path.steps[:-1], swap_v2(desk, desk.token("WETH"), desk.token("USDC"))])


async def sold_by_router(desk: Desk) -> Prepared:
    """Sell through a router with calldata that was made elsewhere."""
    path = await aave("3.6", by_morpho)(desk)
    router, weth, usdc = desk.uniswap.router, desk.token("WETH"), desk.token("USDC")
    await desk.authorize((router, mask(StepKind.SWAP_ROUTER), NO_HASH))
    async with desk.chain.impersonate(OWNER):
        allowed = bytes.fromhex(call_data(SWAP_V3, (weth, usdc, 500, OWNER, 0, 0, 0))[2:10])
        signature, is_allowed = "authorize_selectors(address,bytes4[],bool)", True
        await desk.chain.send(desk.executor.address, signature, router, [allowed], is_allowed, sender=OWNER)
    amount = 44 * ETHER  # less than is seized: the rest is an output of its own
    payload = bytes.fromhex(call_data(SWAP_V3, (weth, usdc, 500, desk.executor.address, amount, 0, 0))[2:])
    sale = step(StepKind.SWAP_ROUTER, router, give=weth, take=usdc, amount=amount, limit=REPAID, data=payload)
    return replace(path, steps=[*path.steps[:-1], sale], outputs={usdc: 1, weth: 1})


async def sold_in_three_hops(desk: Desk) -> Prepared:
    """Sell wstETH for DAI by way of WETH and USDC."""
    market, borrower = desk.aave("3.6"), owner_address(next(_NUMBERS))
    owed, repaid = 240_000 * ETHER, 120_000 * ETHER
    spec = PositionSpec(owner=borrower, supplies={"wstETH": 85 * ETHER}, borrows={"DAI": owed})
    await open_positions(market, [spec])
    await desk.devnet.move({"WETH": 2_800 * 10**8, "wstETH": 3_360 * 10**8})
    wsteth, weth, usdc, dai = (desk.token(each) for each in ("wstETH", "WETH", "USDC", "DAI"))
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, dai, repaid),
        liquidate_aave(market.pool, borrower, debt=dai, collateral=wsteth, amount=repaid),
        swap_v3(desk, wsteth, weth, 100),
        swap_v3(desk, weth, usdc, 500),
        swap_v3(desk, usdc, dai, 100),
    ]
    return Prepared(
        steps, {dai: 1}, Direct(market.pool, AAVE_CALL, (wsteth, dai, borrower, repaid, False), dai, market.pool)
    )


async def morpho_borrower(desk: Desk) -> str:
    """Open a position in a pair of WETH and USDC that is healthy until WETH falls."""
    borrower = owner_address(next(_NUMBERS))
    spec = MorphoPositionSpec(
        owner=borrower, pair="WETH/USDC/8600/adaptive", collateral=100 * ETHER, debt=250_000 * USD
    )
    await open_pair_positions(desk.morpho, [spec])
    return borrower


async def morpho_callback(desk: Desk) -> Prepared:
    """Liquidate in Morpho, which is paid last: nothing has to be borrowed."""
    borrower, morpho, usdc = await morpho_borrower(desk), desk.morpho.morpho, desk.token("USDC")
    await desk.devnet.move(FELL)
    params, seized = desk.morpho.pairs["WETH/USDC/8600/adaptive"].params, 50 * ETHER
    steps = [
        liquidate_morpho(morpho, params, borrower, seized=seized, most=140_000 * USD),
        swap_v3(desk, desk.token("WETH"), usdc, 500),
    ]
    return Prepared(steps, {usdc: 1}, Direct(morpho, MORPHO_CALL, (params, borrower, seized, 0, b""), usdc, morpho))


async def venus_borrower(desk: Desk, supplies: Mapping[str, int], borrows: Mapping[str, int], vai: int = 0) -> str:
    """Open a position on Venus."""
    borrower = owner_address(next(_NUMBERS))
    spec = VenusPositionSpec(owner=borrower, supplies=dict(supplies), borrows=dict(borrows), vai=vai)
    await open_venus_positions(desk.venus, [spec])
    return borrower


async def venus_token(desk: Desk) -> Prepared:
    """Liquidate on Venus a debt in a token, and redeem what is seized."""
    borrower = await venus_borrower(desk, {"WETH": 100 * ETHER}, {"USDC": 235_000 * USD})
    await desk.devnet.move(FELL)
    weth, usdc = desk.token("WETH"), desk.token("USDC")
    v_weth, v_usdc = (desk.venus.reserves[each].v_token for each in ("WETH", "USDC"))
    repaid, liquidator = 110_000 * USD, desk.venus.liquidator
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, repaid),
        liquidate_venus(liquidator, usdc, v_weth, v_usdc, borrower, repaid),
        redeem(v_weth, weth),
        swap_v3(desk, weth, usdc, 500),
    ]
    return Prepared(
        steps, {usdc: 1}, Direct(liquidator, VENUS_CALL, (v_usdc, borrower, repaid, v_weth), usdc, liquidator)
    )


async def venus_native_debt(desk: Desk) -> Prepared:
    """Liquidate on Venus a debt in native currency, which is borrowed wrapped."""
    borrower = await venus_borrower(desk, {"USDC": 200_000 * USD}, {NATIVE_SYMBOL: 48 * ETHER})
    await desk.devnet.move({"WETH": 3_400 * 10**8})
    weth, usdc = desk.token("WETH"), desk.token("USDC")
    v_usdc, v_native = (desk.venus.reserves[each].v_token for each in ("USDC", NATIVE_SYMBOL))
    repaid, liquidator = 20 * ETHER, desk.venus.liquidator
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, weth, repaid),
        unwrap(weth, repaid),
        liquidate_venus(liquidator, NATIVE, v_usdc, v_native, borrower, repaid),
        redeem(v_usdc, usdc),
        swap_v3(desk, usdc, weth, 500),
    ]
    beside = Direct(liquidator, VENUS_CALL, (v_native, borrower, repaid, v_usdc), weth, liquidator, wei=repaid)
    return Prepared(steps, {weth: 1}, beside)


async def venus_native_collateral(desk: Desk) -> Prepared:
    """Liquidate on Venus, and wrap the native currency that is redeemed."""
    chain, venus, borrower = desk.chain, desk.venus, owner_address(next(_NUMBERS))
    v_native, v_usdc = (venus.reserves[each].v_token for each in (NATIVE_SYMBOL, "USDC"))
    async with chain.impersonate(borrower):
        await chain.set_balance(borrower, 200 * ETHER)
        supplied = {
            "from": borrower,
            "to": v_native,
            "value": hex(100 * ETHER),
            "data": "0x1249c58b",
            "gas": hex(10**6),
        }
        await chain.receipt(await chain.rpc("eth_sendTransaction", supplied))
        await chain.send(venus.comptroller, "enterMarkets(address[])", [v_native], sender=borrower)
        await chain.send(v_usdc, "borrow(uint256)", 230_000 * USD, sender=borrower)
    await desk.devnet.move(FELL)
    weth, usdc, repaid = desk.token("WETH"), desk.token("USDC"), 110_000 * USD
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, repaid),
        liquidate_venus(venus.liquidator, usdc, v_native, v_usdc, borrower, repaid),
        redeem(v_native, NATIVE),
        wrap(weth),
        swap_v3(desk, weth, usdc, 500),
    ]
    args = (v_usdc, borrower, repaid, v_native)
    return Prepared(steps, {usdc: 1}, Direct(venus.liquidator, VENUS_CALL, args, usdc, venus.liquidator))


async def venus_vai(desk: Desk) -> Prepared:
    """Liquidate on Venus a debt in its own dollar, which is bought with what is borrowed."""
    venus = desk.venus
    borrower = await venus_borrower(desk, {"WETH": 100 * ETHER}, {}, vai=238_000 * ETHER)
    usdc, weth = desk.token("USDC"), desk.token("WETH")
    await make_vai_pool(desk.devnet)
    await desk.devnet.move(FELL)
    v_weth, liquidator, repaid = venus.reserves["WETH"].v_token, venus.liquidator, 100_000 * ETHER
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, 102_000 * USD),
        swap_v3(desk, usdc, venus.vai, 500, least=repaid),
        liquidate_venus(liquidator, venus.vai, v_weth, venus.vai_controller, borrower, repaid),
        redeem(v_weth, weth),
        swap_v3(desk, weth, usdc, 500),
    ]
    args = (venus.vai_controller, borrower, repaid, v_weth)
    return Prepared(steps, {usdc: 1, venus.vai: 0}, Direct(liquidator, VENUS_CALL, args, venus.vai, liquidator))


async def compound_token(desk: Desk) -> Prepared:
    """Liquidate where a cToken is paid without a go-between."""
    chain, assets = (
        desk.chain,
        {each: desk.uniswap.assets[each] for each in desk.venus.reserves if each != NATIVE_SYMBOL},
    )
    market: VenusMarket = await deploy_venus(chain, desk.devnet.packages, "1", desk.venus.spec, assets=assets)
    v_weth, v_usdc = (market.reserves[each].v_token for each in ("WETH", "USDC"))
    await desk.authorize(
        (v_weth, mask(StepKind.REDEEM_COMPOUND), NO_HASH), (v_usdc, mask(StepKind.LIQUIDATE_COMPOUND), NO_HASH)
    )
    borrower = owner_address(next(_NUMBERS))
    spec = VenusPositionSpec(owner=borrower, supplies={"WETH": 100 * ETHER}, borrows={"USDC": 235_000 * USD})
    await open_venus_positions(market, [spec])
    await desk.devnet.move(FELL)
    weth, usdc, repaid = desk.token("WETH"), desk.token("USDC"), 110_000 * USD
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, repaid),
        liquidate_compound(v_usdc, usdc, v_weth, borrower, repaid),
        redeem(v_weth, weth),
        swap_v3(desk, weth, usdc, 500),
    ]
    return Prepared(steps, {usdc: 1}, Direct(v_usdc, COMPOUND_CALL, (borrower, repaid, v_weth), usdc, v_usdc))


async def two_stages(desk: Desk) -> Prepared:
    """Liquidate one account twice in one transaction, which repays more than its close factor allows at once."""
    borrower = await aave_borrower(desk, "3.0")
    await desk.devnet.move({"WETH": 2_750 * 10**8})
    pool, weth, usdc = desk.aave("3.0").pool, desk.token("WETH"), desk.token("USDC")
    stages = (80_000 * USD, 75_000 * USD)
    steps = [
        loan(StepKind.FLASH_MORPHO, desk.morpho.morpho, usdc, sum(stages)),
        *(liquidate_aave(pool, borrower, debt=usdc, collateral=weth, amount=each) for each in stages),
        swap_v3(desk, weth, usdc, 500),
    ]
    return Prepared(steps, {usdc: 1})


async def many_at_once(desk: Desk) -> Prepared:
    """Liquidate on Aave v3.0, v3.6 and Venus with one loan and one sale, and on Morpho inside it."""
    weth, usdc, morpho = desk.token("WETH"), desk.token("USDC"), desk.morpho.morpho
    borrowers = {each: await aave_borrower(desk, each) for each in desk.devnet.markets}
    pair_borrower = await morpho_borrower(desk)
    venus_debtor = await venus_borrower(desk, {"WETH": 100 * ETHER}, {"USDC": 235_000 * USD})
    await desk.devnet.move(FELL)
    v_weth, v_usdc = (desk.venus.reserves[each].v_token for each in ("WETH", "USDC"))
    params = desk.morpho.pairs["WETH/USDC/8600/adaptive"].params
    steps = [
        pool_loan(desk, usdc, desk.token("USDT"), 100, 2 * REPAID + 110_000 * USD),
        *(
            liquidate_aave(desk.aave(each).pool, who, debt=usdc, collateral=weth, amount=REPAID, gas=700_000)
            for each, who in borrowers.items()
        ),
        liquidate_venus(desk.venus.liquidator, usdc, v_weth, v_usdc, venus_debtor, 110_000 * USD),
        redeem(v_weth, weth),
        liquidate_morpho(morpho, params, pair_borrower, seized=50 * ETHER, most=140_000 * USD),
        swap_v3(desk, weth, usdc, 500),
    ]
    return Prepared(steps, {usdc: 1})


PATHS: Final[Mapping[str, Scene]] = {
    **{
        f"aave v{generation}, {name}": aave(generation, fund)
        for generation, loan_of in zip(GENERATIONS, (by_old_aave, by_aave), strict=True)
        for name, fund in (
            ("aave loan", loan_of),
            ("morpho loan", by_morpho),
            ("uniswap v3 loan", by_pool),
            ("flash swap", by_flash_swap),
            ("own money", by_own_money),
            ("erc-3156 loan", by_erc3156),
            ("balancer loan", by_balancer),
        )
    },
    "aave v3.6, morpho loan, sold in uniswap v2": sold_in_v2,
    "aave v3.6, morpho loan, sold in balancer": sold_in_balancer,
    "aave v3.6, morpho loan, sold by a router": sold_by_router,
    "aave v3.6, morpho loan, sold in three hops": sold_in_three_hops,
    "aave v3.0, morpho loan, two stages": two_stages,
    "morpho, paid in its callback": morpho_callback,
    "venus, morpho loan": venus_token,
    "venus, native debt": venus_native_debt,
    "venus, native collateral": venus_native_collateral,
    "venus, vai debt": venus_vai,
    "compound v2, morpho loan": compound_token,
    "aave v3.0, aave v3.6, venus and morpho at once": many_at_once,
}
