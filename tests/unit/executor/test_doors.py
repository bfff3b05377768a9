"""Every door: what it calls, who may come through it, what it pays, and that all behind it runs inside."""

from dataclasses import dataclass
from typing import Any, Final

import pytest
from eth_abi.abi import encode

from keeper.domain.abi import number_word, selector
from keeper.domain.program import Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, Address
from keeper.executor import calls
from tests.unit.executor.stage import (
    DOORS,
    UNIT,
    V3_FEE,
    Stage,
    account,
    arrange,
    compiled,
    encoded,
    output,
    raw,
    send,
    words,
)

LENT: Final = 1000
FEE: Final = 3
BORROWER: Final = Address(b"\xb0" * 20)
MARKET: Final = words(*range(1, 6))
OPENED: Final = sorted(DOORS - {StepKind.PULL})
LOANS: Final = [kind for kind in OPENED if kind <= StepKind.FLASH_ERC3156]
POOLED: Final = {StepKind.FLASH_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3}
SENT_BACK: Final = POOLED | {StepKind.FLASH_BALANCER}
WITH_FEE: Final = [kind for kind in LOANS if kind is not StepKind.FLASH_MORPHO]
WITH_INITIATOR: Final = [StepKind.FLASH_AAVE, StepKind.FLASH_ERC3156]


@dataclass(frozen=True, slots=True)
class Said:
    """What a door's contract says when it calls back."""

    amount: int = LENT
    fee: int = FEE
    number: int = 0
    initiator: Address | None = None
    token: Address | None = None


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def callback(stage: Stage, kind: StepKind, said: Said) -> bytes:
    """Return a callback as the contract's own interface has it. `other` is lent by all, and is a pool's second."""
    token = hexed(raw(stage.other) if said.token is None else said.token)
    initiator = hexed(stage.executor if said.initiator is None else said.initiator)
    data = number_word(said.number)
    fee = 0 if kind is StepKind.FLASH_MORPHO else said.fee
    cases: dict[StepKind, tuple[str, tuple[Any, ...]]] = {
        StepKind.FLASH_AAVE: (
            "executeOperation(address,uint256,uint256,address,bytes)",
            (token, said.amount, fee, initiator),
        ),
        StepKind.FLASH_MORPHO: ("onMorphoFlashLoan(uint256,bytes)", (said.amount,)),
        StepKind.FLASH_UNISWAP_V3: ("uniswapV3FlashCallback(uint256,uint256,bytes)", (0, fee)),
        StepKind.FLASH_BALANCER: (
            "receiveFlashLoan(address[],uint256[],uint256[],bytes)",
            ([token], [said.amount], [fee]),
        ),
        StepKind.FLASH_ERC3156: (
            "onFlashLoan(address,address,uint256,uint256,bytes)",
            (initiator, token, said.amount, fee),
        ),
        StepKind.SWAP_FIRST_UNISWAP_V3: ("uniswapV3SwapCallback(int256,int256,bytes)", (LENT + fee, -said.amount)),
        StepKind.LIQUIDATE_MORPHO: ("onMorphoLiquidate(uint256,bytes)", (LENT + fee,)),
        StepKind.PRE_LIQUIDATE_MORPHO: ("onPreLiquidate(uint256,bytes)", (LENT + fee,)),
    }
    signature, values = cases[kind]
    return encoded(signature, *values, data)


