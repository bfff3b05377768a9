"""What the network door tells whoever watches it. Observing never decides."""

from typing import Protocol


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
