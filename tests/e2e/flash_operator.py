"""An operator with gas money and nothing else, whose executor belongs to an address with another key."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeper.devnet.devnet import Devnet
from keeper.devnet.executor import DevExecutor
from keeper.devnet.ledger import tokens_of
from tests.e2e.estate import Estate, bare_estate, deployed
from tests.operator import Operator


@dataclass(frozen=True)
class FlashOperator:
    """An operator, and the executor that was created and authorised by the keeper's own commands."""

    estate: Estate
    executor: DevExecutor

    @property
    def operator(self) -> Operator:
        """Return who runs the keeper."""
        return self.estate.operator

    @property
    def tokens(self) -> list[str]:
        """Return every token that may move on the devnet."""
        return moved(self.operator.devnet)

    async def authorize(self) -> list[dict[str, Any]]:
        """Have the owner allow what is still missing, and return what was sent."""
        code, found, said = await self.estate.executor("authorize", "--owner-key-file", str(self.estate.owner_key))
        assert code == 0, said
        return list(found["sent"])


async def equipped(devnet: Devnet, folder: Path) -> FlashOperator:
    """Prepare an operator whose account has native currency and no token at all."""
    estate = await deployed(await bare_estate(devnet, folder))
    found = tomllib.loads(estate.operator.chain_file.read_text(encoding="utf-8"))["executor"]
    flash = FlashOperator(estate, DevExecutor(**found))
    assert await flash.authorize()
    return flash


def moved(devnet: Devnet) -> list[str]:
    """Return every token that liquidations on a devnet may move."""
    found = set(tokens_of(devnet.markets.values()))
    found |= {reserve.a_token for market in devnet.markets.values() for reserve in market.reserves.values()}
    if devnet.morpho is not None:
        found |= {asset.token for asset in devnet.morpho.assets.values()}
    if devnet.venus is not None:
        found |= {reserve.v_token for reserve in devnet.venus.reserves.values()} | {devnet.venus.vai}
    return sorted(found)
