"""The network door against a real node: heads, reorganisations, logs, pinned reads, simulation, sending."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from eth_account import Account

from keeper.chain.ancestry import Ancestry
from keeper.chain.backfill import scan_range
from keeper.chain.capability import probe
from keeper.chain.endpoint import nodes_of
from keeper.chain.heads import Heads
from keeper.chain.logs import BlockLogs
from keeper.chain.phrases import SendVerdict
from keeper.chain.reads import PinnedReads, ReadLimits
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import call_alone, simulate
from keeper.chain.transactions import fee_history, funds, nonces, receipts
from keeper.chain.view import latest_head
from keeper.chain.web3_door import web3_through
from keeper.devnet.chain import DevChain
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.chain import BlockHead, Call, Log, LogFilter, ViewCall
from keeper.domain.units import Address
from keeper.errors import Stale

CHAIN_ID = 31_337
COUNTER = Address(b"\xc0" * 20)
REVERTER = Address(b"\xde" * 20)
GLUTTON = Address(b"\x6a" * 20)
INVALID = Address(b"\xfe" * 20)
EVENT = b"\xaa" * 32
WANTED = LogFilter(frozenset({COUNTER}), frozenset({EVENT}))
# With calldata: store the block number and log it under EVENT. Without: return what is stored.
COUNTER_CODE = "0x" + (
    "36600d57" + "5f545f5260205ff3" + "00" + "5b" + "435f55" + "435f52" + "7f" + EVENT.hex() + "60205fa1" + "00"
)
REVERTER_CODE = "0x60aa5f5260205ffd"
GLUTTON_CODE = "0x5b5f56"  # JUMPDEST PUSH0 JUMP: for ever
INVALID_CODE = "0xfe"  # which takes all gas at once
KEY = "0x" + "11" * 32
SENDER = Account.from_key(KEY)


class RealClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()


class Counting:
    """An observer that counts what was asked."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def request(self, *, node: str, method: str, result: str, seconds: float, requests: int) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1

    def event(self, name: str, /, **fields: object) -> None:
        """Ignore an event."""


@pytest_asyncio.fixture
async def node() -> AsyncIterator[Anvil]:
    packages = ensure_packages(default_cache_dir(), print)
    async with Anvil(find_anvil(packages), AnvilOptions()) as running:
        async with DevChain(running.http_url) as chain:
            await deploy_multicall3(chain, packages)
            for address, code in (
                (COUNTER, COUNTER_CODE),
                (REVERTER, REVERTER_CODE),
                (GLUTTON, GLUTTON_CODE),
                (INVALID, INVALID_CODE),
            ):
                await chain.rpc("anvil_setCode", "0x" + address.hex(), code)
            await chain.rpc("anvil_setBalance", SENDER.address, hex(10**20))
            await chain.rpc("anvil_mine", "0x5")
        yield running


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest_asyncio.fixture
async def rpc(node: Anvil, counting: Counting) -> AsyncIterator[Rpc]:
    started = Rpc(nodes_of([node.http_url]), clock=RealClock(), observer=counting)
    await started.start(CHAIN_ID)
    yield started
    await started.close()
    await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def pushed(node: Anvil, counting: Counting) -> AsyncIterator[Rpc]:
    """A pool that also subscribes."""
    started = Rpc(nodes_of([node.http_url, node.ws_url]), clock=RealClock(), observer=counting)
    await started.start(CHAIN_ID)
    yield started
    await started.close()
    await asyncio.sleep(0.01)


async def count_up(rpc: Rpc) -> BlockHead:
    """Mine a block in which the counter logs."""
    sender = (await rpc.call("eth_accounts"))[0]
    before = await latest_head(rpc)
    await rpc.call(
        "eth_sendTransaction", [{"from": sender, "to": "0x" + COUNTER.hex(), "data": "0x01", "gas": "0x186a0"}]
    )
    async with asyncio.timeout(10):
        return await newer_head(rpc, before)


async def newer_head(rpc: Rpc, before: BlockHead) -> BlockHead:
    head = await latest_head(rpc)
    return head if head.number > before.number else await newer_head(rpc, before)


