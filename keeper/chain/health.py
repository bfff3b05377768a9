"""What is known of one node: its state, how fast it is, what it cannot do. Time comes in as an argument."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from keeper.chain.failures import BlockUnknown, NodeFailure, RateLimited, RpcError, Unauthorised

_STRIKES_OUT: Final = 3
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 30.0
_LONE_PAUSE_S: Final = 1.0
"""How often to try a node while no other answers either."""
_CHECK_EVERY_S: Final = 30.0
_LAGGING_CHECK_S: Final = 1.0
_UNUSABLE_CHECK_S: Final = 300.0
_LATENCY_WEIGHT: Final = 0.2
_FIRST_SENTENCE_S: Final = 60.0
_LONGEST_SENTENCE_S: Final = 3_600.0
_FORGIVEN_AFTER_S: Final = 24 * 3_600.0
_FAST_S: Final = 0.02
"""Nodes faster than this are equally good."""


class NodeState(StrEnum):
    """Whether a node can be asked, and why not."""

    DIALLED = "dialled"
    """Not verified yet."""
    ALIVE = "alive"
    RATE_LIMITED = "rate_limited"
    UNREACHABLE = "unreachable"
    """The breaker is open: only checks are sent until one succeeds."""
    OUT_OF_SYNC = "out_of_sync"
    """Answers, but is behind or on another fork: asked last."""
    QUARANTINED = "quarantined"
    """Contradicts what the others agree on: asked only where none of them answers, and never decisive."""
    WRONG_CHAIN = "wrong_chain"
    """Not used, unless a rare check finds it back on ours."""
    UNUSABLE = "unusable"
    """Refuses our key, or cannot do what decisions need."""


@dataclass(slots=True)
class Learnt:
    """A node's limits, found out by running into them."""

    log_range: int | None = None
    batch_size: int | None = None
    answer_calls: dict[str, int] = field(default_factory=dict)
    """How many calls of one method fit into one answer, where that was once too long."""
    missing_methods: dict[str, float] = field(default_factory=dict)
    """Until when each is not asked for again: a node may be upgraded, or another one stand behind its address."""
    is_pinned_exact: bool | None = None
    """Whether reads pinned to a block hash fail on an unknown hash, as they must; None before it was tried."""


