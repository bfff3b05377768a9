"""What every fault test can ask for."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from tests.faults.catalogue import CASES
from tests.faults.recovery import PROPERTY, Recovered, Recovery
from tests.operator import Operator, prepare


@pytest.fixture
def recovery(request: pytest.FixtureRequest) -> Recovery:
    """Tell how long a recovery took, for the table of `make faults`."""

    def tell(case: str, *, blocks: int | None = None, seconds: float | None = None) -> None:
        assert case in CASES, f"{case} is not in the catalogue"
        assert blocks is not None or seconds is not None, "a recovery is told in blocks, in seconds, or in both"
        request.node.user_properties.append((PROPERTY, Recovered(case, blocks, seconds).plain()))

    return tell


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    """Run the genuine Aave v3.0 with thirty positions, a block each second."""
    spec = DevnetSpec(generations=("3.0",), n_positions=30)
    async with cached_devnet(default_cache_dir(), spec, options=AnvilOptions(block_time_s=1)) as running:
        yield running


@pytest.fixture
async def operator(devnet: Devnet, tmp_path: Path) -> Operator:
    """Prepare a chain file, a key and funds for a keeper on that devnet."""
    return await prepare(devnet, tmp_path)