async def followed(heads: Heads, count: int) -> list[BlockHead]:
    async with asyncio.timeout(60):
        return [await anext(heads) for _ in range(count)]


async def test_polling_follows_a_steady_chain_with_about_one_request_per_head(rpc: Rpc, counting: Counting) -> None:
    await rpc.call("evm_setIntervalMining", [1])
    async with Heads(rpc, poll_interval_s=0.1) as heads:
        await followed(heads, 4)
        counting.calls.clear()
        found = await followed(heads, 10)
    numbers = [head.number for head in found]
    assert numbers == list(range(numbers[0], numbers[0] + 10))
    assert counting.calls["eth_getBlockByNumber"] <= 30


async def test_a_subscription_follows_a_steady_chain_without_polls(pushed: Rpc, counting: Counting) -> None:
    await pushed.call("evm_setIntervalMining", [1])
    async with Heads(pushed, poll_interval_s=1) as heads:
        await followed(heads, 3)
        counting.calls.clear()
        found = await followed(heads, 5)
    assert [head.number for head in found] == list(range(found[0].number, found[0].number + 5))
    assert counting.calls.get("eth_getBlockByNumber", 0) <= 1


async def test_a_node_that_freezes_and_thaws_is_followed_again(node: Anvil, pushed: Rpc) -> None:
    await pushed.call("evm_setIntervalMining", [1])
    async with Heads(pushed, poll_interval_s=0.5) as heads:
        before = (await followed(heads, 2))[-1]
        os.kill(node.pid, signal.SIGSTOP)
        await asyncio.sleep(3)
        os.kill(node.pid, signal.SIGCONT)
        after = (await followed(heads, 3))[-1]
    assert after.number > before.number


@pytest.mark.parametrize("depth", [1, 2, 7])
@pytest.mark.parametrize("source", ["rpc", "pushed"])
async def test_a_reorganisation_is_seen_and_named_by_either_source(
    depth: int, source: str, request: pytest.FixtureRequest, rpc: Rpc, pushed: Rpc
) -> None:
    chosen = pushed if source == "pushed" else rpc
    ancestry = Ancestry(chosen)
    async with Heads(chosen, poll_interval_s=0.05) as heads:
        ancestry.commit(await ancestry.extend((await followed(heads, 1))[0]))
        for _ in range(9):
            await count_up(rpc)
        tip = (await latest_head(rpc)).number
        ancestry.commit(await ancestry.extend(await reached(heads, tip)))
        await rpc.call("anvil_reorg", [depth, []])
        await rpc.call("anvil_mine", ["0x1"])
        orphaned: dict[int, BlockHead] = {}
        new: dict[int, BlockHead] = {}
        head = None
        while head is None or head.number < tip + 1:
            (head,) = await followed(heads, 1)
            note(await ancestry.extend(head), ancestry, orphaned, new)
    assert sorted(orphaned) == list(range(tip + 1 - depth, tip + 1))
    assert set(orphaned) < set(new)
    for number, block in new.items():
        raw = await rpc.call("eth_getBlockByNumber", [hex(number), False])
        assert raw["hash"] == "0x" + block.hash.hex()


async def reached(heads: Heads, number: int) -> BlockHead:
    while True:
        (head,) = await followed(heads, 1)
        if head.number >= number:
            return head


def note(extension: Any, ancestry: Ancestry, orphaned: dict[int, BlockHead], new: dict[int, BlockHead]) -> None:
    ancestry.commit(extension)
    for block in extension.orphaned:
        if block.number not in new:
            orphaned[block.number] = block
    new.update({block.number: block for block in extension.new})


async def test_logs_of_blocks_equal_those_of_a_range_scan(rpc: Rpc, counting: Counting) -> None:
    blocks = []
    for _ in range(5):
        blocks.append(await count_up(rpc))
        await rpc.call("anvil_mine", ["0x2"])
        blocks.append(await latest_head(rpc))
    reader = BlockLogs(rpc)
    by_hash = await reader.read(blocks, WANTED)
    assert [log.block_number for log in by_hash] == [block.number for block in blocks[::2]]
    by_range: list[Log] = []
    async for _, logs in scan_range(rpc, WANTED, 0, blocks[-1].number):
        by_range += logs
    assert by_range == by_hash
    counting.calls.clear()
    assert await reader.read(blocks[1::2], WANTED) == []
    assert counting.calls == {}


