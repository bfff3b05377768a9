"""The pace of polling, in virtual time."""

import random

import pytest

from keeper.chain.pace import Pace


def polls_per_head(interval_s: float, poll_s: float, *, jitter_s: float = 0.0, heads: int = 300) -> tuple[float, float]:
    """Simulate a chain; return the polls that a head costs and the mean delay, after a warm-up."""
    pace = Pace(poll_s)
    chance = random.Random(7)
    arrivals = [place * interval_s + 0.37 * interval_s + chance.uniform(0, jitter_s) for place in range(1, heads + 1)]
    number = polls = 0
    delay_s = 0.0
    now_s = 0.0
    while number < heads:
        now_s = max(now_s, pace.due_s)
        newest = sum(1 for arrival in arrivals if arrival <= now_s)
        polls += number >= 50
        if newest > number:
            if number >= 50:
                delay_s += now_s - arrivals[newest - 1]
            number = newest
            pace.arrived(number, now_s, is_polled=True)
        else:
            pace.missed(now_s)
    return polls / (heads - 50), delay_s / (heads - 50)


@pytest.mark.parametrize(("interval_s", "poll_s"), [(12.0, 1.0), (2.0, 0.25), (2.0, 1.0), (1.0, 0.1)])
def test_a_steady_chain_costs_about_one_poll_per_head(interval_s: float, poll_s: float) -> None:
    polls, delay_s = polls_per_head(interval_s, poll_s)
    assert polls < 1.25
    assert delay_s < poll_s / 2


def test_an_unsteady_chain_costs_little_more() -> None:
    polls, delay_s = polls_per_head(2.0, 0.25, jitter_s=0.3)
    assert polls < 1.5
    assert delay_s < 0.25


def test_a_chain_faster_than_the_polls_is_polled_at_the_poll_interval() -> None:
    pace = Pace(1.0)
    for at_s in range(20):
        pace.arrived(4 * at_s, float(at_s), is_polled=True)
    assert pace.due_s == pytest.approx(20.0)


def test_an_overdue_block_is_polled_for_at_the_poll_interval_and_not_faster() -> None:
    pace = Pace(0.5)
    pace.arrived(1, 10.0, is_polled=True)
    pace.missed(10.7)
    assert pace.due_s == pytest.approx(11.2)
    pace.failed(11.2, 1.0)
    assert pace.due_s == pytest.approx(12.2)


def test_a_long_stall_does_not_slow_the_polls_down() -> None:
    pace = Pace(0.5)
    for number in range(10):
        pace.arrived(number, 2.0 * number, is_polled=True)
    pace.arrived(10, 8_000.0, is_polled=True)
    assert pace.due_s - 8_000.0 <= 2.5
    assert pace.interval_s == pytest.approx(2.0, abs=0.05)
