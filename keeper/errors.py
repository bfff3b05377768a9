"""Errors, named by the reaction they demand.

KeeperError
├── Fatal                 stop the process; each kind has its exit code
│   ├── ConfigurationError    3  the settings or the chain file are wrong
│   ├── Unsafe                4  preflight failed, or going on could lose money
│   ├── AlreadyRunning        5  another instance holds this key and chain
│   │   └── Fenced                it took them over while this one was paused or cut off
│   └── StorageFailed         6  the journal cannot be written or trusted
├── Transient             the door retries, then asks another endpoint
├── Stale                 drop this head's work: the chain has moved on
└── Invalid               a value no contract could hold: quarantine that account and raise an alert
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """The process's stable exit codes."""

    DONE = 0
    CRASHED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNSAFE = 4
    ALREADY_RUNNING = 5
    STORAGE = 6
    UNSENT = 7
    """Transactions were printed, for somebody else to sign and send."""


class KeeperError(Exception):
    """The root of every error that the keeper raises on purpose."""


class Fatal(KeeperError):
    """Stop the process with `exit_code`."""

    exit_code = ExitCode.CRASHED


class ConfigurationError(Fatal):
    """Carry every problem of a configuration, never the offending values."""

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, *problems: str) -> None:
        """Keep each problem as one line that names the setting and the cure."""
        self.problems = problems
        super().__init__("\n".join(problems))


class Unsafe(Fatal):
    """Refuse to go on: a preflight check failed, or an invariant that protects money is broken."""

    exit_code = ExitCode.UNSAFE


class AlreadyRunning(Fatal):
    """Another instance owns this state directory."""

    exit_code = ExitCode.ALREADY_RUNNING


class Fenced(AlreadyRunning):
    """The lease on this key and chain is lost: another instance may have taken it over."""


class StorageFailed(Fatal):
    """The durable store cannot be read, written or trusted."""

    exit_code = ExitCode.STORAGE


class Transient(KeeperError):
    """A request failed in a way that another try or another endpoint may cure."""


class Stale(KeeperError):
    """The block that this work was for is gone."""


class Invalid(KeeperError):
    """A value arrived that no contract could hold."""
