"""What somebody who knows the executor well would try: through the wrong door, too early, too late, and for nothing."""

from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from keeper.domain.abi import number_word, selector
from keeper.domain.program import ALL, Output, Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, NATIVE, ZERO_ADDRESS, Address, TokenAmount
from keeper.engine.limits import COOL_DOWN_BLOCKS
from keeper.errors import Invalid
from keeper.executor import calls
from tests.unit.executor.stage import (
    EXECUTE_TYPES,
    UNIT,
    V3_FEE,
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
    words,
)

LENT: Final = 1000
BORROWER: Final = Address(b"\xb0" * 20)
MARKET: Final = words(*range(1, 6))
ROUTE: Final = selector("route(uint256)")


@dataclass(frozen=True, slots=True)
class Action:
    """A call that a host's script makes; one that need not succeed is counted where it is refused."""

    to: Any
    data: bytes
    must: bool = True
    amount: int = 0


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def host(stage: Stage, *kinds: StepKind) -> Any:
    """Return a scripted contract that is authorised for some kinds of steps."""
    made = compiled("AuditHost").deploy()
    stage.permit(made, *kinds)
    if StepKind.SWAP_ROUTER in kinds:
        assert stage.do(calls.authorize_selectors(stage.executor, raw(made), [ROUTE], allowed=True)).ok
    return made


def host_pool(stage: Stage) -> tuple[Any, Any]:
    """Return a scripted contract where a factory's pool of the two tokens is, and the factory."""
    kind = compiled("AuditHost")
    factory = compiled("Factory").deploy(kind.deploy_as_blueprint().address)
    pool = kind.at(factory.create_v3(stage.first.address, stage.other.address, V3_FEE))
    kinds = (StepKind.SWAP_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.FLASH_UNISWAP_V3)
    stage.permit(factory, *kinds, code_hash=keccak(kind.compiler_data.bytecode))
    return pool, factory


def script(where: Any, number: int, *actions: Action) -> None:
    where.write(
        number,
        [
            (
                hexed(raw(each.to)) if not isinstance(each.to, bytes) else hexed(each.to),
                each.data,
                each.amount,
                each.must,
            )
            for each in actions
        ],
    )


def transfer(token: Any, to: Address, amount: int) -> Action:
    return Action(token, encoded("transfer(address,uint256)", hexed(to), amount))


def collect(stage: Stage, token: Any, to: Any, amount: int) -> Action:
    data = encoded("transferFrom(address,address,uint256)", hexed(stage.executor), to.address, amount)
    return Action(token, data)


def callbacks(stage: Stage, number: int) -> dict[str, bytes]:
    """Return one callback through every entry, in the words of a lender that keeps to the terms."""
    mine, token, data = hexed(stage.executor), stage.other.address, number_word(number)
    return {
        "aave": encoded("executeOperation(address,uint256,uint256,address,bytes)", token, LENT, 0, mine, data),
        "morpho": encoded("onMorphoFlashLoan(uint256,bytes)", LENT, data),
        "erc3156": encoded("onFlashLoan(address,address,uint256,uint256,bytes)", mine, token, LENT, 0, data),
        "balancer": encoded("receiveFlashLoan(address[],uint256[],uint256[],bytes)", [token], [LENT], [0], data),
        "flash": encoded("uniswapV3FlashCallback(uint256,uint256,bytes)", 0, 0, data),
        "pancake flash": encoded("pancakeV3FlashCallback(uint256,uint256,bytes)", 0, 0, data),
        "swap": encoded("uniswapV3SwapCallback(int256,int256,bytes)", LENT, -LENT, data),
        "pancake swap": encoded("pancakeV3SwapCallback(int256,int256,bytes)", LENT, -LENT, data),
        "liquidation": encoded("onMorphoLiquidate(uint256,bytes)", LENT, data),
        "pre-liquidation": encoded("onPreLiquidate(uint256,bytes)", LENT, data),
    }


