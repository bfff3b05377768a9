"""ECO-11 to ECO-15, ECO-22: strangers and thieves of the hot key, at every entry and every callback of the executor."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.domain.abi import selector
from keeper.domain.program import ALL, Output, Step, StepKind
from keeper.domain.units import NATIVE, Address, TokenAmount
from tests.hostile.contracts import LenderMood, PoolMood, at, code_of, deploy, env, raw, set_block, transact
from tests.hostile.words import AUTHORIZE, call, execution, reason_of, words
from tests.hostile.world import (
    LOAN,
    LOANS,
    PROFIT,
    SEIZED,
    SWAP,
    UNIT,
    V3_FEE,
    World,
    fresh_world,
    functions,
)

OWNERS = {
    "authorize",
    "authorize_selectors",
    "set_caller",
    "sweep",
    "transfer_ownership",
    "unpause",
}
CALLERS = {"execute", "pause"}
CALLBACKS = {
    "executeOperation",
    "onFlashLoan",
    "onMorphoFlashLoan",
    "onMorphoLiquidate",
    "onPreLiquidate",
    "pancakeV3FlashCallback",
    "pancakeV3SwapCallback",
    "receiveFlashLoan",
    "uniswapV3FlashCallback",
    "uniswapV3SwapCallback",
}
OTHERS = {"accept_ownership", "perform"}
REFUSALS = {f"executor: {each}" for each in ("owner", "caller", "stranger", "pending")} | {""}
"""What strangers are told. A pool's callback may find that there are no steps to be asked of, which has no words."""
RESTING = 3_000 * UNIT


@pytest.fixture
def world() -> Iterator[World]:
    with fresh_world() as fresh:
        for token in (fresh.cash, fresh.junk):
            token.mint(fresh.executor, RESTING)
        yield fresh


def _type_of(argument: Mapping[str, Any]) -> str:
    """Write an argument's type as the ABI encodes it."""
    written = str(argument["type"])
    if not written.startswith("tuple"):
        return written
    return "(" + ",".join(_type_of(each) for each in argument["components"]) + ")" + written.removeprefix("tuple")


def _value_of(kind: str, place: str) -> Any:
    """Return an argument that does harm where it is taken: the stranger's place, a number, something true."""
    if kind.endswith("[]"):
        return [_value_of(kind.removesuffix("[]"), place)]
    if kind.startswith("("):
        return tuple(_value_of(each, place) for each in kind[1:-1].split(","))
    simple: dict[str, Any] = {"address": place, "bool": True, "bytes": bytes(32), "bytes4": SWAP, "bytes32": bytes(32)}
    return simple.get(kind, 1)


def _called(name: str, place: str) -> bytes:
    """Encode a call of one of the executor's functions that would be of use to whoever is at a place."""
    kinds = [_type_of(each) for each in functions()[name]["inputs"]]
    return selector(f"{name}({','.join(kinds)})") + encode(kinds, [_value_of(each, place) for each in kinds])


# ECO-11


def test_eco_11_every_function_that_changes_anything_is_known_to_these_tests() -> None:
    assert functions().keys() == OWNERS | CALLERS | CALLBACKS | OTHERS


def test_eco_11_a_stranger_is_refused_at_every_entry(world: World) -> None:
    before = world.books()
    for name in functions():
        done = world.send(_called(name, world.stranger), sender=world.stranger)
        assert not done.ok, name
        assert reason_of(done) in REFUSALS, name
    assert world.books() == before


def test_eco_11_a_thief_of_the_hot_key_is_refused_at_every_entry_that_is_the_owners(world: World) -> None:
    before = world.books()
    for name in functions().keys() - CALLERS:
        done = world.send(_called(name, world.hot), sender=world.hot)
        assert not done.ok, name
        assert reason_of(done) in REFUSALS, name
    assert world.books() == before


def test_eco_11_the_hot_key_runs_and_pauses_and_the_owner_alone_goes_on(world: World) -> None:
    assert world.command("pause()", sender=world.hot).ok
    before = world.books()
    for who in (world.hot, world.owner):
        world.assert_failed(world.run(world.plain(), sender=who), "paused", before=before)
    assert world.command("unpause()").ok
    for who in (world.hot, world.owner):
        world.assert_paid(world.run(world.plain(), sender=who), before=before)


def test_eco_11_a_caller_who_was_taken_off_the_list_is_a_stranger(world: World) -> None:
    assert world.command("set_caller(address,bool)", world.hot, False).ok
    before = world.books()
    world.assert_failed(world.run(world.plain()), "caller", before=before)


