"""Sending a signed transaction: to every node at once, once each, every answer kept as data."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_utils.crypto import keccak

from keeper.chain.endpoint import Endpoint
from keeper.chain.failures import NodeFailure, RpcError
from keeper.chain.observer import Observer
from keeper.chain.phrases import SendVerdict, send_verdict
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, fixed, hex_of, only, text_of
from keeper.domain.units import TxHash

_STRAGGLER_S: Final = 0.3
"""How long the slower nodes may take once one has the transaction."""
_HOLDS: Final = frozenset({SendVerdict.ACCEPTED, SendVerdict.ALREADY_KNOWN})


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """What one node said."""

    node: str
    verdict: SendVerdict
    message: str


@dataclass(frozen=True, slots=True)
class SendReport:
    """What became of a broadcast at every node that was asked."""

    tx_hash: TxHash
    answers: tuple[SendAnswer, ...]

    @property
    def is_accepted(self) -> bool:
        """Return whether at least one node holds the transaction."""
        return any(answer.verdict in _HOLDS for answer in self.answers)

    @property
    def verdict(self) -> SendVerdict:
        """Return the answer that counts: acceptance by any, else doubt if any is in doubt, else the first refusal.

        UNREACHABLE and UNKNOWN mean that a node may hold the transaction all the same.
        """
        found = [answer.verdict for answer in self.answers]
        order = (SendVerdict.ACCEPTED, SendVerdict.ALREADY_KNOWN, SendVerdict.NONCE_TOO_LOW)
        doubtful = (SendVerdict.UNREACHABLE, SendVerdict.UNKNOWN)
        return next(
            (each for each in (*order, *doubtful) if each in found), found[0] if found else SendVerdict.UNREACHABLE
        )


async def broadcast(endpoints: Sequence[Endpoint], raw: bytes, *, deadline_s: float, observer: Observer) -> SendReport:
    """Send the bytes to each node exactly once and wait for the answers, not long for those after the first success."""
    tx_hash = TxHash(keccak(raw))
    tasks = {
        asyncio.create_task(_send(endpoint, raw, tx_hash, deadline_s), name=f"send {endpoint.alias}"): endpoint
        for endpoint in endpoints
    }
    answers: dict[str, SendAnswer] = {}
    pending = set(tasks)
    timeout_s: float | None = None
    try:
        while pending:
            done, pending = await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                answers[tasks[task].alias] = task.result()
            if any(answer.verdict in _HOLDS for answer in answers.values()):
                timeout_s = _STRAGGLER_S
    finally:
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending)
    for task in pending:
        alias = tasks[task].alias
        answers[alias] = SendAnswer(alias, SendVerdict.UNREACHABLE, "no answer soon after another node accepted")
    report = SendReport(tx_hash, tuple(answers[endpoint.alias] for endpoint in endpoints))
    _tell_contradiction(report, observer)
    return report


async def _send(endpoint: Endpoint, raw: bytes, tx_hash: TxHash, deadline_s: float) -> SendAnswer:
    def hash_of(answers: Sequence[Answer]) -> bytes:
        return fixed(text_of(only(answers)), 32)

    requests = [("eth_sendRawTransaction", [hex_of(raw)])]
    try:
        told = await endpoint.ask(requests, hash_of, priority=Priority.SEND, timeout_s=deadline_s)
    except RpcError as refused:
        return SendAnswer(endpoint.alias, send_verdict(refused.message), refused.message)
    except NodeFailure as failure:
        return SendAnswer(endpoint.alias, SendVerdict.UNREACHABLE, failure.detail)
    if told != tx_hash:
        return SendAnswer(endpoint.alias, SendVerdict.UNKNOWN, "answered with another transaction's hash")
    return SendAnswer(endpoint.alias, SendVerdict.ACCEPTED, "")


def _tell_contradiction(report: SendReport, observer: Observer) -> None:
    """Report nodes that refuse what another one took."""
    doubtful = {SendVerdict.UNREACHABLE, *_HOLDS}
    if report.is_accepted and any(answer.verdict not in doubtful for answer in report.answers):
        told = {answer.node: answer.verdict.value for answer in report.answers}
        observer.event(
            "rpc.inconsistent", method="eth_sendRawTransaction", tx_hash=hex_of(report.tx_hash), answers=told
        )
