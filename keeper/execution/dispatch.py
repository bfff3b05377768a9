"""Signing and handing over: from a call and a bid to bytes, and from all answers to one verdict."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from eth_hash.auto import keccak

from keeper.chain.broadcast import SendAnswer
from keeper.chain.phrases import SendVerdict
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.units import Wei
from keeper.execution.envelope import Transaction, unsigned_bytes
from keeper.execution.fees import FeeQuote
from keeper.execution.ports import Fence, Network, Observer
from keeper.execution.relay import RelayAnswer, Word
from keeper.execution.route import Fallback, PrivateRoute, is_hidden, unhidden
from keeper.execution.signer import PolicyRefused, Signatory
from keeper.store.records import Attempt, AttemptKind, AttemptState, Route


class Handover(Enum):
    """What became of the bytes."""

    HELD = auto()
    """A node has them, and had not before."""
    KNOWN = auto()
    """A node had them already."""
    MAYBE = auto()
    """No node said so, but one may have them: they count as sent."""
    REFUSED = auto()
    """Every node answered, and none will have them; or no relay has seen them."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The verdict over all nodes or relays; `reason` and `detail` say why where none holds the bytes.

    `needs_fee` means that a higher bid would be taken; `is_unhidden` that every node has seen what was to be hidden.
    """

    handover: Handover
    reason: Reason = Reason.BROADCAST_FAILED
    detail: str = ""
    needs_fee: bool = False
    is_unhidden: bool = False


_REFUSALS: Final = {
    SendVerdict.INSUFFICIENT_FUNDS: Reason.INSUFFICIENT_GAS_MONEY,
    SendVerdict.EXCEEDS_CAP: Reason.FEE_CAP,
    SendVerdict.INVALID: Reason.BROADCAST_FAILED,
    SendVerdict.FEE_TOO_LOW: Reason.BROADCAST_FAILED,
}


class Dispatch:
    """Signs and hands over, to every node or to relays alone; knows nothing of plans."""

    def __init__(
        self, signer: Signatory, network: Network, fence: Fence, private: PrivateRoute, observer: Observer
    ) -> None:
        """Sign with `signer` for its policy's chain; nothing leaves without a look at the fence."""
        self._signer = signer
        self._network = network
        self._fence = fence
        self._private = private
        self._observer = observer

    @property
    def is_remote(self) -> bool:
        """Return whether a signature is asked of another process, which must not hear of anything unjournalled."""
        return self._signer.is_remote

    def name(self, call: Call, *, nonce: int, gas_limit: int, quote: FeeQuote) -> str:
        """Return the name of an intent: the hash that its first signature signs, known before there is one."""
        return f"0x{keccak(unsigned_bytes(self._transaction(call, nonce, gas_limit, quote))).hex()}"

    async def sign(
        self,
        call: Call,
        *,
        nonce: int,
        gas_limit: int,
        quote: FeeQuote,
        block: int,
        kind: AttemptKind,
        before: Attempt | None = None,
    ) -> Attempt:
        """Sign a call at a nonce. It must be in the journal before it is sent.

        It takes the route, and the expiry, of the attempt `before` it at this nonce, if any.

        Raises: PolicyRefused; SignerFailed.
        """
        if before is None:
            expires_block = self._private.expiry(call, kind, block)
        else:
            expires_block = before.expires_block if is_hidden(before) else None
        try:
            signed = await self._signer.signed(self._transaction(call, nonce, gas_limit, quote))
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
            route=Route.PUBLIC if expires_block is None else Route.PRIVATE,
            expires_block=expires_block,
        )

    async def sign_transfer(self, *, nonce: int, gas: int, quote: FeeQuote, block: int) -> Attempt:
        """Sign a transfer of nothing to ourselves, which only uses the nonce up, and has nothing to hide."""
        call = Call(self._signer.address, b"", Wei(0))
        return await self.sign(call, nonce=nonce, gas_limit=gas, quote=quote, block=block, kind=AttemptKind.CANCEL)

    async def send(self, attempts: Sequence[Attempt], *, again_at: int | None = None) -> Sequence[Delivery]:
        """Hand transactions over on their routes, all at once, the lowest nonce first on the wire.

        `again_at` is the head where a relay may have seen an attempt at a nonce before. Elsewhere, where no relay can
        be reached, nothing is hidden any more if the policy says so.

        Raises: Fenced, before any of them left; StoreFailed that no waiting cures.
        """
        await self._fence.check()
        self._observer.reached("before_send")
        deliveries = await asyncio.gather(*(self._send(attempt, again_at) for attempt in attempts))
        if again_at is None:
            deliveries = await self._unhidden(attempts, deliveries)
        self._observer.reached("after_ack")
        return deliveries

    def withdraw(self, attempt: Attempt, successor: Attempt) -> None:
        """Ask relays to forget an attempt that they alone have seen, now that another has been sent in its place."""
        if is_hidden(attempt) and attempt.tx_hash != successor.tx_hash:
            self._private.withdraw(attempt, successor)

    def _transaction(self, call: Call, nonce: int, gas_limit: int, quote: FeeQuote) -> Transaction:
        return Transaction(
            chain_id=self._signer.policy.chain_id,
            nonce=nonce,
            tip_wei=quote.tip_wei,
            max_fee_wei=quote.max_fee_wei,
            gas_limit=gas_limit,
            to=call.to,
            value_wei=call.value_wei,
            data=call.data,
        )

    async def _send(self, attempt: Attempt, again_at: int | None) -> Delivery:
        self._observer.event(
            "tx.broadcast", tx_hash=f"0x{attempt.tx_hash.hex()}", nonce=attempt.nonce, route=attempt.route.value
        )
        if is_hidden(attempt):
            answers = await self._private.submit(attempt, attempt.first_block if again_at is None else again_at)
            delivery = judge_private(answers, attempt, may_have_left=again_at is not None)
        else:
            delivery = judge(await self._network.broadcast(attempt.raw))
        self._observer.reached("after_send_before_ack")
        name = {Handover.HELD: "tx.accepted", Handover.KNOWN: "tx.known"}.get(delivery.handover)
        if name is not None:
            self._observer.event(name, tx_hash=f"0x{attempt.tx_hash.hex()}", nonce=attempt.nonce)
        return delivery

    async def _unhidden(self, attempts: Sequence[Attempt], deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Show to every node what no relay could be given; what the journal cannot note stays hidden."""
        found = list(deliveries)
        lost = [
            place
            for place, (attempt, delivery) in enumerate(zip(attempts, deliveries, strict=True))
            if is_hidden(attempt) and delivery.handover is Handover.REFUSED
        ]
        if not lost or self._private.policy.fallback is not Fallback.PUBLIC:
            return found
        shown = [attempts[place] for place in lost]
        if not await self._private.unhide(shown):
            return found
        for attempt in shown:
            self._observer.event("tx.unhidden", tx_hash=f"0x{attempt.tx_hash.hex()}", nonce=attempt.nonce)
        public = [unhidden(attempt) for attempt in shown]
        for place, delivery in zip(lost, await self.send(public), strict=True):
            found[place] = replace(delivery, is_unhidden=True)
        return found


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


def judge_private(answers: Sequence[RelayAnswer], attempt: Attempt, *, may_have_left: bool) -> Delivery:
    """Weigh all relays' answers: what any of them may have seen counts as sent, whatever it says of it."""
    words = {answer.word for answer in answers}
    if Word.TAKEN in words:
        return Delivery(Handover.KNOWN if attempt.state is AttemptState.ACCEPTED else Handover.HELD)
    detail = "; ".join(f"{answer.relay}: {answer.word.value} {answer.detail}".rstrip() for answer in answers)[:256]
    if words == {Word.UNREACHED} and not may_have_left:
        return Delivery(Handover.REFUSED, detail=detail)
    return Delivery(Handover.MAYBE, detail=detail or "not given to any relay")


def after(attempt: Attempt, delivery: Delivery) -> Attempt:
    """Note what the nodes or relays said of an attempt."""
    if delivery.is_unhidden:
        attempt = unhidden(attempt)
    if delivery.handover in {Handover.HELD, Handover.KNOWN}:
        return replace(attempt, state=AttemptState.ACCEPTED)
    if delivery.handover is Handover.REFUSED and attempt.state is AttemptState.SIGNED:
        return replace(attempt, state=AttemptState.REFUSED)
    return attempt
