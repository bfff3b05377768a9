"""From a batch to bids: simulated, priced, and each worth its gas. Nothing here can spend."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from keeper.chain.transactions import Funds
from keeper.domain.chain import BlockHead, Call
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, Plan, Realised
from keeper.domain.units import Address, Base, Wei
from keeper.execution.envelope import Transaction, unsigned_bytes
from keeper.execution.fees import FeeMarket, FeePolicy, FeeQuote, gas_budget_wei, gas_limit, quote, read_market
from keeper.execution.ports import Network, Observer
from keeper.execution.simulate import Allowance, Grant, Pending, Simulator, Trial, Tried, needs
from keeper.execution.verdicts import Skipped, skip

_LONG_NUMBER: Final = 2**23 - 1
_NO_FEES: Final[Mapping[str, Wei]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Bid:
    """One transaction worth sending. `plan` is None for an allowance."""

    call: Call
    gas_limit: int
    fee_limit_wei: Wei
    quote: FeeQuote
    plan: Plan | None
    profit_base: Base
    data_fee_wei: Wei = Wei(0)

    @property
    def worst_gas_wei(self) -> int:
        """Return what its gas costs at most, with twice the data fee, which may rise until it lands."""
        return self.gas_limit * self.quote.max_fee_wei + 2 * self.data_fee_wei

    @property
    def worst_cost_wei(self) -> int:
        """Return what it takes from the signer at most."""
        return self.worst_gas_wei + self.call.value_wei


@dataclass(frozen=True, slots=True)
class Prepared:
    """Bids in the order of their nonces, what was dropped, and the signer as it stands at the head."""

    bids: tuple[Bid, ...]
    skipped: tuple[Skipped, ...]
    funds: Funds


@dataclass(frozen=True, slots=True)
class _Priced:
    """A plan's bid, with the most that a unit of gas may cost."""

    tried: Tried
    fee_limit_wei: Wei
    quote: FeeQuote
    profit_base: Base
    data_fee_wei: Wei


class Preparation:
    """The steps that live and shadow mode share."""

    def __init__(
        self, *, network: Network, simulator: Simulator, sender: Address, fees: FeePolicy, observer: Observer
    ) -> None:
        """Bid within `fees`."""
        self._network = network
        self._simulator = simulator
        self._sender = sender
        self._fees = fees
        self._observer = observer

    async def run(self, batch: Batch, plans: Sequence[Plan], pending: Pending) -> Prepared:
        """Simulate and price, in one round trip where the node can simulate a sequence.

        Raises: Transient, Stale.
        """
        trial, market, funds, data_fees = await asyncio.gather(
            self._simulator.run(batch.head, batch.approvals, plans, pending),
            self.market(batch.head),
            self._network.funds(self._sender, batch.head),
            self._network.data_fees([self._payload(plan.call) for plan in plans], batch.head),
        )
        bids, skipped = price(trial, market, self._fees, dict(zip((plan.id for plan in plans), data_fees, strict=True)))
        for plan in skipped:
            name = "sim.unprofitable" if plan.reason in {Reason.UNPROFITABLE, Reason.FEE_CAP} else "sim.reverted"
            self._observer.event(name, plan_id=plan.plan_id, reason=plan.reason.value, detail=plan.detail)
        for bid in bids:
            if bid.plan is not None:
                self._observer.event(
                    "sim.ok", plan_id=bid.plan.id, gas_limit=bid.gas_limit, profit_base=bid.profit_base
                )
        return Prepared(tuple(bids), tuple(skipped), funds)

    def _payload(self, call: Call) -> bytes:
        """Return an unsigned transaction as long as the one that will be sent."""
        fees = self._fees
        return unsigned_bytes(
            Transaction(
                chain_id=_LONG_NUMBER,
                nonce=_LONG_NUMBER,
                tip_wei=fees.max_tip_wei,
                max_fee_wei=fees.max_fee_wei,
                gas_limit=_LONG_NUMBER,
                to=call.to,
                value_wei=call.value_wei,
                data=call.data,
            )
        )

    async def market(self, head: BlockHead) -> FeeMarket:
        """Read what the next block asks."""
        history = await self._network.fee_history(
            head=head, blocks=self._fees.history_blocks, percentile=self._fees.tip_percentile
        )
        return read_market(history.next_base_fee_wei, history.tips_wei, self._fees)


