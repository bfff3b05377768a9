"""Many nodes, one verdict: one that has the bytes is enough, and only a unanimous no is a no."""

from dataclasses import replace

import pytest

from keeper.chain.broadcast import SendAnswer
from keeper.chain.phrases import SendVerdict
from keeper.domain.outcome import Reason
from keeper.domain.units import TxHash, Wei
from keeper.execution.dispatch import Delivery, Handover, after, judge, judge_private
from keeper.execution.relay import RelayAnswer, Word
from keeper.store.records import Attempt, AttemptKind, AttemptState, Route

V = SendVerdict
HIDDEN = Attempt(
    tx_hash=TxHash(bytes(32)),
    nonce=0,
    kind=AttemptKind.SEND,
    state=AttemptState.SIGNED,
    max_fee_wei=Wei(2),
    tip_wei=Wei(1),
    gas_limit=21_000,
    raw=b"",
    first_block=1,
    route=Route.PRIVATE,
    expires_block=4,
)


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


@pytest.mark.parametrize(
    ("said", "may_have_left", "handover"),
    [
        ([Word.TAKEN, Word.REFUSED], False, Handover.HELD),
        ([Word.UNREACHED, Word.TAKEN], True, Handover.HELD),
        ([Word.UNREACHED, Word.UNREACHED], False, Handover.REFUSED),
        ([Word.UNREACHED], True, Handover.MAYBE),
        ([Word.UNREACHED, Word.UNSURE], False, Handover.MAYBE),
        ([Word.REFUSED], False, Handover.MAYBE),
        ([Word.REFUSED, Word.UNREACHED], False, Handover.MAYBE),
        ([], False, Handover.MAYBE),
    ],
)
def test_txl_20_what_any_relay_may_have_seen_counts_as_sent_whatever_it_says(
    said: list[Word], may_have_left: bool, handover: Handover
):
    answers = [RelayAnswer(f"relay-{place}", word) for place, word in enumerate(said)]
    assert judge_private(answers, HIDDEN, may_have_left=may_have_left).handover is handover


def test_what_a_relay_has_already_is_known_to_it_and_not_dropped():
    accepted = replace(HIDDEN, state=AttemptState.ACCEPTED)
    answers = [RelayAnswer("relay-1", Word.TAKEN)]
    assert judge_private(answers, accepted, may_have_left=True).handover is Handover.KNOWN


def test_what_was_shown_after_all_is_public_and_the_journal_still_tells_until_when_it_was_hidden():
    now = after(HIDDEN, Delivery(Handover.HELD, is_unhidden=True))
    assert (now.route, now.expires_block, now.state) == (Route.PUBLIC, 4, AttemptState.ACCEPTED)
