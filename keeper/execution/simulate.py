"""Try the whole batch on top of the head before any of it is paid for: allowances first, then the plans, in order."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from keeper.chain.simulation import Simulated
from keeper.domain.chain import BlockHead, Call, Log
from keeper.domain.outcome import Reason
from keeper.domain.plan import Approval, Plan, Realised
from keeper.domain.ports import Executor, Market, Taken
from keeper.domain.position import Action, Opportunity, PositionKey
from keeper.domain.units import Address, TokenAmount
from keeper.execution.ports import Network
from keeper.execution.signer import APPROVE
from keeper.execution.verdicts import Skipped, skip

Allowance = tuple[Address, Address]
"""A token and its spender."""
Step = tuple[PositionKey, Action]
"""What is done to a position: that its liquidation is prepared is not that it is liquidated."""

_ZERO: Final = TokenAmount(0)


@dataclass(frozen=True, slots=True)
class Grant:
    """One allowance to set, with the gas that the simulation measured for it."""

    allowance: Allowance
    call: Call
    gas_used: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan that worked in the simulation. `realised` is None where the node could not show logs."""

    plan: Plan
    gas_used: int
    realised: Realised | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What the simulation said of a batch. `waiting` plans need an allowance that must be mined first."""

    grants: tuple[Grant, ...] = ()
    tried: tuple[Tried, ...] = ()
    waiting: tuple[Plan, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """What is in flight and will run before the batch: its calls, and the allowances that it sets."""

    calls: tuple[Call, ...] = ()
    allowances: frozenset[Allowance] = frozenset()


@dataclass(slots=True)
class _Grants:
    """The allowances of a batch on their way through the simulation."""

    good: list[Grant] = field(default_factory=list)
    failed: set[Allowance] = field(default_factory=set)


def approve_call(approval: Approval, amount: TokenAmount) -> Call:
    """Return the ERC-20 call that sets an allowance."""
    return Call(approval.token, APPROVE + bytes(12) + approval.spender + amount.to_bytes(32))


def allowance_of(call: Call) -> Allowance | None:
    """Return the allowance that a call sets, if it sets one."""
    return (call.to, Address(call.data[16:36])) if call.data[:4] == APPROVE else None


class Simulator:
    """Simulates from the signer's address."""

    def __init__(
        self, network: Network, markets: Mapping[str, Market], sender: Address, executor: Executor | None = None
    ) -> None:
        """Use each plan's own market, and the executor, to read its revert or its logs."""
        self._network = network
        self._markets = markets
        self._sender = sender
        self._executor = executor

    async def run(
        self, head: BlockHead, approvals: Sequence[Approval], plans: Sequence[Plan], pending: Pending
    ) -> Trial:
        """Simulate approvals and plans on top of what is in flight.

        A token that refuses to change a standing allowance is asked again with a reset to zero first.
        Raises: Transient, Stale.
        """
        wanted = [each for each in approvals if (each.token, each.spender) not in pending.allowances]
        at_s = max(plan.opportunity.at.time_s for plan in plans)
        resets: frozenset[Allowance] = frozenset()
        while True:
            steps = _steps(wanted, resets)
            calls = [*pending.calls, *(call for _, call in steps), *(plan.call for plan in plans)]
            results = await self._network.simulate(calls, sender=self._sender, head=head, at_s=at_s)
            if results is None:
                return await self._one_by_one(head, wanted, plans, pending)
            results = results[len(pending.calls) :]
            grants = _grants(steps, results)
            if not grants.failed - resets:
                break
            resets |= grants.failed
        tried, skipped = self._read(plans, results[len(steps) :], grants.failed)
        return Trial(tuple(grants.good), tuple(tried), (), tuple(skipped))

    async def still_works(
        self, head: BlockHead, calls: Sequence[Call], keys: Sequence[PositionKey | None], at_s: int
    ) -> Sequence[tuple[Reason, str] | None]:
        """Return for each call in flight, in order, why it would fail on top of the head, or None if it would not.

        Raises: Transient, Stale.
        """
        results = await self._network.simulate(calls, sender=self._sender, head=head, at_s=at_s)
        if results is None:
            results = await self._each(head, calls)
        return [
            None if result.ok else self.explain(key, result.data) for key, result in zip(keys, results, strict=True)
        ]

    def explain(self, key: PositionKey | None, data: bytes) -> tuple[Reason, str]:
        """Name a revert in its market's words."""
        market = self._markets.get(key.market) if key else None  # it may have left the chain file meanwhile
        if market is None:
            return Reason.SIMULATION_REVERTED, f"0x{data[:100].hex()}"
        own = self._executor.decode_revert(data) if self._executor else None
        reason, text = own or market.calls.decode_revert(data)
        return (Reason.SIMULATION_REVERTED if reason is Reason.UNKNOWN else reason), text[:256]

    def realised(self, what: Opportunity, logs: Iterable[Log]) -> Realised | None:
        """Return what a transaction's logs say was done of a step, in all; None where they say nothing of it."""
        logs, market = tuple(logs), self._markets.get(what.key.market)  # it may have left the chain file meanwhile
        reported = market.reader.liquidations(logs) if market else ()
        parts = [each.realised for each in reported if step_of(each) == step_of(what)]
        if not parts:
            return None
        profit = None
        if what.proceeds is not None and self._executor is not None:
            profit = self._executor.profits(logs).get(what.proceeds.token.address, TokenAmount(0))
        repaid, seized = sum(each.repaid_amount for each in parts), sum(each.seized_amount for each in parts)
        return Realised(TokenAmount(repaid), TokenAmount(seized), profit)

    async def _each(self, head: BlockHead, calls: Sequence[Call]) -> Sequence[Simulated]:
        return await asyncio.gather(
            *(self._network.call(call, sender=self._sender, block_hash=head.hash) for call in calls)
        )

    async def _one_by_one(
        self, head: BlockHead, approvals: Sequence[Approval], plans: Sequence[Plan], pending: Pending
    ) -> Trial:
        """Do without a sequence: a plan that needs an allowance waits until that is mined."""
        missing = {(each.token, each.spender) for each in approvals} | pending.allowances
        waiting = [plan for plan in plans if needs(plan) in missing]
        ready = [plan for plan in plans if needs(plan) not in missing]
        results = await self._each(head, [plan.call for plan in ready])
        tried, skipped = self._read(ready, results, set())
        grants = []
        for approval in approvals:
            grant = await self._grant_alone(head, approval)
            if grant is not None:
                grants.append(grant)
        return Trial(tuple(grants), tuple(tried), tuple(waiting), tuple(skipped))

    async def _grant_alone(self, head: BlockHead, approval: Approval) -> Grant | None:
        """Return what to send now: the allowance, or the reset that has to be mined before it."""
        for amount in (approval.amount, _ZERO):
            call = approve_call(approval, amount)
            (result,) = await self._each(head, [call])
            if _is_granted(result):
                return Grant((approval.token, approval.spender), call, result.gas_used)
        return None

    def _read(
        self, plans: Sequence[Plan], results: Sequence[Simulated], failed: set[Allowance]
    ) -> tuple[list[Tried], list[Skipped]]:
        tried, skipped = [], []
        for plan, result in zip(plans, results, strict=True):
            read = self._read_one(plan, result, is_blocked=needs(plan) in failed)
            if isinstance(read, Tried):
                tried.append(read)
            else:
                skipped.append(read)
        return tried, skipped

    def _read_one(self, plan: Plan, result: Simulated, *, is_blocked: bool) -> Tried | Skipped:
        if not result.ok:
            if is_blocked:
                return skip(plan, Reason.TOKEN_BLOCKED, "the token refuses the allowance")
            return skip(plan, *self.explain(plan.key, result.data))
        if result.logs is None:
            return Tried(plan, result.gas_used, None)
        realised = self.realised(plan.opportunity, result.logs)
        if realised is None:
            return skip(plan, Reason.SIMULATION_FAILED, "the call succeeds without doing its work")
        return Tried(plan, result.gas_used, realised)


