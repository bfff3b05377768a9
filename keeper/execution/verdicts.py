"""What the sender answers about each plan at once: it left, or why it did not."""

from dataclasses import dataclass

from keeper.domain.outcome import Reason
from keeper.domain.plan import Plan
from keeper.domain.position import PositionKey
from keeper.domain.units import Base, TxHash


@dataclass(frozen=True, slots=True)
class Accepted:
    """The plan is in the journal and its transaction is out: exactly one `Outcome` will follow."""

    plan_id: str
    key: PositionKey
    tx_hash: TxHash
    nonce: int
    profit_base: Base


@dataclass(frozen=True, slots=True)
class Skipped:
    """The plan was dropped before anything left; no `Outcome` follows."""

    plan_id: str
    key: PositionKey
    reason: Reason
    detail: str = ""


Verdict = Accepted | Skipped


def skip(plan: Plan, reason: Reason, detail: str = "") -> Skipped:
    """Drop a plan for a reason."""
    return Skipped(plan.id, plan.key, reason, detail[:256])
