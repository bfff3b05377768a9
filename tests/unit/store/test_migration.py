"""A file that the first release wrote is brought up to date where it stands, and nothing in it changes its meaning."""

# ruff: noqa: ASYNC240 - these tests look at a small local file

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.checks import Status
from keeper.domain.chain import Moment
from keeper.domain.plan import Realised
from keeper.domain.position import Action, Opportunity
from keeper.domain.units import BlockHash, PositionId, TokenAmount, TxHash
from keeper.preflight import _storage
from keeper.settings import load_configuration
from keeper.store.database import Database
from keeper.store.decisions import Decisions
from keeper.store.faults import Fault, StoreFailed
from keeper.store.findings import Cursor, Findings
from keeper.store.journal import Journal
from keeper.store.migration import STEPS
from keeper.store.outcomes import Outcomes
from keeper.store.records import Changes, Route
from tests.unit.store.values import CHAIN_ID, HUGE, SENDER, address, decision, entry, intent, opportunity, outcome

VERSION_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE meta (name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name));
CREATE TABLE intent (
    id TEXT NOT NULL, sender BLOB NOT NULL, nonce INTEGER NOT NULL, purpose TEXT NOT NULL, state TEXT NOT NULL,
    plan_id TEXT, market TEXT, account BLOB, target BLOB NOT NULL, data BLOB NOT NULL, value_wei TEXT NOT NULL,
    gas_limit INTEGER NOT NULL, fee_limit_wei TEXT NOT NULL, profit_base TEXT NOT NULL, created_block INTEGER NOT NULL,
    reason TEXT, detail TEXT NOT NULL, opportunity TEXT, mined_tx BLOB, mined_block INTEGER, mined_hash BLOB,
    gas_cost_wei TEXT NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX intent_plan ON intent (plan_id);
CREATE INDEX intent_account ON intent (account);
CREATE UNIQUE INDEX intent_open_nonce ON intent (sender, nonce) WHERE state IN ('live', 'mined');
CREATE TABLE attempt (
    tx_hash BLOB NOT NULL, intent_id TEXT NOT NULL, nonce INTEGER NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    max_fee_wei TEXT NOT NULL, tip_wei TEXT NOT NULL, gas_limit INTEGER NOT NULL, raw BLOB NOT NULL,
    first_block INTEGER NOT NULL, PRIMARY KEY (tx_hash), FOREIGN KEY(intent_id) REFERENCES intent (id)
);
CREATE INDEX attempt_intent ON attempt (intent_id);
CREATE INDEX attempt_nonce ON attempt (nonce);
CREATE TABLE outcome (
    intent_id TEXT NOT NULL, plan_id TEXT NOT NULL, market TEXT NOT NULL, account BLOB NOT NULL, result TEXT NOT NULL,
    reason TEXT, detail TEXT NOT NULL, block INTEGER NOT NULL, tx_hash BLOB, gas_cost_wei TEXT NOT NULL,
    repaid_amount TEXT, seized_amount TEXT, opportunity TEXT,
    PRIMARY KEY (intent_id), FOREIGN KEY(intent_id) REFERENCES intent (id)
);
CREATE INDEX outcome_block ON outcome (block);
CREATE TABLE account (
    market TEXT NOT NULL, address BLOB NOT NULL, first_block INTEGER NOT NULL, PRIMARY KEY (market, address)
) WITHOUT ROWID;
CREATE TABLE coverage (
    market TEXT NOT NULL, from_block INTEGER NOT NULL, scanned_to INTEGER NOT NULL, scanned_hash BLOB NOT NULL,
    PRIMARY KEY (market)
);
CREATE TABLE decision (
    id INTEGER NOT NULL, market TEXT NOT NULL, account BLOB NOT NULL, decision TEXT NOT NULL, reason TEXT, plan_id TEXT,
    first_block INTEGER NOT NULL, last_block INTEGER NOT NULL, heads INTEGER NOT NULL, health_factor_wad TEXT NOT NULL,
    debt_base TEXT NOT NULL, profit_base TEXT, detail TEXT NOT NULL, PRIMARY KEY (id)
);
CREATE INDEX decision_account ON decision (account, last_block);
CREATE INDEX decision_last_block ON decision (last_block);
INSERT INTO schema_version VALUES (1);
INSERT INTO meta VALUES ('chain_id', '8453');
"""
OPPORTUNITY = json.dumps(
    {
        "market": "aave",
        "account": address(1).hex(),
        "repay": [address(11).hex(), "USDC", 6],
        "repay_amount": str(HUGE),
        "repay_limit": str(2**256 - 1),
        "repay_base": str(HUGE + 1),
        "seize": [address(12).hex(), "WETH", 18],
        "seized_amount": str(HUGE + 2),
        "seized_base": str(HUGE + 3),
        "protocol_fee_amount": "0",
        "spender": address(13).hex(),
        "at_s": "1700000012",
    }
)
HASH = b"\x01" * 32


def converted() -> Opportunity:
    """Return what the first release's opportunity has to be read as: the pool was called and pulled the repayment."""
    at = Moment(0, 1_700_000_012)
    return replace(opportunity(), target=address(13), at=at, terms=b"", action=Action.LIQUIDATE, proceeds=None)


def put(connection: sqlite3.Connection, table: str, **values: Any) -> None:
    marks = ", ".join("?" for _ in values)
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


def put_intent(connection: sqlite3.Connection, nonce: int, document: str | None) -> None:
    as_is = intent(nonce)
    put(
        connection,
        "intent",
        id=as_is.id,
        sender=SENDER,
        nonce=nonce,
        purpose="liquidation" if document else "gap",
        state="live",
        plan_id=as_is.plan_id,
        market="aave" if document else None,
        account=address(1) if document else None,
        target=as_is.call.to,
        data=as_is.call.data,
        value_wei="0",
        gas_limit=as_is.gas_limit,
        fee_limit_wei=str(HUGE),
        profit_base=str(-HUGE),
        created_block=100,
        reason="unprofitable",
        detail="naïve",
        opportunity=document,
        gas_cost_wei="0",
    )


@pytest.fixture
def old(path: Path) -> Path:
    """Write a file as the first release left it."""
    with sqlite3.connect(path) as connection:
        connection.executescript(VERSION_1)
        put_intent(connection, 4, OPPORTUNITY)
        sent = entry(4).attempts[0]
        fees = {"max_fee_wei": str(sent.max_fee_wei), "tip_wei": "1", "gas_limit": sent.gas_limit}
        names = {"tx_hash": sent.tx_hash, "intent_id": intent(4).id, "nonce": 4, "kind": "send", "state": "signed"}
        put(connection, "attempt", **names, **fees, raw=sent.raw, first_block=100)
        ended = {"intent_id": intent(4).id, "plan_id": "plan-0", "market": "aave", "account": address(1)}
        figures = {"gas_cost_wei": str(HUGE), "repaid_amount": str(HUGE), "seized_amount": "3"}
        put(
            connection, "outcome", **ended, **figures, result="won", detail="", block=100, tx_hash=bytes(32),
            opportunity=OPPORTUNITY,
        )  # fmt: skip
        put(connection, "account", market="aave@01", address=address(5), first_block=12)
        put(connection, "coverage", market="aave@01", from_block=10, scanned_to=19, scanned_hash=HASH)
        told = {"market": "aave", "account": address(1), "decision": "skipped", "reason": "unprofitable"}
        figures = {"health_factor_wad": str(10**18 - 7), "debt_base": str(HUGE), "profit_base": "-7"}
        put(connection, "decision", **told, **figures, first_block=7, last_block=7, heads=1, detail="at 7")
    connection.close()
    return path


async def test_what_the_first_release_stored_reads_as_what_it_meant(old: Path):
    database = await Database.open(old, CHAIN_ID)
    (found,) = await Journal(database, SENDER).open_entries()
    assert found == replace(entry(4), intent=replace(intent(4), opportunity=converted()))
    (ended,) = await Outcomes(database).of_account(address(1))
    realised = Realised(TokenAmount(HUGE), TokenAmount(3))
    assert ended == replace(outcome(0), opportunity=converted(), realised=realised)
    assert ended.tx_hash == TxHash(bytes(32))
    (span,) = await Decisions(database).of_account(address(1))
    assert (span.first_block, span.last) == (7, decision(7))
    findings = Findings(database)
    assert await findings.load("aave@01") == {PositionId(address(5)): 12}
    assert await findings.cursor("aave@01") == Cursor("aave@01", 10, 19, BlockHash(HASH))
    await database.close()


async def test_a_file_brought_up_to_date_has_the_tables_of_a_new_one_and_works(old: Path, tmp_path: Path):
    database = await Database.open(old, CHAIN_ID)
    journal = Journal(database, SENDER)
    later = entry(5)
    await journal.commit(Changes((later,)))
    assert (await journal.open_entries())[1] == later
    await database.close()
    new = tmp_path / "new.sqlite3"
    await (await Database.open(new, CHAIN_ID)).close()
    assert columns_of(old) == columns_of(new)


def columns_of(path: Path) -> dict[str, set[tuple[str, str, int, str | None, int]]]:
    """Return each table's columns: name, type, whether null is refused, default, place in the key."""
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: {each[1:] for each in connection.execute(f"PRAGMA table_info({name})")} for name in tables}
    connection.close()
    return found


