"""What happens to the keeper: each fault begins, lasts, and is over when its function returns."""

import asyncio
import errno
import random
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final

from eth_account import Account

from keeper.errors import ExitCode
from tests.faults import rules
from tests.faults.canary import KEY
from tests.faults.geth import reinject
from tests.faults.node import CHAIN_ID
from tests.faults.proxy import Call, Fault, View
from tests.soak.scene import GRACE_S, Scene

_GWEI: Final = 10**9
_FILL_BYTES: Final = 2**20
_STRANGER: Final = "0x" + "42" * 20

Does = Callable[[Scene], Awaitable[str]]


@dataclass(frozen=True)
class Kind:
    """One fault. `blinds`: the keeper cannot act meanwhile; `ends_process`: another process goes on afterwards."""

    name: str
    does: Does
    blinds: bool = False
    ends_process: bool = False
    is_once: bool = False


async def _lasting(scene: Scene) -> float:
    """Let a fault last for a while and return how long that was."""
    seconds = scene.random.uniform(*scene.wish.lasting_s)
    await asyncio.sleep(seconds)
    return seconds


def at_one(make: Callable[[Scene], Fault], *, is_lie: bool = False) -> Does:
    """Give one endpoint a fault for a while; `is_lie`: what the keeper reads of the state may be wrong meanwhile."""

    async def does(scene: Scene) -> str:
        view = scene.random.choice(scene.views)
        begin_s = scene.keeper.now_s
        fault = view.add(make(scene))
        try:
            seconds = await _lasting(scene)
        finally:
            view.remove(fault)
            if is_lie:
                scene.lies.append((begin_s, scene.keeper.now_s))
        return f"endpoint {view.place + 1}, {seconds:.0f} s"

    return does


def at_all(make: Callable[[Scene], Fault]) -> Does:
    """Give every endpoint the same fault for a while."""

    async def does(scene: Scene) -> str:
        added = [(view, view.add(make(scene))) for view in scene.views]
        try:
            seconds = await _lasting(scene)
        finally:
            for view, fault in added:
                view.remove(fault)
        return f"{seconds:.0f} s"

    return does


def at_stream(begin: Callable[[View], Awaitable[None] | None]) -> Does:
    """Spoil the websocket for a while."""

    async def does(scene: Scene) -> str:
        view = scene.views[1]
        if (work := begin(view)) is not None:
            await work
        try:
            seconds = await _lasting(scene)
        finally:
            view.stream.reset()
        return f"{seconds:.0f} s"

    return does


