"""`keeper executor …` before it asks any node: what it wants of its operator, and what it refuses."""

import json
import os
from pathlib import Path

import pytest
from eth_account import Account
from typer.testing import CliRunner, Result

from keeper.cli import app

KEY, PASSWORD = "c0ffee" * 10 + "abcd", "correct horse battery"
COMMANDS = ("status", "authorize", "sweep", "pause", "unpause")
CLOSED = "http://127.0.0.1:9"


def run(*arguments: str, given: str = "", **settings: str) -> Result:
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("KEEPER_")}
    environment = {**unset, **{f"KEEPER_{name}": value for name, value in settings.items()}}
    done = CliRunner().invoke(app, ["executor", *arguments], env=environment, input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert KEY not in done.output
    assert PASSWORD not in done.output
    return done


def secret(folder: Path, name: str, text: str, mode: int = 0o600) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def keystore(folder: Path) -> str:
    document = Account.encrypt(bytes.fromhex(KEY), PASSWORD, kdf="pbkdf2", iterations=2)
    return secret(folder, "keystore", json.dumps(document))


def said(done: Result) -> str:
    """Return what was said, without the frame that is drawn around it."""
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("deploy",), "--owner"),
        (("deploy", "--owner", "0x12"), "must be an address"),
        (("deploy", "--owner", "0x" + "00" * 20), "must not be the zero address"),
        (("authorize", "--add-caller", "nobody"), "must be an address"),
        (("authorize", "--remove-caller", "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc3"), "wrong EIP-55 checksum"),
        (("sweep", "--token", "USDC"), "must be an address"),
        (("unpause", "--owner-keystore", "a", "--owner-key-file", "b"), "give one of"),
        (("unpause", "--owner-key-file", "a", "--owner-password-file", "b"), "it is for --owner-keystore"),
    ],
)
def test_wrong_usage_is_told_before_anything_else_is_looked_at(arguments: tuple[str, ...], told: str) -> None:
    done = run(*arguments)
    assert (done.exit_code, told in said(done)) == (2, True), done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_configuration_is_told_as_by_every_other_command(command: str) -> None:
    done = run(command, "--json", CHAIN="nowhere", MODE="lief")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert len(found["checks"]) >= 3


@pytest.mark.parametrize("command", ["authorize", "sweep", "pause", "unpause"])
def test_an_owners_key_is_opened_before_any_node_is_asked_and_never_shown(command: str, tmp_path: Path) -> None:
    settings = {"CHAIN": "local", "RPC_URLS": CLOSED, "STATE_DIR": str(tmp_path)}
    store = keystore(tmp_path)
    wrong = run(command, "--owner-keystore", store, given="wrong\n", **settings)
    assert (wrong.exit_code, "the password is wrong or the file is damaged" in said(wrong)) == (3, True)
    absent = run(command, "--owner-key-file", str(tmp_path / "none"), **settings)
    assert (absent.exit_code, "--owner-key-file: the file that it names cannot be read" in said(absent)) == (3, True)
    broken = run(command, "--owner-key-file", secret(tmp_path, "broken", KEY[2:]), **settings)
    assert (broken.exit_code, "32 bytes in hexadecimal" in said(broken)) == (3, True)
    exposed = run(command, "--owner-key-file", secret(tmp_path, "exposed", KEY, 0o644), **settings)
    assert (exposed.exit_code, "chmod it 600" in said(exposed)) == (3, True)


def test_the_keystores_password_is_asked_for_unless_a_file_holds_it(tmp_path: Path) -> None:
    settings = {"CHAIN": "local", "RPC_URLS": CLOSED, "STATE_DIR": str(tmp_path)}
    asked = run("unpause", "--owner-keystore", keystore(tmp_path), given=f"{PASSWORD}\n", **settings)
    assert "password of the owner's keystore" in asked.stderr
    held = secret(tmp_path, "password", PASSWORD + "\n")
    quiet = run("unpause", "--owner-keystore", keystore(tmp_path), "--owner-password-file", held, **settings)
    assert "password of" not in quiet.stderr
    for done in (asked, quiet):  # the key is open; the node is not there
        assert done.exit_code != 0
        assert "the password is wrong" not in done.stderr


def test_the_help_names_the_exit_code_of_printed_transactions() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert "7 transactions printed" in " ".join(done.output.split())
