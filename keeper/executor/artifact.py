"""What is deployed: the compiled contract, and the hash by which a chain file pins it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import msgspec
from eth_utils.crypto import keccak

from keeper.domain.abi import WORD, address_word, number_word
from keeper.domain.units import ZERO_ADDRESS, Address
from keeper.errors import Invalid

MAX_CALLERS: Final = 8
"""How many callers the constructor takes; more can be set later."""
_FILE: Final = "executor.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """The compiled contract. `runtime` is what lies on chain: nothing in it depends on who deploys."""

    abi: Sequence[Mapping[str, Any]]
    creation: bytes
    runtime: bytes
    compiler: str

    @property
    def code_hash(self) -> bytes:
        """Return the hash of the code on chain."""
        return keccak(self.runtime)

    def creation_data(self, owner: Address, callers: Sequence[Address] = ()) -> bytes:
        """Return the data of the transaction that deploys the contract.

        Raises: Invalid where the constructor would refuse.
        """
        if owner == ZERO_ADDRESS or ZERO_ADDRESS in callers or len(callers) > MAX_CALLERS:
            raise Invalid(f"the executor has an owner and at most {MAX_CALLERS} callers, none of them zero")
        words = (address_word(owner), number_word(2 * WORD), number_word(len(callers)), *map(address_word, callers))
        return self.creation + b"".join(words)


def load() -> Artifact:
    """Return the artifact that comes with this package."""
    raw = msgspec.json.decode(resources.files(__package__).joinpath(_FILE).read_bytes())
    compiler = raw["compiler"]
    return Artifact(
        abi=raw["abi"],
        creation=bytes.fromhex(raw["creation"][2:]),
        runtime=bytes.fromhex(raw["runtime"][2:]),
        compiler=f"{compiler['name']} {compiler['version']}",
    )
