"""Switches and budgets before every new transaction: they hold, they are told once, and a restart forgets none."""

from dataclasses import replace
from pathlib import Path

import pytest

from keeper.domain.outcome import Reason, Result
from keeper.execution.gate import Warden
from keeper.execution.verdicts import Accepted, Skipped, Verdict
from keeper.store.control import Control, Switches
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from tests.unit.execution.desk import ALICE, BOB, CAROL, CHAIN_ID, new_chain, signer
from tests.unit.execution.fake_chain import GAS, GWEI, plan_of
from tests.unit.execution.guarded import GENEROUS, guarded, limits

ROOM = GAS * 11 * GWEI
"""What one transaction costs that reverts."""


def skipped(verdicts: tuple[Verdict, ...], reason: Reason) -> list[str]:
    """Return the details of verdicts that are all skipped for one reason."""
    found = [each for each in verdicts if isinstance(each, Skipped)]
    assert len(found) == len(verdicts)
    assert {each.reason for each in found} == {reason}
    return [each.detail for each in found]


async def test_a_loss_budget_closes_after_the_loss_that_uses_it_up_and_opens_when_the_hour_is_over(tmp_path: Path):
    chain = new_chain(tmp_path)
    async with guarded(chain, limits(loss_per_hour_wei=2 * ROOM)) as one:
        await one.lose(ALICE)
        await one.lose(BOB)
        assert one.results == [Result.LOST, Result.LOST]
        chain.state.liquidatable.add(CAROL)
        (detail,) = skipped(await one.submit(CAROL), Reason.BUDGET)
        assert "loss_per_hour" in detail
        assert list(one.warden.holds) == ["loss_per_hour"]
        await one.heads(3)
        assert one.told_of("limit.tripped", "limit") == ["loss_per_hour"]  # once
    async with guarded(chain, limits(loss_per_hour_wei=2 * ROOM)) as again:
        skipped(await again.submit(CAROL), Reason.BUDGET)
        await again.wait(3_600)
        assert again.told_of("limit.lifted", "limit") == ["loss_per_hour"]
        (verdict,) = await again.submit(CAROL)
        assert isinstance(verdict, Accepted)


async def test_a_loss_counts_once_however_often_it_is_read_and_though_time_went_back(tmp_path: Path):
    chain = new_chain(tmp_path)
    async with guarded(chain, limits(loss_per_hour_wei=1)) as one:
        await one.lose(ALICE)
        await one.heads(80)
        assert one.warden.holds == {"loss_per_hour": f"{ROOM} of 1 wei lost"}
        earlier = replace(chain.head, timestamp_s=chain.head.timestamp_s - 300)
        await one.warden.refresh(earlier)
        await one.head()
        assert one.warden.holds == {"loss_per_hour": f"{ROOM} of 1 wei lost"}
    async with guarded(chain, limits(loss_per_hour_wei=1)) as again:
        assert again.warden.holds == {"loss_per_hour": f"{ROOM} of 1 wei lost"}


