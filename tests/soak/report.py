"""The report of a soak: its figures as JSON, its story as markdown, its course as a picture."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from tests.soak import plot
from tests.soak.figures import Happened, Report


def save(report: Report, folder: Path) -> tuple[Path, ...]:
    """Write soak.json, soak.md and soak.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "soak.json": msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n",
        "soak.md": as_markdown(report),
        "soak.svg": plot.draw(report),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in files)


def as_markdown(report: Report) -> str:
    """Write the verdicts, the worst recovery of each kind, and the figures."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    wish = report.wish
    held = sum(each.holds for each in report.verdicts)
    yield "# Soak"
    yield ""
    yield (
        f"{report.started}: {wish.seconds / 60:g} minutes, seed {wish.seed}, {len(report.faults)} faults "
        f"{wish.gap_s[0]:g} to {wish.gap_s[1]:g} s apart, blocks of {wish.block_s} s, {wish.positions} positions at the "
        f"start. **{held} of {len(report.verdicts)} invariants held.** ({report.machine})"
    )
    yield from ("", "## Invariants", "", *_table(("", "", "held", "")))
    for each in report.verdicts:
        yield _row((each.name, each.meaning, "yes" if each.holds else "**NO**", each.detail))
    yield from ("", "## Recovery by kind of fault", "")
    yield "Seconds and blocks from the fault's end to a pass at a later block with /readyz saying yes: the worst."
    headings = ("fault", "times", "seconds", "blocks", "longest time without a pass, s", "not ready after, s")
    yield from ("", *_table(headings))
    for kind, found in sorted(_by_kind(report.faults).items()):
        yield _row((kind, str(len(found)), *_worst(found)))
    yield from ("", "## Figures", "", *_table(("", "")))
    for name, value in report.figures.items():
        yield _row((name, value))
    yield from ("", "## Warnings and errors in the log", "", *_table(("event", "times")))
    for name, count in report.alarms.items():
        yield _row((name, str(count)))


def _by_kind(faults: Iterable[Happened]) -> dict[str, list[Happened]]:
    found: dict[str, list[Happened]] = {}
    for each in faults:
        found.setdefault(each.kind, []).append(each)
    return found


def _worst(found: list[Happened]) -> tuple[str, str, str, str]:
    is_lost = any(each.recovery_s is None for each in found)
    seconds = max((each.recovery_s for each in found if each.recovery_s is not None), default=0.0)
    blocks = max((each.recovery_blocks for each in found if each.recovery_blocks is not None), default=0)
    notices = [each.not_ready_after_s for each in found if each.not_ready_after_s is not None]
    return (
        "never" if is_lost else f"{seconds:.1f}",
        "never" if is_lost else str(blocks),
        f"{max(each.longest_pause_s for each in found):.1f}",
        f"{max(notices):.1f}" if notices else "–",
    )


def _table(headings: tuple[str, ...]) -> tuple[str, str]:
    return _row(headings), _row(["---"] * len(headings))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(each.replace('|', '/') for each in cells)} |"