def step_of(what: Opportunity | Taken) -> Step:
    """Return which step of which position is planned, or was made."""
    return what.key, what.action


def needs(plan: Plan) -> Allowance | None:
    """Return the allowance that a plan's call pulls by, if any."""
    what = plan.opportunity
    return None if what.spender is None else (what.repay.address, what.spender)


def _steps(approvals: Sequence[Approval], resets: frozenset[Allowance]) -> list[tuple[Allowance, Call]]:
    steps = []
    for approval in approvals:
        allowance = approval.token, approval.spender
        if allowance in resets:
            steps.append((allowance, approve_call(approval, _ZERO)))
        steps.append((allowance, approve_call(approval, approval.amount)))
    return steps


def _grants(steps: Sequence[tuple[Allowance, Call]], results: Sequence[Simulated]) -> _Grants:
    grants = _Grants()
    for (allowance, call), result in zip(steps, results, strict=False):
        if _is_granted(result):
            grants.good.append(Grant(allowance, call, result.gas_used))
        else:
            grants.failed.add(allowance)
    grants.good = [grant for grant in grants.good if grant.allowance not in grants.failed]
    return grants


def _is_granted(result: Simulated) -> bool:
    """Accept a token that returns nothing, and refuse one that returns false."""
    return result.ok and (not result.data or any(result.data))
