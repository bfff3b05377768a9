"""The suite polices itself: every test has a tier, and none of them leaves this machine."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.architecture.tiers import BENCH, BORDER, CHAIN_TIERS, tier_of

CHAIN_TIMEOUT_S = 300

# A deadline would be a timed assertion: what is slow is for the bench to say.
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")

sys.addaudithook(BORDER.audit)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by its folder; refuse one that has none."""
    for item in items:
        try:
            tier = tier_of(item.path, Path(__file__).parent)
        except LookupError as error:
            raise pytest.UsageError(str(error)) from None
        if tier in CHAIN_TIERS:
            item.add_marker(pytest.mark.chain)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(CHAIN_TIMEOUT_S))
        elif tier == BENCH:
            item.add_marker(pytest.mark.bench)


def pytest_collection_finish() -> None:
    """Keep the virtual clock from making an event loop for each test that has none, which nobody would close."""
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _stay_on_this_machine() -> Iterator[None]:
    """Fail a test that tried to leave, even where the code under test swallowed the refusal."""
    BORDER.attempts.clear()
    yield
    assert not BORDER.attempts, f"a test may not leave this machine: {BORDER.attempts}"
