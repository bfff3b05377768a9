"""Who gives the executor orders: a key that may, alone, or the owner elsewhere, for whom they are printed."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final

from eth_utils.crypto import keccak

from keeper.chain.failures import RpcError
from keeper.chain.reads import PinnedReads
from keeper.chain.rpc import Rpc
from keeper.chain.simulation import call_alone
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile
from keeper.domain.chain import Call, Receipt
from keeper.domain.units import Address
from keeper.errors import AlreadyRunning, ExitCode, Fenced, Transient, Unsafe
from keeper.execution.envelope import NOBODY
from keeper.execution.fees import FeePolicy
from keeper.execution.order import MAX_GAS_LIMIT, Patience, Priced, carried_out, priced
from keeper.execution.remote import RemoteSigner
from keeper.execution.signer import Signatory, Signed, Signer, SigningPolicy
from keeper.executor import calls
from keeper.executor.estate import Estate
from keeper.parts import SystemClock, open_rpc, store_place
from keeper.permits import Order
from keeper.sending import local_signer, remote_signer
from keeper.settings import Settings
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
from keeper.store.instance import InstanceLock
from keeper.store.lease import Lease
from keeper.text import address_text

_BLOCKS: Final = 30
_LEAST_S: Final = 120


@dataclass(frozen=True, slots=True)
class Told:
    """What a command has to say: to people, and as JSON."""

    code: int
    facts: Mapping[str, Any]
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hands:
    """Who acts beside the configured key: the owner's own, where it was given. `say` tells what is under way."""

    owner: Signer | None = None
    is_printing: bool = False
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Desk:
    """What every command works with."""

    settings: Settings
    chain: ChainFile
    rpc: Rpc
    reads: PinnedReads
    signer: Signer | RemoteSigner | None
    hands: Hands = field(default_factory=Hands)

    @property
    def account(self) -> Address | None:
        """Return the account that liquidates, or would."""
        return self.signer.address if self.signer is not None else self.settings.address

    @property
    def fees(self) -> FeePolicy:
        """Return the operator's limits, with room for a contract's creation."""
        return FeePolicy(
            max_fee_wei=self.settings.max_fee_wei,
            max_tip_wei=self.settings.max_priority_fee_wei,
            max_gas_limit=MAX_GAS_LIMIT,
        )

    @property
    def patience(self) -> Patience:
        """Return how long a receipt is waited for."""
        block_s = self.chain.block_time_ms / 1_000
        return Patience(look_s=max(0.2, block_s / 2), most_s=max(_LEAST_S, _BLOCKS * block_s))


@asynccontextmanager
async def open_desk(settings: Settings, chain: ChainFile, hands: Hands) -> AsyncIterator[Desk]:
    """Dial the endpoints and open the configured key, until the command is through.

    Raises: ConfigurationError; Unsafe; Transient.
    """
    remote = remote_signer(settings, chain)
    try:
        signer = remote or local_signer(settings, chain)
        async with open_rpc(settings, chain) as rpc:
            head = await latest_head(rpc)
            reads = ChainView(rpc, multicall=chain.multicall).reads(head)
            yield Desk(settings, chain, rpc, reads, signer, hands)
    finally:
        if remote is not None:
            await remote.close()


async def given(desk: Desk, estate: Estate, wanted: Sequence[Order]) -> Told:
    """Send orders with a key that may give them, or print them.

    Raises: Unsafe; AlreadyRunning; Transient.
    """
    owner = desk.hands.owner
    if owner is not None and owner.address != estate.owner:
        raise Unsafe(
            f"the key that was given is of {address_text(owner.address)}, the owner is {address_text(estate.owner)}"
        )
    if not wanted:
        return Told(ExitCode.DONE, {"executor": address_text(estate.address), "sent": []}, ("nothing to do",))
    giver = None if desk.hands.is_printing else _giver(desk, estate, is_hot=all(each.is_hot for each in wanted))
    for each in wanted:
        await _tried(desk, each, estate.owner)
    if giver is None:
        return printed(desk, estate.owner, wanted)
    done, nonce = [], 0
    async with alone(desk, giver.address):
        for each in wanted:
            order = await prepared(desk, giver, each.call, nonce)
            receipt, nonce = await sent(desk, giver, order), order.transaction.nonce + 1
            done.append({"hash": f"0x{receipt.tx_hash.hex()}", "block": receipt.block_number, "meaning": each.meaning})
    lines = (f"block {each['block']}: {each['meaning']} ({each['hash']})" for each in done)
    return Told(ExitCode.DONE, {"executor": address_text(estate.address), "sent": done}, tuple(lines))


