"""What can be wrong with the store, and what the operator does about it."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy.exc import DBAPIError

from keeper.errors import StorageFailed

Place: TypeAlias = Path | str
"""What a message calls the store: a file, or words that hold no address and no password."""


class Fault(StrEnum):
    """Why the store failed."""

    LOCKED = "locked"
    FULL = "full"
    CORRUPT = "corrupt"
    NOT_A_DATABASE = "not_a_database"
    READ_ONLY = "read_only"
    CANNOT_OPEN = "cannot_open"
    MISSING = "missing"
    SCHEMA = "schema"
    OUTDATED = "outdated"
    OTHER_CHAIN = "other_chain"
    INPUT_OUTPUT = "input_output"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    NOT_DURABLE = "not_durable"
    IN_DOUBT = "in_doubt"


_BY_CODE: Final = {
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_CORRUPT: Fault.CORRUPT,
    sqlite3.SQLITE_NOTADB: Fault.NOT_A_DATABASE,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_PERM: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.CANNOT_OPEN,
}

_BY_ERRNO: Final = {
    errno.EACCES: Fault.READ_ONLY,
    errno.EPERM: Fault.READ_ONLY,
    errno.EROFS: Fault.READ_ONLY,
    errno.ENOSPC: Fault.FULL,
    errno.EDQUOT: Fault.FULL,
    errno.ENOENT: Fault.CANNOT_OPEN,
    errno.ENOTDIR: Fault.CANNOT_OPEN,
}

_CURE: Final = {
    Fault.LOCKED: "another program holds it: close that program, the keeper tries again",
    Fault.FULL: "free some disk space; nothing is sent until a write succeeds",
    Fault.CORRUPT: "a page is damaged: restore a backup, or move the file away to rebuild it from the chain",
    Fault.NOT_A_DATABASE: "it is not a keeper database: restore a backup, or point the state directory elsewhere",
    Fault.READ_ONLY: "make the file and its directory writable for the keeper's user; of a server, connect to the primary",
    Fault.CANNOT_OPEN: "check that the state directory exists and belongs to the keeper's user",
    Fault.MISSING: "there is nothing to read yet: run the keeper with this state directory first",
    Fault.SCHEMA: "install the keeper that wrote it, or a newer one",
    Fault.OUTDATED: "start this keeper on it once, which brings it up to date",
    Fault.OTHER_CHAIN: "give each chain a state directory of its own",
    Fault.UNREACHABLE: "check the server and the way to it; the keeper tries again",
    Fault.REFUSED: "check the role, the password and the database in KEEPER_DATABASE_URL",
    Fault.NOT_DURABLE: "what it has committed may be lost: turn fsync on at the server",
    Fault.IN_DOUBT: "nobody knows whether the last commit was stored: a restart reads it again",
    Fault.INPUT_OUTPUT: "the disk refuses reads or writes: check the volume",
}

PASSING: Final = frozenset({Fault.LOCKED, Fault.FULL, Fault.UNREACHABLE})
"""Faults that end by themselves or by an operator's hand, while nothing that was stored is in doubt."""


class StoreFailed(StorageFailed):
    """The store refused; the message names the place, what is wrong and the cure."""

    def __init__(self, fault: Fault, place: Place, detail: str = "") -> None:
        """Keep the fault, so that a passing one can be waited out."""
        self.fault = fault
        because = f" ({detail})" if detail else ""
        super().__init__(f"{place}: {fault.value.replace('_', ' ')}{because}: {_CURE[fault]}")

    @property
    def is_passing(self) -> bool:
        """Return whether the same write may succeed later."""
        return self.fault in PASSING


def fault_of(error: sqlite3.Error) -> Fault:
    """Classify what SQLite reported by its primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return _BY_CODE.get(code & 0xFF, Fault.INPUT_OUTPUT) if isinstance(code, int) else Fault.INPUT_OUTPUT


@contextmanager
def naming_faults(place: Place) -> Iterator[None]:
    """Turn SQLite's errors into `StoreFailed`, except for broken constraints, which are our own defects."""
    try:
        yield
    except DBAPIError as error:
        origin = error.orig
        if isinstance(origin, sqlite3.IntegrityError) or not isinstance(origin, sqlite3.Error):
            raise
        raise StoreFailed(fault_of(origin), place, str(origin)[:120]) from None
    except sqlite3.Error as error:
        raise StoreFailed(fault_of(error), place, str(error)[:120]) from None
    except OSError as error:
        fault = _BY_ERRNO.get(error.errno or 0, Fault.INPUT_OUTPUT)
        raise StoreFailed(fault, place, error.strerror or "") from None
