"""What may be paid: per token and contract, of native currency, and of a margin that the protocol holds."""

from dataclasses import replace

from keeper.domain.mode import Mode
from keeper.domain.plan import Inventory, Payment
from keeper.domain.position import Opportunity, Token
from keeper.domain.units import NATIVE, Address, Base, TokenAmount, Wei
from keeper.engine.plan import Policy, Purse
from keeper.engine.scan import Candidate, MarketBook
from tests.toy import CASH, POOL, ToyPosition, ToyReader, ToySnapshot, account, head, toy_market

OTHER = Address(b"\x55" * 20)
COIN = Token(NATIVE, "ETH", 18)
MARGIN = Token(Address(b"\x77" * 20), "margin", 6)
BOTH = (Payment(CASH, POOL), Payment(CASH, OTHER))
CAP = 10_000
POLICY = Policy(Mode.LIVE, Base(1), Base(CAP * 10**8), 10, None)


def candidate(*payments: Payment) -> Candidate:
    snapshot = ToySnapshot(head(), payments=payments)
    books = MarketBook(toy_market(ToyReader()))
    books.put([ToyPosition(account(1), 100, 9_000)], snapshot)
    (found,) = books.scan(snapshot, snapshot.head.landing(12)).candidates
    return found


def repaying(of: Candidate, token: Token, amount: int, spender: Address | None) -> Opportunity:
    best = of.assessment.opportunities[0]
    return replace(
        best, repay=token, repay_amount=TokenAmount(amount), repay_limit=TokenAmount(amount), spender=spender
    )


def holding(token: Token, amount: int, allowed: dict[Address, int] | None = None) -> Inventory:
    allowances = {(token.address, spender): TokenAmount(given) for spender, given in (allowed or {}).items()}
    return Inventory(Wei(0), {token.address: TokenAmount(amount)}, allowances)


def test_a_token_with_two_spenders_is_budgeted_by_what_the_tighter_one_could_pull() -> None:
    purse = Purse(holding(CASH, 10**9, {POOL: 50_000, OTHER: 70_000}), POLICY)
    found = candidate(*BOTH)
    assert purse.budget(found) == {CASH.address: 50_000}
    purse.pay(found, repaying(found, CASH, 30_000, OTHER))
    assert purse.budget(found) == {CASH.address: 40_000}
    assert purse.approvals == ()


def test_two_spenders_share_the_balance_and_not_their_allowances() -> None:
    purse = Purse(holding(CASH, 12_000, {POOL: 50_000, OTHER: 50_000}), POLICY)
    found = candidate(*BOTH)
    purse.pay(found, repaying(found, CASH, 5_000, POOL))
    purse.pay(found, repaying(found, CASH, 6_000, OTHER))
    assert purse.budget(found) == {CASH.address: 1_000}


def test_each_spender_gets_an_allowance_of_its_own_once() -> None:
    purse = Purse(holding(CASH, 10**9), POLICY)
    found = candidate(*BOTH)
    assert purse.budget(found) == {CASH.address: CAP}
    for spender in (POOL, OTHER, POOL):
        purse.pay(found, repaying(found, CASH, 4_000, spender))
    granted = [(each.token, each.spender, each.amount) for each in purse.approvals]
    assert granted == [(CASH.address, POOL, CAP), (CASH.address, OTHER, CAP)]
    assert purse.budget(found) == {CASH.address: CAP - 8_000}


def test_native_currency_is_paid_up_to_the_cap_of_one_transaction_and_keeps_the_reserve() -> None:
    found = candidate(Payment(COIN, None))
    policy = replace(POLICY, max_value_wei=Wei(400), low_balance_wei=Wei(100))
    purse = Purse(holding(COIN, 1_000), policy)
    for left in (400, 400, 100, 0):
        assert purse.budget(found) == {NATIVE: left}
        purse.pay(found, repaying(found, COIN, left, None))
    assert purse.approvals == ()


def test_native_currency_below_the_reserve_or_without_a_cap_is_not_spent() -> None:
    found = candidate(Payment(COIN, None))
    poor = Purse(holding(COIN, 99), replace(POLICY, max_value_wei=Wei(400), low_balance_wei=Wei(100)))
    assert poor.budget(found) == {NATIVE: 0}
    assert Purse(holding(COIN, 10**18), POLICY).budget(found) == {NATIVE: 0}


def test_a_margin_is_bounded_by_itself_alone_and_needs_no_allowance() -> None:
    found = candidate(Payment(MARGIN, None, b"free"), Payment(CASH, POOL))
    purse = Purse(holding(MARGIN, 70_000), POLICY)
    assert purse.budget(found) == {MARGIN.address: 70_000, CASH.address: 0}
    purse.pay(found, repaying(found, MARGIN, 60_000, None))
    assert purse.budget(found) == {MARGIN.address: 10_000, CASH.address: 0}
    assert purse.approvals == ()


def test_a_token_that_nothing_values_is_given_no_new_allowance() -> None:
    strange = Token(Address(b"\x66" * 20), "ODD", 18)
    found = candidate(Payment(strange, POOL))
    assert Purse(holding(strange, 10**9), POLICY).budget(found) == {strange.address: 0}
    assert Purse(holding(strange, 10**9, {POOL: 7}), POLICY).budget(found) == {strange.address: 7}


def test_without_an_inventory_nothing_bounds_the_plans() -> None:
    found = candidate(*BOTH)
    purse = Purse(None, POLICY)
    purse.pay(found, repaying(found, CASH, 10**12, POOL))
    assert purse.budget(found) is None
    assert purse.approvals == ()
