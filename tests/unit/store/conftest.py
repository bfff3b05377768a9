"""A new file for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.store.database import Database
from tests.unit.store.values import CHAIN_ID


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "8453.sqlite3"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path, CHAIN_ID)
    yield database
    await database.close()
