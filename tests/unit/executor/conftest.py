"""A stage for each module; what a test does on it is undone."""

from collections.abc import Iterator

import pytest

from tests.unit.executor.stage import Stage, built, env


@pytest.fixture(scope="module")
def stage() -> Stage:
    return built()


@pytest.fixture(autouse=True)
def _undone(stage: Stage) -> Iterator[None]:
    """Undo what a test does."""
    with env.anchor():
        yield
