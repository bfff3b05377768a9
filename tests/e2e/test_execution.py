"""The sender against a real node: its pool, its receipts, its reorgs, and a contract that can be liquidated once."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from eth_account import Account

from keeper.chain.endpoint import nodes_of
from keeper.chain.rpc import Rpc
from keeper.chain.view import latest_head
from keeper.devnet.chain import DevChain
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.chain import BlockHead, Call
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Approval, Batch, Outcome, Plan
from keeper.domain.position import Opportunity, PositionKey
from keeper.domain.units import Address, Base, PositionId, TokenAmount
from keeper.execution.network import RpcNetwork
from keeper.execution.policy import SenderPolicy
from keeper.execution.sender import Sender
from keeper.execution.verdicts import Accepted, Skipped, Verdict
from keeper.store.database import Database
from keeper.store.journal import Journal
from tests.toy import CASH, GOLD, POOL
from tests.unit.execution.desk import ALICE, BOB, CHAIN_ID, POLICY, Recorder, signer
from tests.unit.execution.fake_chain import GAS, LIQUIDATE, NATIVE_PRICE, TAKEN, markets

POOL_CODE = bytes.fromhex(
    "600435" + "60601c"  # the account
    "8054"  # is it liquidatable?
    "15604157"  # if not, revert
    "5f8155"  # not any more
    "60601b5f52" + "3360601b601452"  # log the account and who asked
    "7f" + TAKEN.hex() + "60285fa1" + "00"
    "5b66" + b"healthy".hex() + "60c81b5f5260075ffd"
)
"""`liq!(bytes20)`: takes an account whose slot is set, once."""


class RunningClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()


@dataclass
class World:
    """A node that mines when told, and a pool of connections to it."""

    node: DevChain
    rpc: Rpc
    path: Path

    async def cheat(self, method: str, *params: object) -> object:
        return await self.node.rpc(method, *params)

    async def set_liquidatable(self, account: Address, *, wanted: bool = True) -> None:
        slot = "0x" + account.rjust(32, b"\0").hex()
        await self.cheat("anvil_setStorageAt", "0x" + POOL.hex(), slot, "0x" + f"{int(wanted):064x}")

    async def head(self) -> BlockHead:
        return await latest_head(self.rpc)

    async def nonce(self) -> int:
        return int(str(await self.cheat("eth_getTransactionCount", "0x" + signer().address.hex(), "latest")), 16)


@dataclass
class Desk:
    """One process with its sender."""

    world: World
    sender: Sender
    journal: Journal
    told: Recorder
    outcomes: list[Outcome] = field(default_factory=list)

    async def submit(self, *accounts: Address, approvals: tuple[Approval, ...] = ()) -> tuple[Verdict, ...]:
        head = await self.world.head()
        plans = tuple(plan_of(head, account) for account in accounts)
        return await self.sender.submit(Batch(head, approvals, plans))

    async def mine(self, count: int = 1) -> None:
        for _ in range(count):
            await self.world.node.mine()
            await self.follow()

    async def follow(self) -> None:
        await self.sender.on_head(await self.world.head())

    @property
    def results(self) -> list[Result]:
        return [each.result for each in self.outcomes]


def plan_of(head: BlockHead, account: Address, profit_usd: int = 100) -> Plan:
    opportunity = Opportunity(
        key=PositionKey("toy", PositionId(account)),
        repay=CASH,
        repay_amount=TokenAmount(1_000),
        repay_limit=TokenAmount(1_000),
        repay_base=Base(1_000 * 10**8),
        seize=GOLD,
        seized_amount=TokenAmount(11),
        seized_base=Base((1_000 + profit_usd) * 10**8),
        protocol_fee_amount=TokenAmount(0),
        spender=POOL,
        target=POOL,
        at=head.landing(12),
    )
    call = Call(POOL, LIQUIDATE + account)
    return Plan(f"{head.hash.hex()[:8]}{account.hex()[-8:]}", head, opportunity, call, GAS, NATIVE_PRICE, Base(10**8))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    packages = ensure_packages(default_cache_dir(), print)
    options = AnvilOptions(mining=False, chain_id=CHAIN_ID)
    async with Anvil(find_anvil(packages), options) as node, DevChain(node.http_url) as chain:
        rpc = Rpc(nodes_of([node.http_url]), clock=RunningClock())
        await rpc.start(CHAIN_ID)
        world = World(chain, rpc, tmp_path / "keeper.sqlite3")
        await world.cheat("anvil_setCode", "0x" + POOL.hex(), "0x" + POOL_CODE.hex())
        await world.cheat("anvil_setCode", "0x" + CASH.address.hex(), "0x00")
        await world.cheat("anvil_setBalance", "0x" + signer().address.hex(), hex(10**20))
        for account in (ALICE, BOB):
            await world.set_liquidatable(account)
        await chain.mine()
        try:
            yield world
        finally:
            await rpc.close()


@asynccontextmanager
async def desk(world: World, policy: SenderPolicy = POLICY) -> AsyncIterator[Desk]:
    database = await Database.open(world.path, CHAIN_ID)
    journal, told = Journal(database, signer().address), Recorder()
    outcomes: list[Outcome] = []
    sender = Sender(
        network=RpcNetwork(world.rpc),
        journal=journal,
        signer=signer(),
        markets=markets(),
        policy=replace(policy, block_time_s=1),
        deliver=outcomes.append,
        observer=told,
    )
    try:
        await sender.recover(await world.head())
        yield Desk(world, sender, journal, told, outcomes)
    finally:
        await database.close()


async def test_a_plan_and_its_allowance_are_simulated_sent_mined_and_won(world: World):
    async with desk(world) as one:
        approvals = (Approval(CASH.address, POOL, TokenAmount(10**6)),)
        first, second = await one.submit(ALICE, BOB, approvals=approvals)
        assert isinstance(first, Accepted)
        assert isinstance(second, Accepted)
        assert (first.nonce, second.nonce) == (1, 2)
        await one.mine(2)
        assert one.results == [Result.WON, Result.WON]
        assert await world.nonce() == 3
        assert one.outcomes[0].gas_cost_wei > 0


async def test_what_would_revert_is_not_sent_and_its_reason_is_decoded(world: World):
    await world.set_liquidatable(ALICE, wanted=False)
    async with desk(world) as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.NOT_LIQUIDATABLE
        assert await one.journal.highest_nonce() is None


async def test_stuck_then_outbid_then_mined(world: World):
    async with desk(world) as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Accepted)
        await world.node.set_next_base_fee(20 * 10**9)
        await one.mine(4)
        assert "tx.replaced" in one.told.names
        await one.mine(2)
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash != verdict.tx_hash
        assert await world.nonce() == 1


async def test_stuck_without_a_point_is_cancelled(world: World):
    async with desk(world) as one:
        await one.submit(ALICE)
        await world.node.set_next_base_fee(20 * 10**9)
        await one.mine()
        await world.set_liquidatable(ALICE, wanted=False)
        await one.mine(5)
        (outcome,) = one.outcomes
        assert outcome.result is Result.CANCELLED
        assert "not_liquidatable" in outcome.detail
        assert await world.nonce() == 1


async def test_a_revert_on_chain_carries_the_contracts_reason(world: World):
    async with desk(world) as one:
        await one.submit(ALICE)
        await world.set_liquidatable(ALICE, wanted=False)
        await one.mine(2)
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        assert outcome.reason is Reason.NOT_LIQUIDATABLE


async def test_a_dropped_transaction_is_sent_again(world: World):
    async with desk(world) as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Accepted)
        await world.cheat("anvil_dropAllTransactions")
        await one.mine(3)
        assert "tx.dropped" in one.told.names
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == verdict.tx_hash


async def test_a_nonce_used_by_another_wallet_with_our_key_is_flagged(world: World):
    async with desk(world) as one:
        await one.submit(ALICE)
        foreign = Account.sign_transaction(
            {
                "type": 2,
                "chainId": CHAIN_ID,
                "nonce": 0,
                "gas": 21_000,
                "maxFeePerGas": 10**12,
                "maxPriorityFeePerGas": 10**11,
                "to": "0x" + "42" * 20,
                "value": 1,
                "data": b"",
            },
            "0x" + "11" * 32,
        )
        await world.cheat("eth_sendRawTransaction", "0x" + bytes(foreign.raw_transaction).hex())
        await one.mine(4)
        (outcome,) = one.outcomes
        assert outcome.reason is Reason.FOREIGN_NONCE
        (verdict,) = await one.submit(BOB)
        assert isinstance(verdict, Accepted)
        assert verdict.nonce == 1
        await one.mine(2)
        assert one.results[-1] is Result.WON


async def test_a_reorg_takes_the_receipt_back_and_the_same_bytes_win_again(world: World):
    async with desk(world, replace(POLICY, confirmations=4)) as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Accepted)
        await one.mine(2)
        assert one.outcomes == []
        await world.cheat("anvil_reorg", 2, [])
        await one.follow()
        assert "tx.reorged" in one.told.names
        await one.mine(5)
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == verdict.tx_hash


@pytest.mark.parametrize("fate", ["mined meanwhile", "still waiting", "dropped", "pointless"])
async def test_a_restart_finds_what_was_in_flight(world: World, fate: str):
    async with desk(world) as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Accepted)
    match fate:
        case "mined meanwhile":
            await world.node.mine()
        case "dropped":
            await world.cheat("anvil_dropAllTransactions")
        case "pointless":
            await world.set_liquidatable(ALICE, wanted=False)
    async with desk(world) as other:
        await other.mine(3)
        (outcome,) = other.outcomes
        assert outcome.result is (Result.CANCELLED if fate == "pointless" else Result.WON)
        assert outcome.plan_id == verdict.plan_id
        assert await world.nonce() == 1
        assert other.sender.in_flight == frozenset()


async def test_a_batch_of_many_is_ordered_and_leaves_no_gap(world: World):
    accounts = [Address(number.to_bytes(20)) for number in range(1_000, 1_012)]
    await asyncio.gather(*(world.set_liquidatable(account) for account in accounts))
    await world.node.mine()
    async with desk(world) as one:
        verdicts = await one.submit(*accounts)
        assert [each.nonce for each in verdicts if isinstance(each, Accepted)] == list(range(12))
        await one.mine(2)
        assert one.results == [Result.WON] * 12
