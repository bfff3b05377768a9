"""`keeper protocol test`: whether a protocol keeps the promises that the engine relies on, on its own contracts.

Everything is asked of one market at one block, and nothing is sent. `examine` is all there is to it: a package that
offers a protocol can call it from its own tests with any reads and positions.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from keeper.chain.simulation import call_alone
from keeper.chain.view import ChainView
from keeper.chainfile import ChainFile
from keeper.checks import Check, Status
from keeper.domain.abi import number_word, selector
from keeper.domain.chain import Call, Log, Moment
from keeper.domain.outcome import Reason
from keeper.domain.ports import Calls, Market, Reader, Reads, Rules, Snapshot
from keeper.domain.position import Action, Assessment, Health, Opportunity
from keeper.domain.units import NATIVE, WAD, Address, BlockHash, PositionId, TxHash
from keeper.engine.parity import differs
from keeper.engine.screen import MAX_ENTRIES, Screen
from keeper.errors import Invalid
from keeper.parts import OnProgress, open_rpc, read_books
from keeper.registry import markets_of
from keeper.settings import Settings

Probe = Callable[[Call], Awaitable[bytes | None]]
"""Run a call of somebody without tokens on the block's state: its revert data, or None where it succeeds."""

LANDING_S: Final = 12
STRANGER: Final = Address(bytes.fromhex("57a9" * 10))
_FAR_WAD: Final = 11 * WAD // 10
_MAX_TEXT: Final = 256
_SHOWN: Final = 3
_ADDRESS: Final = 20
_JUNK: Final = (
    b"",
    b"\x00",
    bytes(4),
    bytes(1_000),
    b"\xff" * 999,
    selector("Error(string)") + number_word(32) + number_word(2**255) + b"\x00\xff" * 16,
    selector("Error(string)") + number_word(32) + number_word(400) + b"\x01" * 400,
    selector("Panic(uint256)") + number_word(0x11),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What is examined: a market at a block with some of its positions, each valued at the block and where one lands."""

    market: Market
    snapshot: Snapshot
    positions: tuple[Any, ...]
    now: Moment
    landing: Moment
    assessed: tuple[Assessment, ...]

    @property
    def opportunities(self) -> Iterator[Opportunity]:
        """Return everything that could be done where a transaction lands."""
        for each in self.assessed:
            yield from each.opportunities


async def examine_all(
    settings: Settings, chain: ChainFile, name: str, *, limit: int, on_progress: OnProgress | None = None
) -> tuple[Check, ...]:
    """Examine every market of a protocol on the configured chain; it works beside a running daemon."""
    chosen = chain.model_copy(update={"markets": tuple(each for each in chain.markets if each.protocol == name)})
    if incomplete := [_parts(each, missing) for each in markets_of(chosen) if (missing := [*_missing(each)])]:
        return tuple(incomplete)
    async with open_rpc(settings, chosen) as rpc:
        scanner, head = await read_books(settings, chosen, rpc, on_progress)

        async def probe(call: Call) -> bytes | None:
            answer = await call_alone(rpc, call, sender=STRANGER, block_hash=head.hash)
            return None if answer.ok else answer.data

        found: list[Check] = []
        for books in scanner.books.values():
            reads = ChainView(rpc, multicall=chosen.multicall).reads(head)
            found += await examine(books.market, reads, sorted(books.book.positions)[:limit], probe)
    return tuple(found)


async def examine(
    market: Market, reads: Reads, ids: Sequence[PositionId], probe: Probe | None = None
) -> tuple[Check, ...]:
    """Make every check of one market at the reads' block with some of its positions.

    The market has been discovered. With a probe, the contracts' own verdict about liquidations is asked as well.
    """
    if missing := [*_missing(market)]:
        return (_parts(market, missing),)
    snapshot = await market.reader.snapshot(reads)
    positions = tuple(await market.reader.positions(reads, ids))
    landing = reads.head.landing(LANDING_S)
    assessed = tuple(market.rules.assess(each, snapshot, landing, None) for each in positions)
    sample = Sample(market, snapshot, positions, reads.head.moment, landing, assessed)
    checks = [
        _parts(market, []),
        _verdict(market, "snapshot", [*_snapshot(sample, reads)], f"{len(snapshot.payments)} ways to pay"),
        _verdict(market, "logs", [*_logs(sample)], "logs of strangers name nothing and touch nothing"),
        _verdict(market, "reading", [*await _reading(sample, reads, ids)], f"{len(ids)} positions, in any company"),
        _verdict(market, "parity", [*await _parity(sample, reads)], f"{len(positions)} positions to the unit"),
        _verdict(market, "screen", [*_screen(sample)], "no liquidatable position is missed, few others are named"),
        _verdict(
            market, "assessments", [*_assessments(sample)], f"{sum(1 for _ in sample.opportunities)} opportunities"
        ),
        _verdict(market, "budgets", [*_budgets(sample)], "no opportunity pays more than it may"),
        _verdict(market, "calls", [*_calls(sample)], "calls go where the signer allows them"),
        _verdict(market, "reverts", [*_reverts(market.calls)], f"{len(_JUNK)} kinds of junk have a reason"),
    ]
    if probe is not None:
        refused, tried = await _probed(sample, probe)
        checks.append(
            _verdict(market, "contracts agree", refused, f"none of {tried} liquidations is refused as illegal")
        )
    if not positions:
        checks.append(Check(f"{market.name}: sample", Status.WARN, "no position to examine", "open some, or wait"))
    return tuple(checks)


def _parts(market: Market, missing: Sequence[str]) -> Check:
    return _verdict(market, "parts", missing, "reader, rules and calls have everything that the ports ask for")


def _verdict(market: Market, name: str, problems: Sequence[str], fine: str) -> Check:
    """Return one line: the first problems and how many there are, or that all is well."""
    if not problems:
        return Check(f"{market.name}: {name}", Status.OK, fine)
    shown = "; ".join(problems[:_SHOWN])
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return Check(f"{market.name}: {name}", Status.FAIL, f"{shown}{more}", "see keeper/domain/ports.py for the promise")


def _missing(market: Market) -> Iterator[str]:
    """Name what a part lacks of its port."""
    for part, port in ((market.reader, Reader), (market.rules, Rules), (market.calls, Calls)):
        wanted = {*vars(port), *getattr(port, "__annotations__", {})}
        for name in sorted(each for each in wanted if not each.startswith("_")):
            # The class is asked first: a property may need a discovery before it has a value.
            if not hasattr(type(part), name) and not hasattr(part, name):
                yield f"{port.__name__} lacks {name}"


def _snapshot(sample: Sample, reads: Reads) -> Iterator[str]:
    """Ask for the right block, for ways to pay, for whom to call and for what gas costs."""
    snapshot = sample.snapshot
    if snapshot.head != reads.head:
        yield "it is of another block"
    if snapshot.native_price_base is None:
        yield "it has no native price: gas cannot be weighed"
    if not snapshot.targets or any(len(each) != _ADDRESS for each in snapshot.targets):
        yield "its targets are no addresses"
    for payment in snapshot.payments:
        if payment.is_native and payment.spender is not None:
            yield "native currency has a spender"
        if payment.spender is not None and len(payment.spender) != _ADDRESS:
            yield f"the spender of {payment.token.symbol} is no address"
    for every in (sample.market.reader.head_filter, sample.market.reader.discovery_filter):
        if not every.addresses or not every.topics or any(len(each) != 32 for each in every.topics):
            yield "a filter asks for every log of the chain"


def _logs(sample: Sample) -> Iterator[str]:
    """Show the reader logs of contracts that are not the market's: they may emit the very same events."""
    reader = sample.market.reader
    topics = reader.head_filter.topics | reader.discovery_filter.topics
    word = bytes(12) + STRANGER
    logs = [
        Log(STRANGER, (topic, word, word, word), word * 12, 1, BlockHash(bytes(32)), 0, TxHash(bytes(32)))
        for topic in sorted(topics)
    ]
    if reader.named(logs) or reader.liquidations(logs):
        yield "a stranger's log names a position or a liquidation"
    touched = reader.touched(logs)
    if touched.positions or touched.is_market_changed:
        yield "a stranger's log touches the market"
    if reader.named([]) or reader.liquidations([]) or reader.touched([]).is_market_changed:
        yield "no log at all says something"


async def _reading(sample: Sample, reads: Reads, ids: Sequence[PositionId]) -> list[str]:
    """Read positions in order and each alone, and one of an account that was never there."""
    reader, problems = sample.market.reader, []
    if [each.id for each in sample.positions] != list(ids):
        problems.append("positions come in another order than they were asked for")
    for number in range(0, len(ids), max(1, len(ids) // 5)):
        (alone,) = await reader.positions(reads, [ids[number]])
        if alone != sample.positions[number]:
            problems.append(f"0x{ids[number].hex()} is another when it is read alone")
    part = ids[0][_ADDRESS:] if ids else b""
    strangers = await reader.positions(reads, [PositionId(STRANGER + part)])
    if any(each.has_debt for each in strangers):
        problems.append("an account that was never there owes something")
    return problems


async def _parity(sample: Sample, reads: Reads) -> list[str]:
    """Compare with what the protocol itself says at the block's own moment."""
    ids = [each.id for each in sample.positions]
    chain: Sequence[Health | None] = await sample.market.reader.chain_health(reads, ids) if ids else ()
    problems = []
    for position, theirs in zip(sample.positions, chain, strict=True):
        ours = sample.market.rules.health(position, sample.snapshot, sample.now)
        blocked = sample.market.rules.assess(position, sample.snapshot, sample.now, None).blocked
        if differs(ours, theirs) and not (theirs is None and blocked is Reason.PRICE_UNKNOWN):
            said = "a revert" if theirs is None else str(theirs.health_factor_wad)
            problems.append(f"0x{position.id.hex()}: {ours.health_factor_wad} here, {said} on chain")
    return problems


def _screen(sample: Sample) -> Iterator[str]:
    """Find what the screen misses, which may be nothing, and what it names in vain, which should be little."""
    rules, screen = sample.market.rules, Screen()
    rows = {each.id: rules.row(each, sample.snapshot) for each in sample.positions}
    for key, row in rows.items():
        screen.put(key, row)
        if len(row) > MAX_ENTRIES:
            yield f"0x{key.hex()} has a row of {len(row)} entries, more than {MAX_ENTRIES}"
        if any(amount < 0 or not isinstance(amount, int) for _, amount in row):
            yield f"0x{key.hex()} has an amount that is negative or not whole"
    columns = frozenset(column for row in rows.values() for column, _ in row)
    for at in (sample.now, sample.landing):
        suspects = set(screen.suspects(rules.weights(sample.snapshot, columns, at)))
        healthy = named = 0
        for position in sample.positions:
            assessment = rules.assess(position, sample.snapshot, at, None)
            can = assessment.health.is_liquidatable or bool(assessment.opportunities)
            if can and position.id not in suspects:
                yield f"0x{position.id.hex()} can be liquidated and is not a suspect"
            if not can and assessment.health.health_factor_wad > _FAR_WAD:
                healthy += 1
                named += position.id in suspects
        if named > max(1, healthy // 10):
            yield f"{named} of {healthy} positions that are far from liquidation are suspects"


def _assessments(sample: Sample) -> Iterator[str]:
    """Find answers that change with the same state, lack a reason, or are in the wrong order."""
    rules = sample.market.rules
    for position, found in zip(sample.positions, sample.assessed, strict=True):
        name = f"0x{position.id.hex()}"
        if rules.assess(position, sample.snapshot, sample.landing, None) != found:
            yield f"{name} is assessed otherwise the second time"
        if rules.health(position, sample.snapshot, sample.landing) != found.health:
            yield f"{name} has one health alone and another in its assessment"
        if not found.opportunities and found.blocked is None:
            yield f"{name} has neither an opportunity nor a reason why not"
        if found.health.is_liquidatable and found.blocked is Reason.NOT_LIQUIDATABLE:
            yield f"{name} can be liquidated by its health, and cannot by its assessment"
        if found.opportunities and not found.health.is_liquidatable:
            yield f"{name} is healthy and has an opportunity"
        yield from (f"{name} has {each}" for each in _disorder(sample, position, found.opportunities))


def _disorder(sample: Sample, position: Any, opportunities: Sequence[Opportunity]) -> Iterator[str]:
    """Find what is wrong with one position's opportunities among themselves."""
    profits = [each.gross_profit_base for each in opportunities]
    if profits != sorted(profits, reverse=True):
        yield "its best opportunity behind another"
    for each in opportunities:
        amounts = (each.repay_amount, each.seized_amount, each.protocol_fee_amount)
        if min(amounts) < 0 or each.repay_limit < each.repay_amount:
            yield "an impossible amount"
        if (each.key.market, each.key.id) != (sample.market.name, position.id) or each.at != sample.landing:
            yield "an opportunity of another position or moment"


def _budgets(sample: Sample) -> Iterator[str]:
    """Find payments beyond what there is to pay with."""
    rules = sample.market.rules
    for position, found in zip(sample.positions, sample.assessed, strict=True):
        paying = [each for each in found.opportunities if each.repay_limit and each.action is Action.LIQUIDATE]
        for share in (0, 3, 10):
            budget = {each.repay.address: type(each.repay_limit)(each.repay_limit * share // 10) for each in paying}
            for each in rules.assess(position, sample.snapshot, sample.landing, budget).opportunities:
                allowed = budget.get(each.repay.address, 0)
                if each.action is Action.LIQUIDATE and each.repay_limit > allowed:
                    yield f"0x{position.id.hex()} pays {each.repay_limit} of {allowed}"


def _calls(sample: Sample) -> Iterator[str]:
    """Find calls that the signer would refuse."""
    snapshot, calls = sample.snapshot, sample.market.calls
    ways = {(each.token.address, each.spender) for each in snapshot.payments}
    if not calls.PAYABLE <= calls.SELECTORS:
        yield "a payable function is not among the functions"
    for each in sample.opportunities:
        call = calls.liquidation(each)
        name = f"the call for 0x{each.key.id.hex()}"
        if call.to not in snapshot.targets or call.data[:4] not in calls.SELECTORS:
            yield f"{name} goes to 0x{call.to.hex()} {call.data[:4].hex()}, which the signer would refuse"
        if call.value_wei != (each.repay_limit if each.repay.address == NATIVE else 0):
            yield f"{name} carries {call.value_wei} wei"
        if call.value_wei and call.data[:4] not in calls.PAYABLE:
            yield f"{name} carries value by a function that is not payable"
        if each.repay_limit and (each.repay.address, each.spender) not in ways:
            yield f"{name} pays in a way that the snapshot does not list"
        if call != calls.liquidation(replace(each)):
            yield f"{name} is another the second time"


def _reverts(calls: Calls) -> Iterator[str]:
    """Find revert data without a reason or a short, printable text."""
    for junk in _JUNK:
        try:
            reason, text = calls.decode_revert(junk)
        except (ValueError, IndexError, KeyError, OverflowError, Invalid) as error:
            yield f"0x{junk[:8].hex()} raises {type(error).__name__}"
            continue
        if reason not in Reason or len(text) > _MAX_TEXT or not text.isprintable():
            yield f"0x{junk[:8].hex()} has no reason or no readable text"


async def _probed(sample: Sample, probe: Probe) -> tuple[list[str], int]:
    """Ask the contracts about every liquidation that the rules see at this very block."""
    rules, calls, refused, tried = sample.market.rules, sample.market.calls, [], 0
    for position in sample.positions:
        found = rules.assess(position, sample.snapshot, sample.now, None).opportunities
        if not found:
            continue
        tried += 1
        data = await probe(calls.liquidation(found[0]))
        reason, text = (None, "") if data is None else calls.decode_revert(data)
        if reason in {Reason.NOT_LIQUIDATABLE, Reason.DUST_RULE, Reason.UNKNOWN}:
            refused.append(f"0x{position.id.hex()}: {text}")
    return refused, tried
