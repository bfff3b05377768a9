"""The sender on a real node behind the fault proxy, with geth's rules, a real journal, and a contract that pays once.

Every process of the keeper is a `Keeper` on the same journal file; `Scene.check` asserts the invariants over all of them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from eth_account import Account

from keeper.chain.rpc import Rpc
from keeper.devnet.chain import ADMIN
from keeper.domain.chain import BlockHead, Log
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Approval, Batch, Outcome
from keeper.domain.ports import Market, Taken
from keeper.domain.units import Address, BlockHash, TokenAmount, TxHash, Wei
from keeper.execution.fees import FeePolicy
from keeper.execution.network import RpcNetwork
from keeper.execution.policy import SenderPolicy
from keeper.execution.sender import Sender
from keeper.execution.signer import Signatory
from keeper.execution.verdicts import Accepted, Verdict
from keeper.protocols.aave_v3 import calls as aave
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.outcomes import Outcomes
from tests.e2e.test_execution import POOL_CODE, plan_of
from tests.faults import geth
from tests.faults.books import Arrivals, check_books, mined_by
from tests.faults.node import CHAIN_ID, World, world_of
from tests.faults.proxy import Fault, View
from tests.toy import CASH, POOL
from tests.unit.execution.desk import ALICE, BOB, CAROL, KEY, Recorder, Switch, signer
from tests.unit.execution.fake_chain import GWEI, TAKEN, Killed, PoolCalls, PoolReader, taken_of

OURS: Final = "0x" + signer().address.hex()
POLICY: Final = SenderPolicy(
    fees=FeePolicy(max_fee_wei=Wei(500 * GWEI), max_tip_wei=Wei(5 * GWEI)), block_time_s=1, bump_after_blocks=1
)
"""What a keeper is started with: replacement at every block."""
PATIENT: Final = replace(POLICY, bump_after_blocks=3)
"""Sends the same bytes a few times before it bids more."""


class PoolCallsInAaveWords(PoolCalls):
    """The toy's calls, whose reverts are read as a genuine protocol's are."""

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        return super().decode_revert(data) if data == b"healthy" else aave.decode_revert(data)


def markets() -> dict[str, Market]:
    """Return the one market."""
    return {"toy": Market("toy", "toy", 0, cast("Any", PoolReader()), cast("Any", None), PoolCallsInAaveWords())}


class Step(Recorder):
    """Keeps what it is told, and does something the first time a step is reached: die, as a rule."""

    def __init__(self, step: str, deed: Callable[[], None]) -> None:
        super().__init__()
        self._step = step
        self._deed: Callable[[], None] | None = deed

    def reached(self, step: str, /) -> None:
        super().reached(step)
        deed = self._deed
        if step == self._step and deed is not None:
            self._deed = None
            deed()


def dying_at(step: str) -> Step:
    """Return an observer at whose hands the process dies at a step."""

    def die() -> None:
        raise Killed

    return Step(step, die)


@dataclass(frozen=True)
class Story:
    """What came of everything, without what time alone decides: to be compared with a run in which nothing failed."""

    nonce: int
    taken: tuple[str, ...]
    outcomes: tuple[tuple[str, Result, Reason | None], ...]


@dataclass(repr=False)
class Keeper:
    """One process: a sender on the scene's journal."""

    scene: "Scene"
    sender: Sender
    journal: Journal
    database: Database
    told: Recorder
    gate: Switch
    outcomes: list[Outcome] = field(default_factory=list)

    async def submit(
        self, *accounts: Address, profit_usd: int = 100, approvals: Sequence[Approval] = ()
    ) -> tuple[Verdict, ...]:
        """Plan for accounts at the newest head, and send."""
        head = await self.scene.head()
        plans = tuple(plan_of(head, each, profit_usd) for each in accounts)
        return await self.sender.submit(Batch(head, tuple(approvals), plans))

    async def sent(self, account: Address, *, profit_usd: int = 100) -> TxHash:
        """Send a plan, which must be taken, and return its hash."""
        (verdict,) = await self.submit(account, profit_usd=profit_usd)
        assert isinstance(verdict, Accepted), verdict
        return verdict.tx_hash

    async def mine(self, count: int = 1, *, base_fee_gwei: int | None = None) -> None:
        """Mine blocks, each at a base fee if one is given, and follow each."""
        for _ in range(count):
            await self.scene.block(base_fee_gwei=base_fee_gwei)
            await self.follow()

    async def follow(self) -> None:
        """Follow to the newest head, as the daemon does: with the liquidations that its logs report."""
        head = await self.scene.head()
        await self.sender.on_head(head, await self.scene.taken_in(head))

    async def until_over(self, limit: int = 10) -> int:
        """Mine cheap blocks until nothing is in flight; return how many that took."""
        for count in range(limit):
            if not self.sender._lane.slots:
                return count
            await self.mine(base_fee_gwei=1)
        raise AssertionError(f"still in flight after {limit} blocks: nonces {sorted(self.sender._lane.slots)}")

    @property
    def results(self) -> list[Result]:
        return [each.result for each in self.outcomes]

    def named(self, event: str) -> list[dict[str, object]]:
        """Return what was told of an event."""
        return [fields for name, fields in self.told.events if name == event]


