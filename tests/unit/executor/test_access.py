"""Who may do what, and when."""

from collections.abc import Callable
from typing import Final

import pytest

from keeper.domain.abi import WORD, selector
from keeper.domain.chain import Call
from keeper.domain.program import Step, StepKind
from keeper.domain.units import NATIVE, Address, TokenAmount
from keeper.executor import calls
from tests.unit.executor.stage import (
    UNIT,
    Stage,
    account,
    arrange,
    compiled,
    encoded,
    env,
    output,
    raw,
    raw_program,
    send,
)

Order = Callable[[Stage], Call]

OWNERS: Final[list[Order]] = [
    lambda stage: calls.authorize(stage.executor, [calls.Permit(raw(stage.party), frozenset())]),
    lambda stage: calls.authorize_selectors(stage.executor, raw(stage.party), [b"abcd"], allowed=True),
    lambda stage: calls.set_caller(stage.executor, stage.stranger, allowed=True),
    lambda stage: calls.unpause(stage.executor),
    lambda stage: calls.sweep(stage.executor, [NATIVE]),
    lambda stage: calls.transfer_ownership(stage.executor, stage.stranger),
]


def answer(stage: Stage, signature: str, *values: object) -> int:
    """Ask the executor for one word."""
    done = send(stage.executor, encoded(signature, *values), sender=stage.stranger)
    assert done.ok
    return int.from_bytes(done.output, "big")


def number(address: Address) -> int:
    return int.from_bytes(address, "big")


@pytest.mark.parametrize("order", OWNERS)
def test_only_the_owner_gives_the_owner_s_orders(stage: Stage, order: Order):
    for sender in (stage.caller, stage.stranger):
        assert stage.do(order(stage), sender).said == "owner"
    assert stage.do(order(stage)).ok


def test_only_callers_and_the_owner_run_programs_and_pause(stage: Stage):
    assert stage.run([], sender=stage.stranger).said == "caller"
    assert stage.do(calls.pause(stage.executor), stage.stranger).said == "caller"
    assert stage.run([], sender=stage.caller).ok
    assert stage.run([], sender=stage.owner).ok
    assert stage.do(calls.pause(stage.executor), stage.owner).ok
    assert stage.do(calls.pause(stage.executor), stage.caller).ok


def test_a_caller_comes_and_goes_by_the_owner_s_word(stage: Stage):
    assert stage.do(calls.set_caller(stage.executor, stage.stranger, allowed=True)).ok
    assert answer(stage, "is_caller(address)", "0x" + stage.stranger.hex()) == 1
    assert stage.run([], sender=stage.stranger).ok
    assert stage.do(calls.set_caller(stage.executor, stage.stranger, allowed=False)).ok
    assert stage.run([], sender=stage.stranger).said == "caller"


def test_a_pause_by_a_caller_lasts_until_the_owner_ends_it(stage: Stage):
    assert stage.do(calls.pause(stage.executor), stage.caller).ok
    assert answer(stage, "is_paused()") == 1
    assert stage.run([]).said == "paused"
    assert stage.run([], sender=stage.owner).said == "paused"
    assert stage.do(calls.unpause(stage.executor), stage.caller).said == "owner"
    assert stage.do(calls.unpause(stage.executor)).ok
    assert stage.run([]).ok


def test_a_paused_executor_can_still_be_swept(stage: Stage):
    stage.fund(stage.first, UNIT)
    assert stage.do(calls.pause(stage.executor), stage.caller).ok
    assert stage.do(calls.sweep(stage.executor, [raw(stage.first)])).ok
    assert stage.held(stage.first, stage.owner) == UNIT


def test_a_program_runs_up_to_its_last_block_and_second_and_no_later(stage: Stage):
    block, time_s = env.evm.patch.block_number, env.evm.patch.timestamp
    assert stage.run([], last_block=block, deadline_s=time_s).ok
    assert stage.run([], last_block=block - 1).said == "late"
    assert stage.run([], deadline_s=time_s - 1).said == "late"


