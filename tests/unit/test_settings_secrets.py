"""Secrets come in by file or variable, and come out by `reveal` only."""

import copy
import os
import pickle
import stat
import traceback
from pathlib import Path

import pytest

from keeper.errors import ConfigurationError
from keeper.settings import Settings

KEY = "0x" + "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"[:64]
TOKEN = "CANARYtoken0123456789"
URL = f"https://canaryuser:canary%2Fpass@node.example/v2/{TOKEN}?apikey=canary%20query"
ENOUGH = {"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS": URL}


def failure(env: dict[str, str]) -> tuple[tuple[str, ...], str]:
    """Return the problems of an environment, and all that its traceback shows."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(env)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    return error.problems, "".join(traceback.format_exception(error))


def a_file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_no_rendering_shows_a_secret() -> None:
    settings = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY": KEY})
    assert settings.private_key is not None
    renderings = [
        str(settings),
        repr(settings),
        f"{settings!s} {settings.private_key:}",
        str(vars(settings)),
        str(dict(settings)),
        str(settings.model_dump()),
        settings.model_dump_json(),
        repr(settings.private_key),
        str(copy.deepcopy(settings)),
    ]
    for rendering in renderings:
        assert KEY[2:] not in rendering
        assert TOKEN not in rendering
        assert "canary" not in rendering
    assert not hasattr(settings.private_key, "__dict__")


def test_a_secret_cannot_be_pickled() -> None:
    settings = Settings.load(ENOUGH)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(settings, protocol)


@pytest.mark.parametrize("line_break", [b"", b"\n", b"\r\n"])
def test_a_secret_comes_from_a_file_without_its_line_break(tmp_path: Path, line_break: bytes) -> None:
    path = a_file(tmp_path, KEY[2:].upper().encode() + line_break)
    settings = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": path})
    assert settings.private_key is not None
    assert settings.private_key.reveal() == KEY
    assert settings.warnings == ()


@pytest.mark.parametrize("name", ["KEEPER_PRIVATE_KEY", "KEEPER_KEYSTORE_PASSWORD", "KEEPER_RPC_URLS"])
def test_a_secret_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    found, shown = failure(ENOUGH | {name: KEY, f"{name}_FILE": a_file(tmp_path, KEY.encode())})
    assert any(name in line and f"{name}_FILE" in line for line in found)
    assert KEY not in shown


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o606])
def test_a_file_that_everybody_may_open_is_warned_of(tmp_path: Path, mode: int) -> None:
    path = a_file(tmp_path, KEY.encode(), mode)
    (warning,) = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": path}).warnings
    assert warning.startswith("KEEPER_PRIVATE_KEY_FILE: ")
    assert path not in warning
    given = {"KEEPER_KEYSTORE_FILE": path, "KEEPER_KEYSTORE_PASSWORD": "password"}
    assert Settings.load(ENOUGH | given).warnings[0].startswith("KEEPER_KEYSTORE_FILE: ")


def test_an_unusable_file_is_explained_and_its_path_is_not_shown(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    paths = {
        str(tmp_path / "CANARY"): "No such file",
        str(tmp_path): "regular file",
        str(pipe): "regular file",
        "/dev/zero": "regular file",
        "CANARY" * 1000: "cannot be read",
        "CANARY\0": "",
        a_file(tmp_path, b"\xff\xfe\x00"): "UTF-8",
    }
    for path, told in paths.items():
        (line,), shown = failure(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": path})
        assert told in line
        assert "CANARY" not in shown
        assert path not in line
    for content, told in ((b"\n", "empty"), (b"a" * 70_000, "too large")):
        (line,), _ = failure(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": a_file(tmp_path, content)})
        assert told in line


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (KEY[:-1], "63"),
        (KEY + "00", "66"),
        ("0x" + "ab" * 20, "an address"),
        ("ab" * 64, "a public key"),
        (KEY[:-1] + "g", "not hexadecimal"),
        ("0x" + "0" * 64, "zero"),
        ("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141", "curve"),
        ("test " * 11 + "junk", "recovery phrase"),
        ('{"crypto": {}}', "KEEPER_KEYSTORE_FILE"),
        (f'"{KEY}"', "quotation marks"),
        ("0x" + "٣" * 64, "not hexadecimal"),
    ],
)
def test_what_is_wrong_with_a_key_is_explained_without_the_key(key: str, told: str) -> None:
    (line,), shown = failure(ENOUGH | {"KEEPER_PRIVATE_KEY": key})
    assert line.startswith("KEEPER_PRIVATE_KEY: ")
    assert told in line
    assert key not in shown
    assert key[2:] not in shown


@pytest.mark.parametrize("key", [KEY, KEY[2:], KEY.upper().replace("0X", "0x"), f" {KEY}\n"])
def test_a_key_may_be_written_in_any_common_way(key: str) -> None:
    settings = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY": key})
    assert settings.private_key is not None
    assert settings.private_key.reveal() == KEY


@pytest.mark.parametrize("name", sorted(f"KEEPER_{key.upper()}" for key in Settings.model_fields))
def test_a_canary_in_any_variable_is_never_shown(name: str) -> None:
    for canary in (f"https://h/CANARY/{KEY}", f"CANARY {KEY}", f"/CANARY/{KEY}", "CANARY\x1b\n"):
        try:
            Settings.load(ENOUGH | {name: canary, "KEEPER_UNKNOWN": canary})
        except ConfigurationError as error:
            shown = "".join(traceback.format_exception(error)) + repr(error.problems)
            assert "CANARY" not in shown
            assert KEY not in shown


def test_every_part_of_a_secret_that_tells_is_listed() -> None:
    secrets = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY": KEY}).secrets()
    assert {URL, TOKEN, "canaryuser", "canary%2Fpass", "canary/pass", "canary query", "canary%20query"} <= secrets
    assert {KEY[2:], str(int(KEY, 16))} <= secrets
    assert {"v2", "https", "node", "example", "node.example"}.isdisjoint(secrets)


def test_a_keylike_host_label_is_listed_and_a_plain_host_is_not() -> None:
    settings = Settings.load(ENOUGH | {"KEEPER_RPC_URLS": "https://abc123def456.node.example,http://localhost:8545"})
    assert "abc123def456" in settings.secrets()
    assert {"localhost", "localhost:8545", "node"}.isdisjoint(settings.secrets())


def test_a_password_is_listed(tmp_path: Path) -> None:
    path = a_file(tmp_path, b"{}")
    given = {"KEEPER_KEYSTORE_FILE": path, "KEEPER_KEYSTORE_PASSWORD": "correct horse"}
    assert "correct horse" in Settings.load(ENOUGH | given).secrets()
    assert not stat.S_IMODE(Path(path).stat().st_mode) & 0o077
