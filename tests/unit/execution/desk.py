"""A sender on a fake chain with a real journal file, and what it told."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.units import Address, Wei
from keeper.execution.envelope import Transaction
from keeper.execution.fees import FeePolicy
from keeper.execution.policy import SenderPolicy
from keeper.execution.ports import OpenGate, SilentObserver
from keeper.execution.route import PrivatePolicy, Relays
from keeper.execution.sender import Sender
from keeper.execution.signer import Signatory, Signed, Signer, SignerFailed, SigningPolicy
from keeper.store.database import Database
from keeper.store.faults import Fault, StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import AttemptState, Changes, Entry, IntentState
from tests.toy import CASH, POOL, address
from tests.unit.execution.fake_chain import GWEI, LIQUIDATE, FakeChain, Fuse, Wire, markets

CHAIN_ID = 31_337
KEY = "0x" + "11" * 32
FEES = FeePolicy(max_fee_wei=Wei(500 * GWEI), max_tip_wei=Wei(5 * GWEI))
POLICY = SenderPolicy(fees=FEES, bump_after_blocks=2)
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
    """Keeps every event and every step; where it has a fuse, the process may die at any step."""

    def __init__(self, fuse: Fuse | None = None) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []
        self.steps: list[str] = []
        self.fuse = fuse

    def event(self, name: str, /, **fields: object) -> None:
        self.events.append((name, fields))

    def reached(self, step: str, /) -> None:
        self.steps.append(step)
        if self.fuse is not None:
            self.fuse.burn()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


class FarSigner:
    """A signer in another process: the keeper can die before it asks and after it was answered, or get no answer.

    It must never be asked for anything of which the journal knows nothing.
    """

    is_remote = True

    def __init__(self, journal: Path | None, fuse: Fuse | None = None) -> None:
        self._near = signer()
        self._journal = journal
        self.fuse = fuse or Fuse(0)
        self.asked: list[Transaction] = []
        self.silent_from: int | None = None
        """At which of the questions to come it falls silent: 0 at once."""

    @property
    def policy(self) -> SigningPolicy:
        return self._near.policy

    @policy.setter
    def policy(self, policy: SigningPolicy) -> None:
        self._near.policy = policy

    @property
    def address(self) -> Address:
        return self._near.address

    async def signed(self, transaction: Transaction) -> Signed:
        self.fuse.burn()
        self._check_journal(transaction)
        self.asked.append(transaction)
        if self.silent_from is not None:
            if self.silent_from == 0:
                raise SignerFailed("the signer does not answer")
            self.silent_from -= 1
        await asyncio.sleep(0)
        signed = self._near.sign(transaction)
        self.fuse.burn()
        return signed

    def _check_journal(self, transaction: Transaction) -> None:
        with sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True) as connection:
            query = "select count(*) from intent where nonce = ? and state = 'live'"
            (known,) = connection.execute(query, (transaction.nonce,)).fetchone()
        connection.close()
        assert known == 1, "asked for a signature before it was in the journal"


class Switch(OpenGate):
    """A gate with the operator's two switches, which remembers who used the key."""

    def __init__(self) -> None:
        self.is_halted = False
        self.is_paused = False
        self.is_paused_at_refresh = False
        self.halts_when_intruded = False
        self.intruders: list[int] = []

    async def refresh(self, head: BlockHead) -> None:
        del head
        self.is_paused = self.is_paused or self.is_paused_at_refresh

    def admit(self, wanted: int, head: BlockHead) -> tuple[int, Reason, str]:
        del head
        return (0, Reason.OPERATOR_PAUSED, "") if self.is_paused or self.is_halted else (wanted, Reason.UNKNOWN, "")

    async def intruded(self, head: BlockHead, nonce: int) -> None:
        del head
        self.intruders.append(nonce)
        self.is_halted = self.is_halted or self.halts_when_intruded


class MortalJournal(Journal):
    """A journal whose process may die just before or just after a commit, or whose file may be at fault."""

    fuse = Fuse(0)
    fault: Fault | None = None
    fault_from: int | None = None
    """How many more commits succeed before the disk is full."""
    is_committing: asyncio.Event | None = None

    async def commit(self, changes: Changes) -> None:
        self.fuse.burn()
        if self.is_committing is not None:
            self.is_committing.set()
        if self.fault_from is not None:
            self.fault_from -= 1
            if self.fault_from < 0:
                self.fault = Fault.FULL
        if self.fault is not None:
            raise StoreFailed(self.fault, Path("journal"))
        await super().commit(changes)
        self.fuse.burn()

    async def commit_void(self, entry: Entry) -> None:
        """Give an intent up, as after a refusal by every node."""
        attempts = tuple(replace(each, state=AttemptState.VOID) for each in entry.attempts)
        await self.commit(Changes((Entry(replace(entry.intent, state=IntentState.VOID), attempts),)))


@dataclass
class Desk:
    """One process: it can be left at any moment and opened again on the same file."""

    chain: FakeChain
    wire: Wire
    database: Database
    journal: MortalJournal
    sender: Sender
    told: Recorder
    gate: Switch
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
    chain: FakeChain,
    *,
    policy: SenderPolicy = POLICY,
    fuse: Fuse | None = None,
    recover: bool = True,
    signatory: Signatory | None = None,
    gate: Switch | None = None,
    relays: Relays | None = None,
    private: PrivatePolicy | None = None,
    wired: type[Wire] = Wire,
) -> AsyncIterator[Desk]:
    """Open the journal file and start a sender on it. A fuse kills at each step too where the signer is another's."""
    assert chain.journal is not None
    fuse = fuse or Fuse(0)
    if not chain.journal.exists():
        chain.journal.write_bytes(await _empty_journal())
    database = await Database.open(chain.journal, CHAIN_ID)
    try:
        wire, journal = wired(chain, fuse), MortalJournal(database, signer().address)
        told = Recorder(fuse if signatory else None)
        gate = gate or Switch()
        journal.fuse = fuse
        outcomes: list[Outcome] = []
        sender = Sender(
            network=wire,
            journal=journal,
            signer=signatory or signer(),
            markets=markets(),
            policy=policy,
            deliver=outcomes.append,
            gate=gate,
            relays=relays,
            private=private,
            observer=told,
        )
        if recover:
            await sender.recover(chain.head)
        yield Desk(chain, wire, database, journal, sender, told, gate, outcomes)
    finally:
        await database.close()


def patient(**changes: int) -> SenderPolicy:
    """Return the policy with some waits changed."""
    return replace(POLICY, **changes)  # type: ignore[arg-type]
