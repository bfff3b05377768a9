"""The sender behind the daemon's own gate, on the scene's real node: one process that can be left and started again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from keeper.domain.outcome import Result
from keeper.domain.plan import Batch, Outcome
from keeper.domain.units import Address
from keeper.execution.budget import Limits
from keeper.execution.gate import Warden
from keeper.execution.network import RpcNetwork
from keeper.execution.policy import SenderPolicy
from keeper.execution.sender import Sender
from keeper.execution.verdicts import Accepted, Skipped, Verdict
from keeper.store.control import Control
from keeper.store.database import Database
from keeper.store.journal import Journal
from tests.e2e.test_execution import plan_of
from tests.faults import rules
from tests.faults.node import CHAIN_ID
from tests.faults.world import POLICY, Scene, first, markets
from tests.unit.execution.desk import Recorder, signer
from tests.unit.execution.guarded import GENEROUS


@dataclass
class Process:
    """One keeper on the scene's journal."""

    scene: Scene
    sender: Sender
    warden: Warden
    told: Recorder
    outcomes: list[Outcome] = field(default_factory=list)

    async def submit(self, account: Address, *, profit_usd: int = 100) -> Verdict:
        """Plan for an account at the newest head, and send."""
        head = await self.scene.head()
        (verdict,) = await self.sender.submit(Batch(head, (), (plan_of(head, account, profit_usd),)))
        return verdict

    async def sent(self, account: Address, *, profit_usd: int = 100) -> Accepted:
        """Send a plan, which must be taken."""
        verdict = await self.submit(account, profit_usd=profit_usd)
        assert isinstance(verdict, Accepted), verdict
        return verdict

    async def skipped(self, account: Address, *, profit_usd: int = 100) -> Skipped:
        """Offer a plan, which must not be sent."""
        verdict = await self.submit(account, profit_usd=profit_usd)
        assert isinstance(verdict, Skipped), verdict
        return verdict

    async def mine(self, count: int = 1, *, base_fee_gwei: int | None = None) -> None:
        """Mine blocks, each at a base fee if one is given, and follow each."""
        for _ in range(count):
            await self.scene.block(base_fee_gwei=base_fee_gwei)
            head = await self.scene.head()
            await self.sender.on_head(head, await self.scene.taken_in(head))

    @property
    def results(self) -> list[Result]:
        return [each.result for each in self.outcomes]

    def named(self, event: str) -> list[dict[str, object]]:
        """Return what was told of an event."""
        return [fields for name, fields in self.told.events if name == event]


@asynccontextmanager
async def process(
    scene: Scene,
    *,
    limits: Limits = GENEROUS,
    policy: SenderPolicy = POLICY,
    data_fee_oracle: Address | None = None,
    data_gas_oracle: Address | None = None,
) -> AsyncIterator[Process]:
    """Start a process on the scene's journal."""
    database = await Database.open(scene.path, CHAIN_ID)
    told, outcomes = Recorder(), list[Outcome]()
    journal = Journal(database, signer().address)
    warden = Warden(journal, Control(database), limits, observer=told)
    sender = Sender(
        network=RpcNetwork(scene.rpc, data_fee_oracle, data_gas_oracle),
        journal=journal,
        signer=signer(),
        markets=markets(),
        policy=policy,
        deliver=outcomes.append,
        gate=warden,
        observer=told,
    )
    try:
        await sender.recover(await scene.head())
        yield Process(scene, sender, warden, told, outcomes)
    finally:
        await database.close()


def refusing(scene: Scene, message: str) -> None:
    """Let every node refuse every transaction in the same words, until `relenting`."""
    for view in scene.views:
        first(view, rules.error(message, methods=("eth_sendRawTransaction",)))


def relenting(scene: Scene) -> None:
    """Let nodes take transactions again."""
    for view in scene.views:
        view.faults.pop(0)
