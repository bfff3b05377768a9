"""From candidates to plans: the pair and amount that pay best, in order of value, within what the signer holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final

from keeper.domain.chain import BlockHead
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason
from keeper.domain.plan import Approval, Batch, DecisionRecord, Inventory, Payment, Plan
from keeper.domain.ports import Market, Snapshot
from keeper.domain.position import Opportunity, PositionKey, Token
from keeper.domain.units import Address, Base, TokenAmount, Wei
from keeper.engine.funding import OwnInventory
from keeper.engine.limits import REFUSED_BLOCKS, CoolDown, Limits, way_of
from keeper.engine.scan import Candidate
from keeper.engine.sizing import Refused
from keeper.engine.trading import Trading

_TRIES: Final = 4
"""How many candidates are looked at for each plan that a head may have: to find a trade takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's economic limits.

    A transaction carries at most `max_value_wei`, and none of the last `low_balance_wei`, which are for gas.
    """

    mode: Mode
    min_profit_base: Base
    approval_base: Base
    max_plans: int
    signer: Address | None
    max_value_wei: Wei = Wei(0)
    low_balance_wei: Wei = Wei(0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A candidate that a trade was looked for in vain, and what it is worth to a liquidator."""

    candidate: Candidate
    reason: Reason
    stake_base: Base


@dataclass(frozen=True, slots=True)
class Planned:
    """One decision for every candidate, what is handed to the sender, if anything, and what nobody would trade."""

    decisions: tuple[DecisionRecord, ...]
    batch: Batch | None
    refused: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do with the proceeds of earlier liquidations: nobody else's position, and no decision about one."""

    market: Market
    snapshot: Snapshot
    opportunity: Opportunity


@dataclass(frozen=True, slots=True)
class _Priced:
    """A candidate that would pay, were there enough to pay with; `ready` are the ways that are not cooling down."""

    candidate: Candidate
    ready: Sequence[Opportunity]
    net_base: Base

    @property
    def best(self) -> Opportunity:
        """Return the way that would pay best."""
        return self.ready[0]


