"""What execution reads of the chain: fees, funds, nonces, receipts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keeper.chain.failures import Absent, BlockUnknown
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import (
    Answer,
    LogObject,
    Request,
    bytes_of,
    fixed,
    head_of,
    hex_of,
    is_null,
    mined_log,
    only,
    pinned,
    present,
    quantity,
    quantity_of,
)
from keeper.domain.chain import BlockHead, Receipt
from keeper.domain.units import Address, BlockHash, Bps, TxHash, Wei
from keeper.errors import Stale

_BPS: Final = 10_000
_WORD: Final = 32
_GET_L1_FEE: Final = bytes.fromhex("49948e0e")


@dataclass(frozen=True, slots=True)
class FeeHistory:
    """What the latest blocks cost, oldest first.

    `base_fees_wei` has one more entry than there are blocks: the last is the next block's.
    `rewards_wei`: per block, one tip for each asked percentile. `fullness_bps`: gas used of the limit.
    """

    oldest_block: int
    base_fees_wei: tuple[Wei, ...]
    rewards_wei: tuple[tuple[Wei, ...], ...]
    fullness_bps: tuple[Bps, ...]


@dataclass(frozen=True, slots=True)
class Nonces:
    """An account's transaction counts: mined, and with those that wait in the node's pool."""

    latest: int
    pending: int


@dataclass(frozen=True, slots=True)
class Standing:
    """One node's answer about what is in flight; a hash without receipt is not mined there, or unknown."""

    nonce: int
    receipts: Mapping[TxHash, Receipt]


@dataclass(frozen=True, slots=True)
class Funds:
    """An account at one block."""

    nonce: int
    balance_wei: Wei


class _Fees(msgspec.Struct, gc=False, rename="camel"):
    oldest_block: str
    base_fee_per_gas: list[str]
    gas_used_ratio: list[float]
    reward: list[list[str]] | None = None


class _ReceiptObject(msgspec.Struct, gc=False, rename="camel"):
    transaction_hash: str
    block_hash: str
    block_number: str
    gas_used: str
    logs: list[LogObject]
    status: str
    effective_gas_price: str = "0x0"
    l1_fee: str | None = msgspec.field(name="l1Fee", default=None)  # on the OP stack


_fees = msgspec.json.Decoder(_Fees)
_receipt = msgspec.json.Decoder(_ReceiptObject)


async def fee_history(rpc: Rpc, *, blocks: int, percentiles: Sequence[int], newest: int | None = None) -> FeeHistory:
    """Return what the blocks up to `newest` (the latest by default) cost.

    Raises: Transient.
    """
    tag = "latest" if newest is None else hex(newest)
    request = ("eth_feeHistory", (hex(blocks), tag, list(percentiles)))
    return await rpc.ask([request], _fee_history, priority=Priority.HEAD)


async def receipts(rpc: Rpc, hashes: Sequence[TxHash]) -> dict[TxHash, Receipt | None]:
    """Return each transaction's receipt in one batch; None says that this node knows of none, not that there is none.

    Raises: Transient.
    """
    requests = [_receipt_request(tx_hash) for tx_hash in hashes]
    if not requests:
        return {}

    def decode(answers: Sequence[Answer]) -> dict[TxHash, Receipt | None]:
        return dict(zip(hashes, map(receipt_of, answers, hashes), strict=True))

    return await rpc.ask(requests, decode, priority=Priority.RECEIPT)


async def standing(rpc: Rpc, address: Address, hashes: Sequence[TxHash]) -> Standing:
    """Return the mined nonce and the receipts that exist, in one batched request to one node.

    Raises: Transient.
    """
    requests = [("eth_getTransactionCount", (hex_of(address), "latest")), *map(_receipt_request, hashes)]

    def decode(answers: Sequence[Answer]) -> Standing:
        found = zip(hashes, map(receipt_of, answers[1:], hashes), strict=True)
        return Standing(quantity_of(present(answers[0])), {key: value for key, value in found if value is not None})

    return await rpc.ask(requests, decode, priority=Priority.RECEIPT)


async def nonces(rpc: Rpc, address: Address) -> Nonces:
    """Return an account's mined and pending transaction counts, from one node.

    Raises: Transient.
    """
    requests = [("eth_getTransactionCount", (hex_of(address), tag)) for tag in ("latest", "pending")]
    latest, pending = await rpc.ask(requests, _quantities, priority=Priority.RECEIPT)
    return Nonces(latest, pending)


async def balance(rpc: Rpc, address: Address) -> Wei:
    """Return an account's native currency at the latest block.

    Raises: Transient.
    """
    request = ("eth_getBalance", (hex_of(address), "latest"))
    return Wei(await rpc.ask([request], lambda found: quantity_of(only(found)), priority=Priority.RECEIPT))


async def confirmed(rpc: Rpc, known: Sequence[Receipt]) -> dict[TxHash, Receipt]:
    """Return those receipts, meant to be final, that two nodes tell alike, each from the block that it calls canonical.

    One that is missing from the result was invented, or its block is gone. Where only one node can be asked, what is
    known is returned as it is, without a request.
    Raises: Transient, Contradiction among it.
    """
    if not known or len(rpc.endpoints) == 1:
        return {each.tx_hash: each for each in known}
    requests: list[Request] = []
    for receipt in known:
        requests += _receipt_request(receipt.tx_hash), ("eth_getBlockByNumber", (hex(receipt.block_number), False))

    def decode(answers: Sequence[Answer]) -> tuple[Receipt | None, ...]:
        return tuple(
            _canonical(receipt_of(told, receipt.tx_hash), receipt.block_number, head_of(present(block)))
            for receipt, told, block in zip(known, answers[::2], answers[1::2], strict=True)
        )

    found = await rpc.agreed(requests, decode, priority=Priority.RECEIPT)
    return {each.tx_hash: each for each in found if each is not None}