def attempts(stage: Stage, *numbers: int, but: tuple[str, int] | None = None) -> list[Action]:
    """Return callbacks that all have to be refused: through every entry, for some doors."""
    found = ((name, number, data) for number in numbers for name, data in callbacks(stage, number).items())
    return [Action(stage.executor, data, must=False) for name, number, data in found if (name, number) != but]


def loan(lender: Any, token: Any, *, kind: StepKind = StepKind.FLASH_MORPHO) -> Step:
    return Step(kind, raw(lender), take=raw(token), amount=LENT, limit=0)


def payment(where: Any, give: Any, take: Any, amount: int = 0, **changes: Any) -> Step:
    return Step(StepKind.LIQUIDATE_AAVE, raw(where), raw(give), raw(take), amount, 0, words(BORROWER), **changes)


def nested_at_one(stage: Stage) -> tuple[Any, list[Step]]:
    """Return a contract that lends `other` and is the market of a liquidation inside of it, as Morpho is."""
    morpho = host(stage, StepKind.FLASH_MORPHO, StepKind.LIQUIDATE_MORPHO, StepKind.LIQUIDATE_AAVE)
    stage.fund(stage.other, LENT, morpho.address)
    stage.fund(stage.first, LENT + 7, morpho.address)
    liquidation = Step(
        StepKind.LIQUIDATE_MORPHO,
        raw(morpho),
        raw(stage.other),
        raw(stage.first),
        LENT,
        0,
        MARKET + words(BORROWER, LENT, 0),
    )
    return morpho, [loan(morpho, stage.other), liquidation]


def honest(stage: Stage, morpho: Any, *before: Action) -> None:
    """Let the contract lend, and liquidate, as it should; and try something before it calls back the second time."""
    lent, seized = callbacks(stage, 0)["morpho"], callbacks(stage, 1)["liquidation"]
    script(
        morpho,
        0,
        transfer(stage.other, stage.executor, LENT),
        Action(stage.executor, lent),
        collect(stage, stage.other, morpho, LENT),
    )
    script(
        morpho,
        1,
        transfer(stage.first, stage.executor, LENT + 7),
        *before,
        Action(stage.executor, seized),
        collect(stage, stage.other, morpho, LENT),
    )


# Doors


def test_one_contract_may_be_lender_and_market_and_is_not_mistaken_for_itself(stage: Stage):
    """The market calls back through every entry but its own, for either door, before it does what it should."""
    morpho, steps = nested_at_one(stage)
    tries = attempts(stage, 0, 1, but=("liquidation", 1))
    honest(stage, morpho, *tries)
    stage.fund(stage.other, LENT)  # what the liquidation takes and the loan has to have back
    done = stage.run(steps, [output(stage.first, LENT + 7)])
    assert done.ok
    assert (morpho.refused(), len(tries)) == (19, 19)
    assert stage.held(stage.first, stage.owner) == LENT + 7


@pytest.mark.parametrize("when", ["behind", "after"])
def test_a_lender_that_was_heard_is_not_heard_again_by_any_entry(stage: Stage, when: str):
    """In a step behind its door, where no door is open; and when the program is through, in the same transaction."""
    morpho, steps = nested_at_one(stage)
    honest(stage, morpho)
    stage.fund(stage.other, LENT)
    script(morpho, 2, *attempts(stage, 0, 1, 2))
    behind = payment(morpho, stage.first, stage.other)
    assert stage.run([*steps, behind] if when == "behind" else steps).ok
    if when == "after":
        assert send(raw(morpho), b"", sender=stage.stranger, is_new=False).ok
    assert morpho.refused() == 30


def test_an_outer_lender_cannot_come_through_an_inner_ones_door(stage: Stage):
    outer, inner = (host(stage, StepKind.FLASH_MORPHO) for _ in range(2))
    for number, lender in enumerate((outer, inner)):
        stage.fund(stage.other, LENT, lender.address)
        early = [Action(outer, encoded("act(uint256)", 9))] if number else []
        script(
            lender,
            0,
            transfer(stage.other, stage.executor, LENT),
            *early,
            Action(stage.executor, callbacks(stage, number)["morpho"]),
            collect(stage, stage.other, lender, LENT),
        )
    script(outer, 9, *attempts(stage, 0, 1))
    assert stage.run([loan(outer, stage.other), loan(inner, stage.other)]).ok
    assert outer.refused() == 20


