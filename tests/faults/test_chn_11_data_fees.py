"""Rollups that charge for data, in native currency or in gas: both are in the profit, and their own refusals are understood."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.chain.data_gas import data_gas
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address
from keeper.errors import Transient
from keeper.execution.network import RpcNetwork
from tests.faults.gated import process, refusing, relenting
from tests.faults.recovery import Recovery
from tests.faults.world import Scene, scene_of
from tests.unit.execution.desk import ALICE, BOB

ARBITRUM = Address(bytes(19) + b"\xc8")
ARBITRUM_CODE = bytes.fromhex(
    "5f3560e01c6377d488a2146011575f5ffd5b"  # gasEstimateL1Component, or revert
    "606435" + "5f54" + "01"  # the data's length, and what is stored
    "5f52" + "60605ff3"  # three words
)
OPTIMISM = Address(b"\x42" + bytes(18) + b"\x0f")
OPTIMISM_CODE = bytes.fromhex("5f3560e01c6349948e0e146011575f5ffd5b" + "5f545f52" + "60205ff3")
"""getL1Fee: what is stored."""


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3", views=2) as found:
        for address, code in ((ARBITRUM, ARBITRUM_CODE), (OPTIMISM, OPTIMISM_CODE)):
            await found.world.cheat("anvil_setCode", "0x" + address.hex(), "0x" + code.hex())
        yield found


async def charge(scene: Scene, oracle: Address, amount: int) -> None:
    """Let an oracle tell an amount from the next block on."""
    await scene.world.cheat("anvil_setStorageAt", "0x" + oracle.hex(), "0x" + bytes(32).hex(), f"0x{amount:064x}")
    await scene.block(base_fee_gwei=1)


async def test_chn_11_the_gas_for_data_is_asked_in_the_contracts_own_words(scene: Scene) -> None:
    await charge(scene, ARBITRUM, 1_000)
    head = await scene.head()
    calls = [Call(ALICE, b""), Call(BOB, bytes(5)), Call(BOB, b"\xff" * 333)]
    assert await data_gas(scene.rpc, ARBITRUM, calls, head) == (1_000, 1_005, 1_333)
    assert await RpcNetwork(scene.rpc).data_gas(calls, head) == [0, 0, 0]
    with pytest.raises(Transient):
        await RpcNetwork(scene.rpc, data_gas_oracle=OPTIMISM).data_gas(calls, head)  # it refuses
    await scene.world.cheat("anvil_setCode", "0x" + OPTIMISM.hex(), "0x60205ff3")  # one word, whatever is asked
    await scene.block()
    with pytest.raises(Transient):
        await RpcNetwork(scene.rpc, data_gas_oracle=OPTIMISM).data_gas(calls, await scene.head())


async def test_chn_11_the_gas_for_data_is_in_the_limit_that_is_sent(scene: Scene) -> None:
    await charge(scene, ARBITRUM, 20_000)
    async with process(scene, data_gas_oracle=ARBITRUM) as one:
        await one.sent(ALICE)
        laden = scene.arrivals[-1].fields["gas"]
        await one.mine(3, base_fee_gwei=1)
    async with process(scene) as other:
        await scene.set_liquidatable(ALICE)
        await other.sent(ALICE)
        plain = scene.arrivals[-1].fields["gas"]
        await other.mine(3, base_fee_gwei=1)
    assert laden == plain + (20_000 + len(b"liq!") + 20) * 3 // 2
    await scene.check()


@pytest.mark.parametrize(
    ("oracle", "amount"), [(ARBITRUM, 300_000), (OPTIMISM, 4 * 10**14)], ids=["in gas", "in native currency"]
)
async def test_chn_11_data_ten_times_as_dear_as_when_it_was_planned_makes_it_unprofitable(
    scene: Scene, oracle: Address, amount: int, recovery: Recovery
) -> None:
    await charge(scene, oracle, amount)
    where = {"data_gas_oracle" if oracle == ARBITRUM else "data_fee_oracle": oracle}
    async with process(scene, **where) as one:  # type: ignore[arg-type]
        await charge(scene, oracle, 10 * amount)
        verdict = await one.skipped(ALICE, profit_usd=4)
        assert verdict.reason is Reason.UNPROFITABLE
        assert scene.arrivals == []
        await charge(scene, oracle, amount)
        await one.sent(ALICE, profit_usd=4)
        await one.mine(3, base_fee_gwei=1)
        assert one.results == [Result.WON]
    await scene.check()
    recovery("CHN-11", blocks=1)


async def test_chn_11_a_transfer_that_takes_a_nonce_back_has_gas_for_its_data(scene: Scene) -> None:
    await charge(scene, ARBITRUM, 40_000)
    async with process(scene, data_gas_oracle=ARBITRUM) as one:
        await one.sent(ALICE)
        await scene.set_liquidatable(ALICE, wanted=False)
        await one.mine(2, base_fee_gwei=50)
        await one.mine(4, base_fee_gwei=1)
        assert one.results == [Result.CANCELLED]
    transfers = [each.fields["gas"] for each in scene.arrivals if not each.fields["data"]]
    assert set(transfers) == {21_000 + 60_000}
    await scene.check()


@pytest.mark.parametrize("words", ["sequencer pending tx pool full, please try again", "queue full"])
async def test_chn_11_a_sequencer_that_is_full_gets_the_same_bytes_again(scene: Scene, words: str) -> None:
    async with process(scene) as one:
        refusing(scene, words)
        sent = await one.sent(ALICE)  # a node may have it all the same
        await one.mine(base_fee_gwei=1)
        relenting(scene)
        await one.mine(4, base_fee_gwei=1)
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash is not None
        assert sent.nonce == 0
    assert {each.nonce for each in scene.arrivals} == {0}
    await scene.check()


@pytest.mark.parametrize(
    "words",
    [
        "max fee per gas less than block base fee: address 0x…, maxFeePerGas: 1 baseFee: 2",
        "gas price below minimum",
    ],
)
async def test_chn_11_a_fee_too_low_for_the_sequencer_gives_the_nonce_back(scene: Scene, words: str) -> None:
    async with process(scene) as one:
        refusing(scene, words)
        assert (await one.skipped(ALICE)).reason is Reason.BROADCAST_FAILED
        relenting(scene)
        await scene.world.cheat("anvil_setBlockTimestampInterval", 12)
        await one.mine(2, base_fee_gwei=1)
        assert (await one.sent(ALICE)).nonce == 0
        await one.mine(3, base_fee_gwei=1)
        assert one.results == [Result.WON]
    await scene.check()
