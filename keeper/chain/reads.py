"""Reads pinned to one block: many callers' views in few requests, exact or not at all."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from keeper.chain.failures import BatchTooLarge, BlockUnknown, RpcError
from keeper.chain.multicall import MULTICALL3, balance_call, pack, packed_size, time_call, unpack
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import Answer, Decode, Request, bytes_of, hex_of, pinned
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.units import Address, Wei
from keeper.errors import Stale, Transient

T = TypeVar("T")

_MAX_CALLS: Final = 1_500
_MAX_BYTES: Final = 384 * 1024
_TURNS_TO_JOIN: Final = 3
_REQUESTS_AT_ONCE: Final = 4
_CALM_FLUSHES: Final = 50
_MOST_SILENT: Final = 4_096
_MOST_PROOFS: Final = 64
_NO_CONTRACT: Final = RpcError(0, "no Multicall3 contract at its address", is_revert=False, is_too_heavy=False)


@dataclass(slots=True)
class ReadLimits:
    """How many views fit into one `eth_call`, learnt from the nodes' refusals; share it between heads.

    `silent` are views that fail without a word even alone. They are asked last: one that burns all the gas it is given
    would otherwise make everything behind it fail in the same way. `is_apart` says that they left too little gas even
    for an aggregate's end, so that they are asked in another one.
    """

    calls: int = _MAX_CALLS
    calm: int = 0
    silent: set[ViewCall] = field(default_factory=set)
    is_apart: bool = False

    def shrink(self, size: int) -> None:
        """Take a refusal of an aggregate of `size` views."""
        self.calls = max(1, min(self.calls, size // 2))
        self.calm = 0

    def grow(self, size: int) -> None:
        """Take an answered aggregate; try larger ones again after many."""
        self.calm += size >= self.calls
        if self.calm >= _CALM_FLUSHES:
            self.calls = min(_MAX_CALLS, self.calls + self.calls // 4 + 1)
            self.calm = 0

    def note(self, call: ViewCall, result: ViewResult) -> None:
        """Take what a view said when it was asked alone, or among the silent ones."""
        if not _is_silent(result):
            self.silent.discard(call)
        elif call not in self.silent:
            if len(self.silent) >= _MOST_SILENT:
                self.silent.pop()  # any: many may be of views that are never asked again
            self.silent.add(call)


class PinnedReads:
    """Implement `ports.Reads` at one head through Multicall3, pinned to the head's hash.

    Every aggregate tells the time of the block that it really ran in: a node that answers from another block, as some
    do while the next one arrives, has not answered.
    """

    def __init__(
        self,
        rpc: Rpc,
        head: BlockHead,
        *,
        multicall: Address = MULTICALL3,
        limits: ReadLimits | None = None,
        priority: Priority = Priority.READ,
        deadline_s: float | None = None,
    ) -> None:
        """Bind the reads to a head."""
        self._rpc = rpc
        self._head = head
        self._multicall = multicall
        self._limits = limits or ReadLimits()
        self._priority = priority
        self._deadline_s = deadline_s
        self._gathering: list[ViewCall] = []
        self._reading: asyncio.Task[list[ViewResult]] | None = None
        self._places = asyncio.Semaphore(_REQUESTS_AT_ONCE)
        self._proofs = _MOST_PROOFS

    @property
    def head(self) -> BlockHead:
        """Return the block that every answer is from."""
        return self._head

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer each call in order; calls of concurrent callers share one request.

        Raises: Transient when no endpoint answers; Stale when the block is gone.
        """
        if not calls:
            return []
        if self._reading is None:
            self._gathering = []
            self._reading = asyncio.create_task(self._read(self._gathering), name=f"reads at {self._head.number}")
            self._reading.add_done_callback(_retrieve)
        begin = len(self._gathering)
        self._gathering.extend(calls)
        results = await asyncio.shield(self._reading)
        return results[begin : begin + len(calls)]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer calls one after the other in a request of their own: what one changes, only those behind it see.

        Raises: Transient when no endpoint answers, or the calls are too heavy for one request; Stale when the block is
        gone.
        """
        if not calls:
            return []
        try:
            async with self._places:
                answer = await self._aggregated(calls)
        except BlockUnknown as gone:
            raise Stale(f"block {self._head.number} is gone: {gone}") from None
        except BatchTooLarge as refused:
            raise Transient(f"a sequence of {len(calls)} calls was refused: {refused}") from None
        if isinstance(answer, RpcError):
            raise Transient(f"a sequence of {len(calls)} calls was refused: {answer}")
        return answer

    async def native_balance(self, address: Address) -> Wei:
        """Return an account's native currency at the head, read in the same request as everything else."""
        (result,) = await self.many([balance_call(address, self._multicall)])
        if not result.ok or len(result.data) != 32:
            raise Transient("the multicall contract did not tell a balance")
        return Wei(int.from_bytes(result.data))

    async def _read(self, calls: list[ViewCall]) -> list[ViewResult]:
        """Wait a moment for others to join, then read everything that was asked."""
        for _ in range(_TURNS_TO_JOIN):
            await asyncio.sleep(0)
        self._reading = None
        order, spoken = self._order(calls)
        asked = [calls[place] for place in order]
        parts = [asked[:spoken], asked[spoken:]] if self._limits.is_apart else [asked]
        chunks = [chunk for part in parts if part for chunk in _chunks(part, self._limits.calls)]
        try:
            found = await asyncio.gather(*map(self._aggregate, chunks))
            answers = await self._heard(asked, [result for results in found for result in results])
        except BlockUnknown as gone:
            raise Stale(f"block {self._head.number} is gone: {gone}") from None
        by_place = dict(zip(order, answers, strict=True))
        return [by_place[place] for place in range(len(calls))]

    def _order(self, calls: Sequence[ViewCall]) -> tuple[list[int], int]:
        """Return the places of calls in the order to ask them, silent ones last, and how many are not silent.

        Any of the silent ones comes first, by the head's hash: behind one that burns all the gas none could be heard again.
        """
        spoken, silent = list[int](), list[int]()
        for place, call in enumerate(calls):
            (silent if call in self._limits.silent else spoken).append(place)
        turn = int.from_bytes(self._head.hash) % len(silent) if silent else 0
        return [*spoken, *silent[turn:], *silent[:turn]], len(spoken)

    async def _heard(self, calls: Sequence[ViewCall], found: list[ViewResult]) -> list[ViewResult]:
        """Ask again for what failed without a word: gas may have run out before it, which no answer tells."""
        known = self._limits.silent
        for call, result in zip(calls, found, strict=True):
            if call in known:
                self._limits.note(call, result)
        doubtful = [at for at, result in enumerate(found) if _is_silent(result) and calls[at] not in known]
        if not doubtful:
            return found
        again = await self._once_more([calls[at] for at in doubtful])
        is_gas_short = not all(map(_is_silent, again)) and not any(calls[at] in known for at in doubtful)
        if is_gas_short:
            self._limits.shrink(min(len(calls), self._limits.calls))
        for at, result in zip(doubtful, again, strict=True):
            found[at] = result
        return found

    async def _once_more(self, calls: Sequence[ViewCall]) -> list[ViewResult]:
        """Ask silent views in ever smaller company, in the end alone, as far as that is worth its requests."""
        if len(calls) == 1 and self._proofs > 0:
            return [await self._proven(calls[0])]
        found = await self._aggregate(calls)
        left = [at for at, result in enumerate(found) if _is_silent(result)]
        if not left or self._proofs <= 0:
            return found
        middle = (len(left) + 1) // 2 if 2 * len(left) > len(calls) else len(left)  # no part is more than half of all
        for part in left[:middle], left[middle:]:
            again = await self._once_more([calls[at] for at in part]) if part else []
            for at, result in zip(part, again, strict=True):
                found[at] = result
        return found

    async def _aggregate(self, chunk: Sequence[ViewCall]) -> list[ViewResult]:
        """Read some views in one call, and in smaller ones what was refused."""
        try:
            async with self._places:
                answer = await self._aggregated(chunk)
        except BatchTooLarge as refused:
            answer = RpcError(0, str(refused), is_revert=False, is_too_heavy=True)
        if isinstance(answer, RpcError):
            return await self._smaller(chunk, answer)
        self._limits.grow(len(chunk))
        return answer

    async def _aggregated(self, calls: Sequence[ViewCall]) -> list[ViewResult] | RpcError:
        """Make one request of calls, and of the question for the time."""
        request = self._request(self._multicall, pack([time_call(self._multicall), *calls]))
        return await self._ask([request], partial(_unpacked, len(calls), self._head.timestamp_s))

    async def _smaller(self, chunk: Sequence[ViewCall], refused: RpcError) -> list[ViewResult]:
        """Read a refused aggregate in halves; a view that fails all alone fails by itself."""
        if not (refused.is_too_heavy or refused.is_revert):
            raise Transient(f"the aggregate was refused: {refused}")
        spoken = sum(call not in self._limits.silent for call in chunk)
        if not spoken and self._proofs <= 0:
            return [ViewResult(ok=False, data=b"")] * len(chunk)  # any of them is asked first at another head
        if len(chunk) == 1:
            return [await self._proven(chunk[0])]
        middle = spoken if 0 < spoken < len(chunk) else len(chunk) // 2
        halves = [*await self._aggregate(chunk[:middle]), *await self._aggregate(chunk[middle:])]
        if spoken < len(chunk):
            self._limits.is_apart = True
        elif not any(map(_is_silent, halves)):  # a silent one may be what took the gas, however few there are
            self._limits.shrink(len(chunk))
        return halves

    async def _proven(self, call: ViewCall) -> ViewResult:
        """Ask a view alone and remember whether it is silent."""
        self._proofs -= 1
        result = await self._alone(call)
        self._limits.note(call, result)
        return result

    async def _alone(self, call: ViewCall) -> ViewResult:
        """Make one call without the aggregate, so that what it does to the aggregate hits nobody else."""
        async with self._places:
            answer = await self._ask([self._request(call.to, call.data)], _bytes_or_refusal)
        if isinstance(answer, bytes):
            return ViewResult(ok=True, data=answer)
        if answer.is_revert or answer.is_too_heavy:
            return ViewResult(ok=False, data=answer.data)
        raise Transient(f"a view was refused: {answer}")

    async def _ask(self, requests: Sequence[Request], decode: Decode[T]) -> T:
        return await self._rpc.ask(
            requests, decode, priority=self._priority, deadline_s=self._deadline_s, is_pinned=True
        )

    def _request(self, to: Address, data: bytes) -> Request:
        return "eth_call", ({"to": hex_of(to), "data": hex_of(data)}, pinned(self._head.hash))


