"""What the journal keeps: one intent for each nonce that we used, and every signed attempt at it."""

from dataclasses import dataclass
from enum import StrEnum

from keeper.domain.chain import Call
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.position import Opportunity
from keeper.domain.units import Address, Base, BlockHash, TxHash, Wei


class Purpose(StrEnum):
    """What a nonce is for."""

    LIQUIDATION = "liquidation"
    APPROVAL = "approval"
    GAP = "gap"


class IntentState(StrEnum):
    """How far an intent has come. Live and mined ones are open: they own their nonce."""

    LIVE = "live"
    MINED = "mined"
    FINAL = "final"
    VOID = "void"


class AttemptKind(StrEnum):
    """Whether an attempt carries the intent out, or takes its nonce away from it."""

    SEND = "send"
    CANCEL = "cancel"


class Route(StrEnum):
    """Where an attempt is sent to: every node, or a relay that shows it to nobody before it is in a block."""

    PUBLIC = "public"
    PRIVATE = "private"


class AttemptState(StrEnum):
    """What is known of one signed transaction. Signed means that it may or may not have left."""

    SIGNED = "signed"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    MINED = "mined"
    REPLACED = "replaced"
    VOID = "void"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed transaction, kept whole so that exactly the same bytes can be sent again.

    A relay gives it up after `expires_block`, where there is one.
    """

    tx_hash: TxHash
    nonce: int
    kind: AttemptKind
    state: AttemptState
    max_fee_wei: Wei
    tip_wei: Wei
    gas_limit: int
    raw: bytes
    first_block: int
    route: Route = Route.PUBLIC
    expires_block: int | None = None


@dataclass(frozen=True, slots=True)
class Inclusion:
    """Where an intent's nonce was used up; `tx_hash` is None when by a transaction that is not ours."""

    tx_hash: TxHash | None
    block: int
    block_hash: BlockHash
    gas_cost_wei: Wei = Wei(0)


@dataclass(frozen=True, slots=True)
class Intent:
    """What we want from one nonce. `fee_limit_wei` is the most one unit of its gas may cost and still pay.

    `id` names it for good: the hash of its first attempt, or any name of its own where a signature comes later.
    `created_s` and `settled_s`, None until it is final, are times of heads.
    """

    id: str
    sender: Address
    nonce: int
    purpose: Purpose
    state: IntentState
    call: Call
    gas_limit: int
    fee_limit_wei: Wei
    created_block: int
    plan_id: str | None = None
    opportunity: Opportunity | None = None
    profit_base: Base = Base(0)
    reason: Reason | None = None
    detail: str = ""
    inclusion: Inclusion | None = None
    created_s: int = 0
    settled_s: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An intent with all its attempts, oldest first: none as long as nothing was signed."""

    intent: Intent
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """How one of our intents ended that cost gas. `result` is None where no plan was behind it.

    `is_loss`: the gas bought nothing, as the nonce ended without the work that it was for.
    """

    intent_id: str
    created_s: int
    settled_s: int
    cost_wei: Wei
    is_loss: bool
    result: Result | None


@dataclass(frozen=True, slots=True)
class Ending:
    """An outcome and the intent that it ends."""

    intent_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Changes:
    """What is committed together: intents and attempts as they are now, and the outcomes that follow."""

    entries: tuple[Entry, ...] = ()
    endings: tuple[Ending, ...] = ()
