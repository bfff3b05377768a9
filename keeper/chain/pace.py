"""When to look for the next block: learnt from when the last ones came. Pure; time comes in."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import Final

_BASELINE: Final = 64
_LONGEST_INTERVAL_S: Final = 15.0
_SKIPS_BRIDGED: Final = 8
_GRAIN_S: Final = 1.0
_ODD_ARRIVAL: Final = 1.5
_ODD_STAMP: Final = 3.0
_STAMP_DOUBT: Final = 1 / 4
_FIRST_STEP: Final = 1 / 4
_FINEST_STEP: Final = 1 / 16
_COARSEST_STEP: Final = 1 / 2
_STEP_GROWTH: Final = 1.5
_PATIENT_HITS: Final = 8
_AFTER_MISS: Final = 1 / 4


@dataclass(frozen=True, slots=True)
class _Seen:
    number: int
    timestamp_s: int
    at_s: float


class Pace:
    """Aims the next poll just after the next block is expected, so that one poll finds it.

    The interval comes from the blocks' own timestamps, which no late poll can spoil, or from their arrivals where
    those contradict them. A poll that finds a block at once moves the aim a little earlier; one that comes too early
    moves it to just after itself. Steps shrink with every miss and grow with a long run of hits. While a block is
    overdue, polls follow each other at `poll_interval_s`.
    """

    def __init__(self, poll_interval_s: float) -> None:
        """Poll at once, knowing nothing."""
        self._poll_interval_s = poll_interval_s
        self._seen: deque[_Seen] = deque(maxlen=_BASELINE)
        self._is_begun = False
        self._known_interval_s = 0.0
        self._expected_s: float | None = None
        self._missed_s: float | None = None
        self._step = _FIRST_STEP
        self._hits_in_row = 0
        self._misses_in_row = 0
        self.due_s = 0.0

    @property
    def interval_s(self) -> float:
        """Return the expected time between blocks, at least the poll interval."""
        longest = max(_LONGEST_INTERVAL_S, self._poll_interval_s)
        return min(max(self._known_interval_s, self._poll_interval_s), longest)

    @property
    def is_known(self) -> bool:
        """Return whether the interval is more than a guess."""
        return self._known_interval_s > 0

    def missed(self, now_s: float) -> None:
        """Take a poll that found nothing new."""
        self._missed_s = now_s
        self.due_s = now_s + self._poll_interval_s

    def failed(self, now_s: float, pause_s: float) -> None:
        """Take a poll that got no answer."""
        self.due_s = now_s + max(pause_s, self._poll_interval_s)

    def arrived(self, number: int, timestamp_s: int, now_s: float, *, is_polled: bool) -> None:
        """Take a new block."""
        aim_s = self._aim_s(number, now_s) if is_polled else now_s
        self._note(_Seen(number, timestamp_s, now_s if aim_s is None else aim_s))
        # Nothing told when the block came: poll on until a miss does.
        self._expected_s = None if aim_s is None else aim_s + self.interval_s
        self.due_s = max(self._expected_s or 0.0, now_s + self._poll_interval_s)
        self._missed_s = None

    def _aim_s(self, number: int, now_s: float) -> float | None:
        """Return when the poll that found the block had best been made; None where nothing tells."""
        if self._missed_s is None:
            return self._after_hit_s(number, now_s)
        later = min(_AFTER_MISS * (1 << self._misses_in_row), 1.0)
        self._misses_in_row = min(self._misses_in_row + 1, 2)
        self._hits_in_row = 0
        self._step = max(self._step / 2, _FINEST_STEP)
        return min(self._missed_s + later * self._poll_interval_s, now_s)

    def _after_hit_s(self, number: int, now_s: float) -> float | None:
        """Count from when the block was expected: the poll itself may have been held up, or slow."""
        self._misses_in_row = 0
        self._hits_in_row += 1
        if self._hits_in_row > _PATIENT_HITS:
            self._step = min(self._step * _STEP_GROWTH, _COARSEST_STEP)
        skipped = max(number - self._seen[-1].number - 1, 0) if self._seen else 0
        if self._expected_s is None or skipped > _SKIPS_BRIDGED:
            return None
        return min(self._expected_s + skipped * self.interval_s, now_s) - self._step * self._poll_interval_s

    def _note(self, seen: _Seen) -> None:
        """Remember the block. The very first one was found anywhere within its time, so its arrival says nothing."""
        while self._seen and self._seen[-1].number >= seen.number:
            self._seen.pop()
        if not self._is_begun and self._seen:
            self._seen.clear()
            self._is_begun = True
        self._seen.append(seen)
        self._known_interval_s = self._learnt_interval_s()

    def _learnt_interval_s(self) -> float:
        """Return the mean by the timestamps, or by the arrivals where those contradict them or there are too few."""
        # Of several blocks with one timestamp the first is the least late after it.
        edges = [later for sooner, later in pairwise(self._seen) if later.timestamp_s > sooner.timestamp_s]
        steps = self._usual([_Step.between(a, b) for a, b in pairwise(edges)])
        if steps:
            stamped_s, arrived_s = sum(step.stamped_s for step in steps), sum(step.arrived_s for step in steps)
            doubt_s = _GRAIN_S + self._poll_interval_s + _STAMP_DOUBT * stamped_s
            if abs(stamped_s - arrived_s) <= doubt_s:
                return stamped_s / sum(step.blocks for step in steps)
        steps = self._usual([_Step.between(a, b) for a, b in pairwise(self._seen)])
        return sum(step.arrived_s for step in steps) / sum(step.blocks for step in steps) if steps else 0.0

    def _usual(self, steps: Sequence["_Step"]) -> list["_Step"]:
        """Leave out the steps over a missed slot, a pause of the chain, or a jump of its clock."""
        if not steps:
            return []
        longest_s = _ODD_ARRIVAL * median_low(step.arrived_s / step.blocks for step in steps) + self._poll_interval_s
        furthest_s = _ODD_STAMP * median_low(step.stamped_s / step.blocks for step in steps) + _GRAIN_S
        return [
            step
            for step in steps
            if step.arrived_s <= longest_s * step.blocks and step.stamped_s <= furthest_s * step.blocks
        ]


@dataclass(frozen=True, slots=True)
class _Step:
    """From one remembered block to the next one."""

    blocks: int
    stamped_s: int
    arrived_s: float

    @classmethod
    def between(cls, sooner: _Seen, later: _Seen) -> "_Step":
        return cls(later.number - sooner.number, later.timestamp_s - sooner.timestamp_s, later.at_s - sooner.at_s)
