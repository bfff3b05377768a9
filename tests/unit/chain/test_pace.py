"""The pace of polling, in virtual time."""

import random
from dataclasses import dataclass, field
from statistics import mean, median

import pytest

from keeper.chain.pace import Pace

INTERVALS_S = (0.25, 0.45, 1.0, 2.0, 12.0)
POLLS_S = (0.05, 0.1, 1.0)
PHASES = tuple(place / 12 + 1 / 24 for place in range(12))
STEADY = 32
"""How many heads the pace may learn from; on a chain of several blocks a second the timestamps are coarse."""


@dataclass(frozen=True)
class Taken:
    """A head that a poll found: how late the poll was, how many polls it took, how many blocks it brought."""

    late_s: float
    polls: int
    blocks: int
    at_s: float


@dataclass
class World:
    """A chain whose blocks come at an interval; `phase`: how much of a block had passed when we started."""

    interval_s: float
    phase: float = 0.37
    jitter_s: float = 0.0
    answer_s: float = 0.002
    stall: tuple[float, float] | None = None
    missed: frozenset[int] = frozenset()
    stamp_factor: float = 1.0
    heads: int = 100
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def run(self, poll_s: float) -> list[Taken]:
        slots = [slot for slot in range(4 * self.heads) if slot not in self.missed]
        born = [(slot - self.phase) * self.interval_s + self.chance.uniform(0, self.jitter_s) for slot in slots]
        stamps = [int(1_700_000_000.37 + slot * self.interval_s * self.stamp_factor) for slot in slots]
        pace, taken = Pace(poll_s), list[Taken]()
        now_s, newest, known, polls = 0.0, 0, -1, 0
        while len(taken) < self.heads and newest < 3 * self.heads:
            now_s = max(now_s, pace.due_s)
            if self.stall is not None and self.stall[0] <= now_s < self.stall[1]:
                now_s = self.stall[1]
            while born[newest + 1] <= now_s:
                newest += 1
            asked_s, now_s, polls = now_s, now_s + self.answer_s, polls + 1
            if newest > known:
                taken.append(Taken(asked_s - born[newest], polls, newest - known, asked_s))
                pace.arrived(1_000 + newest, stamps[newest], now_s, is_polled=True)
                known, polls = newest, 0
            else:
                pace.missed(now_s)
        return taken


@pytest.mark.parametrize("poll_s", POLLS_S)
@pytest.mark.parametrize("interval_s", INTERVALS_S)
@pytest.mark.parametrize("jitter", [0.0, 0.5])
def test_a_steady_chain_costs_about_one_poll_per_head_wherever_in_a_block_we_started(
    interval_s: float, poll_s: float, jitter: float
) -> None:
    step_s = min(interval_s, poll_s)
    for phase in PHASES:
        taken = World(interval_s, phase, jitter_s=jitter * step_s).run(poll_s)[STEADY:]
        assert mean(each.polls for each in taken) <= 1.5
        # On a chain as fast as the polls, or faster, a block is found anywhere within its time.
        assert median(each.late_s for each in taken) <= (0.45 * poll_s if interval_s > poll_s else interval_s)


@pytest.mark.parametrize(("interval_s", "poll_s"), [(1.0, 0.1), (2.0, 0.1), (12.0, 0.1), (12.0, 1.0)])
def test_a_start_shortly_before_a_block_does_not_teach_a_short_interval(interval_s: float, poll_s: float) -> None:
    taken = World(interval_s, 1 - 0.24 / interval_s).run(poll_s)
    assert mean(each.polls for each in taken[4:]) <= 1.5


@pytest.mark.parametrize(("interval_s", "poll_s"), [(0.45, 0.1), (1.0, 0.05), (1.0, 0.1), (2.0, 0.1), (12.0, 1.0)])
def test_a_stall_of_the_loop_makes_no_head_late_but_the_one_it_hits(interval_s: float, poll_s: float) -> None:
    for phase in PHASES:
        at_s = (60 - phase) * interval_s - 0.01
        taken = World(interval_s, phase, stall=(at_s, at_s + 0.36)).run(poll_s)
        after = [each for each in taken if each.at_s > at_s + 0.37][:16]
        assert mean(each.late_s for each in after) <= 0.4 * poll_s
        assert max(each.late_s for each in after) <= 1.1 * poll_s


