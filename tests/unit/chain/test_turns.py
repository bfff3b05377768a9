"""Turns at a node: priorities, budget, places."""

import asyncio

import pytest

from keeper.chain.turns import Priority, Turns


async def worked(turns: Turns, priority: Priority, done: list[Priority], calls: int = 1) -> None:
    async with turns.turn(priority, calls):
        done.append(priority)
        await asyncio.sleep(0.005)


async def test_who_waits_goes_by_priority_and_then_by_arrival() -> None:
    turns = Turns(calls_per_s=10_000, max_in_flight=1)
    done: list[Priority] = []
    order = [Priority.BACKFILL, Priority.READ, Priority.HEAD, Priority.RECEIPT, Priority.READ]
    await asyncio.gather(*(worked(turns, priority, done) for priority in order))
    assert done == sorted(order)
    await turns.close()


async def test_a_send_never_waits() -> None:
    turns = Turns(calls_per_s=1, max_in_flight=1)
    async with turns.turn(Priority.READ, 1):
        assert turns.in_flight == 1
        async with turns.turn(Priority.SEND, 1):
            assert turns.in_flight == 2
    assert turns.in_flight == 0
    await turns.close()


async def test_backfill_leaves_half_of_the_places() -> None:
    turns = Turns(calls_per_s=10_000, max_in_flight=4)
    release = asyncio.Event()
    held = 0

    async def hold(priority: Priority) -> None:
        nonlocal held
        async with turns.turn(priority, 1):
            held += 1
            await release.wait()

    tasks = [asyncio.create_task(hold(Priority.BACKFILL)) for _ in range(10)]
    await asyncio.sleep(0.05)
    assert (held, turns.waiting) == (2, 8)
    tasks += [asyncio.create_task(hold(Priority.HEAD)) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert held == 4
    release.set()
    await asyncio.gather(*tasks)
    assert held == 12
    await turns.close()


async def test_a_batch_costs_as_many_turns_as_it_has_calls() -> None:
    turns = Turns(calls_per_s=20, max_in_flight=10)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(2):
        async with turns.turn(Priority.READ, 20):
            pass
    assert loop.time() - started > 0.9


async def test_an_ordinary_blocks_calls_do_not_wait_for_each_other() -> None:
    turns = Turns(calls_per_s=20, max_in_flight=10)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for priority in (Priority.HEAD, Priority.HEAD, Priority.READ):
        async with turns.turn(priority, 1):
            pass
    assert loop.time() - started < 0.5
    await turns.close()


async def test_sends_cost_those_after_them_a_second_at_most() -> None:
    turns = Turns(calls_per_s=20, max_in_flight=10)
    for _ in range(500):
        async with turns.turn(Priority.SEND, 1):
            pass
    assert turns._debt == 20
    await turns.close()


async def test_a_cancelled_waiter_takes_no_place() -> None:
    turns = Turns(calls_per_s=10_000, max_in_flight=1)
    done: list[Priority] = []
    async with turns.turn(Priority.READ, 1):
        waiting = [asyncio.create_task(worked(turns, Priority.READ, done)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0.02)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(done) == 2
    assert (turns.in_flight, turns.waiting) == (0, 0)
    await turns.close()


async def test_a_pause_halves_the_budget_and_calls_bring_it_back() -> None:
    turns = Turns(calls_per_s=10_000, max_in_flight=4)
    period_s = turns._throttle.period
    turns.slow_down()
    assert turns._throttle.period == pytest.approx(2 * period_s)
    for _ in range(20):
        turns.slow_down()
    assert turns._throttle.period == pytest.approx(32 * period_s)
    for _ in range(2_000):
        turns._recover(1)
    assert turns._throttle.period == pytest.approx(period_s)


async def test_closing_lets_nobody_wait_for_ever() -> None:
    turns = Turns(calls_per_s=10_000, max_in_flight=1)
    done: list[Priority] = []
    async with turns.turn(Priority.READ, 1):
        waiting = asyncio.create_task(worked(turns, Priority.READ, done))
        await asyncio.sleep(0)
        await turns.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
