"""A chain small enough to check by hand: one pool, one token, a mempool with geth's rules, blocks, reorgs, and faults."""

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import rlp  # type: ignore[import-untyped]
from eth_hash.auto import keccak

from keeper.chain.broadcast import SendAnswer
from keeper.chain.phrases import SendVerdict
from keeper.chain.simulation import Simulated
from keeper.chain.transactions import Funds, Standing
from keeper.domain.chain import BlockHead, Call, Log, Receipt
from keeper.domain.outcome import Reason
from keeper.domain.plan import Approval, Batch, Plan, Realised
from keeper.domain.ports import Market, Taken
from keeper.domain.position import Opportunity, PositionKey
from keeper.domain.units import Address, Base, BlockHash, PositionId, TokenAmount, TxHash, Wei
from keeper.errors import Transient
from keeper.execution.ports import FeeHistory
from keeper.execution.signer import APPROVE
from tests.toy import CASH, GOLD, POOL, block_hash

LIQUIDATE = b"liq!"
TAKEN = b"\x77" * 32
GWEI = 10**9
GAS = 100_000
RIVAL = Address(b"\x66" * 20)
NATIVE_PRICE = Base(1_000 * 10**8)


@dataclass(frozen=True)
class Tx:
    """A decoded transaction."""

    hash: TxHash
    nonce: int
    tip: int
    max_fee: int
    gas: int
    to: Address
    data: bytes

    @classmethod
    def decode(cls, raw: bytes) -> "Tx":
        fields = rlp.decode(raw[1:])
        nonce, tip, max_fee, gas = (int.from_bytes(each) for each in fields[1:5])
        return cls(TxHash(keccak(raw)), nonce, tip, max_fee, gas, Address(fields[5]), fields[7])


@dataclass
class State:
    """What transactions change."""

    nonce: int
    liquidatable: set[Address]
    allowance: int
    balance: int

    def copy(self) -> "State":
        return State(self.nonce, set(self.liquidatable), self.allowance, self.balance)


@dataclass
class Block:
    head: BlockHead
    state: State
    receipts: dict[TxHash, Receipt]
    taken: list[Taken]


