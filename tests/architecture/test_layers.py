"""Do dependencies point one way? The contracts of pyproject.toml, on the program and on plants that break them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A small program that keeps the contracts; parts that it leaves out are grown empty.
SOUND = {
    "__init__.py": "",
    "__main__.py": "import keeper.cli\n",
    "app.py": "import keeper.daemon, keeper.protocols.lender.rules, keeper.settings\n",
    "chain/__init__.py": "",
    "chain/door.py": "import asyncio_throttle, tenacity, web3\n",
    "cli.py": "import keeper.app, keeper.devnet\n",
    "daemon.py": "import keeper.scanner\n",
    "devnet/__init__.py": "",
    "devnet/node.py": "import keeper.errors, web3\n",
    "domain/__init__.py": "",
    "engine/__init__.py": "import keeper.domain, numpy\n",
    "errors.py": "import enum\n",
    "execution/__init__.py": "",
    "executor/__init__.py": "",
    "executor/calls.py": "import keeper.domain\n",
    "execution/signer.py": "import coincurve, eth_account, keeper.chain.door\n",
    "observe/__init__.py": "import aiohttp\n",
    "protocols/__init__.py": "",
    "protocols/lender/__init__.py": "",
    "protocols/lender/calls.py": "import keeper.protocols.lender.contracts\n",
    "protocols/lender/contracts.py": "import eth_abi\n",
    "protocols/lender/programs.py": "import keeper.domain\n",
    "protocols/lender/reader.py": "import asyncio\n",
    "protocols/lender/rules.py": "import keeper.domain\n",
    "protocols/stranger/__init__.py": "",
    "protocols/stranger/calls.py": "",
    "protocols/stranger/rules.py": "",
    "scanner.py": "import keeper.chain.door, keeper.engine\n",
    "settings.py": "import os, pydantic_settings\n",
    "store/__init__.py": "import sqlalchemy\n",
}

PLANTS = [
    ("layers", "domain/value.py", "import keeper.engine\n"),
    ("layers", "engine/plan.py", "import keeper.protocols.lender.rules\n"),
    ("layers", "chain/rpc.py", "import keeper.store\n"),
    ("layers", "observe/logs.py", "import keeper.daemon\n"),
    ("layers", "surprise.py", ""),
    ("strangers", "protocols/stranger/reader.py", "import keeper.protocols.lender.rules\n"),
    ("pure", "domain/value.py", "import time\n"),
    ("pure", "engine/plan.py", "import asyncio\n"),
    ("pure", "engine/plan.py", "import keeper.store\n"),
    ("pure", "protocols/lender/rules.py", "import structlog\n"),
    ("pure", "protocols/lender/contracts.py", "import web3\n"),
    ("pure", "protocols/lender/programs.py", "import aiohttp\n"),
    ("pure", "executor/calls.py", "import time\n"),
    ("retries", "execution/sender.py", "import tenacity\n"),
    ("network", "execution/sender.py", "import web3\n"),
    ("keys", "chain/rpc.py", "import eth_account\n"),
    ("settings", "cli.py", "import pydantic_settings\n"),
    ("devnet", "devnet/market.py", "import keeper.domain\n"),
]


def lint(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    config = str(ROOT / "pyproject.toml")
    return subprocess.run(
        [sys.executable, "-c", command, "--config", config, "--no-cache", "--no-logo", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def parts() -> set[str]:
    """Return every part of the program that the layers name."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = next(contract["layers"] for contract in tools["importlinter"]["contracts"] if contract["id"] == "layers")
    return set(re.findall(r"\w+", " ".join(layers)))


def grow(root: Path, files: dict[str, str]) -> Path:
    grown = {name.removesuffix(".py").partition("/")[0] for name in files}
    empty = {f"{part}.py": "" for part in parts() - grown}
    for name, text in (files | empty).items():
        path = root / "keeper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_program_keeps_every_contract():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_sound_program_keeps_every_contract(tmp_path: Path):
    done = lint(grow(tmp_path, SOUND))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("contract", "name", "text"), PLANTS)
def test_a_planted_import_breaks_its_contract(contract: str, name: str, text: str, tmp_path: Path):
    done = lint(grow(tmp_path, SOUND | {name: text}), "--contract", contract)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 broken" in done.stdout
