"""The invariants N1 to N12, judged at the end of a soak from the chain, the journal, the proxy and the log."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keeper.devnet.ledger import Statement, read_statement
from keeper.domain.outcome import Result
from keeper.domain.units import WAD, Address
from keeper.errors import ExitCode
from keeper.store.audit import Audit, Balance
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.outcomes import Outcomes, Summary
from keeper.store.records import Entry, IntentState, Purpose
from tests.e2e.test_daemon import LEGITIMATE, MIN_PROFIT_BASE, gas_base, liquidated
from tests.faults.canary import canary_hits, files_in
from tests.soak.faults import KINDS
from tests.soak.figures import MIB, Report, Sample, Trend, Verdict
from tests.soak.scene import GENERATION, GRACE_S, MAX_HEAD_AGE_S, Scene
from tests.soak.watched import SECRETS

BLINDS: Final = frozenset(each.name for each in KINDS if each.blinds)
MOST_RECOVERY_S: Final = 30.0
SOON_BLOCKS: Final = 2
NOTICE_S: Final = MAX_HEAD_AGE_S + 4.0
"""A block is too old after so long; a sample is taken each second, and the machine may be busy."""
WARM_UP_SHARE: Final = 0.2
WARM_UP_S: Final = 120.0
RSS_GROWTH_SHARE: Final = 0.10
RSS_GROWTH_KIB: Final = 16 * MIB
DESCRIPTORS_GROWTH: Final = 12
THREADS_GROWTH: Final = 2
TASKS_GROWTH: Final = 12
_LIES_LAST_S: Final = 10.0
_SHOWN: Final = 5


@dataclass(frozen=True)
class Books:
    """What the journal holds, and what the chain says of the same account."""

    entries: tuple[Entry, ...]
    balance: Balance
    summary: Summary
    statement: Statement
    mined: dict[int, str]


async def judge(scene: Scene, report: Report) -> list[Verdict]:
    """Judge everything while the chain stands still; it stops the keeper."""
    held = [await _explained(scene), await _positions(scene)]
    shown = await scene.keeper.metrics()
    exit_code, took_s = await scene.keeper.stop()
    scene.keeper.read()
    books = await _books(scene)
    _figures(scene, report, books)
    verdicts = [
        _sent_is_written(scene),
        _nothing_twice(scene, books),
        _no_gap(scene, books, shown),
        _adds_up(scene, books),
        *held,
        _no_secret(scene),
        _bounded(report),
        _honest(scene, report),
        _no_early_end(scene),
        _identity(scene, books, report),
        _stops(scene, exit_code, took_s),
    ]
    return sorted(verdicts, key=lambda each: int(each.name[1:]))


def _verdict(scene: Scene, name: str, meaning: str, defects: Sequence[object], good: str) -> Verdict:
    """Join what is wrong now with what was seen to be wrong meanwhile."""
    found = [*map(str, defects), *(what for which, what in scene.breaches if which == name)]
    told = "; ".join(found[:_SHOWN]) + (f" … {len(found)} in all" if len(found) > _SHOWN else "")
    return Verdict(name, meaning, not found, told or good)


def _sent_is_written(scene: Scene) -> Verdict:
    good = f"{len(scene.arrivals)} raw transactions at the endpoints"
    defects = [*scene.arrivals.unaccounted, *([] if scene.arrivals else ["nothing was ever sent"])]
    return _verdict(scene, "N1", "what an endpoint sees is in the journal before", defects, good)


def _nothing_twice(scene: Scene, books: Books) -> Verdict:
    ours = {"0x" + each.tx_hash.hex(): entry for entry in books.entries for each in entry.attempts}
    strangers = set(scene.foreign.values())
    defects = [
        f"nonce {nonce} was used by {tx_hash}, which the journal does not know"
        for nonce, tx_hash in books.mined.items()
        if tx_hash not in ours and tx_hash not in strangers
    ]
    for entry in books.entries:
        used = entry.intent.inclusion
        if entry.intent.state is IntentState.FINAL and used is not None and used.tx_hash is not None:
            mined = books.mined.get(entry.intent.nonce)
            if mined != "0x" + used.tx_hash.hex():
                defects.append(f"nonce {entry.intent.nonce}: the journal says {used.tx_hash.hex()}, the chain {mined}")
    defects += [
        f"nonces {earlier.intent.nonce} and {later.intent.nonce} both won, the second planned before the first was in a block"
        for earlier, later in _overlaps(books.entries)
        if _has_won(earlier, books) and _has_won(later, books)
    ]
    return _verdict(scene, "N2", "nothing is sent twice", defects, f"{len(books.mined)} nonces, each used once")


def _overlaps(entries: Sequence[Entry]) -> list[tuple[Entry, Entry]]:
    """Return where an account was aimed at again before the attempt before it was over."""
    last: dict[tuple[str, bytes], Entry] = {}
    found = []
    for entry in sorted(entries, key=lambda each: each.intent.nonce):
        intent = entry.intent
        if intent.purpose is not Purpose.LIQUIDATION or intent.opportunity is None or intent.inclusion is None:
            continue
        key = (intent.opportunity.key.market, intent.opportunity.key.account)
        before = last.get(key)
        used = before.intent.inclusion if before is not None else None
        if before is not None and used is not None and intent.created_block < used.block:
            found.append((before, entry))
        last[key] = entry
    return found


def _has_won(entry: Entry, books: Books) -> bool:
    inclusion = entry.intent.inclusion
    won = {each.tx_hash.lower() for each in books.statement.liquidations}
    return inclusion is not None and inclusion.tx_hash is not None and "0x" + inclusion.tx_hash.hex() in won


def _no_gap(scene: Scene, books: Books, shown: dict[str, float]) -> Verdict:
    defects: list[str] = []
    held = {each.intent.nonce for each in books.entries if each.intent.state is not IntentState.VOID}
    unknown = sorted(set(books.mined) - held - set(scene.foreign))
    beyond = sorted(held - set(books.mined))
    told = {
        nonce
        for line in scene.keeper.events("tx.foreign_nonce")
        for nonce in range(int(line["nonce"]), int(line.get("last_nonce") or line["nonce"]) + 1)
    }
    if unknown or beyond:
        defects.append(f"nonces {unknown} are not in the journal, {beyond} not on the chain")
    if told != set(scene.foreign):
        defects.append(f"foreign nonces are {sorted(scene.foreign)}, told {sorted(told)}")
    if shown.get("keeper_nonce_gap") or shown.get("keeper_inflight"):
        defects.append(f"gap {shown.get('keeper_nonce_gap')}, in flight {shown.get('keeper_inflight')}")
    good = f"{len(books.mined)} nonces without a gap, foreign and told: {sorted(told)}"
    return _verdict(scene, "N3", "no gap is left; a foreign use of the key is told", defects, good)


def _adds_up(scene: Scene, books: Books) -> Verdict:
    difference = books.statement.difference()
    if difference.get("") == -scene.foreign_wei:
        del difference[""]
    defects: list[str] = [f"balances less events: {difference}"] if difference else []
    won = books.summary.results.get(Result.WON, 0)
    if won != len(books.statement.liquidations):
        defects.append(f"the journal has {won} won, the chain {len(books.statement.liquidations)}")
    if scene.foreign_gas_wei + books.summary.gas_wei != books.statement.gas_wei:
        defects.append(f"the journal has {books.summary.gas_wei} wei of gas, the chain {books.statement.gas_wei}")
    if not books.statement.liquidations:
        defects.append("nothing was liquidated")
    for name, amounts, field in (
        ("repaid", books.summary.repaid, "repaid"),
        ("seized", books.summary.seized, "seized"),
    ):
        written = sum(amounts.values())
        happened = sum(getattr(each, field) for each in books.statement.liquidations)
        if written != happened:
            defects.append(f"{name}: the journal has {written}, the chain {happened}")
    good = (
        f"{len(books.statement.liquidations)} liquidations and {books.statement.transactions} transactions, to the wei"
    )
    return _verdict(scene, "N4", "tokens and gas add up", defects, good)


async def _positions(scene: Scene) -> Verdict:
    """N5: what the keeper tracks is what a reading from nothing and the contract itself say."""
    defects = [
        f"mismatch of {line['account']} at block {line['block']}, while nobody lied"
        for line in scene.keeper.events("index.audit_mismatch")
        if not any(begin <= line["at_s"] <= end + _LIES_LAST_S for begin, end in scene.lies)
    ]
    audits = [line for line in scene.keeper.events("index.audit_ok") if line["at_s"] > scene.keeper.now_s - 120]
    if not audits:
        defects.append("no audit was right in the end")
    owners = tuple(scene.owners)
    found = await scene.market.accounts_data(owners)
    chain = {owner: each for owner, each in zip(owners, found, strict=True) if each.debt_base or each.collateral_base}
    done = await scene.command("positions", "--json")
    listed: dict[str, Any] = {}
    if done.returncode:
        defects.append(f"keeper positions: exit {done.returncode}: {done.stderr[-300:]}")
    else:
        listed = {each["account"]: each for each in json.loads(done.stdout)["positions"]}
    indebted = {owner: each for owner, each in chain.items() if each.debt_base}
    missing = sorted(indebted.keys() - listed.keys())
    if missing:
        defects.append(f"not tracked: {missing}")
    for owner, each in indebted.items():
        if owner in listed and int(listed[owner]["debt_base"]) != each.debt_base:
            defects.append(f"{owner}: debt {listed[owner]['debt_base']}, by the contract {each.debt_base}")
    watched = (await scene.keeper.metrics()).get("keeper_positions")
    if watched != len(listed):
        defects.append(f"the daemon watches {watched} positions, a new reading finds {len(listed)}")
    good = f"{len(listed)} positions as the contract sees them; {len(scene.keeper.events('index.audit_ok'))} audits"
    return _verdict(scene, "N5", "the book equals a rebuild and the contract", defects, good)


async def _explained(scene: Scene) -> Verdict:
    """N6: each head accounts for every liquidatable position, and in the end what is left does not pay."""
    defects: list[str] = [
        f"block {line['number']}: {line['liquidatable']} liquidatable, {line['plans']} plans, {line['skipped']}"
        for line in scene.keeper.events("chain.head")
        if line["liquidatable"] != line["plans"] + sum(line["skipped"].values())
    ]
    owners = tuple(scene.owners)
    found = await scene.market.accounts_data(owners)
    unhealthy = [owner for owner, each in zip(owners, found, strict=True) if each.health_factor_wad < WAD]
    last = {line["account"]: line for line in scene.keeper.events("decision.skipped")}
    bound = MIN_PROFIT_BASE + 3 * await gas_base(scene.devnet, scene.market)
    for owner in unhealthy:
        reason = last.get(owner, {}).get("reason")
        profit = await _best_profit_base(scene, owner)
        if reason not in LEGITIMATE or profit >= bound:
            defects.append(f"{owner}: {reason}, though ${profit / 10**8:,.2f} can be had")
    good = f"{len(unhealthy)} unhealthy positions are left, each for a reason and none that pays"
    return _verdict(scene, "N6", "every liquidatable position is decided on", defects, good)


async def _best_profit_base(scene: Scene, owner: str) -> int:
    """Try each pair of an account on the node itself."""
    prices, market, spec = await scene.market.prices(), scene.market, scene.owners[owner]
    best = 0
    for debt in spec.borrows:
        for collateral in spec.supplies:
            amounts = await liquidated(scene.devnet, market, owner, debt=debt, collateral=collateral)
            if amounts is not None:
                repaid, seized = amounts
                value = seized * prices[collateral] // 10 ** market.reserves[collateral].decimals
                best = max(best, value - repaid * prices[debt] // 10 ** market.reserves[debt].decimals)
    return best


def _no_secret(scene: Scene) -> Verdict:
    folders = [run.program.folder for run in scene.keeper.runs]
    sinks = files_in(*folders, scene.state_dir)
    found = [*scene.keeper.leaks, *canary_hits(sinks, SECRETS)]
    size = sum(map(len, sinks.values())) // 2**20
    return _verdict(
        scene, "N7", "no secret is seen", found, f"{size} MiB of logs and state, and the pages, were searched"
    )


def steady(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples of the last process after its warm-up."""
    own = [each for each in samples if samples and each.run == samples[-1].run and each.rss_kib]
    if not own:
        return []
    life_s = own[-1].at_s - own[0].at_s
    return [each for each in own if each.at_s >= own[0].at_s + min(WARM_UP_S, WARM_UP_SHARE * life_s)]