def test_the_ownership_moves_in_two_steps(stage: Stage):
    accept = calls.accept_ownership(stage.executor)
    assert stage.do(accept, stage.stranger).said == "pending"
    assert stage.do(calls.transfer_ownership(stage.executor, stage.stranger)).ok
    assert answer(stage, "owner()") == number(stage.owner)
    assert answer(stage, "pending_owner()") == number(stage.stranger)
    assert stage.do(accept, stage.caller).said == "pending"
    assert stage.do(accept, stage.stranger).ok
    assert answer(stage, "owner()") == number(stage.stranger)
    assert answer(stage, "pending_owner()") == 0
    assert stage.do(calls.unpause(stage.executor)).said == "owner"
    assert stage.do(accept, stage.stranger).said == "pending"


def test_profit_goes_to_the_new_owner_and_a_pause_outlives_the_old_one(stage: Stage):
    assert stage.do(calls.pause(stage.executor), stage.caller).ok
    assert stage.do(calls.transfer_ownership(stage.executor, stage.stranger)).ok
    assert stage.do(calls.accept_ownership(stage.executor), stage.stranger).ok
    assert answer(stage, "is_paused()") == 1
    assert stage.run([]).said == "paused"
    assert stage.do(calls.unpause(stage.executor), stage.stranger).ok
    for earner, taker in ((stage.stranger, stage.owner), (stage.owner, stage.stranger)):
        stage.fund(stage.first, 7)
        assert stage.run([], [output(stage.first, 0)]).ok
        assert stage.held(stage.first, earner) == 7
        assert stage.do(calls.transfer_ownership(stage.executor, taker), earner).ok
        assert stage.do(calls.accept_ownership(stage.executor), taker).ok


def test_a_pause_while_a_program_runs_stops_the_next_one(stage: Stage):
    """The counterparty is a caller too, and pauses in the middle."""
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    assert stage.do(calls.set_caller(stage.executor, raw(stage.party), allowed=True)).ok
    arrange(stage.party, take=stage.other, sent=7, callback=calls.pause(stage.executor).data)
    step = Step(StepKind.LIQUIDATE_AAVE, raw(stage.party), raw(stage.first), raw(stage.other), 0, 7, bytes(WORD))
    assert stage.run([step], [output(stage.other, 7)]).ok
    assert stage.held(stage.other, stage.owner) == 7
    assert stage.run([step]).said == "paused"


def test_an_offer_of_the_ownership_can_be_withdrawn(stage: Stage):
    assert stage.do(calls.transfer_ownership(stage.executor, stage.stranger)).ok
    assert stage.do(calls.transfer_ownership(stage.executor, Address(bytes(20)))).ok
    assert stage.do(calls.accept_ownership(stage.executor), stage.stranger).said == "pending"


def test_all_that_rests_can_be_swept_to_the_owner(stage: Stage):
    stage.fund(stage.first, 7)
    env.set_balance("0x" + stage.executor.hex(), 3)
    before = env.get_balance("0x" + stage.owner.hex())
    assert stage.do(calls.sweep(stage.executor, [raw(stage.first), raw(stage.other), NATIVE])).ok
    assert stage.held(stage.first, stage.owner) == 7
    assert env.get_balance("0x" + stage.owner.hex()) == before + 3
    assert env.get_balance("0x" + stage.executor.hex()) == 0


def test_a_caller_can_only_send_what_rests_to_the_owner(stage: Stage):
    stage.fund(stage.first, 7)
    done = stage.run([], [output(stage.first, 0)])
    assert list(calls.events(stage.executor, done.logs)) == [
        calls.Profit(raw(stage.first), TokenAmount(7)),
        calls.Executed(stage.caller),
    ]
    assert stage.held(stage.first, stage.owner) == 7


