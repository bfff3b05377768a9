"""The books of the journal, balanced: every attempt is accounted for once, and no nonce was used twice."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, func, select

from keeper.domain.units import Address
from keeper.store.database import Database
from keeper.store.records import AttemptState, IntentState, Purpose
from keeper.store.schema import attempt, intent, outcome

NONCES: Final = 1_000
"""How many of the latest nonces are looked at: older ones cannot change any more."""
_OPEN: Final = frozenset({IntentState.LIVE.value, IntentState.MINED.value})


@dataclass(frozen=True, slots=True)
class Balance:
    """What became of `attempts` signed transactions, by fate, and what does not add up.

    Fates: `live`, `replaced`, `expired` (given up before any node took it), a result of an outcome, or `done` for a
    mined transaction that is nobody's liquidation.
    """

    attempts: int
    fates: dict[str, int]
    faults: tuple[str, ...]


class Audit:
    """Balances the journal of one signer; it changes nothing."""

    def __init__(self, database: Database, sender: Address) -> None:
        """Look at the rows of `sender`."""
        self._database = database
        self._sender = sender

    async def balance(self) -> Balance:
        """Account for every attempt at the latest nonces.

        Raises: StoreFailed.
        """
        return await self._database.run(self._read)

    def _read(self, connection: Connection) -> Balance:
        mine = intent.c.sender == self._sender
        highest = connection.execute(select(func.max(intent.c.nonce)).where(mine)).scalar_one() or 0
        recent = mine & (intent.c.nonce > highest - NONCES)
        intents = {
            row["id"]: row
            for row in connection.execute(
                select(
                    intent.c.id, intent.c.nonce, intent.c.state, intent.c.purpose, intent.c.plan_id, intent.c.mined_tx
                ).where(recent)
            ).mappings()
        }
        joined = attempt.join(intent, attempt.c.intent_id == intent.c.id)
        attempts = connection.execute(
            select(attempt.c.intent_id, attempt.c.nonce, attempt.c.state, attempt.c.tx_hash)
            .select_from(joined)
            .where(recent)
        ).mappings()
        ended = outcome.join(intent, outcome.c.intent_id == intent.c.id)
        results: dict[str, str] = {
            row.intent_id: row.result
            for row in connection.execute(
                select(outcome.c.intent_id, outcome.c.result).select_from(ended).where(recent)
            )
        }
        return _balance(intents, list(attempts), results)


def _balance(intents: dict[str, RowMapping], attempts: list[RowMapping], results: dict[str, str]) -> Balance:
    faults: list[str] = []
    fates: Counter[str] = Counter()
    mined: Counter[str] = Counter()
    for each in attempts:
        owner = intents[each["intent_id"]]
        if each["nonce"] != owner["nonce"]:
            faults.append(f"nonce {owner['nonce']}: an attempt at nonce {each['nonce']} is counted to it")
        fate = _fate(each, owner, results.get(each["intent_id"]))
        if fate is None:
            faults.append(f"nonce {owner['nonce']}: an attempt is {each['state']}, its intent {owner['state']}")
            continue
        fates[fate] += 1
        if each["state"] == AttemptState.MINED.value:
            mined[owner["id"]] += 1
            if each["tx_hash"] != owner["mined_tx"]:
                faults.append(f"nonce {owner['nonce']}: another attempt was mined than the intent says")
    faults += [
        f"nonce {intents[key]['nonce']}: {count} attempts count as mined" for key, count in mined.items() if count > 1
    ]
    finals = [each for each in intents.values() if each["state"] == IntentState.FINAL.value]
    used = Counter(each["nonce"] for each in intents.values() if _holds_its_nonce(each))
    faults += [f"nonce {nonce}: {count} intents hold it" for nonce, count in used.items() if count > 1]
    faults += [
        f"nonce {each['nonce']}: its plan ended without an outcome"
        for each in finals
        if each["plan_id"] is not None and each["purpose"] == Purpose.LIQUIDATION.value and each["id"] not in results
    ]
    over = {each["id"] for each in finals}
    faults += [f"nonce {intents[key]['nonce']}: an outcome before its end" for key in results if key not in over]
    return Balance(len(attempts), dict(fates), tuple(faults))


def _holds_its_nonce(row: RowMapping) -> bool:
    """Return whether an intent is open or was mined; one that a stranger's or no transaction ended leaves its nonce."""
    return row["state"] in _OPEN or (row["state"] == IntentState.FINAL.value and row["mined_tx"] is not None)


def _fate(row: RowMapping, owner: RowMapping, result: str | None) -> str | None:
    """Return what became of an attempt, or None where its state and its intent's contradict each other."""
    state, owners = row["state"], owner["state"]
    if owners in _OPEN:
        return "live" if state not in {AttemptState.REPLACED.value, AttemptState.VOID.value} else None
    if owners == IntentState.VOID.value:
        return "expired" if state in {AttemptState.VOID.value, AttemptState.REFUSED.value} else None
    if state == AttemptState.MINED.value:
        return result or "done"
    if state in {AttemptState.REPLACED.value, AttemptState.REFUSED.value, AttemptState.VOID.value}:
        return "replaced"
    return None
