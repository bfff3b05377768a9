"""Redaction: no secret leaves the process in a text, however it is spelled."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import quote, quote_plus

MASK: Final = "[redacted]"
SHORTEST_HIDDEN: Final = 4
"""Hiding a shorter text would blank half of every line."""


class Redactor:
    """Replaces every spelling of every secret, whatever its case."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _spellings(secret) if len(form) >= SHORTEST_HIDDEN}
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        folded = {form.casefold() for form in forms}
        self._telling = tuple(form for form in folded if not any(part in form for part in folded - {form}))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if forms else None

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        folded = text.casefold()  # looking for few texts is far quicker than for one pattern of many
        if self._pattern is None or not any(form in folded for form in self._telling):
            return text
        return self._pattern.sub(MASK, text)


def _spellings(secret: str) -> Iterator[str]:
    """Yield a text as written, and as URLs, JSON and Python write it."""
    yield secret
    yield quote(secret, safe="", errors="replace")
    yield quote(secret, errors="replace")
    yield quote_plus(secret, errors="replace")
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    yield repr(secret)[1:-1]
