"""The catalogue of events: every name that is logged, its level, the fields it always has, and what it means."""

from enum import StrEnum
from typing import Final, Literal, Self

import structlog

Level = Literal["debug", "info", "warning", "error"]

VERSION: Final = 1
"""Raised when an event changes its name or loses a field."""

TAKEN: Final = frozenset({"self", "event", "method_name", "v"})
"""Names that the logging library or this module gives a meaning of their own."""


class Event(StrEnum):
    """An event: its name, level, required fields and meaning."""

    level: Level
    fields: tuple[str, ...]
    meaning: str

    def __new__(cls, name: str, level: Level, fields: str, meaning: str) -> Self:
        """Keep the rest beside the name, which is the value."""
        event = str.__new__(cls, name)
        event._value_ = name
        event.level, event.fields, event.meaning = level, tuple(fields.split()), meaning
        return event

    KEEPER_STARTING = "keeper.starting", "info", "version", "the process begins"
    KEEPER_READY = "keeper.ready", "info", "", "everything needed to act is there"
    KEEPER_NOT_READY = "keeper.not_ready", "warning", "reason", "it cannot act now"
    KEEPER_DEGRADED = "keeper.degraded", "warning", "reason", "it can act, with something missing"
    KEEPER_PAUSED = "keeper.paused", "warning", "reason", "it watches and sends nothing"
    KEEPER_RESUMED = "keeper.resumed", "info", "", "what kept it from sending is lifted"
    KEEPER_STOPPING = "keeper.stopping", "info", "reason", "it takes on nothing new"
    KEEPER_STOPPED = "keeper.stopped", "info", "", "the process ends as asked"
    KEEPER_CRASHED = "keeper.crashed", "error", "error", "the process, or a thread of it, ends by an error"
    CONFIG_LOADED = "config.loaded", "info", "", "the configuration in force, without secrets"
    CONFIG_DOUBTFUL = "config.doubtful", "warning", "problem", "a setting that works and deserves a look"
    CONFIG_INVALID = "config.invalid", "error", "problem", "a setting that does not work; one event each"
    LIBRARY_LOGGED = "library.logged", "warning", "logger message", "a library's own log record"
    RPC_NODE_STATE = "rpc.node_state", "info", "node state", "a node became usable or unusable"
    RPC_REQUEST_FAILED = "rpc.request_failed", "warning", "node method", "a node answered badly or not at all"
    RPC_HEDGED = "rpc.hedged", "debug", "node", "a slow answer was asked of another node as well"
    RPC_RATE_LIMITED = "rpc.rate_limited", "warning", "node", "a node asks for fewer requests"
    RPC_INCONSISTENT = "rpc.inconsistent", "warning", "method", "nodes contradict each other"
    RPC_CAPABILITY = "rpc.capability", "info", "node capability ok", "what a node was found able to do"
    CHAIN_HEAD = "chain.head", "info", "number", "one pass at one block: the canonical line"
    CHAIN_STALLED = "chain.stalled", "error", "", "no new block for too long"
    CHAIN_REORG = "chain.reorg", "warning", "depth", "blocks that were ours are no longer the chain's"
    CHAIN_FINALITY_VIOLATION = "chain.finality_violation", "error", "depth", "a block that counted as final is gone"
    CHAIN_FEE_SPIKE = "chain.fee_spike", "warning", "base_fee_wei", "gas costs far more than a moment ago"
    INDEX_BACKFILL = "index.backfill", "info", "market", "old logs are read for the accounts in them"
    INDEX_GAP_FILLED = "index.gap_filled", "info", "", "blocks that were missed have been read"
    INDEX_AUDIT_OK = "index.audit_ok", "debug", "market", "sampled accounts are as the protocol sees them"
    INDEX_AUDIT_MISMATCH = "index.audit_mismatch", "error", "market account", "the protocol sees an account otherwise"
    ORACLE_STALE = "oracle.stale", "warning", "market token", "a price is too old"
    ORACLE_BOUND = "oracle.bound", "warning", "market token", "a price is at a bound of its source"
    ORACLE_JUMP = "oracle.jump", "warning", "market token", "a price moved implausibly far"
    ORACLE_QUARANTINED = "oracle.quarantined", "error", "market token", "a price is not acted upon"
    ORACLE_RESTORED = "oracle.restored", "info", "market token", "a price is acted upon again"
    VENUE_SILENT = (
        "venue.silent",
        "warning",
        "venue reason",
        "nothing is traded with a venue or lender: it says nothing",
    )
    VENUE_DECEIT = "venue.deceit", "error", "venue reason", "a service offered something else than what was asked for"
    VENUE_BACK = "venue.back", "info", "venue", "a venue or lender says something again"
    POSITION_AT_RISK = "position.at_risk", "info", "market account", "an account is close to liquidation"
    POSITION_LIQUIDATABLE = "position.liquidatable", "info", "market account", "an account can be liquidated"
    POSITION_RECOVERED = "position.recovered", "info", "market account", "an account can no longer be liquidated"
    POSITION_QUARANTINED = "position.quarantined", "error", "market account", "an account's values are impossible"
    POSITION_RESTORED = "position.restored", "info", "market account", "an account's values make sense again"
    DECISION_ACCEPTED = "decision.accepted", "info", "market account plan_id", "a liquidation is attempted"
    DECISION_SKIPPED = "decision.skipped", "info", "market account reason", "a liquidation is not attempted"
    SIM_OK = "sim.ok", "info", "plan_id", "a plan works and pays"
    SIM_REVERTED = "sim.reverted", "warning", "plan_id reason", "a plan would revert"
    SIM_UNPROFITABLE = "sim.unprofitable", "info", "plan_id reason", "a plan works and would not pay"
    INTENT_CREATED = "intent.created", "info", "", "a transaction is in the journal, before it is sent"
    INTENT_VOIDED = "intent.voided", "info", "", "a journalled transaction will never be sent"
    TX_SIGNED = "tx.signed", "info", "tx_hash", "a transaction is signed"
    TX_BROADCAST = "tx.broadcast", "info", "tx_hash", "a transaction was handed to the nodes"
    TX_ACCEPTED = "tx.accepted", "info", "tx_hash", "a node took the transaction"
    TX_KNOWN = "tx.known", "info", "tx_hash", "a node had the transaction already"
    TX_REPLACED = "tx.replaced", "info", "tx_hash", "a transaction with higher fees takes the place of another"
    TX_DROPPED = "tx.dropped", "warning", "", "the nodes have forgotten a transaction"
    TX_MINED = "tx.mined", "info", "tx_hash", "a transaction is in a block and succeeded"
    TX_REVERTED = "tx.reverted", "warning", "tx_hash", "a transaction is in a block and failed"
    TX_FINALIZED = "tx.finalized", "info", "tx_hash", "a transaction's outcome will not change"
    TX_REORGED = "tx.reorged", "warning", "tx_hash", "the block of a transaction is gone"
    TX_CANCELLED = "tx.cancelled", "info", "", "an empty transaction took the place of another"
    TX_FOREIGN_NONCE = "tx.foreign_nonce", "error", "nonce", "somebody else sends from our account"
    TX_UNHIDDEN = (
        "tx.unhidden",
        "warning",
        "tx_hash",
        "no relay had it included in time: every node sees it from now on",
    )
    RELAY_FAILED = "relay.failed", "warning", "relay", "a relay refused a transaction, or did not answer"
    TX_GAP_FILLED = "tx.gap_filled", "warning", "nonce", "an empty transaction closes a gap"
    LIQUIDATION_WON = "liquidation.won", "info", "plan_id", "ours was the liquidation"
    LIQUIDATION_LOST = "liquidation.lost", "info", "", "somebody else was faster"
    STEP_DONE = "step.done", "info", "plan_id action", "a call before or after a liquidation did its work"
    STEP_FAILED = "step.failed", "warning", "plan_id", "a call before or after a liquidation did not"
    SHADOW_SCORED = "shadow.scored", "info", "plan_id rank", "what the chain did with a plan that was not sent"
    FUNDS_LOW = "funds.low", "warning", "balance_wei", "gas will soon be unaffordable"
    FUNDS_SWEPT = "funds.swept", "info", "", "proceeds were moved away"
    FUNDS_ALLOWANCE_NONZERO = "funds.allowance_nonzero", "warning", "token", "somebody may still pull a token"
    STORAGE_ERROR = "storage.error", "error", "error", "the journal could not be written or read"
    STORAGE_FULL = "storage.full", "error", "", "the journal's disk is full"
    STORAGE_RECOVERED = "storage.recovered", "info", "", "the journal works again"
    LIMIT_TRIPPED = "limit.tripped", "error", "limit", "a safety limit stops the keeper from acting"
    LIMIT_LIFTED = "limit.lifted", "info", "limit", "a safety limit lets the keeper act again"
    LEASE_ACQUIRED = "lease.acquired", "info", "epoch", "this instance is the one that may send"
    LEASE_LOST = "lease.lost", "error", "reason", "another instance may send now, or the database cannot be asked"
    LEASE_FENCED = "lease.fenced", "error", "reason", "a late commit or send was stopped"
    INVARIANT_VIOLATED = "invariant.violated", "error", "id", "something that must always be true is not"
    SECURITY_POLICY_REFUSED = "security.policy_refused", "error", "detail", "the signer's policy refuses a transaction"


CATALOGUE: Final[dict[str, Event]] = {event.value: event for event in Event}

_log = structlog.get_logger()


def emit(name: Event | str, /, **fields: object) -> None:
    """Log an event of the catalogue. It never raises: what is missing or unknown is said in the line itself.

    `exc_info=error` adds the traceback, without local variables.
    """
    event = CATALOGUE.get(name)
    told = {f"{key}_" if key in TAKEN else key: value for key, value in fields.items()}
    if event is None:
        _log.warning(str(name), v=VERSION, is_catalogued=False, **told)
        return
    if missing := [field for field in event.fields if field not in fields]:
        told["missing_fields"] = missing
    getattr(_log, event.level)(event.value, v=VERSION, **told)


def event_table() -> str:
    """Return the README's table of events."""
    lines = ["| Event | Level | Always has | Meaning |", "|---|---|---|---|"]
    for event in Event:
        has = ", ".join(f"`{field}`" for field in event.fields)
        lines.append(f"| `{event.value}` | {event.level} | {has} | {event.meaning} |")
    return "\n".join(lines)
