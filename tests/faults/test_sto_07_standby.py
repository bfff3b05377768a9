"""Two daemons with one key on one PostgreSQL: the second takes over from a leader that died, stood still or was cut off."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from keeper.devnet.devnet import Devnet
from keeper.devnet.process import KeeperProcess
from tests.faults.postgres import Cable, PostgresServer, running_postgres
from tests.faults.proxy import FaultProxy
from tests.faults.recovery import Recovery
from tests.operator import Operator, prepare

TERM_S = 4
FALLS = (88, 76)
MAJORS = ("WETH", "wstETH", "WBTC", "LINK", "CRV")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@dataclass
class Pair:
    """A leader and its standby, each behind its own view of the node, and its own cable to the database."""

    devnet: Devnet
    proxy: FaultProxy
    url: str
    cable: Cable
    leader: KeeperProcess
    standby: KeeperProcess

    async def fall(self, percent: int) -> None:
        market = self.devnet.markets["3.0"]
        prices = await market.prices()
        await market.set_prices({name: prices[name] * percent // 100 for name in MAJORS}, mine=False)

    def sent_by(self, view: int) -> list[bytes]:
        return [each.tx_hash for each in self.proxy.raw_transactions if each.view == view]

    def rows(self) -> set[bytes]:
        with psycopg.connect(self.url, options="-c search_path=keeper_31337") as connection:
            return {bytes(tx_hash) for (tx_hash,) in connection.execute("select tx_hash from attempt").fetchall()}


@asynccontextmanager
async def pair(devnet: Devnet, folder: Path, server: PostgresServer) -> AsyncIterator[Pair]:
    url = server.new_database()
    operator = await prepare(devnet, folder)
    async with FaultProxy(devnet.node.http_url, views=2) as proxy, Cable(server.port) as cable:
        through = url.replace(f":{server.port}/", f":{cable.port}/")

        def keeper(place: int, database: str) -> KeeperProcess:
            mine: Operator = replace(operator, folder=folder / str(place))
            return KeeperProcess(
                mine.environment(
                    RPC_URLS=proxy.urls[place],
                    DATABASE_URL=database,
                    LEASE_S=str(TERM_S),
                    HTTP_PORT="0",
                    CONFIRMATIONS="2",
                )
            )

        async with keeper(0, through) as leader:
            await leader.wait_for(lambda log: bool(log.events("lease.acquired")), 40)
            await leader.ready()
            async with keeper(1, url) as standby:
                await standby.ready()
                yield Pair(devnet, proxy, url, cable, leader, standby)


async def taken_over(two: Pair, recovery: Recovery, since_s: float) -> None:
    """Wait until the standby leads, fall once more, and see that it wins and that every transaction has its row."""
    await two.standby.wait_for(lambda log: bool(log.events("lease.acquired")), 4 * TERM_S + 20)
    recovery("STO-07", seconds=time.monotonic() - since_s)
    before = len(two.sent_by(1))
    await two.fall(FALLS[1])
    await two.standby.wait_for(lambda log: bool(log.events("liquidation.won")), 40)
    assert len(two.sent_by(1)) > before
    hashes = {each.tx_hash for each in two.proxy.raw_transactions}
    assert hashes <= two.rows()
    nonces = [each.nonce for each in two.proxy.raw_transactions]
    assert set(range(max(nonces) + 1)) == set(nonces)


async def test_sto_07_a_standby_takes_over_from_a_leader_that_was_killed(
    devnet: Devnet, tmp_path: Path, server: PostgresServer, recovery: Recovery
) -> None:
    async with pair(devnet, tmp_path, server) as two:
        await two.fall(FALLS[0])
        await two.leader.wait_for(lambda log: bool(log.events("tx.broadcast")), 20)
        os.kill(two.leader.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        assert two.sent_by(1) == []
        await taken_over(two, recovery, killed_s)


async def test_sto_07_a_leader_that_stood_still_past_its_term_sends_nothing_more_and_ends(
    devnet: Devnet, tmp_path: Path, server: PostgresServer, recovery: Recovery
) -> None:
    async with pair(devnet, tmp_path, server) as two:
        await two.fall(FALLS[0])
        await two.leader.wait_for(lambda log: bool(log.events("tx.broadcast")), 20)
        os.kill(two.leader.pid, signal.SIGSTOP)
        stopped_s = time.monotonic()
        try:
            await taken_over(two, recovery, stopped_s)
            sent = two.sent_by(0)
        finally:
            os.kill(two.leader.pid, signal.SIGCONT)
        assert await asyncio.wait_for(two.leader.ended(), 30) == 5, two.leader.tail()
        assert two.sent_by(0) == sent


@pytest.mark.slow
async def test_sto_07_a_leader_that_is_cut_off_from_the_database_sends_nothing_more_and_ends(
    devnet: Devnet, tmp_path: Path, server: PostgresServer, recovery: Recovery
) -> None:
    async with pair(devnet, tmp_path, server) as two:
        two.cable.is_refusing = True
        two.cable.cut()
        cut_s = time.monotonic()
        sent = two.sent_by(0)
        await two.fall(FALLS[0])
        await taken_over(two, recovery, cut_s)
        assert await asyncio.wait_for(two.leader.ended(), 30) == 5, two.leader.tail()
        assert two.sent_by(0) == sent
