"""Does the encoder say what the contract understands, and the decoder what it says?"""

import re
from dataclasses import replace
from typing import Any, Final

import pytest
from eth_abi.abi import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.abi import WORD, address_word, number_word, selector, topic
from keeper.domain.chain import Call, Log
from keeper.domain.outcome import Reason
from keeper.domain.program import ALL, Output, Program, Step, StepKind
from keeper.domain.units import MAX_UINT256, Address, BlockHash, TokenAmount, TxHash
from keeper.errors import Invalid
from keeper.executor import artifact, calls
from tests.unit.executor import compiled
from tests.unit.executor.stage import EXECUTE_TYPES, encoded

EXECUTOR: Final = Address(b"\xec" * 20)
ONE: Final = Address(b"\x01" * 20)
TWO: Final = Address(b"\x02" * 20)
EMPTY: Final = Program((), (), 1, 1)
PAYLOAD: Final = b"\xde\xad\xbe\xef" + b"\x01" * 100
SOURCE: Final = compiled.SOURCE.read_text(encoding="utf-8")

numbers = st.integers(0, MAX_UINT256)
addresses = st.binary(min_size=20, max_size=20).map(Address)
kinds = st.sampled_from([kind for kind in StepKind if kind is not StepKind.SWAP_ROUTER])
steps = st.builds(
    Step, kinds, addresses, addresses, addresses, numbers, numbers, st.binary(max_size=calls.MAX_DATA), numbers
)
outputs = st.builds(Output, addresses, numbers.map(TokenAmount))
programs = st.builds(
    Program,
    st.lists(steps, max_size=calls.MAX_STEPS).map(tuple),
    st.lists(outputs, max_size=calls.MAX_OUTPUTS).map(tuple),
    numbers,
    numbers,
)


def understood(call: Call) -> Any:
    """Decode a program as its contract's interface says."""
    assert (call.to, call.data[:4], call.value_wei) == (EXECUTOR, calls.EXECUTE, 0)
    return decode(EXECUTE_TYPES, call.data[4:], strict=True)


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def router(payload: bytes) -> Step:
    return Step(StepKind.SWAP_ROUTER, ONE, ONE, TWO, data=payload)


def said(reason: str) -> bytes:
    return selector("Error(string)") + encode(["string"], [reason])


def log(name: bytes, *indexed: Address, data: bytes = b"") -> Log:
    topics = (name, *map(address_word, indexed))
    return Log(EXECUTOR, topics, data, 7, BlockHash(bytes(32)), 0, TxHash(bytes(32)))


def constant(name: str) -> int:
    found = re.search(rf"^{name}: constant\(uint256\) = ([\d_]+)", SOURCE, re.MULTILINE)
    assert found is not None
    return int(found[1])


@given(programs)
def test_a_program_arrives_as_it_was_sent(program: Program):
    steps, outputs, last_block, deadline_s, payloads = understood(calls.call(EXECUTOR, program))
    assert payloads == ()
    assert (last_block, deadline_s) == (program.last_block, program.deadline_s)
    assert outputs == tuple((hexed(each.token), each.least) for each in program.outputs)
    assert steps == tuple(
        (
            each.kind,
            hexed(each.target),
            hexed(each.give),
            hexed(each.take),
            each.amount,
            each.limit,
            each.gas,
            each.data,
        )
        for each in program.steps
    )


@given(programs)
def test_a_program_is_encoded_as_any_encoder_would(program: Program):
    data = calls.call(EXECUTOR, program).data
    assert data == calls.EXECUTE + encode(EXECUTE_TYPES, understood(Call(EXECUTOR, data)))


def test_what_a_router_is_called_with_goes_apart_and_once():
    program = replace(EMPTY, steps=(router(PAYLOAD), router(b"other"), router(PAYLOAD)))
    steps, _, _, _, payloads = understood(calls.call(EXECUTOR, program))
    assert payloads == (PAYLOAD, b"other")
    assert [each[-1] for each in steps] == [number_word(0), number_word(1), number_word(0)]