def test_eco_11_the_ownership_passes_only_to_who_was_named_and_takes_it(world: World) -> None:
    assert world.command("transfer_ownership(address)", world.stranger).ok
    before = world.books()
    world.assert_failed(world.command("accept_ownership()", sender=world.hot), "pending", before=before)
    world.assert_failed(world.command("unpause()", sender=world.stranger), "owner", before=before)
    assert world.command("accept_ownership()", sender=world.stranger).ok
    world.assert_failed(world.command("unpause()", sender=world.owner), "owner", before=before)


def test_eco_11_native_currency_is_taken_only_while_a_program_runs(world: World) -> None:
    before = world.books()
    world.assert_failed(world.send(b"", sender=world.stranger, value=1), "idle", before=before)
    world.assert_failed(world.send(b"\x12\x34\x56\x78", sender=world.hot, value=1), "idle", before=before)


@pytest.mark.parametrize("late", ["block", "second"])
def test_eco_11_a_program_runs_up_to_its_last_block_and_second_and_not_after(world: World, late: str) -> None:
    set_block(number=100)
    now_s = int(env.evm.patch.timestamp)
    last_block, deadline_s = 100 - (late == "block"), now_s - (late == "second")
    before = world.books()
    world.assert_failed(world.run(world.plain(), last_block=last_block, deadline_s=deadline_s), "late", before=before)
    world.assert_paid(world.run(world.plain(), last_block=100, deadline_s=now_s), before=before)


# What a thief of the hot key can do with programs


def test_eco_11_a_program_can_name_nobody_to_be_paid_but_the_owner(world: World) -> None:
    """The outputs go to the owner, and what was pulled goes back to who called: nothing else leaves but for a trade."""
    before = world.books()
    done = world.run([], [Output(raw(token), TokenAmount(0)) for token in (world.cash, world.junk)])
    assert done.ok
    world.assert_paid(done, before=before, least=0)
    assert world.held(world.cash, world.owner) == RESTING


@pytest.mark.parametrize("kind", [each for each in StepKind if each is not StepKind.PULL])
def test_eco_11_no_step_calls_what_the_owner_did_not_authorise_for_it(world: World, kind: StepKind) -> None:
    before = world.books()
    bait, cash = deploy("Trader"), raw(world.cash)
    step = Step(kind, raw(bait), raw(world.gold), cash, UNIT, 0, words(0, 0, 0, 0))
    world.assert_failed(world.run([step]), "permit", before=before)
    for permitted in (world.market, world.factory):
        if kind not in _allowed_kinds(world, permitted):
            done = world.run([replace(step, target=raw(permitted))])
            assert reason_of(done) == "executor: permit"


def _allowed_kinds(world: World, target: Any) -> set[StepKind]:
    told = world.send(call("permits(address)", target.address))
    return {kind for kind in StepKind if int.from_bytes(told.output) >> kind & 1}


def test_eco_11_pulled_tokens_are_the_callers_own_and_come_back_to_the_wei(world: World) -> None:
    world.cash.mint(world.hot, LOAN)
    world.cash.let_stand(world.hot, world.executor, LOAN)
    world.cash.mint(world.stranger, LOAN)
    world.cash.let_stand(world.stranger, world.executor, LOAN)  # whoever allowed the executor anything loses nothing
    before = world.books()
    pull = Step(StepKind.PULL, raw(world.executor), take=raw(world.cash), amount=LOAN)
    done = world.run([pull, world.liquidation(), world.sale(amount=SEIZED)])
    assert done.ok, reason_of(done)
    assert world.held(world.cash, world.hot) == LOAN
    assert world.held(world.cash, world.stranger) == LOAN
    gained = (
        world.books()[str(world.owner), str(world.cash.address)] - before[str(world.owner), str(world.cash.address)]
    )
    assert gained == RESTING + PROFIT + LOAN * 5 // 10_000
    world.assert_failed(world.run([pull, pull]), before=world.books())


@pytest.mark.parametrize(
    "signature", ["transfer(address,uint256)", "transferFrom(address,address,uint256)", "approve(address,uint256)"]
)
def test_eco_11_not_even_the_owner_makes_a_token_a_router(world: World, signature: str) -> None:
    """A router's payload is the caller's: with these it would move whatever anybody allowed the executor."""
    done = world.command("authorize_selectors(address,bytes4[],bool)", world.cash.address, [selector(signature)], True)
    assert not done.ok


# ECO-12


@pytest.mark.parametrize("who", ["aave", "balancer", "erc3156", "morpho", "pool", "owner"])
def test_eco_12_no_callback_is_taken_outside_a_program_whoever_calls(world: World, who: str) -> None:
    before = world.books()
    sender = getattr(world, who)
    for name in CALLBACKS:
        done = world.send(_called(name, world.executor), sender=getattr(sender, "address", sender))
        assert not done.ok
        assert reason_of(done) in REFUSALS
    assert world.books() == before


