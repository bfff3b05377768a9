"""What the network door tells whoever watches it. Observing never decides."""

import asyncio
from typing import Any, Final, Protocol, TypeVar

LASTING: Final = "lasting"
"""What marks the context of the loop's exception handler where a task ended that should last for ever."""

TaskT = TypeVar("TaskT", bound=asyncio.Task[Any])


class Observer(Protocol):
    """A sink of facts; it must not raise and must not block."""

    def request(self, *, node: str, method: str, result: str, seconds: float, requests: int) -> None:
        """Count one exchange with a node: `requests` JSON-RPC calls that shared one round trip.

        `method` is "batch" when the calls differ; `result` is "ok" or a failure's label.
        """
        ...

    def event(self, name: str, /, **fields: object) -> None:
        """Take one event of the catalogue; fields hold aliases and numbers, never an address of a node."""
        ...


class SilentObserver:
    """Ignore everything."""

    def request(self, *, node: str, method: str, result: str, seconds: float, requests: int) -> None:
        """Ignore an exchange."""

    def event(self, name: str, /, **fields: object) -> None:
        """Ignore an event."""


def lasting(task: TaskT) -> TaskT:
    """Let the loop's exception handler know where a task that should last for ever ends by an error."""
    task.add_done_callback(_died)
    return task


def _died(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        context = {"message": f"{task.get_name()} died", "exception": error, LASTING: True}
        task.get_loop().call_exception_handler(context)
