"""A sender behind the gate that the daemon uses, on a fake chain with a real store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Result
from keeper.domain.plan import Outcome
from keeper.domain.units import Address, Wei
from keeper.execution.budget import Limits
from keeper.execution.gate import Warden
from keeper.execution.policy import SenderPolicy
from keeper.execution.sender import Sender
from keeper.execution.verdicts import Verdict
from keeper.store.control import Control
from keeper.store.database import Database
from keeper.store.journal import Journal
from tests.unit.execution.desk import CHAIN_ID, POLICY, Recorder, signer
from tests.unit.execution.fake_chain import FakeChain, Wire, batch_of, markets, plan_of

GENEROUS = Limits(Wei(10**30), Wei(10**30), 1_000, 1_000, 60)


def limits(**changes: int) -> Limits:
    """Return limits of which only some can matter."""
    return replace(GENEROUS, **changes)  # type: ignore[arg-type]


@dataclass
class Guarded:
    """One process: it can be left at any moment and opened again on the same file."""

    chain: FakeChain
    database: Database
    journal: Journal
    control: Control
    warden: Warden
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

    async def submit(self, *accounts: Address, profit_usd: int = 100) -> tuple[Verdict, ...]:
        plans = [plan_of(self.chain, account, profit_usd=profit_usd) for account in accounts]
        return await self.sender.submit(batch_of(self.chain, *plans))

    async def lose(self, account: Address) -> None:
        """Send a liquidation that somebody else makes first, and follow it to its end."""
        self.chain.state.liquidatable.add(account)
        await self.submit(account)
        await self.head(rivals=[account])
        await self.heads(POLICY.confirmations)

    async def win(self, account: Address) -> None:
        """Send a liquidation that works, and follow it to its end."""
        self.chain.state.liquidatable.add(account)
        await self.submit(account)
        await self.heads(POLICY.confirmations + 1)

    async def wait(self, seconds: int) -> None:
        """Let empty blocks go by."""
        await self.heads(-(-seconds // 12))

    @property
    def results(self) -> list[Result]:
        return [outcome.result for outcome in self.outcomes]

    def told_of(self, name: str, key: str) -> list[object]:
        return [fields.get(key) for found, fields in self.told.events if found == name]


@asynccontextmanager
async def guarded(
    chain: FakeChain, most: Limits = GENEROUS, *, policy: SenderPolicy = POLICY, halts_on_foreign: bool = False
) -> AsyncIterator[Guarded]:
    """Open the store and start a sender behind its gate."""
    assert chain.journal is not None
    database = await Database.open(chain.journal, CHAIN_ID)
    try:
        journal, control, told = Journal(database, signer().address), Control(database), Recorder()
        warden = Warden(journal, control, most, halts_on_foreign=halts_on_foreign, observer=told)
        outcomes: list[Outcome] = []
        sender = Sender(
            network=Wire(chain),
            journal=journal,
            signer=signer(),
            markets=markets(),
            policy=policy,
            deliver=outcomes.append,
            gate=warden,
            observer=told,
        )
        await sender.recover(chain.head)
        yield Guarded(chain, database, journal, control, warden, sender, told, outcomes)
    finally:
        await database.close()
