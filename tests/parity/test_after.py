"""What a liquidation leaves of a position, as the programs foresee it, against the genuine contracts, to the scaled unit."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from keeper.devnet.devnet import DevnetSpec, cached_devnet
from keeper.devnet.market import Generation
from keeper.devnet.packages import default_cache_dir
from keeper.domain.units import Address
from keeper.protocols.aave_v3 import calls as aave_calls
from keeper.protocols.aave_v3 import programs as aave_programs
from keeper.protocols.aave_v3 import rules as aave_rules
from keeper.protocols.aave_v3.reader import AaveReader
from keeper.protocols.compound_v2 import calls as compound_calls
from keeper.protocols.compound_v2 import programs as compound_programs
from keeper.protocols.compound_v2 import rules as compound_rules
from tests.parity.aave_desk import AaveDesk
from tests.parity.desk import address
from tests.parity.venus_desk import LANDING_S, Saved, VenusDesk, build, opened

ACCOUNTS = 250
SPEC = DevnetSpec(n_positions=ACCOUNTS, seed=23, hf_range=(1.005, 1.4))
CRASH = {"WETH": 2_300, "wstETH": 2_800, "WBTC": 67_000, "LINK": 13, "USDT": 0.93}


@pytest.fixture(params=["3.0", "3.6"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[AaveDesk]:
    generation = cast("Generation", request.param)
    async with cached_devnet(default_cache_dir(), replace(SPEC, generations=(generation,))) as devnet:
        yield AaveDesk(devnet.markets[generation])


async def crash(desk: AaveDesk | VenusDesk) -> None:
    known = desk.market.reserves
    await desk.market.set_prices({name: int(price * 10**8) for name, price in CRASH.items() if name in known})


@pytest.mark.timeout(200)
async def test_aave_leaves_of_a_position_what_is_foreseen_to_the_scaled_unit(desk: AaveDesk):
    reader = AaveReader("aave", address(desk.market.provider), address(desk.market.reserves["WETH"].token))
    await reader.discover(await desk.reads())
    await desk.open()
    await desk.pass_time(5 * 3_600)
    await crash(desk)
    compared = second = 0
    for key in sorted(reader.named(await desk.logs(reader.discovery_filter, desk.market.from_block)))[:160]:
        reads = await desk.reads()
        snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [key])
        landing = reads.head.landing(LANDING_S)
        for opportunity in aave_rules.assess(position, snapshot, landing, None).opportunities[:1]:
            expected = aave_programs.after(position, snapshot, opportunity)
            await desk.chain.set_next_timestamp(landing.time_s)
            assert (await desk.send(aave_calls.liquidation(opportunity)))["status"] == "0x1"
            (left,) = await reader.positions(await desk.reads(), [key])
            if expected is None:
                health = aave_rules.health(left, snapshot, landing)
                assert not left.has_debt or not health.collateral_base
                continue
            held, owed = dict(left.collateral), dict(left.debt)
            assert {each: scaled for each, scaled in held.items() if scaled} == dict(expected.collateral)
            assert owed == dict(expected.debt)
            compared += 1
            second += bool(aave_rules.assess(expected, snapshot, landing, None).opportunities)
    assert compared >= 20
    assert second >= 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder: Path = tmp_path_factory.mktemp("venus")
    return build(folder, 160, 29, (1.005, 1.1))


@pytest.mark.timeout(300)
async def test_venus_leaves_of_a_position_what_is_foreseen_to_the_unit(saved: Saved):
    async with opened(saved) as desk:
        reader = await desk.discovered()
        await desk.chain.mine(5)
        await crash(desk)
        compared = second = 0
        for key in await desk.borrowers(reader):
            reads = await desk.reads()
            snapshot, (position,) = await reader.snapshot(reads), await reader.positions(reads, [key])
            landing = reads.head.landing(LANDING_S)
            found = compound_rules.assess(position, snapshot, landing, None).opportunities
            foreseen = ((each, compound_programs.after(position, snapshot, each)) for each in found)
            # a debt in VAI is not followed, and a position that has nothing left on one side is not foreseen
            for opportunity, expected in [each for each in foreseen if each[1] is not None][:1]:
                assert expected is not None
                assert (await desk.send(compound_calls.liquidation(opportunity)))["status"] == "0x1"
                again = await desk.reads()
                fresh, (left,) = await reader.snapshot(again), await reader.positions(again, [key])
                touched = {Address(opportunity.terms), opportunity.seize.address}
                for mine, theirs in zip(expected.entries, left.entries, strict=True):
                    token = fresh.tokens[theirs.token]
                    assert (mine.token, mine.receipts) == (theirs.token, theirs.receipts)
                    if token.receipt.address in touched:
                        known = next(each for each in position.entries if each.token == mine.token)
                        assert mine.index == theirs.index
                        assert 0 <= theirs.debt - mine.debt <= known.uncertainty(mine.index)
                compared += 1
                second += bool(compound_rules.assess(expected, snapshot, landing, None).opportunities)
        assert compared >= 20
        assert second >= 1
