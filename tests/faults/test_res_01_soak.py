"""The soak of `make soak`, short: the whole daemon on the genuine market under one fault after another."""

from pathlib import Path

import pytest

from tests.faults.recovery import Recovery
from tests.soak.figures import Report, Wish
from tests.soak.soak import soak

SHORT = Wish(seconds=40, seed=9, gap_s=(4, 6), lasting_s=(2, 4), positions=30)
LONG = Wish(seconds=300, seed=10, gap_s=(8, 16), positions=30)


def broken(found: Report) -> dict[str, str]:
    return {each.name: each.detail for each in found.verdicts if not each.holds}


def tell_worst(found: Report, recovery: Recovery) -> None:
    seconds = [each.recovery_s for each in found.faults if each.recovery_s is not None]
    blocks = [each.recovery_blocks for each in found.faults if each.recovery_blocks is not None]
    recovery("RES-01", blocks=max(blocks), seconds=max(seconds))


@pytest.mark.slow
async def test_res_01_no_invariant_breaks_under_a_fault_every_few_seconds(tmp_path: Path, recovery: Recovery) -> None:
    found = await soak(SHORT, tmp_path, print)
    assert broken(found) == {}
    assert len(found.verdicts) == 12
    assert len(found.faults) >= 3
    tell_worst(found, recovery)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_res_01_no_invariant_breaks_in_minutes_of_faults(tmp_path: Path, recovery: Recovery) -> None:
    found = await soak(LONG, tmp_path, print)
    assert broken(found) == {}
    assert len({each.kind for each in found.faults}) >= 10
    tell_worst(found, recovery)
