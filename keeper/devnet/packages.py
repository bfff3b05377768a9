"""The pinned npm packages that carry the node and the published contracts, installed once into a cache folder."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from keeper.errors import Fatal

Progress: TypeAlias = Callable[[str], None]
PackageSet: TypeAlias = Literal["core", "origin", "morpho", "venus", "perp", "uniswap", "balancer", "postgres"]

_SHIPPED: Final = Path(__file__).parent / "packages"
_SHOWN_LINES: Final = 12
_KEY_LENGTH: Final = 12
_NODE_BINARY: Final = Path("@foundry-rs/anvil-linux-amd64/bin/anvil")


def silent(_line: str) -> None:
    """Swallow a progress line: the default where nobody watches."""


@dataclass(frozen=True, slots=True)
class Packages:
    """Where the installed packages are: `core` has the node, Aave v3.0 and Chainlink, `origin` Aave v3.6 and solc."""

    cache_dir: Path

    @property
    def core(self) -> Path:
        """Return the `node_modules` folder of the core set."""
        return _installed(self.cache_dir, "core") / "node_modules"

    @property
    def origin(self) -> Path:
        """Return the `node_modules` folder of the origin set."""
        return self.folder("origin")

    def folder(self, name: PackageSet) -> Path:
        """Return the `node_modules` folder of a set."""
        return _installed(self.cache_dir, name) / "node_modules"


def default_cache_dir() -> Path:
    """Return the cache folder to use when the settings name none."""
    return Path.home() / ".cache" / "keeper"


def ensure_packages(
    cache_dir: Path, progress: Progress = silent, *, sets: tuple[PackageSet, ...] = ("core",)
) -> Packages:
    """Install the named package sets into the cache unless they are there, and say where they are.

    Raises: Fatal when npm is missing or fails.
    """
    for name in sets:
        target = _installed(cache_dir, name)
        if target.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(target.with_suffix(".lock")):
            if not target.is_dir():
                progress(f"installing the {name} packages from npm (once)")
                _install(_SHIPPED / name, target)
                progress(f"installed the {name} packages")
    return Packages(cache_dir)


def find_anvil(packages: Packages) -> Path:
    """Return the `anvil` of the PATH, else the one in the npm package, started directly without its node wrapper.

    Raises: Fatal when neither exists, as on a platform that the package set does not cover.
    """
    on_path = shutil.which("anvil")
    binary = Path(on_path) if on_path else packages.core / _NODE_BINARY
    if not binary.is_file():
        raise Fatal("no anvil: the npm package set has linux-x64 only; elsewhere put foundry's anvil on the PATH")
    return binary


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock file; the kernel frees it when its holder dies, so it can never be left behind locked."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def files_key(*files: Path) -> str:
    """Return a short name for the content of some files."""
    digest = hashlib.sha256()
    for file in files:
        content = file.read_bytes()
        digest.update(f"{file.name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:_KEY_LENGTH]


def shipped_files(name: PackageSet) -> tuple[Path, ...]:
    """Return the files that define a package set, in a fixed order."""
    return tuple(sorted(file for file in (_SHIPPED / name).iterdir() if file.is_file()))


def _installed(cache_dir: Path, name: PackageSet) -> Path:
    return cache_dir / "packages" / f"{name}-{files_key(*shipped_files(name))}"


def _install(shipped: Path, target: Path) -> None:
    """Install beside the target and rename, so that a half-made folder is never taken for a finished one."""
    npm = shutil.which("npm")
    if npm is None:
        raise Fatal("npm is not on the PATH: the local chain needs node.js 20 or later to fetch its packages")
    staging = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(shipped, staging)
    command = (npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    done = subprocess.run(  # noqa: S603 - a fixed command over files that we ship
        command, cwd=staging, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(staging, ignore_errors=True)
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
        raise Fatal(f"npm ci failed with exit code {done.returncode}:\n{last}")
    _prune(staging)
    staging.rename(target)


def _prune(staging: Path) -> None:
    """Delete what the set's package.json calls large and never read, so that the cache stays small."""
    described = json.loads((staging / "package.json").read_bytes())
    for name in described.get("prune", ()):
        shutil.rmtree(staging / "node_modules" / name, ignore_errors=True)
