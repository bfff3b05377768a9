"""What the operator lets the sender do."""

from dataclasses import dataclass

from keeper.execution.fees import FeePolicy


@dataclass(frozen=True, slots=True)
class SenderPolicy:
    """How patient the sender is, in blocks and heads.

    What is in flight is tried again `block_time_s` after the head.

    A transaction is final when `confirmations` blocks stand on it, its own included. Unmined, it is sent again after
    `resend_after_blocks` and replaced after `bump_after_blocks`, at most `max_replacements` times; a liquidation is
    cancelled once it is `stale_after_blocks` old. A nonce that was used by nothing of ours is called foreign, and one
    that nobody holds is filled, when as many heads in a row agree.
    """

    fees: FeePolicy
    block_time_s: int = 12
    confirmations: int = 2
    resend_after_blocks: int = 1
    bump_after_blocks: int = 1
    stale_after_blocks: int = 25
    max_replacements: int = 24
    foreign_after_heads: int = 2
    gap_after_heads: int = 2
