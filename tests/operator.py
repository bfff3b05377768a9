"""A keeper in its operator's hands: a devnet, a chain file, a key, and the process itself."""

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from keeper.demo import free_port
from keeper.devnet.chain_file import chain_text
from keeper.devnet.devnet import Devnet
from keeper.devnet.process import keeper_environment
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.text import address_text

FUNDS_USD = 50_000_000


@dataclass(frozen=True)
class Operator:
    """What an operator has prepared before starting a keeper on a devnet."""

    devnet: Devnet
    folder: Path
    chain_file: Path
    key_file: Path
    address: str
    http_port: int

    def environment(self, *, is_live: bool = True, **settings: str) -> dict[str, str]:
        """Return the keeper's whole environment."""
        return keeper_environment(
            chain_file=self.chain_file,
            rpc_url=settings.pop("RPC_URLS", self.devnet.node.http_url),
            state_dir=self.folder / "state",
            http_port=self.http_port,
            key_file=self.key_file if is_live else None,
            **{"APPROVAL_USD": str(FUNDS_USD)} | settings,
        )

    def command(self, *arguments: str, is_live: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the console script to its end."""
        return run_keeper(*arguments, environment=self.environment(is_live=is_live, **settings))


def run_keeper(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -m keeper` with exactly this environment."""
    return subprocess.run(
        [sys.executable, "-m", "keeper", *arguments],
        env={"PATH": os.defpath} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def prepare(devnet: Devnet, folder: Path, *, is_funded: bool = True) -> Operator:
    """Write the chain file of every market on the devnet, make a key, and fund it with what borrowers owe."""
    operator = write_files(devnet, folder)
    if is_funded:
        amounts = {
            name: market.spec.reserve(name).amount(FUNDS_USD)
            for market in devnet.markets.values()
            for name in market.reserves
        }
        await devnet.fund_keeper(operator.address, amounts)
    return operator


def write_files(devnet: Devnet, folder: Path) -> Operator:
    """Write the chain file and a key that nobody has used."""
    chain_file, key_file = folder / "local.toml", folder / "key"
    chain_file.write_text(chain_text(devnet))
    key = secrets.token_hex(32)
    key_file.touch(mode=0o600)
    key_file.write_text(key)
    address = address_text(Signer.from_hex(key, SigningPolicy(31_337, Wei(0), 0)).address)
    return Operator(devnet, folder, chain_file, key_file, address, free_port())
