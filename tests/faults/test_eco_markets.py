"""ECO-01, 03, 08, 09, 10, 16 to 18, 20, 23: hostile markets, lenders, pools, routers, in the hands of the executor."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from keeper.domain.program import Output, Step, StepKind
from keeper.domain.units import TokenAmount
from tests.hostile.contracts import (
    BLACK_HOLE,
    RETURN_BOMB,
    REVERT_BOMB,
    LenderMood,
    PairMood,
    PoolMood,
    TokenMood,
    TraderMood,
    env,
    raw,
    set_block,
)
from tests.hostile.words import STEP_FAILED, call, reason_of
from tests.hostile.world import (
    BONUS_BPS,
    LOAN,
    LOANS,
    PROFIT,
    SALE_BPS,
    SEIZED,
    UNIT,
    World,
    fresh_world,
)

STEP_GAS = 600_000
REASON_BYTES = 256
MEGABYTE_GAS = 2_002_000
"""What it takes to write a megabyte: whoever drops a bomb pays that, and nobody else."""
MOST_OF_A_REVERT = 1_200_000


@pytest.fixture
def world() -> Iterator[World]:
    with fresh_world() as fresh:
        yield fresh


def failed_steps(world: World, logs: tuple[tuple[bytes, tuple[int, ...], bytes], ...]) -> int:
    """Return how many steps the executor told to have failed."""
    return sum(topics[0].to_bytes(32) == STEP_FAILED for where, topics, _ in logs if where == raw(world.executor))


# ECO-01


POISONS = (
    TraderMood.POISON,
    TraderMood.POISON_BOMB,
    TraderMood.BURNER,
    TraderMood.PAYS_NOTHING,
    TraderMood.PAYS_LESS,
    TraderMood.PAYS_OTHER,
    TraderMood.PAYS_JUNK,
    TraderMood.TAKES_MORE,
)


@pytest.mark.parametrize("mood", POISONS)
@pytest.mark.parametrize("place", [0, 1])
def test_eco_01_a_poison_position_among_others_in_one_transaction_costs_the_others_nothing(
    world: World, mood: TraderMood, place: int
) -> None:
    before = world.books()
    world.behave(world.second, mood)
    good = world.liquidation(gas=STEP_GAS, limit=SEIZED)
    poison = world.liquidation(world.second, gas=STEP_GAS, limit=SEIZED)
    both = [poison, good] if place == 0 else [good, poison]
    done = world.run([world.loan(amount=2 * LOAN, fee=LOAN), *both, world.sale()])
    fee = LOAN * 2 * 5 // 10_000
    assert world.assert_paid(done, before=before) == SEIZED * SALE_BPS // 10_000 - LOAN - fee
    assert failed_steps(world, done.logs) == 1


def test_eco_01_an_error_that_a_market_returns_instead_of_reverting_is_a_failure_all_the_same(world: World) -> None:
    before = world.books()
    world.behave(world.market, TraderMood.ERROR_CODE)
    world.assert_failed(world.run([world.loan(), world.compound(), world.sale()]), before=before)
    done = world.run(
        [
            world.loan(amount=2 * LOAN, fee=LOAN),
            world.compound(gas=STEP_GAS),
            world.liquidation(world.second),
            world.sale(),
        ]
    )
    world.assert_paid(done, before=before)
    assert failed_steps(world, done.logs) == 1


def test_eco_01_where_all_positions_are_poison_nothing_is_left_of_the_loan(world: World) -> None:
    before = world.books()
    for market in (world.market, world.second):
        world.behave(market, TraderMood.POISON)
    steps = [world.loan(), world.liquidation(gas=STEP_GAS), world.liquidation(world.second, gas=STEP_GAS)]
    world.assert_failed(world.run(steps), before=before)


# ECO-03


@pytest.mark.parametrize("bomb", [RETURN_BOMB, REVERT_BOMB])
@pytest.mark.parametrize("kind", [StepKind.SWAP_ROUTER, StepKind.SWAP_CURVE, StepKind.LIQUIDATE_AAVE])
def test_eco_03_a_megabyte_is_paid_for_by_who_writes_it_and_never_copied(
    world: World, kind: StepKind, bomb: bytes
) -> None:
    world.gold.mint(world.executor, SEIZED)
    before = world.books()
    target = {StepKind.SWAP_ROUTER: world.router, StepKind.SWAP_CURVE: world.exchange}.get(kind, world.market)
    env.set_code(target.address, bomb)
    step = world.sale(kind) if kind is not StepKind.LIQUIDATE_AAVE else world.liquidation(limit=1, amount=0)
    done = world.run([step], payloads=[world.payload()])
    world.assert_failed(done, before=before)
    assert len(done.output) <= REASON_BYTES
    assert MEGABYTE_GAS <= done.gas_used <= MEGABYTE_GAS + 500_000


@pytest.mark.parametrize("bomb", [RETURN_BOMB, REVERT_BOMB, BLACK_HOLE])
def test_eco_03_a_step_with_a_bound_on_its_gas_takes_no_more_whatever_it_does(world: World, bomb: bytes) -> None:
    plain = world.run([world.loan(amount=2 * LOAN, fee=LOAN), world.liquidation(), world.sale()])
    before = world.books()
    env.set_code(world.second.address, bomb)
    poison = world.liquidation(world.second, gas=STEP_GAS, limit=1)
    done = world.run([world.loan(amount=2 * LOAN, fee=LOAN), poison, world.liquidation(), world.sale()])
    world.assert_paid(done, before=before)
    assert failed_steps(world, done.logs) == 1
    assert done.gas_used - plain.gas_used <= STEP_GAS + 150_000


# ECO-08


def test_eco_08_a_bait_that_pays_in_a_token_of_its_own_is_no_profit(world: World) -> None:
    before = world.books()
    world.behave(world.market, TraderMood.PAYS_JUNK)
    world.assert_failed(world.run(world.plain()), before=before)
    wanted = [*world.outputs(), Output(raw(world.junk), TokenAmount(1))]
    world.assert_failed(world.run(world.plain(), wanted), before=before)


@pytest.mark.parametrize("mood", [TokenMood.TAXED, TokenMood.SHRINKING])
@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3])
def test_eco_08_a_bait_token_that_lets_others_keep_more_than_us_takes_nothing_from_us(
    world: World, mood: TokenMood, sale: StepKind
) -> None:
    """Salmonella: the pool shows a profit, and each transfer of the token eats it."""
    before = world.books()
    world.behave(world.gold, mood)
    steps = [world.swap_first(amount=LOAN, most=LOAN), world.liquidation(), world.sale(sale)]
    done = world.run(steps, world.outputs(least=1))
    if done.ok:
        world.assert_paid(done, before=before)
    else:
        world.assert_failed(done, before=before)


# ECO-09


@pytest.mark.parametrize("loan", LOANS)
@pytest.mark.parametrize("mood", [LenderMood.TAKES_NOTHING, LenderMood.TAKES_LESS])
def test_eco_09_a_lender_that_does_not_take_its_loan_back_can_never_do_so_later(
    world: World, loan: StepKind, mood: LenderMood
) -> None:
    before = world.books()
    world.behave(world.lender(loan), mood)
    done = world.run(world.plain(loan))
    world.assert_paid(done, before=before, least=PROFIT)


TAKERS = (TraderMood.TAKES_NOTHING, TraderMood.TAKES_LESS, TraderMood.LOOTING)


@pytest.mark.parametrize("mood", TAKERS)
@pytest.mark.parametrize("who", ["market", "router", "exchange"])
def test_eco_09_an_allowance_that_was_not_used_up_is_taken_back_before_the_next_step(
    world: World, who: str, mood: TraderMood
) -> None:
    before = world.books()
    bait = getattr(world, who)
    world.behave(bait, mood)
    sale = StepKind.SWAP_ROUTER if who == "router" else StepKind.SWAP_CURVE
    outputs = world.outputs() if who == "market" else [Output(raw(world.cash), TokenAmount(1))]
    done = world.run(world.plain(sale=sale), outputs, payloads=[world.payload()])
    assert done.ok, reason_of(done)
    assert world.allowances() == []
    for token in (world.cash, world.gold):
        token.mint(world.executor, LOAN)
        held = world.held(token)
        bait.loot(token.address, world.executor)
        assert world.held(token) == held
    assert world.books()[str(world.owner), str(world.cash.address)] > before[str(world.owner), str(world.cash.address)]


@pytest.mark.parametrize("mood", [TokenMood.UNSPENT, TokenMood.GENEROUS, TokenMood.UNSPENT | TokenMood.STUBBORN])
def test_eco_09_a_token_that_keeps_allowances_alive_has_them_taken_back(world: World, mood: TokenMood) -> None:
    before = world.books()
    for token in (world.cash, world.gold):
        world.behave(token, mood)
    world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)


def test_eco_09_where_an_allowance_cannot_be_taken_back_nothing_has_happened(world: World) -> None:
    before = world.books()
    world.behave(world.cash, TokenMood.NO_ZERO)
    world.behave(world.market, TraderMood.TAKES_LESS)
    world.assert_failed(world.run(world.plain()), before=before)


# Lenders and pools in other ways


BREACHES = (
    LenderMood.DEARER,
    LenderMood.NEVER,
    LenderMood.OTHER_DATA,
    LenderMood.NO_DATA,
    LenderMood.OTHER_AMOUNT,
    LenderMood.LESS,
    LenderMood.TAKES_MORE,
)


@pytest.mark.parametrize("loan", LOANS)
@pytest.mark.parametrize("mood", BREACHES)
def test_eco_13_a_lender_that_changes_the_terms_lends_in_vain(world: World, loan: StepKind, mood: LenderMood) -> None:
    before = world.books()
    world.behave(world.lender(loan), mood, place=31)
    done = world.run(world.plain(loan), world.outputs(least=PROFIT))
    if done.ok:  # Morpho's loan has no fee to raise; Balancer takes nothing by itself
        assert (loan, mood) in {
            (StepKind.FLASH_MORPHO, LenderMood.DEARER),
            (StepKind.FLASH_BALANCER, LenderMood.TAKES_MORE),
        }
        world.assert_paid(done, before=before, least=PROFIT)
    else:
        world.assert_failed(done, before=before)


@pytest.mark.parametrize("loan", LOANS)
@pytest.mark.parametrize("mood", [LenderMood.TWICE, LenderMood.AFTERWARDS, LenderMood.OTHER_TOKEN])
def test_eco_13_a_lender_is_heard_once(world: World, loan: StepKind, mood: LenderMood) -> None:
    before = world.books()
    lender = world.lender(loan)
    world.behave(lender, mood)
    done = world.run(world.plain(loan))
    if done.ok:
        world.assert_paid(done, before=before, least=PROFIT)
        assert lender.heard() == 1
    else:
        assert mood is LenderMood.OTHER_TOKEN
        world.assert_failed(done, "door", before=before)


@pytest.mark.parametrize("loan", [StepKind.FLASH_AAVE, StepKind.FLASH_BALANCER, StepKind.FLASH_ERC3156])
def test_eco_13_a_fee_above_the_programs_bound_is_not_paid_although_the_profit_would_bear_it(
    world: World, loan: StepKind
) -> None:
    before = world.books()
    world.lender(loan).behave(LenderMood.HONEST, world.accomplice.address, 100, 0)
    world.assert_failed(world.run(world.plain(loan)), "dear", before=before)


@pytest.mark.parametrize("loan", LOANS)
def test_eco_13_a_lender_that_hides_the_failure_of_a_callback_ends_the_program(world: World, loan: StepKind) -> None:
    before = world.books()
    world.behave(world.lender(loan), LenderMood.SWALLOWING)
    world.behave(world.market, TraderMood.POISON)
    world.assert_failed(world.run(world.plain(loan), world.outputs(least=0)), before=before)


POOLS = [each for each in PoolMood if each not in {PoolMood.REENTERED, PoolMood.UNWATCHFUL}]
CARELESS = [each | PoolMood.UNWATCHFUL for each in POOLS]
"""They take no notice of what they are paid: nothing but the executor's own rules keeps it from harm then."""