def opening(stage: Stage, kind: StepKind) -> tuple[Step, bytes]:
    """Return a door's step, and the call that it has to make."""
    mine, lent = hexed(stage.executor), stage.other.address
    party, first, other = raw(stage.party), raw(stage.first), raw(stage.other)
    door = number_word(0)
    if kind in POOLED:
        factory = raw(stage.factories["Counterparty"])
        if kind is StepKind.FLASH_UNISWAP_V3:
            step = Step(kind, factory, take=other, amount=LENT, limit=FEE, data=words(first, V3_FEE))
            return step, encoded("flash(address,uint256,uint256,bytes)", mine, 0, LENT, door)
        step = Step(kind, factory, first, other, LENT, LENT + FEE, words(V3_FEE))
        return step, encoded("swap(address,bool,int256,uint160,bytes)", mine, True, -LENT, 4295128740, door)
    if kind is StepKind.LIQUIDATE_MORPHO:
        step = Step(kind, party, first, other, LENT + FEE, data=MARKET + words(BORROWER, LENT, 0))
        market = (*(hexed(number_word(i)[12:]) for i in range(1, 5)), 5)
        signature = "liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)"
        return step, encoded(signature, market, hexed(BORROWER), LENT, 0, door)
    if kind is StepKind.PRE_LIQUIDATE_MORPHO:
        step = Step(kind, party, first, other, LENT + FEE, data=words(BORROWER, 0, 5))
        return step, encoded("preLiquidate(address,uint256,uint256,bytes)", hexed(BORROWER), 0, 5, door)
    return Step(kind, party, take=other, amount=LENT, limit=FEE), {
        StepKind.FLASH_AAVE: lambda: encoded(
            "flashLoanSimple(address,address,uint256,bytes,uint16)", mine, lent, LENT, door, 0
        ),
        StepKind.FLASH_MORPHO: lambda: encoded("flashLoan(address,uint256,bytes)", lent, LENT, door),
        StepKind.FLASH_BALANCER: lambda: encoded(
            "flashLoan(address,address[],uint256[],bytes)", mine, [lent], [LENT], door
        ),
        StepKind.FLASH_ERC3156: lambda: encoded("flashLoan(address,address,uint256,bytes)", mine, lent, LENT, door),
    }[kind]()


def due_token(stage: Stage, kind: StepKind) -> Any:
    return stage.other if kind in LOANS else stage.first


def due_of(kind: StepKind) -> int:
    return LENT if kind is StepKind.FLASH_MORPHO else LENT + FEE


def set_up(stage: Stage, kind: StepKind, said: Said | None = None, *, times: int = 1) -> tuple[Any, Step, bytes]:
    """Put a contract behind the door, and give the executor what it will owe."""
    said = Said() if said is None else said
    stage.permit(stage.party, *OPENED)
    party = stage.pools["Counterparty"] if kind in POOLED else stage.party
    token, due = due_token(stage, kind), due_of(kind)
    arrange(
        party,
        take=stage.other,
        sent=LENT,
        give=token,
        due=0 if kind in SENT_BACK else due,
        callback=callback(stage, kind, said),
        times=times,
    )
    stage.fund(token, UNIT)
    step, call = opening(stage, kind)
    return party, step, call


@pytest.mark.parametrize("kind", OPENED)
def test_a_door_is_opened_as_its_contract_s_interface_says_and_paid_exactly(stage: Stage, kind: StepKind):
    party, step, call = set_up(stage, kind)
    before = stage.held(stage.first) + stage.held(stage.other)
    done = stage.run([step])
    assert done.ok, done
    assert party.called() == call
    assert stage.held(due_token(stage, kind), raw(party)) == due_of(kind)
    assert stage.held(stage.first) + stage.held(stage.other) == before + LENT - due_of(kind)
    assert due_token(stage, kind).allowance(hexed(stage.executor), party.address) == 0


@pytest.mark.parametrize("kind", OPENED)
def test_what_is_behind_a_door_runs_inside_it(stage: Stage, kind: StepKind):
    """The step behind gives what the door has handed over, and brings what the door is owed."""
    _, step, _ = set_up(stage, kind)
    inner = compiled("Counterparty").deploy()
    stage.permit(inner, StepKind.LIQUIDATE_AAVE)
    token = due_token(stage, kind)
    stage.do(calls.sweep(stage.executor, [raw(token)]))
    arrange(inner, take=token, sent=LENT + 10, give=stage.other, due=LENT)
    behind = Step(StepKind.LIQUIDATE_AAVE, raw(inner), raw(stage.other), raw(token), LENT, 0, words(BORROWER))
    profit = LENT + 10 - due_of(kind)
    held = stage.held(token, stage.owner)
    assert stage.run([step, behind], [output(token, profit)]).ok
    assert stage.held(token, stage.owner) == held + profit
    assert stage.held(stage.first) == stage.held(stage.other) == 0


@pytest.mark.parametrize("kind", OPENED)
def test_a_callback_with_another_number_than_the_door_s_is_refused(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, Said(number=1))
    assert stage.run([step]).said == "door"


