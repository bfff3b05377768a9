"""TXL-20, TXL-21: a relay that includes, ignores, lies, stalls, leaks or is gone, and a sender that loses nothing by it."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from coincurve import PrivateKey

from keeper.domain.outcome import Result
from keeper.domain.units import Wei
from keeper.execution.envelope import Transaction
from keeper.execution.network import RpcNetwork
from keeper.execution.relay import Identity, Relay, RelayGroup, Word
from keeper.execution.route import Fallback, PrivateMethod, PrivatePolicy
from keeper.execution.sender import Sender
from keeper.execution.signer import Signer
from keeper.execution.verdicts import Accepted
from keeper.store.database import Database
from keeper.store.journal import Journal
from keeper.store.records import Attempt, AttemptKind, Route
from tests.faults.books import Arrivals
from tests.faults.canary import assert_no_canary
from tests.faults.node import CHAIN_ID
from tests.faults.recovery import Recovery
from tests.faults.relay import PATH, LocalRelay
from tests.faults.world import PATIENT, Keeper, Scene, allowance, dying_at, markets, scene_of
from tests.toy import POOL
from tests.unit.execution.desk import ALICE, BOB, KEY, SIGNING, Recorder, Switch, signer
from tests.unit.execution.fake_chain import GWEI, LIQUIDATE, Killed

HIDDEN = PrivatePolicy(blocks=3)
BUNDLE = replace(HIDDEN, method=PrivateMethod.BUNDLE)
CANCEL = replace(HIDDEN, fallback=Fallback.CANCEL)
IDENTITY = "0x" + "77" * 32


@dataclass
class Stage(Scene):
    """A scene whose blocks the relay's builder may make."""

    relay: Any = None
    others: list[LocalRelay] = field(default_factory=list)
    """Relays that are asked beside it; their builders make no blocks."""

    async def block(self, *, base_fee_gwei: int | None = None) -> None:
        if base_fee_gwei is not None:
            await self.world.chain.set_next_base_fee(base_fee_gwei * GWEI)
        await self.relay.mine()

    @property
    def public(self) -> list[bytes]:
        """Return the hash of every transaction that any node was ever sent, once each."""
        return list(dict.fromkeys(seen.tx_hash for seen in self.arrivals))

    def kept(self) -> list[tuple[bytes, str]]:
        """Return every attempt's hash and route, as the file has them."""
        with sqlite3.connect(f"file:{self.path}?mode=ro", uri=True) as connection:
            rows = connection.execute("select tx_hash, route from attempt order by nonce, number").fetchall()
        connection.close()
        return rows

    @asynccontextmanager
    async def hidden(
        self, private: PrivatePolicy = HIDDEN, *, observer: Recorder | None = None
    ) -> AsyncIterator[Keeper]:
        """Start a process on the journal that sends through the relay first."""
        database = await Database.open(self.path, CHAIN_ID)
        journal, told, gate = Journal(database, signer().address), observer or Recorder(), Switch()
        outcomes: list[Any] = []
        relays = RelayGroup([each.url for each in (*self.others, self.relay)], Identity.from_hex(IDENTITY), timeout_s=1)
        sender = Sender(
            network=RpcNetwork(self.rpc),
            journal=journal,
            signer=signer(),
            markets=markets(),
            policy=PATIENT,
            deliver=outcomes.append,
            gate=gate,
            relays=relays,
            private=private,
            observer=told,
        )
        try:
            await sender.recover(await self.head())
            yield Keeper(self, sender, journal, database, told, gate, outcomes)
        finally:
            await relays.close()
            await database.close()
            assert_no_canary({"events": repr(told.events)}, secrets=[PATH.rpartition("/")[2], IDENTITY[2:]])

    async def check(self, *, is_over: bool = True) -> None:
        """Assert the invariants, N1 also for what the relay was given."""
        assert self.relay.raws.unaccounted == [], "N1: given to a relay before it was in the journal"
        assert len(set(self.relay.signers)) <= 1
        assert signer().address.hex() not in repr(self.relay.signers).lower(), "signed by the key that holds the money"
        await super().check(is_over=is_over)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    path = tmp_path / "keeper.sqlite3"
    async with scene_of(path) as scene, LocalRelay(scene.world.chain, CHAIN_ID) as relay:
        relay.raws = Arrivals(path)
        yield Stage(**vars(scene), relay=relay)


async def attempts_at(one: Keeper, nonce: int = 0) -> tuple[Attempt, ...]:
    (entry,) = await one.journal.entries_at(nonce)
    return entry.attempts


