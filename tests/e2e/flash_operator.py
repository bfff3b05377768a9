"""An operator with gas money and nothing else, whose executor belongs to an address with another key."""

import asyncio
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keeper.devnet.chain_file import chain_text
from keeper.devnet.devnet import Devnet
from keeper.devnet.executor import DevExecutor
from keeper.devnet.ledger import tokens_of
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.text import address_text
from tests.operator import Operator, prepare

OWNER_WEI = 10**18


@dataclass(frozen=True)
class FlashOperator:
    """An operator, and the executor that was created and authorised by the keeper's own commands."""

    operator: Operator
    executor: DevExecutor
    owner_key: Path

    @property
    def tokens(self) -> list[str]:
        """Return every token that may move on the devnet."""
        return moved(self.operator.devnet)

    async def authorize(self) -> list[dict[str, Any]]:
        """Have the owner allow what is still missing, and return what was sent."""
        found = await _command(self.operator, "authorize", "--owner-key-file", str(self.owner_key))
        return list(found["sent"])


async def equipped(devnet: Devnet, folder: Path) -> FlashOperator:
    """Prepare an operator whose account has native currency and no token at all."""
    operator = await prepare(devnet, folder, is_funded=False)
    await devnet.fund_keeper(operator.address)
    owner_key = folder / "owner-key"
    owner_key.touch(mode=0o600)
    owner_key.write_text(secrets.token_hex(32), encoding="utf-8")
    signer = Signer.from_hex(owner_key.read_text(encoding="utf-8"), SigningPolicy(0, Wei(0), 0))
    owner = address_text(signer.address)
    await devnet.chain.set_balance(owner, OWNER_WEI)
    made = await _command(operator, "deploy", "--owner", owner)
    executor = DevExecutor(
        address=made["address"], owner=owner, code_hash=made["code_hash"], from_block=made["from_block"]
    )
    operator.chain_file.write_text(chain_text(devnet, executor=executor), encoding="utf-8")
    prepared = FlashOperator(operator, executor, owner_key)
    assert await prepared.authorize()
    return prepared


async def _command(operator: Operator, *arguments: str) -> Any:
    done = await asyncio.to_thread(operator.command, "executor", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def moved(devnet: Devnet) -> list[str]:
    """Return every token that liquidations on a devnet may move."""
    found = set(tokens_of(devnet.markets.values()))
    found |= {reserve.a_token for market in devnet.markets.values() for reserve in market.reserves.values()}
    if devnet.morpho is not None:
        found |= {asset.token for asset in devnet.morpho.assets.values()}
    if devnet.venus is not None:
        found |= {reserve.v_token for reserve in devnet.venus.reserves.values()} | {devnet.venus.vai}
    return sorted(found)