@pytest.mark.parametrize("loan", LOANS)
def test_eco_12_an_accomplice_who_calls_back_in_the_lenders_place_is_a_stranger(world: World, loan: StepKind) -> None:
    before = world.books()
    world.behave(world.lender(loan), LenderMood.THROUGH_OTHER)
    world.assert_failed(world.run(world.plain(loan)), "stranger", before=before)


@pytest.mark.parametrize("kind", ["loan", "first", "swap"])
def test_eco_12_an_accomplice_who_calls_back_in_the_pools_place_is_a_stranger(world: World, kind: str) -> None:
    steps = {
        "loan": world.plain(StepKind.FLASH_UNISWAP_V3),
        "first": [world.swap_first(), world.liquidation()],
        "swap": world.plain(sale=StepKind.SWAP_UNISWAP_V3),
    }[kind]
    before = world.books()
    world.behave(world.pool, PoolMood.THROUGH_OTHER)
    world.assert_failed(world.run(steps, world.outputs(least=0)), "stranger", before=before)
    world.behave(world.pool, PoolMood.OTHER_CALLBACK)
    world.assert_failed(world.run(steps, world.outputs(least=0)), "door", "", before=before)


# ECO-13


def _loans_for(world: World, receiver: str) -> list[tuple[str, bytes]]:
    """Return every loan that anybody can have a lender pay out to somebody else."""
    token, amount, data = str(world.cash.address), LOAN, bytes(32)
    return [
        (
            world.aave.address,
            call("flashLoanSimple(address,address,uint256,bytes,uint16)", receiver, token, amount, data, 0),
        ),
        (world.erc3156.address, call("flashLoan(address,address,uint256,bytes)", receiver, token, amount, data)),
        (
            world.balancer.address,
            call("flashLoan(address,address[],uint256[],bytes)", receiver, [token], [amount], data),
        ),
    ]


@pytest.mark.parametrize("number", range(3))
def test_eco_13_a_loan_that_a_stranger_takes_in_the_executors_name_is_refused(world: World, number: int) -> None:
    before = world.books()
    where, data = _loans_for(world, str(world.executor))[number]
    world.assert_failed(transact(where, data, sender=world.stranger), "stranger", before=before)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("loan", [StepKind.FLASH_AAVE, StepKind.FLASH_ERC3156, StepKind.FLASH_BALANCER])
def test_eco_13_such_a_loan_while_our_own_is_being_opened_at_the_same_lender_changes_nothing(
    world: World, loan: StepKind, number: int
) -> None:
    """The lender is the expected sender then, and its door is open: only who asked for the loan tells them apart."""
    before = world.books()
    world.accomplice.prepare([_loans_for(world, str(world.executor))[number]])
    world.behave(world.lender(loan), LenderMood.REENTERED)
    done = world.run(world.plain(loan))
    if done.ok:
        world.assert_paid(done, before=before, least=PROFIT)
        assert world.accomplice.succeeded() == 0
    else:  # Balancer's callback does not tell who asked: the real vault is locked meanwhile, this one is not
        assert loan is StepKind.FLASH_BALANCER
        assert number == 2
        world.assert_failed(done, "stranger", before=before)


def test_eco_13_a_loan_that_says_that_another_asked_for_it_is_refused(world: World) -> None:
    before = world.books()
    for loan in (StepKind.FLASH_AAVE, StepKind.FLASH_ERC3156):
        world.behave(world.lender(loan), LenderMood.OTHER_INITIATOR)
        world.assert_failed(world.run(world.plain(loan)), "door", before=before)


# ECO-14


def _pools_steps(world: World, factory: Address) -> list[Step]:
    plain = [
        world.loan(StepKind.FLASH_UNISWAP_V3),
        world.swap_first(),
        world.sale(StepKind.SWAP_UNISWAP_V3, amount=UNIT),
    ]
    return [replace(each, target=factory) for each in plain]


@pytest.mark.parametrize("number", range(3))
def test_eco_14_a_pool_of_another_factory_or_other_code_or_none_is_never_called(world: World, number: int) -> None:
    before = world.books()
    other = deploy("Factory")
    pair = sorted((world.cash.address, world.gold.address), key=lambda text: int(text, 16))
    fake = other.make_v3(code_of("PoolV3"), *pair, V3_FEE)
    for target in (raw(other), raw(str(fake)), raw(world.pool)):
        step = _pools_steps(world, target)[number]
        world.assert_failed(world.run([step], world.outputs(least=0)), "permit", before=before)
    kinds = sum(1 << kind for kind in _allowed_kinds(world, world.factory))
    assert world.command(AUTHORIZE, [(raw(other), kinds, keccak(b"another pool's code"))]).ok
    step = _pools_steps(world, raw(other))[number]
    world.assert_failed(world.run([step], world.outputs(least=0)), "unopened", before=before)


