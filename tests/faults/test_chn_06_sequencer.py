"""A rollup's sequencer that was down: what its market's sentinel protects is left alone until the grace period is over."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from keeper.devnet.chain import DevChain
from keeper.devnet.positions import PositionSpec, open_positions, owner_address
from keeper.devnet.sentinel import set_price_oracle_sentinel
from tests.faults.process import GENERATION, Stage, stage_of
from tests.faults.program import Program
from tests.faults.recovery import Recovery

GRACE_S: Final = 600
SIZES: Final = (5, 20, 10)
"""In WETH, of the positions that will be nearly healthy: the best is neither the first nor the last."""
FALLEN_USD: Final = 2_850 * 10**8
WITHIN_BLOCKS: Final = 2


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage_of(tmp_path) as stage:
        yield stage


@asynccontextmanager
async def mining(chain: DevChain) -> AsyncIterator[None]:
    """Mine a block for every transaction meanwhile."""
    await chain.set_automine(True)
    try:
        yield
    finally:
        await chain.set_automine(False)


async def opened(stage: Stage) -> list[str]:
    """Open positions whose health will be between 0.95 and 1 once WETH has fallen; return the owners as logged."""
    specs = [
        PositionSpec(
            owner=owner_address(77_000 + size),
            supplies={"WETH": size * 10**18},
            borrows={"USDC": 2_400 * size * 10**6},
        )
        for size in SIZES
    ]
    owners = await open_positions(stage.devnet.markets[GENERATION], specs)
    return [owner.lower() for owner in owners]


def decisions(keeper: Program, kind: str, accounts: list[str]) -> list[dict[str, Any]]:
    """Return what was decided about accounts."""
    return [line for line in keeper.events(f"decision.{kind}") if line["account"].lower() in accounts]


async def seen_heads(stage: Stage, keeper: Program, number: int) -> None:
    """Mine blocks until so many more passes were made."""
    wanted = len(keeper.events("chain.head")) + number
    await stage.until(keeper, lambda log: len(log.events("chain.head")) >= wanted)


async def test_chn_06_after_the_sequencer_is_back_the_grace_period_is_waited_out_and_the_best_is_taken_first(
    stage: Stage, recovery: Recovery
) -> None:
    chain, market = stage.devnet.chain, stage.devnet.markets[GENERATION]
    async with mining(chain):
        sentinel = await set_price_oracle_sentinel(market, stage.devnet.packages, grace_period_s=GRACE_S)
    owners = await opened(stage)
    with stage.daemon() as keeper:
        await keeper.seen("chain.head")
        async with mining(chain):
            now_s = int((await chain.header())["timestamp"], 16)
            await sentinel.set_sequencer(is_down=True, since_s=now_s)
        await market.set_prices({"WETH": FALLEN_USD})
        await seen_heads(stage, keeper, 2)
        assert {line["reason"] for line in decisions(keeper, "skipped", owners)} == {"sentinel"}

        async with mining(chain):
            back_s = int((await chain.header())["timestamp"], 16)
            await sentinel.set_sequencer(is_down=False, since_s=back_s)
        assert not await sentinel.is_liquidation_allowed()
        await seen_heads(stage, keeper, 3)
        held = decisions(keeper, "skipped", owners)
        assert {line["account"].lower() for line in held} == set(owners)
        assert {line["reason"] for line in held} == {"sentinel"}
        assert decisions(keeper, "accepted", owners) == []

        await chain.increase_time(GRACE_S + 1)
        await chain.mine()
        over = await chain.block_number()
        await keeper.wait_for(lambda log: len(decisions(log, "accepted", owners)) == len(owners))
        accepted = {line["plan_id"]: line for line in decisions(keeper, "accepted", owners)}
        assert all(line["block"] - over < WITHIN_BLOCKS for line in accepted.values())
        await stage.until_quiet(keeper)
        nonces = {line["plan_id"]: line["nonce"] for line in keeper.events("intent.created")}
        in_turn = [accepted[plan]["account"].lower() for plan in sorted(accepted, key=lambda plan: nonces[plan])]
        assert in_turn == [owners[SIZES.index(size)] for size in sorted(SIZES, reverse=True)]
        assert {line["plan_id"] for line in keeper.events("liquidation.won")} >= accepted.keys()
        assert await keeper.stop() == 0
    await stage.check()
    recovery("CHN-06", blocks=max(line["block"] - over for line in accepted.values()))
