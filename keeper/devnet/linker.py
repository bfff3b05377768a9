"""Deploys published contracts by name, with the libraries that they link."""

from collections.abc import Callable

from keeper.devnet.artifacts import Artifact
from keeper.devnet.chain import DevChain


class Linker:
    """Deploy contracts of one package; a library is deployed once, when the first contract links it."""

    def __init__(self, chain: DevChain, load: Callable[[str], Artifact]) -> None:
        """Keep where to deploy and how to find a contract by its name."""
        self.chain = chain
        self._load = load
        self._libraries: dict[str, str] = {}

    async def deploy(self, name: str, *args: object) -> str:
        """Deploy a contract and return its address."""
        artifact = self._load(name)
        for library in artifact.links:
            if library not in self._libraries:
                self._libraries[library] = await self.deploy(library)
        return await self.chain.deploy(artifact, *args, libraries=self._libraries)
