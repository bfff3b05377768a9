"""Every event that the program emits is in the catalogue, with the fields it promises."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from keeper.observe.events import CATALOGUE, Event, event_table

KEEPER = Path(__file__).parents[3] / "keeper"
EMITTERS = {"emit", "event"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(KEEPER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(KEEPER)}:{node.lineno}", node


def emitted(call: ast.Call) -> str | None:
    """Return the event that a call names, if it emits one by a name that the source shows."""
    function = call.func
    called = (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )
    if called not in EMITTERS or not call.args:
        return None
    name = call.args[0]
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        return name.value
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "Event":
        return Event[name.attr].value
    return None


def test_every_event_that_is_emitted_is_in_the_catalogue_with_its_fields() -> None:
    found = 0
    for where, call in calls():
        name = emitted(call)
        if name is None:
            continue
        found += 1
        assert name in CATALOGUE, f"{where} emits {name}, which is not in keeper/observe/events.py"
        given = {keyword.arg for keyword in call.keywords}
        missing = set(CATALOGUE[name].fields) - given
        assert None in given or not missing, f"{where} emits {name} without {sorted(missing)}"
    assert found > 3


def test_every_mention_of_an_event_is_of_one_that_exists() -> None:
    for path in sorted(KEEPER.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Event":
                assert node.attr in Event.__members__, f"{path}:{node.lineno} Event.{node.attr}"


@pytest.mark.parametrize("event", Event)
def test_an_events_name_is_a_noun_and_a_verb(event: Event) -> None:
    noun, verb = event.value.split(".")
    assert noun.isidentifier()
    assert verb.isidentifier()
    assert event.name == f"{noun}_{verb}".upper()
    assert event.meaning
    assert event.level in {"debug", "info", "warning", "error"}


def test_the_table_has_a_row_for_each_event() -> None:
    rows = event_table().splitlines()
    assert len(rows) == len(Event) + 2
    assert "| `decision.skipped` | info | `market`, `account`, `reason` | a liquidation is not attempted |" in rows
