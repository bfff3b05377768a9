"""Coverage: a range is stored with its accounts or not at all, and none is skipped."""

from pathlib import Path

import pytest

from keeper.domain.units import BlockHash, PositionId
from keeper.errors import Unsafe
from keeper.store.database import Database
from keeper.store.findings import Cursor, Findings
from tests.unit.store.values import CHAIN_ID, address


def account(number: int) -> PositionId:
    return PositionId(address(number))


def reached(block: int) -> BlockHash:
    return BlockHash(block.to_bytes(32))


def covered(first: int, last: int, market: str = "aave") -> Cursor:
    return Cursor(market, first, last, reached(last))


async def test_ranges_join_and_an_account_keeps_its_first_block(database: Database):
    findings = Findings(database)
    assert await findings.cursor("aave") is None
    await findings.save(covered(10, 19), [(account(1), 12), (account(1), 11), (account(2), 19)])
    await findings.save(covered(20, 29), [(account(1), 25), (account(3), 20)])
    assert await findings.cursor("aave") == Cursor("aave", 10, 29, reached(29))
    assert await findings.load("aave") == {account(1): 11, account(2): 19, account(3): 20}
    assert await findings.load("other") == {}


@pytest.mark.parametrize(("first", "last"), [(21, 30), (25, 30), (5, 30), (15, 19), (10, 15)])
async def test_a_range_that_leaves_a_gap_or_goes_back_is_refused_with_its_accounts(
    database: Database, first: int, last: int
):
    findings = Findings(database)
    await findings.save(covered(10, 19), [])
    with pytest.raises(Unsafe):
        await findings.save(covered(first, last), [(account(9), first)])
    assert await findings.cursor("aave") == covered(10, 19)
    assert await findings.load("aave") == {}


async def test_after_a_reorg_the_blocks_are_scanned_again_and_the_accounts_stay(database: Database):
    findings = Findings(database)
    await findings.save(covered(10, 19), [(account(1), 18)])
    await findings.rewind("aave", 15, reached(15))
    assert await findings.cursor("aave") == covered(10, 15)
    await findings.save(covered(16, 22), [(account(1), 17)])
    assert await findings.load("aave") == {account(1): 18}
    await findings.rewind("aave", 40, reached(40))
    assert await findings.cursor("aave") == Cursor("aave", 10, 22, reached(22))
    await findings.rewind("aave", 9, reached(9))
    assert await findings.cursor("aave") is None
    await findings.rewind("unknown", 9, reached(9))


async def test_coverage_survives_a_restart(path: Path, database: Database):
    await Findings(database).save(covered(1, 5), [(account(1), 1)])
    other = await Database.open(path, CHAIN_ID, is_read_only=True)
    assert await Findings(other).cursor("aave") == covered(1, 5)
    await other.close()