def _giver(desk: Desk, estate: Estate, *, is_hot: bool) -> Signatory | None:
    """Return who of those whose key is at hand may give an order."""
    able = [estate.owner, *(each for each, is_caller in estate.callers.items() if is_caller and is_hot)]
    return next((each for each in (desk.signer, desk.hands.owner) if each is not None and each.address in able), None)


async def _tried(desk: Desk, order: Order, sender: Address) -> None:
    """Have a node say whether an order would go through.

    Raises: Unsafe.
    """
    try:
        result = await call_alone(desk.rpc, order.call, sender=sender, block_hash=desk.reads.head.hash)
    except RpcError as refused:
        raise Transient(str(refused)) from None
    if not result.ok:
        reason = calls.decode_revert(result.data)
        why = reason[1] if reason else "it reverts"
        raise Unsafe(f"the executor would refuse to {order.meaning}: {why}")


async def prepared(desk: Desk, signer: Signatory, call: Call, least_nonce: int = 0) -> Priced:
    """Put an order into a transaction, which alone the key may sign then."""
    policy = SigningPolicy(desk.chain.chain_id, desk.settings.max_fee_wei, MAX_GAS_LIMIT)
    signer.policy = (
        replace(policy, creations=frozenset({keccak(call.data)}))
        if call.to == NOBODY
        else replace(policy, calls=frozenset({(call.to, call.data[:4])}))
    )
    return await priced(desk.rpc, signer, call, desk.fees, chain_id=desk.chain.chain_id, least_nonce=least_nonce)


async def sent(desk: Desk, signer: Signatory, order: Priced) -> Receipt:
    """Sign an order, send it, and wait for its receipt.

    Raises: Unsafe; PolicyRefused; SignerFailed.
    """

    def told(signed: Signed) -> None:
        desk.hands.say(f"sending 0x{signed.tx_hash.hex()}")

    return await carried_out(desk.rpc, signer, order, desk.patience, told=told)


@asynccontextmanager
async def alone(desk: Desk, account: Address) -> AsyncIterator[None]:
    """See to it that no keeper sends with the configured key meanwhile; another key is nobody else's.

    Raises: AlreadyRunning; StoreFailed.
    """
    if desk.signer is None or account != desk.signer.address:
        yield
        return
    lock = InstanceLock.acquire(desk.settings.state_dir, desk.chain.chain_id, address_text(account))
    try:
        if desk.settings.is_shared:
            async with _leased(desk, account):
                yield
        else:
            yield
    finally:
        lock.release()


@asynccontextmanager
async def _leased(desk: Desk, account: Address) -> AsyncIterator[None]:
    """Hold the lease that keepers on other machines respect."""
    settings = desk.settings
    database = await Database.open(store_place(settings), desk.chain.chain_id)
    try:
        place = f"{socket.gethostname()}:{settings.state_dir}"
        lease = Lease(database, account, place, settings.lease_s, clock=SystemClock())
        if not await lease.acquire():
            raise AlreadyRunning("another keeper holds the lease on this key: stop it first")
        desk.rpc.guard_sends(lambda: lease.is_current)
        holding = asyncio.create_task(lease.hold(), name="lease")
        try:
            yield
        finally:
            holding.cancel()
            with suppress(asyncio.CancelledError, Fenced, StoreFailed):
                await holding
            await lease.release()
    finally:
        await database.close()


def printed(desk: Desk, sender: Address, wanted: Sequence[Order]) -> Told:
    """Write orders as transactions that somebody else has to sign and send."""
    chain = desk.chain
    transactions = [
        {
            "chain_id": chain.chain_id,
            "from": address_text(sender),
            "to": address_text(each.call.to) if each.call.to != NOBODY else None,
            "value": "0",
            "data": f"0x{each.call.data.hex()}",
            "meaning": each.meaning,
        }
        for each in wanted
    ]
    lines = [f"to be signed by {address_text(sender)} on chain {chain.chain_id} ({chain.name}); value 0:"]
    for each in transactions:
        lines += [
            "",
            f"# {each['meaning']}",
            f"to    {each['to'] or '(nobody: it creates a contract)'}",
            f"data  {each['data']}",
        ]
    return Told(ExitCode.UNSENT, {"transactions": transactions}, tuple(lines))