def test_what_rests_counts_for_no_profit(stage: Stage):
    stage.fund(stage.first, 7)
    assert stage.run([], [output(stage.first, 1)]).said == "least"


def test_native_currency_comes_in_only_while_a_program_runs(stage: Stage):
    assert send(stage.executor, b"", sender=stage.caller, value=1).said == "idle"
    assert send(stage.executor, b"", sender=stage.owner, value=1).said == "idle"
    assert send(stage.executor, b"\0" * 4, sender=stage.stranger).said == "idle"


def test_an_owner_that_takes_no_native_currency_makes_the_program_fail(stage: Stage):
    owner = raw(compiled("Token").deploy(False))
    assert stage.do(calls.transfer_ownership(stage.executor, owner)).ok
    assert stage.do(calls.accept_ownership(stage.executor), owner).ok
    env.set_balance("0x" + stage.executor.hex(), 3)
    assert stage.run([], [output(NATIVE, 0)]).said == "refused"


@pytest.mark.parametrize("kind", [kind for kind in StepKind if kind is not StepKind.PULL])
def test_nothing_is_called_that_was_not_authorised_for_just_that(stage: Stage, kind: StepKind):
    stage.permit(stage.party, *(other for other in StepKind if other is not kind))
    step = Step(kind, raw(stage.party), raw(stage.first), raw(stage.other), 1, 1, bytes(256))
    assert stage.run([step]).said == "permit"


def test_what_is_authorised_can_be_read_and_taken_back(stage: Stage):
    stage.permit(stage.party, StepKind.SWAP_CURVE, code_hash=b"\x07" * WORD)
    assert answer(stage, "permits(address)", stage.party.address) == 1 << StepKind.SWAP_CURVE
    assert answer(stage, "init_code_hashes(address)", stage.party.address) == int.from_bytes(b"\x07" * WORD, "big")
    stage.permit(stage.party)
    assert answer(stage, "permits(address)", stage.party.address) == 0


def test_neither_the_executor_nor_an_empty_account_can_be_authorised(stage: Stage):
    for target in (stage.executor, account("nobody")):
        permit = calls.Permit(target, frozenset({StepKind.SWAP_ROUTER}))
        assert stage.do(calls.authorize(stage.executor, [permit])).said == "target"


@pytest.mark.parametrize(
    "signature",
    [
        "transfer(address,uint256)",
        "transferFrom(address,address,uint256)",
        "approve(address,uint256)",
        "increaseAllowance(address,uint256)",
    ],
)
def test_a_token_s_function_is_never_a_router_s(stage: Stage, signature: str):
    selectors = [b"swap", selector(signature)]
    assert (
        stage.do(calls.authorize_selectors(stage.executor, raw(stage.party), selectors, allowed=True)).said
        == "forbidden"
    )
    assert stage.do(calls.authorize_selectors(stage.executor, raw(stage.party), selectors, allowed=False)).ok


def test_a_step_can_be_run_apart_by_the_executor_alone(stage: Stage):
    for sender in (stage.owner, stage.caller, stage.stranger):
        assert send(stage.executor, encoded("perform(uint256)", 0), sender=sender).said == "stranger"


def test_a_running_program_is_neither_run_into_nor_swept(stage: Stage):
    """The counterparty is a caller, and the owner too, and calls back while a program runs."""
    party = raw(stage.party)
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    assert stage.do(calls.set_caller(stage.executor, party, allowed=True)).ok
    assert stage.do(calls.transfer_ownership(stage.executor, party)).ok
    assert stage.do(calls.accept_ownership(stage.executor), party).ok
    step = Step(StepKind.LIQUIDATE_AAVE, party, raw(stage.first), raw(stage.other), 0, 0, bytes(WORD))
    empty = raw_program([])
    for inner in (empty, calls.sweep(stage.executor, [NATIVE]).data):
        arrange(stage.party, callback=inner)
        assert stage.run([step]).said == "locked"
        assert send(stage.executor, inner, sender=party).ok
