"""The pool under every mix of faults: endpoints break and heal in any way while it is asked, told to send, and followed."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keeper.chain.heads import Heads
from keeper.chain.health import NodeState
from keeper.chain.rpc import Rpc
from keeper.chain.transactions import Funds, funds
from keeper.chain.wire import head_of
from keeper.devnet.chain import ADMIN, DevChain
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.chain import BlockHead
from keeper.domain.units import Address, Wei
from keeper.errors import Stale, Transient
from tests.faults import rules
from tests.faults.node import CHAIN_ID
from tests.faults.proxy import Fault, FaultProxy
from tests.unit.chain.fake_node import Watcher

T = TypeVar("T")

VIEWS: Final = 3
ACCOUNT: Final = Address(bytes.fromhex(ADMIN[2:]))
GENEROUS_S: Final = 20.0
LIE: Final = "lie"
KINDS: Final[dict[str, Callable[[int], Fault] | None]] = {
    "refuse": None,
    "drop": lambda _at: rules.drop(),
    "hang": lambda _at: rules.hang(),
    "drip": lambda _at: rules.drip(0.3),
    "status": lambda _at: rules.status(502, "<html>"),
    "limited": lambda _at: rules.status(429, headers={"Retry-After": "2"}),
    "credentials": lambda _at: rules.status(401),
    "junk": lambda _at: rules.body(b"\xff junk"),
    "null": lambda _at: rules.null(),
    "wrong id": lambda _at: rules.wrong_id(),
    "wrong chain": lambda _at: rules.wrong_chain(),
    "truncated": lambda _at: rules.truncate(),
    "stale": lambda _at: rules.stale(3),
    "sawtooth": lambda _at: rules.rewind(0, 4, 2),
    "fork": rules.fork,
    LIE: lambda _at: rules.lie("eth_getBalance", lambda _call, wei: hex(int(wei, 16) + 1)),
}


@dataclass
class ShiftedClock:
    """The machine's clock, with what the tests skip."""

    ahead_s: float = 0.0

    def monotonic_s(self) -> float:
        return time.monotonic() + self.ahead_s

    def unix_s(self) -> float:
        return time.time() + self.ahead_s


@dataclass
class Bench:
    """One node for all runs, and the loop that everything runs in."""

    runner: asyncio.Runner
    node: Anvil
    chain: DevChain


BENCHES: Final[list[Bench]] = []
"""Where a machine, which Hypothesis makes without arguments, finds its node."""