async def test_reads_are_of_the_block_they_are_pinned_to(rpc: Rpc) -> None:
    first = await count_up(rpc)
    second = await count_up(rpc)
    view = ViewCall(COUNTER, b"")
    for head in (first, second):
        reads = PinnedReads(rpc, head)
        value, failed, wei = await asyncio.gather(
            reads.many([view]), reads.many([ViewCall(REVERTER, b"")]), reads.native_balance(address_of(SENDER.address))
        )
        assert (value[0].ok, int.from_bytes(value[0].data)) == (True, head.number)
        assert (failed[0].ok, int.from_bytes(failed[0].data)) == (False, 0xAA)
        assert wei == 10**20
    await rpc.call("anvil_reorg", [1, []])
    await rpc.call("anvil_mine", ["0x1"])
    with pytest.raises(Stale):
        await PinnedReads(rpc, second).many([view])
    assert int.from_bytes((await PinnedReads(rpc, first).many([view]))[0].data) == first.number


def address_of(text: str) -> Address:
    return Address(bytes.fromhex(text[2:]))


async def test_views_that_burn_all_gas_spoil_no_other_and_cost_nothing_once_they_are_known(
    rpc: Rpc, counting: Counting
) -> None:
    limits, counter, glutton = ReadLimits(), ViewCall(COUNTER, b""), ViewCall(GLUTTON, b"")
    calls = [counter] * 3 + [glutton] + [counter] * 900
    for most in (30, 1):
        head = await count_up(rpc)
        counting.calls.clear()
        found = await PinnedReads(rpc, head, limits=limits).many(calls)
        assert [each.ok for each in found] == [True] * 3 + [False] + [True] * 900
        assert {int.from_bytes(each.data) for each in found if each.ok} == {head.number}
        assert counting.calls["eth_call"] <= most
        assert limits.silent == {glutton}
    invalid = ViewCall(INVALID, b"")
    for most in (40, 8):
        head = await count_up(rpc)
        counting.calls.clear()
        found = await PinnedReads(rpc, head, limits=limits).many([invalid, *calls])
        assert [each.ok for each in found] == [False] + [True] * 3 + [False] + [True] * 900
        assert counting.calls["eth_call"] <= most
        assert limits.silent == {glutton, invalid}


async def test_thousands_of_views_are_read_in_few_requests(rpc: Rpc, counting: Counting) -> None:
    head = await count_up(rpc)
    counting.calls.clear()
    found = await PinnedReads(rpc, head).many([ViewCall(COUNTER, b"")] * 5_000)
    assert {int.from_bytes(each.data) for each in found} == {head.number}
    assert counting.calls["eth_call"] <= 8


async def test_a_simulated_call_sees_the_number_of_the_block_in_which_it_would_land(rpc: Rpc) -> None:
    head = await count_up(rpc)
    told = await simulate(
        rpc, [Call(COUNTER, b"\x01")], sender=address_of(SENDER.address), head=head, at_s=head.timestamp_s + 12
    )
    assert told is not None
    assert told[0].logs is not None
    assert int.from_bytes(told[0].logs[0].data) == head.number + 1


async def test_simulated_calls_build_on_each_other_at_the_time_asked_for(rpc: Rpc) -> None:
    head = await count_up(rpc)
    sender = address_of(SENDER.address)
    calls = [Call(COUNTER, b"\x01"), Call(COUNTER, b""), Call(REVERTER, b"")]
    told = await simulate(rpc, calls, sender=sender, head=head, at_s=head.timestamp_s + 60)
    assert told is not None
    stored, read, failed = told
    assert stored.ok
    assert stored.logs is not None
    assert [(log.address, log.topics) for log in stored.logs] == [(COUNTER, (EVENT,))]
    assert read.data == stored.logs[0].data
    assert (failed.ok, int.from_bytes(failed.data)) == (False, 0xAA)
    alone = await call_alone(rpc, Call(COUNTER, b"\x01"), sender=sender, block_hash=head.hash)
    assert alone.ok
    assert alone.gas_used > 21_000
    assert not (await call_alone(rpc, Call(REVERTER, b""), sender=sender, block_hash=head.hash)).ok
    gone = BlockHead(**{**{name: getattr(head, name) for name in head.__slots__}, "hash": b"\x11" * 32})
    with pytest.raises(Stale):
        await simulate(rpc, calls, sender=sender, head=gone, at_s=head.timestamp_s)


