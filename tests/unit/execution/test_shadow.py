"""Shadow mode: everything but the key, and a score by what the chain did."""

from pathlib import Path

import pytest

from keeper.domain.outcome import Reason
from keeper.domain.units import Address
from keeper.execution.shadow import Rank, Score, ShadowSender
from keeper.execution.verdicts import Skipped
from tests.unit.execution.desk import ALICE, BOB, FEES, new_chain
from tests.unit.execution.fake_chain import RIVAL, FakeChain, Wire, batch_of, markets, plan_of


def shadow(chain: FakeChain) -> tuple[ShadowSender, list[Score]]:
    scores: list[Score] = []
    sender = ShadowSender(
        network=Wire(chain),
        sender=chain.signer,
        markets=markets(),
        fees=FEES,
        deliver=scores.append,
        score_after_blocks=3,
    )
    return sender, scores


async def test_every_plan_is_simulated_and_none_is_sent(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    sender, _ = shadow(chain)
    await sender.recover(chain.head)
    good, bad = await sender.submit(batch_of(chain, plan_of(chain, ALICE), plan_of(chain, BOB)))
    assert isinstance(good, Skipped)
    assert isinstance(bad, Skipped)
    assert good.reason is Reason.SHADOW_MODE
    assert bad.reason is Reason.NOT_LIQUIDATABLE
    assert "broadcast" not in chain.requests
    assert sender.in_flight == frozenset()
    assert await sender.drain(10) == frozenset()


@pytest.mark.parametrize(
    ("at_block", "rank", "rival"),
    [(1, Rank.SAME_BLOCK, RIVAL), (2, Rank.FIRST, RIVAL), (3, Rank.FIRST, RIVAL), (0, Rank.NOBODY, None)],
)
async def test_a_plan_is_scored_once_by_what_the_chain_did(
    tmp_path: Path, at_block: int, rank: Rank, rival: Address | None
):
    chain = new_chain(tmp_path, ALICE)
    sender, scores = shadow(chain)
    plan = plan_of(chain, ALICE)
    await sender.submit(batch_of(chain, plan))
    for block in range(1, 6):
        head = chain.mine(rivals=[ALICE] if block == at_block else [])
        await sender.on_head(head, chain.taken_at(head))
        if block < 2:
            await sender.submit(batch_of(chain, plan_of(chain, ALICE)))
    first = scores[0]
    assert (first.plan_id, first.rank, first.rival) == (plan.id, rank, rival)
    assert first.profit_base == 100 * 10**8
    assert first.gas_cost_wei > 0
    assert [score.rank for score in scores].count(Rank.NOBODY) == (rank is Rank.NOBODY)


async def test_a_network_that_fails_skips_the_plans(tmp_path: Path):
    chain = new_chain(tmp_path, ALICE)
    wire = Wire(chain)
    wire.fail.add("funds")
    sender = ShadowSender(
        network=wire, sender=chain.signer, markets=markets(), fees=FEES, deliver=lambda _: None, score_after_blocks=3
    )
    (verdict,) = await sender.submit(batch_of(chain, plan_of(chain, ALICE)))
    assert isinstance(verdict, Skipped)
    assert verdict.reason is Reason.SIMULATION_FAILED