@pytest.mark.parametrize(("interval_s", "poll_s"), [(1.0, 0.1), (2.0, 0.1), (12.0, 1.0)])
def test_a_slow_answer_does_not_move_the_aim_later_with_every_head(interval_s: float, poll_s: float) -> None:
    taken = World(interval_s, answer_s=0.15).run(poll_s)[STEADY:]
    assert mean(each.polls for each in taken) <= 1.5
    assert max(each.late_s for each in taken) <= poll_s + 0.16


@pytest.mark.parametrize(("interval_s", "poll_s"), [(1.0, 0.1), (2.0, 0.1), (12.0, 1.0)])
def test_missed_slots_do_not_make_the_heads_after_them_late(interval_s: float, poll_s: float) -> None:
    taken = World(interval_s, missed=frozenset(range(20, 400, 17))).run(poll_s)[STEADY:]
    assert mean(each.late_s for each in taken) <= 0.6 * poll_s
    assert max(each.late_s for each in taken) <= 1.1 * poll_s


@pytest.mark.parametrize("stamp_factor", [0.1, 12.0])
def test_timestamps_that_contradict_the_arrivals_are_not_believed(stamp_factor: float) -> None:
    taken = World(1.0, stamp_factor=stamp_factor).run(0.1)[STEADY:]
    assert mean(each.polls for each in taken) <= 1.5
    assert median(each.late_s for each in taken) <= 0.1
    assert all(each.blocks == 1 for each in taken)


def test_an_unsteady_chain_costs_little_more() -> None:
    taken = World(2.0, jitter_s=0.3).run(0.25)[STEADY:]
    assert mean(each.polls for each in taken) <= 1.5
    assert mean(each.late_s for each in taken) < 0.25


def test_pushed_heads_teach_the_interval_too() -> None:
    pace = Pace(0.1)
    pace.arrived(1, 1_000, 0.9, is_polled=True)
    for number in range(2, 8):
        pace.arrived(number, 998 + 2 * number, 2.0 * number - 3, is_polled=False)
    assert pace.interval_s == pytest.approx(2.0)
    assert pace.due_s == pytest.approx(13.0)


def test_a_reorganisation_leaves_what_is_known_of_the_interval() -> None:
    pace = Pace(0.5)
    for number in range(10):
        pace.arrived(number, 2 * number, 2.0 * number, is_polled=False)
    for number in (8, 9, 10):
        pace.arrived(number, 2 * number, 19.0 + 0.1 * number, is_polled=False)
    assert pace.interval_s == pytest.approx(2.0, abs=0.3)


def test_a_chain_faster_than_the_polls_is_polled_at_the_poll_interval() -> None:
    pace = Pace(1.0)
    for at_s in range(20):
        pace.arrived(4 * at_s, at_s, float(at_s), is_polled=True)
    assert pace.due_s == pytest.approx(20.0)


def test_an_overdue_block_is_polled_for_at_the_poll_interval_and_not_faster() -> None:
    pace = Pace(0.5)
    assert not pace.is_known
    pace.arrived(1, 10, 10.0, is_polled=True)
    pace.missed(10.7)
    assert pace.due_s == pytest.approx(11.2)
    pace.failed(11.2, 1.0)
    assert pace.due_s == pytest.approx(12.2)


def test_a_long_stall_of_the_chain_does_not_slow_the_polls_down() -> None:
    pace = Pace(0.5)
    for number in range(10):
        pace.arrived(number, 2 * number, 2.0 * number, is_polled=True)
    pace.missed(7_999.9)
    pace.arrived(10, 8_000, 8_000.0, is_polled=True)
    assert pace.due_s - 8_000.0 <= 2.5
    assert pace.interval_s == pytest.approx(2.0, abs=0.05)
