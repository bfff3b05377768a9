"""An operator with a cold owner, whose key lies in a file of its own, and perhaps an executor."""

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from typer.testing import CliRunner, Result

from keeper.cli import app
from keeper.devnet.devnet import Devnet, DevnetSpec
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.text import address_text
from tests.operator import Operator, prepare

SPEC: Final = DevnetSpec(generations=("3.0",), others=("morpho", "uniswap"), n_positions=12)
NOTHING: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Estate:
    """What such an operator has, and what he can do."""

    operator: Operator
    owner: str
    owner_key: Path
    address: str = ""

    @property
    def devnet(self) -> Devnet:
        return self.operator.devnet

    async def run(
        self, *arguments: str, is_live: bool = True, settings: Mapping[str, str] = NOTHING
    ) -> tuple[int, Any, str]:
        """Run `keeper …` with --json, and return its exit code, what it printed, and what it said besides."""
        done = await self.command(*arguments, "--json", is_live=is_live, settings=settings)
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    async def command(self, *arguments: str, is_live: bool = True, settings: Mapping[str, str] = NOTHING) -> Result:
        """Run `keeper …` in this process; no secret may be in what it says."""
        unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("KEEPER_")}
        environment = {**unset, **self.operator.environment(is_live=is_live)}
        environment |= {f"KEEPER_{name}": value for name, value in settings.items()}
        done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments], env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert self.operator.key_file.read_text() not in done.output
        assert self.owner_key.read_text() not in done.output
        return done

    async def executor(
        self, *arguments: str, is_live: bool = True, settings: Mapping[str, str] = NOTHING
    ) -> tuple[int, Any, str]:
        return await self.run("executor", *arguments, is_live=is_live, settings=settings)

    async def signed_elsewhere(self, transactions: list[dict[str, Any]]) -> None:
        """Send printed transactions as their signer, as a hardware wallet would."""
        chain = self.devnet.chain
        for each in transactions:
            async with chain.impersonate(each["from"]):
                request = {key: each[key] for key in ("from", "to", "data")}
                receipt = await chain.receipt(await chain.rpc("eth_sendTransaction", request))
            assert int(receipt["status"], 16) == 1


async def bare_estate(devnet: Devnet, folder: Path) -> Estate:
    """Make an operator who has gas money, and no executor yet."""
    operator = await prepare(devnet, folder, is_funded=False)
    owner_key = folder / "owner"
    owner_key.touch(mode=0o600)
    owner_key.write_text(secrets.token_hex(32))
    owner = Signer.from_hex(owner_key.read_text(), SigningPolicy(0, Wei(0), 0)).address
    for each in (operator.address, address_text(owner)):
        await devnet.fund_keeper(each)
    return Estate(operator, address_text(owner), owner_key)


async def deployed(bare: Estate) -> Estate:
    """Create an executor that may do nothing yet."""
    code, made, said = await bare.executor("deploy", "--owner", bare.owner)
    assert code == 0, said
    keep(bare.operator, made)
    return replace(bare, address=made["address"])


def keep(operator: Operator, made: dict[str, Any]) -> None:
    """Put what `deploy` printed into the chain file."""
    pinned = "".join(f'{key} = "{made[key]}"\n' for key in ("address", "code_hash", "owner"))
    table = f"[executor]\n{pinned}from_block = {made['from_block']}\n"
    text = operator.chain_file.read_text()
    operator.chain_file.write_text(text.replace("[exchange]", f"{table}[exchange]", 1))


def verdicts(found: dict[str, Any], status: str) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in found["checks"] if each["status"] == status}
