"""Is the repository fit to be published? Locks, names and texts."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")

REGISTRY = re.compile(
    r"\b(?:pypi|pythonhosted|npmjs|yarnpkg|anaconda|conda|ghcr|quay|gcr|crates|rubygems|dockerhub|docker)"
    r"\.(?:org|com|io)\b"
)
MACHINE_PATH = re.compile(r"(?<![\w.}$~-])/(?:home|root|Users|work|mnt|tmp/\w)[\w./-]*")
PIN = re.compile(r"^(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>\S+)(?: ; (?P<marker>[^\\]+?))? \\$")
HASH = re.compile(r"^ {4}--hash=sha256:[0-9a-f]{64}(?: \\)?$")
MIN_NAME_WORDS = 3


def published_files() -> Iterator[Path]:
    """Yield every file that is, or is about to be, under version control."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows what is published")
    listed = subprocess.run(
        [git, "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            yield ROOT / name


def findings(pattern: re.Pattern[str], paths: Iterator[Path]) -> list[str]:
    found = []
    for path in paths:
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{path.name}: {match}" for match in pattern.findall(content.decode())]
    return found


def locked(text: str) -> Mapping[str, Version]:
    """Read a lock; a line that is neither a pin nor a hash is an error."""
    pins = {}
    for line in text.splitlines():
        if match := PIN.match(line):
            pins[match["name"]] = Version(match["version"])
        elif not HASH.match(line):
            raise ValueError(f"neither a pin nor a hash: {line}")
    return pins


def unsentenced(text: str) -> list[str]:
    """Return the tests whose names are too short to be sentences."""
    return [
        node.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name.removeprefix("test_").split("_")) < MIN_NAME_WORDS
    ]


def test_no_file_names_a_package_registry():
    assert findings(REGISTRY, published_files()) == []


def test_no_file_names_a_path_of_one_machine():
    assert findings(MACHINE_PATH, published_files()) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REGISTRY, "index = https://" + "files.python" + "hosted.org/simple"),
        (REGISTRY, '"resolved": "https://' + "registry.npm" + 'js.org/x.tgz"'),
        (MACHINE_PATH, "cd /ho" + "me/someone/keeper"),
        (MACHINE_PATH, "path = '/wo" + "rk/main'"),
    ],
)
def test_a_planted_name_of_a_place_is_found(pattern: re.Pattern[str], text: str, tmp_path: Path):
    (tmp_path / "file").write_text(text, encoding="utf-8")
    assert findings(pattern, tmp_path.iterdir())


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_pins_and_hashes_only(name: str):
    assert locked((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("line", ["--index-url https://example.invalid", "web3>=8", "web3 @ file:///web3.whl"])
def test_a_lock_with_anything_else_is_refused(line: str):
    with pytest.raises(ValueError, match="neither a pin nor a hash"):
        locked(line)


def test_both_locks_satisfy_the_project_and_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run, develop = (locked((ROOT / name).read_text(encoding="utf-8")) for name in LOCKS)
    assert run.items() <= develop.items()
    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert run[requirement.name] in requirement.specifier
    for text in project["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert develop[requirement.name] in requirement.specifier


def test_every_test_is_named_by_a_sentence():
    short = {
        str(path.relative_to(ROOT)): names
        for path in (ROOT / "tests").rglob("test_*.py")
        if (names := unsentenced(path.read_text(encoding="utf-8")))
    }
    assert short == {}


def test_a_short_test_name_is_found():
    assert unsentenced("class TestX:\n    async def test_it_works(self): ...\n") == ["test_it_works"]
    assert unsentenced("def test_a_late_head_is_dropped(): ...\n") == []


def test_the_makefile_stays_short_and_has_its_targets():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 30
    targets = {name for line in lines if re.match(r"[a-z ]+:", line) for name in line.split(":")[0].split()}
    assert targets == {"setup", "demo", "test", "check", "bench", "faults", "soak", "lock", "clean"}


def test_the_ci_script_can_be_run_and_stops_at_the_first_failure():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")


def test_hooks_call_the_environment_of_the_project():
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (\S+)", text)
    assert entries
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    assert text.count("language: system") == len(entries)
