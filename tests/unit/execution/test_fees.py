"""The bid: enough for the next blocks, within every limit, and a replacement that every pool takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.outcome import Reason
from keeper.domain.units import Base, Wei
from keeper.execution.fees import (
    FeeMarket,
    FeePolicy,
    FeeQuote,
    bump,
    gas_budget_wei,
    gas_limit,
    is_spike,
    quote,
    read_market,
    worst_base_fee,
)

GWEI = 10**9
POLICY = FeePolicy(max_fee_wei=Wei(300 * GWEI), min_tip_wei=Wei(10**8), max_tip_wei=Wei(3 * GWEI))
WEI = st.integers(0, 10**13).map(Wei)


def rows(*blocks: tuple[float, ...]) -> list[list[Wei]]:
    """Return tips in gwei, a row for each block."""
    return [[Wei(int(tip * GWEI)) for tip in block] for block in blocks]


@pytest.mark.parametrize(
    ("tips", "expected"),
    [
        ([], (0.1, 0.1, 0.1)),
        (rows((0, 0, 0)), (0.1, 0.1, 0.1)),
        (rows((1, 2, 9)), (1, 2, 3)),
        (rows((1, 2, 2.5), (0, 0, 0), (1.5, 1.6, 2.7)), (1, 1.6, 2.5)),
        (rows((1, 2), (1,), (0.5, 1, 2)), (0.5, 1, 2)),
    ],
)
def test_each_percentiles_tip_is_the_median_over_blocks_within_its_bounds(
    tips: list[list[Wei]], expected: tuple[float, ...]
):
    market = read_market(Wei(1), tips, replace(POLICY, tip_percentiles=(25, 50, 99)))
    assert market.tips_wei == tuple(rows(expected)[0])


def test_a_market_never_offers_less_for_more_urgency():
    """A node that mixes its percentiles up must not make a rich plan bid less than a poor one."""
    market = read_market(Wei(1), rows((2, 1, 0.5)), replace(POLICY, tip_percentiles=(25, 50, 99)))
    assert list(market.tips_wei) == sorted(market.tips_wei)


def test_a_transfers_gas_grows_with_what_its_data_takes():
    assert read_market(Wei(1), [], POLICY).transfer_gas == 21_000
    assert read_market(Wei(1), [], POLICY, data_gas=1_000).transfer_gas == 22_500


RISING = FeeMarket(Wei(10 * GWEI), (Wei(GWEI), Wei(2 * GWEI), Wei(3 * GWEI)))


@pytest.mark.parametrize(
    ("limit", "tip"),
    [(11, 1), (15, 1), (19, 1), (20, 2), (24, 2), (25, 3), (290, 3)],
)
def test_the_more_is_at_stake_the_more_urgent_the_tip_up_to_a_fifth_of_the_room(limit: int, tip: int):
    bid = quote(RISING, Wei(limit * GWEI), POLICY)
    assert isinstance(bid, FeeQuote)
    assert bid.tip_wei == tip * GWEI


def test_a_replacement_bids_what_its_plan_is_worth_too():
    before = FeeQuote(Wei(12 * GWEI), Wei(GWEI))
    poor, rich = (bump(before, RISING, Wei(limit * GWEI), POLICY) for limit in (14, 200))
    assert poor == FeeQuote(Wei(14 * GWEI), Wei(1_125_000_000))
    assert rich is not None
    assert rich.tip_wei == 3 * GWEI


def test_what_earns_nothing_bids_the_middle_tip_at_most():
    assert RISING.modest.tips_wei == RISING.tips_wei[:2]
    assert FeeMarket(Wei(0), (Wei(1),)).modest.tips_wei == (Wei(1),)


@pytest.mark.parametrize(
    ("fees", "expected"),
    [
        ([10, 11, 12], False),
        ([10, 11, 20], True),
        ([30, 10, 19], False),
        ([0, 0, 0], False),
        ([0, 50], False),  # from nothing to something is no spike
        ([7], False),
        ([], False),
        ([1, 90], True),
    ],
)
def test_a_spike_is_a_base_fee_that_has_at_least_doubled(fees: list[int], expected: bool):
    assert is_spike([Wei(fee) for fee in fees]) is expected


@given(base_fee=st.integers(0, 10**15), blocks=st.integers(0, 20))
def test_the_worst_base_fee_is_never_below_the_rules_own(base_fee: int, blocks: int):
    fee = base_fee
    for _ in range(blocks):
        fee += max(fee // 8, 1)  # EIP-1559 for a full block
    assert fee <= worst_base_fee(base_fee, blocks) <= fee + blocks * (2**blocks)


def test_a_budget_is_the_share_of_the_profit_above_the_minimum_in_wei():
    # 100 dollars less 10, half of it, at 2,000 dollars: 0.0225 of the native token
    assert gas_budget_wei(Base(100 * 10**8), Base(10 * 10**8), Base(2_000 * 10**8), POLICY) == 22_500 * 10**12
    assert gas_budget_wei(Base(9 * 10**8), Base(10 * 10**8), Base(2_000 * 10**8), POLICY) == 0


def test_a_quote_holds_for_some_full_blocks():
    bid = quote(FeeMarket(Wei(80 * GWEI), (Wei(GWEI),)), Wei(10**15), POLICY)
    assert bid == FeeQuote(Wei(114_906_250_000), Wei(GWEI))  # 80 · (9/8)³ + 1


def test_a_quote_says_which_limit_forbids_it():
    assert quote(FeeMarket(Wei(80 * GWEI), (Wei(GWEI),)), Wei(80 * GWEI), POLICY) is Reason.UNPROFITABLE
    assert quote(FeeMarket(Wei(301 * GWEI), (Wei(0),)), Wei(10**15), POLICY) is Reason.FEE_CAP


TIPS = st.lists(WEI, min_size=1, max_size=5).map(lambda tips: tuple(sorted(tips)))


@given(base_fee=WEI, tips=TIPS, limit=WEI)
def test_a_quote_pays_for_the_next_block_and_stays_within_every_limit(base_fee: Wei, tips: tuple[Wei, ...], limit: Wei):
    bid = quote(FeeMarket(base_fee, tips), limit, POLICY)
    if isinstance(bid, FeeQuote):
        assert base_fee + bid.tip_wei <= bid.max_fee_wei <= min(limit, POLICY.max_fee_wei)
        assert bid.tip_wei in tips
    else:
        assert base_fee + tips[0] > min(limit, POLICY.max_fee_wei)


@given(base_fee=WEI, tips=TIPS, limit=WEI, more=WEI)
def test_a_higher_limit_never_bids_less(base_fee: Wei, tips: tuple[Wei, ...], limit: Wei, more: Wei):
    market = FeeMarket(base_fee, tips)
    low, high = quote(market, limit, POLICY), quote(market, Wei(limit + more), POLICY)
    if isinstance(low, FeeQuote):
        assert isinstance(high, FeeQuote)
        assert high.tip_wei >= low.tip_wei
        assert high.max_fee_wei >= low.max_fee_wei


@given(fee=WEI, tip_share=st.integers(0, 100), base_fee=WEI, tips=TIPS, limit=WEI)
def test_txl_12_a_replacement_raises_both_fields_by_the_rule_and_stays_within_its_limit(
    fee: Wei, tip_share: int, base_fee: Wei, tips: tuple[Wei, ...], limit: Wei
):
    before = FeeQuote(fee, Wei(fee * tip_share // 100))
    after = bump(before, FeeMarket(base_fee, tips), limit, POLICY)
    if after is None:
        return
    assert 10_000 * after.max_fee_wei >= 11_250 * before.max_fee_wei
    assert 10_000 * after.tip_wei >= 11_250 * before.tip_wei
    assert after.max_fee_wei > before.max_fee_wei
    assert after.tip_wei > before.tip_wei
    assert after.tip_wei <= after.max_fee_wei <= min(limit, POLICY.max_fee_wei)
    assert after.max_fee_wei >= base_fee


def test_chn_08_a_chain_without_base_fee_is_bid_on_and_replaced():
    market = FeeMarket(Wei(0), (Wei(1),))
    bid = quote(market, Wei(10**9), POLICY)
    assert isinstance(bid, FeeQuote)
    after = bump(bid, market, Wei(10**9), POLICY)
    assert after is not None
    assert after.tip_wei > bid.tip_wei


def test_a_gas_limit_leaves_room_for_what_refunds_hide():
    assert gas_limit(100_001, POLICY) == 150_002


def test_a_gas_limit_leaves_room_for_what_data_takes():
    assert gas_limit(100_000, POLICY, 20_000) == 150_000 + 30_000