@pytest.mark.parametrize(
    ("kind", "mood"),
    [*((kind, mood) for kind in ("loan", "first", "swap") for mood in CARELESS), *(("first", mood) for mood in POOLS)],
)
def test_eco_14_a_pool_that_keeps_to_no_rule_pays_what_was_asked_for_or_nothing_happens(
    world: World, kind: str, mood: PoolMood
) -> None:
    """As if the factory itself were malicious."""
    sold = LOAN * 9_970 // 10_000
    steps = {
        "loan": world.plain(StepKind.FLASH_UNISWAP_V3),
        "first": [world.swap_first(most=LOAN * 10_000 // 9_970 + 1), world.liquidation()],
        "swap": [world.loan(), world.liquidation(), world.sale(StepKind.SWAP_UNISWAP_V3, limit=sold)],
    }[kind]
    cash = 0 if kind == "first" else 1
    outputs = [Output(raw(world.cash), TokenAmount(cash)), Output(raw(world.gold), TokenAmount(90 * UNIT * (1 - cash)))]
    before = world.books()
    world.behave(world.pool, mood, place=31)
    done = world.run(steps, outputs)
    if done.ok:
        world.assert_paid(done, before=before, least=cash)
        assert world.pool.heard() == 1
    else:
        world.assert_failed(done, before=before)


# ECO-10


def test_eco_10_a_market_that_pays_in_simulations_only_is_left_with_nothing(world: World) -> None:
    """It looks at the coinbase and the base fee, which are zero where nobody set them."""
    before = world.books()
    world.behave(world.market, TraderMood.WATCHING)
    set_block(coinbase=bytes(20), base_fee=0)
    with env.anchor():
        world.assert_paid(world.run(world.plain()), before=before)
    for coinbase, base_fee in ((bytes(20), 0), (b"\x01" * 20, 10**9)):
        set_block(coinbase=coinbase, base_fee=base_fee)
        with env.anchor():
            done = world.run(world.plain())
            if base_fee:
                world.assert_failed(done, before=before)
            else:
                assert done.ok


# ECO-16


@pytest.mark.parametrize("moved", [0, 1, 5, 20, 60])
def test_eco_16_a_sandwich_takes_no_more_than_the_bound_or_the_sale_does_not_happen(world: World, moved: int) -> None:
    """`moved`: how many percent of the pool's gold are sold right before ours."""
    quoted = SEIZED * 997 * 10**6 * UNIT // (10**6 * UNIT * 1000 + SEIZED * 997)
    least = quoted * 99 // 100
    front = 10**6 * UNIT * moved // 100
    world.gold.mint(world.accomplice.address, front)
    if front:
        world.gold.mint(world.pair.address, front)
        world.pair.sync()  # as a swap leaves the reserves, and worse: nothing was paid out for it
    before = world.books()
    sale = world.sale(StepKind.SWAP_UNISWAP_V2, limit=least)
    done = world.run([world.loan(), world.liquidation(), sale])
    if done.ok:
        gained = world.assert_paid(done, before=before)
        assert gained >= least - LOAN - LOAN * 5 // 10_000
        assert moved <= 1
    else:
        assert moved >= 1
        world.assert_failed(done, "least", before=before)


@pytest.mark.parametrize("mood", [PairMood.PAYS_LESS, PairMood.PAYS_OTHER, PairMood.FLATTERING])
def test_eco_16_a_pair_that_pays_less_than_it_says_is_no_sale(world: World, mood: PairMood) -> None:
    before = world.books()
    quoted = SEIZED * 997 * 10**6 * UNIT // (10**6 * UNIT * 1000 + SEIZED * 997)
    world.behave(world.pair, mood)
    done = world.run([*world.plain()[:2], world.sale(StepKind.SWAP_UNISWAP_V2, limit=quoted)])
    if done.ok:
        assert mood is PairMood.FLATTERING
        world.assert_paid(done, before=before)
    else:
        world.assert_failed(done, before=before)


# ECO-17


def test_eco_17_a_position_that_was_topped_up_in_the_last_moment_costs_little_gas_and_the_others_still_pay(
    world: World,
) -> None:
    before = world.books()
    world.behave(world.market, TraderMood.POISON)  # as a market refuses who is healthy
    alone = world.run(world.plain())
    world.assert_failed(alone, before=before)
    assert alone.gas_used < MOST_OF_A_REVERT
    steps = [world.loan(), world.liquidation(gas=STEP_GAS), world.liquidation(world.second), world.sale()]
    world.assert_paid(world.run(steps), before=before, least=PROFIT)


@pytest.mark.parametrize("part", [2, 100, 10**18])
def test_eco_17_a_market_that_takes_only_a_part_of_the_repayment_leaves_a_smaller_trade(
    world: World, part: int
) -> None:
    """The borrower repaid the rest before us: what was borrowed too much goes back."""
    amount = LOAN // part
    world.cash.mint(world.executor, LOAN)
    before = world.books()
    steps = [world.loan(), world.liquidation(amount=amount), world.sale()]
    done = world.run(steps, [Output(raw(world.cash), TokenAmount(1)), Output(raw(world.gold), TokenAmount(0))])
    gained = amount * BONUS_BPS // 10_000 * SALE_BPS // 10_000 - amount - LOAN * 5 // 10_000
    if gained > 0:
        assert world.assert_paid(done, before=before, least=1) == LOAN + gained
    else:
        world.assert_failed(done, "least", before=before)


# ECO-18


@pytest.mark.parametrize("mood", [TokenMood.PAUSED, TokenMood.REFUSING, TokenMood.LIAR])
def test_eco_18_collateral_that_can_be_seized_and_not_sold_is_not_seized(world: World, mood: TokenMood) -> None:
    """Frozen at once after it has arrived: the hook of the debt token does it, as an admin could."""
    before = world.books()
    freeze = call("behave(uint256,address)", int(mood), world.accomplice.address)
    world.accomplice.prepare([(world.gold.address, freeze)])
    world.behave(world.exchange, TraderMood.REENTERED)
    world.assert_failed(world.run(world.plain()), before=before)


@pytest.mark.parametrize("rate_bps", [0, 1, 5_000, 9_000])
def test_eco_18_collateral_that_nobody_buys_is_not_kept_by_accident(world: World, rate_bps: int) -> None:
    before = world.books()
    world.exchange.behave(TraderMood.HONEST, world.accomplice.address, rate_bps)
    world.assert_failed(world.run(world.plain()), before=before)


def test_eco_18_collateral_is_kept_only_where_the_program_says_so_and_by_the_owner(world: World) -> None:
    world.cash.mint(world.hot, LOAN)
    world.cash.let_stand(world.hot, world.executor, LOAN)
    before = world.books()
    loan = [world.loan(), world.liquidation()]
    world.assert_failed(world.run(loan, [Output(raw(world.gold), TokenAmount(SEIZED))]), before=before)
    world.cash.mint(world.executor, 2 * LOAN)  # what the owner put there to buy with
    done = world.run(loan, [Output(raw(world.gold), TokenAmount(SEIZED))])
    assert done.ok, reason_of(done)
    assert world.held(world.gold, world.owner) == SEIZED


# ECO-20


def _routed(world: World, payload: bytes, *, limit: int = 1) -> tuple[list[Step], list[bytes]]:
    sale = world.sale(StepKind.SWAP_ROUTER, limit=limit)
    return [world.loan(), world.liquidation(), sale], [payload]


def test_eco_20_a_quote_whose_payload_pays_somebody_else_is_no_sale(world: World) -> None:
    before = world.books()
    for who in (world.stranger, world.hot, world.router):
        steps, payloads = _routed(world, world.payload(to=getattr(who, "address", who)))
        world.assert_failed(world.run(steps, payloads=payloads), "least", before=before)


@pytest.mark.parametrize(
    "mood",
    [
        TraderMood.PAYS_OTHER,
        TraderMood.PAYS_NOTHING,
        TraderMood.PAYS_LESS,
        TraderMood.PAYS_JUNK,
        TraderMood.TAKES_MORE,
        TraderMood.POISON,
        TraderMood.BURNER,
    ],
)
def test_eco_20_a_router_that_pays_less_or_elsewhere_or_takes_more_is_no_sale(world: World, mood: TraderMood) -> None:
    before = world.books()
    world.behave(world.router, mood)
    steps, payloads = _routed(world, world.payload(), limit=SEIZED * SALE_BPS // 10_000)
    world.assert_failed(world.run(steps, payloads=payloads), before=before)


@pytest.mark.parametrize("extra", [1, UNIT, 10**6 * UNIT])
def test_eco_20_a_payload_that_takes_more_than_the_step_gives_takes_nothing(world: World, extra: int) -> None:
    world.gold.mint(world.executor, 10**6 * UNIT)
    before = world.books()
    sale = replace(world.sale(StepKind.SWAP_ROUTER), amount=SEIZED)
    steps = [world.loan(), world.liquidation(), sale]
    done = world.run(steps, payloads=[world.payload(amount=SEIZED + extra)])
    world.assert_failed(done, before=before)


def test_eco_20_a_function_that_the_owner_did_not_allow_is_no_routers(world: World) -> None:
    before = world.books()
    theft = call("loot(address,address)", world.gold.address, str(world.executor))
    for payload in (theft, call("behave(uint256,address,uint256)", 0, str(world.hot), 0), b"\0" * 4):
        steps, payloads = _routed(world, payload)
        world.assert_failed(world.run(steps, payloads=payloads), "selector", before=before)
    for payload in (b"", b"\x01"):
        steps, payloads = _routed(world, payload)
        world.assert_failed(world.run(steps, payloads=payloads), before=before)


def test_eco_20_another_contract_than_an_authorised_router_is_not_called_and_is_allowed_nothing(world: World) -> None:
    before = world.books()
    steps, payloads = _routed(world, world.payload())
    targets: list[Any] = [world.second, world.exchange, world.accomplice, world.cash, world.gold]
    for target in targets:
        stolen = [*steps[:2], replace(steps[2], target=raw(target))]
        world.assert_failed(world.run(stolen, payloads=payloads), "permit", before=before)


def test_eco_20_a_router_that_calls_the_executor_back_changes_nothing(world: World) -> None:
    before = world.books()
    world.accomplice.prepare(
        [
            (str(world.executor), call("perform(uint256)", 1)),
            (str(world.executor), call("sweep(address[])", [world.gold.address])),
            (str(world.executor), call("executeOperation(address,uint256,uint256,address,bytes)",
                world.cash.address, LOAN, 0, str(world.executor), bytes(32))),
        ]
    )  # fmt: skip
    world.behave(world.router, TraderMood.REENTERED)
    steps, payloads = _routed(world, world.payload())
    world.assert_paid(world.run(steps, payloads=payloads), before=before, least=PROFIT)
    assert world.accomplice.succeeded() == 0
    assert world.accomplice.tried() == 3


# ECO-23


@pytest.mark.parametrize(
    "mood", [TraderMood.PAYS_NOTHING, TraderMood.PAYS_OTHER, TraderMood.LOOTING, TraderMood.POISON]
)
def test_eco_23_a_market_whose_code_is_another_one_by_the_time_we_land_takes_nothing_but_gas(
    world: World, mood: TraderMood
) -> None:
    before = world.books()
    with env.anchor():
        world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)
    world.behave(world.market, mood)
    done = world.run(world.plain())
    if done.ok:  # it took what it was offered, and paid for it
        assert mood is TraderMood.LOOTING
        world.assert_paid(done, before=before, least=PROFIT)
    else:
        world.assert_failed(done, before=before)


def test_eco_23_a_market_whose_code_is_gone_takes_nothing(world: World) -> None:
    before = world.books()
    env.set_code(world.market.address, b"")
    world.assert_failed(world.run(world.plain()), before=before)