class Health:
    """One node's state and its breaker."""

    def __init__(self) -> None:
        """Start unverified."""
        self.state = NodeState.DIALLED
        self.reason = "not verified yet"
        self.latency_s = 0.0
        self.failures = 0
        self.requests = 0
        self.head_number: int | None = None
        self.check_due_s = 0.0
        self.checked_s = 0.0
        self.is_verified = False
        """Whether a check ever found the node on our chain."""
        self.is_quarantined = False
        """Whether the node was found to contradict the others and has not been taken back."""
        self._strikes = 0
        self._openings = 0
        self._until_s = 0.0
        self._sentences = 0
        self._released_s = 0.0

    @property
    def is_fit(self) -> bool:
        """Return whether the node may be asked before those that are behind or contradict."""
        return self.state is NodeState.ALIVE

    def is_usable(self, now_s: float) -> bool:
        """Return whether the node may be asked now."""
        if self.state is NodeState.RATE_LIMITED and now_s >= self._until_s:
            self._move(NodeState.ALIVE if self.is_verified else NodeState.DIALLED, "its pause is over")
        return self.state in (NodeState.ALIVE, NodeState.OUT_OF_SYNC, NodeState.QUARANTINED)

    def rank(self) -> tuple[bool, bool, int]:
        """Return how a node compares, lower is better: trusted, in sync, then faster by a factor.

        The operator's order decides ties.
        """
        speed = round(math.log2(max(self.latency_s / _FAST_S, 1.0)))
        return self.is_quarantined, self.state is NodeState.OUT_OF_SYNC, speed

    def succeeded(self, seconds: float) -> None:
        """Take one answered request."""
        self.requests += 1
        self._strikes = 0
        self._measure(seconds)

    def verified(self, now_s: float) -> None:
        """Take a passed check: the right chain, in sync."""
        self._openings = self._strikes = 0
        self.is_verified = True
        self.check_due_s = now_s + _CHECK_EVERY_S
        if self.state is not NodeState.RATE_LIMITED or now_s >= self._until_s:
            self._move(NodeState.ALIVE, "")

    def check_failed(self, reason: str, now_s: float) -> None:
        """Take a failed check: another follows soon, unless the failure itself said when."""
        if self.check_due_s <= now_s:
            self.check_due_s = now_s + _LAGGING_CHECK_S
        if self.state is NodeState.DIALLED:
            self.reason = reason

    def outrun(self, seconds: float) -> None:
        """Take a request that another node answered first."""
        self._strikes += 1
        self._measure(max(seconds, self.latency_s))

    def failed(self, failure: NodeFailure, now_s: float, *, is_lone: bool) -> None:
        """Take one failed request. `is_lone`: no other node can be asked."""
        self.requests += 1
        if isinstance(failure, BlockUnknown):
            return
        self.failures += 1
        if self.state is NodeState.WRONG_CHAIN or math.isinf(self.check_due_s):
            return
        if isinstance(failure, RateLimited):
            self._until_s = self.check_due_s = now_s + failure.retry_after_s
            self._move(NodeState.RATE_LIMITED, failure.detail)
        elif isinstance(failure, Unauthorised):
            self.check_due_s = now_s + _UNUSABLE_CHECK_S
            self._move(NodeState.UNUSABLE, failure.detail)
        elif self.state is not NodeState.UNREACHABLE or now_s >= self.check_due_s:
            # While the breaker is open, what was still under way when it opened says nothing new.
            self._strikes += failure.strikes
            is_checked_only = self.state in (NodeState.DIALLED, NodeState.UNREACHABLE)
            if is_checked_only or self._strikes >= _STRIKES_OUT:
                self._open(failure.detail, now_s, is_lone=is_lone)

    def refuse(self, state: NodeState, reason: str, now_s: float) -> None:
        """Stop using the node: for good, unless it was once on our chain, as a balancer's address may be again."""
        self.check_due_s = now_s + _UNUSABLE_CHECK_S if self.is_verified else math.inf
        self.is_verified = False
        self._move(state, reason)

    def lag(self, reason: str, now_s: float) -> None:
        """Ask the node last until a check shows that it has caught up."""
        if self.state in (NodeState.ALIVE, NodeState.OUT_OF_SYNC):
            self.check_due_s = now_s + _LAGGING_CHECK_S
            self._move(NodeState.OUT_OF_SYNC, reason)

    def convict(self, reason: str, now_s: float) -> None:
        """Put aside a node whose word was outvoted, longer each time."""
        if now_s > self._released_s + _FORGIVEN_AFTER_S:
            self._sentences = 0
        self._sentences = min(self._sentences + 1, 16)
        self.quarantine(reason, min(_FIRST_SENTENCE_S * 2 ** (self._sentences - 1), _LONGEST_SENTENCE_S), now_s)

    def quarantine(self, reason: str, sentence_s: float, now_s: float) -> None:
        """Put the node aside until it agrees with the others again, for `sentence_s` at least."""
        self._released_s = max(self._released_s, now_s + sentence_s) if self.is_quarantined else now_s + sentence_s
        self.is_quarantined = True
        if self.state in (NodeState.ALIVE, NodeState.OUT_OF_SYNC, NodeState.QUARANTINED):
            self._move(NodeState.QUARANTINED, reason)

    def agrees(self, now_s: float) -> None:
        """Take the node back where it agrees with the others, unless its time is not over."""
        if self.is_quarantined and now_s >= self._released_s:
            self.is_quarantined = False
        is_just_noted = self.state is NodeState.OUT_OF_SYNC and now_s < self.check_due_s
        if self.state in (NodeState.QUARANTINED, NodeState.OUT_OF_SYNC) and not is_just_noted:
            self._move(NodeState.ALIVE, "")

    def unopposed(self, now_s: float) -> None:
        """Take the node back where nobody has been left to contradict it for a while."""
        if now_s >= self._released_s + _FIRST_SENTENCE_S:
            self.agrees(now_s)

    def _open(self, reason: str, now_s: float, *, is_lone: bool) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2**self._openings, _LONE_PAUSE_S if is_lone else _LONGEST_PAUSE_S)
        self._openings = min(self._openings + 1, 16)
        self.check_due_s = now_s + pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        self._move(NodeState.UNREACHABLE, reason)

    def _measure(self, seconds: float) -> None:
        known = self.latency_s
        self.latency_s = seconds if known == 0 else known + _LATENCY_WEIGHT * (seconds - known)

    def _move(self, state: NodeState, reason: str) -> None:
        if self.is_quarantined and state is NodeState.ALIVE:
            state, reason = NodeState.QUARANTINED, reason or self.reason
        self.state, self.reason = state, reason


def result_label(answers: Sequence[object]) -> str:
    """Return the bounded metric label of an answered request."""
    return "refused" if len(answers) == 1 and isinstance(answers[0], RpcError) else "ok"