def price(
    trial: Trial, market: FeeMarket, policy: FeePolicy, data_fees: Mapping[str, Wei] = _NO_FEES
) -> tuple[list[Bid], list[Skipped]]:
    """Price every plan that worked, each allowance with the first plan that needs it.

    `data_fees` are what the chain takes for plans' data beside their gas, by plan.
    """
    skipped = [
        *trial.skipped,
        *(skip(plan, Reason.SIMULATION_FAILED, "waits for its allowance") for plan in trial.waiting),
    ]
    gas_of: dict[Allowance | None, int] = {}
    for grant in trial.grants:
        gas_of[grant.allowance] = gas_of.get(grant.allowance, 0) + grant.gas_used
    priced: list[_Priced] = []
    payers: dict[Allowance | None, list[_Priced]] = {}
    waiting = [Tried(plan, plan.gas_estimate, None) for plan in trial.waiting]
    for tried in (*trial.tried, *waiting):
        allowance = needs(tried.plan)
        extra = 0 if allowance in payers else gas_of.get(allowance, 0)
        each = _price(tried, extra, market, policy, data_fees.get(tried.plan.id, Wei(0)))
        if isinstance(each, Skipped):
            if tried not in waiting:
                skipped.append(each)
            continue
        payers.setdefault(allowance, []).append(each)
        if tried not in waiting:
            priced.append(each)
    bids = [_grant_bid(grant, payers[grant.allowance], policy) for grant in trial.grants if grant.allowance in payers]
    bids += [
        Bid(
            each.tried.plan.call,
            gas_limit(each.tried.gas_used, policy),
            each.fee_limit_wei,
            each.quote,
            each.tried.plan,
            each.profit_base,
            each.data_fee_wei,
        )
        for each in priced
    ]
    return bids, skipped


def realised_profit_base(plan: Plan, realised: Realised | None) -> Base:
    """Value what the simulation realised at the plan's own prices.

    Rounding: against us on both sides.
    """
    what = plan.opportunity
    if realised is None or not what.seized_amount or not what.repay_amount:
        return what.gross_profit_base
    seized = what.seized_base * realised.seized_amount // what.seized_amount
    return Base(seized - div_up(what.repay_base * realised.repaid_amount, what.repay_amount))


def _price(tried: Tried, extra_gas: int, market: FeeMarket, policy: FeePolicy, data_fee_wei: Wei) -> _Priced | Skipped:
    plan = tried.plan
    if plan.native_price_base <= 0:
        return skip(plan, Reason.NATIVE_PRICE_UNKNOWN)
    profit = realised_profit_base(plan, tried.realised)
    budget = gas_budget_wei(profit, plan.min_profit_base, plan.native_price_base, policy)
    gas = tried.gas_used + extra_gas
    limit = Wei(max(0, budget - data_fee_wei) // gas)
    bid = quote(market, limit, policy)
    if isinstance(bid, Reason):
        asked = market.base_fee_wei + market.tip_wei
        return skip(plan, bid, f"profit {profit} allows {limit} wei for each of {gas} gas, the block asks {asked}")
    return _Priced(tried, limit, bid, profit, data_fee_wei)


def _grant_bid(grant: Grant, payers: Sequence[_Priced], policy: FeePolicy) -> Bid:
    """Bid for an allowance as high as the best plan that waits behind it."""
    best = max(payers, key=lambda each: each.quote.max_fee_wei)
    return Bid(grant.call, gas_limit(grant.gas_used, policy), best.fee_limit_wei, best.quote, None, Base(0))
