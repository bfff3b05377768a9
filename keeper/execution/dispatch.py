"""Signing and handing over: from a call and a bid to bytes, and from the nodes' answers to one verdict."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from keeper.chain.broadcast import SendAnswer
from keeper.chain.phrases import SendVerdict
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.units import Wei
from keeper.execution.envelope import Transaction
from keeper.execution.fees import FeeQuote
from keeper.execution.ports import Network, Observer
from keeper.execution.signer import PolicyRefused, Signer
from keeper.store.records import Attempt, AttemptKind, AttemptState


class Handover(Enum):
    """What became of the bytes."""

    HELD = auto()
    """A node has them, and had not before."""
    KNOWN = auto()
    """A node had them already."""
    MAYBE = auto()
    """No node said so, but one may have them: they count as sent."""
    REFUSED = auto()
    """Every node answered, and none will have them."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The verdict over all nodes; `reason` and `detail` say why where none holds the bytes.

    `needs_fee` means that a higher bid would be taken.
    """

    handover: Handover
    reason: Reason = Reason.BROADCAST_FAILED
    detail: str = ""
    needs_fee: bool = False


_REFUSALS: Final = {
    SendVerdict.INSUFFICIENT_FUNDS: Reason.INSUFFICIENT_GAS_MONEY,
    SendVerdict.EXCEEDS_CAP: Reason.FEE_CAP,
    SendVerdict.INVALID: Reason.BROADCAST_FAILED,
    SendVerdict.FEE_TOO_LOW: Reason.BROADCAST_FAILED,
}


class Dispatch:
    """Signs and broadcasts; knows nothing of plans."""

    def __init__(self, signer: Signer, network: Network, observer: Observer) -> None:
        """Sign with `signer` for its policy's chain."""
        self._signer = signer
        self._network = network
        self._observer = observer

    def sign(
        self, call: Call, *, nonce: int, gas_limit: int, quote: FeeQuote, block: int, kind: AttemptKind
    ) -> Attempt:
        """Sign a call at a nonce. It must be in the journal before it is sent.

        Raises: PolicyRefused.
        """
        transaction = Transaction(
            chain_id=self._signer.policy.chain_id,
            nonce=nonce,
            tip_wei=quote.tip_wei,
            max_fee_wei=quote.max_fee_wei,
            gas_limit=gas_limit,
            to=call.to,
            value_wei=call.value_wei,
            data=call.data,
        )
        try:
            signed = self._signer.sign(transaction)
        except PolicyRefused as error:
            self._observer.event("security.policy_refused", nonce=nonce, detail=str(error))
            raise
        self._observer.event(
            "tx.signed",
            tx_hash=f"0x{signed.tx_hash.hex()}",
            nonce=nonce,
            kind=kind.value,
            max_fee_wei=quote.max_fee_wei,
        )
        return Attempt(
            tx_hash=signed.tx_hash,
            nonce=nonce,
            kind=kind,
            state=AttemptState.SIGNED,
            max_fee_wei=quote.max_fee_wei,
            tip_wei=quote.tip_wei,
            gas_limit=gas_limit,
            raw=signed.raw,
            first_block=block,
        )

    def sign_transfer(self, *, nonce: int, gas: int, quote: FeeQuote, block: int) -> Attempt:
        """Sign a transfer of nothing to ourselves, which only uses the nonce up."""
        call = Call(self._signer.address, b"", Wei(0))
        return self.sign(call, nonce=nonce, gas_limit=gas, quote=quote, block=block, kind=AttemptKind.CANCEL)

    async def send(self, attempts: Sequence[Attempt]) -> Sequence[Delivery]:
        """Hand transactions to every node, all at once, the lowest nonce first on the wire."""
        return await asyncio.gather(*(self._send(attempt) for attempt in attempts))

    async def _send(self, attempt: Attempt) -> Delivery:
        self._observer.event("tx.broadcast", tx_hash=f"0x{attempt.tx_hash.hex()}", nonce=attempt.nonce)
        delivery = judge(await self._network.broadcast(attempt.raw))
        name = {Handover.HELD: "tx.accepted", Handover.KNOWN: "tx.known"}.get(delivery.handover)
        if name is not None:
            self._observer.event(name, tx_hash=f"0x{attempt.tx_hash.hex()}", nonce=attempt.nonce)
        return delivery


def judge(answers: Sequence[SendAnswer]) -> Delivery:
    """Weigh all nodes' answers: one that has the bytes is enough, and only a unanimous no is a no."""
    verdicts = {answer.verdict for answer in answers}
    if SendVerdict.ALREADY_KNOWN in verdicts:
        return Delivery(Handover.KNOWN)
    if SendVerdict.ACCEPTED in verdicts:
        return Delivery(Handover.HELD)
    needs_fee = not verdicts.isdisjoint({SendVerdict.REPLACEMENT_UNDERPRICED, SendVerdict.FEE_TOO_LOW})
    detail = "; ".join(f"{answer.node}: {answer.verdict.value}" for answer in answers)[:256]
    if verdicts and verdicts <= _REFUSALS.keys():
        reason = next(reason for verdict, reason in _REFUSALS.items() if verdict in verdicts)
        return Delivery(Handover.REFUSED, reason, detail, needs_fee)
    return Delivery(Handover.MAYBE, detail=detail, needs_fee=needs_fee)


def after(attempt: Attempt, delivery: Delivery) -> Attempt:
    """Note what the nodes said of an attempt."""
    if delivery.handover in {Handover.HELD, Handover.KNOWN}:
        return replace(attempt, state=AttemptState.ACCEPTED)
    if delivery.handover is Handover.REFUSED and attempt.state is AttemptState.SIGNED:
        return replace(attempt, state=AttemptState.REFUSED)
    return attempt