def _bounded(report: Report) -> Verdict:
    """N8: the last process's medians of the first and the last third of its life after the warm-up."""
    measured = steady(report.samples)
    growth: dict[str, tuple[Callable[[Sample], int | None], Callable[[float], float]]] = {
        "memory": (lambda each: each.rss_kib, lambda first: RSS_GROWTH_KIB + RSS_GROWTH_SHARE * first),
        "descriptors": (lambda each: each.descriptors, lambda _: DESCRIPTORS_GROWTH),
        "threads": (lambda each: each.threads, lambda _: THREADS_GROWTH),
        "tasks": (lambda each: each.tasks, lambda _: TASKS_GROWTH),
    }
    told, is_good = [], True
    for name, (value_of, allowed) in growth.items():
        trend = Trend.of((each.at_s, value) for each in measured if (value := value_of(each)) is not None)
        if trend is None:
            told.append(f"{name}: not shown")
            is_good = is_good and name == "tasks"
            continue
        is_good = is_good and trend.last - trend.first <= allowed(trend.first)
        unit = MIB if name == "memory" else 1
        suffix = " MiB" if name == "memory" else ""
        told.append(
            f"{name} {trend.first / unit:.1f} → {trend.last / unit:.1f}{suffix} ({trend.per_hour / unit:+.1f} an hour)"
        )
    return Verdict("N8", "memory, descriptors, threads and tasks are bounded", is_good, "; ".join(told))


