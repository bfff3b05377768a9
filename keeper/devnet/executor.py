"""Deploys the executor as it is shipped, for an owner whose key the node does not have."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from eth_utils.crypto import keccak

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.chain import DevChain

Permit = tuple[str, int, bytes]
"""A contract, the kinds of steps that it may be the target of as bits, and the hash of the code of its pools."""

_SHIPPED: Final = Path(__file__).parents[1] / "executor" / "executor.json"
_AUTHORIZE: Final = "authorize((address,uint256,bytes32)[])"


@dataclass(frozen=True, slots=True, kw_only=True)
class DevExecutor:
    """A deployed executor. Its owner is the cold address that profit goes to."""

    address: str
    owner: str
    code_hash: str
    from_block: int


def executor_artifact() -> Artifact:
    """Load the compiled contract."""
    raw = msgspec.json.decode(_SHIPPED.read_bytes())
    return artifact("Executor", raw["abi"], raw["creation"], {})


async def deploy_executor(
    chain: DevChain, *, owner: str, callers: Sequence[str], permits: Iterable[Permit] = ()
) -> DevExecutor:
    """Deploy an executor, and have its owner authorise what it may call."""
    from_block = await chain.block_number() + 1
    address = await chain.deploy(executor_artifact(), owner, list(callers))
    async with chain.impersonate(owner):
        await chain.send(address, _AUTHORIZE, list(permits), sender=owner)
    code = str(await chain.rpc("eth_getCode", address, "latest"))
    code_hash = "0x" + keccak(hexstr=code).hex()
    return DevExecutor(address=address, owner=owner, code_hash=code_hash, from_block=from_block)
