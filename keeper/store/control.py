"""The operator's switches, which a command sets beside the running keeper and which outlive both."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from keeper.store.database import Database
from keeper.store.schema import control
from keeper.store.upsert import upsert

_PAUSED: Final = "paused"
_HALTED: Final = "halted"
_ON: Final = "on"
_OFF: Final = "off"


@dataclass(frozen=True, slots=True)
class Switches:
    """What the operator has forbidden: nothing new while paused, nothing at all while halted.

    `reason` and `since_s` are those of the stricter switch that is on: empty and 0 where none is.
    """

    paused: bool
    halted: bool
    reason: str = ""
    since_s: int = 0


class Control:
    """The switches of a chain's store."""

    def __init__(self, database: Database) -> None:
        """Use an open database, the daemon's own or a second one on the same store."""
        self._database = database

    async def read(self) -> Switches:
        """Return the switches as they stand now.

        Raises: StoreFailed: a switch that cannot be read is not off.
        """
        rows = await self._database.run(lambda connection: connection.execute(select(control)).mappings().all())
        on = {row["name"]: row for row in rows if row["value"] != _OFF}
        stricter = on.get(_HALTED) or on.get(_PAUSED)
        if stricter is None:
            return Switches(paused=False, halted=False)
        return Switches(_PAUSED in on, _HALTED in on, stricter["reason"], stricter["at_s"])

    async def set_paused(self, on: bool, *, reason: str, at_s: int) -> None:  # noqa: FBT001 - a switch is a boolean
        """Allow or forbid new transactions; those in flight are still looked after.

        Raises: StoreFailed.
        """
        await self._set(_PAUSED, on, reason, at_s)

    async def set_halted(self, on: bool, *, reason: str, at_s: int) -> None:  # noqa: FBT001 - a switch is a boolean
        """Allow or forbid all transactions.

        Raises: StoreFailed.
        """
        await self._set(_HALTED, on, reason, at_s)

    async def _set(self, name: str, on: bool, reason: str, at_s: int) -> None:  # noqa: FBT001 - likewise
        row = {"name": name, "value": _ON if on else _OFF, "reason": reason[:256], "at_s": at_s}
        await self._database.run(lambda connection: upsert(connection, control, [row]))
