"""How a node can fail, as data.

Transient
└── NodeFailure             one node did not answer; `node` is its alias
    ├── Unreachable         no connection, or it broke
    ├── TimedOut            no answer in time
    ├── RateLimited         over budget; `retry_after_s` says for how long
    ├── BadResponse         an answer that breaks the protocol, or an internal error of the node
    ├── Unauthorised        refused for good: key, quota or plan; the node becomes unusable
    ├── MethodMissing       the node does not offer the method
    ├── RangeTooWide        too many blocks or logs asked for; `limit` if the node said it
    ├── BatchTooLarge       too many calls in one request
    │   └── AnswerTooLarge  more bytes than the node sends, or we take, in one answer
    └── BlockUnknown        the node does not have (or no longer has) that block or its state
RpcError                    the node executed the call and refused it: data for the caller, never retried
"""

from typing import ClassVar

from keeper.errors import KeeperError, Transient


class NodeFailure(Transient):
    """One node failed to answer."""

    label: ClassVar[str] = "failed"
    """The bounded name used in metrics and events."""
    strikes: ClassVar[int] = 0
    """How much it counts towards opening the node's breaker, which opens at three."""
    is_retried: ClassVar[bool] = True
    """Whether asking the same nodes once more can help."""

    def __init__(self, node: str, detail: str) -> None:
        """Keep the alias and a text that is already masked."""
        self.node = node
        self.detail = detail
        super().__init__(f"{node}: {detail}")


class Unreachable(NodeFailure):
    """No connection, or it broke before the answer."""

    label = "unreachable"
    strikes = 3


class TimedOut(NodeFailure):
    """No complete answer within the time allowed."""

    label = "timed_out"
    strikes = 1


class RateLimited(NodeFailure):
    """The node asked for a pause."""

    label = "rate_limited"

    def __init__(self, node: str, detail: str, retry_after_s: float) -> None:
        """Keep the pause that the node asked for."""
        self.retry_after_s = retry_after_s
        super().__init__(node, detail)


class BadResponse(NodeFailure):
    """An answer that breaks the protocol."""

    label = "bad_response"
    strikes = 1


class Unauthorised(NodeFailure):
    """The node refuses this key or plan."""

    label = "unauthorised"
    is_retried = False


class MethodMissing(NodeFailure):
    """The node does not offer the method."""

    label = "method_missing"
    is_retried = False


class RangeTooWide(NodeFailure):
    """The node refuses a log query of this width."""

    label = "range_too_wide"
    is_retried = False

    def __init__(self, node: str, detail: str, limit: int | None = None) -> None:
        """Keep the number of blocks that the node says it allows, if it does."""
        self.limit = limit
        super().__init__(node, detail)


class BatchTooLarge(NodeFailure):
    """The node refuses this many calls in one request."""

    label = "batch_too_large"
    is_retried = False


class AnswerTooLarge(BatchTooLarge):
    """The answer has more bytes than the node sends, or we take, at once."""

    label = "answer_too_large"
    strikes = 1


class BlockUnknown(NodeFailure):
    """The node does not have the block or its state."""

    label = "block_unknown"


class RpcError(KeeperError):
    """A node's refusal of one call: a revert, wrong parameters, a limit of execution."""

    def __init__(self, code: int, message: str, data: bytes = b"", *, is_revert: bool, is_too_heavy: bool) -> None:
        """Keep the refusal; the message is masked, printable and short.

        `is_revert`: the call itself failed in the virtual machine, so every honest node says the same.
        `is_too_heavy`: it ran into a limit of gas, time or size, so less work may pass.
        """
        self.code = code
        self.message = message
        self.data = data
        self.is_revert = is_revert
        self.is_too_heavy = is_too_heavy
        super().__init__(f"{message} (code {code})")


class Absent(ValueError):
    """A null where the block or its answer should be."""
