"""The package sets: where each is, what names it, and what is thrown away once it is installed."""

import json
from pathlib import Path
from typing import get_args

import pytest

from keeper.devnet import packages
from keeper.devnet.packages import Packages, PackageSet, files_key, shipped_files

SETS: tuple[PackageSet, ...] = get_args(PackageSet)
COMPILED = {"origin", "morpho", "balancer"}


def plant(root: Path, *files: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def left(root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}


def test_every_set_has_a_folder_of_its_own_that_its_files_name(tmp_path: Path):
    found = Packages(tmp_path)
    folders = {name: found.folder(name) for name in SETS}
    assert len(set(folders.values())) == len(SETS)
    for name, folder in folders.items():
        assert folder == tmp_path / "packages" / f"{name}-{files_key(*shipped_files(name))}" / "node_modules"
    assert (found.core, found.origin) == (folders["core"], folders["origin"])


def test_a_set_whose_files_change_gets_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plant(tmp_path, "core/package.json")
    monkeypatch.setattr(packages, "_SHIPPED", tmp_path)
    before = Packages(tmp_path).folder("core")
    assert Packages(tmp_path).folder("core") == before
    (tmp_path / "core" / "package.json").write_text("{}", encoding="utf-8")
    assert Packages(tmp_path).folder("core") != before


@pytest.mark.parametrize("name", SETS)
def test_what_a_set_ships_is_named_in_full(name: PackageSet):
    shipped = {file.name for file in shipped_files(name)}
    assert shipped >= {"package.json", "package-lock.json", ".npmrc"}
    assert ("compile.cjs" in shipped) is (name in COMPILED)


@pytest.mark.parametrize("name", SETS)
def test_a_lock_names_no_registry(name: PackageSet):
    for file in shipped_files(name):
        assert "registry.npm" not in file.read_text(encoding="utf-8")
        assert '"resolved"' not in file.read_text(encoding="utf-8")


def test_pruning_deletes_what_the_set_never_reads_and_nothing_else(tmp_path: Path):
    kept = {"package.json", "node_modules/small/a.json", "node_modules/@org/large/b.json", "large/c.json"}
    plant(tmp_path, *kept, "node_modules/large/d.json", "node_modules/large/in/e.json")
    plant(tmp_path, "node_modules/@org/large/tests/f.json")
    described = {"prune": ["large", "@org/large/tests", "never/there"]}
    (tmp_path / "package.json").write_text(json.dumps(described), encoding="utf-8")
    packages._prune(tmp_path)
    assert left(tmp_path) == kept


def test_a_set_that_names_nothing_large_is_kept_whole(tmp_path: Path):
    kept = {"package.json", "node_modules/small/a.json"}
    plant(tmp_path, *kept)
    (tmp_path / "package.json").write_text("{}", encoding="utf-8")
    packages._prune(tmp_path)
    assert left(tmp_path) == kept