def test_eco_14_a_pool_for_another_fee_or_another_pair_is_not_this_pool(world: World) -> None:
    before = world.books()
    for step in (
        replace(world.sale(StepKind.SWAP_UNISWAP_V3, amount=UNIT), data=words(500)),
        replace(world.sale(StepKind.SWAP_UNISWAP_V3, amount=UNIT), take=raw(world.junk)),
        replace(world.sale(StepKind.SWAP_UNISWAP_V2, amount=UNIT), take=raw(world.junk)),
    ):
        world.assert_failed(world.run([step], world.outputs(least=0)), before=before)


def test_eco_14_a_fake_pool_that_calls_back_while_the_true_one_is_open_is_a_stranger(world: World) -> None:
    """It has the true pool's code, tokens and fee, and differs by who made it."""
    pair = sorted((world.cash.address, world.gold.address), key=lambda text: int(text, 16))
    fake = at("PoolV3", deploy("Factory").make_v3(code_of("PoolV3"), *pair, V3_FEE))
    world.accomplice.prepare([])
    asked = call("uniswapV3SwapCallback(int256,int256,bytes)", LOAN, LOAN, words(0))
    trick = call("act(address,bytes)", str(world.executor), asked)
    before = world.books()
    world.accomplice.prepare([(world.accomplice.address, trick), (fake.address, b"")])
    world.behave(world.pool, PoolMood.REENTERED)
    done = world.run([world.swap_first(), world.liquidation()], world.outputs(least=0))
    assert done.ok, reason_of(done)
    assert world.accomplice.succeeded() == 0
    assert world.books()[str(world.executor), str(world.cash.address)] == 0
    assert world.held(world.cash, fake) == 0
    assert before[str(world.executor), str(world.cash.address)] == RESTING


# ECO-15


@pytest.mark.parametrize("who", ["stranger", "accomplice", "market"])
def test_eco_15_a_copy_of_our_calldata_is_of_no_use_to_anybody_else(world: World, who: str) -> None:
    before = world.books()
    copier = getattr(world, who)
    data = execution(world.plain(), world.outputs())
    world.assert_failed(world.send(data, sender=getattr(copier, "address", copier)), "caller", before=before)


def test_eco_15_who_sent_the_transaction_does_not_count_but_who_calls(world: World) -> None:
    """A contract that the hot account was talked into calling runs nothing in its name."""
    before = world.books()
    data = call("act(address,bytes)", str(world.executor), execution(world.plain(), world.outputs()))
    world.assert_failed(transact(world.accomplice.address, data, sender=world.hot), "caller", before=before)


def test_eco_15_whoever_runs_the_same_trade_before_us_costs_us_no_more_than_the_gas(world: World) -> None:
    """The profit is gone: then nothing is traded at a loss."""
    world.exchange.behave(0, world.accomplice.address, 9_000)
    before = world.books()
    done = world.run(world.plain())
    world.assert_failed(done, "least", before=before)


# ECO-22


def test_eco_22_what_came_to_rest_goes_to_the_owner_with_the_next_program_or_by_a_sweep(world: World) -> None:
    env.set_balance(world.executor, UNIT)
    before = world.books()
    assert world.assert_paid(world.run(world.plain()), before=before) == RESTING + PROFIT
    tokens = [world.cash.address, world.junk.address, "0x" + NATIVE.hex()]
    assert world.command("sweep(address[])", tokens).ok
    assert world.held(world.junk) == 0
    assert world.held(world.junk, world.owner) == RESTING
    assert env.get_balance(world.executor) == 0
    assert env.get_balance(world.owner) - before[str(world.owner), "native"] == UNIT


def test_eco_22_nobody_but_the_owner_sweeps_and_a_sweep_reaches_nobody_else(world: World) -> None:
    before = world.books()
    for who in (world.hot, world.stranger):
        world.assert_failed(world.command("sweep(address[])", [world.cash.address], sender=who), "owner", before=before)
    assert world.command("sweep(address[])", [world.cash.address, world.cash.address]).ok
    assert world.held(world.cash, world.owner) == RESTING


def test_eco_22_native_currency_of_a_program_leaves_with_it(world: World) -> None:
    """Unwrapped on the way, and an output as any other."""
    env.set_balance(world.executor, UNIT)
    world.wrapped.mint(world.executor, UNIT)
    env.set_balance(world.wrapped.address, UNIT)
    before = world.books()
    step = Step(StepKind.UNWRAP_NATIVE, raw(world.wrapped), raw(world.wrapped), NATIVE, ALL, UNIT)
    done = world.run([step], [Output(NATIVE, TokenAmount(UNIT))])
    assert done.ok, reason_of(done)
    assert world.held(world.wrapped) == 0
    assert env.get_balance(world.executor) == 0
    assert env.get_balance(world.owner) - before[str(world.owner), "native"] == 2 * UNIT