@pytest.mark.parametrize(
    "program",
    [
        replace(EMPTY, steps=(Step(StepKind.PULL, ONE),) * (calls.MAX_STEPS + 1)),
        replace(EMPTY, outputs=(Output(ONE, TokenAmount(0)),) * (calls.MAX_OUTPUTS + 1)),
        replace(EMPTY, steps=(Step(StepKind.PULL, ONE, data=bytes(calls.MAX_DATA + 1)),)),
        replace(EMPTY, steps=(router(bytes(calls.MAX_PAYLOAD + 1)),)),
        replace(EMPTY, steps=tuple(map(router, (b"1", b"2", b"3")))),
        replace(EMPTY, steps=(Step(StepKind.PULL, ONE, amount=-1),)),
        replace(EMPTY, steps=(Step(StepKind.PULL, ONE, limit=ALL + 1),)),
        replace(EMPTY, last_block=-1),
    ],
)
def test_a_program_that_the_contract_would_not_take_is_not_encoded(program: Program):
    with pytest.raises(Invalid):
        calls.call(EXECUTOR, program)


def test_the_bounds_are_the_contract_s():
    assert constant("MAX_STEPS") == calls.MAX_STEPS
    assert constant("MAX_DOORS") == calls.MAX_DOORS
    assert constant("MAX_PAYLOAD") == calls.MAX_PAYLOAD
    for text, count in [
        ("outputs: DynArray[Output, %d]", calls.MAX_OUTPUTS),
        ("payloads: DynArray[Bytes[MAX_PAYLOAD], %d]", calls.MAX_PAYLOADS),
        ("permits: DynArray[Permit, %d]", calls.MAX_PERMITS),
        ("selectors: DynArray[bytes4, %d]", calls.MAX_SELECTORS),
        ("tokens: DynArray[address, %d]", calls.MAX_SWEPT),
        ("callers: DynArray[address, %d]", artifact.MAX_CALLERS),
        ("data: Bytes[%d]", calls.MAX_DATA),
    ]:
        assert text % count in SOURCE


def test_the_kinds_of_steps_are_the_contract_s():
    assert all(constant(kind.name) == kind for kind in StepKind)


def test_every_name_is_one_of_the_contract_s_interface():
    def signature(entry: Any) -> str:
        def typed(part: Any) -> str:
            inner = part["type"]
            if inner.startswith("tuple"):
                return f"({','.join(map(typed, part['components']))}){inner.removeprefix('tuple')}"
            return str(inner)

        return f"{entry['name']}({','.join(map(typed, entry['inputs']))})"

    abi = artifact.load().abi
    functions = {selector(signature(each)) for each in abi if each["type"] == "function"}
    events = {topic(signature(each)) for each in abi if each["type"] == "event"}
    ours = {value for name, value in vars(calls).items() if name.isupper() and isinstance(value, bytes)}
    assert {
        each for each in ours if len(each) == 4 and each not in {calls._RETURN_CODE, calls._ERROR_STRING}
    } <= functions
    assert {calls.EXECUTED, calls.PROFIT, calls.STEP_FAILED} <= events


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (
            calls.authorize(
                EXECUTOR,
                [
                    calls.Permit(ONE, frozenset({StepKind.SWAP_UNISWAP_V3, StepKind.FLASH_UNISWAP_V3}), b"\x07" * WORD),
                    calls.Permit(TWO, frozenset()),
                ],
            ),
            encoded(
                "authorize((address,uint256,bytes32)[])",
                [(hexed(ONE), 1 << 32 | 1 << 4, b"\x07" * WORD), (hexed(TWO), 0, bytes(WORD))],
            ),
        ),
        (
            calls.authorize_selectors(EXECUTOR, ONE, [b"abcd", b"efgh"], allowed=True),
            encoded("authorize_selectors(address,bytes4[],bool)", hexed(ONE), [b"abcd", b"efgh"], True),
        ),
        (calls.set_caller(EXECUTOR, ONE, allowed=False), encoded("set_caller(address,bool)", hexed(ONE), False)),
        (calls.pause(EXECUTOR), encoded("pause()")),
        (calls.unpause(EXECUTOR), encoded("unpause()")),
        (calls.sweep(EXECUTOR, [ONE, TWO]), encoded("sweep(address[])", [hexed(ONE), hexed(TWO)])),
        (calls.transfer_ownership(EXECUTOR, ONE), encoded("transfer_ownership(address)", hexed(ONE))),
        (calls.accept_ownership(EXECUTOR), encoded("accept_ownership()")),
    ],
)
def test_an_order_is_encoded_as_any_encoder_would(order: Call, expected: bytes):
    assert order == Call(EXECUTOR, expected)