async def test_what_is_in_flight_is_still_looked_after_when_a_budget_is_used_up(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with guarded(chain, limits(loss_per_day_wei=1)) as one:
        await one.submit(ALICE, BOB)
        await one.head(rivals=[ALICE])
        assert one.sender.in_flight
        chain.base_fee = 40 * GWEI
        chain.state.liquidatable.add(CAROL)
        await one.heads(4)
        assert Result.WON in one.results
        assert list(one.warden.holds) == ["loss_per_day"]
        skipped(await one.submit(CAROL), Reason.BUDGET)


async def test_as_many_begin_in_a_minute_as_are_allowed_and_the_best_of_them(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB, CAROL)
    async with guarded(chain, limits(transactions_per_minute=2)) as one:
        first, second, third = await one.submit(ALICE, BOB, CAROL)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert skipped((third,), Reason.BUDGET) == ["transactions_per_minute: 2"]
        assert one.told_of("limit.tripped", "limit") == ["transactions_per_minute"]
        await one.head()
        skipped(await one.submit(CAROL), Reason.BUDGET)
    async with guarded(chain, limits(transactions_per_minute=2)) as again:
        skipped(await again.submit(CAROL), Reason.BUDGET)
        await again.wait(60)
        (verdict,) = await again.submit(CAROL)
        assert isinstance(verdict, Accepted)
        assert again.told_of("limit.lifted", "limit") == ["transactions_per_minute"]


async def test_losses_in_a_row_open_the_breaker_and_one_transaction_at_a_time_finds_out(tmp_path: Path):
    chain = new_chain(tmp_path)
    most = limits(breaker_losses=2, breaker_pause_s=60)
    async with guarded(chain, most) as one:
        await one.lose(ALICE)
        await one.lose(BOB)
        assert list(one.warden.holds) == ["breaker"]
        chain.state.liquidatable |= {ALICE, BOB, CAROL}
        skipped(await one.submit(CAROL), Reason.BUDGET)
        await one.wait(60)
        assert not one.warden.holds
        first, second, third = await one.submit(ALICE, BOB, CAROL)
        assert isinstance(first, Accepted)
        skipped((second, third), Reason.BUDGET)
        skipped(await one.submit(CAROL), Reason.BUDGET)
        await one.head(rivals=[ALICE])
        skipped(await one.submit(CAROL), Reason.BUDGET)  # mined, and not final: it has not decided yet
        await one.heads(2)
        assert one.results == [Result.LOST] * 3
        await one.wait(96)
        skipped(await one.submit(CAROL), Reason.BUDGET)  # twice as long
        await one.wait(12)
        assert one.told_of("limit.tripped", "limit") == ["breaker", "breaker"]
        (verdict,) = await one.submit(CAROL)
        assert isinstance(verdict, Accepted)
        await one.heads(3)
        assert one.results[-1] is Result.WON
        assert one.told_of("limit.lifted", "limit") == ["breaker"]
        assert isinstance((await one.submit(BOB))[0], Accepted)


async def test_a_restart_keeps_the_breaker_as_it_was_and_the_transaction_that_decides(tmp_path: Path):
    chain = new_chain(tmp_path)
    most = limits(breaker_losses=2, breaker_pause_s=60)
    async with guarded(chain, most) as one:
        await one.lose(ALICE)
        await one.lose(BOB)
    async with guarded(chain, most) as two:
        assert list(two.warden.holds) == ["breaker"]
        await two.wait(60)
        chain.state.liquidatable |= {BOB, CAROL}
        assert isinstance((await two.submit(CAROL))[0], Accepted)
    async with guarded(chain, most) as three:
        skipped(await three.submit(BOB), Reason.BUDGET)  # the one that decides is still on its way
        await three.heads(3)
        assert three.results == [Result.WON]
        assert isinstance((await three.submit(BOB))[0], Accepted)


async def test_a_transaction_that_never_left_decides_nothing_and_another_may_try(tmp_path: Path):
    chain = new_chain(tmp_path)
    most = limits(breaker_losses=1, breaker_pause_s=12)
    async with guarded(chain, most) as one:
        await one.lose(ALICE)
        await one.wait(24)
        chain.state.liquidatable |= {BOB}
        chain.state.balance = 0
        skipped(await one.submit(BOB), Reason.INSUFFICIENT_GAS_MONEY)
        chain.state.balance = 10**20
        assert isinstance((await one.submit(BOB))[0], Accepted)


async def test_nothing_begins_before_the_switches_were_read_nor_after_a_read_that_failed(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    assert chain.journal is not None
    database = await Database.open(chain.journal, CHAIN_ID)
    warden = Warden(Journal(database, signer().address), Control(database), GENEROUS)
    assert warden.is_halted
    assert warden.admit(3, chain.head)[:2] == (0, Reason.STORAGE)
    await warden.refresh(chain.head)
    assert not warden.is_halted
    assert warden.admit(3, chain.head) == (3, Reason.UNKNOWN, "")

    class Broken(Control):
        async def read(self) -> Switches:
            raise StoreFailed(Fault.LOCKED, Path("store"))

    failing = Warden(Journal(database, signer().address), Broken(database), GENEROUS)
    failing._switches = warden._switches
    with pytest.raises(StoreFailed):
        await failing.refresh(chain.head)
    assert failing.is_halted
    assert list(failing.holds) == ["switches_unknown"]
    assert failing.admit(1, chain.head)[0] == 0
    await database.close()


async def test_a_stranger_with_our_key_halts_for_good_where_the_operator_wants_that(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE, BOB)
    async with guarded(chain, halts_on_foreign=True) as one:
        await one.submit(ALICE)
        await one.head(foreign=1, is_empty=True)
        await one.heads(2)
        assert one.told_of("keeper.paused", "reason") == ["foreign_nonce"]
        skipped(await one.submit(BOB), Reason.OPERATOR_PAUSED)
    sent = len(chain.seen)
    async with guarded(chain, halts_on_foreign=True) as again:
        assert again.warden.is_halted
        assert (await again.control.read()).reason == "foreign_nonce"
        skipped(await again.submit(BOB), Reason.OPERATOR_PAUSED)
        await again.heads(3)
        assert len(chain.seen) == sent
        await again.control.set_halted(False, reason="", at_s=1)
        await again.head()
        assert again.told.names.count("keeper.resumed") == 1
        assert isinstance((await again.submit(BOB))[0], Accepted)


class FullDisk(Control):
    """Switches that can be read, and written once there is room again."""

    is_full = True

    async def set_halted(self, on: bool, *, reason: str, at_s: int) -> None:
        if self.is_full:
            raise StoreFailed(Fault.FULL, Path("store"))
        await super().set_halted(on, reason=reason, at_s=at_s)


async def test_a_halt_that_could_not_be_written_holds_all_the_same_until_it_can(tmp_path: Path):
    chain = new_chain(tmp_path)
    assert chain.journal is not None
    database = await Database.open(chain.journal, CHAIN_ID)
    control = FullDisk(database)
    warden = Warden(Journal(database, signer().address), control, GENEROUS, halts_on_foreign=True)
    await warden.refresh(chain.head)
    with pytest.raises(StoreFailed):
        await warden.intruded(chain.head, 3)
    assert warden.is_halted
    with pytest.raises(StoreFailed):
        await warden.refresh(chain.mine())
    assert warden.is_halted
    control.is_full = False
    await warden.refresh(chain.mine())
    assert warden.is_halted
    assert (await control.read()).reason == "foreign_nonce"
    await control.set_halted(False, reason="", at_s=1)
    await warden.refresh(chain.mine())
    assert not warden.is_halted
    await database.close()


async def test_a_stranger_with_our_key_is_only_told_of_where_the_operator_wants_to_go_on(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with guarded(chain) as one:
        await one.win(ALICE)
        chain.state.liquidatable.add(BOB)
        await one.submit(BOB)
        await one.head(foreign=2, is_empty=True)
        await one.heads(3)
        assert "tx.foreign_nonce" in one.told.names
        assert not one.warden.is_halted


async def test_a_plan_in_flight_for_another_account_is_no_news_to_the_budget(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    async with guarded(chain, limits(loss_per_hour_wei=1, breaker_losses=1)) as one:
        await one.win(ALICE)
        assert one.results == [Result.WON]
        assert not one.warden.holds
        assert plan_of(chain, ALICE).key not in one.sender.in_flight