@pytest.mark.parametrize("kind", OPENED)
def test_a_callback_of_another_kind_is_refused(stage: Stage, kind: StepKind):
    for other in OPENED:
        if other is not kind:
            party, step, _ = set_up(stage, kind)
            arrange(party, take=stage.other, sent=LENT, callback=callback(stage, other, Said()))
            assert stage.run([step]).said == "door"


@pytest.mark.parametrize("kind", OPENED)
def test_a_door_is_come_through_only_once(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, times=2)
    assert stage.run([step]).said == "stranger"


@pytest.mark.parametrize("kind", OPENED)
def test_a_door_whose_contract_does_not_call_back_fails(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, times=0)
    party = stage.pools["Counterparty"] if kind in POOLED else stage.party
    arrange(party, take=stage.other, sent=LENT)
    assert stage.run([step]).said == "unopened"


@pytest.mark.parametrize("kind", [kind for kind in OPENED if kind is not StepKind.FLASH_MORPHO])
def test_a_door_that_asks_one_more_than_its_limit_is_refused(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, Said(fee=FEE + 1))
    assert stage.run([step]).said == "dear"


@pytest.mark.parametrize("kind", WITH_INITIATOR)
def test_a_loan_that_somebody_else_asked_for_is_refused(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, Said(initiator=stage.stranger))
    assert stage.run([step]).said == "door"


@pytest.mark.parametrize("kind", [kind for kind in LOANS if kind is not StepKind.FLASH_UNISWAP_V3])
def test_a_loan_of_another_amount_or_token_is_refused(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind, Said(amount=LENT - 1))
    assert stage.run([step]).said == "door"
    if kind is not StepKind.FLASH_MORPHO:  # it does not tell
        _, step, _ = set_up(stage, kind, Said(token=raw(stage.first)))
        assert stage.run([step]).said == "door"


def test_a_pool_that_hands_over_less_than_it_was_asked_for_is_refused(stage: Stage):
    _, step, _ = set_up(stage, StepKind.SWAP_FIRST_UNISWAP_V3, Said(amount=LENT - 1))
    assert stage.run([step]).said == "short"


@pytest.mark.parametrize("kind", OPENED)
def test_a_door_cannot_be_optional(stage: Stage, kind: StepKind):
    _, step, _ = set_up(stage, kind)
    optional = Step(step.kind, step.target, step.give, step.take, step.amount, step.limit, step.data, gas=1_000_000)
    assert stage.run([optional]).said == "optional"


@pytest.mark.parametrize("kind", OPENED)
def test_a_stranger_s_callback_is_refused_while_nothing_runs(stage: Stage, kind: StepKind):
    for sender in (stage.stranger, stage.caller, stage.owner, raw(stage.party)):
        assert send(stage.executor, callback(stage, kind, Said()), sender=sender).said == "stranger"


@pytest.mark.parametrize("kind", OPENED)
def test_a_stranger_s_callback_is_refused_while_a_door_is_open(stage: Stage, kind: StepKind):
    """The door's contract does not call back itself, but has another one do it."""
    party, step, _ = set_up(stage, kind)
    other = compiled("Counterparty").deploy()
    forward = callback(stage, kind, Said())
    # what calls the executor is `other`, in the middle of a step of the program that only calls it
    stage.permit(other, StepKind.LIQUIDATE_AAVE)
    arrange(other, callback=forward)
    behind = Step(StepKind.LIQUIDATE_AAVE, raw(other), raw(stage.first), raw(stage.other), 0, 0, words(BORROWER))
    assert stage.run([step, behind]).said == "stranger"
    assert stage.held(stage.other, raw(party)) == LENT


def nested(stage: Stage, count: int, *, first: int = 0) -> list[Step]:
    """Return so many Morpho loans inside each other, each of another lender."""
    steps = []
    for number in range(first, first + count):
        lender = compiled("Counterparty").deploy()
        stage.permit(lender, StepKind.FLASH_MORPHO)
        said = callback(stage, StepKind.FLASH_MORPHO, Said(number=number))
        arrange(lender, take=stage.other, sent=LENT, give=stage.other, due=LENT, callback=said)
        steps.append(Step(StepKind.FLASH_MORPHO, raw(lender), take=raw(stage.other), amount=LENT, limit=0))
    return steps


