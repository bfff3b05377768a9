"""Compiles the published Aave v3.6 sources with the npm build of solc, once: the result stays in the cache."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import msgspec

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.packages import Packages, Progress, exclusive, files_key, shipped_files, silent
from keeper.errors import Fatal

_CONTRACTS: Final = "@aave-dao/aave-v3-origin/src/contracts"
_WANTED: Final = (
    "helpers/AaveProtocolDataProvider",
    "helpers/LiquidationDataProvider",
    "instances/ATokenInstance",
    "instances/PoolConfiguratorInstance",
    "instances/PoolInstance",
    "instances/VariableDebtTokenInstance",
    "misc/AaveOracle",
    "misc/DefaultReserveInterestRateStrategyV2",
    "misc/PriceOracleSentinel",
    "mocks/oracle/SequencerOracle",
    "protocol/configuration/ACLManager",
    "protocol/configuration/PoolAddressesProvider",
    "protocol/libraries/logic/BorrowLogic",
    "protocol/libraries/logic/ConfiguratorLogic",
    "protocol/libraries/logic/FlashLoanLogic",
    "protocol/libraries/logic/LiquidationLogic",
    "protocol/libraries/logic/PoolLogic",
    "protocol/libraries/logic/SupplyLogic",
)
_SETTINGS: Final[dict[str, Any]] = {
    "evmVersion": "shanghai",
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none"},
    "remappings": [
        "openzeppelin-contracts/contracts/=@openzeppelin/contracts/",
        "openzeppelin-contracts-upgradeable/contracts/=@openzeppelin/contracts-upgradeable/",
        "solidity-utils/=@bgd-labs/solidity-utils/src/",
    ],
}
_SHOWN_BYTES: Final = 2_000


def origin_artifacts(packages: Packages, progress: Progress = silent) -> dict[str, Artifact]:
    """Return the compiled contracts of Aave v3.6 by name.

    Raises: Fatal when node is missing or the compiler reports an error.
    """
    key = files_key(Path(__file__), *shipped_files("origin"))
    target = packages.cache_dir / "compiled" / f"origin-{key}.json"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_suffix(".lock")):
            if not target.is_file():
                progress("compiling Aave v3.6 (once, about 20 s)")
                _save(target, _compile(packages))
                progress("compiled Aave v3.6")
    return msgspec.json.decode(target.read_bytes(), type=dict[str, Artifact])


def _compile(packages: Packages) -> dict[str, Artifact]:
    node = shutil.which("node")
    if node is None:
        raise Fatal("node is not on the PATH: compiling Aave v3.6 needs node.js 20 or later")
    sources = {f"{_CONTRACTS}/{name}.sol": packages.origin / f"{_CONTRACTS}/{name}.sol" for name in _WANTED}
    outputs = ["abi", "evm.bytecode.object", "evm.bytecode.linkReferences"]
    job = {
        "language": "Solidity",
        "sources": {name: {"content": file.read_text()} for name, file in sources.items()},
        "settings": {**_SETTINGS, "outputSelection": {name: {"*": outputs} for name in sources}},
    }
    done = subprocess.run(  # noqa: S603 - a fixed command over files that we ship
        (node, str(packages.origin.parent / "compile.cjs")),
        input=msgspec.json.encode(job),
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise Fatal(f"solc did not run:\n{done.stderr.decode(errors='replace')[-_SHOWN_BYTES:]}")
    output = msgspec.json.decode(done.stdout)
    problems = [entry["formattedMessage"] for entry in output.get("errors", ()) if entry["severity"] == "error"]
    if problems:
        raise Fatal(f"solc reports errors:\n{''.join(problems)[:_SHOWN_BYTES]}")
    return {
        name: artifact(name, made["abi"], made["evm"]["bytecode"]["object"], made["evm"]["bytecode"]["linkReferences"])
        for contracts in output["contracts"].values()
        for name, made in contracts.items()
    }


def _save(target: Path, artifacts: dict[str, Artifact]) -> None:
    staging = target.with_name(f"{target.name}.{os.getpid()}")
    staging.write_bytes(msgspec.json.encode(artifacts))
    staging.rename(target)
