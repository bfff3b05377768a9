"""Keeping node addresses, and the keys inside them, out of every text."""

import base64
import re
from typing import Final
from urllib.parse import unquote, urlsplit

TEXT_LIMIT: Final = 256
_SECRET_MIN_LENGTH: Final = 6
_URL = re.compile(r"\b(?:https?|wss?)://[^\s\"'<>\\]+", re.IGNORECASE)


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Return the text on one line, without control or format characters, cut to `limit`."""
    head = text[: limit * 2]
    return "".join(char if char.isprintable() else " " for char in head)[:limit]


class Mask:
    """Removes one node's address, and every part of it that may be a key, from a text."""

    __slots__ = ("_secrets",)

    def __init__(self, url: str) -> None:
        """Learn the parts of the address: credentials, as sent too, host labels, path segments, query values, fragment."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        found = {url, parts.netloc, parts.path, parts.query, parts.username or "", parts.password or "", host}
        found |= set(parts.path.split("/")) | {item.partition("=")[2] for item in parts.query.split("&")}
        found |= {label for label in host.split(".") if len(label) >= _SECRET_MIN_LENGTH and not label.isalpha()}
        found |= {parts.fragment}
        found |= {unquote(item) for item in found}
        if parts.username or parts.password:
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            found.add(base64.b64encode(pair.encode()).decode().rstrip("="))
        self._secrets = tuple(sorted((s for s in found if len(s) >= _SECRET_MIN_LENGTH), key=len, reverse=True))

    def __repr__(self) -> str:
        """Say nothing about the address."""
        return "Mask(***)"

    def clean(self, text: str) -> str:
        """Return the text without any address or secret part, printable and short."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "***")
        return printable(_URL.sub("***", text))
