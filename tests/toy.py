"""A protocol small enough to check by hand: one collateral, one debt, no interest. It implements the real ports."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from keeper.chain.ancestry import BlockRange, Extension
from keeper.domain.chain import BlockHead, Call, Log, LogFilter, Moment, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment, Realised
from keeper.domain.ports import Market, PriceAge, Reads, Taken, Touched
from keeper.domain.position import Action, Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.program import Step, StepKind
from keeper.domain.units import (
    MAX_UINT256,
    WAD,
    ZERO_ADDRESS,
    Address,
    Base,
    BlockHash,
    Column,
    PositionId,
    TokenAmount,
    TxHash,
    Wad,
    Wei,
)
from keeper.errors import Invalid, KeeperError, Stale

GOLD = Token(Address(b"\x01" * 20), "GOLD", 0)
RECEIPT = Token(Address(b"\x03" * 20), "RECEIPT", 0)
CASH = Token(Address(b"\x02" * 20), "CASH", 0)
POOL = Address(b"\x0f" * 20)
COLLATERAL, DEBT = Column(0), Column(1)
THRESHOLD_BPS = 8_000
BONUS_BPS = 11_000


def head(number: int = 100, *, fork: int = 0, parent_fork: int | None = None, base_fee_wei: int = 10) -> BlockHead:
    """Return a block whose hash tells its number and fork."""
    before = fork if parent_fork is None else parent_fork
    return BlockHead(
        number=number,
        hash=block_hash(number, fork),
        parent_hash=block_hash(number - 1, before),
        timestamp_s=1_700_000_000 + 12 * number,
        base_fee_wei=Wei(base_fee_wei),
        gas_limit=30_000_000,
        logs_bloom=bytes(256),
    )


def block_hash(number: int, fork: int = 0) -> BlockHash:
    """Return the hash of the block with that number on that fork."""
    return BlockHash(fork.to_bytes(8, "big") + number.to_bytes(24, "big"))


def address(number: int) -> Address:
    """Return an address by its number."""
    return Address(number.to_bytes(20, "big"))


def account(number: int) -> PositionId:
    """Return an account's only position by the account's number."""
    return PositionId(address(number))


@dataclass(frozen=True, slots=True)
class ToyPosition:
    """Whole units of gold and cash."""

    id: PositionId
    gold: int
    cash: int

    @property
    def has_debt(self) -> bool:
        """Return whether it owes cash."""
        return self.cash > 0


@dataclass(frozen=True, slots=True)
class ToySnapshot:
    """One gold costs `price_base`, one cash a dollar."""

    head: BlockHead
    price_base: int = 100 * 10**8
    native_price_base: Base | None = Base(1_000 * 10**8)
    blocked: Reason | None = None
    payments: tuple[Payment, ...] = (Payment(CASH, POOL),)
    proceeds: tuple[Token, ...] = ()
    targets: frozenset[Address] = frozenset({POOL})
    gold_column: Column = COLLATERAL

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value gold or cash."""
        prices = {GOLD.address: self.price_base, CASH.address: 10**8}
        price = prices.get(token)
        return None if price is None else Base(amount * price)


