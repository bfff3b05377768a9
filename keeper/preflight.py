"""`keeper check`: one line per check, each with how to mend what it found."""

import asyncio
import os
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from keeper.chain.capability import NodeFacts, probe
from keeper.chain.endpoint import nodes_of
from keeper.chain.inventory import read_inventory
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.chainfile import ChainFile
from keeper.checks import Check, Status
from keeper.domain.plan import Inventory
from keeper.domain.ports import PriceAge, Snapshot
from keeper.domain.units import Address, PositionId, TokenAmount, Wei
from keeper.errors import ConfigurationError, Invalid, KeeperError, StorageFailed, Transient, Unsafe
from keeper.execution.envelope import Transaction
from keeper.execution.signer import PolicyRefused, SignerFailed
from keeper.parts import SystemClock, open_to_read
from keeper.permits import inspect, needs_of
from keeper.registry import markets_of
from keeper.sending import account_of, remote_signer
from keeper.settings import Settings
from keeper.store.faults import Fault, StoreFailed
from keeper.store.findings import Findings
from keeper.text import address_text, amount_text
from keeper.trading import permits_of

MAX_PRICE_AGE_S: Final = 25 * 3600
"""A day, the longest heartbeat in use, and an hour."""
MAX_SKEW_S: Final = 15
NEVER_NONCE: Final = 2**53
"""No account gets that far."""
NARROW_LOG_RANGE: Final = 500


async def preflight(settings: Settings, chain: ChainFile) -> tuple[Check, ...]:
    """Make every check that the ones before it allow; it works beside a running daemon and changes nothing."""
    checks = [Check("configuration", Status.OK, f"chain {chain.name}, mode {settings.mode.value}")]
    checks += [Check("configuration", Status.WARN, each) for each in (*settings.warnings, *chain.warnings)]
    checks += _exchange(chain)
    checks += await _storage(settings, chain)
    checks.append(await asyncio.to_thread(_port, settings))
    signer: Address | None = None
    try:
        signer = account_of(settings, chain)
    except ConfigurationError as error:
        checks += [Check("signer", Status.FAIL, each, "correct the key") for each in error.problems]
    checks += await _remote_signer(settings, chain)
    async with _pool(settings, chain) as (rpc, problem):
        facts = await probe(rpc)
        for each in facts:
            checks += _endpoint(each, chain)
        if problem is not None:
            return (*checks, Check("endpoints", Status.FAIL, problem, "correct KEEPER_RPC_URLS or KEEPER_CHAIN"))
        try:
            checks += await _on_chain(settings, chain, rpc, signer)
        except Transient as error:
            checks.append(Check("chain", Status.FAIL, str(error), "see the endpoints above"))
    return tuple(checks)


@asynccontextmanager
async def _pool(settings: Settings, chain: ChainFile) -> AsyncIterator[tuple[Rpc, str | None]]:
    """Dial the endpoints; yield the pool even where none is usable, with what was wrong."""
    urls = [each.reveal() for each in settings.rpc_urls]
    rpc = Rpc(nodes_of(urls, calls_per_s=settings.requests_per_second), clock=SystemClock())
    problem = None
    try:
        try:
            await rpc.start(chain.chain_id)
        except Unsafe as error:
            problem = str(error)
        yield rpc, problem
    finally:
        await rpc.close()


