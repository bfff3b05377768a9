"""What is sent to the executor, encoded by hand: whatever our own encoder would refuse to."""

from collections.abc import Sequence
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak

from keeper.domain.abi import address_word, number_word, selector
from keeper.domain.program import Output, Step
from keeper.domain.units import MAX_UINT256, Address
from tests.hostile.contracts import Done

EVER: Final = MAX_UINT256
AUTHORIZE: Final = "authorize((address,uint256,bytes32)[])"
_STEP: Final = "(uint256,address,address,address,uint256,uint256,uint256,bytes)"
_EXECUTE: Final = (f"{_STEP}[]", "(address,uint256)[]", "uint256", "uint256", "bytes[]")
_SIGNATURE: Final = selector(f"execute({','.join(_EXECUTE)})")
_ERROR: Final = selector("Error(string)")
STEP_FAILED: Final = keccak(text="StepFailed(uint256,bytes)")


def words(*values: int | Address) -> bytes:
    """Encode a step's own data."""
    return b"".join(number_word(each) if isinstance(each, int) else address_word(each) for each in values)


def call(signature: str, *values: Any) -> bytes:
    """Encode a call of a function."""
    if signature.endswith("()"):
        return selector(signature)
    arguments = parse(signature[signature.index("(") :])
    assert isinstance(arguments, TupleType)
    return selector(signature) + encode([each.to_type_str() for each in arguments.components], values)


def execution(
    steps: Sequence[Step],
    outputs: Sequence[Output],
    *,
    last_block: int = EVER,
    deadline_s: int = EVER,
    payloads: Sequence[bytes] = (),
) -> bytes:
    """Encode a program by hand: what a stranger or a thief of the hot key would send, whatever our encoder does."""
    plain = [(e.kind, e.target, e.give, e.take, e.amount, e.limit, e.gas, e.data) for e in steps]
    wanted = [(each.token, each.least) for each in outputs]
    return _SIGNATURE + encode(_EXECUTE, (plain, wanted, last_block, deadline_s, list(payloads)))


def reason_of(done: Done) -> str:
    """Return the text that a transaction reverted with, or its data where that is none."""
    if done.ok:
        return ""
    if done.output[:4] == _ERROR:
        (text,) = decode(["string"], done.output[4:])
        return str(text)
    return done.output.hex()
