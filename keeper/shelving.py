"""The saved book in use: taken down at the start, put up again every few heads, beside the work and never in its way."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Request, head_of, is_null, present
from keeper.domain.chain import BlockHead
from keeper.observe.events import Event, emit
from keeper.passes import Pass
from keeper.scanner import Scanner
from keeper.store.bookshelf import Bookshelf, Page, Place, Shelf, Trail
from keeper.store.faults import StoreFailed

SAVE_EVERY: Final = 16
"""How many heads are between two saves: what a crash loses is read again by the logs of those blocks."""
_STEPS_BACK: Final = (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233)
"""Which blocks behind the head a shelf remembers, so that a reorg while the keeper is down costs those blocks only."""

Ancestor = Callable[[int], BlockHead | None]
Blocks = Callable[[Sequence[int]], Awaitable[Sequence[BlockHead | None]]]
"""Reads the chain's own blocks by their numbers."""


class Librarian:
    """Keeps every market's positions on a shelf. Without one, or where it fails, all is read from the chain."""

    def __init__(
        self, shelf: Bookshelf | None, scanner: Scanner, layouts: Mapping[str, bytes], *, is_read_only: bool = False
    ) -> None:
        """Serve the scanner's markets; `layouts` says by market what the meaning of its positions depends on."""
        self._shelf = shelf
        self._is_read_only = is_read_only
        self._scanner = scanner
        self._places = {
            name: Place(desk.books.market.place, desk.books.market.position, layouts.get(name, b""))
            for name, desk in scanner.desks.items()
            if desk.books.market.position is not None
        }
        self._heads = 0
        self._work: asyncio.Task[None] | None = None
        self._last: tuple[Pass, Trail] | None = None
        self._is_failing = False

    async def take_down(self, blocks: Blocks) -> dict[str, tuple[BlockHead, Shelf[Any]]]:
        """Return what each market's shelf holds, as of its newest block that is still the chain's.

        Raises: Transient.
        """
        if self._shelf is None:
            return {}
        found: dict[str, tuple[BlockHead, Shelf[Any]]] = {}
        try:
            for name, place in self._places.items():
                trail = await self._shelf.trail(place)
                numbers = [number for number, _ in trail]
                heads = dict(zip(numbers, await blocks(numbers), strict=True))
                standing = [head for number, known in trail if (head := heads[number]) and head.hash == known]
                shelf = await self._shelf.load(place, standing[-1].number) if standing else None
                if shelf is not None:
                    found[name] = standing[-1], shelf
        except StoreFailed as error:
            self._failed(error)
        return found

    def passed(self, done: Pass, ancestor: Ancestor) -> None:
        """Take a finished pass, and save every few of them."""
        if self._shelf is None or self._is_read_only:
            return
        self._heads += 1
        self._last = done, _trail(done.head, ancestor)
        if self._heads % SAVE_EVERY == 1 and (self._work is None or self._work.done()):
            self._work = asyncio.create_task(self._save(), name="bookshelf")

    async def close(self) -> None:
        """Save what is not saved yet."""
        if self._work is not None:
            await self._work
        await self._save()

    async def _save(self) -> None:
        if self._shelf is None or self._last is None:
            return
        (done, trail), self._last = self._last, None
        pages = []
        for market in done.markets:  # all at once: the scan loop goes on while they are written
            name = market.market.name
            if name in self._places:
                desk = self._scanner.desks[name]
                pages.append((name, Page(trail, desk.unsaved, desk.aside)))
                desk.unsaved = {}
        for at, (name, page) in enumerate(pages):
            try:
                await self._shelf.save(self._places[name], page)
            except StoreFailed as error:
                self._failed(error)
                for left, kept in pages[at:]:
                    desk = self._scanner.desks[left]
                    desk.unsaved = {**kept.changed, **desk.unsaved}
                return
        self._is_failing = False

    def _failed(self, error: StoreFailed) -> None:
        if not self._is_failing:
            emit(Event.STORAGE_ERROR, error=str(error))
        self._is_failing = True


def _trail(head: BlockHead, ancestor: Ancestor) -> Trail:
    behind = (ancestor(head.number - step) for step in reversed(_STEPS_BACK[1:]) if head.number >= step)
    return (*((each.number, each.hash) for each in behind if each is not None), (head.number, head.hash))


async def read_blocks(rpc: Rpc, numbers: Sequence[int]) -> list[BlockHead | None]:
    """Return blocks by their numbers, None for those that the chain does not have.

    Raises: Transient.
    """
    requests: list[Request] = [("eth_getBlockByNumber", (hex(number), False)) for number in numbers]
    return await rpc.ask(requests, _heads_or_none, priority=Priority.HEAD) if requests else []


def _heads_or_none(answers: Sequence[Answer]) -> list[BlockHead | None]:
    return [None if is_null(raw := present(answer)) else head_of(raw) for answer in answers]