def _endpoint(facts: NodeFacts, chain: ChainFile) -> list[Check]:
    """Judge one endpoint: chain, head, pinned reads, log range, what makes simulations exact."""
    name = f"endpoint {facts.node}"
    if facts.chain_id is None:
        return [Check(name, Status.FAIL, f"does not answer: {facts.reason}", "check its address and its credentials")]
    if facts.chain_id != chain.chain_id:
        finding = f"is on chain {facts.chain_id}, configured is {chain.chain_id}"
        return [Check(name, Status.FAIL, finding, "correct KEEPER_RPC_URLS or KEEPER_CHAIN")]
    checks = [Check(name, Status.OK, f"chain {facts.chain_id}, {facts.client or 'unnamed client'}")]
    if facts.head is None or facts.head_age_s is None:
        checks.append(Check(name, Status.FAIL, "tells no latest block", "use another endpoint"))
        return checks
    limit_s = max(60, 5 * chain.block_time_ms // 1_000)
    is_fresh = facts.head_age_s <= limit_s
    checks.append(
        Check(
            f"{name} head",
            Status.OK if is_fresh else Status.WARN,
            f"block {facts.head.number}, {int(facts.head_age_s)} s old",
            "" if is_fresh else "it lags, or the chain has stopped: compare with another endpoint",
        )
    )
    if facts.pinned_reads is not True:
        finding = "does not answer reads pinned to a block hash (EIP-1898)"
        checks.append(
            Check(f"{name} pinned reads", Status.FAIL, finding, "use another endpoint; this one decides nothing")
        )
    else:
        checks.append(Check(f"{name} pinned reads", Status.OK, "supported"))
    checks.append(_log_range(name, facts.log_range))
    missing = [
        what for what, has in (("eth_simulateV1", facts.simulate_v1), ("eth_feeHistory", facts.fee_history)) if not has
    ]
    if missing:
        finding = f"does not offer {', '.join(missing)}"
        checks.append(Check(f"{name} methods", Status.WARN, finding, "works, with less exact simulations and fees"))
    return checks


def _log_range(name: str, widest: int | None) -> Check:
    if not widest:
        return Check(f"{name} logs", Status.FAIL, "answers no log query", "use an endpoint with eth_getLogs")
    status = Status.OK if widest > NARROW_LOG_RANGE else Status.WARN
    fix = "" if status is Status.OK else "the first start will be slow; a wider range helps"
    return Check(f"{name} logs", status, f"at least {widest} blocks in one query", fix)


async def _on_chain(settings: Settings, chain: ChainFile, rpc: Rpc, signer: Address | None) -> list[Check]:
    """Check what the chain itself says: code, markets, prices, funds, clock."""
    head = await latest_head(rpc)
    skew_s = int(SystemClock().unix_s()) - head.timestamp_s
    checks = [_clock(skew_s, chain)]
    wanted = {"multicall": chain.multicall, "wrapped native": chain.wrapped_native}
    if chain.data_fee_oracle is not None:
        wanted["data fee oracle"] = chain.data_fee_oracle
    wanted |= {f"market {each.name}": each.root for each in chain.markets}
    wanted |= {f"venue {each.name}": each.root for each in chain.exchange.venues}
    wanted |= {f"lender {each.name}": each.root for each in chain.exchange.lenders}
    from keeper.chain.web3_door import read_code  # noqa: PLC0415 - web3 takes a second to import

    codes = await read_code(rpc, list(wanted.values()))
    for (name, address), code in zip(wanted.items(), codes, strict=True):
        if code:
            checks.append(Check(name, Status.OK, f"{address_text(address)} has code"))
        else:
            fix = f"correct the address in the chain file, or the chain ({chain.chain_id})"
            checks.append(Check(name, Status.FAIL, f"{address_text(address)} has no code", fix))
    if not all(codes):
        return checks
    reads = ChainView(rpc, multicall=chain.multicall).reads(head)
    snapshots: dict[str, Snapshot] = {}
    tokens = set[Address]()
    known, markets = await _known(settings, chain), markets_of(chain)
    for market in markets:
        try:
            market.reader.recall(known.get(market.place, ()))
            await market.reader.discover(reads)
            snapshots[market.name] = snapshot = await market.reader.snapshot(reads)
        except KeeperError as error:
            checks.append(Check(f"market {market.name}", Status.FAIL, str(error), "correct its root in the chain file"))
            continue
        ages = await market.reader.price_ages(reads)
        checks += _prices(market.name, snapshot, ages, head.timestamp_s)
        tokens |= {each.token.address for each in (*ages, *snapshot.payments)}
    if chain.executor is None:
        checks.append(
            Check("executor", Status.OK, "none in the chain file: debts are repaid from the account's own tokens")
        )
    else:
        try:
            needs = needs_of(chain, markets, snapshots, signer)
            found = await inspect(chain, chain.executor, rpc, reads, needs=needs, tokens=tokens)
            checks += [found] if isinstance(found, Check) else found.checks
        except (ConfigurationError, Invalid) as error:
            checks.append(Check("executor", Status.FAIL, str(error), "correct [executor] in the chain file"))
    if signer is not None:
        inventory = await read_inventory(
            reads, signer, [payment for each in snapshots.values() for payment in each.payments]
        )
        checks += _funds(settings, chain, signer, inventory, snapshots)
    return checks


def _exchange(chain: ChainFile) -> list[Check]:
    """Check that the chain file's venues and lenders are of known kinds, with the options that these take."""
    try:
        permits_of(chain)
    except ConfigurationError as error:
        return [Check("exchange", Status.FAIL, each, "correct [exchange] in the chain file") for each in error.problems]
    if chain.executor is not None and not (chain.exchange.venues and chain.exchange.lenders):
        finding = f"the executor has nowhere to {'borrow' if chain.exchange.venues else 'sell'}"
        return [Check("exchange", Status.WARN, finding, "add venues and lenders to [exchange] in the chain file")]
    counts = f"{len(chain.exchange.venues)} venues, {len(chain.exchange.lenders)} lenders"
    return [Check("exchange", Status.OK, f"{counts}, {len(chain.exchange.bases)} base tokens")]


async def _known(settings: Settings, chain: ChainFile) -> dict[str, list[PositionId]]:
    """Return what a daemon has found in logs so far: some markets consist of nothing else."""
    try:
        database = await open_to_read(settings, chain)
    except StorageFailed:
        database = None  # the check of the storage has said so
    if database is None:
        return {}
    try:
        findings = Findings(database)
        return {each.place: list(await findings.load(each.place)) for each in markets_of(chain)}
    finally:
        await database.close()


def _clock(skew_s: int, chain: ChainFile) -> Check:
    """Judge the local clock by the newest block, which may be as old as a few blocks."""
    if skew_s < -MAX_SKEW_S:
        finding = f"the newest block is {-skew_s} s in the future"
        return Check("clock", Status.FAIL, finding, "synchronise this machine's clock")
    limit_s = max(60, 5 * chain.block_time_ms // 1_000)
    if skew_s > limit_s:
        finding = f"the newest block is {skew_s} s old"
        return Check("clock", Status.WARN, finding, "synchronise this machine's clock, or the endpoints lag")
    return Check("clock", Status.OK, f"{skew_s} s after the newest block")


def _prices(market: str, snapshot: Snapshot, ages: Sequence[PriceAge], now_s: int) -> list[Check]:
    """Judge one market's prices: each there, none too old, and the native coin's known."""
    name = f"market {market}"
    checks = [Check(name, Status.OK, f"{len(ages)} prices, {len(snapshot.payments)} ways to pay")]
    unpriced = [each.token.symbol for each in ages if each.price_base is None]
    old = [each for each in ages if each.updated_s is not None and now_s - each.updated_s > MAX_PRICE_AGE_S]
    if unpriced:
        finding = f"no price for {', '.join(unpriced)}"
        checks.append(Check(f"{name} prices", Status.WARN, finding, "accounts that hold it cannot be liquidated now"))
    for each in old:
        hours = (now_s - (each.updated_s or 0)) // 3600
        fix = "its feed may have stopped: the protocol still uses the price"
        checks.append(Check(f"{name} prices", Status.WARN, f"{each.token.symbol} is {hours} h old", fix))
    if not unpriced and not old:
        silent = sum(each.updated_s is None for each in ages)
        checks.append(Check(f"{name} prices", Status.OK, f"all there; {silent} sources tell no time"))
    if snapshot.native_price_base is None:
        fix = "set wrapped_native in the chain file to a token that the market prices"
        checks.append(Check(f"{name} native price", Status.FAIL, "gas cannot be valued", fix))
    return checks


def _funds(
    settings: Settings, chain: ChainFile, signer: Address, inventory: Inventory, snapshots: Mapping[str, Snapshot]
) -> list[Check]:
    """Judge what the signer holds: gas money, tokens to repay with, allowances."""
    balance = f"{amount_text(inventory.native_wei, 18)} {chain.native_symbol}"
    is_low = inventory.native_wei < settings.low_balance_wei
    checks = [
        Check(
            "signer",
            Status.WARN if is_low else Status.OK,
            f"{address_text(signer)} holds {balance}",
            f"top it up to at least {amount_text(settings.low_balance_wei, 18)}" if is_low else "",
        )
    ]
    held, allowed = [], []
    for name, snapshot in snapshots.items():
        for payment in snapshot.payments:
            token = payment.token
            amount = inventory.balances.get(token.address, 0)
            if amount and not payment.is_native:
                held.append(f"{amount_text(amount, token.decimals)} {token.symbol}")
            way = (token.address, payment.spender or token.address)
            if inventory.allowances.get(way, TokenAmount(0)):
                allowed.append(f"{token.symbol} to {name}")
    if held:
        checks.append(Check("inventory", Status.OK, ", ".join(sorted(set(held)))))
    elif chain.executor is not None:
        checks.append(Check("inventory", Status.OK, "none: the executor borrows"))
    else:
        fix = f"send tokens that borrowers owe to {address_text(signer)}"
        checks.append(Check("inventory", Status.WARN, "nothing to repay debts with", fix))
    checks.append(
        Check("allowances", Status.OK, ", ".join(dict.fromkeys(allowed)) or "none yet; each is set when first needed")
    )
    return checks


async def _storage(settings: Settings, chain: ChainFile) -> list[Check]:
    """Check that the state directory can be written, and that an existing database can be read."""
    folder = settings.state_dir
    checks = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe_file = folder / f".keeper-check-{os.getpid()}"
        probe_file.write_bytes(b"keeper")
        probe_file.unlink()
        checks.append(Check("storage", Status.OK, f"{folder} is writable"))
    except OSError as error:
        finding = f"{folder}: {error.strerror or 'cannot be written'}"
        checks.append(Check("storage", Status.FAIL, finding, "set KEEPER_STATE_DIR to a folder of this user"))
    try:
        database = await open_to_read(settings, chain)
        if database is not None:
            await database.close()
    except StorageFailed as error:
        is_old = isinstance(error, StoreFailed) and error.fault is Fault.OUTDATED
        checks.append(Check("database", Status.WARN if is_old else Status.FAIL, str(error)))
    return checks


async def _remote_signer(settings: Settings, chain: ChainFile) -> list[Check]:
    """Have the remote signer, where there is one, sign a transfer of nothing to itself that no chain can ever take."""
    signer = remote_signer(settings, chain)
    if signer is None:
        return []
    policy = signer.policy
    probe_ = Transaction(policy.chain_id, NEVER_NONCE, Wei(0), Wei(0), 21_000, signer.address, Wei(0), b"")
    try:
        await signer.signed(probe_)
    except (SignerFailed, PolicyRefused) as error:
        return [Check("remote signer", Status.FAIL, str(error), "correct KEEPER_REMOTE_SIGNER_URL or KEEPER_ADDRESS")]
    finally:
        await signer.close()
    return [Check("remote signer", Status.OK, f"signs for {address_text(signer.address)}")]


def _port(settings: Settings) -> Check:
    """Check that the health endpoints' port is free, or that it is a keeper that has it."""
    address = f"{settings.http_host}:{settings.http_port}"
    try:
        with socket.create_server((settings.http_host, settings.http_port)):
            return Check("http port", Status.OK, f"{address} is free")
    except OSError:
        pass
    host = settings.http_host if settings.http_host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104 - compared
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{host}:{settings.http_port}/livez", timeout=2) as answer:
            is_keeper = answer.headers.get("Server") == "keeper"
    except urllib.error.HTTPError as error:
        is_keeper = error.headers.get("Server") == "keeper"
    except OSError:
        is_keeper = False
    if is_keeper:
        return Check("http port", Status.OK, f"{address} is held by a running keeper")
    return Check("http port", Status.FAIL, f"{address} is in use", "choose another KEEPER_HTTP_PORT")
