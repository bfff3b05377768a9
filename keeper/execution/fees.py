"""What to bid: enough for the next blocks, never more than the operator's limits or the profit's share. Pure integers."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.units import BPS, Base, Bps, Wei

_GROWTH, _STEP = 9, 8
"""A full block raises the base fee by an eighth (EIP-1559, elasticity 2, denominator 8)."""


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """The operator's limits on what may be bid.

    A bid must still hold after `blocks_ahead` full blocks. `tip_percentile` of the last `history_blocks` sets the tip,
    within its bounds. What a plan may spend on gas is `max_gas_share_bps` of the profit above the minimum.
    A replacement raises both fields by `bump_bps`.
    """

    max_fee_wei: Wei
    min_tip_wei: Wei = Wei(1)
    max_tip_wei: Wei = Wei(50 * 10**9)
    blocks_ahead: int = 3
    history_blocks: int = 10
    tip_percentile: int = 60
    max_gas_share_bps: Bps = Bps(5_000)
    bump_bps: Bps = Bps(1_250)
    gas_margin_bps: Bps = Bps(15_000)
    transfer_gas: int = 21_000


@dataclass(frozen=True, slots=True)
class FeeQuote:
    """A bid for one unit of gas."""

    max_fee_wei: Wei
    tip_wei: Wei


@dataclass(frozen=True, slots=True)
class FeeMarket:
    """What the next block will ask: its base fee, and the tip that gets in."""

    base_fee_wei: Wei
    tip_wei: Wei


def read_market(next_base_fee_wei: Wei, tips_wei: Sequence[Wei], policy: FeePolicy) -> FeeMarket:
    """Take the median of the recent blocks' tips, within the policy's bounds."""
    ranked = sorted(tips_wei)
    median = ranked[len(ranked) // 2] if ranked else Wei(0)
    return FeeMarket(next_base_fee_wei, Wei(min(max(median, policy.min_tip_wei), policy.max_tip_wei)))


def worst_base_fee(base_fee_wei: int, full_blocks: int) -> int:
    """Return the base fee after a number of full blocks.

    Rounding: up, and by at least one a block, as the rule has it.
    """
    fee = base_fee_wei
    for _ in range(full_blocks):
        fee = max(div_up(fee * _GROWTH, _STEP), fee + 1)
    return fee


def gas_budget_wei(profit_base: Base, min_profit_base: Base, native_price_base: Base, policy: FeePolicy) -> Wei:
    """Return what may be spent on a plan's gas: the policy's share of the profit above the minimum.

    Rounding: down.
    """
    spendable = max(0, profit_base - min_profit_base) * policy.max_gas_share_bps // BPS
    return Wei(spendable * 10**18 // native_price_base)


def quote(market: FeeMarket, fee_limit_wei: Wei, policy: FeePolicy) -> FeeQuote | Reason:
    """Bid for the next blocks, at most `fee_limit_wei` for one unit of gas, or say what forbids it."""
    needed = market.base_fee_wei + market.tip_wei
    if fee_limit_wei < needed:
        return Reason.UNPROFITABLE
    if policy.max_fee_wei < needed:
        return Reason.FEE_CAP
    wanted = worst_base_fee(market.base_fee_wei, policy.blocks_ahead) + market.tip_wei
    return FeeQuote(Wei(min(wanted, fee_limit_wei, policy.max_fee_wei)), market.tip_wei)


def bump(before: FeeQuote, market: FeeMarket, limit_wei: Wei, policy: FeePolicy) -> FeeQuote | None:
    """Raise both fields by the rule, and to what the next block asks; None when that is above `limit_wei`.

    Rounding: up, and by at least one, so that a bid of nothing can be replaced too.
    """
    least_fee, least_tip = _raised(before.max_fee_wei, policy), _raised(before.tip_wei, policy)
    tip = max(least_tip, market.tip_wei)
    wanted = max(least_fee, worst_base_fee(market.base_fee_wei, policy.blocks_ahead) + tip)
    limit = min(limit_wei, policy.max_fee_wei)
    if max(least_fee, market.base_fee_wei + least_tip) > limit:
        return None
    max_fee = min(wanted, limit)
    return FeeQuote(Wei(max_fee), Wei(max(least_tip, min(tip, max_fee - market.base_fee_wei))))


def gas_limit(gas_used: int, policy: FeePolicy) -> int:
    """Leave room above the measured gas: refunds hide a fifth of it, and a changed state may need more."""
    return div_up(gas_used * policy.gas_margin_bps, BPS)


def _raised(value_wei: int, policy: FeePolicy) -> int:
    return max(div_up(value_wei * (BPS + policy.bump_bps), BPS), value_wei + 1)
