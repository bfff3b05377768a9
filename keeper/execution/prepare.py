"""From a batch to bids: simulated, priced, and each worth its gas. Nothing here can spend."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from keeper.chain.transactions import Funds
from keeper.domain.chain import BlockHead, Call
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, Plan, Realised
from keeper.domain.units import Address, Base, Wei
from keeper.execution.envelope import Transaction, unsigned_bytes
from keeper.execution.fees import (
    FeeMarket,
    FeePolicy,
    FeeQuote,
    gas_budget_wei,
    gas_limit,
    is_spike,
    quote,
    read_market,
)
from keeper.execution.ports import Network, Observer
from keeper.execution.simulate import Allowance, Grant, Pending, Simulator, Trial, Tried, approve_call, needs
from keeper.execution.verdicts import Skipped, skip

_LONG_NUMBER: Final = 2**23 - 1


@dataclass(frozen=True, slots=True)
class Extra:
    """What something costs on top of the gas of running it: native currency, or more gas."""

    fee_wei: Wei = Wei(0)
    gas: int = 0

    def __add__(self, other: "Extra") -> "Extra":
        """Return both together."""
        return Extra(Wei(self.fee_wei + other.fee_wei), self.gas + other.gas)


FREE: Final = Extra()


@dataclass(frozen=True, slots=True)
class Extras:
    """What a rollup takes for the data of a batch, by plan and by allowance; nothing where nothing is said."""

    plans: Mapping[str, Extra] = field(default_factory=dict)
    grants: Mapping[Allowance, Extra] = field(default_factory=dict)


_NO_EXTRAS: Final = Extras()


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
    data: Extra


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
        self._is_spike = False

    async def run(self, batch: Batch, plans: Sequence[Plan], pending: Pending) -> Prepared:
        """Simulate and price, in one round trip where the node can simulate a sequence.

        Raises: Transient, Stale.
        """
        trial, market, funds, costs = await asyncio.gather(
            self._simulator.run(batch.head, batch.approvals, plans, pending),
            self.market(batch.head),
            self._network.funds(self._sender, batch.head),
            self._extras(batch, plans),
        )
        bids, skipped = price(trial, market, self._fees, costs)
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
        """Read what the next block asks, and tell when that has doubled within the history.

        Raises: Transient, Stale.
        """
        fees = self._fees
        history, (transfer,) = await asyncio.gather(
            self._network.fee_history(head=head, blocks=fees.history_blocks, percentiles=fees.tip_percentiles),
            self._network.data_gas([Call(self._sender, b"")], head),
        )
        was_spike, self._is_spike = self._is_spike, is_spike(history.base_fees_wei)
        base_fee = history.base_fees_wei[-1]
        if self._is_spike and not was_spike:
            least = min(history.base_fees_wei)
            self._observer.event("chain.fee_spike", base_fee_wei=base_fee, least_wei=least, number=head.number)
        return read_market(base_fee, history.tips_wei, fees, transfer)

    async def _extras(self, batch: Batch, plans: Sequence[Plan]) -> Extras:
        grants = [approve_call(each, each.amount) for each in batch.approvals]
        calls = [*grants, *(plan.call for plan in plans)]
        fees, gas = await asyncio.gather(
            self._network.data_fees([self._payload(call) for call in calls], batch.head),
            self._network.data_gas(calls, batch.head),
        )
        costs = [Extra(*each) for each in zip(fees, gas, strict=True)]
        allowances = [(each.token, each.spender) for each in batch.approvals]
        return Extras(
            dict(zip((plan.id for plan in plans), costs[len(grants) :], strict=True)),
            dict(zip(allowances, costs[: len(grants)], strict=True)),
        )


def price(
    trial: Trial, market: FeeMarket, policy: FeePolicy, costs: Extras = _NO_EXTRAS
) -> tuple[list[Bid], list[Skipped]]:
    """Price every plan that worked, each allowance with the first plan that needs it."""
    skipped = [
        *trial.skipped,
        *(skip(plan, Reason.SIMULATION_FAILED, "waits for its allowance") for plan in trial.waiting),
    ]
    upfront: dict[Allowance | None, Extra] = {}
    for grant in trial.grants:
        run, data = Extra(gas=grant.gas_used), costs.grants.get(grant.allowance, FREE)
        upfront[grant.allowance] = upfront.get(grant.allowance, FREE) + run + data
    priced: list[_Priced] = []
    payers: dict[Allowance | None, list[_Priced]] = {}
    waiting = [Tried(plan, plan.gas_estimate, None) for plan in trial.waiting]
    for tried in (*trial.tried, *waiting):
        allowance = needs(tried.plan)
        first = FREE if allowance in payers else upfront.get(allowance, FREE)
        each = _price(tried, market, policy, costs.plans.get(tried.plan.id, FREE), first)
        if isinstance(each, Skipped):
            if tried not in waiting:
                skipped.append(each)
            continue
        payers.setdefault(allowance, []).append(each)
        if tried not in waiting:
            priced.append(each)
    bids = [
        _grant_bid(grant, payers[grant.allowance], policy, costs.grants.get(grant.allowance, FREE))
        for grant in trial.grants
        if grant.allowance in payers
    ]
    bids += [
        Bid(
            each.tried.plan.call,
            gas_limit(each.tried.gas_used, policy, each.data.gas),
            each.fee_limit_wei,
            each.quote,
            each.tried.plan,
            each.profit_base,
            each.data.fee_wei,
        )
        for each in priced
    ]
    return bids, skipped


def realised_profit_base(plan: Plan, realised: Realised | None) -> Base:
    """Value what the simulation realised at the plan's own prices; where there is nothing to compare, what was planned."""
    what = plan.opportunity
    is_comparable = what.proceeds is not None or (what.seized_amount and what.repay_amount)
    return realised.profit_base(what) if realised is not None and is_comparable else what.gross_profit_base


def _price(tried: Tried, market: FeeMarket, policy: FeePolicy, data: Extra, first: Extra) -> _Priced | Skipped:
    """Price a plan that pays for `first` as well, its allowance."""
    plan = tried.plan
    if plan.native_price_base <= 0:
        return skip(plan, Reason.NATIVE_PRICE_UNKNOWN)
    limit_gas = gas_limit(tried.gas_used, policy, data.gas)
    if limit_gas > policy.max_gas_limit:
        return skip(plan, Reason.FEE_CAP, f"a gas limit of {limit_gas} is above the cap of {policy.max_gas_limit}")
    profit = realised_profit_base(plan, tried.realised)
    budget = gas_budget_wei(profit, plan.min_profit_base, plan.native_price_base, policy)
    extra = data + first
    gas = tried.gas_used + extra.gas
    limit = Wei(max(0, budget - extra.fee_wei) // gas)
    bid = quote(market, limit, policy)
    if isinstance(bid, Reason):
        asked = f"the block asks {market.needed_wei}, and {extra.fee_wei} for data"
        return skip(plan, bid, f"profit {profit} allows {limit} wei for each of {gas} gas, {asked}")
    return _Priced(tried, limit, bid, profit, data)


def _grant_bid(grant: Grant, payers: Sequence[_Priced], policy: FeePolicy, data: Extra) -> Bid:
    """Bid for an allowance as high as the best plan that waits behind it."""
    best = max(payers, key=lambda each: each.quote.max_fee_wei)
    limit = gas_limit(grant.gas_used, policy, data.gas)
    return Bid(grant.call, limit, best.fee_limit_wei, best.quote, None, Base(0), data.fee_wei)
