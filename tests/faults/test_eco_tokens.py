"""ECO-03 to ECO-07: tokens that bomb, tax, lie, refuse and call back, in the hands of the executor."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.program import Output, Step, StepKind
from keeper.domain.reverts import decode
from keeper.domain.units import TokenAmount
from tests.hostile.contracts import TokenMood, TraderMood, raw
from tests.hostile.words import call, execution, reason_of
from tests.hostile.world import LOAN, PROFIT, SEIZED, UNIT, World, fresh_world

MOST_OF_A_TOKEN = 1_000_000
"""The gas that one call of a token may take."""
REASON_BYTES = 256
OTHERS_MONEY = 5_000 * UNIT


@pytest.fixture
def world() -> Iterator[World]:
    with fresh_world() as fresh:
        yield fresh


# ECO-03


@pytest.mark.parametrize("which", ["cash", "gold"])
def test_eco_03_a_token_that_returns_a_heap_of_data_after_its_true_is_read_no_further_than_that(
    world: World, which: str
) -> None:
    before = world.books()
    honest = world.run(world.plain())
    world.behave(getattr(world, which), TokenMood.BOMB)
    bombed = world.run(world.plain())
    world.assert_paid(honest, before=before, least=PROFIT)
    world.assert_paid(bombed, before=before, least=2 * PROFIT)
    assert bombed.gas_used - honest.gas_used < MOST_OF_A_TOKEN


@pytest.mark.parametrize("which", ["cash", "gold"])
def test_eco_03_a_token_that_reverts_with_a_heap_of_data_ends_the_program_with_the_beginning_of_it(
    world: World, which: str
) -> None:
    before = world.books()
    world.behave(getattr(world, which), TokenMood.REVERT_BOMB)
    done = world.run([Step(StepKind.PULL, raw(world.executor), take=raw(getattr(world, which)), amount=LOAN)])
    world.assert_failed(done, before=before)
    assert len(done.output) <= REASON_BYTES
    assert done.gas_used < MOST_OF_A_TOKEN


@pytest.mark.parametrize("step", ["approval", "transfer", "balance"])
def test_eco_03_a_token_that_takes_all_gas_gets_a_bounded_part_of_it(world: World, step: str) -> None:
    steps = {
        "approval": [world.loan(), world.liquidation()],
        "transfer": [world.sale(StepKind.SWAP_UNISWAP_V2, amount=UNIT)],
        "balance": [world.sale()],
    }[step]
    before = world.books()
    token = world.cash if step == "approval" else world.gold
    lenders = steps[1:] if step == "approval" else steps  # the lender's own transfer is not the executor's to bound
    world.behave(token, TokenMood.BURNER)
    done = world.run(lenders)
    world.assert_failed(done, before=before)
    assert done.gas_used < 3 * MOST_OF_A_TOKEN


# ECO-04


@pytest.mark.parametrize("mood", [TokenMood.TAXED, TokenMood.SHRINKING, TokenMood.FLATTERER])
@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3])
def test_eco_04_collateral_that_arrives_as_less_than_was_quoted_pays_the_loan_back_or_nothing_happens(
    world: World, mood: TokenMood, sale: StepKind
) -> None:
    before = world.books()
    world.behave(world.gold, mood)
    done = world.run(world.plain(sale=sale), world.outputs(least=PROFIT // 2))
    if done.ok:
        world.assert_paid(done, before=before, least=PROFIT // 2)
    else:
        world.assert_failed(done, before=before)


@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2])
def test_eco_04_what_is_left_of_taxed_collateral_is_sold_as_it_is_where_that_still_pays(
    world: World, sale: StepKind
) -> None:
    """Twice the tax is less than what this market gives away."""
    before = world.books()
    world.market.behave(TraderMood.HONEST, world.accomplice.address, 14_000)
    world.behave(world.gold, TokenMood.TAXED)
    steps = world.plain(sale=sale)
    gained = world.assert_paid(world.run(steps), before=before)
    assert gained < LOAN * 14_000 // 10_000 - LOAN  # less than the amount that the market named


def test_eco_04_the_amount_that_was_quoted_is_never_assumed_to_have_arrived(world: World) -> None:
    before = world.books()
    world.behave(world.gold, TokenMood.TAXED)
    done = world.run([world.loan(), world.liquidation(), world.sale(amount=SEIZED)])
    world.assert_failed(done, before=before)


@pytest.mark.parametrize("wanted", [PROFIT, PROFIT + 1])
def test_eco_04_what_lay_in_the_executor_before_is_no_profit(world: World, wanted: int) -> None:
    world.cash.mint(world.executor, OTHERS_MONEY)
    before = world.books()
    done = world.run(world.plain(), world.outputs(least=wanted))
    if wanted > PROFIT:
        world.assert_failed(done, "least", before=before)
    else:
        assert world.assert_paid(done, before=before) == PROFIT + OTHERS_MONEY


@pytest.mark.parametrize(("numerator", "ok"), [(1, False), (20, True)])
def test_eco_04_a_balance_that_is_rebased_between_two_programs_counts_as_it_stands(
    world: World, numerator: int, *, ok: bool
) -> None:
    world.cash.mint(world.executor, OTHERS_MONEY)
    world.cash.rebase(world.executor, numerator, 10)
    before = world.books()
    done = world.run(world.plain(), world.outputs(least=PROFIT))
    assert world.assert_paid(done, before=before) == PROFIT + OTHERS_MONEY * numerator // 10


# ECO-05


@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3])
@pytest.mark.parametrize("mood", [TokenMood.SILENT, TokenMood.STUBBORN, TokenMood.SILENT | TokenMood.STUBBORN])
def test_eco_05_tokens_that_return_nothing_or_change_no_standing_allowance_are_used_like_any_other(
    world: World, mood: TokenMood, sale: StepKind
) -> None:
    before = world.books()
    for token in (world.cash, world.gold):
        world.behave(token, mood)
    world.assert_paid(world.run(world.plain(sale=sale), world.outputs(least=1)), before=before)


@pytest.mark.parametrize("mood", [TokenMood.REFUSING, TokenMood.JUNK])
@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3])
def test_eco_05_a_token_that_says_anything_but_true_has_refused(world: World, mood: TokenMood, sale: StepKind) -> None:
    world.gold.mint(world.executor, SEIZED)
    before = world.books()
    world.behave(world.gold, mood)
    world.assert_failed(world.run([world.sale(sale)]), "token", before=before)


def test_eco_05_a_token_that_says_true_and_moves_nothing_brings_nobody_a_profit(world: World) -> None:
    before = world.books()
    world.behave(world.gold, TokenMood.LIAR)
    done = world.run(world.plain(sale=StepKind.SWAP_UNISWAP_V2))
    world.assert_failed(done, before=before)


def test_eco_05_a_standing_allowance_that_cannot_be_changed_is_set_to_nothing_first(world: World) -> None:
    """How one could stand: a token that allows more than it was asked to, in a step that failed halfway."""
    world.cash.let_stand(world.executor, world.market.address, 7)
    before = world.books()
    world.behave(world.cash, TokenMood.STUBBORN)
    world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)


def test_eco_05_what_has_no_code_is_no_token(world: World) -> None:
    before = world.books()
    done = world.run([Step(StepKind.PULL, raw(world.executor), take=raw(world.stranger), amount=1)], [])
    world.assert_failed(done, "token", before=before)


# ECO-06


@pytest.mark.parametrize("sale", [StepKind.SWAP_CURVE, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3])
def test_eco_06_no_token_is_ever_asked_to_move_or_to_allow_nothing(world: World, sale: StepKind) -> None:
    before = world.books()
    for token in (world.cash, world.gold):
        world.behave(token, TokenMood.NO_ZERO)
    world.assert_paid(world.run(world.plain(sale=sale)), before=before)


@pytest.mark.parametrize("mood", [TokenMood.BLOCKING, TokenMood.PAUSED])
@pytest.mark.parametrize("which", ["cash", "gold"])
def test_eco_06_a_token_that_blocks_the_executor_or_is_paused_is_told_by_its_own_words(
    world: World, which: str, mood: TokenMood
) -> None:
    before = world.books()
    token = getattr(world, which)
    token.block_account(world.executor)
    world.behave(token, mood)
    done = world.run(world.plain())
    world.assert_failed(done, before=before)
    reason, _ = decode(done.output, strings={}, errors={})
    assert reason is Reason.TOKEN_BLOCKED, reason_of(done)


def test_eco_06_an_owner_who_may_not_hold_the_profit_gets_the_program_reverted_and_the_loan_is_whole(
    world: World,
) -> None:
    before = world.books()
    world.cash.block_account(world.owner)
    world.behave(world.cash, TokenMood.BLOCKING)
    done = world.run(world.plain())
    world.assert_failed(done, before=before)
    assert decode(done.output, strings={}, errors={})[0] is Reason.TOKEN_BLOCKED


# ECO-07


def _deeds(world: World) -> list[tuple[str, bytes]]:
    """Return everything that a hook could try while a program runs."""
    executor, token, amount = str(world.executor), str(world.cash.address), LOAN
    loan = call("flashLoanSimple(address,address,uint256,bytes,uint16)", executor, token, amount, bytes(32), 0)
    erc3156 = call("flashLoan(address,address,uint256,bytes)", executor, token, amount, bytes(32))
    tried = [
        execution(world.plain(), world.outputs()),
        call("perform(uint256)", 0),
        call("sweep(address[])", [token]),
        call("pause()"),
        call("executeOperation(address,uint256,uint256,address,bytes)", token, amount, 0, executor, bytes(32)),
        call("onMorphoFlashLoan(uint256,bytes)", amount, bytes(32)),
        call("onMorphoLiquidate(uint256,bytes)", amount, bytes(32)),
        call("onPreLiquidate(uint256,bytes)", amount, bytes(32)),
        call("onFlashLoan(address,address,uint256,uint256,bytes)", executor, token, amount, 0, bytes(32)),
        call("receiveFlashLoan(address[],uint256[],uint256[],bytes)", [token], [amount], [0], bytes(32)),
        call("uniswapV3FlashCallback(uint256,uint256,bytes)", 0, 0, bytes(32)),
        call("uniswapV3SwapCallback(int256,int256,bytes)", 1, 1, bytes(32)),
    ]
    return [(executor, each) for each in tried] + [(world.aave.address, loan), (world.erc3156.address, erc3156)]


@pytest.mark.parametrize("loan", [StepKind.FLASH_AAVE, StepKind.FLASH_MORPHO, StepKind.FLASH_ERC3156])
def test_eco_07_a_token_that_calls_back_at_each_transfer_gets_through_no_door(world: World, loan: StepKind) -> None:
    before = world.books()
    world.accomplice.prepare(_deeds(world))
    world.behave(world.gold, TokenMood.HOOKED)
    world.assert_paid(world.run(world.plain(loan)), before=before, least=PROFIT)
    assert world.accomplice.succeeded() == 0
    assert world.accomplice.tried() >= 4 * len(_deeds(world))


@pytest.mark.parametrize("number", range(14))
def test_eco_07_a_debt_token_that_calls_back_while_the_loan_arrives_gets_through_no_door(
    world: World, number: int
) -> None:
    """Then the lender's door is open. One deed at a time: a token has little gas when the executor calls it."""
    before = world.books()
    deeds = _deeds(world)[number : number + 1]
    world.accomplice.prepare(deeds)
    world.behave(world.cash, TokenMood.HOOKED)
    world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)
    assert world.accomplice.succeeded() == 0
    assert world.accomplice.tried() >= 6 * len(deeds)


