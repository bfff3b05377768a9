"""The forms that settings must have, refused with the cure and never the value, and the forms that secrets leak in."""

import base64
import binascii
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NoReturn, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic_core import CoreSchema, core_schema

SHORTEST_TELLING: Final = 9
"""A URL's path segment or host label shorter than this is a word, not a key."""
SHORTEST_HIDDEN: Final = 4
"""Hiding a shorter text would blank half of every log line."""
CURVE_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEY_DIGITS: Final = 64
FEWEST_PHRASE_WORDS: Final = 12
MAX_SECRET_BYTES: Final = 1 << 16
GWEI: Final = 10**9


class Secret:
    """A text that no rendering shows: not `str`, `repr`, `vars`, a dump or a pickle."""

    __slots__ = ("_reveal",)

    def __init__(self, text: str) -> None:
        self._reveal: Callable[[], str] = lambda: text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._reveal()

    def __repr__(self) -> str:
        return "Secret(**********)"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")

    @classmethod
    def _of(cls, value: object) -> "Secret":
        if isinstance(value, cls):
            return value
        if not isinstance(value, str) or not value:
            raise ValueError("must be a text that is not empty")
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> CoreSchema:
        """Tell pydantic to take a text and to dump a mask."""
        return core_schema.no_info_plain_validator_function(
            cls._of, serialization=core_schema.to_string_ser_schema(when_used="always")
        )


@dataclass(frozen=True, slots=True)
class Scaled:
    """Reads a plain decimal number of a large unit as a whole number of its smallest unit."""

    decimals: int
    low: str
    high: str

    def __call__(self, value: object) -> int:
        """Scale a decimal text exactly."""
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,40}(\.[0-9]{1,40})?", text):
            raise ValueError("must be a plain decimal number such as 2.5, without a unit, sign or exponent")
        scaled = self._scale(text)
        if scaled is None:
            raise ValueError(f"must have at most {self.decimals} decimals")
        if not (self._scale(self.low) or 0) <= scaled <= (self._scale(self.high) or 0):
            raise ValueError(f"must be from {self.low} to {self.high}; check the unit that the name ends in")
        return scaled

    def _scale(self, text: str) -> int | None:
        whole, _, fraction = text.partition(".")
        fraction = fraction.rstrip("0")
        return int(whole + fraction.ljust(self.decimals, "0")) if len(fraction) <= self.decimals else None


@dataclass(frozen=True, slots=True)
class Whole:
    """Reads a whole number within bounds."""

    low: int
    high: int

    def __call__(self, value: object) -> int:
        """Read a decimal text, or let a number pass."""
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,20}", text) or not self.low <= int(text) <= self.high:
            raise ValueError(f"must be a whole number from {self.low} to {self.high}")
        return int(text)


def parse_path(value: object) -> Path:
    """Read a path, `~` being the home folder."""
    text = str(value)
    if not text.isprintable():
        raise ValueError("must be a path without control characters")
    return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - pathlib's raises where there is no home


def check_file(path: Path) -> Path:
    """Let a path pass that names a file."""
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises, with the name, where it is too long
        raise ValueError("must name a file that exists")
    return path


def check_database_url(secret: Secret) -> Secret:
    """Let the URL of an SQLite file or of a PostgreSQL server pass."""
    scheme, _, path = secret.reveal().partition("://")
    if scheme == "postgresql":
        parts = _parts(secret.reveal())
        if parts is None or not parts.path.strip("/"):
            raise ValueError("must be postgresql://USER:PASSWORD@HOST/DATABASE, the special characters percent-encoded")
        return secret
    if scheme not in {"sqlite", "sqlite+pysqlite"} or not path.startswith("/"):
        raise ValueError("must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE")
    if path == "/" or path.startswith("/:memory:"):
        raise ValueError("must name a file: what is kept in memory does not survive a restart")
    return secret


def check_http_url(secret: Secret) -> Secret:
    """Let an http or https URL pass."""
    url = secret.reveal()
    if not url.isprintable() or " " in url or split_url(url) is None or not url.startswith("http"):
        raise ValueError("must be an http or https URL with a host")
    return secret


def parse_http_urls(value: object) -> object:
    """Split a list of http URLs, which may be empty, and check each, naming it by its place only."""
    if isinstance(value, str) and not value.strip():
        return ()
    found = parse_rpc_urls(value)
    for number, each in enumerate(found if isinstance(found, tuple) else (), 1):
        if not each.reveal().startswith("http"):
            raise ValueError(f"entry {number} must be an http or https URL with a host")
    return found


def parse_named_keys(value: object) -> object:
    """Read keys by the name of what they are for.

    Raises: ValueError, without a value.
    """
    if not isinstance(value, str):
        return value
    entries = [each.strip() for each in value.split(",") if each.strip()]
    keys: dict[str, Secret] = {}
    for number, entry in enumerate(entries, 1):
        name, _, key = entry.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name) or not re.fullmatch(r"[!-~]{8,256}", key):
            raise ValueError(f"entry {number} must be a name, =, and a key of 8 to 256 characters without spaces")
        if name in keys:
            raise ValueError(f"entry {number} names {name} again; one key each")
        keys[name] = Secret(key)
    return keys


def default_database(values: Mapping[str, Any]) -> str:
    """Give each chain its own file: two keepers may share a state directory."""
    name = Path(values.get("chain", "keeper")).stem
    return f"sqlite:///{values.get('state_dir', Path())}/{name}.sqlite3"


def default_tip(values: Mapping[str, Any]) -> str:
    """Keep the default within a smaller cap."""
    wei = min(5 * GWEI, values.get("max_fee_wei", 5 * GWEI))
    return f"{wei // GWEI}.{wei % GWEI:09}"


