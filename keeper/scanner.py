"""One pass at one head: learn what was touched, read it pinned to the block, value everything, decide.

The scanner owns the desks and the limits. Work that fails half-way loses nothing: positions that a block touched stay
on the list until a pass has read them again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from keeper.broker import Broker, Stall
from keeper.chain.ancestry import Extension
from keeper.chain.inventory import BalanceReads, read_inventory
from keeper.domain.chain import BlockHead, Log, LogFilter
from keeper.domain.outcome import Reason
from keeper.domain.plan import DecisionRecord, Inventory, Outcome, Payment
from keeper.domain.ports import Clock, Executor, Market, Snapshot
from keeper.domain.units import PositionId
from keeper.engine.desk import Desk, Reading
from keeper.engine.limits import Limits
from keeper.engine.parity import sample
from keeper.engine.plan import Chore, Planned, Policy, plan, skip
from keeper.engine.scan import Candidate, MarketBook
from keeper.engine.trading import Trading
from keeper.errors import Invalid
from keeper.oracles.guard import GuardPolicy
from keeper.passes import MarketPass, Pass
from keeper.rounds import all_of, read_each, read_positions, read_tokens
from keeper.store.bookshelf import Shelf


class Chain(Protocol):
    """What a pass needs of the network."""

    @property
    def depth(self) -> int:
        """Return how many blocks back a reorganisation can be followed."""
        ...

    async def extend(self, head: BlockHead) -> Extension:
        """Return the blocks that lead from the last committed head to this one, and those that are orphaned."""
        ...

    def commit(self, extension: Extension) -> None:
        """Take the extension's head as the one that the next extension starts from."""
        ...

    async def logs(self, extension: Extension, wanted: LogFilter) -> Sequence[Log]:
        """Return the logs of the extension's new blocks."""
        ...

    def reads(self, head: BlockHead) -> BalanceReads:
        """Return reads that are pinned to the head."""
        ...


@dataclass(frozen=True, slots=True)
class ParityPolicy:
    """Every how many heads (0: never) how many positions of each market are compared with the chain."""

    every_heads: int
    size: int


Census = Callable[[Market, BlockHead], Awaitable[Collection[PositionId]]]
"""Finds everything that a market's discovery logs name, up to a head, whatever was known before."""