def test_an_optional_swap_that_fails_at_its_open_door_leaves_the_door_shut(stage: Stage):
    pool, factory = host_pool(stage)
    stage.fund(stage.first, LENT)
    script(pool, 0, Action(stage.executor, callbacks(stage, 0)["morpho"]))  # refused, and so the pool reverts
    script(pool, 9, *attempts(stage, 0, 1))
    market = host(stage, StepKind.LIQUIDATE_AAVE)
    script(market, 0, Action(pool, encoded("act(uint256)", 9)))
    step = Step(
        StepKind.SWAP_UNISWAP_V3,
        raw(factory),
        raw(stage.first),
        raw(stage.other),
        LENT,
        0,
        words(V3_FEE),
        gas=1_000_000,
    )
    done = stage.run([step, payment(market, stage.first, stage.other)], [output(stage.first, 0)])
    assert done.ok
    assert [each.index for each in calls.events(stage.executor, done.logs) if isinstance(each, calls.StepFailed)] == [0]
    assert pool.refused() == 20
    assert stage.held(stage.first, stage.owner) == LENT


def entries(stage: Stage) -> list[bytes]:
    """Return every order, and a step's own call, as somebody in the middle of a program would try them."""
    orders = (
        calls.call(stage.executor, Program((), (), MAX_UINT256, MAX_UINT256)),
        calls.authorize(stage.executor, [calls.Permit(raw(stage.party), frozenset(StepKind))]),
        calls.authorize_selectors(stage.executor, raw(stage.party), [ROUTE], allowed=True),
        calls.set_caller(stage.executor, stage.stranger, allowed=True),
        calls.pause(stage.executor),
        calls.unpause(stage.executor),
        calls.sweep(stage.executor, [raw(stage.first)]),
        calls.transfer_ownership(stage.executor, stage.stranger),
        calls.accept_ownership(stage.executor),
    )
    return [*(each.data for each in orders), encoded("perform(uint256)", 0)]


def test_an_authorised_router_may_take_what_it_is_given_and_nothing_else(stage: Stage):
    """A malicious router: it tries every order, every callback, and a token more than its allowance."""
    router = host(stage, StepKind.SWAP_ROUTER)
    tries = [
        *(Action(stage.executor, each, must=False) for each in entries(stage)),
        *attempts(stage, 0),
        replace(collect(stage, stage.first, router, LENT + 1), must=False),
        replace(collect(stage, stage.other, router, 1), must=False),
    ]
    script(router, 0, *tries, collect(stage, stage.first, router, LENT))
    stage.fund(stage.first, 3 * LENT)
    stage.fund(stage.other, LENT)
    swap = Step(StepKind.SWAP_ROUTER, raw(router), raw(stage.first), raw(stage.other), LENT, 0, ROUTE)
    assert stage.run([swap]).ok
    assert router.refused() == len(tries) == 22
    assert (stage.held(stage.first), stage.held(stage.other)) == (2 * LENT, LENT)
    assert stage.first.allowance(hexed(stage.executor), router.address) == 0
    assert stage.run([replace(swap, limit=1)]).said == "least"


@pytest.mark.parametrize("size", range(4))
def test_a_payload_that_names_no_function_is_refused(stage: Stage, size: int):
    router = host(stage, StepKind.SWAP_ROUTER)
    swap = Step(StepKind.SWAP_ROUTER, raw(router), raw(stage.first), raw(stage.other), 0, 0, ROUTE[:size])
    assert not stage.run([swap]).ok
    assert stage.run([replace(swap, data=ROUTE)]).ok


