"""A stage for each test; titanoboa undoes what was done during a fixture's life, and each test."""

import pytest

from tests.unit.executor.stage import Stage, built


@pytest.fixture(scope="module")
def stage() -> Stage:
    return built()