class PoolMachine(RuleBasedStateMachine):
    """Three views of one node; the pool must find the truth whenever there is somebody to tell it."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = BENCHES[-1]
        self.broken: dict[int, str] = {}
        self.sends = 0
        self.numbers: list[int] = []
        self.clock = ShiftedClock()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(3 * GENEROUS_S):
                return await work

        return self.bench.runner.run(bounded())

    @initialize()
    def open(self) -> None:
        self.run(self._open())

    async def _open(self) -> None:
        self.stack = AsyncExitStack()
        self.proxy = await self.stack.enter_async_context(FaultProxy(self.bench.node.http_url, VIEWS))
        nodes = [view.node() for view in self.proxy.views]
        self.rpc = Rpc(nodes, clock=self.clock, observer=Watcher())
        await self.rpc.start(CHAIN_ID)
        self.follower = asyncio.create_task(self._follow())
        await self._until(lambda: bool(self.numbers))

    def teardown(self) -> None:
        if hasattr(self, "follower"):
            self.run(self._close())

    async def _close(self) -> None:
        self.follower.cancel()
        await asyncio.gather(self.follower, return_exceptions=True)
        await self.rpc.close()
        await asyncio.sleep(0.01)
        await self.stack.aclose()

    async def _follow(self) -> None:
        async with Heads(self.rpc, poll_interval_s=0.05) as heads:
            async for head in heads:
                self.numbers.append(head.number)

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(GENEROUS_S):
            while not condition():  # noqa: ASYNC110 - the world has no event to wait for
                await asyncio.sleep(0.02)

    async def _truth(self) -> tuple[BlockHead, Funds]:
        """Return the head and what the node itself says of an account there."""
        import msgspec

        header = await self.bench.chain.header()
        head = head_of(msgspec.Raw(msgspec.json.encode(header)))
        balance = await self.bench.chain.rpc("eth_getBalance", ADMIN, header["number"])
        nonce = await self.bench.chain.rpc("eth_getTransactionCount", ADMIN, header["number"])
        return head, Funds(int(nonce, 16), Wei(int(balance, 16)))

    @property
    def honest(self) -> int:
        return VIEWS - len(self.broken)

    @rule(place=st.integers(0, VIEWS - 1), kind=st.sampled_from(sorted(KINDS)))
    def break_one(self, place: int, kind: str) -> None:
        if place not in self.broken:
            self.broken[place] = kind
            self.run(self._break(place, kind))

    async def _break(self, place: int, kind: str) -> None:
        make = KINDS[kind]
        view = self.proxy.views[place]
        if make is None:
            await view.refuse()
        else:
            view.add(make(await self.bench.chain.block_number()))

    @precondition(lambda self: self.broken)
    @rule(data=st.data())
    def mend_one(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.broken)))
        del self.broken[place]
        self.run(self._mend(place))

    async def _mend(self, place: int) -> None:
        """Heal a view, let the time pass that it was put aside for, and see it used again."""
        self.proxy.views[place].reset()
        await self.proxy.views[place].accept()
        self.clock.ahead_s += 4_000.0
        endpoint = self.rpc.endpoints[place]

        def is_back() -> bool:
            return endpoint.health.state is NodeState.ALIVE

        async with asyncio.timeout(GENEROUS_S):
            while not is_back():
                endpoint.changed.set()
                if self.honest > 1:  # with a head the others compare it
                    await self.bench.chain.mine()
                await asyncio.sleep(0.1)
                self.clock.ahead_s += 100.0

    @rule(count=st.integers(1, 3))
    def block(self, count: int) -> None:
        self.run(self._block(count))

    async def _block(self, count: int) -> None:
        await self.bench.chain.mine(count)
        number = await self.bench.chain.block_number()
        if self.honest == VIEWS:
            await self._until(lambda: self.numbers[-1] >= number)

    @rule()
    def ask(self) -> None:
        self.run(self._ask())

    async def _ask(self) -> None:
        head, truth = await self._truth()
        try:
            found = await funds(self.rpc, ACCOUNT, head)
        except (Transient, Stale):
            assert self.honest == 0
            return
        assert found == truth or LIE in self.broken.values()

    @rule()
    def decide(self) -> None:
        self.run(self._decide())

    async def _decide(self) -> None:
        head, truth = await self._truth()
        try:
            found = await funds(self.rpc, ACCOUNT, head, is_decisive=True)
        except (Transient, Stale):
            assert self.honest < 2
            assert self.honest == 0 or LIE in self.broken.values()
            return
        assert found == truth or self.honest < 2

    @rule()
    def send(self) -> None:
        self.sends += 1
        self.run(self._send(b"\x02" + self.sends.to_bytes(4)))

    async def _send(self, raw: bytes) -> None:
        await self.rpc.send_raw(raw, deadline_s=1.0)
        seen = [each.view for each in self.proxy.raw_transactions if each.raw == raw]
        assert len(seen) == len(set(seen))
        assert seen or self.honest == 0

    @invariant()
    def the_head_never_goes_backwards(self) -> None:
        assert self.numbers == sorted(self.numbers)

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        if hasattr(self, "rpc"):
            assert sum(each.in_flight for each in self.rpc.endpoints) < 50


@pytest.fixture
def bench() -> Iterator[Bench]:
    packages = ensure_packages(default_cache_dir(), print)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def start() -> Bench:
            node = Anvil(find_anvil(packages), AnvilOptions(mining=False, chain_id=CHAIN_ID))
            await stack.enter_async_context(node)
            chain = await stack.enter_async_context(DevChain(node.http_url))
            await chain.mine(10)
            return Bench(runner, node, chain)

        BENCHES.append(runner.run(start()))
        try:
            yield BENCHES[-1]
        finally:
            BENCHES.pop()
            runner.run(stack.aclose())


def test_rpc_16_no_mix_of_faults_keeps_the_pool_from_the_truth_or_brings_it_a_lie(bench: Bench) -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(max_examples=6, stateful_step_count=12, deadline=None))


@pytest.mark.slow
def test_rpc_16_a_long_mix_of_faults_keeps_the_pool_from_the_truth_neither(bench: Bench) -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(max_examples=20, stateful_step_count=20, deadline=None))
