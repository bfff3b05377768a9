"""A sender on a fake chain with a real journal file, and what it told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Result
from keeper.domain.plan import Outcome
from keeper.domain.units import Address, Wei
from keeper.execution.fees import FeePolicy
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import SilentObserver
from keeper.execution.sender import Sender
from keeper.execution.signer import Signer, SigningPolicy
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import Changes
from tests.toy import CASH, POOL, address
from tests.unit.execution.fake_chain import GWEI, LIQUIDATE, FakeChain, Fuse, Wire, markets

CHAIN_ID = 31_337
KEY = "0x" + "11" * 32
FEES = FeePolicy(max_fee_wei=Wei(500 * GWEI), max_tip_wei=Wei(5 * GWEI))
POLICY = SenderPolicy(fees=FEES)
SIGNING = SigningPolicy(
    chain_id=CHAIN_ID,
    max_fee_wei=FEES.max_fee_wei,
    max_gas_limit=1_000_000,
    calls=frozenset({(POOL, LIQUIDATE)}),
    approvals=frozenset({(CASH.address, POOL)}),
)
ALICE, BOB, CAROL = address(0xA11CE), address(0xB0B), address(0xCA501)


def signer() -> Signer:
    return Signer.from_hex(KEY, SIGNING)


class Recorder(SilentObserver):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


class MortalJournal(Journal):
    """A journal whose process may die just before or just after a commit, or whose file may be at fault."""

    fuse = Fuse(0)
    fault: Fault | None = None
    is_committing: asyncio.Event | None = None

    async def commit(self, changes: Changes) -> None:
        self.fuse.burn()
        if self.is_committing is not None:
            self.is_committing.set()
        if self.fault is not None:
            raise StoreFailed(self.fault, Path("journal"))
        await super().commit(changes)
        self.fuse.burn()


@dataclass
class Desk:
    """One process: it can be left at any moment and opened again on the same file."""

    chain: FakeChain
    wire: Wire
    database: Database
    journal: MortalJournal
    sender: Sender
    told: Recorder
    outcomes: list[Outcome] = field(default_factory=list)

    async def head(self, **world: object) -> BlockHead:
        """Mine one block and follow it."""
        head = self.chain.mine(**world)  # type: ignore[arg-type]
        await self.sender.on_head(head, self.chain.taken_at(head))
        return head

    async def heads(self, count: int, **world: object) -> None:
        for _ in range(count):
            await self.head(**world)

    @property
    def results(self) -> list[Result]:
        return [outcome.result for outcome in self.outcomes]


def new_chain(tmp_path: Path, *liquidatable: Address) -> FakeChain:
    chain = FakeChain(signer().address, journal=tmp_path / "keeper.sqlite3")
    chain.state.liquidatable.update(liquidatable)
    return chain


async def _empty_journal() -> bytes:
    """Return a new file's bytes: copying them is much faster than making each test's file."""
    if not _EMPTY:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "empty.sqlite3"
            await (await Database.open(path, CHAIN_ID)).close()
            _EMPTY.append(path.read_bytes())
    return _EMPTY[0]


_EMPTY: list[bytes] = []


@asynccontextmanager
async def desk(
    chain: FakeChain, *, policy: SenderPolicy = POLICY, fuse: Fuse | None = None, recover: bool = True
) -> AsyncIterator[Desk]:
    """Open the journal file and start a sender on it."""
    assert chain.journal is not None
    fuse = fuse or Fuse(0)
    if not chain.journal.exists():
        chain.journal.write_bytes(await _empty_journal())
    database = await Database.open(chain.journal, CHAIN_ID)
    try:
        wire, journal, told = Wire(chain, fuse), MortalJournal(database, signer().address), Recorder()
        journal.fuse = fuse
        outcomes: list[Outcome] = []
        sender = Sender(
            network=wire,
            journal=journal,
            signer=signer(),
            markets=markets(),
            policy=policy,
            deliver=outcomes.append,
            observer=told,
        )
        if recover:
            await sender.recover(chain.head)
        yield Desk(chain, wire, database, journal, sender, told, outcomes)
    finally:
        await database.close()


def patient(**changes: int) -> SenderPolicy:
    """Return the policy with some waits changed."""
    return replace(POLICY, **changes)  # type: ignore[arg-type]
