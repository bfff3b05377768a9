"""What must hold of the proxy, the chain and the journal together, after whatever went wrong: N1, N2, N3, N11."""

import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from keeper.domain.plan import Outcome
from keeper.domain.units import Address
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.outcomes import Outcomes
from keeper.store.records import AttemptState, Entry, IntentState, Purpose
from tests.faults.node import CHAIN_ID
from tests.faults.proxy import RawSeen


class Arrivals(list[RawSeen]):
    """Every raw transaction as it arrives at the proxy, compared at that moment with the journal on the disk."""

    def __init__(self, journal: Path) -> None:
        super().__init__()
        self._journal = journal
        self.unaccounted: list[str] = []

    def append(self, seen: RawSeen) -> None:
        super().append(seen)
        fields = seen.fields
        with sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True) as connection:
            query = (
                "select a.nonce, a.max_fee_wei, a.tip_wei, a.gas_limit, a.raw, i.nonce, i.purpose "
                "from attempt a join intent i on i.id = a.intent_id where a.tx_hash = ?"
            )
            rows = connection.execute(query, (seen.tx_hash,)).fetchall()
        connection.close()
        told = (fields["nonce"], str(fields["maxFeePerGas"]), str(fields["maxPriorityFeePerGas"]), fields["gas"])
        if [row[:6] for row in rows] != [(*told, seen.raw, fields["nonce"])] or rows[0][6] not in set(Purpose):
            self.unaccounted.append(f"{told}: {rows}")


async def mined_by(ask: Callable[..., Awaitable[Any]], account: str, since: int = 0) -> dict[int, str]:
    """Return the hashes of what the chain holds of an account, by nonce."""
    found: dict[int, str] = {}
    for number in range(since, int(await ask("eth_blockNumber"), 16) + 1):
        block = await ask("eth_getBlockByNumber", hex(number), True)
        for each in block["transactions"]:
            if each["from"].lower() == account.lower():
                assert int(each["nonce"], 16) not in found
                found[int(each["nonce"], 16)] = str(each["hash"]).lower()
    return found


async def check_books(
    path: Path,
    sender: Address,
    mined: Mapping[int, str],
    *,
    strangers: Collection[str] = (),
    is_over: bool = True,
) -> None:
    """Assert N2, N3 and N11 of a journal's file; `mined` is what the chain holds, `strangers` are others' hashes in it."""
    database = await Database.open(path, CHAIN_ID)
    try:
        journal = Journal(database, sender)
        highest = await journal.highest_nonce()
        entries = [each for nonce in range((highest or 0) + 1) for each in await journal.entries_at(nonce)]
        ended = await Outcomes(database).latest(1_000)
    finally:
        await database.close()
    _check_mined(mined, entries, strangers)
    live = sorted(each.intent.nonce for each in entries if each.intent.state is IntentState.LIVE)
    first = len(mined) if is_over or not live else min(len(mined), live[0])  # what was mined may not be told yet
    assert live == list(range(first, first + len(live))), "N3: a gap"
    assert not live or not is_over, "N3: still in flight"
    _check_counts(entries, ended, is_over=is_over)


def _check_mined(mined: Mapping[int, str], entries: Sequence[Entry], strangers: Collection[str]) -> None:
    """N2: what the chain has is what the journal says, nonce by nonce; what is not ours was named a stranger's."""
    ours = {"0x" + attempt.tx_hash.hex(): entry for entry in entries for attempt in entry.attempts}
    for nonce, tx_hash in mined.items():
        if tx_hash in strangers:
            continue
        assert tx_hash in ours, f"N2: nonce {nonce} was used by something that the journal does not know"
    for entry in entries:
        inclusion = entry.intent.inclusion
        if entry.intent.state is IntentState.FINAL and inclusion is not None and inclusion.tx_hash is not None:
            assert mined[entry.intent.nonce] == "0x" + inclusion.tx_hash.hex(), "N2: another one was mined"


def _check_counts(entries: Sequence[Entry], ended: Sequence[Outcome], *, is_over: bool) -> None:
    """N11: every attempt is in exactly one account, and every liquidation that is over has exactly one outcome."""
    states = Counter(attempt.state for entry in entries for attempt in entry.attempts)
    live = sum(len(each.attempts) for each in entries if each.intent.state in {IntentState.LIVE, IntentState.MINED})
    settled = states[AttemptState.MINED] + states[AttemptState.REPLACED] + states[AttemptState.VOID]
    assert sum(states.values()) == settled + live, "N11"
    assert live == 0 or not is_over
    for entry in entries:
        used = [each for each in entry.attempts if each.state is AttemptState.MINED]
        inclusion = entry.intent.inclusion
        is_ours = inclusion is not None and inclusion.tx_hash is not None
        assert len(used) == (entry.intent.state is IntentState.FINAL and is_ours), "N11: one attempt is mined, or none"
    plans = Counter(
        each.intent.plan_id
        for each in entries
        if each.intent.state is IntentState.FINAL and each.intent.purpose is Purpose.LIQUIDATION
    )
    assert Counter(each.plan_id for each in ended) == plans, "N11: one outcome for each plan"
    assert max(plans.values(), default=1) == 1