def test_an_order_that_the_contract_would_not_take_is_not_encoded():
    with pytest.raises(Invalid):
        calls.authorize(EXECUTOR, [calls.Permit(ONE, frozenset())] * (calls.MAX_PERMITS + 1))
    with pytest.raises(Invalid):
        calls.authorize_selectors(EXECUTOR, ONE, [b"abcd"] * (calls.MAX_SELECTORS + 1), allowed=True)
    with pytest.raises(Invalid):
        calls.sweep(EXECUTOR, [ONE] * (calls.MAX_SWEPT + 1))


def test_every_reason_in_the_source_has_a_meaning_and_a_line_at_its_top():
    reasons = set(re.findall(r'"executor: (\w+)"', SOURCE))
    assert {f"executor: {each}" for each in reasons} == set(calls._STRINGS)
    top = SOURCE[: SOURCE.index("struct Step")]
    assert all(re.search(rf"  {each} ", top) for each in reasons)


@pytest.mark.parametrize(
    ("data", "reason", "text"),
    [
        (said("executor: least"), Reason.SIMULATION_REVERTED, "executor: least: less came out than demanded"),
        (said("executor: paused"), Reason.PAUSED, "executor: paused: the executor is paused"),
        (said("executor: allowance"), Reason.TOKEN_BLOCKED, "executor: allowance: an allowance cannot be taken back"),
        (selector("ReturnCode(uint256)") + number_word(3), Reason.REVERTED, "return code 3"),
    ],
)
def test_what_the_executor_says_is_told(data: bytes, reason: Reason, text: str):
    assert calls.decode_revert(data) == (reason, text)


@pytest.mark.parametrize(
    "data", [b"", said("paused"), said("LOK"), selector("ReturnCode(uint256)"), b"\x08\xc3\x79\xa0"]
)
def test_what_another_contract_says_is_left_to_its_own_decoder(data: bytes):
    assert calls.decode_revert(data) is None


def test_events_are_read_in_order_and_those_of_others_passed_over():
    logs = [
        log(calls.STEP_FAILED, data=encode(["uint256", "bytes"], [4, b"why"])),
        replace(log(calls.PROFIT, ONE, data=number_word(1)), address=ONE),
        log(calls.PROFIT, TWO, data=number_word(5)),
        log(topic("Paused(address)"), ONE),
        log(calls.EXECUTED, ONE),
    ]
    assert list(calls.events(EXECUTOR, logs)) == [
        calls.StepFailed(4, b"why"),
        calls.Profit(TWO, TokenAmount(5)),
        calls.Executed(ONE),
    ]


@pytest.mark.parametrize("bad", [log(calls.PROFIT, ONE), log(calls.EXECUTED), log(calls.STEP_FAILED, data=bytes(WORD))])
def test_an_event_that_the_contract_could_not_have_written_is_refused(bad: Log):
    with pytest.raises(Invalid):
        list(calls.events(EXECUTOR, [bad]))
