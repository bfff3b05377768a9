"""What an environment says, and what is wrong with it before any value is looked at."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from keeper.chainfile import closest
from keeper.domain.mode import Mode
from keeper.forms import read_secret

PREFIX: Final = "KEEPER_"
EXPOSED: Final = ": every user of this machine may open the file that it names; chmod it 600"
FOREIGN_NAMES: Final = re.compile(r"KEEPER_SERVICE_(HOST|PORT(_\w+)?)|KEEPER_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?")
"""What Kubernetes puts into every pod's environment where a Service is called keeper; KEEPER_PORT as well."""

_KEYS: Final = {
    "private_key": "KEEPER_PRIVATE_KEY",
    "keystore_file": "KEEPER_KEYSTORE_FILE",
    "remote_signer_url": "KEEPER_REMOTE_SIGNER_URL",
}
"""What a transaction can be signed by."""


class Intake:
    """What an environment says: the values by key, and everything that is wrong with it before a value is looked at."""

    def __init__(self, env: Mapping[str, str], names: Mapping[str, str], secrets: Collection[str]) -> None:
        """Look up `names`, which map variables to keys; the `secrets` among the keys may also be given as files."""
        self.values: dict[str, str] = {}
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.broken: set[str] = set()
        known = dict(names)
        for name, key in names.items():
            self._take(env, name, key, is_secret=key in secrets)
        known |= {f"{name}_FILE": key for name, key in names.items() if key in secrets}
        for name in sorted(env):
            if name.upper().startswith(PREFIX) and name not in known and not _is_foreign(name, env[name]):
                shown = name if name.isprintable() and len(name) <= 80 else f"{PREFIX}…"
                self.problems.append(f"{shown}: is not a setting{closest(name.replace('__', '_'), known)}")

    def _take(self, env: Mapping[str, str], name: str, key: str, *, is_secret: bool) -> None:
        value, file = env.get(name, "").strip(), f"{name}_FILE"
        path = env.get(file, "").strip() if is_secret else ""
        if value and path:
            self._break(key, f"{name} and {file} are both set; keep one, better {file}")
        elif path:
            self._read(file, key, path)
        elif value:
            self.values[key] = value if key != "keystore_password" else env[name].rstrip("\r\n")

    def _read(self, name: str, key: str, path: str) -> None:
        try:
            self.values[key], is_open = read_secret(Path(os.path.expanduser(path)))  # noqa: PTH111 - see parse_path
        except ValueError as error:
            self._break(key, f"{name}: {error}")
            return
        if is_open:
            self.warnings.append(name + EXPOSED)

    def _break(self, key: str, problem: str) -> None:
        self.broken.add(key)
        self.problems.append(problem)


def contradictions(given: Collection[str], mode: str) -> Iterator[str]:
    """Yield every problem that several settings make together: those that are given, by key, and the mode."""
    keys = [name for key, name in _KEYS.items() if key in given]
    mode = mode.strip().lower()
    if len(keys) > 1:
        yield f"{' and '.join(keys)} are set together; keep one, best the remote signer or the keystore"
    if mode == Mode.LIVE and not keys:
        yield f"KEEPER_MODE is live without {' or '.join(_KEYS.values())}; set one, or choose observe or shadow"
    if mode == Mode.SHADOW and not keys and "address" not in given:
        yield "KEEPER_MODE is shadow without KEEPER_ADDRESS or a key; set the address of the account to simulate as"
    if "remote_signer_url" in given and "address" not in given:
        yield "KEEPER_REMOTE_SIGNER_URL is set without KEEPER_ADDRESS; set the address that it signs for"
    if "keystore_file" in given and "keystore_password" not in given:
        yield "KEEPER_KEYSTORE_FILE is set without KEEPER_KEYSTORE_PASSWORD; set it, better as KEEPER_KEYSTORE_PASSWORD_FILE"
    if "keystore_password" in given and "keystore_file" not in given:
        yield "KEEPER_KEYSTORE_PASSWORD is set without KEEPER_KEYSTORE_FILE; set it, or remove the password"


def _is_foreign(name: str, value: str) -> bool:
    return bool(FOREIGN_NAMES.fullmatch(name)) or (name == "KEEPER_PORT" and "://" in value)