@dataclass
class FakeChain:
    """Blocks are mined on demand. Every broadcast is checked against the journal file, if there is one."""

    signer: Address
    base_fee: int = 10 * GWEI
    data_fee: int = 0
    """What every transaction costs beside its gas, as on a rollup."""
    data_gas_each: int = 0
    """The gas that every transaction's data takes, as on another rollup."""
    is_strict_token: bool = False
    """Whether the token refuses to change an allowance that is not zero, as USDT does."""
    is_token_blocked: bool = False
    has_sequences: bool = True
    journal: Path | None = None
    pool: dict[int, Tx] = field(default_factory=dict)
    seen: list[Tx] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    forks: int = 0
    refuse: SendVerdict | None = None
    """What every node answers to every broadcast."""
    lose: bool = False
    """Whether broadcasts are answered by nobody and kept by nobody."""
    swallow: bool = False
    """Whether broadcasts are kept, and the answer lost."""
    hides_receipts: bool = False
    """Whether the node that answers knows the nonce and not the receipts yet."""
    disputed: set[TxHash] = field(default_factory=set)
    """Whose receipts a second node does not have."""
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks.append(Block(self._head(100, 0, 0), State(0, set(), 10**30, 10**20), {}, []))

    def _head(self, number: int, fork: int, parent_fork: int) -> BlockHead:
        return BlockHead(
            number=number,
            hash=block_hash(number, fork),
            parent_hash=block_hash(number - 1, parent_fork),
            timestamp_s=1_700_000_000 + 12 * number,
            base_fee_wei=Wei(self.base_fee),
            gas_limit=30_000_000,
            logs_bloom=bytes(256),
        )

    @property
    def head(self) -> BlockHead:
        return self.blocks[-1].head

    @property
    def state(self) -> State:
        return self.blocks[-1].state

    @property
    def receipts(self) -> dict[TxHash, Receipt]:
        return {tx_hash: receipt for block in self.blocks for tx_hash, receipt in block.receipts.items()}

    # ---------------------------------------------------------------------------------------------------- the world

    def mine(self, *, rivals: Iterable[Address] = (), foreign: int = 0, is_empty: bool = False) -> BlockHead:
        """Mine what the pool holds and pays, after any rivals, `foreign` transactions of the signer's key first."""
        parent = self.blocks[-1]
        fork = int.from_bytes(parent.head.hash[:8])
        head = self._head(parent.head.number + 1, self.forks, fork)
        state, receipts, taken = parent.state.copy(), {}, []
        for account in rivals:
            state.liquidatable.discard(account)
            taken.append(self._taken(account, RIVAL, head, TxHash(bytes(32))))
        state.nonce += foreign
        while not is_empty and (tx := self.pool.get(state.nonce)) is not None and tx.max_fee >= self.base_fee:
            ok, logs = self._execute(state, tx.to, tx.data)
            used = 21_000 if not tx.data else GAS
            state.nonce += 1
            price = min(tx.max_fee, self.base_fee + tx.tip)
            state.balance -= used * price
            found = [self._taken(account, self.signer, head, tx.hash) for account in logs]
            taken += found
            receipts[tx.hash] = Receipt(
                tx.hash,
                head.number,
                head.hash,
                ok,
                used,
                Wei(price),
                tuple(each.log for each in found),
                Wei(self.data_fee),
            )
        self.pool = {nonce: tx for nonce, tx in self.pool.items() if nonce >= state.nonce}
        self.blocks.append(Block(head, state, receipts, taken))
        return head

    def reorg(self, depth: int) -> None:
        """Forget blocks; what was in them is dropped, as a restarted pool would."""
        del self.blocks[-depth:]
        self.forks += 1

    def taken_at(self, head: BlockHead) -> list[Taken]:
        return next(block.taken for block in self.blocks if block.head == head)

    def _execute(self, state: State, to: Address, data: bytes) -> tuple[bool, list[Address]]:
        """Run a call on a state: whether it worked, and whom it liquidated."""
        if data[:4] == APPROVE:
            amount = int.from_bytes(data[36:68])
            if self.is_token_blocked or (self.is_strict_token and amount and state.allowance):
                return False, []
            state.allowance = amount
            return True, []
        if to == POOL and data[:4] == LIQUIDATE:
            account = Address(data[4:24])
            if account not in state.liquidatable or state.allowance < 1_000:
                return False, []
            state.liquidatable.remove(account)
            state.allowance -= 1_000
            return True, [account]
        return True, []

    def _taken(self, account: Address, liquidator: Address, head: BlockHead, tx_hash: TxHash) -> Taken:
        log = Log(POOL, (TAKEN,), account + liquidator, head.number, head.hash, 0, tx_hash)
        return taken_of(log)

    # ------------------------------------------------------------------------------------------------------ the port

    async def simulate(
        self, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int
    ) -> Sequence[Simulated] | None:
        self.requests.append("simulate")
        if not self.has_sequences:
            return None
        assert at_s > head.timestamp_s
        state = self.state.copy()
        return [self._simulated(state, call, has_logs=True) for call in calls]

    async def call(self, call: Call, *, sender: Address, block_hash: BlockHash) -> Simulated:
        self.requests.append("call")
        state = next(block.state for block in self.blocks if block.head.hash == block_hash)
        return self._simulated(state.copy(), call, has_logs=False)

    def _simulated(self, state: State, call: Call, *, has_logs: bool) -> Simulated:
        before = state.copy()
        ok, accounts = self._execute(state, call.to, call.data)
        logs = [self._taken(account, self.signer, self.head, TxHash(bytes(32))).log for account in accounts]
        if ok:
            return Simulated(
                ok=True, data=b"", gas_used=GAS if call.data else 21_000, logs=tuple(logs) if has_logs else None
            )
        blocked = call.to == POOL and Address(call.data[4:24]) in before.liquidatable
        return Simulated(ok=False, data=b"allowance" if blocked else b"healthy", gas_used=30_000, logs=())

    async def fee_history(self, *, head: BlockHead, blocks: int, percentiles: Sequence[int]) -> FeeHistory:
        self.requests.append("fee_history")
        past = [block.head.base_fee_wei for block in self.blocks if block.head.number <= head.number]
        return FeeHistory([*past[-blocks:], Wei(self.base_fee)], [[Wei(GWEI)] * len(percentiles)] * blocks)

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        assert head == self.head
        assert all(len(each) > 60 for each in payloads)  # an envelope and some calldata
        return [Wei(self.data_fee)] * len(payloads)

    async def data_gas(self, calls: Sequence[Call], head: BlockHead) -> Sequence[int]:
        assert head == self.head
        return [self.data_gas_each] * len(calls)

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        self.requests.append("funds")
        return Funds(self.state.nonce, Wei(self.state.balance))

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        self.requests.append("standing")
        receipts = {} if self.hides_receipts else self.receipts
        return Standing(self.state.nonce, {each: receipts[each] for each in hashes if each in receipts})

    async def confirmed(self, receipts: Sequence[Receipt]) -> Mapping[TxHash, Receipt]:
        return {each.tx_hash: each for each in receipts if each.tx_hash not in self.disputed}

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        self.requests.append("broadcast")
        tx = Tx.decode(raw)
        self._check_journal(tx)
        self.seen.append(tx)
        if self.lose:
            return [SendAnswer("a", SendVerdict.UNREACHABLE, "timeout")]
        verdict = self.refuse or self._admit(tx)
        if self.swallow:
            return [SendAnswer("a", SendVerdict.UNREACHABLE, "timeout")]
        return [SendAnswer("a", verdict, ""), SendAnswer("b", SendVerdict.UNREACHABLE, "")][: 1 if self.refuse else 2]

    def _admit(self, tx: Tx) -> SendVerdict:
        held = self.pool.get(tx.nonce)
        if tx.nonce < self.state.nonce:
            return SendVerdict.NONCE_TOO_LOW
        if held is not None and held.hash == tx.hash:
            return SendVerdict.ALREADY_KNOWN
        if held is not None and (10 * tx.max_fee < 11 * held.max_fee or 10 * tx.tip < 11 * held.tip):
            return SendVerdict.REPLACEMENT_UNDERPRICED
        if tx.gas * tx.max_fee > self.state.balance:
            return SendVerdict.INSUFFICIENT_FUNDS
        self.pool[tx.nonce] = tx
        return SendVerdict.ACCEPTED

    def _check_journal(self, tx: Tx) -> None:
        """Invariant N1: what leaves is in the journal, with the same hash, nonce and fees."""
        if self.journal is None:
            return
        with sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True) as connection:
            query = "select nonce, max_fee_wei, tip_wei from attempt where tx_hash = ?"
            rows = connection.execute(query, (tx.hash,)).fetchall()
        connection.close()
        assert rows == [(tx.nonce, str(tx.max_fee), str(tx.tip))], "sent before it was in the journal"


