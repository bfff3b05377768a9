"""What can be wrong with the file, and what the operator does about it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

from sqlalchemy.exc import DBAPIError

from keeper.errors import StorageFailed


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

_CURE: Final = {
    Fault.LOCKED: "another program holds it: close that program, the keeper tries again",
    Fault.FULL: "free some disk space; nothing is sent until a write succeeds",
    Fault.CORRUPT: "a page is damaged: restore a backup, or move the file away to rebuild it from the chain",
    Fault.NOT_A_DATABASE: "it is not a keeper database: restore a backup, or point the state directory elsewhere",
    Fault.READ_ONLY: "make the file and its directory writable for the keeper's user",
    Fault.CANNOT_OPEN: "check that the state directory exists and belongs to the keeper's user",
    Fault.MISSING: "there is nothing to read yet: run the keeper with this state directory first",
    Fault.SCHEMA: "install the keeper that wrote it, or a newer one",
    Fault.OUTDATED: "start this keeper on it once, which brings it up to date",
    Fault.OTHER_CHAIN: "give each chain a state directory of its own",
    Fault.INPUT_OUTPUT: "the disk refuses reads or writes: check the volume",
}

PASSING: Final = frozenset({Fault.LOCKED, Fault.FULL})
"""Faults that end by themselves or by an operator's hand, while nothing that was stored is in doubt."""


class StoreFailed(StorageFailed):
    """The store refused; the message names the file, what is wrong and the cure."""

    def __init__(self, fault: Fault, path: Path, detail: str = "") -> None:
        """Keep the fault, so that a passing one can be waited out."""
        self.fault = fault
        because = f" ({detail})" if detail else ""
        super().__init__(f"{path}: {fault.value.replace('_', ' ')}{because}: {_CURE[fault]}")

    @property
    def is_passing(self) -> bool:
        """Return whether the same write may succeed later."""
        return self.fault in PASSING


def fault_of(error: sqlite3.Error) -> Fault:
    """Classify what SQLite reported by its primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return _BY_CODE.get(code & 0xFF, Fault.INPUT_OUTPUT) if isinstance(code, int) else Fault.INPUT_OUTPUT


@contextmanager
def naming_faults(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `StoreFailed`, except for broken constraints, which are our own defects."""
    try:
        yield
    except DBAPIError as error:
        origin = error.orig
        if isinstance(origin, sqlite3.IntegrityError) or not isinstance(origin, sqlite3.Error):
            raise
        raise StoreFailed(fault_of(origin), path, str(origin)[:120]) from None
    except sqlite3.Error as error:
        raise StoreFailed(fault_of(error), path, str(error)[:120]) from None
