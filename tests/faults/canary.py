"""Canary secrets, and the search for them in everything that a keeper leaves behind."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus, unquote

KEY: Final = "5ecae7" + "c0ffee11" * 7 + "ab"
"""A private key that no output may show."""
PASSWORD: Final = "canary pass/word%7"
PATH_TOKEN: Final = "canaryPath5ecretT0ken"
QUERY_TOKEN: Final = "canaryQuery5ecretT0ken"
USER: Final = "canaryUser5ecret"
USER_PASSWORD: Final = "canary:P@ss/5ecret"
LABEL: Final = "canarylabel5ecret7"
ENCODED_TOKEN: Final = "canary/Enc+5ecret=="

SECRETS: Final = (KEY, PASSWORD, PATH_TOKEN, QUERY_TOKEN, USER, USER_PASSWORD, LABEL, ENCODED_TOKEN)
TEXT_LIMIT: Final = 60


def canary_urls(port: int) -> dict[str, str]:
    """Return addresses of a server on this machine, by the place that holds the secret."""
    here = f"127.0.0.1:{port}"
    return {
        "path": f"http://{here}/v3/{PATH_TOKEN}",
        "query": f"http://{here}/rpc?network=main&key={QUERY_TOKEN}",
        "bare query": f"http://{here}/?{QUERY_TOKEN}",
        "credentials": f"http://{USER}:{quote(USER_PASSWORD, safe='')}@{here}/",
        "label": f"http://{LABEL}.localhost:{port}/",
        "encoded": f"http://{here}/v3/{quote(ENCODED_TOKEN, safe='')}",
    }


def spellings(secret: str) -> Iterator[bytes]:
    """Yield how a text could be written; the search ignores the case."""
    texts = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), unquote(secret)}
    texts |= {json.dumps(secret)[1:-1], repr(secret)[1:-1], secret.encode().hex(), secret[::-1]}
    for text in texts:
        yield text.encode()
    yield from _base64(secret.encode())


def canary_forms(secrets: Iterable[str] = SECRETS) -> frozenset[bytes]:
    """Return every form of every secret in lower case, the key's raw bytes and number among them."""
    forms = {form.lower() for secret in secrets for form in spellings(secret)}
    raw = bytes.fromhex(KEY)
    forms |= {raw.lower(), str(int(KEY, 16)).encode(), repr(raw)[2:-1].lower().encode()}
    forms |= {form.lower() for form in _base64(raw)}
    forms |= {form.lower() for form in _base64(f"{USER}:{USER_PASSWORD}".encode())}
    return frozenset(forms)


def _base64(raw: bytes) -> Iterator[bytes]:
    """Yield a text's codes at each of the three places that it may have in a longer one, without the uncertain ends."""
    for shift in range(3):
        code = base64.b64encode(bytes(shift) + raw)
        yield code[(0, 2, 3)[shift] : len(code) - 4]


def canary_hits(sinks: Mapping[str, bytes | str], secrets: Iterable[str] = SECRETS) -> list[str]:
    """Return where a secret is seen and what surrounds it; the finding itself does not tell the secret."""
    forms = canary_forms(secrets)
    found = []
    for name, content in sinks.items():
        data = (content.encode(errors="surrogateescape") if isinstance(content, str) else content).lower()
        for form in forms:
            at = data.find(form)
            if at >= 0:
                before = data[max(0, at - TEXT_LIMIT) : at].decode(errors="replace")
                found.append(f"{name}: …{before}<{len(form)} bytes of a canary>")
    return found


def files_in(*folders: Path) -> dict[str, bytes]:
    """Return the content of every regular file below some folders."""
    return {
        str(path.relative_to(folder.parent)): path.read_bytes()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_no_canary(
    sinks: Mapping[str, bytes | str], *folders: Path, secrets: Iterable[str] = SECRETS, least: int = 1
) -> None:
    """Fail where any secret is seen in texts or in files; `least` sinks must have something in them to search."""
    everything = {**sinks, **files_in(*folders)}
    assert sum(bool(content) for content in everything.values()) >= least, "there was nothing to search"
    found = canary_hits(everything, secrets)
    assert not found, f"secrets were seen: {found}"
