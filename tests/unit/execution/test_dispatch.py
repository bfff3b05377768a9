"""Many nodes, one verdict: one that has the bytes is enough, and only a unanimous no is a no."""

import pytest

from keeper.chain.broadcast import SendAnswer
from keeper.chain.phrases import SendVerdict
from keeper.domain.outcome import Reason
from keeper.execution.dispatch import Handover, judge

V = SendVerdict


@pytest.mark.parametrize(
    ("said", "handover"),
    [
        ([V.ACCEPTED], Handover.HELD),
        ([V.ACCEPTED, V.NONCE_TOO_LOW, V.UNREACHABLE], Handover.HELD),
        ([V.INVALID, V.ACCEPTED], Handover.HELD),
        ([V.ACCEPTED, V.ALREADY_KNOWN], Handover.KNOWN),
        ([V.ALREADY_KNOWN, V.INSUFFICIENT_FUNDS], Handover.KNOWN),
        ([], Handover.MAYBE),
        ([V.UNREACHABLE], Handover.MAYBE),
        ([V.UNKNOWN, V.INVALID], Handover.MAYBE),
        ([V.NONCE_TOO_LOW], Handover.MAYBE),
        ([V.NONCE_TOO_HIGH], Handover.MAYBE),
        ([V.POOL_FULL], Handover.MAYBE),
        ([V.REPLACEMENT_UNDERPRICED], Handover.MAYBE),
        ([V.INSUFFICIENT_FUNDS, V.UNREACHABLE], Handover.MAYBE),
        ([V.INSUFFICIENT_FUNDS, V.INVALID], Handover.REFUSED),
        ([V.EXCEEDS_CAP], Handover.REFUSED),
        ([V.FEE_TOO_LOW], Handover.REFUSED),
    ],
)
def test_txl_07_mixed_answers_have_one_meaning(said: list[SendVerdict], handover: Handover):
    delivery = judge([SendAnswer(f"rpc-{place}", verdict, "") for place, verdict in enumerate(said)])
    assert delivery.handover is handover
    assert delivery.needs_fee == (not {V.REPLACEMENT_UNDERPRICED, V.FEE_TOO_LOW}.isdisjoint(said))


def test_txl_13_a_refusal_names_its_reason_and_every_node():
    delivery = judge([SendAnswer("a", V.EXCEEDS_CAP, "…"), SendAnswer("b", V.INVALID, "…")])
    assert delivery.reason is Reason.FEE_CAP
    assert delivery.detail == "a: exceeds_cap; b: invalid"