def signed(nonce: int, *, max_fee: int = 10**10, tip: int = 10**9, value: int = 1) -> Any:
    fields = {
        "chainId": CHAIN_ID,
        "nonce": nonce,
        "to": "0x" + "12" * 20,
        "value": value,
        "gas": 21_000,
        "maxFeePerGas": max_fee,
        "maxPriorityFeePerGas": tip,
    }
    return SENDER.sign_transaction(fields)


async def test_what_the_node_says_of_a_transaction_is_understood(rpc: Rpc) -> None:
    await rpc.call("evm_setAutomine", [False])
    first = signed(0)
    sender = address_of(SENDER.address)
    accepted = await rpc.send_raw(bytes(first.raw_transaction))
    assert accepted.is_accepted
    assert accepted.tx_hash == bytes(first.hash)
    assert (await rpc.send_raw(bytes(first.raw_transaction))).verdict is SendVerdict.ALREADY_KNOWN
    assert (await receipts(rpc, [accepted.tx_hash]))[accepted.tx_hash] is None
    assert await nonces(rpc, sender) is not None
    cases = {
        SendVerdict.REPLACEMENT_UNDERPRICED: signed(0, value=2, max_fee=10**10, tip=10**9),
        SendVerdict.INSUFFICIENT_FUNDS: signed(1, value=10**24),
        SendVerdict.INVALID: None,
    }
    for verdict, each in cases.items():
        raw = b"\x02\xc0" if each is None else bytes(each.raw_transaction)
        assert (await rpc.send_raw(raw)).verdict is verdict
    await rpc.call("anvil_mine", ["0x1"])
    receipt = (await receipts(rpc, [accepted.tx_hash]))[accepted.tx_hash]
    assert receipt is not None
    assert (receipt.succeeded, receipt.gas_used) == (True, 21_000)
    assert (
        await rpc.send_raw(bytes(signed(0, value=3, max_fee=10**11).raw_transaction))
    ).verdict is SendVerdict.NONCE_TOO_LOW
    head = await latest_head(rpc)
    held = await funds(rpc, sender, head)
    assert (held.nonce, held.balance_wei) == (1, 10**20 - 1 - 21_000 * receipt.effective_gas_price_wei)
    history = await fee_history(rpc, blocks=2, percentiles=[50])
    assert history.base_fees_wei[-2] == head.base_fee_wei


async def test_the_node_can_do_what_decisions_need(rpc: Rpc) -> None:
    (facts,) = await probe(rpc)
    assert facts.chain_id == CHAIN_ID
    assert facts.client is not None
    assert facts.client.startswith("anvil/")
    able = (facts.pinned_reads, facts.block_overrides, facts.simulate_v1, facts.fee_history)
    assert able == (True, True, True, True)


async def test_the_library_reads_through_the_door(rpc: Rpc, counting: Counting) -> None:
    w3 = web3_through(rpc)
    counting.calls.clear()
    assert await w3.eth.chain_id == CHAIN_ID
    assert int.from_bytes(await w3.eth.call({"to": w3.to_checksum_address(COUNTER), "data": "0x"})) == 0  # type: ignore[typeddict-item]
    assert counting.calls == {"eth_chainId": 1, "eth_call": 1}


async def test_requests_through_a_websocket_alone_work_as_well(node: Anvil, counting: Counting) -> None:
    rpc = Rpc(nodes_of([node.ws_url]), clock=RealClock(), observer=counting)
    await rpc.start(CHAIN_ID)
    head = await count_up(rpc)
    found = await rpc.batch([("eth_blockNumber", ()), ("eth_call", ({"to": "0x" + REVERTER.hex()}, "latest"))])
    assert found[0] == hex(head.number)
    assert found[1].data == (0xAA).to_bytes(32)
    await rpc.close()
    await asyncio.sleep(0.01)