def test_an_owner_that_is_a_contract_cannot_enter_while_it_is_paid(stage: Stage):
    """Not even the owner runs or sweeps anything between two of its outputs; what it is owed comes all the same."""
    owner = host(stage)
    assert stage.do(calls.transfer_ownership(stage.executor, raw(owner))).ok
    script(owner, 9, Action(stage.executor, calls.accept_ownership(stage.executor).data))
    owner.act(9)
    locked = [
        calls.call(stage.executor, Program((), (), MAX_UINT256, MAX_UINT256)),
        calls.sweep(stage.executor, [raw(stage.first)]),
    ]
    script(owner, 0, *(Action(stage.executor, each.data, must=False) for each in locked), *attempts(stage, 0))
    env.set_balance(hexed(stage.executor), 3)
    stage.fund(stage.first, 7)
    assert stage.run([], [output(NATIVE, 0), output(stage.first, 0)]).ok
    assert owner.refused() == 12
    assert (env.get_balance(owner.address), stage.held(stage.first, raw(owner))) == (3, 7)


# What comes out


def test_an_output_named_twice_is_not_counted_twice(stage: Stage):
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    arrange(stage.party, take=stage.other, sent=10)
    step = payment(stage.party, stage.first, stage.other)
    assert stage.run([step], [output(stage.other, 10), output(stage.other, 1)]).said == "least"
    assert stage.run([step], [output(stage.other, 5), output(stage.other, 5)]).said == "least"


def test_a_loan_is_no_profit_in_the_token_that_is_lent(stage: Stage):
    stage.permit(stage.party, StepKind.FLASH_MORPHO)
    lent = callbacks(stage, 0)["morpho"]
    arrange(stage.party, take=stage.other, sent=LENT, give=stage.other, due=LENT, callback=lent)
    assert stage.run([loan(stage.party, stage.other)], [output(stage.other, 0)]).ok
    arrange(stage.party, take=stage.other, sent=LENT, give=stage.other, due=LENT, callback=lent)
    assert stage.run([loan(stage.party, stage.other)], [output(stage.other, 1)]).said == "least"


# Where nothing is demanded of an output, what was there before does not count: it could be anybody's.
def test_one_unit_from_a_stranger_stops_no_program_that_gives_all_of_an_output(stage: Stage):
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    stage.fund(stage.first, 1)  # the stranger's
    arrange(stage.party, take=stage.other, sent=10, give=stage.first, due=1)
    sale = payment(stage.party, stage.first, stage.other, ALL)
    done = stage.run([sale], [output(stage.other, 10), output(stage.first, 0)])
    assert done.ok, done.said


# A contract that destroys itself can force native currency on anybody.
def test_one_wei_that_is_forced_on_the_executor_stops_no_program_that_wraps_all(stage: Stage):
    stage.permit(stage.wrapped, StepKind.WRAP_NATIVE)
    env.set_balance(hexed(stage.executor), 1)
    wrap = Step(StepKind.WRAP_NATIVE, raw(stage.wrapped), NATIVE, raw(stage.wrapped))
    done = stage.run([wrap], [output(stage.wrapped, 1), output(NATIVE, 0)])
    assert done.ok, done.said


def test_what_a_stranger_gives_goes_to_the_owner_with_the_profit(stage: Stage):
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    stage.fund(stage.other, 1)
    arrange(stage.party, take=stage.other, sent=10)
    assert stage.run([payment(stage.party, stage.first, stage.other)], [output(stage.other, 10)]).ok
    assert (stage.held(stage.other, stage.owner), stage.held(stage.other)) == (11, 0)


def test_the_executor_taken_for_a_token_is_none(stage: Stage):
    """It answers anything while it runs: that is no balance, and what it is asked to move does not move."""
    own = stage.executor
    pull = Step(StepKind.PULL, ZERO_ADDRESS, take=own, amount=5)
    assert stage.run([pull]).ok
    assert stage.run([], [output(own, 0)]).said == "unreadable"
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    step = Step(StepKind.LIQUIDATE_AAVE, raw(stage.party), own, raw(stage.other), 5, 0, words(BORROWER))
    assert stage.run([step]).said == "unreadable"


# A stolen hot key


