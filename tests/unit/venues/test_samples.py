"""What some answers of a pool promise about the amounts between them."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.venues.samples import Samples, ladder


def product(give: int, take: int, amount: int) -> int:
    """Return what a pool of a constant product gives, rounded down."""
    return take * amount // (give + amount)


def test_the_amounts_to_ask_about_rise_to_the_most_and_lie_ever_closer_in_proportion():
    amounts = ladder(10**24)
    assert amounts == tuple(sorted(set(amounts)))
    assert amounts[-1] == 10**24
    assert amounts[0] < 10**24 // 200
    assert len(amounts) == 36
    steps = [b * 1_000 // a for a, b in pairwise(amounts)]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize(("most", "amounts"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3))])
def test_of_few_units_each_amount_is_asked_about_once(most: int, amounts: tuple[int, ...]):
    assert ladder(most) == amounts


@given(
    give=st.integers(10**3, 10**27),
    take=st.integers(10**3, 10**27),
    most=st.integers(1, 10**27),
    part=st.integers(1, 10**9),
)
def test_no_amount_of_a_concave_pool_is_promised_more_than_it_brings(give: int, take: int, most: int, part: int):
    samples = Samples.of((amount, product(give, take, amount)) for amount in ladder(most))
    if samples is None:
        assert product(give, take, most) == 0
        return
    amount = max(1, most * part // 10**9)
    told = samples.out(amount)
    assert samples.most == most
    assert told is not None
    assert told <= product(give, take, amount)
    if amount >= most // 5:
        assert told >= product(give, take, amount) * 999 // 1_000 - 4


def test_an_amount_that_was_asked_about_brings_what_was_answered():
    samples = Samples.of([(10, 100), (20, 180), (40, 300)])
    assert samples is not None
    assert [samples.out(amount) for amount in (10, 20, 40)] == [100, 180, 300]
    assert samples.out(15) == 138  # on the line, less the noise
    assert samples.out(5) == 48
    assert samples.out(1) == 8
    assert (samples.out(0), samples.out(41)) == (None, None)


def test_what_lies_behind_a_refusal_or_a_fall_is_unknown():
    refused = Samples.of([(10, 100), (20, None), (40, 300)])
    fallen = Samples.of([(10, 100), (20, 180), (40, 170)])
    assert refused is not None
    assert fallen is not None
    assert (refused.most, fallen.most) == (10, 20)


def test_a_fall_by_no_more_than_the_noise_is_passed_over():
    samples = Samples.of([(10, 100), (20, 99), (40, 300)])
    assert samples is not None
    assert samples.points == ((10, 100), (40, 300))


def test_a_point_above_the_line_through_those_before_it_is_put_down_onto_it():
    samples = Samples.of([(10, 100), (20, 260), (30, 300)], noise=0)
    assert samples is not None
    assert samples.points == ((4, 0), (10, 100), (20, 200), (30, 300))
    assert [samples.out(amount) for amount in (1, 4, 7, 10)] == [0, 0, 50, 100]


@pytest.mark.parametrize("answers", [[], [(1, None)], [(1, 0), (2, 0)]])
def test_nothing_comes_of_no_answers(answers: list[tuple[int, int | None]]):
    assert Samples.of(answers) is None
