"""One pass at one head: learn what was touched, read it pinned to the block, value everything, decide.

The scanner owns the books, the limits and the quarantine. Work that fails half-way loses nothing: accounts that a
block touched stay on the list until a pass has read them again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keeper.chain.ancestry import Extension
from keeper.chain.inventory import BalanceReads, read_inventory
from keeper.domain.chain import BlockHead, Log, LogFilter
from keeper.domain.outcome import Reason
from keeper.domain.plan import DecisionRecord, Inventory, Outcome
from keeper.domain.ports import Clock, Market, Snapshot, Taken
from keeper.domain.position import Health, PositionKey
from keeper.domain.units import Address
from keeper.engine.limits import Limits
from keeper.engine.parity import Mismatch, differs, sample
from keeper.engine.plan import Planned, Policy, plan, skip
from keeper.engine.scan import Candidate, MarketBook, Scan
from keeper.errors import Invalid


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
    """Every how many heads how many accounts of each market are compared with the chain."""

    every_heads: int
    size: int


@dataclass(frozen=True, slots=True)
class MarketPass:
    """What one pass learnt of one market."""

    market: Market
    snapshot: Snapshot
    scan: Scan
    touched: int
    new_accounts: frozenset[Address]
    is_rediscovered: bool
    parity_checked: int
    mismatches: tuple[Mismatch, ...]
    restored: frozenset[Address]
    impossible: tuple[Address, ...]
    taken: tuple[Taken, ...]


@dataclass(frozen=True, slots=True)
class Pass:
    """Everything that one pass found and decided; the daemon hands it on.

    `invalid` names the markets that answered with a value no contract could hold: they were not valued at this head.
    """

    head: BlockHead
    extension: Extension
    markets: tuple[MarketPass, ...]
    inventory: Inventory | None
    planned: Planned
    candidates: Mapping[PositionKey, Candidate]
    quarantined: int
    invalid: Mapping[str, str]
    stages_s: Mapping[str, float]


@dataclass(slots=True)
class _Desk:
    """A market's book with what a pass still owes it."""

    books: MarketBook
    pending: set[Address] = field(default_factory=set)
    new: set[Address] = field(default_factory=set)
    history: dict[bytes, frozenset[Address]] = field(default_factory=dict)
    is_stale: bool = False
    quarantined: set[Address] = field(default_factory=set)
    snapshot: Snapshot | None = None

    @property
    def reader(self) -> Any:  # noqa: ANN401 - snapshots and positions are the protocol's own types
        return self.books.market.reader

    def note(self, logs: Sequence[Log]) -> frozenset[Address]:
        """Put one block's accounts on the list and return them: those that owe something, and new borrowers."""
        touched = self.reader.touched(logs)
        borrowers = self.reader.accounts(logs)
        noted = frozenset(borrowers | {each for each in touched.accounts if each in self.books.book})
        self.new |= {each for each in borrowers if each not in self.books.book}
        self.pending |= noted
        self.is_stale = self.is_stale or touched.is_market_changed
        return noted


@dataclass(frozen=True, slots=True)
class _Read:
    """What one batched round said of one market."""

    snapshot: Snapshot
    positions: Sequence[Any]
    compared: Mapping[Address, Health | None]
    is_rediscovered: bool
    impossible: tuple[Address, ...]