@pytest.mark.parametrize("private", [HIDDEN, BUNDLE], ids=["transaction", "bundle"])
async def test_txl_20_a_liquidation_is_included_by_the_relay_and_no_node_ever_saw_it(
    stage: Stage, private: PrivatePolicy, recovery: Recovery
):
    async with stage.hidden(private) as one:
        tx_hash = await one.sent(ALICE)
        assert stage.kept() == [(tx_hash, "private")]
        blocks = await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == tx_hash
        assert stage.public == []
        assert stage.relay.refusals == []
        assert set(stage.relay.methods) == {
            "eth_sendBundle" if private is BUNDLE else "eth_sendPrivateTransaction",
        }
    await stage.check()
    recovery("TXL-20", blocks=blocks)


@pytest.mark.parametrize("private", [HIDDEN, BUNDLE], ids=["transaction", "bundle"])
async def test_txl_20_allowances_are_public_and_liquidations_behind_them_are_not(stage: Stage, private: PrivatePolicy):
    async with stage.hidden(private) as one:
        verdicts = await one.submit(ALICE, BOB, approvals=[allowance()])
        assert all(isinstance(verdict, Accepted) for verdict in verdicts)
        assert {seen.nonce for seen in stage.arrivals} == {0}
        await one.until_over()
        assert one.results == [Result.WON] * 2
        assert {seen.nonce for seen in stage.arrivals} == {0}
    await stage.check()


@pytest.mark.parametrize("private", [HIDDEN, BUNDLE], ids=["transaction", "bundle"])
@pytest.mark.parametrize("fault", ["ignores", "lies"])
async def test_txl_20_what_is_never_included_goes_public_with_the_same_nonce(
    stage: Stage, fault: str, private: PrivatePolicy, recovery: Recovery
):
    stage.relay.includes = fault != "ignores"
    stage.relay.is_lying = fault == "lies"
    async with stage.hidden(private) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine(private.blocks)
        assert stage.public == [], "shown before its last block was on the chain"
        await one.mine()
        assert stage.public == [tx_hash]
        assert stage.kept() == [(tx_hash, "public")]
        blocks = await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == tx_hash
        assert await stage.nonce() == 1
    await stage.check()
    recovery("TXL-20", blocks=blocks)


