"""How things end: one typed decision for each liquidatable position and head, one typed outcome for each plan."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a liquidatable position was not sent, or how an attempt failed."""

    # the position or the market
    PAUSED = "paused"
    GRACE_PERIOD = "grace_period"
    SENTINEL = "sentinel"
    NO_COLLATERAL = "no_collateral"
    DUST_RULE = "dust_rule"
    PRICE_UNKNOWN = "price_unknown"
    ORACLE_QUARANTINED = "oracle_quarantined"
    UNTRUSTED = "untrusted"
    RECEIVER_IS_BORROWER = "receiver_is_borrower"
    NOT_LIQUIDATABLE = "not_liquidatable"
    # the money
    UNPROFITABLE = "unprofitable"
    INSUFFICIENT_INVENTORY = "insufficient_inventory"
    APPROVAL_CAP = "approval_cap"
    NATIVE_PRICE_UNKNOWN = "native_price_unknown"
    NO_LENDER = "no_lender"
    INSUFFICIENT_GAS_MONEY = "insufficient_gas_money"
    FEE_CAP = "fee_cap"
    # the way from what is seized to what is repaid
    NO_PROGRAM = "no_program"
    NO_ROUTE = "no_route"
    NOT_REDEEMABLE = "not_redeemable"
    PRICE_IMPACT = "price_impact"
    # the keeper
    OBSERVE_MODE = "observe_mode"
    SHADOW_MODE = "shadow_mode"
    IN_FLIGHT = "in_flight"
    COOLING_DOWN = "cooling_down"
    QUARANTINED = "quarantined"
    BATCH_FULL = "batch_full"
    SUPERSEDED = "superseded"
    STOPPING = "stopping"
    STORAGE = "storage"
    OPERATOR_PAUSED = "operator_paused"
    BUDGET = "budget"
    STANDBY = "standby"
    SIGNER_FAILED = "signer_failed"
    NODES_DISAGREE = "nodes_disagree"
    # the attempt
    SIMULATION_REVERTED = "simulation_reverted"
    SIMULATION_FAILED = "simulation_failed"
    TOKEN_BLOCKED = "token_blocked"  # noqa: S105 - a reason, not a password
    REVERTED = "reverted"
    LOST_RACE = "lost_race"
    CANCELLED = "cancelled"
    FOREIGN_NONCE = "foreign_nonce"
    BROADCAST_FAILED = "broadcast_failed"
    SELF_LIQUIDATION = "self_liquidation"
    UNKNOWN = "unknown"


class Decision(StrEnum):
    """What was decided about one liquidatable position at one head."""

    ACCEPTED = "accepted"
    SKIPPED = "skipped"


class Result(StrEnum):
    """How an accepted plan ended."""

    WON = "won"
    LOST = "lost"
    REVERTED = "reverted"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    FAILED = "failed"
