"""What these tests need of the runner."""

import asyncio


def pytest_collection_finish() -> None:
    """Keep looptime from making an event loop for each test that has none, which nobody would close."""
    asyncio.set_event_loop(None)