class Scanner:
    """Make one pass for each head."""

    def __init__(
        self,
        markets: Sequence[Market],
        chain: Chain,
        policy: Policy,
        parity: ParityPolicy,
        clock: Clock,
        landing_s: int,
    ) -> None:
        """Prepare empty books. `landing_s` is how long after its head a transaction lands."""
        self._desks = {market.name: _Desk(MarketBook(market)) for market in markets}
        self._chain = chain
        self._policy = policy
        self._parity = parity
        self._clock = clock
        self._landing_s = landing_s
        self._turn = 0
        self.limits = Limits()

    @property
    def books(self) -> Mapping[str, MarketBook]:
        """Return each market's book."""
        return {name: desk.books for name, desk in self._desks.items()}

    def snapshot(self, market: str) -> Snapshot | None:
        """Return the market's last snapshot."""
        return self._desks[market].snapshot

    @property
    def filter(self) -> LogFilter:
        """Return the logs that can change anything in any market."""
        wanted = [desk.reader.head_filter for desk in self._desks.values()]
        wanted += [desk.reader.discovery_filter for desk in self._desks.values()]
        return LogFilter(
            frozenset().union(*(each.addresses for each in wanted)),
            frozenset().union(*(each.topics for each in wanted)),
        )

    async def discover(self, head: BlockHead) -> None:
        """Find every market's contracts, once, before the first account is loaded."""
        reads = self._chain.reads(head)
        await asyncio.gather(*(desk.reader.discover(reads) for desk in self._desks.values()))

    async def load(self, head: BlockHead, accounts: Mapping[str, Sequence[Address]], *, chunk: int = 500) -> None:
        """Read accounts that are known from before, all at one head."""
        reads = self._chain.reads(head)
        for name, desk in self._desks.items():
            known = accounts.get(name, ())
            desk.snapshot = await desk.reader.snapshot(reads)
            for start in range(0, len(known), chunk):
                positions = await desk.reader.positions(reads, known[start : start + chunk])
                desk.books.put(list(positions), desk.snapshot)

    def settle(self, outcome: Outcome) -> None:
        """Apply how a plan ended; call between two passes."""
        desk = self._desks[outcome.key.market]
        self.limits.settle(outcome, desk.books.book.position(outcome.key.account))
        desk.pending.add(outcome.key.account)

    async def make_pass(self, head: BlockHead) -> Pass:
        """Bring the books to the head and decide every position that can be liquidated.

        Raises: Transient when the network could not answer; Stale when the head is gone. Nothing is lost either way.
        """
        started = self._clock.monotonic_s()
        extension = await self._chain.extend(head)
        logs = await self._chain.logs(extension, self.filter)
        taken = self._note_logs(extension, logs)
        self._chain.commit(extension)
        noted = self._clock.monotonic_s()
        readings, invalid, inventory = await self._read(head)
        read = self._clock.monotonic_s()
        markets, candidates = self._scan(head, readings, taken)
        scanned = self._clock.monotonic_s()
        planned = self._plan(head, candidates, readings, inventory)
        ended = self._clock.monotonic_s()
        return Pass(
            head=head,
            extension=extension,
            markets=markets,
            inventory=inventory,
            planned=planned,
            candidates={candidate.key: candidate for candidate in candidates},
            quarantined=sum(len(desk.quarantined) for desk in self._desks.values()),
            invalid=invalid,
            stages_s={
                "logs": noted - started,
                "read": read - noted,
                "scan": scanned - read,
                "plan": ended - scanned,
            },
        )

    def _note_logs(self, extension: Extension, logs: Sequence[Log]) -> dict[str, tuple[Taken, ...]]:
        """Put what the new blocks touched on each market's list, and what the orphaned blocks had touched as well."""
        by_block: dict[bytes, list[Log]] = {block.hash: [] for block in extension.new}
        for log in logs:
            by_block.setdefault(log.block_hash, []).append(log)
        taken = {}
        for name, desk in self._desks.items():
            for orphan in extension.orphaned:
                desk.pending |= desk.history.pop(orphan.hash, frozenset())
            for block_hash, inside in by_block.items():
                desk.history[block_hash] = desk.note(inside)
            while len(desk.history) > self._chain.depth:
                del desk.history[next(iter(desk.history))]
            if extension.is_rebuild:
                desk.pending |= set(desk.books.book.accounts)
                desk.is_stale = True
            taken[name] = tuple(desk.reader.liquidations(logs))
        return taken

    async def _read(self, head: BlockHead) -> tuple[dict[str, _Read], dict[str, str], Inventory | None]:
        """Read every market and the inventory; concurrent reads share one request."""
        reads = self._chain.reads(head)
        self._turn += 1
        is_turn = self._turn % self._parity.every_heads == 0
        inventory, found = await asyncio.gather(
            self._read_inventory(reads),
            asyncio.gather(*(self._read_market(desk, reads, is_turn=is_turn) for desk in self._desks.values())),
        )
        named = dict(zip(self._desks, found, strict=True))
        readings = {name: each for name, each in named.items() if isinstance(each, _Read)}
        return readings, {name: str(each) for name, each in named.items() if isinstance(each, Invalid)}, inventory

    async def _read_market(self, desk: _Desk, reads: BalanceReads, *, is_turn: bool) -> _Read | Invalid:
        """Read one market; an impossible value in it stops neither the others nor, if it is an account's, this one."""
        is_rediscovered = desk.is_stale
        chosen = sample(list(desk.books.book.accounts), self._turn // self._parity.every_heads, self._parity.size)
        compare = sorted(desk.quarantined | (set(chosen) if is_turn else set()))
        wanted = sorted(desk.pending | desk.quarantined)
        try:
            if is_rediscovered:
                await desk.reader.discover(reads)
            snapshot, (positions, impossible), chain = await asyncio.gather(
                desk.reader.snapshot(reads),
                _positions(desk, reads, wanted),
                desk.reader.chain_health(reads, compare),
            )
        except Invalid as error:
            return error
        return _Read(snapshot, positions, dict(zip(compare, chain, strict=True)), is_rediscovered, impossible)

    async def _read_inventory(self, reads: BalanceReads) -> Inventory | None:
        if self._policy.signer is None:
            return None
        pairs = [
            (token, desk.snapshot.spender)
            for desk in self._desks.values()
            if desk.snapshot is not None
            for token in desk.snapshot.inventory_tokens
        ]
        return await read_inventory(reads, self._policy.signer, pairs)

    def _scan(
        self, head: BlockHead, readings: Mapping[str, _Read], taken: Mapping[str, tuple[Taken, ...]]
    ) -> tuple[tuple[MarketPass, ...], list[Candidate]]:
        markets: list[MarketPass] = []
        candidates: list[Candidate] = []
        for name, reading in readings.items():
            desk = self._desks[name]
            desk.snapshot = reading.snapshot
            if reading.is_rediscovered:
                desk.books.rewrite_rows(reading.snapshot)
                desk.is_stale = False
            desk.books.put(list(reading.positions), reading.snapshot)
            touched, new = len(desk.pending), frozenset(desk.new)
            desk.pending.clear()
            desk.new.clear()
            mismatches, restored = self._compare(desk, reading, head)
            scan = desk.books.scan(reading.snapshot, head.timestamp_s + self._landing_s, frozenset(desk.quarantined))
            candidates += scan.candidates
            markets.append(
                MarketPass(
                    market=desk.books.market,
                    snapshot=reading.snapshot,
                    scan=scan,
                    touched=touched,
                    new_accounts=new,
                    is_rediscovered=reading.is_rediscovered,
                    parity_checked=len(reading.compared),
                    mismatches=mismatches,
                    restored=restored,
                    impossible=reading.impossible,
                    taken=taken[name],
                )
            )
        return tuple(markets), candidates

    def _compare(self, desk: _Desk, reading: _Read, head: BlockHead) -> tuple[tuple[Mismatch, ...], frozenset[Address]]:
        """Quarantine accounts whose local health is not the chain's, and free those that agree again."""
        rules = desk.books.market.rules
        mismatches = []
        agreed = set()
        for account, chain in reading.compared.items():
            position = desk.books.book.position(account)
            if position is None:
                agreed.add(account)
                continue
            local = rules.health(position, reading.snapshot, head.timestamp_s)
            if differs(local, chain):
                mismatches.append(Mismatch(account, local, chain))
            else:
                agreed.add(account)
        restored = frozenset(desk.quarantined & agreed)
        desk.quarantined -= agreed
        desk.quarantined |= {each.account for each in mismatches}
        return tuple(mismatches), restored

    def _plan(
        self,
        head: BlockHead,
        candidates: Sequence[Candidate],
        readings: Mapping[str, _Read],
        inventory: Inventory | None,
    ) -> Planned:
        """Plan every candidate, but a quarantined one only where the chain itself calls it liquidatable."""
        allowed: list[Candidate] = []
        held: list[DecisionRecord] = []
        for candidate in candidates:
            desk = self._desks[candidate.market.name]
            account = candidate.position.account
            chain = readings[candidate.market.name].compared.get(account)
            if account in desk.quarantined and not (chain is not None and chain.is_liquidatable):
                held.append(skip(head, candidate, Reason.QUARANTINED, "local and chain health differ"))
            else:
                allowed.append(candidate)
        planned = plan(head, allowed, inventory, self.limits, self._policy)
        for each in planned.batch.plans if planned.batch else ():
            self.limits.lock(each.key, each.id)
        return Planned((*held, *planned.decisions), planned.batch)


async def _positions(
    desk: _Desk, reads: BalanceReads, wanted: Sequence[Address]
) -> tuple[list[Any], tuple[Address, ...]]:
    """Read accounts together, and one by one where one of them holds what no contract could; name those."""
    try:
        return list(await desk.reader.positions(reads, wanted)), ()
    except Invalid:
        if len(wanted) == 1:
            return [], tuple(wanted)
    found: list[Any] = []
    impossible: list[Address] = []
    for account in wanted:
        positions, refused = await _positions(desk, reads, [account])
        found += positions
        impossible += refused
    return found, tuple(impossible)
