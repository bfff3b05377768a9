"""The README's generated parts are what the code says, and its commands exist."""

import re
from pathlib import Path

from keeper.domain.outcome import Reason
from keeper.observe.events import Event, event_table
from keeper.settings import settings_table

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text(encoding="utf-8")


def part(name: str) -> str:
    found = re.search(rf"<!-- {name}:[^\n]*-->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert found is not None
    return found[1].strip()


def test_the_table_of_settings_is_the_models_own() -> None:
    assert part("settings") == settings_table().strip()


def test_the_table_of_events_is_the_catalogue() -> None:
    assert part("events") == event_table().strip()


def test_every_make_target_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))
    assert {"setup", "demo", "test", "check", "bench", "lock"} <= named
    assert all(re.search(rf"^([a-z]+ )*{each}( [a-z]+)*:", MAKEFILE, re.MULTILINE) for each in named)


def test_every_reason_in_the_decision_table_exists() -> None:
    rows = re.findall(
        r"^\| (`[^|]+) \| ", README[README.index("| Decision |") : README.index("### Why does it")], re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} - {"accepted"}
    assert named <= {each.value for each in Reason}
    assert len(named) >= 18


def test_the_captured_log_line_has_the_fields_of_a_head() -> None:
    line = next(each for each in README.splitlines() if '"event":"chain.head"' in each)
    assert all(
        f'"{field}":' in line
        for field in ("positions", "liquidatable", "requests", "duration_us", *Event.CHAIN_HEAD.fields)
    )