def _honest(scene: Scene, report: Report) -> Verdict:
    """N9: not ready soon after it cannot act, ready soon after it can."""
    defects = [
        f"{each.kind} ({each.detail}) at {each.begin_s:.0f} s: never ready again"
        for each in report.faults
        if each.recovery_s is None
    ]
    slow = [each for each in report.faults if each.recovery_s is not None and each.recovery_s > MOST_RECOVERY_S]
    defects += [f"{each.kind} at {each.begin_s:.0f} s: ready again only after {each.recovery_s:.0f} s" for each in slow]
    for each in report.faults:
        if each.kind in BLINDS and each.end_s - each.begin_s > NOTICE_S:
            late = each.not_ready_after_s is None or each.not_ready_after_s > NOTICE_S
            if late:
                defects.append(f"{each.kind} at {each.begin_s:.0f} s: not ready after {each.not_ready_after_s} s")
    known = [each.recovery_s for each in report.faults if each.recovery_s is not None]
    good = f"{len(report.faults)} faults, the slowest recovery {max(known, default=0):.1f} s"
    return _verdict(scene, "N9", "/readyz tells whether it can act", defects, good)


def _no_early_end(scene: Scene) -> Verdict:
    defects = [f"the keeper ended by itself {each}" for each in scene.keeper.ended_early]
    good = f"{len(scene.keeper.runs)} processes on one state, none of which ended by itself"
    return _verdict(scene, "N10", "a kill and a restart change nothing; nothing ends by itself", defects, good)


