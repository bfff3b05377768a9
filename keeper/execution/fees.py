"""What to bid: enough for the next blocks, never more than the operator's limits or the profit's share. Pure integers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.units import BPS, Base, Bps, Wei

_GROWTH, _STEP = 9, 8
"""A full block raises the base fee by an eighth (EIP-1559, elasticity 2, denominator 8)."""


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """The operator's limits on what may be bid.

    A bid must still hold after `blocks_ahead` full blocks. Its tip is what got in at the highest of `tip_percentiles`
    over the last `history_blocks` that takes at most `tip_share_bps` of what is left of the limit above the base fee,
    within the tip's bounds. What a plan may spend on gas is `max_gas_share_bps` of the profit above the minimum.
    A replacement raises both fields by `bump_bps`, the tip beyond its bound if need be: nodes take no other.
    `data_gas_margin_bps` is for the part of a rollup's gas that pays for data, whose price moves from block to block.
    """

    max_fee_wei: Wei
    min_tip_wei: Wei = Wei(1)
    max_tip_wei: Wei = Wei(50 * 10**9)
    blocks_ahead: int = 3
    history_blocks: int = 10
    tip_percentiles: tuple[int, ...] = (25, 50, 75, 90, 99)
    tip_share_bps: Bps = Bps(2_000)
    max_gas_share_bps: Bps = Bps(5_000)
    bump_bps: Bps = Bps(1_250)
    gas_margin_bps: Bps = Bps(15_000)
    data_gas_margin_bps: Bps = Bps(15_000)
    max_gas_limit: int = 5_000_000
    transfer_gas: int = 21_000


@dataclass(frozen=True, slots=True)
class FeeQuote:
    """A bid for one unit of gas."""

    max_fee_wei: Wei
    tip_wei: Wei


@dataclass(frozen=True, slots=True)
class FeeMarket:
    """What the next block will ask: its base fee, and the tips that get in, from patient to urgent, at least one.

    `transfer_gas` is what a transfer of nothing needs.
    """

    base_fee_wei: Wei
    tips_wei: tuple[Wei, ...]
    transfer_gas: int = 21_000

    @property
    def needed_wei(self) -> int:
        """Return the least that gets in."""
        return self.base_fee_wei + self.tips_wei[0]

    @property
    def modest(self) -> "FeeMarket":
        """Return the market for what earns nothing, such as a cancellation: no tip above the middle one."""
        return replace(self, tips_wei=self.tips_wei[: (len(self.tips_wei) + 1) // 2])


def read_market(
    next_base_fee_wei: Wei, tips_wei: Sequence[Sequence[Wei]], policy: FeePolicy, data_gas: int = 0
) -> FeeMarket:
    """Take for each percentile the median of the recent blocks' tips, within the policy's bounds.

    `tips_wei` are of one block each, one for each percentile; `data_gas` is what a transfer's data takes.
    """
    rows = [row for row in tips_wei if len(row) == len(policy.tip_percentiles)]
    columns = zip(*rows, strict=True) if rows else [() for _ in policy.tip_percentiles]
    tips = sorted(_bounded(_median(column), policy) for column in columns)
    return FeeMarket(next_base_fee_wei, tuple(tips), policy.transfer_gas + _data_gas_limit(data_gas, policy))


def is_spike(base_fees_wei: Sequence[Wei]) -> bool:
    """Return whether the last base fee is at least twice an earlier one."""
    return bool(base_fees_wei) and base_fees_wei[-1] >= 2 * min(base_fees_wei) > 0


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
    if fee_limit_wei < market.needed_wei:
        return Reason.UNPROFITABLE
    if policy.max_fee_wei < market.needed_wei:
        return Reason.FEE_CAP
    limit = min(fee_limit_wei, policy.max_fee_wei)
    tip = _worth(market, limit, policy)
    wanted = worst_base_fee(market.base_fee_wei, policy.blocks_ahead) + tip
    return FeeQuote(Wei(min(wanted, limit)), tip)


def bump(before: FeeQuote, market: FeeMarket, limit_wei: Wei, policy: FeePolicy) -> FeeQuote | None:
    """Raise both fields by the rule, and to what the next block asks; None when that is above `limit_wei`.

    Rounding: up, and by at least one, so that a bid of nothing can be replaced too.
    """
    least_fee, least_tip = _raised(before.max_fee_wei, policy), _raised(before.tip_wei, policy)
    limit = min(limit_wei, policy.max_fee_wei)
    tip = max(least_tip, _worth(market, limit, policy))
    wanted = max(least_fee, worst_base_fee(market.base_fee_wei, policy.blocks_ahead) + tip)
    if max(least_fee, market.base_fee_wei + least_tip) > limit:
        return None
    max_fee = min(wanted, limit)
    return FeeQuote(Wei(max_fee), Wei(max(least_tip, min(tip, max_fee - market.base_fee_wei))))


def gas_limit(gas_used: int, policy: FeePolicy, data_gas: int = 0) -> int:
    """Leave room above the measured gas: refunds hide a fifth of it, and a changed state may need more.

    `data_gas` is what a rollup takes in gas for the transaction's data.
    """
    return div_up(gas_used * policy.gas_margin_bps, BPS) + _data_gas_limit(data_gas, policy)


def _worth(market: FeeMarket, limit_wei: int, policy: FeePolicy) -> Wei:
    """Return the most urgent tip that leaves most of the room between base fee and limit; else the patient one."""
    room = (limit_wei - market.base_fee_wei) * policy.tip_share_bps // BPS
    return max((tip for tip in market.tips_wei if tip <= room), default=market.tips_wei[0])


def _median(values: Sequence[Wei]) -> Wei:
    ranked = sorted(values)
    return ranked[len(ranked) // 2] if ranked else Wei(0)


def _bounded(tip_wei: Wei, policy: FeePolicy) -> Wei:
    return Wei(min(max(tip_wei, policy.min_tip_wei), policy.max_tip_wei))


def _data_gas_limit(data_gas: int, policy: FeePolicy) -> int:
    return div_up(data_gas * policy.data_gas_margin_bps, BPS)


def _raised(value_wei: int, policy: FeePolicy) -> int:
    return max(div_up(value_wei * (BPS + policy.bump_bps), BPS), value_wei + 1)