def stolen(stage: Stage) -> tuple[Any, Step]:
    """Return the thief's own pool of an authorised factory, and the swap that gives it all for nothing."""
    pool, factory = host_pool(stage)
    swap = Step(StepKind.SWAP_UNISWAP_V3, raw(factory), raw(stage.first), raw(stage.other), ALL, 0, words(V3_FEE))
    return pool, swap


def take_all(stage: Stage, pool: Any, amount: int, *, number: int = 0) -> None:
    data = encoded("uniswapV3SwapCallback(int256,int256,bytes)", amount, 0, number_word(number))
    script(pool, 0, Action(stage.executor, data))


def test_a_thief_of_the_hot_key_takes_all_that_rests_and_so_nothing_may(stage: Stage):
    """No rule of the contract keeps what rests from a pool of the thief's; the rule is that nothing rests."""
    pool, swap = stolen(stage)
    stage.fund(stage.first, UNIT)
    take_all(stage, pool, UNIT)
    assert stage.run([swap]).ok
    assert stage.held(stage.first, raw(pool)) == UNIT


@pytest.mark.parametrize("kind", [StepKind.FLASH_MORPHO, StepKind.FLASH_AAVE])
def test_a_thief_of_the_hot_key_takes_nothing_of_a_loan(stage: Stage, kind: StepKind):
    pool, swap = stolen(stage)
    stage.permit(stage.party, kind)
    said = encoded("onMorphoFlashLoan(uint256,bytes)", LENT, number_word(0))
    if kind is StepKind.FLASH_AAVE:
        mine = hexed(stage.executor)
        signature = "executeOperation(address,uint256,uint256,address,bytes)"
        said = encoded(signature, stage.first.address, LENT, 0, mine, number_word(0))
    arrange(stage.party, take=stage.first, sent=LENT, give=stage.first, due=LENT, callback=said)
    take_all(stage, pool, LENT, number=1)
    assert not stage.run([loan(stage.party, stage.first, kind=kind), swap]).ok
    assert stage.held(stage.first, raw(pool)) == 0
    assert stage.held(stage.first, raw(stage.party)) == LENT


def test_a_thief_of_one_hot_key_takes_nothing_that_another_caller_allowed(stage: Stage):
    other = account("another caller")
    assert stage.do(calls.set_caller(stage.executor, other, allowed=True)).ok
    stage.fund(stage.first, LENT, hexed(other))
    assert send(raw(stage.first), encoded("approve(address,uint256)", hexed(stage.executor), LENT), sender=other).ok
    pool, swap = stolen(stage)
    take_all(stage, pool, LENT, number=1)
    for give in (ZERO_ADDRESS, other, stage.executor):
        pull = Step(StepKind.PULL, other, give=give, take=raw(stage.first), amount=LENT)
        assert not stage.run([pull, swap]).ok
    assert stage.held(stage.first, other) == LENT


# Each of these moves, burns or lends what a caller has allowed the executor, were a token authorised as a router.
@pytest.mark.parametrize(
    "signature",
    [
        "move(address,address,uint256)",
        "pull(address,uint256)",
        "burnFrom(address,uint256)",
        "redeem(uint256,address,address)",
        "withdraw(uint256,address,address)",
        "safeTransferFrom(address,address,uint256)",
        "transferFromAndCall(address,address,uint256)",
        "transferFromAndCall(address,address,uint256,bytes)",
        "increaseApproval(address,uint256)",
        "approveAndCall(address,uint256,bytes)",
        "transferAndCall(address,uint256,bytes)",
    ],
)
def test_no_function_by_which_a_token_moves_anothers_is_a_routers(stage: Stage, signature: str):
    order = calls.authorize_selectors(stage.executor, raw(stage.party), [selector(signature)], allowed=True)
    assert stage.do(order).said == "forbidden"


# Tokens


def test_a_tokens_short_error_is_passed_on(stage: Stage):
    token = compiled("AuditToken").deploy()
    pull = Step(StepKind.PULL, ZERO_ADDRESS, take=raw(token), amount=5)
    allowed = encoded("approve(address,uint256)", hexed(stage.executor), 5)
    assert send(raw(token), allowed, sender=stage.caller).ok
    assert stage.run([pull]).output == selector("InsufficientBalance()")


