"""One transaction outside the journal: what an operator orders by hand, while no keeper runs with the key.

Its nonce is the node's pending count. It is broadcast until a receipt is there, always the same bytes: whoever loses
patience holds a hash to look for, and nothing is ever sent twice.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keeper.chain import transactions
from keeper.chain.broadcast import SendReport
from keeper.chain.failures import RpcError
from keeper.chain.mask import printable
from keeper.chain.phrases import SendVerdict
from keeper.chain.rpc import Rpc
from keeper.chain.view import latest_head
from keeper.chain.wire import hex_of, only, quantity_of
from keeper.domain.chain import Call, Receipt
from keeper.domain.outcome import Reason
from keeper.domain.units import BPS, Wei
from keeper.errors import Transient, Unsafe
from keeper.execution.envelope import NOBODY, Transaction
from keeper.execution.fees import FeePolicy, quote, read_market
from keeper.execution.network import RpcNetwork
from keeper.execution.signer import Signatory, Signed

MAX_GAS_LIMIT: Final = 1 << 25
"""Where a rollup counts the data as gas, a contract's creation takes many times what a liquidation does."""
_GAS_MARGIN_BPS: Final = 12_000
_DOUBTFUL: Final = frozenset({SendVerdict.UNREACHABLE, SendVerdict.UNKNOWN})
_RESEND_EVERY: Final = 8
_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Priced:
    """A transaction ready to be signed, and the most that it can cost."""

    transaction: Transaction
    most_wei: Wei


@dataclass(frozen=True, slots=True)
class Patience:
    """How often to look for a receipt, and for how long."""

    look_s: float
    most_s: float


async def priced(
    rpc: Rpc, signer: Signatory, call: Call, fees: FeePolicy, *, chain_id: int, least_nonce: int = 0
) -> Priced:
    """Put a call, or a creation where its target is `NOBODY`, into a transaction on top of the account's others.

    `least_nonce` is known to be free: a node that has not heard of the transaction before it tells an earlier one.
    Raises: Unsafe where it would revert, is too dear or cannot be paid; Transient.
    """
    head = await latest_head(rpc)
    nonces = await transactions.nonces(rpc, signer.address)
    past = await RpcNetwork(rpc).fee_history(head=head, blocks=fees.history_blocks, percentiles=fees.tip_percentiles)
    market = read_market(past.base_fees_wei[-1], past.tips_wei, fees).modest
    bid = quote(market, fees.max_fee_wei, fees)
    if isinstance(bid, Reason):
        raise Unsafe(
            f"the next block asks for {market.needed_wei} wei a unit of gas: more than KEEPER_MAX_FEE_GWEI allows; "
            "raise it, or wait"
        )
    gas = await _estimate(rpc, signer, call)
    transaction = Transaction(
        chain_id=chain_id,
        nonce=max(nonces.pending, least_nonce),
        tip_wei=bid.tip_wei,
        max_fee_wei=bid.max_fee_wei,
        gas_limit=min(gas * _GAS_MARGIN_BPS // BPS, fees.max_gas_limit),
        to=call.to,
        value_wei=call.value_wei,
        data=call.data,
    )
    most = Wei(transaction.gas_limit * transaction.max_fee_wei + transaction.value_wei)
    held = (await transactions.funds(rpc, signer.address, head)).balance_wei
    if held < most:
        raise Unsafe(f"0x{signer.address.hex()} holds {held} wei, and this may cost {most}: top it up")
    return Priced(transaction, most)


async def carried_out(
    rpc: Rpc, signer: Signatory, order: Priced, patience: Patience, *, told: Callable[[Signed], None]
) -> Receipt:
    """Sign, send, and wait for the receipt; `told` is called with what was signed before it leaves.

    Raises: Unsafe where it is refused, has failed, or is not mined in time; PolicyRefused; SignerFailed.
    """
    signed = await signer.signed(order.transaction)
    told(signed)
    report = await rpc.send_raw(signed.raw)
    if not report.is_accepted and report.verdict not in _DOUBTFUL:
        raise Unsafe(f"no node took the transaction: {_said(report)}")
    loop = asyncio.get_running_loop()
    end_s, looks = loop.time() + patience.most_s, 0
    while loop.time() < end_s:
        receipt = await _receipt(rpc, signed)
        if receipt is not None:
            if not receipt.succeeded:
                raise Unsafe(f"transaction {hex_of(signed.tx_hash)} failed in block {receipt.block_number}")
            return receipt
        looks += 1
        if looks % _RESEND_EVERY == 0:
            await rpc.send_raw(signed.raw)
        await asyncio.sleep(patience.look_s)
    raise Unsafe(
        f"transaction {hex_of(signed.tx_hash)} was sent and is not mined after {patience.most_s:.0f} s: "
        "look for it before anything else is done with this account"
    )


async def _estimate(rpc: Rpc, signer: Signatory, call: Call) -> int:
    wanted: dict[str, Any] = {"from": hex_of(signer.address), "data": hex_of(call.data)}
    if call.to != NOBODY:
        wanted["to"] = hex_of(call.to)
    try:
        return await rpc.ask([("eth_estimateGas", (wanted,))], lambda found: quantity_of(only(found)))
    except RpcError as refused:
        raise Unsafe(f"it would fail: {printable(refused.message, _TEXT)}") from None


async def _receipt(rpc: Rpc, signed: Signed) -> Receipt | None:
    try:
        return (await transactions.receipts(rpc, [signed.tx_hash]))[signed.tx_hash]
    except (Transient, RpcError):
        return None  # asked again, as long as there is patience


def _said(report: SendReport) -> str:
    return "; ".join(f"{each.node}: {printable(each.message, _TEXT) or each.verdict.value}" for each in report.answers)