class Half(rules.Break):
    """Reset every other connection, at random."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._random = random.Random(scene.wish.seed)

    def takes(self, calls: Sequence[Call]) -> bool:
        return self._random.random() < 0.5 and super().takes(calls)


async def refuse_one(scene: Scene) -> str:
    view = scene.random.choice(scene.views)
    await view.refuse()
    try:
        seconds = await _lasting(scene)
    finally:
        await view.accept()
    return f"endpoint {view.place + 1}, {seconds:.0f} s"


async def refuse_all(scene: Scene) -> str:
    for view in scene.views:
        await view.refuse()
    seconds = scene.random.uniform(8, 20)
    try:
        await asyncio.sleep(seconds)
    finally:
        for view in scene.views:
            await view.accept()
    return f"{seconds:.0f} s"


async def hang_all(scene: Scene) -> str:
    """Let nobody answer: the websocket as well."""
    added = [(view, view.add(rules.hang())) for view in scene.views]
    scene.views[1].stream.is_stalled = True
    seconds = scene.random.uniform(8, 15)
    try:
        await asyncio.sleep(seconds)
    finally:
        for view, fault in added:
            view.remove(fault)
        scene.views[1].stream.reset()
    return f"{seconds:.0f} s"


async def reorganise(scene: Scene) -> str:
    """Replace the last blocks, one of which has a transaction of the keeper where there is one at all."""
    depth, goes_back = scene.random.randint(1, 3), scene.random.random() < 0.7
    lost = await scene.busy()
    await scene.blocks(1)
    await scene.chain.rpc("anvil_reorg", depth, [])
    back = await reinject(scene.proxy, scene.pool) if goes_back else []
    return f"depth {depth}, {lost} of ours, {f'{len(back)} transactions back in the pool' if goes_back else 'transactions forgotten'}"


async def drop_transactions(scene: Scene) -> str:
    count = await scene.busy()
    await scene.chain.rpc("anvil_dropAllTransactions")
    return f"{count} of ours were pending"


async def spike(scene: Scene) -> str:
    usual = scene.base_fee_wei
    scene.base_fee_wei = 5 * usual
    try:
        seconds = await _lasting(scene)
    finally:
        scene.base_fee_wei = usual
    return f"{5 * usual // _GWEI} gwei for {seconds:.0f} s"


async def stall(scene: Scene) -> str:
    scene.is_stalled = True
    await scene.chain.set_interval(0)
    try:
        await asyncio.sleep(10)
    finally:
        await scene.chain.set_interval(scene.wish.block_s)
        scene.is_stalled = False
    return "10 s without a block"


async def kill(scene: Scene) -> str:
    pending = await scene.busy()
    await scene.keeper.kill()
    scene.keeper.read()
    scene.keeper.start()
    return f"{pending} of ours were pending"


async def terminate(scene: Scene) -> str:
    """Ask it to stop; from then on nothing may arrive at a nonce that was not in use before."""
    in_flight = (await scene.keeper.metrics()).get("keeper_inflight", 0)
    code, took_s = await scene.keeper.stop()
    scene.keeper.read()
    told = scene.keeper.events("keeper.stopping")
    if code != ExitCode.DONE or took_s > GRACE_S + 5:
        scene.breaches.append(("N12", f"SIGTERM: exit code {code} after {took_s:.1f} s"))
    if told:
        _nothing_new_since(scene, "N12", told[-1]["at_s"] + 1.0)
    scene.keeper.start()
    return f"{in_flight:.0f} in flight, exit {code} after {took_s:.1f} s"


def _nothing_new_since(scene: Scene, invariant: str, since_s: float) -> None:
    """Note it where a nonce was used for the first time after a moment."""
    first: dict[int, float] = {}
    for seen in scene.arrivals:
        at_s = seen.at_s - scene.zero_s
        first[seen.nonce] = min(at_s, first.get(seen.nonce, at_s))
    late = sorted(nonce for nonce, at_s in first.items() if at_s > since_s)
    if late:
        scene.breaches.append(
            (invariant, f"nonces {late} were begun after {since_s:.1f} s, when nothing new may begin")
        )


async def suspend(scene: Scene) -> str:
    await scene.keeper.freeze(5)
    return "5 s"


async def fill_disk(scene: Scene) -> str:
    """Leave the journal no space: neither within its write-ahead log, nor in what it gives up of its own."""
    with closing(sqlite3.connect(scene.database, timeout=5)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    seconds, waste = scene.random.uniform(6, 10), scene.state_dir / "waste"
    deadline_s = scene.keeper.now_s + seconds
    with ExitStack() as stack:
        stack.callback(lambda: waste.unlink(missing_ok=True))
        file = stack.enter_context(waste.open("wb", buffering=0))
        while scene.keeper.now_s < deadline_s:
            try:
                while file.write(bytes(_FILL_BYTES)):
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            await asyncio.sleep(0.2)
    return f"{seconds:.0f} s"


async def lock_store(scene: Scene) -> str:
    """Hold the database's write lock for longer than the keeper waits for it."""
    seconds = scene.random.uniform(7, 10)
    with closing(sqlite3.connect(scene.database, isolation_level=None, timeout=5)) as other:
        other.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(seconds)
        other.execute("ROLLBACK")
    return f"{seconds:.0f} s"


async def pause(scene: Scene) -> str:
    """Pause by the command line, see that nothing new begins, and resume."""
    done = await scene.command("pause", "--reason", "a soak")
    await scene.blocks(3)
    since_s = scene.keeper.now_s
    _, reasons = await scene.keeper.readiness()
    if done.returncode or "paused" not in reasons:
        scene.breaches.append(("N9", f"keeper pause: exit {done.returncode}, /readyz says {reasons}"))
    seconds = await _lasting(scene)
    _nothing_new_since(scene, "N2", since_s)
    done = await scene.command("resume")
    if done.returncode:
        scene.breaches.append(("N9", f"keeper resume: exit {done.returncode}: {done.stderr[-200:]}"))
    return f"{seconds:.0f} s"


async def use_the_key(scene: Scene) -> str:
    """Send something else with the keeper's key, at a price that nobody outbids."""
    for _ in range(5):
        nonce = await scene.nonce()
        fields = {
            "type": 2, "chainId": CHAIN_ID, "nonce": nonce, "gas": 21_000, "maxFeePerGas": 900 * _GWEI,
            "maxPriorityFeePerGas": 900 * _GWEI, "to": _STRANGER, "value": 1, "data": b"",
        }  # fmt: skip
        signed = Account.sign_transaction(fields, KEY)
        tx_hash = "0x" + bytes(signed.hash).hex()
        try:
            await scene.chain.rpc("eth_sendRawTransaction", "0x" + bytes(signed.raw_transaction).hex())
            await scene.blocks(2)
        except Exception as error:  # noqa: BLE001 - the nonce was used in the meantime: try the next one
            scene.hiccups.append(f"foreign transaction: {error}")
            continue
        if await scene.chain.rpc("eth_getTransactionReceipt", tx_hash) is not None:
            scene.foreign[nonce] = tx_hash
            scene.foreign_wei += 1
            await scene.blocks(6)
            return f"nonce {nonce}"
    return "it never got in"