async def test_old_attempts_keep_their_order_and_went_to_everybody(old: Path):
    with sqlite3.connect(old) as connection:
        fees = {"max_fee_wei": "9", "tip_wei": "1", "gas_limit": 1}
        names = {"intent_id": intent(4).id, "nonce": 4, "kind": "send", "state": "signed"}
        for tx_hash in (b"z" * 32, b"a" * 32):
            put(connection, "attempt", tx_hash=tx_hash, **names, **fees, raw=b"", first_block=100)
    connection.close()
    database = await Database.open(old, CHAIN_ID)
    (found,) = await Journal(database, SENDER).open_entries()
    assert [each.tx_hash[:1] for each in found.attempts[1:]] == [b"z", b"a"]
    assert {(each.route, each.expires_block) for each in found.attempts} == {(Route.PUBLIC, None)}
    assert (found.intent.created_s, found.intent.settled_s) == (0, None)
    await database.close()


async def test_an_intent_without_an_opportunity_has_none_afterwards(old: Path):
    with sqlite3.connect(old) as connection:
        put_intent(connection, 5, None)
    connection.close()
    database = await Database.open(old, CHAIN_ID)
    found = await Journal(database, SENDER).open_entries()
    assert [each.intent.opportunity for each in found] == [converted(), None]
    await database.close()


