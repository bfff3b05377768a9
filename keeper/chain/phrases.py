"""What nodes say when they refuse: client and provider wordings, sorted into what they mean."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

RANGE: Final = (
    "try with this block range", "block range should work", "block range is too wide", "range too large",
    "range is too large", "range is too wide", "exceeds the range", "max block range", "maximum block range",
    "max range", "range limit", "block range limit", "range exceeds", "exceed maximum block range", "block range exceed",
    "block range greater", "blocks range", "block range larger", "larger than the allowed", "limited to", "limit the query to",
    "limit of", "response size", "returned more than", "more than 10000", "exceeds max results", "max results",
    "exceed limit", "exceeds limit", "query exceeds", "too many results", "too many blocks", "too many logs",
    "too large, max is", "response too large", "response is too big", "result set too large", "result too large",
    "maximum blocks distance", "block distance", "narrow", "reduce", "smaller range", "query timeout", "timeout exceeded",
    "request timed out", "took too long", "allowed block range", "block range too", "is too wide", "-block range", "block range",
)  # fmt: skip
QUOTA: Final = (
    "monthly capacity", "free tier", "monthly quota", "quota usage", "reached the quota", "out of credits",
    "not allowed to access", "invalid api key", "invalid project id", "project id required", "unauthorized",
    "unauthorised", "authentication", "forbidden", "payment required", "must be authenticated", "api key is not",
    "account disabled", "account suspended", "billing",
)  # fmt: skip
RATE: Final = (
    "rate limit", "ratelimit", "rate-limit", "too many requests", "requests limited to", "request limit", "has exceeded",
    "exceeded its compute", "compute units", "throughput", "under too much load", "daily request count", "per second",
    "try again in", "capacity exceeded", "call rate", "exceeded the quota", "slow down",
)  # fmt: skip
SIZE: Final = (
    "response too large", "response size", "response is too big", "response exceeds", "max response", "response body",
    "result exceeds",
)  # fmt: skip
BLOCK: Final = (
    "header not found", "unknown block", "block not found", "resource not found", "header for hash", "not canonical",
    "not currently canonical", "missing trie node", "state not available", "state is not available", "state unavailable",
    "state histories", "historical state", "pruned", "could not find block", "unknown header", "no state available",
    "beyond current head", "beyond head", "blockoutofrange", "block is out of range", "cannot be found", "no historical rpc",
    "maximum proof window", "failed to get block", "block does not exist", "block is not available", "unfinalized data",
    "cannot query unfinalized", "unknown number", "requested block not", "header is not", "after last accepted block",
    "blockhash not found", "state missing", "is not found", "best hash not found", "block requested not found",
)  # fmt: skip
METHOD: Final = (
    "method not found", "does not exist/is not available", "unsupported method", "method not supported", "not whitelisted",
    "not included in your current plan", "method not allowed", "method is not available", "method is disabled",
    "method unavailable", "is not supported", "method does not exist", "unknown method", "rpc method is unavailable",
)  # fmt: skip
REVERT: Final = (
    "revert", "vm exception", "vm execution error", "invalid opcode", "invalid jump", "stack underflow", "stack overflow",
    "stack limit", "bad instruction", "bad jump", "undefined instruction", "invalidfeopcode", "opcodenotfound",
    "evm error", "evmerror", "write protection", "assert", "execution error",
)  # fmt: skip
HEAVY: Final = (
    "out of gas", "outofgas", "gas required exceeds", "gas limit is too", "exceeds gas limit", "exceeds block gas limit",
    "intrinsic gas", "execution timeout", "execution aborted", "timeout", "timed out", "too large", "too big",
    "size exceeded", "exceeds maximum", "gas uint64", "memory limit", "callgaslimit", "gas cap", "gas too high",
)  # fmt: skip
PARAMS: Final = (
    "invalid params", "invalid argument", "cannot unmarshal", "invalid block", "invalid type", "too many arguments",
    "did not match any variant", "missing value", "unexpected", "parse error", "invalid request",
)  # fmt: skip
BROKEN: Final = (
    "internal error", "internal server", "service unavailable", "bad gateway", "gateway", "upstream", "no backend",
    "no healthy", "connection refused", "connection reset", "temporarily", "try again", "no response", "syncing",
    "cannot fulfill request", "timeout", "timed out", "overloaded", "server busy", "no available",
)  # fmt: skip

_LIMIT = re.compile(r"(\d[\d,]*)\s*(k)?[ -]*blocks?\b|(?:range|limit|max(?:imum)?|to)\D{0,24}?(\d[\d,]*)(k)?\b")


def says(text: str, phrases: tuple[str, ...]) -> bool:
    """Return whether a lower-case text contains one of the phrases."""
    return any(phrase in text for phrase in phrases)


def block_limit(text: str) -> int | None:
    """Return the number of blocks that a refusal of a log query says is allowed, if it says one plainly."""
    for match in _LIMIT.finditer(text.lower()):
        digits = match[1] or match[3]
        count = int(digits.replace(",", "")[:12]) * (1000 if match[2] or match[4] else 1)
        if 1 <= count <= 100_000:
            return count
    return None


class SendVerdict(StrEnum):
    """What one node said about a broadcast transaction."""

    ACCEPTED = "accepted"
    ALREADY_KNOWN = "already_known"
    NONCE_TOO_LOW = "nonce_too_low"
    NONCE_TOO_HIGH = "nonce_too_high"
    REPLACEMENT_UNDERPRICED = "replacement_underpriced"
    FEE_TOO_LOW = "fee_too_low"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    EXCEEDS_CAP = "exceeds_cap"
    POOL_FULL = "pool_full"
    INVALID = "invalid"
    """No node will ever accept these bytes."""
    UNREACHABLE = "unreachable"
    """The request did not get an answer: the node may or may not have it."""
    UNKNOWN = "unknown"
    """An answer that no table knows."""


_SENDS: Final[Mapping[SendVerdict, tuple[str, ...]]] = {
    # geth, erigon, reth, the OP stack · anvil · parity · besu · nethermind · arbitrum nitro · zksync · substrate, conflux
    SendVerdict.ALREADY_KNOWN: (
        "already known", "already imported", "known transaction", "already in mempool", "alreadyknown", "alreadyimported",
        "ownnoncealreadyused", "already exists", "already in the pool", "same hash was already", "already finalized",
        "already submitted", "already been mined", "already in the mempool", "already in pool", "already in cache",
        "already exist", "already have transaction", "already in the system",
    ),
    SendVerdict.REPLACEMENT_UNDERPRICED: (
        "replacement transaction underpriced", "replacement underpriced", "another transaction with same nonce",
        "replacementnotallowed", "replacement transaction", "same nonce in the tx pool", "could not replace",
        "replace-by-fee", "insufficient fee to replace", "same nonce already inserted", "duplicated nonce",
        "tries to replace pending",
    ),
    SendVerdict.NONCE_TOO_LOW: (
        "nonce too low", "nonce is too low", "oldnonce", "invalid transaction nonce", "pool(stale)", "stale nonce",
        "nonce has already been used", "nonce already used", "invalid nonce; got", "nonce is lower",
    ),
    SendVerdict.NONCE_TOO_HIGH: (
        "nonce too high", "noncegap", "nonce gap", "nonce too far", "future nonce", "too distant", "nonce is too high",
        "gapped-nonce", "lower nonce exists",
    ),
    SendVerdict.EXCEEDS_CAP: (
        "exceeds the configured cap", "fee cap exceeded", "exceeds cap", "exceeds rpc cap", "exceeds the cap", "txfeecap",
        "exceeds configured cap",
    ),
    SendVerdict.INSUFFICIENT_FUNDS: (
        "insufficient funds", "insufficientfunds", "insufficient balance", "not enough funds", "exceeds account balance",
        "would cause overdraft", "upfront cost exceeds", "doesn't have enough funds", "sender doesn't have enough",
        "insufficient msat", "out of balance", "insufficient eth",
    ),
    SendVerdict.INVALID: (
        "higher than max fee", "invalid sender", "invalid signature", "invalid chain id", "intrinsic gas", "exceeds block gas limit",
        "gas limit exceed", "gaslimitexceeded", "oversized data", "negative value", "decode", "rlp", "not supported",
        "invalid transaction", "eip-155", "replay-protected", "typed transaction", "max initcode", "sender is banned",
        "gas limit too high", "gas limit is too high", "gas uint64", "sendercontract", "sender not an eoa", "exceeds maximum gas",
        "senderiscontract", "failedtoresolvesender", "int256overflow", "forbidden sender", "invalid message format",
        "gas is too low", "not enough gas for transaction", "failed to pay the fee", "is banned in local queue",
        "higher than 2^64", "floor data gas", "size too big", "too short", "is not permitted", "wrong chain",
        "invalidtxsignature", "not allowed to send", "nonce max", "unprotected transaction", "max fee per blob gas",
    ),
    SendVerdict.FEE_TOO_LOW: (
        "underpriced", "less than block base fee", "feetoolow", "fee too low", "gas price too low", "gas price is too low",
        "gas price below", "below configured minimum", "price below minimum", "gasprice is less than", "tip cap",
        "less than the minimum", "minimum needed", "fee per gas too low", "lower than base fee", "unacceptable gas price",
        "effective gas price", "below the minimum", "below base fee", "below minimum", "effectivepriorityfee",
    ),
    SendVerdict.POOL_FULL: (
        "txpool is full", "pool is full", "pool full", "queue full", "too many transactions in the queue", "pool limit",
        "pool overflow", "transaction limit reached", "too many pending", "account limit exceeded", "too many transactions",
        "already reserved", "sequencer is temporarily", "sequencer is overloaded",
    ),
}  # fmt: skip


def send_verdict(message: str) -> SendVerdict:
    """Return what a node's refusal of a raw transaction means, in any client's words."""
    text = message.lower()
    for verdict, phrases in _SENDS.items():
        if says(text, phrases):
            return verdict
    return SendVerdict.UNKNOWN
