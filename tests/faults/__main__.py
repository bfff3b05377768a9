"""`make faults`: run every fault test, and show for each group what passes of what applies, and the worst recovery."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console
from rich.table import Table

from tests.faults.catalogue import CANNOT_APPLY, CASES, case_of, group_of, groups
from tests.faults.recovery import PROPERTY, Recovered

_HERE: Final = Path(__file__).parent


@dataclass(slots=True)
class Tally:
    """What the tests of all cases came to."""

    passed: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    recoveries: list[Recovered] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the end of a phase of a test; with several processes, the first one hears of all."""
        name = report.location[2].rpartition(".")[2].partition("[")[0]
        case = case_of(name)
        if report.when == "call":
            self.recoveries += [
                Recovered.read(told) for name, told in report.user_properties if name == PROPERTY and report.passed
            ]
        if case is None:
            return
        if report.failed:
            self.failed[case] = self.failed.get(case, 0) + 1
        elif report.skipped:
            self.skipped[case] = self.skipped.get(case, 0) + 1
        elif report.when == "call":
            self.passed[case] = self.passed.get(case, 0) + 1

    def does_pass(self, case: str) -> bool:
        """Say whether a case has tests that passed, and none that failed or were skipped."""
        return case in self.passed and case not in self.failed and case not in self.skipped


@dataclass(frozen=True, slots=True)
class Row:
    """One group's line."""

    group: str
    passed: int
    applicable: int
    tests: int
    blocks: int | None
    seconds: float | None
    missing: tuple[str, ...]


def row_of(group: str, tally: Tally) -> Row:
    """Sum a group up."""
    cases = [each for each in CASES if group_of(each) == group and each not in CANNOT_APPLY]
    told = [each for each in tally.recoveries if group_of(each.case) == group]
    return Row(
        group=group,
        passed=sum(map(tally.does_pass, cases)),
        applicable=len(cases),
        tests=sum(tally.passed.get(each, 0) for each in cases),
        blocks=max((each.blocks for each in told if each.blocks is not None), default=None),
        seconds=max((each.seconds for each in told if each.seconds is not None), default=None),
        missing=tuple(each for each in cases if not tally.does_pass(each)),
    )


def cells_of(row: Row) -> tuple[str, ...]:
    """Write a line's cells."""
    return (
        row.group,
        f"{row.passed} / {row.applicable}",
        str(row.tests),
        "–" if row.blocks is None else str(row.blocks),
        "–" if row.seconds is None else f"{row.seconds:.2f}",
        " ".join(row.missing) or "–",
    )


HEADINGS: Final = ("group", "cases passed / applicable", "tests", "worst recovery, blocks", "seconds", "not passed")


def total_of(rows: Sequence[Row]) -> Row:
    """Sum all groups up."""
    return Row(
        group="all",
        passed=sum(each.passed for each in rows),
        applicable=sum(each.applicable for each in rows),
        tests=sum(each.tests for each in rows),
        blocks=max((each.blocks for each in rows if each.blocks is not None), default=None),
        seconds=max((each.seconds for each in rows if each.seconds is not None), default=None),
        missing=(),
    )


def as_table(rows: Sequence[Row]) -> Table:
    """Draw the table for a terminal."""
    table = Table(title="Faults survived")
    for heading in HEADINGS:
        table.add_column(heading)
    for row in rows:
        table.add_row(*cells_of(row), style="" if row.passed == row.applicable else "red")
    return table


def as_markdown(rows: Sequence[Row], tally: Tally) -> str:
    """Write the table, each recovery, and why a case does not apply."""
    lines = ["# Faults survived", "", _line(HEADINGS), _line(["---"] * len(HEADINGS))]
    lines += [_line(cells_of(row)) for row in rows]
    lines += ["", "## Recoveries", "", _line(("case", "", "blocks", "seconds")), _line(["---"] * 4)]
    for each in sorted(tally.recoveries, key=lambda each: each.case):
        blocks = "–" if each.blocks is None else str(each.blocks)
        seconds = "–" if each.seconds is None else f"{each.seconds:.2f}"
        lines.append(_line((each.case, CASES[each.case], blocks, seconds)))
    lines += ["", "## Cases that cannot apply", "", _line(("case", "", "why")), _line(["---"] * 3)]
    lines += [_line((case, CASES[case], why)) for case, why in CANNOT_APPLY.items()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Run, show, save; the exit code is that of the tests."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("fault-report"), help="folder of the table as markdown")
    chosen, rest = parser.parse_known_args()
    tally = Tally()
    everything = ["-m", "", *([] if any(Path(each.partition("::")[0]).exists() for each in rest) else [str(_HERE)])]
    code = int(pytest.main([*everything, *rest], plugins=[tally]))
    rows = [row_of(group, tally) for group in groups()]
    rows.append(total_of(rows))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(highlight=False, width=170)).print(as_table(rows))
    chosen.output.mkdir(parents=True, exist_ok=True)
    (chosen.output / "faults.md").write_text(as_markdown(rows, tally), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
