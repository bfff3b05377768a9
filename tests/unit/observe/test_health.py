"""Readiness is the conjunction of its checks, each with a typed reason."""

import asyncio
from collections.abc import Callable

import pytest

from keeper.observe.health import Health, Thresholds, Why
from keeper.observe.heartbeat import beat
from tests.unit.observe.clock import StoppedClock

THRESHOLDS = Thresholds(max_head_age_s=60, max_evaluation_age_s=30, max_stuck_s=36, max_heartbeat_age_s=5)


def healthy(clock: StoppedClock) -> Health:
    health = Health(thresholds=THRESHOLDS, clock=clock)
    health.started()
    health.head(7, int(clock.unix))
    health.evaluated()
    health.endpoints(2)
    health.beat()
    return health


def reasons(health: Health) -> dict[str, Why]:
    is_ready, checks = health.readiness()
    assert is_ready == all(check.ok for check in checks)
    return {check.name: check.reason for check in checks if not check.ok}


def test_it_is_ready_when_everything_is_well() -> None:
    assert reasons(healthy(StoppedClock())) == {}


def test_it_is_not_ready_before_the_first_evaluation() -> None:
    health = Health(thresholds=THRESHOLDS, clock=StoppedClock())
    assert reasons(health) == {
        "lifecycle": Why.STARTING,
        "head": Why.NO_HEAD,
        "evaluation": Why.NOT_EVALUATED,
        "endpoints": Why.NO_HEALTHY_ENDPOINT,
    }
    health.started()
    health.head(1, 1_000_000)
    health.endpoints(1)
    assert reasons(health) == {"evaluation": Why.NOT_EVALUATED}


def test_a_block_that_is_stamped_ahead_of_our_clock_is_as_old_as_its_arrival() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    health.head(8, int(clock.unix) + 40)
    clock.forward(29)
    health.evaluated()
    assert reasons(health) == {"loop": Why.LOOP_BLOCKED}
    clock.forward(32)
    health.evaluated()
    health.beat()
    assert reasons(health) == {"head": Why.HEAD_TOO_OLD}


@pytest.mark.parametrize(
    ("fault", "cure", "check", "reason"),
    [
        (lambda h: h.stopping(), lambda h: h.started(), "lifecycle", Why.STOPPING),
        (lambda h: h.endpoints(0), lambda h: h.endpoints(1), "endpoints", Why.NO_HEALTHY_ENDPOINT),
        (lambda h: h.balance(is_low=True), lambda h: h.balance(is_low=False), "balance", Why.BALANCE_LOW),
        (lambda h: h.storage(is_ok=False), lambda h: h.storage(is_ok=True), "storage", Why.STORAGE_FAILED),
        (lambda h: h.head(7, 999_939), lambda h: h.head(8, 999_940), "head", Why.HEAD_TOO_OLD),
    ],
)
def test_each_fault_and_only_it_is_told_until_it_is_cured(
    fault: Callable[[Health], None], cure: Callable[[Health], None], check: str, reason: Why
) -> None:
    health = healthy(StoppedClock())
    fault(health)
    assert reasons(health) == {check: reason}
    cure(health)
    assert reasons(health) == {}


def test_what_is_not_reported_again_becomes_too_old() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    clock.forward(31)
    health.beat()
    assert reasons(health) == {"evaluation": Why.EVALUATION_TOO_OLD}
    clock.forward(30)
    health.beat()
    assert reasons(health) == {"evaluation": Why.EVALUATION_TOO_OLD, "head": Why.HEAD_TOO_OLD}


def test_a_nonce_counts_as_stuck_from_when_it_was_first_told() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    health.nonce(is_stuck=True)
    for _ in range(3):
        clock.forward(12)
        health.head(8, int(clock.unix))
        health.evaluated()
        health.beat()
        health.nonce(is_stuck=True)
        assert reasons(health) == {}
    clock.forward(1)
    assert reasons(health) == {"nonce": Why.NONCE_STUCK}
    health.nonce(is_stuck=False)
    assert reasons(health) == {}
    health.nonce(is_stuck=True)
    assert reasons(health) == {}


def test_the_values_behind_the_verdicts_are_told() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    clock.forward(2.5)
    values = {check.name: check.value for check in health.readiness()[1]}
    assert values["head"] == values["evaluation"] == values["loop"] == 2.5
    assert values["endpoints"] == 2
    assert {check.name: check.value for check in health.readiness(1_000_010.0)[1]}["head"] == 10


def test_a_block_from_the_future_is_young() -> None:
    health = healthy(StoppedClock())
    health.head(9, 2_000_000)
    assert reasons(health) == {}


def test_it_lives_while_the_loop_beats() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    clock.forward(5)
    assert health.liveness().ok
    clock.forward(0.1)
    assert (health.liveness().ok, health.liveness().reason) == (False, Why.LOOP_BLOCKED)
    health.beat()
    assert health.liveness().ok


async def test_the_heartbeat_beats_and_tells_how_late_it_is() -> None:
    clock = StoppedClock()
    health = healthy(clock)
    clock.forward(10)
    lags: asyncio.Queue[float] = asyncio.Queue()
    task = asyncio.create_task(beat(health, clock=clock, lag=lags.put_nowait, interval_s=0.001))
    await asyncio.sleep(0)
    assert health.liveness().ok
    clock.forward(3)
    assert await lags.get() == pytest.approx(2.999)
    task.cancel()