def _canonical(receipt: Receipt | None, number: int, block: BlockHead) -> Receipt | None:
    """Return a receipt where the same node has its block in its chain.

    Raises: ValueError for another block than asked for.
    """
    if block.number != number:
        raise ValueError("another block than asked for")
    return receipt if receipt is not None and receipt.block_hash == block.hash else None


async def funds(rpc: Rpc, address: Address, head: BlockHead, *, is_decisive: bool = False) -> Funds:
    """Return an account's nonce and balance at a head; where that is decisive, as two nodes tell them alike.

    Raises: Transient; Stale when the block is gone.
    """
    block = pinned(head.hash)
    requests = [(method, (hex_of(address), block)) for method in ("eth_getTransactionCount", "eth_getBalance")]
    try:
        if is_decisive:
            return await rpc.agreed(requests, _funds, is_pinned=True)
        return await rpc.ask(requests, _funds, is_pinned=True)
    except BlockUnknown as gone:
        raise Stale(f"block {head.number} is gone: {gone}") from None


async def data_fees(
    rpc: Rpc, oracle: Address, payloads: Sequence[bytes], head: BlockHead, *, is_decisive: bool = False
) -> tuple[Wei, ...]:
    """Return what a rollup takes for each unsigned transaction's data beside its gas; `is_decisive`: as two nodes agree.

    Source: ethereum-optimism/optimism GasPriceOracle.getL1Fee, which adds the signature's bytes itself.
    Raises: Transient; Stale when the block is gone.
    """
    block = pinned(head.hash)
    calls = [{"to": hex_of(oracle), "data": hex_of(_data_fee_call(each))} for each in payloads]

    def decode(answers: Sequence[Answer]) -> tuple[Wei, ...]:
        words = [bytes_of(present(each)) for each in answers]
        if any(len(each) != _WORD for each in words):
            raise ValueError("the contract that should tell data fees told something else")
        return tuple(Wei(int.from_bytes(each)) for each in words)

    try:
        requests = [("eth_call", (call, block)) for call in calls]
        if is_decisive:
            return await rpc.agreed(requests, decode, is_pinned=True)
        return await rpc.ask(requests, decode, is_pinned=True)
    except BlockUnknown as gone:
        raise Stale(f"block {head.number} is gone: {gone}") from None


def _data_fee_call(payload: bytes) -> bytes:
    length = len(payload)
    return _GET_L1_FEE + _WORD.to_bytes(_WORD) + length.to_bytes(_WORD) + payload + bytes(-length % _WORD)


def receipt_of(answer: Answer, tx_hash: TxHash) -> Receipt | None:
    """Decode a receipt; null, and a receipt that is not of a mined transaction yet, are None.

    Raises: ValueError for another transaction's receipt, or logs of another block.
    """
    raw = present(answer)
    if is_null(raw):
        return None
    found = _receipt.decode(raw)
    receipt = Receipt(
        tx_hash=TxHash(fixed(found.transaction_hash, 32)),
        block_number=quantity(found.block_number, 64),
        block_hash=BlockHash(fixed(found.block_hash, 32)),
        succeeded=quantity(found.status, 1) == 1,
        gas_used=quantity(found.gas_used, 64),
        effective_gas_price_wei=Wei(quantity(found.effective_gas_price, 128)),
        logs=tuple(mined_log(item) for item in found.logs),
        data_fee_wei=Wei(quantity(found.l1_fee, 128) if found.l1_fee else 0),
    )
    if receipt.tx_hash != tx_hash:
        raise ValueError("another transaction's receipt")
    if any(log.block_hash != receipt.block_hash or log.tx_hash != tx_hash for log in receipt.logs):
        raise ValueError("a receipt with logs of another transaction")
    return receipt


def _receipt_request(tx_hash: TxHash) -> Request:
    return "eth_getTransactionReceipt", (hex_of(tx_hash),)


def _funds(answers: Sequence[Answer]) -> Funds:
    nonce, held = _quantities(answers)
    return Funds(nonce, Wei(held))


def _quantities(answers: Sequence[Answer]) -> list[int]:
    return [quantity_of(present(answer)) for answer in answers]


def _fee_history(answers: Sequence[Answer]) -> FeeHistory:
    raw = only(answers)
    if is_null(raw):
        raise Absent
    found = _fees.decode(raw)
    base_fees = tuple(Wei(quantity(fee, 128)) for fee in found.base_fee_per_gas)
    rewards = tuple(tuple(Wei(quantity(tip, 128)) for tip in tips) for tips in found.reward or ())
    if not base_fees or len(base_fees) != len(found.gas_used_ratio) + 1:
        raise ValueError("a fee history whose parts do not fit")
    fullness = tuple(Bps(round(min(max(ratio, 0.0), 1.0) * _BPS)) for ratio in found.gas_used_ratio)
    return FeeHistory(quantity(found.oldest_block, 64), base_fees, rewards, fullness)
