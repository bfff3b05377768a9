"""Published bytecode: Hardhat artifacts of Aave, Chainlink's own format, and the compiler's output."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from keeper.errors import Fatal

_AAVE: Final = Path("@aave/core-v3/artifacts/contracts")
_CHAINLINK: Final = Path("@chainlink/contracts/abi/v0.6")
_ADDRESS_DIGITS: Final = 40


class Artifact(msgspec.Struct, frozen=True):
    """Creation code with what it takes to deploy it."""

    name: str
    bytecode: str
    links: dict[str, tuple[int, ...]]
    constructor: tuple[str, ...]
    errors: dict[str, str]

    def creation(self, args: tuple[object, ...], libraries: Mapping[str, str]) -> str:
        """Return the creation calldata: linked code, then the constructor's arguments.

        Raises: Fatal when a library that the code links is not given.
        """
        code = self.bytecode
        for library, starts in self.links.items():
            if library not in libraries:
                raise Fatal(f"{self.name} links {library}, which is not deployed")
            address = libraries[library].removeprefix("0x").lower()
            for start in starts:
                code = code[: 2 * start] + address + code[2 * start + _ADDRESS_DIGITS :]
        return "0x" + code + encode(self.constructor, args).hex()


def aave_artifact(node_modules: Path, name: str) -> Artifact:
    """Load a contract of the published Aave v3.0 package; names of deployable contracts are unique there."""
    found = sorted((node_modules / _AAVE).rglob(f"{name}.sol/{name}.json"))
    if not found:
        raise Fatal(f"the Aave package has no artifact named {name}")
    raw = msgspec.json.decode(found[0].read_bytes())
    return artifact(name, raw["abi"], raw["bytecode"], raw["linkReferences"])


def chainlink_artifact(node_modules: Path, name: str) -> Artifact:
    """Load a contract of the published Chainlink package."""
    output = msgspec.json.decode((node_modules / _CHAINLINK / f"{name}.json").read_bytes())["compilerOutput"]
    code = output["evm"]["bytecode"]
    return artifact(name, output["abi"], code["object"], code["linkReferences"])


def artifact(name: str, abi: list[dict[str, Any]], bytecode: str, references: dict[str, Any]) -> Artifact:
    """Build an artifact from an ABI, creation code and the compiler's link references."""
    links = {
        library: tuple(int(place["start"]) for place in places)
        for file in references.values()
        for library, places in file.items()
    }
    constructor: tuple[str, ...] = ()
    errors: dict[str, str] = {}
    for entry in abi:
        types = tuple(_type(parameter) for parameter in entry.get("inputs", ()))
        if entry["type"] == "constructor":
            constructor = types
        elif entry["type"] == "error":
            selector = keccak(text=f"{entry['name']}({','.join(types)})")[:4]
            errors["0x" + selector.hex()] = entry["name"]
    return Artifact(name, bytecode.removeprefix("0x"), links, constructor, errors)


def _type(parameter: dict[str, Any]) -> str:
    kind = str(parameter["type"])
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(_type(part) for part in parameter["components"])
    return f"({inner}){kind.removeprefix('tuple')}"
