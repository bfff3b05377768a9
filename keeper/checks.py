"""What a command that looks at many things found: one line each, with how to mend it."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum

from rich.console import Console
from rich.markup import escape

from keeper.errors import ExitCode


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `fix` is empty where there is nothing to mend."""

    name: str
    status: Status
    finding: str
    fix: str = ""


def exit_code(checks: tuple[Check, ...]) -> ExitCode:
    """Return what the process should end with: warnings pass."""
    return ExitCode.UNSAFE if any(each.status is Status.FAIL for each in checks) else ExitCode.DONE


def as_json(checks: tuple[Check, ...]) -> str:
    """Write the checks as a JSON document."""
    return json.dumps({"ok": exit_code(checks) == ExitCode.DONE, "checks": [asdict(each) for each in checks]}, indent=2)


def show(checks: tuple[Check, ...], console: Console) -> None:
    """Print one line per check, and below it how to mend what is not ok."""
    colours = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}
    for each in checks:
        label = f"[{colours[each.status]}]{each.status.value:4}[/]"
        console.print(f"{label}  {escape(each.name)}: {escape(each.finding)}", soft_wrap=True)
        if each.fix:
            console.print(f"      → {escape(each.fix)}", soft_wrap=True)
