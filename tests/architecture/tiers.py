"""What the suite allows its tests: a tier for each, and nothing beyond this machine for any."""

import ipaddress
from pathlib import Path
from typing import Any

PURE_TIERS = ("architecture", "unit", "properties")
CHAIN_TIERS = ("parity", "faults", "e2e")
BENCH = "bench"


def tier_of(test: Path, tests: Path) -> str:
    """Return the tier that a test's folder gives it.

    Raises: LookupError when it has none.
    """
    tier = test.relative_to(tests).parts[0]
    if tier not in {*PURE_TIERS, *CHAIN_TIERS, BENCH}:
        raise LookupError(f"{test.relative_to(tests)} belongs to no tier: {', '.join((*PURE_TIERS, *CHAIN_TIERS))}")
    return tier


def is_outside(host: str | bytes | None) -> bool:
    """Return whether a host name or address may lie beyond this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return False
    try:
        address = ipaddress.ip_address(str(name))
    except ValueError:
        return True
    return not (address.is_loopback or address.is_unspecified)


class Border:
    """Refuses and remembers every attempt to leave this machine. uvloop raises no audit events: no test uses it."""

    def __init__(self) -> None:
        self.attempts: list[str] = []

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Stop an event that leads outside."""
        match event, arguments:
            case "socket.getaddrinfo", (host, *_):
                pass
            case "socket.connect" | "socket.sendto" | "socket.sendmsg", (_, (host, *_)):
                pass
            case _:
                return
        if is_outside(host):
            self.attempts.append(f"{event} {host!r}")
            raise PermissionError(f"a test may not leave this machine: {self.attempts[-1]}")


BORDER = Border()
