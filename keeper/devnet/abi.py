"""Calls written as signatures: `"balanceOf(address)(uint256)"` names a function, its arguments and its results."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eth_abi.abi import decode, encode
from eth_abi.grammar import TupleType, parse
from eth_utils.crypto import keccak

from keeper.errors import Fatal


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's selector with the types of its arguments and results."""

    name: str
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@lru_cache(maxsize=512)
def parsed(text: str) -> Signature:
    """Parse `name(types)` or `name(types)(types)`."""
    start = text.index("(")
    end = _closing(text, start) + 1
    inputs, outputs = text[start:end], text[end:]
    return Signature(
        name=text[:start],
        selector=keccak(text=text[:end])[:4],
        inputs=members(inputs),
        outputs=members(outputs) if outputs else (),
    )


@lru_cache(maxsize=512)
def members(types: str) -> tuple[str, ...]:
    """Split `(a,(b,c)[],d)` into its top-level types."""
    if types == "()":
        return ()
    tree = parse(types)
    if not isinstance(tree, TupleType):
        raise Fatal(f"not a list of types: {types}")
    return tuple(part.to_type_str() for part in tree.components)


def call_data(signature: str, *args: object) -> str:
    """Return the calldata of a call."""
    wanted = parsed(signature)
    return "0x" + (wanted.selector + encode(wanted.inputs, args)).hex()


def result(signature: str, returned: str) -> Any:
    """Decode what a call returned: the value itself when there is exactly one."""
    values = decode(parsed(signature).outputs, bytes.fromhex(returned.removeprefix("0x")))
    return values[0] if len(values) == 1 else values


def revert_reason(data: str, errors: dict[str, str]) -> str:
    """Say why a call reverted: the string, the panic code, or the custom error's name."""
    selector, payload = data[:10], data[10:]
    if selector == "0x08c379a0":
        return f'"{decode(["string"], bytes.fromhex(payload))[0]}"'
    if selector == "0x4e487b71":
        return f"panic {int(payload, 16):#x}"
    return errors.get(selector, data or "no reason")


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise Fatal(f"unbalanced signature: {text}")