class Killed(BaseException):
    """The process is gone."""


class Wire:
    """One process's connection to the chain: it can fail, and it dies with the process."""

    def __init__(self, chain: FakeChain, fuse: "Fuse | None" = None) -> None:
        self.chain = chain
        self.fuse = fuse or Fuse(0)
        self.fail: set[str] = set()

    async def _through(self, name: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        self.fuse.burn()
        if name in self.fail:
            raise Transient(f"{name} failed")
        answer = await ask()
        self.fuse.burn()
        return answer

    async def simulate(
        self, calls: Sequence[Call], *, sender: Address, head: BlockHead, at_s: int
    ) -> Sequence[Simulated] | None:
        return cast(
            "Sequence[Simulated] | None",
            await self._through("simulate", lambda: self.chain.simulate(calls, sender=sender, head=head, at_s=at_s)),
        )

    async def call(self, call: Call, *, sender: Address, block_hash: BlockHash) -> Simulated:
        return cast(
            "Simulated",
            await self._through("call", lambda: self.chain.call(call, sender=sender, block_hash=block_hash)),
        )

    async def fee_history(self, *, head: BlockHead, blocks: int, percentiles: Sequence[int]) -> FeeHistory:
        return cast(
            "FeeHistory",
            await self._through(
                "fee_history", lambda: self.chain.fee_history(head=head, blocks=blocks, percentiles=percentiles)
            ),
        )

    async def data_fees(self, payloads: Sequence[bytes], head: BlockHead) -> Sequence[Wei]:
        return cast("Sequence[Wei]", await self._through("data_fees", lambda: self.chain.data_fees(payloads, head)))

    async def data_gas(self, calls: Sequence[Call], head: BlockHead) -> Sequence[int]:
        return cast("Sequence[int]", await self._through("data_gas", lambda: self.chain.data_gas(calls, head)))

    async def funds(self, address: Address, head: BlockHead) -> Funds:
        return cast("Funds", await self._through("funds", lambda: self.chain.funds(address, head)))

    async def standing(self, address: Address, hashes: Sequence[TxHash]) -> Standing:
        return cast("Standing", await self._through("standing", lambda: self.chain.standing(address, hashes)))

    async def confirmed(self, receipts: Sequence[Receipt]) -> Mapping[TxHash, Receipt]:
        if "confirmed" in self.fail:
            raise Transient("confirmed failed")
        return await self.chain.confirmed(receipts)

    async def broadcast(self, raw: bytes) -> Sequence[SendAnswer]:
        return cast("Sequence[SendAnswer]", await self._through("broadcast", lambda: self.chain.broadcast(raw)))


@dataclass
class Fuse:
    """Kills the process at the n-th instant at which it could die; 0 never."""

    at: int
    burnt: int = 0

    @property
    def is_blown(self) -> bool:
        return 0 < self.at <= self.burnt

    def burn(self) -> None:
        self.burnt += 1
        if self.is_blown:
            raise Killed


# ---------------------------------------------------------------------------------------------------------- the market


class PoolReader:
    """Reads the pool's own log."""

    market = "toy"

    def liquidations(self, logs: Iterable[Log]) -> list[Taken]:
        return [taken_of(log) for log in logs if log.topics == (TAKEN,)]


class PoolCalls:
    """Reads the pool's own reverts."""

    GAS_ESTIMATE = GAS
    SELECTORS = frozenset({LIQUIDATE})
    PAYABLE: frozenset[bytes] = frozenset()

    def liquidation(self, opportunity: Opportunity) -> Call:
        return Call(POOL, LIQUIDATE + opportunity.key.account)

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        if data == b"healthy":
            return Reason.NOT_LIQUIDATABLE, "healthy"
        return Reason.UNKNOWN, data.decode()


def taken_of(log: Log) -> Taken:
    key = PositionKey("toy", PositionId(log.data[:20]))
    realised = Realised(TokenAmount(1_000), TokenAmount(11))
    return Taken(key, Address(log.data[20:40]), realised, CASH.address, GOLD.address, log)


def markets() -> dict[str, Market]:
    return {"toy": Market("toy", "toy", 0, cast("Any", PoolReader()), cast("Any", None), PoolCalls())}


def plan_of(chain: FakeChain, account: Address, *, profit_usd: int = 100) -> Plan:
    """A plan that repays 1,000 cash for 11 gold at a profit."""
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
        at=chain.head.landing(12),
    )
    plan_id = keccak(chain.head.hash + account).hex()[:16]
    return Plan(plan_id, chain.head, opportunity, PoolCalls().liquidation(opportunity), GAS, NATIVE_PRICE, Base(10**8))


def batch_of(chain: FakeChain, *plans: Plan, approvals: Sequence[Approval] = ()) -> Batch:
    return Batch(chain.head, tuple(approvals), tuple(replace(plan, head=chain.head) for plan in plans))


def approval(amount: int = 10**6) -> Approval:
    return Approval(CASH.address, POOL, TokenAmount(amount))
