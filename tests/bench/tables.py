"""A report as tables."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.figures import Engine, Pattern, Reaction, Report, Restart, Screening, Shift, Size, middle, spread

_STAGES = ("logs", "read", "scan", "plan")


def show(report: Report, console: Console) -> None:
    """Print everything, the main table first."""
    if report.sizes:
        console.print(_main(report.sizes))
        console.print(_ratios(report.sizes))
        console.print(_heads(report.sizes))
        console.print(_reactions(report.sizes))
        console.print(_processes(report.sizes))
    if report.restarts:
        console.print(_restarts(report.restarts))
    if report.engines:
        console.print(_engines(report.engines))
    if report.screenings:
        console.print(_screenings(report.screenings))
    for note in notes(report):
        console.print(f"  {note}", style="dim")
    for failure in report.failures:
        console.print(f"  [red]failed[/] {failure}")


def notes(report: Report) -> Iterator[str]:
    """Say how to read the figures."""
    yield "medians, with the range in brackets; ≈ is extrapolated linearly from the sample that the JSON names"
    yield "one anvil, one daemon and this program share the machine: compare within a run, not between runs"
    yield (
        "head to broadcast: from the daemon taking the head in hand to its tx.broadcast line; "
        "the journal is on disk before that line"
    )
    yield "keeper requests per head count everything that its metrics count: polls, logs, reads and node checks"
    yield (
        "at rest the daemon asks for logs at every head here: until the chain has shown one filled bloom filter, "
        "an empty one proves nothing; with websocket heads the pushed heads are no requests"
    )
    yield "received and sent: all that the process read and wrote but its log, so a little more than the network's share"
    yield "web3.py asks for the chain's id twice with every call, unless told not to: three requests for each account"
    if report.restarts:
        yield (
            "starts: an observing daemon over HTTP; cold without any state, warm after a clean stop, by turns; "
            "what precedes the first line is Python loading the program"
        )
        yield "100,000 positions: a genuine saved book with copies of its positions; the chain does not have those"
    if report.screenings:
        yield "the screen alone: every volatile price fell by up to so much since the rows were sorted, one by all of it"
    if any(each.is_extrapolated for size in report.sizes for each in size.patterns):
        yield "the common pattern was timed with at most 1,000 accounts"


def _main(sizes: Sequence[Size]) -> Table:
    table = _table("requests per head, and time from head to broadcast", "", *(f"{each.positions:,}" for each in sizes))
    for place, shift in enumerate(sizes[0].shifts):
        name = f"keeper, {shift.transport}"
        table.add_row(
            f"{name}: HTTP requests per head", *_each(sizes, place, lambda s: f"{s.steady.requests_per_head:.2f}")
        )
        table.add_row("  JSON-RPC calls per head", *_each(sizes, place, lambda s: f"{s.steady.calls_per_head:.2f}"))
        table.add_row("  head → every position valued, ms", *_each(sizes, place, lambda s: spread(s.steady.pass_ms)))
        table.add_row(
            "  head → first broadcast, ms",
            *_each(sizes, place, lambda s: spread([each.seen_to_first_ms for each in s.reactions])),
        )
        table.add_row(
            "  head → last broadcast, ms",
            *_each(sizes, place, lambda s: spread([each.seen_to_last_ms for each in s.reactions])),
            end_section=True,
        )
    for place, pattern in enumerate(sizes[0].patterns):
        table.add_row(
            f"{pattern.client}: HTTP requests per head", *(f"{each.patterns[place].requests:,.0f}" for each in sizes)
        )
        table.add_row(
            "  head → every position valued, ms",
            *(_about(each.patterns[place], each.patterns[place].seconds * 1_000) for each in sizes),
            end_section=True,
        )
    return table


def _ratios(sizes: Sequence[Size]) -> Table:
    """Compare what the common pattern needs with what the daemon needs, at the same size in the same run."""
    table = _table("how many times more the common pattern takes", "", *(f"{each.positions:,}" for each in sizes))
    for shift_place, shift in enumerate(sizes[0].shifts):
        for place, pattern in enumerate(sizes[0].patterns):
            name = f"{pattern.client} / keeper, {shift.transport}"
            values = []
            for size in sizes:
                mine, theirs = size.shifts[shift_place], size.patterns[place]
                requests = theirs.requests / mine.steady.requests_per_head
                times = theirs.seconds * 1_000 / middle(mine.steady.pass_ms)
                values.append(f"{_about(theirs, requests)} × requests, {_about(theirs, times)} × time")
            table.add_row(name, *values)
    return table


def _heads(sizes: Sequence[Size]) -> Table:
    table = _table(
        "heads at rest",
        "positions",
        "transport",
        "heads",
        "skipped",
        "announced → taken, ms",
        *(f"{stage}, ms" for stage in _STAGES),
        "CPU, ms",
        "received, kB",
        "sent, kB",
    )
    for size, shift in _shifts(sizes):
        steady = shift.steady
        table.add_row(
            f"{size.positions:,}",
            shift.transport,
            str(steady.heads),
            str(steady.blocks - steady.heads),
            spread(steady.seen_after_ms, 0),
            *(spread(steady.stages_ms[stage], 2) for stage in _STAGES),
            f"{steady.cpu_ms_per_head:.1f}",
            f"{steady.received_bytes_per_head / 1_000:.1f}",
            f"{steady.sent_bytes_per_head / 1_000:.1f}",
        )
    return table


def _reactions(sizes: Sequence[Size]) -> Table:
    table = _table(
        "price moves",
        "positions",
        "transport",
        "fell",
        "sent",
        "pass, ms",
        "head → first, ms",
        "head → last, ms",
        "announced → first, ms",
        "announced → last, ms",
        "landed after, blocks",
    )
    for size, shift in _shifts(sizes):
        for each in shift.reactions:
            table.add_row(f"{size.positions:,}", shift.transport, *_reaction(each))
    return table


def _reaction(each: Reaction) -> Iterator[str]:
    yield from (str(each.positions), str(each.transactions), f"{each.pass_ms:.1f}")
    times = (each.seen_to_first_ms, each.seen_to_last_ms, each.mined_to_first_ms, each.mined_to_last_ms)
    yield from (f"{time_ms:.0f}" for time_ms in times)
    yield f"{middle(each.landed_after_blocks):g} (at most {max(each.landed_after_blocks, default=0)})"


def _processes(sizes: Sequence[Size]) -> Table:
    table = _table(
        "the process", "positions", "tracked", "start", "to the first pass, s", "RSS, MiB", "peak, MiB", "node, MiB"
    )
    for size, shift in _shifts(sizes):
        table.add_row(
            f"{size.positions:,}",
            f"{size.tracked:,}",
            shift.start,
            f"{shift.first_pass_s:.2f}",
            f"{shift.rss_mib:.0f}",
            f"{shift.peak_mib:.0f}",
            f"{size.node_mib:.0f}",
        )
    return table


def _restarts(restarts: Sequence[Restart]) -> Table:
    table = _table(
        "starts of the daemon",
        "positions",
        "start",
        "process to its first line, s",
        "from there to the first decided head, s",
        "in all, s",
        "cold / warm, from there / in all",
        "CPU, s",
        "JSON-RPC calls",
        "RSS, MiB",
        "peak, MiB",
    )
    cold = {each.positions: each for each in restarts if each.start == "cold"}
    for each in restarts:
        other = cold.get(each.positions, each)
        is_compared = other is not each
        ratios = (middle(other.work_s) / middle(each.work_s), middle(other.first_head_s) / middle(each.first_head_s))
        table.add_row(
            f"{each.positions:,}",
            each.start,
            spread(each.first_line_s, 2),
            spread(each.work_s, 2),
            spread(each.first_head_s, 2),
            "{:.1f} / {:.1f} ×".format(*ratios) if is_compared else "-",
            spread(each.cpu_s),
            spread(each.calls, 0),
            spread(each.rss_mib, 0),
            spread(each.peak_mib, 0),
        )
    return table


def _engines(engines: Sequence[Engine]) -> Table:
    table = _table("the engine alone, ms", "", *(f"{each.rows:,} rows" for each in engines))
    for name in engines[0].scans_ms:
        table.add_row(
            f"scan, {name}", *(f"{each.scans_ms[name]:,.2f} ({each.suspects[name]:,} exact)" for each in engines)
        )
    table.add_row("first scan, which packs", *(f"{each.pack_ms:,.1f}" for each in engines))
    table.add_row("filling the book", *(f"{each.fill_ms:,.1f}" for each in engines))
    table.add_row(
        "exact rules for every row", *(f"{'≈ ' * each.is_exact_extrapolated}{each.exact_ms:,.0f}" for each in engines)
    )
    table.add_row(
        "  that / a scan at rest", *(f"{each.exact_ms / next(iter(each.scans_ms.values())):,.0f} ×" for each in engines)
    )
    table.add_row("memory of the screen, bytes per row", *(f"{each.bytes_per_row:,.0f}" for each in engines))
    return table


def _screenings(screenings: Sequence[Screening]) -> Table:
    table = _table(
        "the screen alone, made-up books of 30 assets, ms", "", *(f"{each.rows:,} rows" for each in screenings)
    )
    for name in screenings[0].scans_ms:
        table.add_row(name, *(f"{each.scans_ms[name]:,.2f}" for each in screenings))
        table.add_row("  without naming the suspects", *(f"{each.read_ms[name]:,.2f}" for each in screenings))
        table.add_row(
            "  rows read, suspects", *(f"{each.read[name]:,}, {each.suspects[name]:,}" for each in screenings)
        )
        table.add_row(
            "  all rows by numpy / that",
            *(f"{each.flat_ms[name] / each.scans_ms[name]:,.1f} ×" for each in screenings),
        )
        table.add_row(
            "  all rows in plain Python / that",
            *(f"{each.plain_ms / each.scans_ms[name]:,.0f} ×" for each in screenings),
            end_section=True,
        )
    table.add_row("sorting all rows anew", *(f"{each.build_ms:,.1f}" for each in screenings))
    table.add_row("filling it from rows", *(f"{each.fill_ms:,.0f}" for each in screenings))
    table.add_row(
        "bytes per row: sorted arrays, all arrays",
        *(f"{each.ranking_bytes:.1f}, {each.array_bytes:.1f}" for each in screenings),
    )
    return table


def _about(pattern: Pattern, value: float) -> str:
    digits = 0 if value >= 20 else 1 if value >= 1 else 2
    return f"{'≈ ' * pattern.is_extrapolated}{value:,.{digits}f}"


def _shifts(sizes: Iterable[Size]) -> Iterator[tuple[Size, Shift]]:
    for size in sizes:
        for shift in size.shifts:
            yield size, shift


def _each(sizes: Sequence[Size], place: int, of: Callable[[Shift], str]) -> list[str]:
    return [of(size.shifts[place]) for size in sizes]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table