def lying_call(_call: Call, result: Any) -> Any:
    """Halve the first word of what a contract said."""
    if not isinstance(result, str) or len(result) < 66:
        return result
    return f"0x{int(result[2:66], 16) // 2:064x}{result[66:]}"


KINDS: Final = (
    Kind("an endpoint refuses connections", refuse_one),
    Kind("an endpoint hangs", at_one(lambda _: rules.hang())),
    Kind("an endpoint is slow", at_one(lambda _: rules.delay(0.8))),
    Kind("an endpoint drips", at_one(lambda _: rules.drip(0.05))),
    Kind("an endpoint drops connections", at_one(lambda _: rules.drop())),
    Kind("an endpoint says 429", at_one(lambda _: rules.status(429, "slow down", {"Retry-After": "2"}))),
    Kind("an endpoint says -32005", at_one(lambda _: rules.error("limit exceeded", -32005))),
    Kind("an endpoint says 500", at_one(lambda _: rules.status(500, "<html>bad gateway</html>"))),
    Kind("an endpoint says 401", at_one(lambda _: rules.status(401, "bad key"))),
    Kind("an endpoint says garbage", at_one(lambda _: rules.body(b"\xff\xfe{]"))),
    Kind("an endpoint truncates", at_one(lambda _: rules.truncate(20))),
    Kind("an endpoint says null", at_one(lambda _: rules.null())),
    Kind("an endpoint mixes ids up", at_one(lambda _: rules.wrong_id())),
    Kind("an endpoint leaves answers out", at_one(lambda _: rules.missing_item())),
    Kind("an endpoint is stale", at_one(lambda scene: rules.stale(scene.random.randint(2, 6)))),
    Kind("an endpoint goes back and forth", at_one(lambda _: rules.rewind(0, 3))),
    Kind("an endpoint is on a fork", at_one(lambda scene: rules.fork(scene.height))),
    Kind("an endpoint is on another chain", at_one(lambda _: rules.wrong_chain(1))),
    Kind("an endpoint lies about contracts", at_one(lambda _: rules.lie("eth_call", lying_call), is_lie=True)),
    Kind(
        "an endpoint lies about nonces", at_one(lambda _: rules.result("0x7fff", methods=("eth_getTransactionCount",)))
    ),
    Kind("an endpoint invents receipts", at_one(lambda _: rules.spoof_receipt())),
    Kind("an endpoint hides logs", at_one(lambda _: rules.lie("eth_getLogs", lambda _call, _logs: []), is_lie=True)),
    Kind("an endpoint doubles logs", at_one(lambda _: rules.dup())),
    Kind("the websocket stalls", at_stream(lambda view: setattr(view.stream, "is_stalled", True))),
    Kind("the websocket withholds heads", at_stream(lambda view: setattr(view.stream, "withholds", True))),
    Kind("the websocket repeats heads", at_stream(lambda view: setattr(view.stream, "copies", 2))),
    Kind("the websocket is closed", at_stream(lambda view: view.stream.close())),
    Kind("the websocket is cut", at_stream(lambda view: view.stream.cut())),
    Kind("the websocket says garbage", at_stream(lambda view: view.stream.say("garbage"))),
    Kind("all endpoints refuse connections", refuse_all, blinds=True),
    Kind("all endpoints hang", hang_all, blinds=True),
    Kind("all endpoints drop half of what they are asked", at_all(Half)),
    Kind(
        "answers to sends are lost",
        at_all(lambda _: rules.swallow_response_after_forward(methods=("eth_sendRawTransaction",))),
    ),
    Kind("a reorganisation", reorganise),
    Kind("the pool forgets", drop_transactions),
    Kind("the base fee is fivefold", spike),
    Kind("the chain stalls", stall, blinds=True),
    Kind("kill -9 and a restart", kill, ends_process=True),
    Kind("SIGTERM and a restart", terminate, ends_process=True),
    Kind("suspended", suspend),
    Kind("the disk is full", fill_disk),
    Kind("the store is locked", lock_store),
    Kind("paused and resumed", pause),
    Kind("somebody else uses the key", use_the_key, is_once=True),
)
"""Every fault of a soak."""