def test_doors_lie_inside_each_other_up_to_a_bound(stage: Stage):
    steps = nested(stage, calls.MAX_DOORS + 1)
    assert stage.run(steps[:-1]).ok
    assert stage.run(steps).said == "nested"
    assert stage.run(steps[:-1]).ok


def test_a_door_that_fails_inside_another_one_undoes_all(stage: Stage):
    steps = nested(stage, 2)
    reason = selector("Error(string)") + encode(["string"], ["no"])
    last = compiled("Counterparty").deploy()
    stage.permit(last, StepKind.LIQUIDATE_AAVE)
    arrange(last, reason=reason)
    stage.fund(stage.first, 5)
    failing = Step(StepKind.LIQUIDATE_AAVE, raw(last), raw(stage.first), raw(stage.other), 5, 0, words(BORROWER))
    done = stage.run([*steps, failing])
    assert not done.ok
    assert stage.held(stage.first) == 5


def allow(stage: Stage, token: Any, account: Address, amount: int) -> None:
    stage.fund(token, amount, hexed(account))
    assert send(raw(token), encoded("approve(address,uint256)", hexed(stage.executor), amount), sender=account).ok


def test_what_is_pulled_from_the_caller_goes_back_and_only_the_gain_to_the_owner(stage: Stage):
    allow(stage, stage.first, stage.caller, LENT)
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    arrange(stage.party, take=stage.first, sent=LENT + 10, give=stage.first, due=LENT)
    first = raw(stage.first)
    pull = Step(StepKind.PULL, raw(stage.party), take=first, amount=LENT)
    pay = Step(StepKind.LIQUIDATE_AAVE, raw(stage.party), first, first, LENT, 0, words(BORROWER))
    assert stage.run([pull, pay], [output(stage.first, 10)]).ok
    assert stage.held(stage.first, stage.caller) == LENT
    assert stage.held(stage.first, stage.owner) == 10


def test_more_cannot_be_pulled_than_the_program_can_give_back(stage: Stage):
    allow(stage, stage.first, stage.caller, LENT)
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    arrange(stage.party, give=stage.first, due=1)
    first = raw(stage.first)
    pull = Step(StepKind.PULL, raw(stage.party), take=first, amount=LENT)
    pay = Step(StepKind.LIQUIDATE_AAVE, raw(stage.party), first, first, LENT, 0, words(BORROWER))
    assert not stage.run([pull, pay]).ok
    assert stage.held(stage.first, stage.caller) == LENT


def test_nobody_s_tokens_are_pulled_but_the_caller_s_own(stage: Stage):
    rich = account("rich")
    allow(stage, stage.first, rich, LENT)
    pull = Step(StepKind.PULL, raw(stage.party), give=rich, take=raw(stage.first), amount=LENT)
    assert not stage.run([pull]).ok
    assert stage.held(stage.first, rich) == LENT


def test_a_pull_inside_a_loan_is_given_back_before_the_loan_is_paid(stage: Stage):
    allow(stage, stage.first, stage.caller, 7)
    [loan] = nested(stage, 1, first=1)
    pulls = [Step(StepKind.PULL, raw(stage.party), take=raw(stage.first), amount=each) for each in (3, 4)]
    assert stage.run([pulls[0], loan, pulls[1]]).ok
    assert stage.held(stage.first, stage.caller) == 7


def test_a_pull_cannot_be_optional(stage: Stage):
    allow(stage, stage.first, stage.caller, 7)
    pull = Step(StepKind.PULL, raw(stage.party), take=raw(stage.first), amount=7, gas=100_000)
    assert stage.run([pull]).said == "optional"


def test_two_programs_in_one_transaction_know_nothing_of_each_other(stage: Stage):
    order = calls.call(stage.executor, Program(tuple(nested(stage, calls.MAX_DOORS)), (), MAX_UINT256, MAX_UINT256))
    assert send(stage.executor, order.data, sender=stage.caller).ok
    assert send(stage.executor, order.data, sender=stage.caller, is_new=False).ok
    assert send(stage.executor, b"", sender=stage.caller, value=1, is_new=False).said == "idle"