@dataclass(repr=False)
class Scene:
    """The world, the journal's file, and what may have happened there."""

    world: World
    pool: geth.Pool
    rpc: Rpc
    path: Path
    arrivals: Arrivals
    chances: Counter[Address] = field(default_factory=Counter)
    strangers: set[str] = field(default_factory=set)
    """Hashes of transactions by others who hold the key."""

    @property
    def views(self) -> tuple[View, ...]:
        return self.world.views

    async def head(self) -> BlockHead:
        """Return the newest head, past every fault."""
        told = await self.world.cheat("eth_getBlockByNumber", "latest", False)
        return BlockHead(
            number=int(told["number"], 16),
            hash=BlockHash(bytes.fromhex(told["hash"][2:])),
            parent_hash=BlockHash(bytes.fromhex(told["parentHash"][2:])),
            timestamp_s=int(told["timestamp"], 16),
            base_fee_wei=Wei(int(told["baseFeePerGas"], 16)),
            gas_limit=int(told["gasLimit"], 16),
            logs_bloom=bytes.fromhex(told["logsBloom"][2:]),
        )

    async def block(self, *, base_fee_gwei: int | None = None) -> None:
        """Mine a block, as geth would: what the base fee had kept back takes part."""
        await geth.promote(self.world.proxy, self.pool)
        if base_fee_gwei is not None:
            await self.world.chain.set_next_base_fee(base_fee_gwei * GWEI)
            await self._set_apart(base_fee_gwei * GWEI)
        await self.world.mine()

    async def _set_apart(self, base_fee_wei: int) -> None:
        """Keep what a base fee prices out, which the node would forget, and give the node the rest."""
        nonce = await self.nonce()
        for each in self.pool.seen.values():
            if each.nonce < nonce:
                continue
            if each.is_held and each.cap_wei >= base_fee_wei:
                await self.world.cheat("eth_sendRawTransaction", each.raw)
            each.is_held = each.cap_wei < base_fee_wei

    async def set_liquidatable(self, account: Address, *, wanted: bool = True) -> None:
        """Let an account be liquidated once more, or not any more."""
        self.chances[account] += wanted
        slot = "0x" + account.rjust(32, b"\0").hex()
        await self.world.cheat("anvil_setStorageAt", "0x" + POOL.hex(), slot, "0x" + f"{int(wanted):064x}")

    async def set_code(self, code: bytes) -> None:
        """Put other code in the pool's place."""
        await self.world.cheat("anvil_setCode", "0x" + POOL.hex(), "0x" + code.hex())

    async def nonce(self) -> int:
        """Return the chain's nonce of the keeper."""
        return int(await self.world.cheat("eth_getTransactionCount", OURS, "latest"), 16)

    async def balance(self) -> int:
        """Return what the keeper owns in native currency."""
        return int(await self.world.cheat("eth_getBalance", OURS, "latest"), 16)

    async def last_hash(self) -> str:
        """Return the hash of the keeper's last mined transaction."""
        mined = await mined_by(self.world.cheat, OURS)
        return mined[max(mined)]

    async def logs(self, **where: object) -> list[Log]:
        """Return the pool's logs of liquidations."""
        query = {"address": "0x" + POOL.hex(), "topics": ["0x" + TAKEN.hex()], **(where or {"fromBlock": "0x0"})}
        return [
            Log(
                POOL,
                (TAKEN,),
                bytes.fromhex(each["data"][2:]),
                int(each["blockNumber"], 16),
                BlockHash(bytes.fromhex(each["blockHash"][2:])),
                int(each["logIndex"], 16),
                TxHash(bytes.fromhex(each["transactionHash"][2:])),
            )
            for each in await self.world.cheat("eth_getLogs", query)
        ]

    async def taken_in(self, head: BlockHead) -> list[Taken]:
        """Return the liquidations in one block."""
        return [taken_of(log) for log in await self.logs(blockHash="0x" + head.hash.hex())]

    async def rival_takes(self, account: Address, tip_gwei: int = 400) -> None:
        """Let somebody else bid for an account, in the block to come."""
        call = {"from": ADMIN, "to": "0x" + POOL.hex(), "data": "0x" + (b"liq!" + account).hex(), "gas": "0x30d40"}
        fees = {"maxFeePerGas": hex(1_000 * GWEI), "maxPriorityFeePerGas": hex(tip_gwei * GWEI)}
        await self.world.cheat("eth_sendTransaction", {**call, **fees})

    async def stranger_uses(self, nonce: int, *, fee_gwei: int = 1_000) -> str:
        """Let another wallet with our key use a nonce, past the proxy."""
        fields = {
            "type": 2, "chainId": CHAIN_ID, "nonce": nonce, "gas": 21_000, "maxFeePerGas": fee_gwei * GWEI,
            "maxPriorityFeePerGas": fee_gwei * GWEI // 10, "to": "0x" + "42" * 20, "value": 1, "data": b"",
        }  # fmt: skip
        signed = Account.sign_transaction(fields, KEY)
        tx_hash = str(await self.world.cheat("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex()))
        self.strangers.add(tx_hash.lower())
        return tx_hash

    @asynccontextmanager
    async def keeper(
        self,
        policy: SenderPolicy = PATIENT,
        *,
        observer: Recorder | None = None,
        signatory: Signatory | None = None,
        is_recovering: bool = True,
    ) -> AsyncIterator[Keeper]:
        """Start a process on the journal."""
        database = await Database.open(self.path, CHAIN_ID)
        journal, told, gate = Journal(database, signer().address), observer or Recorder(), Switch()
        outcomes: list[Outcome] = []
        sender = Sender(
            network=RpcNetwork(self.rpc),
            journal=journal,
            signer=signatory or signer(),
            markets=markets(),
            policy=policy,
            deliver=outcomes.append,
            gate=gate,
            observer=told,
        )
        try:
            if is_recovering:
                await sender.recover(await self.head())
            yield Keeper(self, sender, journal, database, told, gate, outcomes)
        finally:
            await database.close()

    async def story(self) -> Story:
        """Tell what came of everything."""
        database = await Database.open(self.path, CHAIN_ID)
        try:
            ended = await Outcomes(database).latest(1_000)
        finally:
            await database.close()
        return Story(
            await self.nonce(),
            tuple(sorted(log.data.hex() for log in await self.logs())),
            tuple(sorted((each.key.account.hex(), each.result, each.reason) for each in ended)),
        )

    async def check(self, *, is_over: bool = True) -> None:
        """Assert N1, N2, N3 and N11 over the proxy, the chain and the journal; `is_over`: nothing may be in flight."""
        assert self.arrivals.unaccounted == [], "N1: sent before it was in the journal"
        mined = await mined_by(self.world.cheat, OURS)
        await check_books(self.path, signer().address, mined, strangers=self.strangers, is_over=is_over)
        lots = Counter(taken_of(log).key.account for log in await self.logs() if log.data[20:] == signer().address)
        assert all(count <= self.chances[Address(account)] for account, count in lots.items()), "N2: twice"


@asynccontextmanager
async def scene_of(path: Path, views: int = 3) -> AsyncIterator[Scene]:
    """Start a node, the proxy with geth's rules, and the contract; Alice, Bob and Carol can be liquidated."""
    async with world_of(views) as world:
        arrivals = Arrivals(path)
        world.proxy.raw_transactions = arrivals
        pool = geth.strict_geth(world.proxy)
        scene = Scene(world, pool, await world.pool(), path, arrivals)
        await scene.set_code(POOL_CODE)
        await world.cheat("anvil_setCode", "0x" + CASH.address.hex(), "0x00")
        await world.cheat("anvil_setBalance", OURS, hex(10**20))
        for account in (ALICE, BOB, CAROL):
            await scene.set_liquidatable(account)
        await scene.block(base_fee_gwei=1)
        yield scene


def first(view: View, fault: Fault) -> Fault:
    """Put a fault before geth's rules, so that it answers instead of them."""
    view.add(fault)
    view.faults.insert(0, view.faults.pop())
    return fault


def allowance(amount: int = 10**6) -> Approval:
    """Return the allowance that plans need."""
    return Approval(CASH.address, POOL, TokenAmount(amount))