def test_an_allowance_that_no_approval_gave_and_none_can_end_is_refused(stage: Stage):
    """Balancer's own pool tokens cannot be sold to the vault: it may take them without limit, for ever."""
    token = compiled("AuditToken").deploy()
    token.trust(stage.party.address)
    stage.permit(stage.party, StepKind.SWAP_BALANCER)
    stage.fund(token, LENT)
    step = Step(StepKind.SWAP_BALANCER, raw(stage.party), raw(token), raw(stage.other), LENT, 0, words(1))
    arrange(stage.party, give=token, due=LENT)
    assert stage.run([step]).said == "allowance"
    assert stage.held(token) == LENT


# Gas


def test_no_gas_limit_starves_an_optional_step_and_lets_the_rest_go_through(stage: Stage):
    """A call gets 63 of 64 parts: what is then left is too little for an output, and the whole fails.

    True of steps that need less than 64 times what comes after them.
    """
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    # GAS > 800,000 or INVALID: PUSH3, GAS, GT, PUSH1, JUMPI, INVALID, JUMPDEST, STOP
    env.set_code(stage.party.address, bytes.fromhex(f"62{800_000:06x}5a11600a57fe5b00"))
    step = payment(stage.party, stage.first, stage.other, gas=900_000)
    stage.fund(stage.other, 10)
    ends = set()
    for gas in range(100_000, 1_100_000, 20_000):
        with env.anchor():
            done = stage.run([step], [output(stage.other, 0)], gas=gas)
            said = calls.events(stage.executor, done.logs)
            ends.add((done.ok, any(isinstance(each, calls.StepFailed) for each in said)))
    assert ends == {(False, False), (True, False)}


@pytest.mark.parametrize(
    "code", ["60015f52620f42405ff3", "60015f52620f42405ffd", "fe"], ids=["return", "revert", "burn"]
)
def test_a_bomb_in_an_optional_step_costs_its_gas_and_no_more(stage: Stage, code: str):
    """A megabyte returned, a megabyte reverted with, and all the gas burnt: the next step runs as it would have."""
    bomb = host(stage, StepKind.LIQUIDATE_AAVE)
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    arrange(stage.party, take=stage.other, sent=10)
    rest = payment(stage.party, stage.first, stage.other)
    with env.anchor():
        alone = stage.run([rest], [output(stage.other, 10)])
    env.set_code(bomb.address, bytes.fromhex(code))
    limit = 3_000_000
    done = stage.run([payment(bomb, stage.first, stage.other, gas=limit), rest], [output(stage.other, 10)])
    assert done.ok
    assert done.gas_used - alone.gas_used < limit + 30_000


# The encoder

numbers = st.one_of(st.integers(0, MAX_UINT256), st.sampled_from([0, 1, ALL - 1, ALL]))
addresses = st.binary(min_size=20, max_size=20).map(Address)
payloads = st.builds(
    lambda size, fill: bytes([fill]) * size,
    st.sampled_from([0, 1, 31, 32, 33, 8159, 8160, 8161, 8191, 8192]),
    st.integers(0, 255),
)
datas = st.builds(
    lambda size, fill: bytes([fill]) * size, st.sampled_from([0, 1, 255, 256, 257, 287, 288]), st.integers(0, 255)
)
kinds = st.sampled_from(StepKind)


@st.composite
def largest(draw: st.DrawFn) -> Program:
    """Programs of 24 steps and 8 outputs, with two payloads at most."""
    routed = draw(st.lists(payloads, min_size=1, max_size=2))
    steps = []
    for kind in draw(st.lists(kinds, min_size=calls.MAX_STEPS, max_size=calls.MAX_STEPS)):
        data = draw(st.sampled_from(routed) if kind is StepKind.SWAP_ROUTER else datas)
        target, give, take = (draw(addresses) for _ in range(3))
        steps.append(Step(kind, target, give, take, draw(numbers), draw(numbers), data, draw(numbers)))
    outputs = [Output(draw(addresses), TokenAmount(draw(numbers))) for _ in range(calls.MAX_OUTPUTS)]
    return Program(tuple(steps), tuple(outputs), draw(numbers), draw(numbers))