def _identity(scene: Scene, books: Books, report: Report) -> Verdict:
    defects: list[object] = [*books.balance.faults]
    defects += [line.get("detail") for line in scene.keeper.events("invariant.violated")]
    seen = max((each.violations for each in report.samples), default=0)
    if seen:
        defects.append(f"the keeper counted {seen} violations itself")
    fates = ", ".join(f"{count} {name}" for name, count in sorted(books.balance.fates.items()))
    return _verdict(
        scene, "N11", "every attempt is accounted for", defects, f"{books.balance.attempts} attempts: {fates}"
    )


def _stops(scene: Scene, exit_code: int, took_s: float) -> Verdict:
    is_good = exit_code == ExitCode.DONE and took_s <= GRACE_S + 5
    defects = [] if is_good else [f"the last SIGTERM: exit {exit_code} after {took_s:.1f} s"]
    codes = scene.keeper.exit_codes
    return _verdict(
        scene, "N12", "SIGTERM ends it in time", defects, f"{len(codes)} × exit 0, the last after {took_s:.1f} s"
    )


async def _books(scene: Scene) -> Books:
    sender = Address(bytes.fromhex(scene.operator.address[2:]))
    database = await Database.open(scene.database, 31_337, is_read_only=True)
    try:
        journal = Journal(database, sender)
        highest = await journal.highest_nonce()
        entries = [each for nonce in range((highest or 0) + 1) for each in await journal.entries_at(nonce)]
        balance = await Audit(database, sender).balance()
        summary = await Outcomes(database).summary()
    finally:
        await database.close()
    statement = await read_statement(scene.chain, {GENERATION: scene.market}, scene.operator.address, scene.before)
    mined = {nonce: tx_hash async for nonce, tx_hash in _mined(scene)}
    for tx_hash in scene.foreign.values():
        receipt = await scene.chain.rpc("eth_getTransactionReceipt", tx_hash)
        if receipt is not None:
            scene.foreign_gas_wei += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    return Books(tuple(entries), balance, summary, statement, mined)


