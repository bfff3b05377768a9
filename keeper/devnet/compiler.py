"""Compiles published sources with the npm build of solc, once: the result stays in the cache."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from keeper.devnet.artifacts import Artifact, artifact
from keeper.devnet.packages import Packages, PackageSet, Progress, exclusive, files_key, shipped_files, silent
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
_MORPHO_MOCKS: Final = "@morpho-org/morpho-blue/src/mocks"
_MORPHO_SETTINGS: Final[dict[str, Any]] = {
    "evmVersion": "paris",
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none"},
}
_BALANCER: Final = "@balancer-labs"
_BALANCER_SETTINGS: Final[dict[str, Any]] = {
    "optimizer": {"enabled": True, "runs": 1},
    "metadata": {"bytecodeHash": "none"},
}
_SHOWN_BYTES: Final = 2_000


@dataclass(frozen=True, slots=True)
class _Job:
    """What to compile of a package set: files of its `node_modules`, and the compiler's settings."""

    packages: PackageSet
    title: str
    sources: tuple[str, ...]
    settings: dict[str, Any]


_ORIGIN: Final = _Job("origin", "Aave v3.6", tuple(f"{_CONTRACTS}/{name}.sol" for name in _WANTED), _SETTINGS)
_MORPHO: Final = _Job(
    "morpho",
    "Morpho's mocks",
    tuple(f"{_MORPHO_MOCKS}/{name}.sol" for name in ("IrmMock", "OracleMock")),
    _MORPHO_SETTINGS,
)


_VAULT: Final = _Job(
    "balancer",
    "Balancer v2",
    (
        f"{_BALANCER}/v2-vault/contracts/Vault.sol",
        f"{_BALANCER}/v2-vault/contracts/Authorizer.sol",
        f"{_BALANCER}/v2-pool-weighted/contracts/WeightedPool.sol",
        f"{_BALANCER}/v2-pool-stable/contracts/StablePool.sol",
    ),
    _BALANCER_SETTINGS,
)


def origin_artifacts(packages: Packages, progress: Progress = silent) -> dict[str, Artifact]:
    """Return the compiled contracts of Aave v3.6 by name.

    Raises: Fatal when node is missing or the compiler reports an error.
    """
    return _artifacts(_ORIGIN, packages, progress)


def morpho_mocks(packages: Packages, progress: Progress = silent) -> dict[str, Artifact]:
    """Return Morpho's own compiled mocks by name: an oracle, and an interest model that depends on nothing but usage.

    Raises: Fatal when node is missing or the compiler reports an error.
    """
    return _artifacts(_MORPHO, packages, progress)


def balancer_artifacts(packages: Packages, progress: Progress = silent) -> dict[str, Artifact]:
    """Return the compiled contracts of Balancer v2 by name: the vault, its authorizer, and two kinds of pools.

    Raises: Fatal when node is missing or the compiler reports an error.
    """
    return _artifacts(_VAULT, packages, progress)


def _artifacts(job: _Job, packages: Packages, progress: Progress) -> dict[str, Artifact]:
    key = files_key(Path(__file__), *shipped_files(job.packages))
    target = packages.cache_dir / "compiled" / f"{job.packages}-{key}.json"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_suffix(".lock")):
            if not target.is_file():
                progress(f"compiling {job.title} (once)")
                _save(target, _compile(job, packages))
                progress(f"compiled {job.title}")
    return msgspec.json.decode(target.read_bytes(), type=dict[str, Artifact])


def _compile(job: _Job, packages: Packages) -> dict[str, Artifact]:
    node = shutil.which("node")
    if node is None:
        raise Fatal(f"node is not on the PATH: compiling {job.title} needs node.js 20 or later")
    folder = packages.folder(job.packages)
    sources = {name: folder / name for name in job.sources}
    outputs = ["abi", "evm.bytecode.object", "evm.bytecode.linkReferences"]
    request = {
        "language": "Solidity",
        "sources": {name: {"content": file.read_text()} for name, file in sources.items()},
        "settings": {**job.settings, "outputSelection": {name: {"*": outputs} for name in sources}},
    }
    done = subprocess.run(  # noqa: S603 - a fixed command over files that we ship
        (node, str(folder.parent / "compile.cjs")),
        input=msgspec.json.encode(request),
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