def _is_silent(result: ViewResult) -> bool:
    """Return whether a view failed without saying why, as it does when its gas runs out."""
    return not result.ok and not result.data


def _chunks(calls: Sequence[ViewCall], most: int) -> Iterator[Sequence[ViewCall]]:
    """Cut calls into aggregates that are bounded in number and in bytes."""
    begin = size = 0
    for place, call in enumerate(calls):
        size += packed_size(call)
        if place > begin and (place - begin >= most or size > _MAX_BYTES):
            yield calls[begin:place]
            begin, size = place, packed_size(call)
    yield calls[begin:]


def _unpacked(size: int, timestamp_s: int, answers: Sequence[Answer]) -> list[ViewResult] | RpcError:
    """Unpack an aggregate, keeping a refusal as a value; no data at all means that there is no contract.

    Raises: ValueError where it ran at another time than that of its block.
    """
    answer = _bytes_or_refusal(answers)
    if isinstance(answer, RpcError):
        return answer
    if not answer:
        return _NO_CONTRACT
    time, *results = unpack(answer, 1 + size)
    if time != ViewResult(ok=True, data=timestamp_s.to_bytes(32)):
        raise ValueError("the node answered from another block than it was asked about")
    return results


def _bytes_or_refusal(answers: Sequence[Answer]) -> bytes | RpcError:
    (answer,) = answers
    return answer if isinstance(answer, RpcError) else bytes_of(answer)


def _retrieve(task: "asyncio.Task[list[ViewResult]]") -> None:
    """Look at the outcome, so that a failure whose callers have all gone is not reported as forgotten."""
    if not task.cancelled():
        task.exception()
