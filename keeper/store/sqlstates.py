"""What PostgreSQL reports, in the words of the store: never the server's own, which name hosts, roles and values."""

from typing import Final

import psycopg

from keeper.store.faults import Fault, StoreFailed

_BY_STATE: Final = {
    "25006": Fault.READ_ONLY,
    "40001": Fault.LOCKED,
    "40P01": Fault.LOCKED,
    "42501": Fault.REFUSED,
    "53100": Fault.FULL,
    "53200": Fault.UNREACHABLE,
    "53300": Fault.UNREACHABLE,
    "55P03": Fault.LOCKED,
    "57014": Fault.LOCKED,
    "57P01": Fault.UNREACHABLE,
    "57P02": Fault.UNREACHABLE,
    "57P03": Fault.UNREACHABLE,
    "58030": Fault.INPUT_OUTPUT,
    "XX001": Fault.CORRUPT,
    "XX002": Fault.CORRUPT,
}
_BY_CLASS: Final = {"08": Fault.UNREACHABLE, "28": Fault.REFUSED, "3D": Fault.REFUSED}
_CONSTRAINT: Final = "23"

_HINTS: Final = (
    ("authentication failed", Fault.REFUSED, "the role or its password is refused"),
    ("no password supplied", Fault.REFUSED, "the server asks for a password"),
    ("no pg_hba.conf entry", Fault.REFUSED, "the server does not let this client in"),
    ("does not exist", Fault.REFUSED, "there is no such role or database"),
    ("too many clients", Fault.UNREACHABLE, "the server has too many clients"),
    ("remaining connection slots", Fault.UNREACHABLE, "the server has too many clients"),
    ("starting up", Fault.UNREACHABLE, "the server is starting"),
    ("shutting down", Fault.UNREACHABLE, "the server is shutting down"),
    ("in recovery mode", Fault.UNREACHABLE, "the server is recovering"),
    ("refused", Fault.UNREACHABLE, "the connection is refused"),
    ("timeout", Fault.UNREACHABLE, "no answer in time"),
    ("could not translate", Fault.UNREACHABLE, "the host's name is unknown"),
    ("failed to resolve", Fault.UNREACHABLE, "the host's name is unknown"),
    ("ssl", Fault.REFUSED, "no secure connection could be agreed on"),
)


def is_our_defect(error: psycopg.Error) -> bool:
    """Return whether a constraint is broken, which no operator can cure."""
    return (error.sqlstate or "").startswith(_CONSTRAINT)


def named(error: psycopg.Error, place: str, *, is_broken: bool) -> StoreFailed:
    """Name what a statement failed of."""
    state = error.sqlstate
    if state is None:
        fault = Fault.UNREACHABLE if is_broken else Fault.INPUT_OUTPUT
        return StoreFailed(fault, place, "the connection broke" if is_broken else "")
    fault = _BY_STATE.get(state) or _BY_CLASS.get(state[:2]) or Fault.INPUT_OUTPUT
    if is_broken and fault is Fault.INPUT_OUTPUT:
        fault = Fault.UNREACHABLE
    return StoreFailed(fault, place, f"SQLSTATE {state}")


def connecting(error: BaseException | None, place: str) -> StoreFailed:
    """Name why there is no connection: libpq reports that in words only."""
    if isinstance(error, StoreFailed):
        return error
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return named(error, place, is_broken=True)
    said = str(error).lower()
    for words, fault, hint in _HINTS:
        if words in said:
            return StoreFailed(fault, place, hint)
    return StoreFailed(Fault.UNREACHABLE, place)
