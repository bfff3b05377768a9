"""Some disk space kept beside the journal, given up when the disk is full, so that what is in flight can still be noted."""

import os
from pathlib import Path
from typing import Final, Self

RESERVE_BYTES: Final = 4 * 2**20
"""Room for thousands of commits, or for the journal's whole write-ahead log."""
_MIN_FREE_BYTES: Final = 16 * RESERVE_BYTES


class Reserve:
    """A file of nothing. It is made again once the disk has room."""

    def __init__(self, path: Path) -> None:
        """Look after the file."""
        self._path = path

    @classmethod
    def beside(cls, database: Path) -> Self:
        """Make the file beside a database, unless it is there, or the disk is too full for it: that is no failure."""
        reserve = cls(database.with_name(database.name + ".reserve"))
        reserve.renew()
        return reserve

    def renew(self) -> bool:
        """Make the file again where the disk has room for it; return whether it is there."""
        found = os.statvfs(self._path.parent)
        if not self.is_kept and found.f_bavail * found.f_frsize >= _MIN_FREE_BYTES:
            self._fill()
        return self.is_kept

    @property
    def is_kept(self) -> bool:
        """Return whether the space is still there to be given up."""
        return self._path.exists() and self._path.stat().st_size == RESERVE_BYTES

    def give_up(self) -> bool:
        """Free the space; return whether there was any."""
        was_kept = self.is_kept
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False
        return was_kept

    def _fill(self) -> None:
        """Take the space at once: a file that is only long has none on most file systems."""
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self.give_up()
