"""What is done with the proceeds of earlier liquidations, beside the candidates."""

from dataclasses import replace

import pytest

from keeper.domain.mode import Mode
from keeper.domain.outcome import Reason
from keeper.domain.plan import Inventory
from keeper.domain.position import Action, PositionKey
from keeper.domain.units import Address, Base, PositionId, TokenAmount, Wei
from keeper.engine.limits import Limits
from keeper.engine.plan import Chore, Planned, Policy, plan
from keeper.engine.scan import MarketBook
from tests.toy import CASH, POOL, RECEIPT, ToyPosition, ToyReader, ToySnapshot, account, address, head, toy_market

SIGNER = address(77)
POLICY = Policy(Mode.LIVE, Base(10**8), Base(10**6 * 10**8), 10, SIGNER)
RICH = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**9)}, {(CASH.address, POOL): TokenAmount(10**9)})
KEY = PositionKey("toy", PositionId(SIGNER + RECEIPT.address))
SNAPSHOT = ToySnapshot(head(), proceeds=(RECEIPT,))


def chore(snapshot: ToySnapshot = SNAPSHOT, *, owner: Address = SIGNER) -> Chore:
    market = toy_market(ToyReader())
    held = {RECEIPT.address: TokenAmount(2)}
    (step,) = market.rules.settlements(owner, held, snapshot, snapshot.head.landing(12))
    return Chore(market, snapshot, step)


def planned(
    *chores: Chore, policy: Policy = POLICY, limits: Limits | None = None, positions: tuple[ToyPosition, ...] = ()
) -> Planned:
    snapshot = ToySnapshot(head())
    books = MarketBook(toy_market(ToyReader()))
    books.put(list(positions), snapshot)
    found = books.scan(snapshot, snapshot.head.landing(12))
    return plan(snapshot.head, found.candidates, RICH, limits or Limits(), policy, chores=chores)


def test_a_chore_that_pays_for_its_gas_is_planned_without_a_decision() -> None:
    result = planned(chore())
    assert result.decisions == ()
    assert result.batch is not None
    assert result.batch.approvals == ()
    (made,) = result.batch.plans
    assert made.key == KEY
    assert made.key.account == SIGNER
    assert made.opportunity.action is Action.SETTLE
    assert made.call.to == RECEIPT.address
    assert made.min_profit_base == 0


def test_a_chore_comes_behind_the_plans_and_beyond_their_number() -> None:
    risky = tuple(ToyPosition(account(number), 100, 9_000) for number in (1, 2))
    result = planned(chore(), policy=replace(POLICY, max_plans=1), positions=risky)
    assert result.batch is not None
    assert [each.key.id for each in result.batch.plans] == [account(1), KEY.id]
    assert [each.reason for each in result.decisions] == [Reason.BATCH_FULL]
    assert len({each.id for each in result.batch.plans}) == 2


@pytest.mark.parametrize("mode", [each for each in Mode if each is not Mode.LIVE])
def test_only_live_mode_does_chores(mode: Mode) -> None:
    assert planned(chore(), policy=replace(POLICY, mode=mode)) == Planned((), None)


def test_a_chore_in_flight_is_not_planned_again() -> None:
    limits = Limits()
    limits.lock(KEY, "plan")
    assert planned(chore(), limits=limits).batch is None
    limits.release(KEY)
    assert planned(chore(), limits=limits).batch is not None


def test_a_chore_that_failed_cools_down() -> None:
    limits = Limits()
    step = chore()
    limits.fail(KEY, Reason.REVERTED, SNAPSHOT.head.number - 1, None, step.opportunity.gross_profit_base)
    assert planned(step, limits=limits).batch is None
    limits = Limits()
    limits.fail(KEY, Reason.REVERTED, SNAPSHOT.head.number - 4, None, step.opportunity.gross_profit_base)
    assert planned(step, limits=limits).batch is not None


def test_a_chore_that_brings_less_than_its_gas_waits_and_one_that_just_pays_does_not() -> None:
    gas = 100_000 * SNAPSHOT.head.base_fee_wei
    exact = Base(200 * 10**8 * 10**18 // gas)  # two receipts bring 200 dollars
    assert planned(chore(replace(SNAPSHOT, native_price_base=exact))).batch is not None
    assert planned(chore(replace(SNAPSHOT, native_price_base=Base(exact + 10**8)))).batch is None
    assert planned(chore(replace(SNAPSHOT, native_price_base=None))).batch is None