class Scanner:
    """Make one pass for each head."""

    def __init__(
        self,
        markets: Sequence[Market],
        chain: Chain,
        *,
        policy: Policy,
        parity: ParityPolicy,
        clock: Clock,
        landing_s: int,
        census: Census | None = None,
        guard: GuardPolicy | None = None,
        broker: Broker | None = None,
    ) -> None:
        """Prepare empty books. `landing_s` is how long after its head a transaction lands.

        `census` is taken where the chain was reorganised deeper than it can be followed. `broker` trades, where there is
        an executor.
        """
        self._desks = {market.name: Desk(market, guard) for market in markets}
        self._census = census
        self._broker = broker
        self._chain = chain
        self._policy = policy
        self._parity = parity
        self._clock = clock
        self._landing_s = landing_s
        self._turn = 0
        self.limits = Limits()

    @property
    def desks(self) -> Mapping[str, Desk]:
        """Return each market's desk."""
        return self._desks

    @property
    def books(self) -> Mapping[str, MarketBook]:
        """Return each market's book."""
        return {name: desk.books for name, desk in self._desks.items()}

    @property
    def executor(self) -> Executor | None:
        """Return the contract that plans may go through."""
        return self._broker.executor if self._broker else None

    def snapshot(self, market: str) -> Snapshot | None:
        """Return the market's last snapshot."""
        return self._desks[market].snapshot

    @property
    def filter(self) -> LogFilter:
        """Return the logs that can change anything in any market."""
        wanted = [desk.reader.head_filter for desk in self._desks.values()]
        wanted += [desk.reader.discovery_filter for desk in self._desks.values()]
        wanted += self._broker.filters if self._broker else []
        return LogFilter(
            frozenset().union(*(each.addresses for each in wanted)),
            frozenset().union(*(each.topics for each in wanted)),
        )

    async def discover(self, head: BlockHead) -> None:
        """Find every market's contracts, once, before the first position is loaded."""
        reads = self._chain.reads(head)
        await asyncio.gather(*(desk.reader.discover(reads) for desk in self._desks.values()))

    async def load(
        self,
        head: BlockHead,
        named: Mapping[str, Sequence[PositionId]],
        shelved: Mapping[str, tuple[BlockHead, Shelf[Any]]] = MappingProxyType({}),
        *,
        chunk: int = 500,
    ) -> None:
        """Read positions that are known from before, all at one head; the first pass goes on from there.

        What an earlier process has `shelved` as of a block is not read: the first pass goes on from the oldest of those
        blocks, and reads what was touched since.
        A market or a position that says what no contract could is read again by the passes.
        """
        reads, first = self._chain.reads(head), head
        for name, desk in self._desks.items():
            known = named.get(name, ())
            desk.reader.recall(known)
            as_of, shelf = shelved.get(name, (head, None))
            if shelf is not None:
                desk.reader.recognise(shelf.positions)
            try:
                await desk.reader.discover(reads)  # of what was recalled
                desk.snapshot = await desk.reader.snapshot(reads)
            except Invalid:
                desk.pending |= set(known)
                desk.is_stale = True
                continue
            if shelf is not None:
                desk.books.put(list(shelf.positions), desk.snapshot)
                desk.pending |= shelf.aside
                first, known = min(first, as_of, key=lambda each: each.number), ()
            for start in range(0, len(known), chunk):
                positions, impossible = await read_positions(desk, reads, known[start : start + chunk])
                desk.pending |= impossible
                desk.put(positions, desk.snapshot)
        self._chain.commit(Extension(first, (first,)))

    async def close(self) -> None:
        """Let go of what venues are asked over."""
        if self._broker is not None:
            await self._broker.close()

    def settle(self, outcome: Outcome) -> None:
        """Apply how a plan ended; call between two passes."""
        desk = self._desks.get(outcome.key.market)
        if desk is None:  # the operator has taken the market out while a plan for it was in flight
            self.limits.release(outcome.key)
            return
        self.limits.settle(outcome, desk.books.book.position(outcome.key.id))
        if outcome.key.id in desk.books.book:
            desk.pending.add(outcome.key.id)

    async def make_pass(self, head: BlockHead) -> Pass:
        """Bring the books to the head and decide every position that can be liquidated.

        Raises: Transient when the network could not answer; Stale when the head is gone. Nothing is lost either way.
        """
        started = self._clock.monotonic_s()
        extension = await self._chain.extend(head)
        logs = await self._chain.logs(extension, self.filter)
        known = await self._known_anew(extension)
        unread: dict[str, str] = {}
        for name, desk in self._desks.items():
            desk.unwind(extension.orphaned)
            if extension.is_rebuild:
                desk.distrust(known[name])
            try:
                desk.follow(extension.new, logs, depth=self._chain.depth)
            except Invalid as error:  # its own contracts' logs cannot be read: nothing that they changed is known
                desk.distrust(())
                unread[name] = str(error)
        if self._broker is not None:
            self._broker.follow(logs, is_broken=extension.is_rebuild or bool(extension.orphaned))
        self._chain.commit(extension)
        noted = self._clock.monotonic_s()
        readings, invalid, inventory, stall = await self._read(head)
        read = self._clock.monotonic_s()
        markets, candidates = self._scan(head, readings)
        scanned = self._clock.monotonic_s()
        trading = await self._trading(head, candidates, stall)
        planned = self._plan(head, candidates, readings, inventory, trading)
        ended = self._clock.monotonic_s()
        return Pass(
            head=head,
            extension=extension,
            markets=markets,
            inventory=inventory,
            planned=planned,
            candidates={candidate.key: candidate for candidate in candidates},
            quarantined=sum(len(desk.held) for desk in self._desks.values()),
            invalid=unread | invalid,
            silent=stall.silent,
            stages_s={
                "logs": noted - started,
                "read": read - noted,
                "scan": scanned - read,
                "plan": ended - scanned,
            },
        )

    async def _known_anew(self, extension: Extension) -> Mapping[str, Collection[PositionId]]:
        """Ask who there is where blocks were replaced that nobody has looked into."""
        if not extension.is_rebuild or self._census is None:
            return dict.fromkeys(self._desks, ())
        return {name: await self._census(desk.books.market, extension.head) for name, desk in self._desks.items()}

    async def _read(self, head: BlockHead) -> tuple[dict[str, Reading], dict[str, str], Inventory | None, Stall]:
        """Read every market, the inventory and what is on offer; concurrent reads share one request."""
        reads = self._chain.reads(head)
        self._turn += 1
        every = self._parity.every_heads
        turn = self._turn // every if every > 0 and self._turn % every == 0 else None
        markets = [self._read_market(desk, reads, turn) for desk in self._desks.values()]
        inventory, stall, *found = await all_of(self._read_inventory(reads), self._read_stall(reads), *markets)
        named = dict(zip(self._desks, found, strict=True))
        readings = {name: each for name, each in named.items() if isinstance(each, Reading)}
        return (
            readings,
            {name: str(each) for name, each in named.items() if isinstance(each, Invalid)},
            inventory,
            stall,
        )

    async def _read_market(self, desk: Desk, reads: BalanceReads, turn: int | None) -> Reading | Invalid:
        """Read one market; an impossible value in it stops neither the others nor, if it is a position's, this one.

        New contracts of a market may have moved balances in blocks whose logs were asked without knowing of them.
        """
        is_rediscovered, everybody = desk.is_stale, desk.books.book.positions
        chosen = () if turn is None else sample(list(everybody), turn, self._parity.size)
        compare = sorted(desk.quarantined.union(chosen))
        try:
            if is_rediscovered:
                known = desk.reader.head_filter
                await desk.reader.discover(reads)
                if desk.reader.head_filter != known:
                    desk.pending |= everybody.keys()  # also where the rest of this pass fails
            wanted = (desk.pending | desk.quarantined) - desk.impossible
            is_new = is_rediscovered or not desk.guard.knows_tokens
            snapshot, (positions, refused), (freed, still), chain, tokens = await all_of(
                desk.reader.snapshot(reads),
                read_positions(desk, reads, sorted(wanted)),
                read_each(desk, reads, sorted(desk.impossible)),
                desk.reader.chain_health(reads, compare),
                read_tokens(desk, reads, is_wanted=is_new),
            )
        except Invalid as error:
            return error
        compared = dict(zip(compare, chain, strict=True))
        return Reading(snapshot, [*positions, *freed], refused | still, compared, is_rediscovered, tokens)

    @property
    def _payments(self) -> list[Payment]:
        """Return every way in which plans may have to pay."""
        return [each for desk in self._desks.values() if desk.snapshot for each in desk.snapshot.payments]

    async def _read_inventory(self, reads: BalanceReads) -> Inventory | None:
        if self._policy.signer is None:
            return None
        payments = self._payments
        if self._broker is not None:
            via = self._broker.executor.address
            payments += [replace(each, spender=via) for each in payments if each.is_pulled]
        known = [desk.snapshot for desk in self._desks.values() if desk.snapshot is not None]
        proceeds = [each for snapshot in known for each in snapshot.proceeds]
        return await read_inventory(reads, self._policy.signer, payments, proceeds)

    async def _read_stall(self, reads: BalanceReads) -> Stall:
        if self._broker is None:
            return Stall()
        return await self._broker.read(reads, {each.token.address for each in self._payments})

    async def _trading(self, head: BlockHead, candidates: Sequence[Candidate], stall: Stall) -> Trading | None:
        """Ask what has to be asked for the candidates; on an ordinary head there is nobody to ask for."""
        if self._broker is None:
            return None
        return await self._broker.trading(self._chain.reads(head), head, stall, candidates)

    def _scan(self, head: BlockHead, readings: Mapping[str, Reading]) -> tuple[tuple[MarketPass, ...], list[Candidate]]:
        markets: list[MarketPass] = []
        candidates: list[Candidate] = []
        for name, reading in readings.items():
            desk = self._desks[name]
            filed = desk.file(reading)
            scan = desk.scan(head.landing(self._landing_s))
            candidates += scan.candidates
            markets.append(
                MarketPass(
                    market=desk.books.market,
                    snapshot=reading.snapshot,
                    scan=scan,
                    touched=filed.touched,
                    new_positions=filed.new_positions,
                    is_rediscovered=reading.is_rediscovered,
                    parity_checked=len(reading.compared),
                    mismatches=filed.mismatches,
                    restored=filed.restored,
                    impossible=filed.impossible,
                    taken=filed.taken,
                    prices=filed.prices,
                    doubted=len(desk.guard.doubted),
                )
            )
        return tuple(markets), candidates

    def _plan(
        self,
        head: BlockHead,
        candidates: Sequence[Candidate],
        readings: Mapping[str, Reading],
        inventory: Inventory | None,
        trading: Trading | None,
    ) -> Planned:
        """Plan every candidate, but a quarantined one only where the chain itself calls it liquidatable."""
        allowed: list[Candidate] = []
        held: list[DecisionRecord] = []
        for candidate in candidates:
            desk = self._desks[candidate.market.name]
            key = candidate.key.id
            if (doubted := desk.guard.doubt(candidate.assessment)) is not None:
                why = f"the price of {doubted.symbol} jumped"
                held.append(skip(head, candidate, Reason.ORACLE_QUARANTINED, why))
            elif desk.is_trusted(key, readings[candidate.market.name].compared):
                allowed.append(candidate)
            else:
                why = "it cannot be read" if key in desk.impossible else "local and chain health differ"
                held.append(skip(head, candidate, Reason.QUARANTINED, why))
        self.limits.sweep(head.number, {each.key for each in candidates})
        chores = self._chores(head, readings, inventory)
        planned = plan(head, allowed, inventory, self.limits, self._policy, chores=chores, trading=trading)
        for each in planned.batch.plans if planned.batch else ():
            self.limits.lock(each.key, each.id)
        for refusal in planned.refused:
            position, stake = refusal.candidate.position, refusal.stake_base
            self.limits.refuse(refusal.candidate.key, refusal.reason, head.number, position, stake)
        return replace(planned, decisions=(*held, *planned.decisions))

    def _chores(self, head: BlockHead, readings: Mapping[str, Reading], inventory: Inventory | None) -> list[Chore]:
        """Find what earlier liquidations left to be done."""
        owner = self._policy.signer
        if inventory is None or owner is None:
            return []
        at = head.landing(self._landing_s)
        return [each for name in readings for each in self._desks[name].chores(owner, inventory, at)]