class ToyRules:
    """Liquidatable when cash exceeds 80 % of the gold's value; half may be repaid, a tenth is the bonus."""

    def __init__(self, market: str = "toy") -> None:
        """Name the market that opportunities are in."""
        self._market = market

    def row(self, position: ToyPosition, snapshot: ToySnapshot) -> Row:
        """Return gold and cash."""
        return ((snapshot.gold_column, position.gold), (DEBT, position.cash))

    def weights(self, snapshot: ToySnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
        """Return exact weights: nothing is rounded here."""
        del columns, at
        return {
            snapshot.gold_column: Weight(snapshot.price_base * THRESHOLD_BPS, 10_000, 1),
            DEBT: Weight(-(10**8), 1, 1),
        }

    def health(self, position: ToyPosition, snapshot: ToySnapshot, at: Moment) -> Health:
        """Value a position."""
        del at
        collateral, debt = position.gold * snapshot.price_base, position.cash * 10**8
        factor = collateral * THRESHOLD_BPS * WAD // (10_000 * debt) if debt else MAX_UINT256
        return Health(
            health_factor_wad=Wad(factor),
            collateral_base=Base(collateral),
            debt_base=Base(debt),
            is_liquidatable=factor < WAD,
            collateral=(Holding(GOLD, TokenAmount(position.gold), Base(collateral)),),
            debt=(Holding(CASH, TokenAmount(position.cash), Base(debt)),),
        )

    def assess(
        self, position: ToyPosition, snapshot: ToySnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
    ) -> Assessment:
        """Repay half of the debt, or what the budget allows."""
        health = self.health(position, snapshot, at)
        if not health.is_liquidatable or snapshot.blocked is not None:
            return Assessment(health, (), snapshot.blocked)
        repay = position.cash // 2 if budget is None else min(position.cash // 2, budget.get(CASH.address, 0))
        seized = min(position.gold, repay * 10**8 * BONUS_BPS // (10_000 * snapshot.price_base))
        if not repay or not seized:
            return Assessment(health, (), Reason.DUST_RULE if seized else None)
        return Assessment(health, (self._opportunity(position, snapshot, at, repay, seized),), None)

    def _opportunity(
        self, position: ToyPosition, snapshot: ToySnapshot, at: Moment, repay: int, seized: int
    ) -> Opportunity:
        return Opportunity(
            key=PositionKey(self._market, position.id),
            repay=CASH,
            repay_amount=TokenAmount(repay),
            repay_limit=TokenAmount(repay),
            repay_base=Base(repay * 10**8),
            seize=GOLD,
            seized_amount=TokenAmount(seized),
            seized_base=Base(seized * snapshot.price_base),
            protocol_fee_amount=TokenAmount(0),
            spender=POOL,
            target=POOL,
            at=at,
        )

    def settlements(
        self, owner: Address, held: Mapping[Address, TokenAmount], snapshot: ToySnapshot, at: Moment, /
    ) -> Sequence[Opportunity]:
        """Turn all receipts into gold, where liquidations bring any."""
        amount = held.get(RECEIPT.address, TokenAmount(0))
        if RECEIPT not in snapshot.proceeds or not amount:
            return ()
        step = Opportunity(
            key=PositionKey(self._market, PositionId(owner + RECEIPT.address)),
            repay=RECEIPT,
            repay_amount=amount,
            repay_limit=amount,
            repay_base=Base(0),
            seize=GOLD,
            seized_amount=amount,
            seized_base=Base(amount * snapshot.price_base),
            protocol_fee_amount=TokenAmount(0),
            spender=None,
            target=RECEIPT.address,
            at=at,
            action=Action.SETTLE,
        )
        return (step,)


class ToyCalls:
    """Calldata is the account."""

    GAS_ESTIMATE = 100_000
    SELECTORS = frozenset({b"toy!"})
    PAYABLE: frozenset[bytes] = frozenset()

    def liquidation(self, opportunity: Opportunity) -> Call:
        """Return a call that names the account."""
        return Call(opportunity.target, opportunity.key.account)

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        """Return what the data says."""
        return Reason.UNKNOWN, data[:256].decode("ascii", "replace")


@dataclass
class ToyReader:
    """Serve positions and a price from memory; a log's first topic marks it as ours, its data is the account."""

    market: str = "toy"
    state: dict[PositionId, ToyPosition] = field(default_factory=dict)
    price_base: int = 100 * 10**8
    blocked: Reason | None = None
    chain_error_base: int = 0
    discovered: int = 0
    recalled: set[PositionId] = field(default_factory=set)
    recognised: set[PositionId] = field(default_factory=set)
    known_at_discovery: list[frozenset[PositionId]] = field(default_factory=list)
    discovery_filter: LogFilter = LogFilter(frozenset({POOL}), frozenset({b"\x01" * 32}))
    head_filter: LogFilter = LogFilter(frozenset({POOL}), frozenset({b"\x01" * 32}))

    def recall(self, known: Iterable[PositionId]) -> None:
        """Remember what was named."""
        self.recalled.update(known)

    def recognise(self, positions: Sequence[ToyPosition]) -> None:
        """Remember what was given back."""
        self.recognised.update(each.id for each in positions)

    async def discover(self, reads: Reads) -> None:
        """Count discoveries."""
        del reads
        self.discovered += 1
        self.known_at_discovery.append(frozenset(self.recalled))

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the accounts that logs name."""
        return frozenset(PositionId(log.data) for log in logs)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the accounts that logs name."""
        return Touched(self.named(logs), is_market_changed=False)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return none: the toy emits no events."""
        del logs
        return ()

    async def snapshot(self, reads: Reads) -> ToySnapshot:
        """Return the price at the head."""
        return ToySnapshot(reads.head, self.price_base, blocked=self.blocked)

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[ToyPosition]:
        """Return positions from memory."""
        del reads
        return [self.state.get(each, ToyPosition(each, 0, 0)) for each in ids]

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Return the same arithmetic, off by `chain_error_base` where a test wants a mismatch."""
        rules, snapshot = ToyRules(), await self.snapshot(reads)
        healths = [rules.health(self.state[each], snapshot, reads.head.moment) for each in ids]
        return [replace(each, debt_base=Base(each.debt_base + self.chain_error_base)) for each in healths]

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return the price of gold, as old as the head."""
        return [PriceAge(GOLD, Base(self.price_base), reads.head.timestamp_s)]


class ToyPrograms:
    """The pool is paid first, and gives gold."""

    def steps(self, opportunity: Opportunity, snapshot: ToySnapshot) -> tuple[Step, ...]:
        """Return the one step there is."""
        del snapshot
        repay, seize = opportunity.repay.address, opportunity.seize.address
        borrower = opportunity.key.account.rjust(32, b"\0")
        return (Step(StepKind.LIQUIDATE_AAVE, POOL, repay, seize, opportunity.repay_limit, 0, borrower),)

    def proceeds(self, opportunity: Opportunity, snapshot: ToySnapshot) -> tuple[Address, TokenAmount]:
        """Return the gold."""
        del snapshot
        return opportunity.seize.address, opportunity.seized_amount

    def permits(self, snapshot: ToySnapshot) -> frozenset[tuple[Address, StepKind]]:
        """Return the pool."""
        del snapshot
        return frozenset({(POOL, StepKind.LIQUIDATE_AAVE)})

    def after(self, position: ToyPosition, snapshot: ToySnapshot, opportunity: Opportunity) -> ToyPosition | None:
        """Return what is left."""
        del snapshot
        taken, repaid = opportunity.seized_amount, opportunity.repay_amount
        return ToyPosition(position.id, position.gold - taken, position.cash - repaid)


def toy_market(reader: ToyReader | None = None) -> Market:
    """Return the toy protocol bound to one market."""
    served = reader or ToyReader()
    return Market(served.market, "toy", 1, served, ToyRules(served.market), ToyCalls())


def realised(repaid: int, seized: int) -> Realised:
    """Return realised amounts."""
    return Realised(TokenAmount(repaid), TokenAmount(seized))


BORROWED, MOVED, TAKEN, CHANGED = (bytes([number]) * 32 for number in (1, 2, 3, 4))
ANNEX = Address(b"\x0e" * 20)
"""A contract that the market gets later."""


@dataclass(frozen=True, slots=True)
class ToyBlock:
    """A block: its logs, and everybody's state after it."""

    head: BlockHead
    logs: tuple[Log, ...]
    state: Mapping[PositionId, ToyPosition]
    price_base: int
    contracts: frozenset[Address]
    gold_column: Column


class ToyChain:
    """A chain with forks, gaps and failures on demand. It implements `scanner.Chain`."""

    def __init__(self, *, depth: int = 8) -> None:
        """Start at block 100 without positions."""
        self.depth = depth
        self.known: dict[BlockHash, ToyBlock] = {}
        self.failures: dict[str, deque[KeeperError]] = defaultdict(deque)
        self.ring: dict[int, BlockHead] = {}
        self.requests: list[tuple[BlockHead, list[ViewCall]]] = []
        self.funds: dict[Address, int] = {CASH.address: 10**9}
        self.read_s = 0.0
        self._forks = 0
        self.blocks: list[ToyBlock] = []
        self._add(ToyBlock(head(100), (), {}, 100 * 10**8, frozenset({POOL}), COLLATERAL))

    @property
    def head(self) -> BlockHead:
        """Return the newest block."""
        return self.blocks[-1].head

    def mine(
        self,
        *changed: ToyPosition,
        price_base: int | None = None,
        taken: Iterable[PositionId] = (),
        at: Address = POOL,
        annex: bool = False,
        gold_column: Column | None = None,
    ) -> BlockHead:
        """Add a block: positions that change in it (with a log each), liquidations, a market change."""
        before = self.blocks[-1]
        forked, below = self._forks, int.from_bytes(before.head.hash[:8], "big")
        new = head(before.head.number + 1, fork=forked, parent_fork=below)
        emitted: list[tuple[Address, bytes, bytes]]
        emitted = [(at, BORROWED if _borrows(before.state, each) else MOVED, each.id) for each in changed]
        emitted += [(POOL, TAKEN, each) for each in taken]
        if annex or gold_column is not None:
            emitted.append((POOL, CHANGED, Address(bytes(20))))
        logs = tuple(
            Log(where, (topic,), data, new.number, new.hash, index, TxHash(new.hash))
            for index, (where, topic, data) in enumerate(emitted)
        )
        block = ToyBlock(
            head=new,
            logs=logs,
            state={**before.state, **{each.id: each for each in changed}},
            price_base=before.price_base if price_base is None else price_base,
            contracts=before.contracts | ({ANNEX} if annex else set()),
            gold_column=before.gold_column if gold_column is None else gold_column,
        )
        self._add(block)
        return new

    def drop(self, depth: int) -> None:
        """Orphan the last blocks; what is mined next is another fork."""
        del self.blocks[len(self.blocks) - depth :]
        self._forks += 1

    def fail(self, where: str, error: KeeperError) -> None:
        """Let the next `extend`, `logs` or `reads` fail once."""
        self.failures[where].append(error)

    async def extend(self, head: BlockHead) -> Extension:
        """Return the way to a head."""
        self.refuse("extend")
        if not self.ring:
            return Extension(head, (head,))
        line = self._line(head)
        kept = [number for number, ours in self.ring.items() if line.get(number) == ours]
        base = max(kept, default=-1)
        orphaned = tuple(self.ring[number] for number in sorted(self.ring) if number > base)
        if not kept:
            return Extension(head, (head,), orphaned, is_rebuild=True)
        if head.number - base - 1 > self.depth:
            return Extension(head, (head,), orphaned, gap=BlockRange(base + 1, head.number - 1))
        return Extension(head, tuple(line[each] for each in range(base + 1, head.number + 1)), orphaned)

    def commit(self, extension: Extension) -> None:
        """Take the head."""
        if extension.is_rebuild or extension.gap is not None:
            self.ring.clear()
        for orphan in extension.orphaned:
            self.ring.pop(orphan.number, None)
        for block in (*extension.new, extension.head):
            self.ring[block.number] = block
        for number in [each for each in self.ring if each <= extension.head.number - self.depth]:
            del self.ring[number]

    async def logs(self, extension: Extension, wanted: LogFilter) -> Sequence[Log]:
        """Return the logs of a gap and of the new blocks."""
        self.refuse("logs")
        line, gap = self._line(extension.head), extension.gap
        blocks = [line[each] for each in range(gap.first, gap.last + 1)] if gap else []
        found = [log for block in (*blocks, *extension.new) for log in self.known[block.hash].logs]
        return [log for log in found if log.address in wanted.addresses and log.topics[0] in wanted.topics]

    def reads(self, head: BlockHead) -> "ToyReads":
        """Return reads at a block."""
        return ToyReads(self, head)

    def ancestor(self, number: int) -> BlockHead | None:
        """Return a committed block."""
        return self.ring.get(number)

    def refuse(self, where: str) -> None:
        """Raise the failure that waits there."""
        if self.failures[where]:
            raise self.failures[where].popleft()

    def borrowers(self, head: BlockHead) -> set[PositionId]:
        """Return every account that borrowed on the way to a head: what a discovery from the beginning finds."""
        logs = [log for block in self._line(head).values() for log in self.known[block.hash].logs]
        return {PositionId(log.data) for log in logs if log.topics[0] == BORROWED}

    def _line(self, head: BlockHead) -> dict[int, BlockHead]:
        line = {}
        at: ToyBlock | None = self.known[head.hash]
        while at is not None:
            line[at.head.number] = at.head
            at = self.known.get(at.head.parent_hash)
        return line

    def _add(self, block: ToyBlock) -> None:
        self.blocks.append(block)
        self.known[block.head.hash] = block


@dataclass(slots=True)
class ToyReads:
    """Reads at one block of a `ToyChain`: concurrent callers share one request, an orphaned block is gone."""

    chain: ToyChain
    head: BlockHead
    _round: "asyncio.Task[None] | None" = None
    _calls: list[ViewCall] = field(default_factory=list)

    @property
    def block(self) -> ToyBlock:
        """Return the block."""
        return self.chain.known[self.head.hash]

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer everything with what the signer holds."""
        self._calls.extend(calls)
        if self._round is None:
            self._round = asyncio.create_task(self._ask())
        await asyncio.shield(self._round)
        return [ViewResult(ok=True, data=self.chain.funds.get(call.to, 0).to_bytes(32)) for call in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer as `many` does: nothing here changes state."""
        return await self.many(calls)

    async def native_balance(self, address: Address) -> Wei:
        """Return one coin."""
        await self.many([ViewCall(address, b"")])
        return Wei(10**18)

    async def _ask(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        calls, self._calls, self._round = self._calls, [], None
        await asyncio.sleep(self.chain.read_s)
        self.chain.requests.append((self.head, calls))
        self.chain.refuse("reads")
        if self.block not in self.chain.blocks:
            raise Stale(f"block {self.head.number} is gone")


@dataclass
class ChainReader(ToyReader):
    """Read the toy protocol from a `ToyChain`.

    `impossible` accounts say what no contract could, `misread` ones are seen otherwise than the chain does.
    """

    chain: ToyChain = field(default_factory=ToyChain)
    impossible: set[PositionId] = field(default_factory=set)
    misread: dict[PositionId, ToyPosition] = field(default_factory=dict)
    is_impossible: bool = False
    are_logs_impossible: bool = False
    payments: tuple[Payment, ...] = (Payment(CASH, POOL),)
    targets: frozenset[Address] = frozenset({POOL})
    proceeds: tuple[Token, ...] = ()
    read: list[list[PositionId]] = field(default_factory=list)
    compared: list[list[PositionId]] = field(default_factory=list)

    async def discover(self, reads: Reads) -> None:
        """Find the contracts."""
        block = await self._block(reads)
        self.discovered += 1
        self.known_at_discovery.append(frozenset(self.recalled))
        self.discovery_filter = LogFilter(frozenset({POOL}), frozenset({BORROWED}))
        self.head_filter = LogFilter(block.contracts, frozenset({BORROWED, MOVED, TAKEN, CHANGED}))

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return who borrowed."""
        return frozenset(PositionId(log.data) for log in logs if log.topics[0] == BORROWED)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return whose state changed."""
        if self.are_logs_impossible:
            raise Invalid("a log is not of this world")
        seen = list(logs)
        accounts = frozenset(PositionId(log.data) for log in seen if log.topics[0] != CHANGED)
        return Touched(accounts, any(log.topics[0] == CHANGED for log in seen))

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return who was liquidated, by account 999."""
        return [
            Taken(
                PositionKey(self.market, PositionId(log.data)),
                address(999),
                realised(1, 1),
                CASH.address,
                GOLD.address,
                log,
            )
            for log in logs
            if log.topics[0] == TAKEN
        ]

    async def snapshot(self, reads: Reads) -> ToySnapshot:
        """Return the prices of the block."""
        block = await self._block(reads)
        if self.is_impossible:
            raise Invalid("the price is not of this world")
        return ToySnapshot(
            reads.head,
            block.price_base,
            blocked=self.blocked,
            payments=self.payments,
            proceeds=self.proceeds,
            targets=self.targets,
            gold_column=block.gold_column,
        )

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[ToyPosition]:
        """Return positions of the block; a part of the market is none."""
        if not ids:
            return []
        block = await self._block(reads)
        self.read.append(list(ids))
        if not self.impossible.isdisjoint(ids):
            raise Invalid("a balance is not of this world")
        state = {**block.state, **self.misread}
        return [state.get(each, ToyPosition(each, 0, 0)) for each in ids if not each.startswith(ZERO_ADDRESS)]

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Return what the block's state comes to."""
        if not ids:
            return []
        block = await self._block(reads)
        self.compared.append(list(ids))
        rules, snapshot = ToyRules(), ToySnapshot(reads.head, block.price_base)
        held = [block.state.get(each, ToyPosition(each, 0, 0)) for each in ids]
        return [rules.health(each, snapshot, reads.head.moment) for each in held]

    async def _block(self, reads: Reads) -> ToyBlock:
        await reads.many([ViewCall(POOL, b"")])
        return self.chain.known[reads.head.hash]


def _borrows(state: Mapping[PositionId, ToyPosition], position: ToyPosition) -> bool:
    """Return whether more is owed than before: only that is logged as a borrow."""
    before = state.get(position.id)
    return position.cash > (before.cash if before else 0)