@settings(max_examples=40, deadline=None)
@given(largest())
def test_the_largest_programs_are_encoded_as_another_encoder_does(program: Program):
    routed = list(dict.fromkeys(each.data for each in program.steps if each.kind is StepKind.SWAP_ROUTER))
    steps = [
        (
            int(each.kind),
            hexed(each.target),
            hexed(each.give),
            hexed(each.take),
            each.amount,
            each.limit,
            each.gas,
            number_word(routed.index(each.data)) if each.kind is StepKind.SWAP_ROUTER else each.data,
        )
        for each in program.steps
    ]
    outputs = [(hexed(each.token), each.least) for each in program.outputs]
    expected = encode(EXECUTE_TYPES, [steps, outputs, program.last_block, program.deadline_s, routed])
    assert calls.call(Address(b"\xec" * 20), program).data == calls.EXECUTE + expected


def test_the_largest_program_runs_and_its_payloads_arrive_whole(stage: Stage):
    router = host(stage, StepKind.SWAP_ROUTER)
    first, other = raw(stage.first), raw(stage.other)
    long = [ROUTE + bytes([fill]) * (calls.MAX_PAYLOAD - 4) for fill in (0xAA, 0xBB)]
    pulls = [
        Step(StepKind.PULL, raw(router), take=first, amount=0, data=b"\xff" * calls.MAX_DATA)
        for _ in range(calls.MAX_STEPS - 2)
    ]
    routes = [Step(StepKind.SWAP_ROUTER, raw(router), first, other, 0, 0, each) for each in long]
    outputs = [output(token, 0) for token in (stage.first, stage.other) * 4]
    for last in (long, long[::-1]):
        ordered = sorted(routes, key=lambda step, last=last: last.index(step.data))  # type: ignore[misc]
        done = stage.run([*pulls, *ordered], outputs)
        assert done.ok
        assert done.gas_used < 2_500_000
        assert router.digest() == keccak(last[1])


@pytest.mark.parametrize("size", [calls.MAX_PAYLOAD + 1, calls.MAX_PAYLOAD + 32])
def test_a_payload_beyond_the_bound_is_refused_by_the_contract_too(stage: Stage, size: int):
    assert not send(stage.executor, raw_program([], [bytes(size)]), sender=stage.caller).ok
    assert send(stage.executor, raw_program([], [bytes(calls.MAX_PAYLOAD)] * 2), sender=stage.caller).ok


@pytest.mark.parametrize("least", [-1, MAX_UINT256 + 1])
def test_a_least_that_is_no_word_is_not_encoded(least: int):
    program = Program((), (Output(BORROWER, TokenAmount(least)),), 1, 1)
    with pytest.raises(Invalid):
        calls.call(BORROWER, program)


# What is said


@given(st.binary(max_size=300), st.booleans())
def test_nothing_that_a_contract_reverts_with_breaks_the_decoder(data: bytes, is_string: bool):
    head = selector("Error(string)") + number_word(32) if is_string else b""
    found = calls.decode_revert(head + data)
    assert found is None or found[1].isprintable()


# Any token or market can say the executor's words: none of them may spare a poison position its cool-down (ECO-01).
@pytest.mark.parametrize("word", ["least", "paused", "permit", "selector", "short", "dear"])
def test_a_position_whose_token_speaks_in_the_executors_name_is_held_back_all_the_same(stage: Stage, word: str):
    stage.permit(stage.party, StepKind.LIQUIDATE_AAVE)
    arrange(stage.party, reason=selector("Error(string)") + encode(["string"], [f"executor: {word}"]))
    done = stage.run([payment(stage.party, stage.first, stage.other)])
    named = calls.decode_revert(done.output)
    assert named is not None
    assert named[0] in COOL_DOWN_BLOCKS
