"""Health: what the parts report of themselves, and what follows: alive, ready, and if not, why."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keeper.domain.ports import Clock

DECIMALS: Final = 3


class Why(StrEnum):
    """The reason of a check's verdict."""

    OK = "ok"
    STARTING = "starting"
    STOPPING = "stopping"
    NO_HEAD = "no_head"
    HEAD_TOO_OLD = "head_too_old"
    NOT_EVALUATED = "not_evaluated"
    EVALUATION_TOO_OLD = "evaluation_too_old"
    NO_HEALTHY_ENDPOINT = "no_healthy_endpoint"
    SENDER_STUCK = "sender_stuck"
    NONCE_STUCK = "nonce_stuck"
    BALANCE_LOW = "balance_low"
    STORAGE_FAILED = "storage_failed"
    DISK_ALMOST_FULL = "disk_almost_full"
    LOOP_BLOCKED = "loop_blocked"
    PAUSED = "paused"
    HALTED = "halted"
    BUDGET_SPENT = "budget_spent"
    BREAKER_OPEN = "breaker_open"
    LEASE_LOST = "lease_lost"
    INVARIANT_BROKEN = "invariant_broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict with its reason and the number behind it, if there is one."""

    name: str
    ok: bool
    reason: Why
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How old is too old, in seconds."""

    max_head_age_s: float
    max_evaluation_age_s: float
    max_stuck_s: float
    max_heartbeat_age_s: float = 5.0


class Health:
    """Takes facts from the parts and answers for the whole. The facts may come from one thread and be asked by another.

    Ages of blocks and evaluations are by the wall clock, as blocks are stamped by it; the heartbeat's is monotonic.
    """

    def __init__(self, *, thresholds: Thresholds, clock: Clock) -> None:
        self._thresholds = thresholds
        self._clock = clock
        self._lifecycle = Why.STARTING
        self._head: tuple[int, int] | None = None
        self._head_s = 0.0
        self._evaluated_s: float | None = None
        self._served_s: float | None = None
        self._healthy_endpoints = 0
        self._stuck_since_s: float | None = None
        self._is_balance_low = False
        self._is_storage_ok = True
        self._is_disk_short = False
        self._gate = Why.OK
        self._is_lease_held = True
        self._broken: frozenset[str] = frozenset()
        self._beat_s = clock.monotonic_s()

    def started(self, *, is_sending: bool = False) -> None:
        """Everything is set up and recovered; `is_sending`: there is a sender, which has to keep up."""
        self._lifecycle = Why.OK
        if is_sending:
            self.served()

    def served(self) -> None:
        """Take that the sender is done with a head."""
        self._served_s = self._clock.unix_s()

    def stopping(self) -> None:
        """Nothing new is begun any more."""
        self._lifecycle = Why.STOPPING

    def head(self, number: int, timestamp_s: int) -> None:
        """Take the newest block."""
        self._head, self._head_s = (number, timestamp_s), self._clock.unix_s()

    def evaluated(self) -> None:
        """Every position has been valued at a head."""
        self._evaluated_s = self._clock.unix_s()

    def endpoints(self, healthy: int) -> None:
        """Take how many nodes can be asked."""
        self._healthy_endpoints = healthy

    def nonce(self, *, is_stuck: bool) -> None:
        """Take whether the oldest transaction makes no way; how long is counted here."""
        if not is_stuck:
            self._stuck_since_s = None
        elif self._stuck_since_s is None:
            self._stuck_since_s = self._clock.unix_s()

    def balance(self, *, is_low: bool) -> None:
        """Take whether the signer can hardly pay for gas."""
        self._is_balance_low = is_low

    def storage(self, *, is_ok: bool) -> None:
        """Take whether the journal can be written."""
        self._is_storage_ok = is_ok

    def gate(self, shut_by: Why = Why.OK) -> None:
        """Take what keeps new transactions from being made: a switch, a budget, the breaker; by default nothing."""
        self._gate = shut_by

    def lease(self, *, is_held: bool) -> None:
        """Take whether this instance is the one that may send."""
        self._is_lease_held = is_held

    def invariant(self, name: str, *, holds: bool) -> None:
        """Take whether something that must always be true is."""
        self._broken = self._broken - {name} if holds else self._broken | {name}

    def disk(self, *, is_short: bool) -> None:
        """Take whether the journal lives on the space that was kept for an emergency."""
        self._is_disk_short = is_short

    def beat(self) -> None:
        """Show that the event loop turns."""
        self._beat_s = self._clock.monotonic_s()

    def liveness(self) -> Check:
        """Say whether the event loop turns."""
        age_s = self._clock.monotonic_s() - self._beat_s
        return _verdict("loop", age_s <= self._thresholds.max_heartbeat_age_s, Why.LOOP_BLOCKED, age_s)

    def readiness(self, now_s: float | None = None) -> tuple[bool, list[Check]]:
        """Say whether a liquidation would be seen and sent now, and each condition of that."""
        now_s = self._clock.unix_s() if now_s is None else now_s
        checks = [
            Check("lifecycle", self._lifecycle is Why.OK, self._lifecycle),
            self.liveness(),
            self._head_check(now_s),
            self._evaluation_check(now_s),
            _verdict("endpoints", self._healthy_endpoints > 0, Why.NO_HEALTHY_ENDPOINT, self._healthy_endpoints),
            self._sender_check(now_s),
            self._nonce_check(now_s),
            _verdict("balance", not self._is_balance_low, Why.BALANCE_LOW),
            _verdict("storage", self._is_storage_ok, Why.STORAGE_FAILED),
            _verdict("disk", not self._is_disk_short, Why.DISK_ALMOST_FULL),
            _verdict("gate", self._gate is Why.OK, self._gate),
            _verdict("lease", self._is_lease_held, Why.LEASE_LOST),
            _verdict("invariants", not self._broken, Why.INVARIANT_BROKEN, len(self._broken)),
        ]
        return all(check.ok for check in checks), checks

    def _head_check(self, now_s: float) -> Check:
        if self._head is None:
            return Check("head", ok=False, reason=Why.NO_HEAD)
        age_s = now_s - min(self._head[1], self._head_s)  # a stamp may lie in the future
        return _verdict("head", age_s <= self._thresholds.max_head_age_s, Why.HEAD_TOO_OLD, age_s)

    def _evaluation_check(self, now_s: float) -> Check:
        if self._evaluated_s is None:
            return Check("evaluation", ok=False, reason=Why.NOT_EVALUATED)
        age_s = now_s - self._evaluated_s
        return _verdict("evaluation", age_s <= self._thresholds.max_evaluation_age_s, Why.EVALUATION_TOO_OLD, age_s)

    def _sender_check(self, now_s: float) -> Check:
        """Judge the sender like an evaluation; without one there is nothing to judge."""
        age_s = 0.0 if self._served_s is None else now_s - self._served_s
        return _verdict("sender", age_s <= self._thresholds.max_evaluation_age_s, Why.SENDER_STUCK, age_s)

    def _nonce_check(self, now_s: float) -> Check:
        since_s = self._stuck_since_s
        stuck_s = 0.0 if since_s is None else now_s - since_s
        return _verdict("nonce", stuck_s <= self._thresholds.max_stuck_s, Why.NONCE_STUCK, stuck_s)


def _verdict(name: str, ok: bool, otherwise: Why, value: float | None = None) -> Check:  # noqa: FBT001 - the verdict itself
    return Check(name, ok, Why.OK if ok else otherwise, None if value is None else round(value, DECIMALS))
