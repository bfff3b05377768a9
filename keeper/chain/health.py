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
    WRONG_CHAIN = "wrong_chain"
    """Never used again."""
    UNUSABLE = "unusable"
    """Refuses our key, or cannot do what decisions need."""


@dataclass(slots=True)
class Learnt:
    """A node's limits, found out by running into them."""

    log_range: int | None = None
    batch_size: int | None = None
    missing_methods: set[str] = field(default_factory=set)
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
        self._strikes = 0
        self._openings = 0
        self._until_s = 0.0

    def is_usable(self, now_s: float) -> bool:
        """Return whether the node may be asked now."""
        if self.state is NodeState.RATE_LIMITED and now_s >= self._until_s:
            self._move(NodeState.ALIVE if self.is_verified else NodeState.DIALLED, "its pause is over")
        return self.state in (NodeState.ALIVE, NodeState.OUT_OF_SYNC)

    def rank(self) -> tuple[bool, int]:
        """Return how a node compares, lower is better: in sync, then faster by a factor; the operator's order decides ties."""
        return self.state is NodeState.OUT_OF_SYNC, round(math.log2(max(self.latency_s / _FAST_S, 1.0)))

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

    def refuse(self, state: NodeState, reason: str) -> None:
        """Stop using the node for good."""
        self.is_verified = False
        self.check_due_s = math.inf
        self._move(state, reason)

    def lag(self, reason: str, now_s: float) -> None:
        """Ask the node last until a check shows that it has caught up."""
        if self.state is NodeState.ALIVE or self.state is NodeState.OUT_OF_SYNC:
            self.check_due_s = now_s + _LAGGING_CHECK_S
            self._move(NodeState.OUT_OF_SYNC, reason)

    def _open(self, reason: str, now_s: float, *, is_lone: bool) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2**self._openings, _LONE_PAUSE_S if is_lone else _LONGEST_PAUSE_S)
        self._openings = min(self._openings + 1, 16)
        self.check_due_s = now_s + pause_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, no secret
        self._move(NodeState.UNREACHABLE, reason)

    def _measure(self, seconds: float) -> None:
        known = self.latency_s
        self.latency_s = seconds if known == 0 else known + _LATENCY_WEIGHT * (seconds - known)

    def _move(self, state: NodeState, reason: str) -> None:
        self.state, self.reason = state, reason


def result_label(answers: Sequence[object]) -> str:
    """Return the bounded metric label of an answered request."""
    return "refused" if len(answers) == 1 and isinstance(answers[0], RpcError) else "ok"
