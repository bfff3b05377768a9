"""One market's part in a round of reads: an impossible position spoils no other, and no read outlives its pass."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from keeper.domain.ports import Reads
from keeper.domain.position import Token
from keeper.domain.units import PositionId
from keeper.engine.desk import Desk
from keeper.errors import Invalid


async def read_tokens(desk: Desk, reads: Reads, *, is_wanted: bool) -> list[Token]:
    """Name the tokens that a market prices, where that may have changed; those of an oracle that does not tell are few."""
    if not is_wanted:
        return []
    try:
        return [each.token for each in await desk.reader.price_ages(reads)]
    except Invalid:
        return [each.token for each in desk.snapshot.payments] if desk.snapshot is not None else []


async def read_positions(
    desk: Desk, reads: Reads, wanted: Sequence[PositionId]
) -> tuple[list[Any], frozenset[PositionId]]:
    """Read positions together, and each alone where one of them holds what no contract could; name those that do."""
    try:
        return list(await desk.reader.positions(reads, wanted)), frozenset()
    except Invalid:
        return await read_each(desk, reads, wanted)


async def read_each(desk: Desk, reads: Reads, wanted: Sequence[PositionId]) -> tuple[list[Any], frozenset[PositionId]]:
    """Read positions so that an impossible one spoils no other; they still share their requests."""

    async def alone(key: PositionId) -> list[Any] | None:
        try:
            return list(await desk.reader.positions(reads, [key]))
        except Invalid:
            return None

    found = await all_of(*(alone(each) for each in wanted))
    refused = (key for key, positions in zip(wanted, found, strict=True) if positions is None)
    return [each for positions in found if positions for each in positions], frozenset(refused)


async def all_of(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Wait for all at once; where one fails, end the others too, so that no read outlives its pass."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
