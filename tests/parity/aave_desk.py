"""What Aave's parity tests send with beyond what every desk has."""

from dataclasses import dataclass

from keeper.devnet.market import AaveMarket
from tests.parity.desk import Desk


@dataclass(frozen=True, slots=True)
class AaveDesk(Desk[AaveMarket]):
    """One Aave market on the node."""

    async def open(self) -> None:
        """Give the liquidator native currency, and all tokens that it could ever repay."""
        await self.enter()
        reserves = self.market.reserves.values()
        await self.give([(each.token, each.decimals) for each in reserves], self.market.pool)

    async def configure(self, signature: str, *args: object, to: str | None = None) -> None:
        """Change the market as its administrator."""
        await self.chain.send(to or self.market.configurator, signature, *args)
