"""Named steps at which a test makes the process die, fail, hang or stop. Off unless the operator of a test chain asks.

A description is a list of `step=deed`, as in `after_sign=exit137, before_send=stall:3, after_commit=raise@2`: what to do at
a step, and at which of the times that it is reached, the first where nothing is said.
"""

import os
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from keeper.domain.units import Wei
from keeper.errors import ConfigurationError
from keeper.execution.ports import Observer

STEPS: Final = frozenset(
    {
        "after_decide",
        "after_nonce",
        "after_intent_commit",
        "after_sign",
        "after_commit",
        "before_send",
        "after_send_before_ack",
        "after_ack",
        "before_receipt_commit",
        "after_receipt_commit",
        "mid_migration",
        "mid_snapshot",
        "mid_shutdown",
    }
)
"""Every step that can be named."""

TEST_CHAINS: Final = frozenset({1_337, 31_337})
"""The chains on which nothing is worth anything."""

_LONGEST_STALL_S: Final = 600.0
_ONE: Final = re.compile(
    r"(?P<step>\w+)\s*=\s*(?P<deed>[a-z]+(?:137)?)(?::(?P<stall>\d+(?:\.\d+)?))?(?:@(?P<at>[1-9]\d{0,5}))?"
)
_FORM: Final = (
    "KEEPER_FAILPOINTS: write step=exit137, step=raise, step=stall:SECONDS or step=stop, with @N for the N-th time"
)


class FailpointReached(RuntimeError):
    """A step at which the process was told to fail. Nothing in the program expects it."""


class Deed(StrEnum):
    """What happens at a step."""

    EXIT = "exit137"
    """The process is killed: no handler runs, nothing is flushed."""
    RAISE = "raise"
    """An error that nobody foresaw."""
    STALL = "stall"
    """The whole process stands still for a while."""
    STOP = "stop"
    """The whole process stands still until it is told to go on."""


@dataclass(frozen=True, slots=True)
class Failpoint:
    """What is done at a step, the `at`-th time that it is reached."""

    step: str
    deed: Deed
    at: int = 1
    stall_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Failpoints:
    """What is to go wrong in this process."""

    points: tuple[Failpoint, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a description; an empty one is nothing.

        Raises: ConfigurationError, which names every part that is wrong.
        """
        points: list[Failpoint] = []
        problems: list[str] = []
        for part in filter(None, map(str.strip, text.split(","))):
            found = _read(part)
            if isinstance(found, str):
                problems.append(found)
            else:
                points.append(found)
        if problems:
            raise ConfigurationError(*problems)
        return cls(tuple(points))

    def allow_on(self, chain_id: int) -> None:
        """Let nothing go wrong on purpose where there is something to lose.

        Raises: ConfigurationError.
        """
        if self.points and chain_id not in TEST_CHAINS:
            raise ConfigurationError(
                f"KEEPER_FAILPOINTS: only for chains {sorted(TEST_CHAINS)}, and this is chain {chain_id}: unset it"
            )


class Saboteur:
    """Tells the observer everything, and does at each step what the failpoints say."""

    def __init__(self, observer: Observer, failpoints: Failpoints) -> None:
        """Stand before `observer`."""
        self._observer = observer
        self._points = failpoints.points
        self._reached: Counter[str] = Counter()

    def event(self, name: str, /, **fields: object) -> None:
        """Pass an event on."""
        self._observer.event(name, **fields)

    def reached(self, step: str, /) -> None:
        """Pass a step on, then go wrong where that is wanted.

        Raises: FailpointReached.
        """
        self._observer.reached(step)
        self._reached[step] += 1
        for point in self._points:
            if point.step == step and point.at == self._reached[step]:
                _do(point)

    def transaction(self, state: str) -> None:
        """Pass a count on."""
        self._observer.transaction(state)

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Pass the lane's numbers on."""
        self._observer.lane(mined_nonce=mined_nonce, next_nonce=next_nonce, in_flight=in_flight, gap=gap)

    def gas_spent(self, cost_wei: Wei) -> None:
        """Pass a cost on."""
        self._observer.gas_spent(cost_wei)

    def inclusion(self, blocks: int) -> None:
        """Pass a wait on."""
        self._observer.inclusion(blocks)


def _read(part: str) -> Failpoint | str:
    """Read one part, or say what is wrong with it."""
    found = _ONE.fullmatch(part)
    if found is None:
        return f"{_FORM}, not {part[:60]!r}"
    step, name, stall = found["step"], found["deed"], found["stall"]
    if step not in STEPS:
        return f"KEEPER_FAILPOINTS: there is no step {step[:60]!r}; there are {', '.join(sorted(STEPS))}"
    if name not in set(Deed):
        return f"{_FORM}, not {part[:60]!r}"
    deed = Deed(name)
    if (stall is not None) is not (deed is Deed.STALL):
        return f"{_FORM}: seconds belong to stall, and to nothing else, in {part[:60]!r}"
    stall_s = float(stall or 0)
    if stall_s > _LONGEST_STALL_S:
        return f"KEEPER_FAILPOINTS: {step} stalls for more than {_LONGEST_STALL_S:.0f} seconds"
    return Failpoint(step, deed, int(found["at"] or 1), stall_s)


def _do(point: Failpoint) -> None:
    match point.deed:
        case Deed.EXIT:
            os.kill(os.getpid(), signal.SIGKILL)
        case Deed.STOP:
            os.kill(os.getpid(), signal.SIGSTOP)
        case Deed.STALL:
            time.sleep(point.stall_s)
        case Deed.RAISE:
            raise FailpointReached(f"failpoint {point.step}")