@pytest.mark.parametrize("which", ["cash", "gold"])
def test_eco_07_not_even_a_caller_starts_a_program_within_a_program(world: World, which: str) -> None:
    before = world.books()
    assert world.command("set_caller(address,bool)", world.accomplice.address, True).ok
    world.accomplice.prepare([(str(world.executor), execution(world.plain(), world.outputs()))])
    world.behave(getattr(world, which), TokenMood.HOOKED)
    world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)
    assert world.accomplice.succeeded() == 0
    assert world.accomplice.tried() > 0


def test_eco_07_not_even_the_owner_sweeps_within_a_program(world: World) -> None:
    """What the program counts on would be gone; the owner gets all of it at the end anyway."""
    assert world.command("transfer_ownership(address)", world.accomplice.address).ok
    accept = call("accept_ownership()")
    world.accomplice.act(str(world.executor), accept)
    world.accomplice.prepare([(str(world.executor), call("sweep(address[])", [world.gold.address]))])
    world.behave(world.gold, TokenMood.HOOKED)
    done = world.run(world.plain())
    assert done.ok, reason_of(done)
    assert world.accomplice.succeeded() == 0
    assert world.held(world.cash, world.accomplice) == PROFIT


def test_eco_07_a_pause_in_the_middle_of_a_program_burns_nothing_and_holds_from_then_on(world: World) -> None:
    before = world.books()
    assert world.command("set_caller(address,bool)", world.accomplice.address, True).ok
    world.accomplice.prepare([(str(world.executor), call("pause()"))])
    world.behave(world.gold, TokenMood.HOOKED)
    world.assert_paid(world.run(world.plain()), before=before, least=PROFIT)
    assert world.accomplice.succeeded() > 0
    before = world.books()
    world.assert_failed(world.run(world.plain()), "paused", before=before)