class Purse:
    """What is left to spend while one head is planned."""

    def __init__(self, inventory: Inventory | None, policy: Policy) -> None:
        """Start with the inventory; None means that nothing bounds the plans."""
        self._inventory = inventory
        self._policy = policy
        self._spent: dict[Address, int] = {}
        self._pulled: dict[tuple[Address, Address], int] = {}
        self._granted: dict[tuple[Address, Address], TokenAmount] = {}

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """Return the allowances that the plans need, one at most for each token and spender."""
        return tuple(Approval(token, spender, amount) for (token, spender), amount in self._granted.items())

    def budget(self, candidate: Candidate, via: Address | None = None) -> Mapping[Address, TokenAmount] | None:
        """Return what may be paid per token: the balance left, and no more than the allowance is or may become.

        Where a token can be paid to several contracts, the least that any of them could pull; or what the one contract
        `via` could.
        """
        if self._inventory is None:
            return None
        budget: dict[Address, TokenAmount] = {}
        for payment in candidate.snapshot.payments:
            token = payment.token.address
            left = max(0, self._left(payment))
            if payment.spender is not None:
                key = (token, via or payment.spender)
                allowed = max(self._allowance(key), 0 if key in self._granted else self._cap(candidate, payment.token))
                left = max(0, min(left, allowed - self._pulled.get(key, 0)))
            budget[token] = TokenAmount(min(left, budget.get(token, left)))
        return budget

    def pay(self, candidate: Candidate, opportunity: Opportunity) -> None:
        """Set aside what a plan may pull; an allowance that does not reach is set once, to the operator's cap."""
        if self._inventory is None:
            return
        token, limit = opportunity.repay, opportunity.repay_limit
        self._spent[token.address] = self._spent.get(token.address, 0) + limit
        if opportunity.spender is None:
            return
        key = (token.address, opportunity.spender)
        self._pulled[key] = self._pulled.get(key, 0) + limit
        if self._allowance(key) < self._pulled[key]:
            self._granted[key] = self._cap(candidate, token)

    def _left(self, payment: Payment) -> int:
        """Return what is left of a balance; of native currency, what one transaction may carry and gas does not need."""
        held = self._inventory.balances.get(payment.token.address, 0) if self._inventory else 0
        left = held - self._spent.get(payment.token.address, 0)
        if not payment.is_native:
            return left
        return min(left - self._policy.low_balance_wei, self._policy.max_value_wei)

    def _allowance(self, key: tuple[Address, Address]) -> int:
        """Return the allowance that the plans so far will find."""
        held = self._inventory.allowances.get(key, TokenAmount(0)) if self._inventory else TokenAmount(0)
        return self._granted.get(key, held)

    def _cap(self, candidate: Candidate, token: Token) -> TokenAmount:
        """Convert the operator's cap to the token's units at the market's price."""
        unit = TokenAmount(10**token.decimals)
        unit_base = candidate.snapshot.value_base(token.address, unit)
        return TokenAmount(self._policy.approval_base * unit // unit_base) if unit_base else TokenAmount(0)


def plan(
    head: BlockHead,
    candidates: Sequence[Candidate],
    inventory: Inventory | None,
    limits: Limits,
    policy: Policy,
    *,
    chores: Sequence[Chore] = (),
    trading: Trading | None = None,
) -> Planned:
    """Decide every candidate exactly once, best value first, and add the chores that are worth their gas.

    With `trading`, what the executor can do goes through it, each trade quoted on what those before it leave.
    """
    decisions: list[DecisionRecord] = []
    priced: list[_Priced] = []
    for candidate in candidates:
        verdict = _price(head, candidate, limits, policy)
        if isinstance(verdict, _Priced):
            priced.append(verdict)
        else:
            decisions.append(verdict)
    priced.sort(key=lambda each: (-each.net_base, each.candidate.key))
    purse = Purse(None if policy.mode is Mode.OBSERVE else inventory, policy)
    plans: list[Plan] = []
    refused: list[Refusal] = []
    for tried, each in enumerate(priced):
        if policy.mode is Mode.OBSERVE:
            decisions.append(_skip(head, each.candidate, Reason.OBSERVE_MODE, each.net_base))
        elif len(plans) >= policy.max_plans or tried >= _TRIES * policy.max_plans:
            decisions.append(_skip(head, each.candidate, Reason.BATCH_FULL, each.net_base))
        else:
            made = _fund(head, each, purse, limits, policy) if trading is None else None
            if trading is not None:
                made, trading = _trade(head, each, purse, limits, policy, trading=trading)
            if isinstance(made, Plan):
                plans.append(made)
            elif made is not None:
                decisions.append(made)
                refused.append(Refusal(each.candidate, made.reason or Reason.UNKNOWN, each.best.stake_base))
    if policy.mode is Mode.LIVE:
        settled = (_settle(head, chore, limits) for chore in chores)
        plans += [each for each in settled if each is not None]
    batch = Batch(head, purse.approvals, tuple(plans)) if plans else None
    return Planned(tuple(decisions), batch, tuple(refused) if trading is not None else ())


def accept(head: BlockHead, candidate: Candidate, plan_id: str, profit_base: Base, detail: str) -> DecisionRecord:
    """Record that a candidate's plan was sent."""
    return _record(head, candidate, Decision.ACCEPTED, profit_base=profit_base, plan_id=plan_id, detail=detail)


def skip(head: BlockHead, candidate: Candidate, reason: Reason, detail: str) -> DecisionRecord:
    """Record that a candidate's plan was dropped before it was sent."""
    best = candidate.assessment.opportunities
    return _skip(head, candidate, reason, best[0].gross_profit_base if best else None, detail)


def _price(head: BlockHead, candidate: Candidate, limits: Limits, policy: Policy) -> _Priced | DecisionRecord:
    """Weigh the best opportunity against gas, or say why there is none."""
    assessment = candidate.assessment
    if limits.is_locked(candidate.key):
        return _skip(head, candidate, Reason.IN_FLIGHT)
    if candidate.key.account == policy.signer:
        return _skip(head, candidate, Reason.RECEIVER_IS_BORROWER)
    if not assessment.opportunities:
        return _skip(head, candidate, assessment.blocked or Reason.UNKNOWN)
    best = assessment.opportunities[0]
    native = candidate.snapshot.native_price_base
    if native is None:
        return _skip(head, candidate, Reason.NATIVE_PRICE_UNKNOWN, best.gross_profit_base)
    gas = _gas_base(head, candidate.market, native)
    net = Base(best.gross_profit_base - gas)
    if net < policy.min_profit_base:
        return _skip(head, candidate, Reason.UNPROFITABLE, net)
    ready, cool = _ready(head, candidate, assessment.opportunities, limits)
    if not ready or ready[0].gross_profit_base - gas < policy.min_profit_base:
        if cool is not None and cool.reason in REFUSED_BLOCKS:
            return _skip(head, candidate, cool.reason, net, f"looked at again in block {cool.until_block}")
        why = f"{cool.reason} until block {cool.until_block}" if cool else ""
        return _skip(head, candidate, Reason.COOLING_DOWN, net, why)
    return _Priced(candidate, ready, Base(ready[0].gross_profit_base - gas))


def _ready(
    head: BlockHead, candidate: Candidate, opportunities: Sequence[Opportunity], limits: Limits
) -> tuple[Sequence[Opportunity], CoolDown | None]:
    """Return the opportunities that are not cooling down, best first, and what holds back the best of all."""
    first: CoolDown | None = None
    ready: list[Opportunity] = []
    for each in opportunities:
        cool = limits.cooling(candidate.key, head.number, candidate.position, each.stake_base, way=way_of(each))
        if cool is None:
            ready.append(each)
        first = first or cool
    return ready, first


def _fund(head: BlockHead, priced: _Priced, purse: Purse, limits: Limits, policy: Policy) -> Plan | DecisionRecord:
    """Size the candidate again with what is left to spend, and set that aside."""
    candidate = priced.candidate
    budget = purse.budget(candidate)
    opportunities: Sequence[Opportunity] = (priced.best,)
    blocked: Reason | None = None
    if budget is not None:
        funded = candidate.market.rules.assess(candidate.position, candidate.snapshot, priced.best.at, budget)
        ways = {way_of(each) for each in priced.ready}
        opportunities, blocked = [each for each in funded.opportunities if way_of(each) in ways], funded.blocked
    if not opportunities:
        reason = Reason.DUST_RULE if blocked is Reason.DUST_RULE else Reason.INSUFFICIENT_INVENTORY
        return _skip(head, candidate, reason, priced.net_base, _short_of(priced.best, budget))
    ready, _ = _ready(head, candidate, opportunities, limits)
    if not ready:
        return _skip(head, candidate, Reason.COOLING_DOWN, priced.net_base)
    best = ready[0]
    native = candidate.snapshot.native_price_base or Base(0)
    net = Base(best.gross_profit_base - _gas_base(head, candidate.market, native))
    if net < policy.min_profit_base:
        return _skip(head, candidate, Reason.INSUFFICIENT_INVENTORY, net, _short_of(priced.best, budget))
    purse.pay(candidate, best)
    return Plan(
        id=_plan_id(head, candidate.key),
        head=head,
        opportunity=best,
        call=candidate.market.calls.liquidation(best),
        gas_estimate=candidate.market.calls.GAS_ESTIMATE,
        native_price_base=native,
        min_profit_base=policy.min_profit_base,
    )


def _trade(
    head: BlockHead, priced: _Priced, purse: Purse, limits: Limits, policy: Policy, *, trading: Trading
) -> tuple[Plan | DecisionRecord, Trading]:
    """Let the executor do it, and return what it leaves of the pools; what it cannot do, and what may be kept, we do."""
    candidate = priced.candidate
    if candidate.market.programs is None:
        return _fund(head, priced, purse, limits, policy), trading
    native = candidate.snapshot.native_price_base or Base(0)
    candidate = replace(candidate, assessment=replace(candidate.assessment, opportunities=tuple(priced.ready)))
    own = OwnInventory(purse.budget(candidate, trading.executor.address) or {})
    found = trading.best(head, candidate, own=own, native=native, floor_base=policy.min_profit_base)
    if isinstance(found, Refused):
        kept = [each for each in priced.ready if each.seize.address in trading.hold and _is_worth(candidate, each)]
        if kept:
            return _fund(head, replace(priced, ready=kept), purse, limits, policy), trading
        return _skip(head, candidate, found.reason, found.net_base, found.detail), trading
    what = trading.opportunity(candidate, found, own=own)
    purse.pay(candidate, what)
    made = Plan(
        id=_plan_id(head, candidate.key),
        head=head,
        opportunity=what,
        call=trading.executor.call(found.program),
        gas_estimate=found.gas,
        native_price_base=native,
        min_profit_base=policy.min_profit_base,
    )
    return made, trading.after(found)


def _is_worth(candidate: Candidate, what: Opportunity) -> bool:
    """Return whether what is kept is worth what it costs by prices that no stranger's oracle has made."""
    value = candidate.snapshot.value_base(what.seize.address, what.seized_amount)
    return value is not None and value >= what.repay_base


def _settle(head: BlockHead, chore: Chore, limits: Limits) -> Plan | None:
    """Plan a chore that pays for its gas and is neither in flight nor cooling down."""
    step, native = chore.opportunity, chore.snapshot.native_price_base
    if native is None or limits.is_locked(step.key):
        return None
    if step.gross_profit_base - _gas_base(head, chore.market, native) < 0:
        return None
    if limits.cooling(step.key, head.number, None, step.gross_profit_base, way=way_of(step)) is not None:
        return None
    return Plan(
        id=_plan_id(head, step.key),
        head=head,
        opportunity=step,
        call=chore.market.calls.liquidation(step),
        gas_estimate=chore.market.calls.GAS_ESTIMATE,
        native_price_base=native,
        min_profit_base=Base(0),
    )


def _short_of(wanted: Opportunity, budget: Mapping[Address, TokenAmount] | None) -> str:
    held = (budget or {}).get(wanted.repay.address, TokenAmount(0))
    return f"needs {wanted.repay_limit} of {wanted.repay.symbol}, may spend {held}"


def _gas_base(head: BlockHead, market: Market, native: Base) -> Base:
    """Value the protocol's typical gas at the head's base fee, rounded up; the sender prices it exactly."""
    wei = market.calls.GAS_ESTIMATE * head.base_fee_wei
    return Base(-(-wei * native // 10**18))


def _plan_id(head: BlockHead, key: PositionKey) -> str:
    """Name a plan by what it is for, so that the same decision always has the same name."""
    digest = blake2b(digest_size=8)
    digest.update(head.hash + key.id + key.market.encode())
    return digest.hexdigest()


def _skip(
    head: BlockHead, candidate: Candidate, reason: Reason, profit_base: Base | None = None, detail: str = ""
) -> DecisionRecord:
    return _record(head, candidate, Decision.SKIPPED, reason=reason, profit_base=profit_base, detail=detail)


def _record(
    head: BlockHead,
    candidate: Candidate,
    decision: Decision,
    *,
    profit_base: Base | None,
    detail: str,
    reason: Reason | None = None,
    plan_id: str | None = None,
) -> DecisionRecord:
    health = candidate.assessment.health
    return DecisionRecord(
        key=candidate.key,
        block=head.number,
        decision=decision,
        reason=reason,
        plan_id=plan_id,
        health_factor_wad=health.health_factor_wad,
        debt_base=health.debt_base,
        profit_base=profit_base,
        detail=detail,
    )
