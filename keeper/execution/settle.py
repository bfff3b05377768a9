"""What the chain says of one nonce, and how that ends its plan. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from keeper.chain.transactions import Standing
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome, Realised
from keeper.domain.ports import Taken
from keeper.domain.units import BlockHash, TxHash
from keeper.execution.lane import Slot
from keeper.store.records import Attempt, AttemptKind, AttemptState, Entry, Inclusion, Intent, IntentState

_NEARLY_ALL: Final = 16
"""A call keeps one part in 64 back from each call that it makes: what fails four calls deep leaves a sixteenth."""


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
    """A nonce's phase, and the receipt where there is one. `is_denied`: there was one, which a second node does not have."""

    phase: Phase
    receipt: Receipt | None = None
    is_denied: bool = False


def look(slot: Slot, standing: Standing, blocks: Mapping[int, BlockHash]) -> Look:
    """Find out where a nonce stands.

    A receipt proves nothing where our own chain of heads contradicts its block, or the very answer that it came with
    says that the nonce was not used.
    """
    if slot.nonce >= standing.nonce:
        return Look(Phase.PENDING)
    for attempt in slot.entry.attempts:
        receipt = standing.receipts.get(attempt.tx_hash)
        if receipt is not None and blocks.get(receipt.block_number, receipt.block_hash) == receipt.block_hash:
            return Look(Phase.MINED, receipt)
    return Look(Phase.USED)


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


def is_deep(block: int, head: BlockHead, confirmations: int) -> bool:
    """Return whether enough blocks stand on one, its own included, for what is in it to be final."""
    return head.number - block + 1 >= confirmations


def closed(entry: Entry, at_s: int) -> Entry:
    """Note the end of an entry at a time: one attempt was mined, or none, and the others cannot be any more."""
    used = entry.intent.inclusion.tx_hash if entry.intent.inclusion else None
    attempts = tuple(
        replace(each, state=AttemptState.MINED if each.tx_hash == used else AttemptState.REPLACED)
        for each in entry.attempts
    )
    return Entry(replace(entry.intent, state=IntentState.FINAL, settled_s=at_s), attempts)


def attempt_of(entry: Entry, tx_hash: TxHash) -> Attempt:
    """Return the attempt with that hash."""
    return next(each for each in entry.attempts if each.tx_hash == tx_hash)


def outcome(
    entry: Entry,
    receipt: Receipt | None,
    realised: Realised | None,
    rival: Taken | None,
    revert: tuple[Reason, str] | None,
) -> Outcome | None:
    """Return how the plan of an entry ended; None for an entry without a plan.

    `realised` is what the receipt's own logs report for the position, `rival` somebody else's liquidation of it, `revert`
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
    if receipt.succeeded and realised is not None:
        return replace(ended, result=Result.WON, reason=None, detail="", realised=realised)
    if receipt.succeeded:
        return replace(ended, reason=Reason.UNKNOWN, detail="the call succeeded without doing its work")
    if rival is not None and rival.log.block_number <= receipt.block_number:
        by = f"taken by 0x{rival.liquidator.hex()} in block {rival.log.block_number}"
        return replace(ended, result=Result.LOST, reason=Reason.LOST_RACE, detail=by)
    reason, detail = _blame(receipt, intent.gas_limit, revert)
    return replace(
        ended, result=Result.LOST if reason is Reason.LOST_RACE else Result.REVERTED, reason=reason, detail=detail
    )


def _blame(receipt: Receipt, gas_limit: int, revert: tuple[Reason, str] | None) -> tuple[Reason, str]:
    """Say why a transaction reverted: for want of gas, or for what the call says when it is run again."""
    if receipt.gas_used >= gas_limit:
        return Reason.REVERTED, "out of gas"
    if revert is not None:
        reason, detail = revert
        return (Reason.REVERTED if reason is Reason.SIMULATION_REVERTED else reason), detail
    if _NEARLY_ALL * receipt.gas_used >= (_NEARLY_ALL - 1) * gas_limit:
        return Reason.REVERTED, f"out of gas inside: {receipt.gas_used} of {gas_limit} used, and it works with more"
    return Reason.REVERTED, "the call works again on the state of its block"
