"""A keeper reduced to what a lease protects: it commits an intent, asks whether it may send, and says that it sent.

Started by the tests as a process of its own: `python -m tests.faults.leader NAME TTL` with the database's URL on its input.
"""

import asyncio
import sys
import time

from keeper.errors import Fenced
from keeper.store.database import Database
from keeper.store.faults import StoreFailed
from keeper.store.journal import Journal
from keeper.store.lease import Lease
from keeper.store.records import Changes
from tests.unit.store.values import CHAIN_ID, SENDER, entry

_PAUSE_S = 0.05


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def unix_s(self) -> float:
        return time.time()


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def send(journal: Journal, lease: Lease) -> None:
    """Do what the sender does: the row first, then a look at the lease, then the bytes."""
    nonce = (await journal.highest_nonce() or 0) + 1
    await journal.commit(Changes((entry(nonce, name=f"{lease.epoch}-{nonce}"),)))
    await lease.check()
    tell("sent", nonce, lease.epoch)


async def show_that_all_is_refused(journal: Journal, lease: Lease) -> None:
    for name, forbidden in (
        ("commit", journal.commit(Changes((entry(10**6, name=f"{lease.epoch}-late"),)))),
        ("check", lease.check()),
        ("renew", lease.renew()),
    ):
        try:
            await forbidden
        except Fenced:
            tell("refused", name)


async def stand_by(lease: Lease, ttl_s: int) -> None:
    """Wait until the lease is ours, whatever the store's passing faults."""
    while True:
        try:
            if await lease.acquire():
                return
        except StoreFailed as failed:
            if not failed.is_passing:
                raise
        await asyncio.sleep(ttl_s / 6)


async def main(name: str, ttl_s: int) -> int:
    database = await Database.open(sys.stdin.readline().strip(), CHAIN_ID)
    lease = Lease(database, SENDER, name, ttl_s, clock=SystemClock())
    journal = Journal(database, SENDER, lease)
    tell("standing by")
    await stand_by(lease, ttl_s)
    tell("leading", lease.epoch)
    holding = asyncio.create_task(lease.hold())
    try:
        while not holding.done():
            try:
                await send(journal, lease)
            except StoreFailed as failed:
                tell("failed", failed.fault)
            await asyncio.sleep(_PAUSE_S)
        await holding
    except Fenced as fenced:
        tell("fenced")
        await show_that_all_is_refused(journal, lease)
        return fenced.exit_code
    finally:
        holding.cancel()
    return 0


if __name__ == "__main__":
    code = asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    sys.exit(code)
