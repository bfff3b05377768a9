"""Mined but reverted: the race that was lost, every form of a reason, gas that ran out, a position that was repaid."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.outcome import Reason, Result
from keeper.protocols.aave_v3 import calls as aave
from keeper.protocols.compound_v2 import calls as compound
from keeper.protocols.morpho_blue import calls as morpho
from keeper.protocols.perp_curie import calls as perp
from tests.faults.world import POLICY, Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB

ERROR = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")
LONGEST = 256


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as scene:
        yield scene


def text(message: bytes) -> bytes:
    """Return what `require(false, message)` reverts with."""
    padded = message + bytes(-len(message) % 32)
    return ERROR + (32).to_bytes(32) + len(message).to_bytes(32) + padded


def reverting(data: bytes) -> bytes:
    """Return code that reverts with data, which lies behind the code."""
    size = len(data).to_bytes(3)
    return b"\x62" + size + b"\x60\x10\x5f\x39" + b"\x62" + size + b"\x5f\xfd" + bytes(2) + data


FOREVER = bytes.fromhex("5b5f56")
"""Code that ends when the gas does."""


def counting(rounds: int) -> bytes:
    """Return code that calls itself to count to a number (26 gas each), and reverts where that fails."""
    outer = "3615601557" + "5f5f5f5f5f305af1" + "601357" + "5f5ffd" + "5b00"
    return bytes.fromhex(outer + "5b62" + rounds.to_bytes(3).hex() + "5b600190038060" + "1a5700")


async def test_txl_15_a_revert_behind_a_rival_is_a_lost_race(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.rival_takes(ALICE)
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.LOST, Reason.LOST_RACE)
        assert outcome.gas_cost_wei > 0
    await scene.check()


async def test_txl_15_a_revert_of_a_position_that_is_there_is_no_lost_race(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.set_code(reverting(text(b"35")))
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        assert outcome.reason is not Reason.LOST_RACE
    await scene.check()


REASONS = {
    "text": (text(b"anything at all"), "anything at all"),
    "panic": (PANIC + (0x11).to_bytes(32), "0x11"),
    "custom": (bytes.fromhex("deadbeef") + bytes(64), "deadbeef"),
    "junk": (b"\xff\x00\x1b[31m\n" + bytes(range(200)), None),
    "nothing": (b"", None),
    "huge": (text(b"A" * 20_000), "AAAA"),
    "a lie about its length": (ERROR + (2**255).to_bytes(32) + (2**255).to_bytes(32), None),
}


@pytest.mark.parametrize("kind", REASONS)
async def test_txl_16_any_reason_on_the_chain_becomes_a_short_clean_text(scene: Scene, kind: str) -> None:
    data, shown = REASONS[kind]
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.set_code(reverting(data))
        await one.mine()
        (verdict,) = await one.submit(BOB)  # the simulation meets the same
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        for told in (outcome.detail, verdict.detail):  # type: ignore[union-attr]
            assert len(told) <= LONGEST
            assert told.isprintable()
            assert shown is None or shown in told
    await scene.check()


@given(
    data=st.one_of(
        st.binary(max_size=300), st.binary(max_size=300).map(text), st.binary(max_size=64).map(PANIC.__add__)
    )
)
def test_txl_16_no_data_breaks_any_protocols_decoder(data: bytes) -> None:
    for calls in (aave, compound, morpho, perp):
        reason, told = calls.decode_revert(data)
        assert isinstance(reason, Reason)
        assert len(told) <= LONGEST
        assert told.isprintable()


async def test_txl_17_gas_that_runs_out_is_named_so(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.set_code(FOREVER)
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason, outcome.detail) == (Result.REVERTED, Reason.REVERTED, "out of gas")
    await scene.check()


async def test_txl_17_gas_that_runs_out_inside_with_the_last_part_kept_back_is_named_so_too(scene: Scene) -> None:
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.set_code(counting(4_000))
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        assert outcome.detail.startswith("out of gas inside")
    await scene.check()


async def test_txl_17_the_limit_leaves_room_above_the_simulation_and_no_replacement_lowers_it(scene: Scene) -> None:
    async with scene.keeper(POLICY) as one:
        await one.sent(ALICE)
        for fee in (30, 60):
            await one.mine(base_fee_gwei=fee)
        limits = {each.fields["gas"] for each in scene.arrivals}
        assert len({each.tx_hash for each in scene.arrivals}) == 3
        assert len(limits) == 1
        await one.until_over()
        assert one.results == [Result.WON]
        used = int((await scene.world.cheat("eth_getTransactionReceipt", await scene.last_hash()))["gasUsed"], 16)
        assert 4 * min(limits) >= 5 * used
    await scene.check()


async def test_txl_18_a_position_that_is_repaid_before_inclusion_costs_no_more_than_was_bid(scene: Scene) -> None:
    before = await scene.balance()
    async with scene.keeper() as one:
        await one.sent(ALICE)
        await scene.set_liquidatable(ALICE, wanted=False)
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert (outcome.result, outcome.reason) == (Result.REVERTED, Reason.NOT_LIQUIDATABLE)
    (seen, *_) = scene.arrivals
    assert 0 < outcome.gas_cost_wei <= seen.fields["gas"] * seen.fields["maxFeePerGas"]
    assert await scene.balance() == before - outcome.gas_cost_wei
    await scene.check()
