"""Chains that stall, cost nothing, jump in time and grow new fields: CHN-05, CHN-08, CHN-09 and CHN-10 at the network door."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from keeper.chain.failures import NodeFailure
from keeper.chain.heads import Heads
from keeper.chain.rpc import Rpc
from keeper.chain.transactions import fee_history, receipt_of, receipts
from keeper.chain.turns import Priority
from keeper.chain.view import latest_head
from keeper.domain.chain import BlockHead
from keeper.domain.units import TxHash
from tests.faults import rules
from tests.faults.node import CHAIN_ID, World, world_of
from tests.faults.recovery import Recovery
from tests.unit.chain.fake_node import eventually


@dataclass
class ShiftedClock:
    """The machine's clock, with what the tests skip, and a wall clock that is wrong."""

    ahead_s: float = 0.0
    wrong_s: float = 0.0

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_s

    def unix_s(self) -> float:
        return time.time() + self.wrong_s


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with world_of(1) as found:
        yield found


@asynccontextmanager
async def followed(world: World, clock: ShiftedClock, poll_interval_s: float = 0.05) -> AsyncIterator[list[BlockHead]]:
    rpc = Rpc([view.node() for view in world.views], clock=clock, observer=world.watcher)
    world.pools.append(rpc)
    await rpc.start(CHAIN_ID)
    seen: list[BlockHead] = []

    async def follow() -> None:
        async with Heads(rpc, poll_interval_s=poll_interval_s) as heads:
            async for head in heads:
                seen.append(head)  # noqa: PERF401 - each is seen as it comes

    task = asyncio.create_task(follow())
    await eventually(lambda: bool(seen))
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def step(world: World, seen: list[BlockHead]) -> BlockHead:
    """Mine a block and wait until it is handed out."""
    number = await world.mine()
    await eventually(lambda: seen[-1].number == number)
    return seen[-1]


async def test_chn_05_a_stalled_chain_is_polled_at_its_pace_told_once_and_followed_again(
    world: World, recovery: Recovery
) -> None:
    clock = ShiftedClock()
    async with followed(world, clock, poll_interval_s=0.2) as seen:
        await step(world, seen)
        world.views[0].forget()
        await asyncio.sleep(2)
        assert len(world.views[0].posts) <= 14  # five a second; a slow machine makes fewer
        clock.ahead_s = 7_200.0
        await eventually(lambda: bool(world.watcher.named("chain.stalled")))
        await asyncio.sleep(1)
        assert len(world.watcher.named("chain.stalled")) == 1
        begun_s = time.monotonic()
        await step(world, seen)
        recovery("CHN-05", blocks=0, seconds=time.monotonic() - begun_s)


@pytest.mark.parametrize("gas_limit", [30_000_000, 2**53])
async def test_chn_08_blocks_without_a_base_fee_or_transactions_and_with_a_huge_gas_limit_are_read(
    world: World, gas_limit: int
) -> None:
    rpc = await world.pool()
    await world.cheat("evm_setBlockGasLimit", hex(gas_limit))
    for _ in range(3):
        await world.cheat("anvil_setNextBlockBaseFeePerGas", "0x0")
        await world.mine()
    head = await latest_head(rpc)
    assert head.base_fee_wei == 0
    assert head.gas_limit == gas_limit
    found = await fee_history(rpc, blocks=3, percentiles=[50], newest=head.number)
    assert found.base_fees_wei[:3] == (0, 0, 0)
    assert found.fullness_bps == (0, 0, 0)


async def test_chn_08_a_chain_without_base_fees_at_all_is_read(world: World) -> None:
    rpc = await world.pool()

    def old(_call: Any, block: Any) -> Any:
        return {key: value for key, value in block.items() if key != "baseFeePerGas"}

    world.views[0].add(rules.lie("eth_getBlockByNumber", old))
    assert (await latest_head(rpc)).base_fee_wei == 0


@pytest.mark.parametrize("wrong_s", [-600.0, 600.0])
async def test_chn_09_a_wrong_clock_here_or_a_jump_of_the_chains_clock_loses_no_head(
    world: World, wrong_s: float
) -> None:
    async with followed(world, ShiftedClock(wrong_s=wrong_s)) as seen:
        for jump_s in (0, 15, 3_600, 0, 1):
            before = seen[-1]
            if jump_s:
                await world.chain.increase_time(jump_s)
            head = await step(world, seen)
            assert head.timestamp_s >= before.timestamp_s + jump_s
        numbers = [head.number for head in seen]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))


NEW: Final = {
    "type": "0x7e",
    "depositNonce": "0x1",
    "l1GasUsed": "0x10",
    "aFieldOfTheNextFork": {"deeply": [{"unknown": None}]},
    "authorizationList": [],
    "blobGasUsed": "0x20000",
    "timeboosted": True,
}


async def test_chn_10_unknown_fields_and_types_are_ignored(world: World) -> None:
    rpc = await world.pool()
    await world.emit(b"\x01")
    block = await world.chain.header()
    tx_hash = TxHash(bytes.fromhex(block["transactions"][0][2:]))
    plain = (await receipts(rpc, [tx_hash]))[tx_hash]
    head = await latest_head(rpc)
    world.views[0].add(
        rules.lie("eth_getTransactionReceipt", lambda _call, receipt: {**receipt, **NEW}),
        rules.lie("eth_getBlockByNumber", lambda _call, header: {**header, **NEW, "requestsHash": None}),
    )
    assert (await receipts(rpc, [tx_hash]))[tx_hash] == plain
    assert await latest_head(rpc) == head


@pytest.mark.parametrize("missing", ["status", "blockHash", "blockNumber", "gasUsed", "logs", "transactionHash"])
async def test_chn_10_a_receipt_without_what_decides_is_refused(world: World, missing: str) -> None:
    rpc = await world.pool()
    await world.emit(b"\x01")
    block = await world.chain.header()
    tx_hash = TxHash(bytes.fromhex(block["transactions"][0][2:]))

    def less(_call: Any, receipt: Any) -> Any:
        return {key: value for key, value in receipt.items() if key != missing}

    world.views[0].add(rules.lie("eth_getTransactionReceipt", less))
    with pytest.raises(NodeFailure):
        await rpc.endpoints[0].ask(
            [("eth_getTransactionReceipt", ("0x" + tx_hash.hex(),))],
            lambda found: receipt_of(found[0], tx_hash),
            priority=Priority.RECEIPT,
            timeout_s=10,
        )