async def _mined(scene: Scene) -> AsyncIterator[tuple[int, str]]:
    """Yield what the chain holds of the keeper's key."""
    last = await scene.chain.block_number()
    wanted = [("eth_getBlockByNumber", [hex(number), True]) for number in range(scene.before.block + 1, last + 1)]
    for block in await scene.chain.batch(wanted):
        for each in block["transactions"]:
            if each["from"].lower() == scene.operator.address.lower():
                yield int(each["nonce"], 16), str(each["hash"]).lower()


def _figures(scene: Scene, report: Report, books: Books) -> None:
    """Note what is worth knowing beside the verdicts."""
    busy = [(each.begin_s - 1, each.end_s + (each.recovery_s or MOST_RECOVERY_S) + 2) for each in report.faults]
    begun_s = min((each.at_s for each in report.samples if each.is_ready), default=0.0)
    asked = [each for each in report.samples if each.is_ready is not None and each.at_s >= begun_s]
    calm = [each for each in asked if not any(begin <= each.at_s <= end for begin, end in busy)]
    unready = [each for each in calm if not each.is_ready]
    reasons = sorted({reason for each in unready for reason in each.reasons})
    restarts = {each.name for each in KINDS if each.ends_process}
    lasting = [each for each in report.faults if each.kind not in restarts]
    soon = [each for each in lasting if each.recovery_blocks is not None and each.recovery_blocks <= SOON_BLOCKS]
    report.figures |= {
        "acting again within two blocks": f"after {len(soon)} of {len(lasting)} faults that left the process alive",
        "an account aimed at again before a block had the first": str(len(_overlaps(books.entries))),
        "blocks": str(books.statement.after.block - scene.before.block),
        "liquidations": str(len(books.statement.liquidations)),
        "transactions mined": f"{books.statement.transactions}, {books.statement.reverted} of them reverted",
        "outcomes": ", ".join(f"{count} {name.value}" for name, count in sorted(books.summary.results.items())),
        "attempts": ", ".join(f"{count} {name}" for name, count in sorted(books.balance.fates.items())),
        "processes": str(len(scene.keeper.runs)),
        "not ready while nothing was wrong": f"{len(unready)} of {len(calm)} samples {' '.join(reasons)}".rstrip(),
        "longest lag of the loop": f"{max((each.loop_lag_s for each in report.samples), default=0):.2f} s",
        "refused by geth's rules": str(len(scene.pool.refusals)),
    }
