"""What is known of a market while it is being built, and what each contract generation has to add."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from keeper.devnet.assets import DevAsset
from keeper.devnet.chain import DevChain, Tx
from keeper.devnet.linker import Linker
from keeper.devnet.spec import MarketSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The parts that later steps of a deployment refer to."""

    chain: DevChain
    linker: Linker
    spec: MarketSpec
    assets: dict[str, DevAsset]
    provider: str
    pool: str
    configurator: str

    def token(self, symbol: str) -> str:
        """Return a reserve's underlying token."""
        return self.assets[symbol].token


class Blueprint(ABC):
    """The steps in which one generation of the contracts differs from the others."""

    min_decimals: int
    liquidation_view: str | None

    @abstractmethod
    async def implementations(self, linker: Linker, provider: str) -> tuple[str, str]:
        """Deploy the pool and the configurator that the provider's proxies will point to."""

    @abstractmethod
    async def listings(self, site: Site) -> list[Tx]:
        """Deploy token implementations and return the calls that list every reserve."""

    @abstractmethod
    def emodes(self, site: Site) -> list[Tx]:
        """Return the calls that define the efficiency modes."""

    @abstractmethod
    def flash_premium(self, site: Site) -> Tx:
        """Return the call that sets the flash loan premium."""
