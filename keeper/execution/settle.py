"""What the chain says of one nonce, and how that ends its plan. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.ports import Taken
from keeper.domain.units import BlockHash, TxHash
from keeper.execution.lane import Slot
from keeper.execution.simulate import total
from keeper.store.records import Attempt, AttemptKind, AttemptState, Entry, Inclusion, Intent, IntentState


class Phase(Enum):
    """Where a nonce stands at one head."""

    PENDING = auto()
    """Not used: what we sent may still be mined."""
    MINED = auto()
    """Used by one of our transactions."""
    USED = auto()
    """Used, but none of ours has a receipt: a lagging answer, or somebody else's transaction."""


@dataclass(frozen=True, slots=True)
class Look:
    """A nonce's phase, and the receipt where there is one."""

    phase: Phase
    receipt: Receipt | None = None


def look(slot: Slot, standing: Standing, blocks: Mapping[int, BlockHash]) -> Look:
    """Find out where a nonce stands.

    A receipt from a block that our own chain of heads contradicts proves nothing.
    """
    for attempt in slot.entry.attempts:
        receipt = standing.receipts.get(attempt.tx_hash)
        if receipt is not None and blocks.get(receipt.block_number, receipt.block_hash) == receipt.block_hash:
            return Look(Phase.MINED, receipt)
    return Look(Phase.USED if slot.nonce < standing.nonce else Phase.PENDING)


def mined(intent: Intent, receipt: Receipt) -> Intent:
    """Note where an intent's nonce was used by us."""
    inclusion = Inclusion(receipt.tx_hash, receipt.block_number, receipt.block_hash, receipt.cost_wei)
    return replace(intent, state=IntentState.MINED, inclusion=inclusion)


def foreign(intent: Intent, head: BlockHead) -> Intent:
    """Note that an intent's nonce was used by somebody else."""
    return replace(intent, state=IntentState.MINED, inclusion=Inclusion(None, head.number, head.hash))


def unmined(intent: Intent) -> Intent:
    """Note that the block of an intent's transaction is gone."""
    return replace(intent, state=IntentState.LIVE, inclusion=None)


def is_final(inclusion: Inclusion, head: BlockHead, confirmations: int) -> bool:
    """Return whether enough blocks stand on the transaction's, its own included."""
    return head.number - inclusion.block + 1 >= confirmations


def closed(entry: Entry) -> Entry:
    """Note the end of an entry: one attempt was mined, or none, and the others cannot be any more."""
    used = entry.intent.inclusion.tx_hash if entry.intent.inclusion else None
    attempts = tuple(
        replace(each, state=AttemptState.MINED if each.tx_hash == used else AttemptState.REPLACED)
        for each in entry.attempts
    )
    return Entry(replace(entry.intent, state=IntentState.FINAL), attempts)


def attempt_of(entry: Entry, tx_hash: TxHash) -> Attempt:
    """Return the attempt with that hash."""
    return next(each for each in entry.attempts if each.tx_hash == tx_hash)


def outcome(
    entry: Entry,
    receipt: Receipt | None,
    taken: Sequence[Taken],
    rival: Taken | None,
    revert: tuple[Reason, str] | None,
) -> Outcome | None:
    """Return how the plan of an entry ended; None for an entry without a plan.

    `taken` is what the receipt's own logs report for the position, `rival` somebody else's liquidation of it, `revert`
    why the call fails on the state of its block.
    """
    intent = entry.intent
    if intent.plan_id is None or intent.opportunity is None or intent.inclusion is None:
        return None
    ended = Outcome(
        plan_id=intent.plan_id,
        key=intent.opportunity.key,
        result=Result.FAILED,
        reason=Reason.FOREIGN_NONCE,
        detail=f"nonce {intent.nonce} was used by a transaction that is not ours",
        block=intent.inclusion.block,
        tx_hash=intent.inclusion.tx_hash,
        gas_cost_wei=intent.inclusion.gas_cost_wei,
        opportunity=intent.opportunity,
    )
    if receipt is None:
        return ended
    if attempt_of(entry, receipt.tx_hash).kind is AttemptKind.CANCEL:
        why = f"{intent.reason.value}: {intent.detail}" if intent.reason else intent.detail
        return replace(ended, result=Result.CANCELLED, reason=Reason.CANCELLED, detail=why[:256])
    if receipt.succeeded and taken:
        return replace(
            ended, result=Result.WON, reason=None, detail="", realised=total([each.realised for each in taken])
        )
    if receipt.succeeded:
        return replace(ended, reason=Reason.UNKNOWN, detail="the call succeeded without doing its work")
    if rival is not None and rival.log.block_number <= receipt.block_number:
        by = f"taken by 0x{rival.liquidator.hex()} in block {rival.log.block_number}"
        return replace(ended, result=Result.LOST, reason=Reason.LOST_RACE, detail=by)
    if receipt.gas_used >= intent.gas_limit:
        return replace(ended, result=Result.REVERTED, reason=Reason.REVERTED, detail="out of gas")
    reason, detail = revert or (Reason.REVERTED, "the call works again on the state of its block")
    if reason is Reason.LOST_RACE:
        return replace(ended, result=Result.LOST, reason=reason, detail=detail)
    if reason is Reason.SIMULATION_REVERTED:
        reason = Reason.REVERTED
    return replace(ended, result=Result.REVERTED, reason=reason, detail=detail)
