"""Everything but the spending: plans are simulated and priced as if they were sent, then scored by what the chain did."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.domain.plan import Batch, Plan
from keeper.domain.ports import Executor, Market, Taken
from keeper.domain.position import PositionKey
from keeper.domain.units import Address, Base, Wei
from keeper.errors import Stale, Transient
from keeper.execution.fees import FeePolicy
from keeper.execution.ports import Network, Observer, SilentObserver
from keeper.execution.prepare import Bid, Preparation
from keeper.execution.simulate import Pending, Simulator, step_of
from keeper.execution.verdicts import Verdict, skip


class Rank(StrEnum):
    """How a plan that was not sent would have compared."""

    FIRST = "first"
    """Somebody took the account later than the block after the plan's head."""
    SAME_BLOCK = "same_block"
    """Somebody took it in the very block that we would have been in: the bid would have decided."""
    LATE = "late"
    """It was taken before we could have been."""
    NOBODY = "nobody"
    """Nobody has taken it so far."""


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a plan that was not sent. `waited_blocks` is how long after the plan's head the chain acted."""

    plan_id: str
    key: PositionKey
    rank: Rank
    waited_blocks: int
    rival: Address | None
    profit_base: Base
    gas_cost_wei: Wei


@dataclass(frozen=True, slots=True)
class _Watched:
    """A plan that would have been sent."""

    plan: Plan
    bid: Bid
    block: int


class ShadowSender:
    """Takes the sender's place without a key. An account is scored once for the first of its plans."""

    def __init__(
        self,
        *,
        network: Network,
        sender: Address,
        markets: Mapping[str, Market],
        executor: Executor | None = None,
        fees: FeePolicy,
        deliver: Callable[[Score], None],
        score_after_blocks: int = 10,
        observer: Observer | None = None,
    ) -> None:
        """Simulate as `sender`, which needs no key here but the tokens and the allowances."""
        told: Observer = observer or SilentObserver()
        simulator = Simulator(network, markets, sender, executor)
        self._preparation = Preparation(network=network, simulator=simulator, sender=sender, fees=fees, observer=told)
        self._deliver = deliver
        self._score_after_blocks = score_after_blocks
        self._watched: dict[PositionKey, _Watched] = {}

    @property
    def in_flight(self) -> frozenset[PositionKey]:
        """Return nothing: no account is held by a plan that was not sent."""
        return frozenset()

    async def recover(self, head: BlockHead) -> None:
        """Do nothing: nothing was ever sent."""
        del head

    async def submit(self, batch: Batch) -> tuple[Verdict, ...]:
        """Simulate and price a batch, remember what would have been sent, and skip it all."""
        try:
            prepared = await self._preparation.run(batch, batch.plans, Pending())
        except Stale as error:
            return tuple(skip(plan, Reason.SUPERSEDED, str(error)) for plan in batch.plans)
        except Transient as error:
            return tuple(skip(plan, Reason.SIMULATION_FAILED, str(error)) for plan in batch.plans)
        verdicts: dict[str, Verdict] = {each.plan_id: each for each in prepared.skipped}
        for bid in prepared.bids:
            if bid.plan is None:
                continue
            self._watched.setdefault(bid.plan.key, _Watched(bid.plan, bid, batch.head.number))
            detail = f"would send with a fee of at most {bid.quote.max_fee_wei} wei for {bid.profit_base} profit"
            verdicts[bid.plan.id] = skip(bid.plan, Reason.SHADOW_MODE, detail)
        return tuple(verdicts[plan.id] for plan in batch.plans)

    async def on_head(self, head: BlockHead, taken: Sequence[Taken] = ()) -> None:
        """Score what the chain has decided, and what it has left alone for long enough."""
        for each in taken:
            watched = self._watched.get(each.key)
            if watched is not None and step_of(each) == step_of(watched.plan.opportunity):
                del self._watched[each.key]
                waited = each.log.block_number - watched.block
                rank = Rank.FIRST if waited > 1 else Rank.SAME_BLOCK if waited == 1 else Rank.LATE
                self._score(watched, rank, waited, each.liquidator)
        for key, watched in list(self._watched.items()):
            waited = head.number - watched.block
            if waited >= self._score_after_blocks:
                del self._watched[key]
                self._score(watched, Rank.NOBODY, waited, None)

    async def drain(self, timeout_s: int) -> frozenset[PositionKey]:
        """Return at once: there is nothing to wait for."""
        del timeout_s
        return frozenset()

    def _score(self, watched: _Watched, rank: Rank, waited_blocks: int, rival: Address | None) -> None:
        cost = Wei(watched.bid.worst_gas_wei)
        plan = watched.plan
        self._deliver(Score(plan.id, plan.key, rank, waited_blocks, rival, watched.bid.profit_base, cost))
