"""Relays before the fake chain, and a sender that uses them."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from keeper.chain.broadcast import SendAnswer
from keeper.domain.chain import BlockHead
from keeper.domain.plan import Outcome
from keeper.domain.units import TxHash
from keeper.execution.policy import SenderPolicy
from keeper.execution.relay import RelayAnswer, Word
from keeper.execution.route import PrivatePolicy
from keeper.execution.sender import Sender
from keeper.store.database import Database
from tests.unit.execution.desk import CHAIN_ID, POLICY, Desk, MortalJournal, Recorder, Switch, _empty_journal, signer
from tests.unit.execution.fake_chain import FakeChain, Fuse, Tx, Wire, markets

HIDDEN = PrivatePolicy(blocks=3)


@dataclass
class Parcel:
    """What relays were given at once. `last_block` is None for a bundle, which is for `block` alone."""

    txs: list[Tx]
    block: int | None
    last_block: int | None

    def fits(self, block: int) -> bool:
        return block == self.block if self.last_block is None else block <= self.last_block


@dataclass
class FakeRelays:
    """Two relays that say the same. Everything that they are given must be in the journal as hidden."""

    chain: FakeChain
    word: Word = Word.TAKEN
    includes: bool = False
    """Whether the next blocks are of their making."""
    fuse: Fuse = field(default_factory=lambda: Fuse(0))
    parcels: list[Parcel] = field(default_factory=list)
    withdrawn: list[TxHash | bytes] = field(default_factory=list)
    on_take: Callable[[], None] | None = None
    """Called when something arrives, or would."""

    @property
    def seen(self) -> list[Tx]:
        """Return what they were given, the last of each parcel."""
        return [parcel.txs[-1] for parcel in self.parcels]

    async def send_transaction(self, raw: bytes, *, tx_hash: TxHash, last_block: int) -> Sequence[RelayAnswer]:
        return await self._take(Parcel([Tx.decode(raw)], None, last_block), [tx_hash])

    async def send_bundle(self, raws: Sequence[bytes], *, block: int, name: bytes) -> Sequence[RelayAnswer]:
        return await self._take(Parcel([Tx.decode(raw) for raw in raws], block, None), None)

    def withdraw_transaction(self, tx_hash: TxHash) -> None:
        self.withdrawn.append(tx_hash)

    def withdraw_bundle(self, name: bytes) -> None:
        self.withdrawn.append(name)

    def mine(self, **world: object) -> BlockHead:
        """Mine a block, of the relays' making where they include: what they hold is in no pool before or after."""
        held: dict[int, Tx] = {}
        number = self.chain.head.number + 1
        for parcel in self.parcels if self.includes and self.word is not Word.UNREACHED else ():
            if parcel.fits(number):
                held |= {tx.nonce: tx for tx in parcel.txs}
        public = dict(self.chain.pool)
        self.chain.pool |= held
        head = self.chain.mine(**world)  # type: ignore[arg-type]
        self.chain.pool = {nonce: tx for nonce, tx in public.items() if nonce >= self.chain.state.nonce}
        return head

    async def _take(self, parcel: Parcel, hashes: list[TxHash] | None) -> Sequence[RelayAnswer]:
        self.fuse.burn()
        assert hashes is None or hashes == [tx.hash for tx in parcel.txs]
        self._check_journal(parcel)
        if self.on_take is not None:
            self.on_take()
        if self.word is not Word.UNREACHED:
            self.parcels.append(parcel)
        self.fuse.burn()
        return [RelayAnswer(f"relay-{place}", self.word, "as told") for place in (1, 2)]

    def _check_journal(self, parcel: Parcel) -> None:
        """N1 for relays: hidden in the journal, and not longer than it says there."""
        with sqlite3.connect(f"file:{self.chain.journal}?mode=ro", uri=True) as connection:
            query = "select route, expires_block from attempt where tx_hash = ?"
            rows = [connection.execute(query, (tx.hash,)).fetchone() for tx in parcel.txs]
        connection.close()
        assert None not in rows, "given to a relay before it was in the journal"
        route, expires_block = rows[-1]
        assert route == "private"
        assert (parcel.block or self.chain.head.number + 1) <= expires_block
        assert parcel.last_block in {None, expires_block}


class PublicWire(Wire):
    """The way to the nodes: nothing may go there that the journal does not have as public at that moment."""

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        with sqlite3.connect(f"file:{self.chain.journal}?mode=ro", uri=True) as connection:
            rows = connection.execute("select route from attempt where tx_hash = ?", (Tx.decode(raw).hash,)).fetchall()
        connection.close()
        assert rows == [("public",)], "shown to a node while it was hidden"
        return await super().broadcast(raw)


@dataclass
class HiddenDesk(Desk):
    """A desk whose blocks the relays may make."""

    relays: FakeRelays | None = None

    async def head(self, **world: object) -> BlockHead:
        head = self.relays.mine(**world) if self.relays else self.chain.mine(**world)  # type: ignore[arg-type]
        await self.sender.on_head(head, self.chain.taken_at(head))
        return head


@asynccontextmanager
async def hidden_desk(
    chain: FakeChain,
    relays: FakeRelays | None,
    *,
    private: PrivatePolicy = HIDDEN,
    policy: SenderPolicy = POLICY,
    fuse: Fuse | None = None,
    outcomes: list[Outcome] | None = None,
) -> AsyncIterator[HiddenDesk]:
    """Open the journal file and start a sender on it that hides what it can."""
    assert chain.journal is not None
    if not chain.journal.exists():
        chain.journal.write_bytes(await _empty_journal())
    database = await Database.open(chain.journal, CHAIN_ID)
    fuse = fuse or Fuse(0)
    if relays is not None:
        relays.fuse = fuse
    try:
        wire, journal = PublicWire(chain, fuse), MortalJournal(database, signer().address)
        journal.fuse = fuse
        told, gate, outcomes = Recorder(), Switch(), [] if outcomes is None else outcomes
        sender = Sender(
            network=wire,
            journal=journal,
            signer=signer(),
            markets=markets(),
            policy=policy,
            deliver=outcomes.append,
            gate=gate,
            relays=relays,
            private=private,
            observer=told,
        )
        await sender.recover(chain.head)
        yield HiddenDesk(chain, wire, database, journal, sender, told, gate, outcomes, relays)
    finally:
        await database.close()
