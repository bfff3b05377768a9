"""Small contracts over published code: compiled here with the solc of a package set, and the keeper's own test borrower."""

import shutil
import subprocess
from functools import cache

import msgspec

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.chain import DevChain
from keeper.devnet.packages import Packages
from tests.unit.venues.creations import CONTRACTS, creation

STANDARDS = "Standards.sol"


@cache
def standards(packages: Packages) -> dict[str, Artifact]:
    """Compile what stands on OpenZeppelin's published contracts."""
    node = shutil.which("node")
    assert node is not None
    request = {
        "language": "Solidity",
        "sources": {STANDARDS: {"content": (CONTRACTS / STANDARDS).read_text(encoding="utf-8")}},
        "settings": {
            "evmVersion": "cancun",
            "optimizer": {"enabled": True, "runs": 200},
            "outputSelection": {STANDARDS: {"*": ["abi", "evm.bytecode.object", "evm.bytecode.linkReferences"]}},
        },
    }
    compiler = packages.origin.parent / "compile.cjs"
    done = subprocess.run((node, str(compiler)), input=msgspec.json.encode(request), capture_output=True, check=True)
    output = msgspec.json.decode(done.stdout)
    assert not [each for each in output.get("errors", ()) if each["severity"] == "error"], output["errors"]
    return {
        name: artifact(name, made["abi"], made["evm"]["bytecode"]["object"], {})
        for name, made in output["contracts"][STANDARDS].items()
    }


async def deploy_vyper(chain: DevChain, name: str, *args: object, types: tuple[str, ...] = ()) -> str:
    """Deploy one of the test contracts."""
    return await chain.deploy(Artifact(name, creation(name).hex(), {}, types, {}), *args)
