"""The bid: enough for the next blocks, within every limit, and a replacement that every pool takes."""

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
    quote,
    read_market,
    worst_base_fee,
)

GWEI = 10**9
POLICY = FeePolicy(max_fee_wei=Wei(300 * GWEI), min_tip_wei=Wei(10**8), max_tip_wei=Wei(3 * GWEI))
WEI = st.integers(0, 10**13).map(Wei)


@pytest.mark.parametrize(
    ("tips", "expected"),
    [([], 10**8), ([5], 10**8), ([GWEI, 2 * GWEI, 9 * GWEI], 2 * GWEI), ([9 * GWEI], 3 * GWEI)],
)
def test_the_tip_is_the_median_within_its_bounds(tips: list[int], expected: int):
    assert read_market(Wei(1), [Wei(tip) for tip in tips], POLICY).tip_wei == expected


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
    bid = quote(FeeMarket(Wei(80 * GWEI), Wei(GWEI)), Wei(10**15), POLICY)
    assert bid == FeeQuote(Wei(114_906_250_000), Wei(GWEI))  # 80 · (9/8)³ + 1


def test_a_quote_says_which_limit_forbids_it():
    assert quote(FeeMarket(Wei(80 * GWEI), Wei(GWEI)), Wei(80 * GWEI), POLICY) is Reason.UNPROFITABLE
    assert quote(FeeMarket(Wei(301 * GWEI), Wei(0)), Wei(10**15), POLICY) is Reason.FEE_CAP


@given(base_fee=WEI, tip=WEI, limit=WEI)
def test_a_quote_pays_for_the_next_block_and_stays_within_every_limit(base_fee: Wei, tip: Wei, limit: Wei):
    bid = quote(FeeMarket(base_fee, tip), limit, POLICY)
    if isinstance(bid, FeeQuote):
        assert base_fee + tip <= bid.max_fee_wei <= min(limit, POLICY.max_fee_wei)
        assert bid.tip_wei == tip


@given(fee=WEI, tip_share=st.integers(0, 100), base_fee=WEI, tip=WEI, limit=WEI)
def test_txl_12_a_replacement_raises_both_fields_by_the_rule_and_stays_within_its_limit(
    fee: Wei, tip_share: int, base_fee: Wei, tip: Wei, limit: Wei
):
    before = FeeQuote(fee, Wei(fee * tip_share // 100))
    after = bump(before, FeeMarket(base_fee, tip), limit, POLICY)
    if after is None:
        return
    assert 10_000 * after.max_fee_wei >= 11_250 * before.max_fee_wei
    assert 10_000 * after.tip_wei >= 11_250 * before.tip_wei
    assert after.max_fee_wei > before.max_fee_wei
    assert after.tip_wei > before.tip_wei
    assert after.tip_wei <= after.max_fee_wei <= min(limit, POLICY.max_fee_wei)
    assert after.max_fee_wei >= base_fee + after.tip_wei or after.max_fee_wei >= base_fee


def test_chn_08_a_chain_without_base_fee_is_bid_on_and_replaced():
    market = FeeMarket(Wei(0), Wei(1))
    bid = quote(market, Wei(10**9), POLICY)
    assert isinstance(bid, FeeQuote)
    after = bump(bid, market, Wei(10**9), POLICY)
    assert after is not None
    assert after.tip_wei > bid.tip_wei


def test_a_gas_limit_leaves_room_for_what_refunds_hide():
    assert gas_limit(100_001, POLICY) == 150_002