def test_eco_07_a_program_leaves_its_transaction_as_if_none_had_run(world: World) -> None:
    """A caller that is a contract goes on within the transaction: with a callback, with a payment, with a program."""
    assert world.command("set_caller(address,bool)", world.accomplice.address, True).ok
    program = execution(world.plain(), world.outputs())
    where = str(world.executor)
    for callback in [each for _, each in _deeds(world)[4:12]]:
        world.accomplice.act_twice(where, program, where, callback)
        assert world.accomplice.succeeded() == 0
    world.accomplice.act_twice(where, program, where, b"")
    assert world.accomplice.succeeded() == 0
    world.accomplice.act_twice(where, program, where, program)
    assert world.accomplice.succeeded() == 1
    world.accomplice.act_twice(where, program, where, call("perform(uint256)", 1))
    assert world.accomplice.succeeded() == 1
    assert world.held(world.cash, world.owner) == 12 * PROFIT
    assert world.allowances() == []


def test_eco_07_what_comes_after_a_program_that_failed_in_the_same_transaction_finds_nothing_of_it(
    world: World,
) -> None:
    assert world.command("set_caller(address,bool)", world.accomplice.address, True).ok
    too_much = [Output(raw(world.cash), TokenAmount(PROFIT + 1))]
    failing = execution(world.plain(), too_much)
    program = execution([replace(each) for each in world.plain()], world.outputs())
    where = str(world.executor)
    world.accomplice.act_twice(where, program, where, failing)
    assert world.accomplice.succeeded() == 0
    world.accomplice.act_twice(where, program, where, program)
    assert world.accomplice.succeeded() == 1
    assert world.held(world.cash, world.owner) == 3 * PROFIT