def lower(value: object) -> object:
    """Ignore the case of a word."""
    return value.strip().lower() if isinstance(value, str) else value


def is_loopback(host: str) -> bool:
    """Return whether a host name or address stands for this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def split_url(url: str) -> SplitResult | None:
    """Return a node URL's parts, or None where it is no http, https, ws or wss URL with a host."""
    parts = _parts(url)
    return parts if parts is not None and parts.scheme in {"http", "https", "ws", "wss"} else None


def same_operator(urls: Sequence[str]) -> Iterator[list[int]]:
    """Yield the places, from 1, of node URLs whose hosts seem to be of one operator; this machine's own are not."""
    operators = defaultdict[str, list[int]](list)
    for number, url in enumerate(urls, 1):
        parts = split_url(url)
        host = (parts.hostname if parts else None) or ""
        if not is_loopback(host):
            operators[".".join(host.split(".")[-2:]) if host[-1:].isalpha() else host].append(number)
    yield from (numbers for numbers in operators.values() if len(numbers) > 1)


def _parts(url: str) -> SplitResult | None:
    """Return a URL's parts, or None where it names no host, or a port that cannot be one."""
    try:
        parts = urlsplit(url)
        is_usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_usable else None


def parse_rpc_urls(value: object) -> object:
    """Split a list of node URLs and check each, naming it by its place only."""
    if not isinstance(value, str):
        return value
    urls = [url for part in value.replace("\n", ",").split(",") if (url := part.strip())]
    if not urls:
        raise ValueError("must name at least one endpoint")
    for number, url in enumerate(urls, 1):
        if not url.isprintable() or " " in url or split_url(url) is None:
            raise ValueError(f"entry {number} must be an http, https, ws or wss URL with a host")
        if url in urls[: number - 1]:
            raise ValueError(f"entry {number} is the same as entry {urls.index(url) + 1}; name each endpoint once")
    return tuple(map(Secret, urls))


def parse_private_key(secret: Secret) -> Secret:
    """Check the form of a private key and write it as 0x and 64 lowercase digits."""
    text = secret.reveal().strip()
    digits = text.removeprefix("0x").removeprefix("0X")
    if len(text.split()) >= FEWEST_PHRASE_WORDS:
        raise ValueError("holds words, like a recovery phrase; give the one account's private key instead")
    if text.startswith("{"):
        raise ValueError("holds a keystore's JSON; name its file in KEEPER_KEYSTORE_FILE instead")
    if text[:1] in {'"', "'"}:
        raise ValueError("is wrapped in quotation marks; remove them")
    if not re.fullmatch(r"[0-9a-fA-F]*", digits):
        raise ValueError("has characters that are not hexadecimal digits")
    if len(digits) != KEY_DIGITS:
        kind = {40: ", as an address has", 128: ", as a public key has"}.get(len(digits), "")
        raise ValueError(f"has {len(digits)} hexadecimal digits{kind}; a private key has {KEY_DIGITS}")
    if not 0 < int(digits, 16) < CURVE_ORDER:
        raise ValueError("is zero or beyond the curve's order, so it is no key; generate another")
    return Secret("0x" + digits.lower())


def read_secret(path: Path) -> tuple[str, bool]:
    """Read a secret's file without its last line break, and whether every user of the machine may open it.

    Raises: ValueError saying what is wrong with the file, not which it is.
    """
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("must name a regular file")
        with path.open("rb") as file:
            text = file.read(MAX_SECRET_BYTES + 1).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("the file that it names must be UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the file that it names cannot be read: {error.strerror}") from None
    if not text.strip():
        raise ValueError("the file that it names is empty")
    if len(text) > MAX_SECRET_BYTES:
        raise ValueError("the file that it names is too large for a secret")
    return text, is_exposed(info)


def is_exposed(info: os.stat_result) -> bool:
    """Say whether every user of the machine may open a file."""
    return bool(info.st_mode & stat.S_IRWXO)


def key_forms(key: str) -> Iterator[str]:
    """Yield the texts in which a private key could be printed; case does not matter."""
    raw = binascii.unhexlify(key.removeprefix("0x"))
    yield key.removeprefix("0x")
    yield str(int.from_bytes(raw, "big"))
    yield repr(raw)[2:-1]
    yield base64.b64encode(raw).decode().rstrip("=")


def url_forms(url: str) -> Iterator[str]:
    """Yield a URL and every part of it that could be a key, as written and decoded."""
    parts = _parts(url)
    if parts is None:
        return
    names = [part for part in (parts.username, parts.password) if part]
    told = [segment for segment in parts.path.split("/") if len(segment) >= SHORTEST_TELLING]
    told += [value for _, value in parse_qsl(parts.query, keep_blank_values=True)]
    told += [pair.partition("=")[2] or pair for pair in parts.query.split("&")]
    told += [label for label in (parts.hostname or "").split(".") if _is_keylike(label)]
    if names or parts.query or parts.path.strip("/"):
        told.append(url.partition("://")[2])
    for text in (url, parts.query, parts.fragment, *names, *told):
        yield from (form for form in {text, unquote(text)} if len(form) >= SHORTEST_HIDDEN)
    if names:
        yield base64.b64encode(unquote(":".join(names)).encode()).decode().rstrip("=")


def password_forms(url: str) -> Iterator[str]:
    """Yield a database URL and the password in it, as written and decoded; its other parts are words."""
    parts = _parts(url)
    yield url
    if parts is not None and parts.password:
        yield from {parts.password, unquote(parts.password)}


def _is_keylike(label: str) -> bool:
    return len(label) >= SHORTEST_TELLING and any(character.isdigit() for character in label)
