"""What a soak is asked for, and what it found: the report's own words."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Final

MIB: Final = 1_024


@dataclass(frozen=True)
class Wish:
    """How long, how often, how much. `gap_s`: the pause from one fault's beginning to the next one's.

    `lasting_s`: how long a fault lasts that has no length of its own.
    """

    seconds: float = 1_800.0
    seed: int = 1
    gap_s: tuple[float, float] = (20.0, 60.0)
    lasting_s: tuple[float, float] = (4.0, 12.0)
    positions: int = 60
    block_s: int = 1
    only: tuple[str, ...] = ()
    """Names of the faults to draw from; all where empty."""


@dataclass
class Sample:
    """One look at the keeper. `is_ready` None: it did not answer; `chain_block`: the node's own head."""

    at_s: float
    run: int
    chain_block: int
    rss_kib: int = 0
    descriptors: int = 0
    threads: int = 0
    tasks: int | None = None
    is_ready: bool | None = None
    reasons: tuple[str, ...] = ()
    head_age_s: float | None = None
    loop_lag_s: float = 0.0
    in_flight: int = 0
    nonce_gap: int = 0
    violations: int = 0
    won: int = 0


@dataclass
class Happened:
    """One fault. The recovery counts from its end to a pass at a block mined after it with `/readyz` saying yes.

    `longest_pause_s`: the longest time without a pass from its beginning to the recovery.
    """

    kind: str
    detail: str
    begin_s: float
    end_s: float
    end_block: int
    recovery_s: float | None = None
    recovery_blocks: int | None = None
    longest_pause_s: float = 0.0
    not_ready_after_s: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an invariant held, and the number or the defects behind that."""

    name: str
    meaning: str
    holds: bool
    detail: str


@dataclass
class Report:
    """Everything that is kept of a run."""

    started: str
    wish: Wish
    machine: dict[str, str]
    seconds: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    faults: list[Happened] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    alarms: dict[str, int] = field(default_factory=dict)
    """Warnings and errors that the keeper logged, by event."""

    @property
    def is_good(self) -> bool:
        return bool(self.verdicts) and all(each.holds for each in self.verdicts)


@dataclass(frozen=True)
class Trend:
    """One resource of one process: medians of the first and the last third, and the slope between them."""

    first: float
    last: float
    per_hour: float

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> "Trend | None":
        """Compare the ends of a series of (second, value); None where there is too little of it."""
        known = sorted(points)
        third = len(known) // 3
        if third < 3:
            return None
        head, tail = known[:third], known[-third:]
        first, last = median(value for _, value in head), median(value for _, value in tail)
        between_s = median(at_s for at_s, _ in tail) - median(at_s for at_s, _ in head)
        return cls(first, last, (last - first) * 3_600 / between_s)
