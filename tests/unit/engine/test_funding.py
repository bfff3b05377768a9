"""Who pays first: the cheapest at the size, and nobody whose loan locks what is to be used inside it."""

from keeper.domain.program import StepKind
from keeper.domain.units import Base, TokenAmount, Wei
from keeper.engine.exchange import Hop
from keeper.engine.funding import Funding, Loans, OwnInventory, fundings
from keeper.engine.terms import Terms, Values
from tests.unit.engine.pools import Flat, Patient, Product
from tests.unit.protocols.aave_v3 import market as aave

GIVE, TAKE = aave.asset(0), aave.asset(1)
MARKET = aave.snapshot(10, [aave.reserve(0), aave.reserve(1)])
MOST = 10**21
ANY = {TAKE: 10**60}
POOL = Product(1, (GIVE, TAKE), (10**24, 10**24))
PATIENT = Patient(2, (GIVE, TAKE), (10**24, 10**24))


def values(gas_price_wei: int = 10**9) -> Values:
    return Values("aave", MARKET, Terms(Wei(gas_price_wei), Base(2_000 * 10**8), Base(0), 101, 0), None)


def names(lenders: list[Flat], *locks: bytes, most: int = MOST) -> list[str]:
    return [each.name for each in Loans(lenders, TAKE, most, values()).outside(locks)]


def test_the_cheapest_is_enough_where_it_lends_as_much_as_any():
    assert names([Flat("dear", ANY, 9), Flat("free", ANY), Flat("cheap", ANY, 5)]) == ["free"]


def test_a_free_lender_that_has_not_enough_is_asked_beside_one_that_has():
    assert set(names([Flat("dear", ANY, 9), Flat("free", {TAKE: MOST // 2})])) == {"dear", "free"}


def test_the_gas_of_a_loan_counts_where_the_loan_is_small():
    lenders = [Flat("free", ANY, gas=500_000), Flat("light", ANY, 5, gas=50_000)]
    assert set(names(lenders, most=10 * MOST)) == {"free", "light"}
    assert names(lenders, most=10**15) == ["light"]


def test_one_that_has_nothing_is_not_asked_again():
    assert names([Flat("empty", {})]) == []


def test_a_lender_whose_loan_locks_a_pool_of_the_route_is_left_out_and_the_next_one_takes_its_place():
    lenders = [Flat("pool", ANY, lock=POOL.lock), Flat("dear", ANY, 5, lock=b"dear")]
    assert names(lenders) == ["pool"]
    assert names(lenders, POOL.lock) == ["dear"]


def test_the_last_pool_of_a_way_lends_by_itself_where_it_can_be_paid_last():
    loans = Loans([], TAKE, MOST, values())
    hop = Hop(PATIENT, GIVE, TAKE)
    ((rest, funding),) = fundings((hop,), TAKE, loans)
    assert (rest, funding.hop, funding.name) == ((), hop, "product 2, paid last")
    assert list(fundings((Hop(POOL, GIVE, TAKE),), TAKE, loans)) == []
    owed, bought = funding.owed(10**18, 10**18), PATIENT.buy(GIVE, TAKE, TokenAmount(10**18))
    assert owed is not None
    assert bought is not None
    assert (owed.token, owed.amount, owed.gas, owed.pool) == (GIVE, bought.amount, bought.gas, bought.pool)
    assert funding.owed(10**24, 10**24) is None


def test_a_pool_is_not_paid_last_for_a_way_that_goes_through_it_before():
    hop = Hop(PATIENT, GIVE, TAKE)
    again = Hop(Product(2, (GIVE, TAKE), (10**24, 10**24)), TAKE, GIVE)
    assert list(fundings((again, hop), TAKE, Loans([], TAKE, MOST, values()))) == []


def test_a_loan_is_owed_with_its_fee_and_the_protocol_waits_for_no_more_than_the_debt():
    lent = Funding(TAKE, lender=Flat("dear", ANY, 5)).owed(1_000_000, 1_001_001)
    assert lent is not None
    assert (lent.token, lent.amount) == (TAKE, 1_000_000 + 501)
    assert Funding(TAKE, lender=Flat("small", {TAKE: 1_001_000})).owed(1_000_000, 1_001_001) is None
    waits = Funding(TAKE).owed(1_000_000, 1_001_001)
    assert waits is not None
    assert (waits.amount, waits.gas) == (1_000_000, 0)


def test_our_own_tokens_are_pulled_for_nothing_as_far_as_they_go():
    own = OwnInventory({TAKE: TokenAmount(7)})
    assert own.fee(TAKE, TokenAmount(7)) == 0
    assert own.fee(TAKE, TokenAmount(8)) is None
    assert own.fee(GIVE, TokenAmount(1)) is None
    step = own.step(TAKE, TokenAmount(5), TokenAmount(0))
    assert (step.kind, step.take, step.amount) == (StepKind.PULL, TAKE, 5)
