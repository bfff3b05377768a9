"""The book, its screen and the parity sample."""

import random
from dataclasses import replace

from keeper.domain.position import Weight
from keeper.domain.units import Base, Column
from keeper.engine.book import Book
from keeper.engine.parity import differs, sample
from keeper.engine.scan import MarketBook
from keeper.engine.screen import MAX_ENTRIES, Screen
from tests.toy import COLLATERAL, DEBT, ToyPosition, ToyReader, ToyRules, ToySnapshot, account, head, toy_market


def test_a_position_without_debt_leaves_the_book() -> None:
    book: Book[ToyPosition] = Book()
    book.put([(ToyPosition(account(1), 5, 5), ((COLLATERAL, 5), (DEBT, 5)))])
    assert (len(book), book.columns) == (1, frozenset({COLLATERAL, DEBT}))
    book.put([(ToyPosition(account(1), 5, 0), ((COLLATERAL, 5),))])
    assert (len(book), book.columns, book.row(account(1))) == (0, frozenset(), None)


def test_only_changed_accounts_are_handed_to_the_screen() -> None:
    book: Book[ToyPosition] = Book()
    book.put([(ToyPosition(account(n), 5, 5), ((DEBT, 5),)) for n in (1, 2)])
    assert book.take_changed() == {account(1), account(2)}
    assert book.take_changed() == frozenset()
    book.put([(ToyPosition(account(2), 5, 0), ())])
    assert book.take_changed() == {account(2)}


def test_an_account_that_never_owed_anything_changes_nothing() -> None:
    book: Book[ToyPosition] = Book()
    book.put([(ToyPosition(account(1), 5, 0), ((COLLATERAL, 5),))])
    assert book.take_changed() == frozenset()


def test_the_scan_finds_what_exact_rules_find_in_a_large_book_through_many_changes() -> None:
    source, rules = random.Random(7), ToyRules()
    book = MarketBook(toy_market(ToyReader()))
    state = {}
    for turn in range(12):
        snapshot = ToySnapshot(head(100 + turn), price_base=source.randint(60, 140) * 10**8)
        changed = [
            ToyPosition(account(source.randint(1, 3_000)), source.randint(1, 10**6), source.randint(0, 9 * 10**7))
            for _ in range(700)
        ]
        state.update({each.id: each for each in changed})
        book.put([state[each.id] for each in changed], snapshot)
        found = book.scan(snapshot, snapshot.head.moment)
        expected = {a for a, p in state.items() if rules.health(p, snapshot, snapshot.head.moment).is_liquidatable}
        assert {each.key.id for each in found.candidates} == expected
        assert found.screened == sum(each.has_debt for each in state.values())
        assert found.suspects < found.screened


def test_a_position_exactly_at_the_threshold_is_decided_exactly() -> None:
    book, snapshot = MarketBook(toy_market(ToyReader())), ToySnapshot(head())
    book.put([ToyPosition(account(1), 100, 8_000), ToyPosition(account(2), 100, 8_001)], snapshot)
    found = book.scan(snapshot, snapshot.head.moment)
    assert found.suspects == 2
    assert [each.key.id for each in found.candidates] == [account(2)]


def test_a_column_without_a_weight_makes_its_rows_suspects() -> None:
    screen = Screen()
    screen.put(account(1), ((Column(9), 10**30),))
    assert screen.suspects({}) == [account(1)]


def test_a_row_longer_than_the_bound_covers_is_always_a_suspect() -> None:
    screen = Screen()
    long = tuple((Column(n), 10**20) for n in range(MAX_ENTRIES + 1))
    screen.put(account(1), long)
    for n in range(2, 2_000):
        screen.put(account(n), long[:3])
    weights = {Column(n): Weight(1, 1, 0) for n in range(MAX_ENTRIES + 1)}
    assert screen.suspects(weights) == [account(1)]


def test_slack_widens_the_band_of_suspects() -> None:
    screen = Screen()
    screen.put(account(1), ((COLLATERAL, 1_000), (DEBT, 990)))
    assert screen.suspects({COLLATERAL: Weight(1, 1, 4), DEBT: Weight(-1, 1, 5)}) == []
    assert screen.suspects({COLLATERAL: Weight(1, 1, 5), DEBT: Weight(-1, 1, 5)}) == [account(1)]
    assert screen.suspects({COLLATERAL: Weight(1, 1, 0, 100), DEBT: Weight(-1, 1, 0)}) == [account(1)]


def test_parity_samples_go_round_every_account() -> None:
    accounts = [account(n) for n in range(10)]
    seen = [each for turn in range(4) for each in sample(accounts, turn, 3)]
    assert set(seen) == set(accounts)
    assert sample([], 5, 3) == ()
    assert len(sample(accounts[:2], 1, 3)) == 2


def test_one_unit_of_difference_is_a_mismatch() -> None:
    health = ToyRules().health(ToyPosition(account(1), 100, 50), ToySnapshot(head()), head().moment)
    assert not differs(health, health)
    assert differs(health, replace(health, debt_base=Base(health.debt_base + 1)))
    assert differs(health, None)
