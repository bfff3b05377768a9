"""The price oracle sentinel: what holds liquidations back while a rollup's sequencer was down."""

from dataclasses import dataclass
from typing import Final

from keeper.devnet.artifacts import Artifact, aave_artifact
from keeper.devnet.chain import ADMIN, Receipt
from keeper.devnet.compiler import origin_artifacts
from keeper.devnet.market import AaveMarket
from keeper.devnet.packages import Packages

_NOBODY: Final = "0x" + "00" * 20
_SET_SENTINEL: Final = "setPriceOracleSentinel(address)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinel:
    """A market's sentinel and the sequencer feed that it asks."""

    market: AaveMarket
    address: str
    sequencer: str

    async def set_sequencer(self, *, is_down: bool, since_s: int) -> Receipt:
        """Report the sequencer down or up, and since when."""
        return await self.market.chain.send(self.sequencer, "setAnswer(bool,uint256)", is_down, since_s)

    async def is_liquidation_allowed(self) -> bool:
        """Ask the sentinel whether positions above a health factor of 0.95 may be liquidated."""
        return bool(await self.market.chain.call(self.address, "isLiquidationAllowed()(bool)"))

    async def remove(self) -> Receipt:
        """Let the market do without a sentinel again."""
        return await self.market.chain.send(self.market.provider, _SET_SENTINEL, _NOBODY)


async def set_price_oracle_sentinel(market: AaveMarket, packages: Packages, *, grace_period_s: int) -> Sentinel:
    """Give a market its package's own sentinel over its package's own mock of a sequencer feed, which says "up"."""
    chain = market.chain

    def load(name: str) -> Artifact:
        return aave_artifact(packages.core, name) if market.generation == "3.0" else origin_artifacts(packages)[name]

    sequencer = await chain.deploy(load("SequencerOracle"), ADMIN)
    address = await chain.deploy(load("PriceOracleSentinel"), market.provider, sequencer, grace_period_s)
    await chain.send(market.provider, _SET_SENTINEL, address)
    return Sentinel(market=market, address=address, sequencer=sequencer)
