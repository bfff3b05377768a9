"""What the executor allows beside what it should: the difference, the orders that mend it, and the words about it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi.abi import decode

from keeper.chainfile import ChainFile, ExecutorConfig
from keeper.checks import Status
from keeper.domain.program import StepKind
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, TokenAmount
from keeper.executor import artifact, calls
from keeper.executor.calls import Permit
from keeper.executor.estate import Estate, Function
from keeper.permits import Difference, Needs, difference, judged, kinds_text, orders

EXECUTOR, OWNER, HOT, OTHER = (Address(bytes([each]) * 20) for each in (0xEC, 0xC0, 0x07, 0x99))
POOL, FACTORY, ROUTER, GONE = (Address(bytes([each]) * 20) for each in (1, 2, 3, 4))
NO_HASH, HASH, ANOTHER = bytes(32), b"\x0a" * 32, b"\x0b" * 32
SWAP, SELL = b"swap", b"sell"
NEEDS = Needs(
    permits={
        POOL: Permit(POOL, frozenset({StepKind.LIQUIDATE_AAVE, StepKind.FLASH_AAVE})),
        FACTORY: Permit(FACTORY, frozenset({StepKind.SWAP_UNISWAP_V3}), HASH),
        ROUTER: Permit(ROUTER, frozenset({StepKind.SWAP_ROUTER})),
    },
    functions=frozenset({(ROUTER, SWAP)}),
    account=HOT,
)
ALLOWED = {target: (permit.mask, permit.init_code_hash) for target, permit in NEEDS.permits.items()}
CHAIN = ChainFile.load("local", [Path(__file__).parents[2] / "config"])
CONFIG = ExecutorConfig(address=EXECUTOR, code_hash=artifact.load().code_hash, owner=OWNER)


def estate(
    permits: Mapping[Address, tuple[int, bytes]] = ALLOWED,
    functions: Mapping[Function, bool] | None = None,
    callers: Mapping[Address, bool] | None = None,
) -> Estate:
    return Estate(
        address=EXECUTOR,
        code_hash=CONFIG.code_hash,
        owner=OWNER,
        pending_owner=ZERO_ADDRESS,
        is_paused=False,
        callers={HOT: True} if callers is None else callers,
        permits=permits,
        functions={(ROUTER, SWAP): True} if functions is None else functions,
        balances={NATIVE: TokenAmount(0)},
        allowances={},
    )


def found(of: Estate, needs: Needs = NEEDS, config: ExecutorConfig = CONFIG) -> dict[str, tuple[Status, str, str]]:
    checks = judged(CHAIN, config, of, needs)
    return {each.name: (each.status, each.finding, each.fix) for each in checks if each.status is not Status.OK}


def authorised(change: Difference, *, is_revoking: bool = False) -> dict[Address, tuple[int, bytes]]:
    """Return what all orders together would say of targets."""
    said: dict[Address, tuple[int, bytes]] = {}
    for order in orders(EXECUTOR, change, is_revoking=is_revoking):
        assert order.call.to == EXECUTOR
        assert not order.is_hot
        if order.call.data[:4] == calls.AUTHORIZE:
            (permits,) = decode(["(address,uint256,bytes32)[]"], order.call.data[4:])
            assert len(permits) <= calls.MAX_PERMITS
            said |= {Address(bytes.fromhex(target[2:])): (mask, code) for target, mask, code in permits}
    return said


def test_where_everything_is_as_it_should_be_nothing_is_ordered_and_nothing_is_said() -> None:
    change = difference(estate(), NEEDS)
    assert change == Difference()
    assert orders(EXECUTOR, change, is_revoking=True) == ()
    assert found(estate()) == {}


def test_what_is_missing_is_ordered_whole_because_an_order_forgets_what_was_said_before() -> None:
    half = {**ALLOWED, POOL: (1 << StepKind.FLASH_AAVE, NO_HASH)}
    change = difference(estate(half), NEEDS)
    assert authorised(change) == {POOL: ALLOWED[POOL]}
    status, finding, fix = found(estate(half))["executor permits"]
    assert (status, fix) == (Status.FAIL, "keeper executor authorize")
    assert finding.startswith("missing: LIQUIDATE_AAVE of 0x0101")
    assert "FLASH_AAVE" not in finding


def test_a_factory_whose_pools_are_made_of_other_code_is_ordered_anew() -> None:
    change = difference(estate({**ALLOWED, FACTORY: (ALLOWED[FACTORY][0], ANOTHER)}), NEEDS)
    assert authorised(change) == {FACTORY: ALLOWED[FACTORY]}
    assert [note.startswith("another init code hash of 0x0202") for note in change.notes] == [True]


def test_more_than_is_needed_of_a_known_target_is_a_warning_and_is_taken_back() -> None:
    more = estate({**ALLOWED, POOL: (ALLOWED[POOL][0] | 1 << StepKind.SWAP_CURVE, NO_HASH)})
    assert authorised(difference(more, NEEDS)) == {POOL: ALLOWED[POOL]}
    assert found(more)["executor permits"][0] is Status.WARN


def test_strangers_are_shown_and_only_taken_back_when_that_is_asked_for() -> None:
    strange = estate(
        {**ALLOWED, GONE: (1 << StepKind.SWAP_CURVE, NO_HASH)},
        {(ROUTER, SWAP): True, (ROUTER, SELL): True},
        {HOT: True, OTHER: True},
    )
    change = difference(strange, NEEDS)
    assert orders(EXECUTOR, change) == ()
    assert authorised(change, is_revoking=True) == {GONE: (0, NO_HASH)}
    revoked = {order.call.data for order in orders(EXECUTOR, change, is_revoking=True)}
    assert calls.set_caller(EXECUTOR, OTHER, allowed=False).data in revoked
    assert calls.authorize_selectors(EXECUTOR, ROUTER, [SELL], allowed=False).data in revoked
    assert len(revoked) == 3
    told = found(strange)
    assert {name: status for name, (status, _, _) in told.items()} == {
        "executor callers": Status.WARN,
        "executor permits": Status.WARN,
    }
    assert told["executor permits"][2] == "keeper executor authorize --revoke"


def test_a_missing_function_and_a_missing_caller_are_ordered_too() -> None:
    bare = estate(functions={(ROUTER, SWAP): False}, callers={HOT: False})
    ordered = [order.call.data for order in orders(EXECUTOR, difference(bare, NEEDS))]
    assert ordered == [
        calls.authorize_selectors(EXECUTOR, ROUTER, [SWAP], allowed=True).data,
        calls.set_caller(EXECUTOR, HOT, allowed=True).data,
    ]
    told = found(bare)
    assert told["executor caller"][0] is Status.FAIL
    assert "function 0x73776170" in told["executor permits"][1]


def test_the_owner_needs_no_leave_to_call_and_nobody_needs_one_where_nobody_sends() -> None:
    assert difference(estate(callers={OWNER: False}), replace(NEEDS, account=OWNER)).callers == frozenset()
    assert difference(estate(callers={}), replace(NEEDS, account=None)).callers == frozenset()


@pytest.mark.parametrize(("count", "parts"), [(64, 1), (65, 2), (200, 4)])
def test_many_permits_are_ordered_in_as_many_calls_as_the_contract_wants(count: int, parts: int) -> None:
    targets = [Address(number.to_bytes(20)) for number in range(1, count + 1)]
    needs = Needs({each: Permit(each, frozenset({StepKind.REDEEM_COMPOUND})) for each in targets}, frozenset(), None)
    change = difference(estate({}), needs)
    assert len(orders(EXECUTOR, change)) == parts
    assert authorised(change).keys() == set(targets)


def test_each_thing_that_is_wrong_with_the_executor_has_its_own_check() -> None:
    bad = replace(
        estate(),
        code_hash=b"\x01" * 32,
        owner=OTHER,
        pending_owner=HOT,
        is_paused=True,
        balances={NATIVE: TokenAmount(10**18), POOL: TokenAmount(3)},
        allowances={(POOL, ROUTER): TokenAmount(1)},
    )
    told = found(bad)
    failed = {name for name, (status, _, _) in told.items() if status is Status.FAIL}
    assert failed == {"executor code", "executor pause", "executor allowances"}  # the owner's last word is a warning
    owners = [each.status for each in judged(CHAIN, CONFIG, bad, NEEDS) if each.name == "executor owner"]
    assert owners == [Status.FAIL, Status.WARN]
    assert told["executor balances"][1] == f"holds 1 ETH, 3 of 0x{POOL.hex()}"


def test_code_of_another_version_and_an_owner_that_is_not_pinned_or_hot_are_told() -> None:
    old = CONFIG.model_copy(update={"code_hash": b"\x01" * 32})
    status, finding, fix = found(replace(estate(), code_hash=b"\x01" * 32), config=old)["executor code"]
    assert (status, "another version" in finding, fix.startswith("keeper executor deploy")) == (Status.FAIL, True, True)
    loose = CONFIG.model_copy(update={"owner": None})
    assert found(estate(), config=loose)["executor owner"][0] is Status.WARN
    assert found(replace(estate(), owner=HOT), config=loose)["executor owner"][0] is Status.WARN


def test_kinds_are_named_as_the_steps_are() -> None:
    assert kinds_text(0) == "nothing"
    assert kinds_text(1 << StepKind.FLASH_AAVE | 1 << StepKind.LIQUIDATE_AAVE) == "FLASH_AAVE, LIQUIDATE_AAVE"
