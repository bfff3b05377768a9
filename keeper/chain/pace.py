"""When to look for the next block: learnt from when the last ones came. Pure; time comes in."""

from collections import deque
from itertools import pairwise
from statistics import median
from typing import Final

_RECENT: Final = 9
_BASELINE: Final = 64
_ODD_FACTOR: Final = 3.0
_LONGEST_INTERVAL_S: Final = 15.0
_FIRST_STEP: Final = 1 / 4
_FINEST_STEP: Final = 1 / 64
_COARSEST_STEP: Final = 1 / 2
_STEP_GROWTH: Final = 1.5
_PATIENT_HITS: Final = 8
_AFTER_MISS: Final = 1 / 8


class Pace:
    """Aims the next poll just after the next block is expected, so that one poll finds it.

    A poll that finds a block at once moves the aim a little earlier; one that comes too early moves it to just after
    itself. Steps shrink with every miss and grow with a long run of hits. While a block is overdue, polls follow
    each other at `poll_interval_s`.
    """

    def __init__(self, poll_interval_s: float) -> None:
        """Poll at once, knowing nothing."""
        self._poll_interval_s = poll_interval_s
        self._seen: deque[tuple[int, float]] = deque(maxlen=_BASELINE)
        self._missed_s: float | None = None
        self._step = _FIRST_STEP
        self._hits_in_row = 0
        self._misses_in_row = 0
        self.due_s = 0.0

    @property
    def interval_s(self) -> float:
        """Return the expected time between blocks, at least the poll interval."""
        longest = max(_LONGEST_INTERVAL_S, self._poll_interval_s)
        return min(max(self._known_interval_s(), self._poll_interval_s), longest)

    def missed(self, now_s: float) -> None:
        """Take a poll that found nothing new."""
        self._missed_s = now_s
        self.due_s = now_s + self._poll_interval_s

    def failed(self, now_s: float, pause_s: float) -> None:
        """Take a poll that got no answer."""
        self.due_s = now_s + max(pause_s, self._poll_interval_s)

    def arrived(self, number: int, now_s: float, *, is_polled: bool) -> None:
        """Take a new block."""
        seen_s = self._first_seen_s(now_s) if is_polled else now_s
        self._note(number, seen_s)
        self.due_s = max(seen_s + self.interval_s, now_s + self._poll_interval_s)
        self._missed_s = None

    def _note(self, number: int, seen_s: float) -> None:
        """Remember when the block came; forget all before a pause that is out of the ordinary."""
        known_s = self._known_interval_s()
        if self._seen:
            last_number, last_s = self._seen[-1]
            is_back = number <= last_number
            if is_back or (known_s and seen_s - last_s > _ODD_FACTOR * known_s * (number - last_number)):
                self._seen.clear()
                if known_s:
                    self._seen.append((number - 1, seen_s - known_s))
        self._seen.append((number, seen_s))

    def _known_interval_s(self) -> float:
        """Return the mean over all blocks remembered, where the recent ones agree with it, else their median."""
        if len(self._seen) < 2:
            return 0.0
        (first, first_s), (last, last_s) = self._seen[0], self._seen[-1]
        mean_s = (last_s - first_s) / (last - first)
        recent = list(self._seen)[-_RECENT:]
        middle_s = median((b_s - a_s) / (b - a) for (a, a_s), (b, b_s) in pairwise(recent))
        return mean_s if abs(mean_s - middle_s) <= self._poll_interval_s else middle_s

    def _first_seen_s(self, now_s: float) -> float:
        """Return the estimated time at which a polled block could first have been seen."""
        if self._missed_s is None:
            self._misses_in_row = 0
            self._hits_in_row += 1
            if self._hits_in_row > _PATIENT_HITS:
                self._step = min(self._step * _STEP_GROWTH, _COARSEST_STEP)
            return now_s - self._step * self._poll_interval_s
        later = min(_AFTER_MISS * (1 << self._misses_in_row), 1.0)
        self._misses_in_row = min(self._misses_in_row + 1, 3)
        self._hits_in_row = 0
        self._step = max(self._step / 2, _FINEST_STEP)
        return min(self._missed_s + later * self._poll_interval_s, now_s)