async def test_txl_20_what_is_never_included_is_cancelled_where_the_policy_hides_it_for_good(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden(CANCEL) as one:
        tx_hash = await one.sent(ALICE)
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is Result.CANCELLED
        assert "no relay had it included" in outcome.detail
        assert tx_hash not in stage.public
        assert [(seen.nonce, bytes(seen.fields["data"])) for seen in stage.arrivals][:1] == [(0, b"")]
        assert stage.relay.methods[-1] == "eth_cancelPrivateTransaction"
        stage.relay.includes = True
        await one.sent(ALICE)
        await one.until_over()
        assert one.results[-1] is Result.WON
        assert await stage.nonce() == 2
    await stage.check()


async def test_txl_20_a_relay_that_is_down_from_the_start_costs_no_block(stage: Stage, recovery: Recovery):
    await stage.relay.refuse()
    async with stage.hidden() as one:
        before = await stage.head()
        tx_hash = await one.sent(ALICE)
        assert stage.public == [tx_hash]
        assert stage.kept() == [(tx_hash, "public")]
        await one.until_over()
        assert one.results == [Result.WON]
        blocks = one.outcomes[0].block - before.number
        assert blocks == 1
    await stage.check()
    recovery("TXL-20", blocks=blocks)


async def test_txl_20_one_honest_relay_among_liars_and_the_dead_is_enough(stage: Stage):
    chain = stage.world.chain
    async with LocalRelay(chain, CHAIN_ID) as liar, LocalRelay(chain, CHAIN_ID) as dead:
        liar.is_lying = True
        await dead.refuse()
        stage.others = [liar, dead]
        async with stage.hidden() as one:
            tx_hash = await one.sent(ALICE)
            await one.until_over()
            assert one.results == [Result.WON]
            assert one.outcomes[0].tx_hash == tx_hash
            assert {seen.tx_hash for seen in liar.raws} == {tx_hash}
            assert {fields["relay"] for fields in one.named("relay.failed")} == {"relay-2"}
        assert stage.public == []
    await stage.check()


async def test_txl_20_a_relay_that_dies_with_a_transaction_in_its_hands_is_waited_for_and_no_longer(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden() as one:
        tx_hash = await one.sent(ALICE)
        await stage.relay.refuse()
        await one.mine(HIDDEN.blocks)
        assert stage.public == []
        await one.until_over()
        assert one.results == [Result.WON]
        assert stage.public == [tx_hash]
    await stage.check()


async def test_txl_20_a_relay_that_never_answers_may_have_it_and_it_stays_hidden(stage: Stage):
    stage.relay.delay_s = 60.0
    async with stage.hidden(replace(HIDDEN, blocks=1)) as one:
        tx_hash = await one.sent(ALICE)
        assert stage.public == []
        await one.mine()
        assert stage.public == []
        await one.mine()
        assert stage.public == [tx_hash]
        await one.until_over()
        assert one.results == [Result.WON]
    await stage.check()


async def test_txl_20_what_the_relay_finds_to_revert_is_looked_at_again_and_its_nonce_used_up(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden() as one:
        await one.sent(ALICE)
        await stage.set_liquidatable(ALICE, wanted=False)
        await one.mine(2)
        assert any("execution reverted" in refusal for refusal in stage.relay.refusals)
        stage.relay.includes = True
        await one.until_over()
        assert one.results == [Result.CANCELLED]
        await one.sent(BOB)
        await one.until_over()
        assert one.results[-1] is Result.WON
        assert await stage.nonce() == 2
    await stage.check()


async def test_txl_20_a_rising_base_fee_is_followed_without_being_seen(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden() as one:
        await one.sent(ALICE)
        await one.mine(base_fee_gwei=30)
        stage.relay.includes = True
        first, second = await attempts_at(one)
        assert (second.route, second.expires_block) == (Route.PRIVATE, first.expires_block)
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == second.tx_hash
        assert stage.public == []
        assert "eth_cancelPrivateTransaction" in stage.relay.methods
    await stage.check()


@pytest.mark.parametrize("private", [HIDDEN, BUNDLE], ids=["transaction", "bundle"])
async def test_txl_20_the_next_process_goes_on_hiding_and_shows_it_only_after_the_expiry(
    stage: Stage, private: PrivatePolicy, recovery: Recovery
):
    stage.relay.includes = False
    async with stage.hidden(private) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine()
    given = len(stage.relay.raws)
    async with stage.hidden(private) as other:
        assert len(stage.relay.raws) > given
        await other.mine(private.blocks - 1)
        assert stage.public == []
        await other.mine()
        assert stage.public == [tx_hash]
        blocks = await other.until_over()
        assert other.results == [Result.WON]
    await stage.check()
    recovery("TXL-20", blocks=blocks)


@pytest.mark.parametrize("step", ["after_commit", "before_send", "after_send_before_ack", "after_ack"])
async def test_txl_20_a_process_that_dies_while_it_hands_over_leaves_nothing_in_the_open(stage: Stage, step: str):
    stage.relay.includes = False
    async with stage.hidden(observer=dying_at(step)) as one:
        with pytest.raises(Killed):
            await one.submit(ALICE)
    assert [route for _, route in stage.kept()] == ["private"]
    async with stage.hidden() as other:
        await other.mine(2)
        assert stage.public == []
        assert len({seen.tx_hash for seen in stage.relay.raws}) == 1
        stage.relay.includes = True
        await other.until_over()
        assert other.results == [Result.WON]
        assert stage.public == []
        assert await stage.nonce() == 1
    await stage.check()


async def test_txl_20_the_next_process_finds_what_was_included_while_nobody_watched(stage: Stage):
    async with stage.hidden() as one:
        tx_hash = await one.sent(ALICE)
    await stage.block()
    async with stage.hidden() as other:
        await other.until_over()
        assert other.results == [Result.WON]
        assert other.outcomes[0].tx_hash == tx_hash
    assert stage.public == []
    await stage.check()


async def test_txl_21_a_leak_is_the_same_transaction_and_counts_once(stage: Stage):
    stage.relay.is_leaking, stage.relay.includes = True, False
    async with stage.hidden() as one:
        tx_hash = await one.sent(ALICE)
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == tx_hash
        assert stage.kept() == [(tx_hash, "private")]
        assert stage.public == []
        assert await stage.nonce() == 1
    await stage.check()


async def test_txl_21_a_leak_that_waits_in_the_pool_is_known_there_when_it_is_shown(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden(replace(HIDDEN, blocks=1)) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine()
        (parcel,) = stage.relay.parcels.values()
        await stage.world.cheat("eth_sendRawTransaction", "0x" + parcel.txs[0].raw.hex())
        await one.follow()
        await one.mine()
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == tx_hash
    await stage.check()


@pytest.mark.parametrize("winner", ["private", "public"])
async def test_txl_21_when_both_could_be_mined_one_nonce_lets_one_win_and_the_journal_has_both(
    stage: Stage, winner: str
):
    stage.relay.includes = False
    async with stage.hidden(replace(HIDDEN, blocks=1)) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine()
        await one.mine(base_fee_gwei=30)
        first, second = await attempts_at(one)
        assert (first.route, second.route, second.kind) == (Route.PRIVATE, Route.PUBLIC, AttemptKind.SEND)
        assert second.tx_hash in stage.public
        assert first.tx_hash == tx_hash
        assert tx_hash not in stage.public
        stage.relay.includes = stage.relay.is_stubborn = winner == "private"
        await one.mine(base_fee_gwei=1)
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == (first if winner == "private" else second).tx_hash
        assert await stage.nonce() == 1
        assert [row[0] for row in stage.kept()] == [first.tx_hash, second.tx_hash]
    await stage.check()


async def test_txl_21_a_builder_that_ignores_a_cancellation_wins_or_loses_by_the_receipt(stage: Stage):
    stage.relay.includes = False
    async with stage.hidden(CANCEL) as one:
        tx_hash = await one.sent(ALICE)
        await one.mine(CANCEL.blocks + 1)
        assert len(await attempts_at(one)) == 2
        stage.relay.includes = stage.relay.is_stubborn = True
        await one.until_over()
        assert one.results == [Result.WON]
        assert one.outcomes[0].tx_hash == tx_hash
        assert await stage.nonce() == 1
    await stage.check()


async def test_txl_20_the_relay_of_these_tests_takes_nothing_that_a_real_one_refuses(stage: Stage):
    good = Signer.from_hex(KEY, SIGNING)
    call = Transaction(CHAIN_ID, 0, Wei(1), Wei(10 * GWEI), 200_000, POOL, Wei(0), LIQUIDATE + ALICE)
    raw = "0x" + good.sign(call).raw.hex()
    late = "0x" + good.sign(replace(call, nonce=3)).raw.hex()
    poor = "0x" + good.sign(replace(call, max_fee_wei=SIGNING.max_fee_wei)).raw.hex()
    bad = "0x" + good.sign(replace(call, data=LIQUIDATE + bytes(20))).raw.hex()
    elsewhere = Signer.from_hex(KEY, replace(SIGNING, chain_id=1)).sign(replace(call, chain_id=1)).raw.hex()
    block = hex((await stage.head()).number + 1)
    transaction, bundle = "eth_sendPrivateTransaction", "eth_sendBundle"
    cases: list[tuple[str, dict[str, object], str]] = [
        (transaction, {"tx": raw, "expires": 3}, "unknown or missing fields"),
        (transaction, {"raw": raw}, "unknown or missing fields"),
        (transaction, {"tx": raw[2:]}, "hexadecimal"),
        (transaction, {"tx": raw[:-2]}, "decoded"),
        (transaction, {"tx": "0x" + elsewhere}, "invalid chain id"),
        (transaction, {"tx": raw, "maxBlockNumber": "0x0"}, "in the past"),
        (transaction, {"tx": raw, "maxBlockNumber": 12}, "hexadecimal quantity"),
        (transaction, {"tx": bad}, "execution reverted"),
        (bundle, {"txs": [late], "blockNumber": block, "replacementUuid": str(uuid4())}, "nonce too"),
        (bundle, {"txs": [raw, raw], "blockNumber": block, "replacementUuid": str(uuid4())}, "nonce too"),
        (bundle, {"txs": [raw], "blockNumber": block, "replacementUuid": "one"}, "UUID"),
        ("eth_sendRawTransaction", {"tx": raw}, "method not found"),
    ]
    relay = Relay("relay-1", stage.relay.url, Identity.random(), 20)
    try:
        for method, params, why in cases:
            answer = await relay.ask(method, params)
            assert answer.word is Word.REFUSED
            assert why in answer.detail
        await stage.world.cheat("anvil_setBalance", "0x" + good.address.hex(), hex(10**16))
        answer = await relay.ask(transaction, {"tx": poor})
        assert "insufficient funds" in answer.detail
        relay.identity = TwoFaced()
        for method, field_name in ((transaction, "tx"), ("eth_cancelPrivateTransaction", "txHash")):
            assert "mismatch" in (await relay.ask(method, {field_name: raw})).detail
    finally:
        await relay.close()
    assert stage.relay.parcels == {}


class TwoFaced(Identity):
    """Says that it is one and signs as another."""

    def __init__(self) -> None:
        super().__init__(PrivateKey())

    def header(self, body: bytes) -> str:
        return Identity.random().header(body).partition(":")[0] + ":" + super().header(body).partition(":")[2]
