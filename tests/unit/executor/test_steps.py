"""Every step that is done when it returns: what it calls, what it gives, what it insists on."""

from collections.abc import Sequence
from typing import Any, Final

import pytest
from eth_abi.abi import encode

from keeper.domain.abi import WORD, number_word, selector
from keeper.domain.program import ALL, Step, StepKind
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, TokenAmount
from keeper.executor import calls
from tests.unit.executor.stage import (
    UNIT,
    V2_FEE_BPS,
    V3_FEE,
    Stage,
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

GIVEN: Final = 1000
TAKEN: Final = 1100
BORROWER: Final = Address(b"\xb0" * 20)
VTOKEN: Final = Address(b"\xb1" * 20)
POOL_ID: Final = int.from_bytes(b"\xb2" * WORD, "big")
ROUTE: Final = selector("route(uint256)") + number_word(77)
SWAP_BALANCER: Final = "swap((bytes32,uint8,address,address,uint256,bytes),(address,bool,address,bool),uint256,uint256)"

PAID: Final = [
    (StepKind.LIQUIDATE_AAVE, words(BORROWER), True),
    (StepKind.LIQUIDATE_VENUS, words(VTOKEN, BORROWER), True),
    (StepKind.SWAP_CURVE, words(1, 2, 0), True),
    (StepKind.SWAP_CURVE, words(1, 2, 1), True),
    (StepKind.SWAP_BALANCER, words(POOL_ID), True),
    (StepKind.SWAP_ROUTER, ROUTE, True),
    (StepKind.REDEEM_ERC4626, b"", False),
    (StepKind.UNWRAP_WSTETH, b"", False),
    (StepKind.UNWRAP_NATIVE, b"", False),
]
NAMES: Final = [f"{kind.name}-{i}" for i, (kind, _, _) in enumerate(PAID)]
ALLOWED: Final = [(kind, data) for kind, data, is_allowed in PAID if is_allowed]


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def signature_of(kind: StepKind, data: bytes, stage: Stage, amount: int, *, give: Address, take: Address) -> bytes:
    """Return the call as the contract's own interface has it."""
    mine = hexed(stage.executor)
    match kind:
        case StepKind.LIQUIDATE_AAVE:
            arguments = (hexed(take), hexed(give), hexed(BORROWER), amount, False)
            return encoded("liquidationCall(address,address,address,uint256,bool)", *arguments)
        case StepKind.LIQUIDATE_VENUS:
            arguments_venus = (hexed(VTOKEN), hexed(BORROWER), amount, hexed(take))
            return encoded("liquidateBorrow(address,address,uint256,address)", *arguments_venus)
        case StepKind.SWAP_CURVE:
            index = "uint256" if data[-1] else "int128"
            return encoded(f"exchange({index},{index},uint256,uint256)", 1, 2, amount, TAKEN)
        case StepKind.SWAP_BALANCER:
            assets = [hexed(ZERO_ADDRESS if each == NATIVE else each) for each in (give, take)]
            single = (number_word(POOL_ID), 0, *assets, amount, b"")
            return encoded(SWAP_BALANCER, single, (mine, False, mine, False), TAKEN, env.evm.patch.timestamp)
        case StepKind.REDEEM_ERC4626:
            return encoded("redeem(uint256,address,address)", amount, mine, mine)
        case StepKind.UNWRAP_WSTETH:
            return encoded("unwrap(uint256)", amount)
        case StepKind.UNWRAP_NATIVE:
            return encoded("withdraw(uint256)", amount)
        case _:
            assert kind is StepKind.SWAP_ROUTER
            return ROUTE


def set_up(stage: Stage, kind: StepKind, data: bytes = b"", **changes: Any) -> Step:
    """Permit a step to the counterparty, and give the executor what it needs."""
    stage.permit(stage.party, kind)
    if kind is StepKind.SWAP_ROUTER:
        order = calls.authorize_selectors(stage.executor, raw(stage.party), [ROUTE[:4]], allowed=True)
        assert stage.do(order).ok
    stage.fund(stage.first, GIVEN)
    terms: dict[str, Any] = {
        "give": raw(stage.first),
        "take": raw(stage.other),
        "amount": GIVEN,
        "limit": TAKEN,
    } | changes
    return Step(kind, raw(stage.party), data=data, **terms)


def allowance(stage: Stage, token: Any, spender: Any) -> int:
    return int(token.allowance(hexed(stage.executor), spender.address))


@pytest.mark.parametrize(("kind", "data", "is_allowed"), PAID, ids=NAMES)
def test_a_step_calls_what_its_contract_s_interface_says_and_takes_what_it_brings(
    stage: Stage, kind: StepKind, data: bytes, is_allowed: bool
):
    step = set_up(stage, kind, data)
    due = GIVEN if is_allowed else 0
    arrange(stage.party, take=stage.other, sent=TAKEN, give=stage.first, due=due)
    done = stage.run([step], [output(stage.other, TAKEN)])
    assert done.ok, done
    assert stage.party.called() == signature_of(kind, data, stage, GIVEN, give=step.give, take=step.take)
    assert stage.held(stage.other, stage.owner) == TAKEN
    assert stage.held(stage.first) == GIVEN - due
    assert allowance(stage, stage.first, stage.party) == 0


@pytest.mark.parametrize(("kind", "data", "is_allowed"), PAID, ids=NAMES)
def test_a_step_gives_all_that_is_held_where_it_says_all(stage: Stage, kind: StepKind, data: bytes, is_allowed: bool):
    step = set_up(stage, kind, data, amount=ALL)
    stage.fund(stage.first, 7)
    arrange(stage.party, take=stage.other, sent=TAKEN, give=stage.first, due=GIVEN + 7 if is_allowed else 0)
    assert stage.run([step]).ok
    assert stage.party.called() == signature_of(kind, data, stage, GIVEN + 7, give=step.give, take=step.take)


@pytest.mark.parametrize(("kind", "data", "is_allowed"), PAID, ids=NAMES)
def test_a_step_that_brings_one_less_than_its_limit_fails(stage: Stage, kind: StepKind, data: bytes, is_allowed: bool):
    step = set_up(stage, kind, data)
    arrange(stage.party, take=stage.other, sent=TAKEN - 1)
    stage.fund(stage.other, UNIT)  # what was there before does not count
    assert stage.run([step]).said == "least"


@pytest.mark.parametrize(("kind", "data"), ALLOWED, ids=NAMES[: len(ALLOWED)])
def test_what_of_an_allowance_is_not_used_is_taken_back(stage: Stage, kind: StepKind, data: bytes):
    step = set_up(stage, kind, data)
    arrange(stage.party, take=stage.other, sent=TAKEN, give=stage.first, due=GIVEN - 1)
    assert stage.run([step]).ok
    assert allowance(stage, stage.first, stage.party) == 0


@pytest.mark.parametrize(("kind", "data"), ALLOWED, ids=NAMES[: len(ALLOWED)])
def test_no_more_than_the_amount_can_be_taken(stage: Stage, kind: StepKind, data: bytes):
    step = set_up(stage, kind, data)
    stage.fund(stage.first, UNIT)
    arrange(stage.party, take=stage.other, sent=TAKEN, give=stage.first, due=GIVEN + 1)
    assert not stage.run([step]).ok
    assert stage.held(stage.first) == UNIT + GIVEN


def test_a_stale_allowance_is_passed_by_way_of_zero(stage: Stage):
    """As Tether demands. The allowance was left by hand: a program leaves none."""
    token = compiled("Token").deploy(True)
    step = set_up(stage, StepKind.LIQUIDATE_AAVE, words(BORROWER), give=raw(token))
    stage.fund(token, GIVEN)
    stale = encoded("approve(address,uint256)", stage.party.address, 5)
    assert send(raw(token), stale, sender=stage.executor).ok
    arrange(stage.party, take=stage.other, sent=TAKEN, give=token, due=GIVEN - 1)
    assert stage.run([step]).ok
    assert allowance(stage, token, stage.party) == 0
    assert token.approvals() == 4  # the stale one, away with it, the step's own, what was left of it


@pytest.mark.parametrize(
    "kind", [StepKind.LIQUIDATE_COMPOUND, StepKind.LIQUIDATE_VENUS, StepKind.SWAP_CURVE, StepKind.SWAP_BALANCER]
)
def test_native_currency_is_sent_along(stage: Stage, kind: StepKind):
    data = {
        StepKind.LIQUIDATE_COMPOUND: words(BORROWER),
        StepKind.LIQUIDATE_VENUS: words(VTOKEN, BORROWER),
        StepKind.SWAP_CURVE: words(1, 2, 0),
        StepKind.SWAP_BALANCER: words(POOL_ID),
    }[kind]
    step = set_up(stage, kind, data, give=NATIVE)
    env.set_balance(hexed(stage.executor), GIVEN)
    arrange(stage.party, take=stage.other, sent=TAKEN)
    assert stage.run([step], [output(stage.other, TAKEN)]).ok
    assert stage.party.paid() == GIVEN
    expected = (
        encoded("liquidateBorrow(address,address)", hexed(BORROWER), stage.other.address)
        if kind is StepKind.LIQUIDATE_COMPOUND
        else signature_of(kind, data, stage, GIVEN, give=NATIVE, take=step.take)
    )
    assert stage.party.called() == expected


def test_native_currency_is_wrapped_and_unwrapped_within_the_gas_of_a_plain_transfer(stage: Stage):
    stage.permit(stage.wrapped, StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE)
    env.set_balance(hexed(stage.executor), GIVEN)
    wrapped = raw(stage.wrapped)
    wrap = Step(StepKind.WRAP_NATIVE, wrapped, NATIVE, wrapped, GIVEN, GIVEN)
    unwrap = Step(StepKind.UNWRAP_NATIVE, wrapped, wrapped, NATIVE, ALL, GIVEN - 1)
    before = env.get_balance(hexed(stage.owner))
    assert stage.run([wrap, unwrap, wrap], [output(stage.wrapped, GIVEN)]).ok
    assert stage.held(stage.wrapped, stage.owner) == GIVEN
    env.set_balance(hexed(stage.executor), GIVEN)
    assert stage.run([wrap, unwrap], [output(NATIVE, 0)]).ok
    assert env.get_balance(hexed(stage.owner)) == before + GIVEN


def test_a_compound_market_is_paid_and_its_receipts_are_redeemed(stage: Stage):
    debt, receipt = compiled("Compound").deploy(stage.first.address), compiled("Compound").deploy(stage.other.address)
    stage.permit(debt, StepKind.LIQUIDATE_COMPOUND)
    stage.permit(receipt, StepKind.REDEEM_COMPOUND)
    stage.fund(stage.first, GIVEN)
    first, other = raw(stage.first), raw(stage.other)
    liquidate = Step(StepKind.LIQUIDATE_COMPOUND, raw(debt), first, raw(receipt), GIVEN, 2 * GIVEN, words(BORROWER))
    redeem = Step(StepKind.REDEEM_COMPOUND, raw(receipt), raw(receipt), other, ALL, 2 * GIVEN)
    assert stage.run([liquidate, redeem], [output(other, 2 * GIVEN)]).ok
    assert stage.held(stage.other, stage.owner) == 2 * GIVEN
    assert stage.held(receipt) == 0


@pytest.mark.parametrize("kind", [StepKind.LIQUIDATE_COMPOUND, StepKind.REDEEM_COMPOUND])
def test_a_market_that_returns_an_error_s_number_fails_the_step(stage: Stage, kind: StepKind):
    market = compiled("Compound").deploy(stage.first.address)
    stage.permit(market, kind)
    stage.fund(stage.first, GIVEN)
    market.mint(hexed(stage.executor), GIVEN)
    give = stage.first if kind is StepKind.LIQUIDATE_COMPOUND else market
    step = Step(kind, raw(market), raw(give), raw(stage.other), GIVEN, 0, words(BORROWER))
    market.fail_with(3)
    done = stage.run([step])
    assert not done.ok
    named = calls.decode_revert(done.output)
    assert named is not None
    assert named[1] == "return code 3"


@pytest.mark.parametrize("is_first", [True, False])
def test_a_v2_pair_pays_to_the_wei_what_its_invariant_allows(stage: Stage, is_first: bool):
    pair = stage.pools["Pair"]
    stage.fund(stage.first, 7 * UNIT, pair.address)
    stage.fund(stage.other, 5 * UNIT, pair.address)
    pair.open(stage.first.address, stage.other.address)
    give, take = (stage.first, stage.other) if is_first else (stage.other, stage.first)
    give_reserve, take_reserve = (7 * UNIT, 5 * UNIT) if is_first else (5 * UNIT, 7 * UNIT)
    scaled = UNIT * 9970
    out = scaled * take_reserve // (give_reserve * 10_000 + scaled)
    stage.fund(give, UNIT)
    factory = raw(stage.factories["Pair"])
    step = Step(StepKind.SWAP_UNISWAP_V2, factory, raw(give), raw(take), UNIT, out, words(V2_FEE_BPS))
    assert stage.run([step], [output(take, out)]).ok
    assert stage.held(take, stage.owner) == out


def test_a_v2_pair_that_the_factory_has_not_created_is_not_paid(stage: Stage):
    stage.fund(stage.first, UNIT)
    stranger = compiled("Token").deploy(False)
    factory = raw(stage.factories["Pair"])
    step = Step(StepKind.SWAP_UNISWAP_V2, factory, raw(stage.first), raw(stranger), UNIT, 1, words(V2_FEE_BPS))
    assert stage.run([step]).said == "unreadable"
    assert stage.held(stage.first) == UNIT


def v3_swap(stage: Stage, give: Any, take: Any, **changes: Any) -> Step:
    terms: dict[str, Any] = {"amount": GIVEN, "limit": TAKEN, "data": words(V3_FEE)} | changes
    return Step(StepKind.SWAP_UNISWAP_V3, raw(stage.factories["Counterparty"]), raw(give), raw(take), **terms)


def v3_callback(give: int, take: int, *, is_first: bool, name: str = "uniswap", number: int = 0) -> bytes:
    deltas = (give, -take) if is_first else (-take, give)
    return encoded(f"{name}V3SwapCallback(int256,int256,bytes)", *deltas, number_word(number))


@pytest.mark.parametrize("name", ["uniswap", "pancake"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_v3_pool_is_called_and_paid_when_it_asks(stage: Stage, is_first: bool, name: str):
    give, take = (stage.first, stage.other) if is_first else (stage.other, stage.first)
    pool = stage.pools["Counterparty"]
    arrange(pool, take=take, sent=TAKEN, callback=v3_callback(GIVEN, TAKEN, is_first=is_first, name=name))
    stage.fund(give, GIVEN)
    assert stage.run([v3_swap(stage, give, take, amount=ALL)], [output(take, TAKEN)]).ok
    limit = 4295128740 if is_first else 1461446703485210103287273052203988822378723970341
    arguments = (hexed(stage.executor), is_first, GIVEN, limit, number_word(0))
    assert pool.called() == encoded("swap(address,bool,int256,uint160,bytes)", *arguments)
    assert stage.held(give, raw(pool)) == GIVEN
    assert stage.held(take, stage.owner) == TAKEN


@pytest.mark.parametrize(
    ("callback", "times", "said"),
    [
        (v3_callback(GIVEN + 1, TAKEN, is_first=True), 1, "dear"),
        (v3_callback(GIVEN, TAKEN, is_first=True, number=1), 1, "door"),
        (v3_callback(GIVEN, TAKEN, is_first=True), 2, "stranger"),
        (encoded("uniswapV3FlashCallback(uint256,uint256,bytes)", 0, 0, number_word(0)), 1, "door"),
        (b"", 0, "unopened"),
    ],
)
def test_a_v3_pool_gets_no_more_than_the_step_gives_and_only_once(stage: Stage, callback: bytes, times: int, said: str):
    arrange(stage.pools["Counterparty"], take=stage.other, sent=TAKEN, callback=callback, times=times)
    stage.fund(stage.first, UNIT)
    assert stage.run([v3_swap(stage, stage.first, stage.other)]).said == said
    assert stage.held(stage.first) == UNIT


def test_a_v3_pool_that_the_factory_has_not_created_is_not_paid(stage: Stage):
    stage.fund(stage.first, GIVEN)
    swap = v3_swap(stage, stage.first, stage.other, data=words(500))
    assert stage.run([swap]).said == "unopened"


@pytest.mark.parametrize(
    ("selectors", "payloads", "said"),
    [([], [ROUTE], "selector"), ([b"\0" * 4], [ROUTE], "selector"), ([ROUTE[:4]], [], "payload")],
)
def test_a_router_is_called_only_by_an_authorised_function(
    stage: Stage, selectors: Sequence[bytes], payloads: Sequence[bytes], said: str
):
    stage.permit(stage.party, StepKind.SWAP_ROUTER)
    assert stage.do(calls.authorize_selectors(stage.executor, raw(stage.party), selectors, allowed=True)).ok
    stage.fund(stage.first, GIVEN)
    step = (StepKind.SWAP_ROUTER, hexed(raw(stage.party)), stage.first.address, stage.other.address, GIVEN, 0, 0)
    data = raw_program([(*step, number_word(0))], payloads)
    assert send(stage.executor, data, sender=stage.caller).said == said


def test_a_mandatory_step_s_reason_is_passed_on_up_to_a_bound(stage: Stage):
    for kind, data, _ in PAID:
        step = set_up(stage, kind, data)
        reason = selector("Error(string)") + encode(["string"], ["x" * 300])
        arrange(stage.party, reason=reason)
        done = stage.run([step])
        assert (done.ok, done.output) == (False, reason[:256])


@pytest.mark.parametrize(("kind", "data"), ALLOWED, ids=NAMES[: len(ALLOWED)])
def test_an_optional_step_may_fail_and_leaves_nothing(stage: Stage, kind: StepKind, data: bytes):
    step = set_up(stage, kind, data, gas=1_000_000)
    reason = selector("Error(string)") + encode(["string"], ["no"])
    arrange(stage.party, reason=reason)
    done = stage.run([step], [output(stage.first, 0)])
    assert done.ok
    assert list(calls.events(stage.executor, done.logs)) == [
        calls.StepFailed(0, reason),
        calls.Profit(raw(stage.first), TokenAmount(GIVEN)),
        calls.Executed(stage.caller),
    ]
    assert allowance(stage, stage.first, stage.party) == 0


@pytest.mark.parametrize(("kind", "data", "is_allowed"), PAID, ids=NAMES)
def test_an_optional_step_that_works_counts(stage: Stage, kind: StepKind, data: bytes, is_allowed: bool):
    step = set_up(stage, kind, data, gas=2_000_000)
    arrange(stage.party, take=stage.other, sent=TAKEN, give=stage.first, due=GIVEN if is_allowed else 0)
    done = stage.run([step], [output(stage.other, TAKEN)])
    assert done.ok
    assert not [each for each in calls.events(stage.executor, done.logs) if isinstance(each, calls.StepFailed)]


def test_an_optional_step_takes_no_more_than_its_gas(stage: Stage):
    """The counterparty takes all the gas that it gets."""
    step = set_up(stage, StepKind.LIQUIDATE_AAVE, words(BORROWER), gas=500_000)
    env.set_code(stage.party.address, b"\xfe")
    done = stage.run([step], gas=5_000_000)
    assert done.ok
    assert 500_000 < done.gas_used < 600_000


def test_a_kind_that_no_step_has_is_refused_even_if_authorised(stage: Stage):
    for kind in (0, 10, 15, 20, 63, 255):
        order = encoded("authorize((address,uint256,bytes32)[])", [(stage.party.address, 1 << kind, bytes(WORD))])
        assert send(stage.executor, order, sender=stage.owner).ok
        step = (kind, stage.party.address, stage.first.address, stage.other.address, 1, 0, 0, b"")
        data = raw_program([step])
        assert send(stage.executor, data, sender=stage.caller).said == "kind"
