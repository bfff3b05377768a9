"""A pool on fake nodes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from keeper.chain.endpoint import Node
from keeper.chain.rpc import Rpc
from tests.unit.chain.fake_node import CHAIN_ID, FakeChain, FakeNode, RealClock, Watcher

Pool = Callable[..., Awaitable[Rpc]]


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest_asyncio.fixture
async def nodes(chain: FakeChain) -> AsyncIterator[list[FakeNode]]:
    """Give two nodes that show the same chain."""
    async with FakeNode(chain) as first, FakeNode(chain) as second:
        yield [first, second]


@pytest_asyncio.fixture
async def node(chain: FakeChain) -> AsyncIterator[FakeNode]:
    async with FakeNode(chain) as only:
        yield only


@pytest_asyncio.fixture
async def pool(watcher: Watcher) -> AsyncIterator[Pool]:
    """Start a pool on nodes and close it at the end."""
    opened: list[Rpc] = []

    async def start(
        *nodes: FakeNode, extra: tuple[Node, ...] = (), options: dict[str, Any] | None = None, **pool_options: Any
    ) -> Rpc:
        described = [node.node(f"rpc-{place}", **(options or {})) for place, node in enumerate(nodes, 1)]
        rpc = Rpc([*described, *extra], clock=RealClock(), observer=watcher, **pool_options)
        opened.append(rpc)
        await rpc.start(CHAIN_ID)
        for node in nodes:
            node.posts.clear()
        watcher.requests.clear()
        return rpc

    yield start
    await asyncio.gather(*(rpc.close() for rpc in opened))
    # Connections close in the loop's next turns; without them the sockets would be reported as leaked.
    await asyncio.sleep(0.01)