async def test_a_second_opening_changes_nothing_more(old: Path):
    for _ in range(2):
        await (await Database.open(old, CHAIN_ID)).close()
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(len(STEPS),)]
        (document,) = connection.execute("SELECT opportunity FROM intent").fetchone()
    connection.close()
    assert {"account", "at_s"}.isdisjoint(json.loads(document))
    database = await Database.open(old, CHAIN_ID, is_read_only=True)
    assert len(await Journal(database, SENDER).open_entries()) == 1
    await database.close()


async def test_a_file_that_was_not_brought_up_to_date_is_left_alone_by_readers(old: Path):
    before = old.read_bytes()
    with pytest.raises(StoreFailed, match=r"version 1.*start this keeper on it once") as failed:
        await Database.open(old, CHAIN_ID, is_read_only=True)
    assert failed.value.fault is Fault.OUTDATED
    assert old.read_bytes() == before


async def test_a_check_before_the_first_start_of_a_newer_program_only_warns_of_the_older_file(old: Path):
    environment = {
        "KEEPER_CHAIN": "base",
        "KEEPER_RPC_URLS": "http://127.0.0.1:1",
        "KEEPER_STATE_DIR": str(old.parent),
        "KEEPER_DATABASE_URL": f"sqlite:///{old}",
    }
    settings, chain = load_configuration(environment)
    assert chain.chain_id == CHAIN_ID
    found = {each.name: each.status for each in await _storage(settings, chain)}
    assert found == {"storage": Status.OK, "database": Status.WARN}
    await (await Database.open(old, CHAIN_ID)).close()
    assert [each.name for each in await _storage(settings, chain)] == ["storage"]
