"""The contracts that stand beside these tests, compiled once."""

from functools import cache
from pathlib import Path

from vyper.compiler import compile_code  # type: ignore[import-untyped]

CONTRACTS = Path(__file__).parent / "contracts"


@cache
def creation(name: str) -> bytes:
    """Return a contract's creation code."""
    source = (CONTRACTS / f"{name}.vy").read_text(encoding="utf-8")
    return bytes.fromhex(str(compile_code(source, output_formats=["bytecode"])["bytecode"]).removeprefix("0x"))
