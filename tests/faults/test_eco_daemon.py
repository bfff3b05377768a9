"""ECO-01, 02, 06, 10, 17, 19, 21, 23, 24: what poison, dust, griefers and bait cost the daemon, on a node where it matters."""

import io
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from rich.console import Console

from keeper.domain.abi import MAX_SYMBOL, symbol
from keeper.domain.chain import ViewResult
from keeper.domain.mode import Mode
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import Approval, Batch, Inventory, Outcome
from keeper.domain.position import Health, Holding, PositionKey, Token
from keeper.domain.units import BPS, Address, Base, TokenAmount, Wad, Wei
from keeper.engine.limits import Limits
from keeper.engine.plan import Planned, Policy, plan
from keeper.engine.scan import MarketBook
from keeper.execution.budget import DAY_S, Breaker, spent
from keeper.execution.budget import Limits as Budget
from keeper.execution.fees import FeeMarket, FeePolicy, FeeQuote, bump, gas_budget_wei, quote
from keeper.execution.verdicts import Accepted, Skipped
from keeper.lines import tell_price
from keeper.observe import logs
from keeper.oracles.guard import PriceMove, Turn
from keeper.positions import Line, Listing, as_json, as_table
from keeper.scanner import ParityPolicy
from keeper.store.records import Settled
from tests.e2e.test_execution import plan_of
from tests.faults.world import Scene, allowance, scene_of
from tests.toy import CASH, GOLD, POOL, ToyPosition, ToySnapshot, account, head, toy_market
from tests.unit.execution.desk import ALICE
from tests.unit.execution.fake_chain import GWEI, TAKEN
from tests.unit.test_report import Desk, at_desk

POLICY = Policy(Mode.LIVE, Base(10**8), Base(10**16), 10, None)
RICH = Inventory(Wei(10**18), {CASH.address: TokenAmount(10**12)}, {(CASH.address, POOL): TokenAmount(10**12)})
BLOCK_S = 12
DUST = 100_000


def planned(books: MarketBook, snapshot: ToySnapshot, limits: Limits) -> Planned:
    found = books.scan(snapshot, snapshot.head.landing(BLOCK_S))
    return plan(snapshot.head, found.candidates, RICH, limits, POLICY)


def key(number: int) -> PositionKey:
    return PositionKey("toy", account(number))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with scene_of(tmp_path / "keeper.sqlite3") as each:
        yield each


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Desk]:
    """A keeper that only watches, so that each pass is whole."""
    policy = Policy(Mode.OBSERVE, Base(10**8), Base(10**16), 64, None)
    async for each in at_desk(tmp_path, policy, ParityPolicy(0, 1)):
        yield each


# ECO-01


def test_eco_01_a_poison_position_is_tried_ever_more_rarely_and_keeps_no_other_from_being_planned():
    """The poison pays best by the book, and fails each time that it is tried."""
    limits, tries = Limits(), 0
    poison = ToyPosition(account(1), gold=1_000, cash=90_000)
    others = [ToyPosition(account(number), gold=100, cash=9_000) for number in range(2, 8)]
    books = MarketBook(toy_market())
    books.put([poison, *others], ToySnapshot(head(100)))
    for block in range(100, 1_100):
        made = planned(books, ToySnapshot(head(block)), limits)
        assert made.batch is not None
        keys = [each.key for each in made.batch.plans]
        assert {each.id for each in keys} >= {each.id for each in others}
        if key(1) in keys:
            tries += 1
            assert keys[0] == key(1)
            plan_id = made.batch.plans[0].id
            limits.lock(key(1), plan_id)
            failed = made.batch.plans[0].opportunity
            limits.settle(
                Outcome(plan_id, key(1), Result.SKIPPED, Reason.SIMULATION_REVERTED, "", block, opportunity=failed),
                poison,
            )
        else:
            assert [(each.key, each.reason) for each in made.decisions] == [(key(1), Reason.COOLING_DOWN)]
    assert tries <= 7 + 1_000 // 256 + 1


def test_eco_01_a_thousand_poison_positions_hold_no_memory_once_they_are_gone():
    limits = Limits()
    for number in range(1_000):
        for _ in range(5):
            limits.fail(key(number), Reason.SIMULATION_REVERTED, 100, None, Base(1))
    assert len(limits._cool) == 1_000
    limits.sweep(1_000, liquidatable=())
    assert not limits._cool


# ECO-02


def test_eco_02_among_a_hundred_thousand_dust_positions_the_few_that_pay_are_planned():
    """All of them can be liquidated; what does not pay its gas is decided once, and costs no plan, no call, no lock."""
    worth = [ToyPosition(account(DUST + number), gold=100, cash=9_000) for number in range(5)]
    snapshot = ToySnapshot(head(100, base_fee_wei=10**9))
    books = MarketBook(toy_market())
    books.put([*(ToyPosition(account(number), gold=1, cash=99) for number in range(DUST)), *worth], snapshot)
    made = planned(books, snapshot, Limits())
    assert made.batch is not None
    assert {each.key.id for each in made.batch.plans} == {each.id for each in worth}
    reasons = Counter(each.reason for each in made.decisions)
    assert reasons == {Reason.UNPROFITABLE: DUST} or sum(reasons.values()) == DUST


async def test_eco_02_dust_is_told_once_and_not_at_every_head(watched: Desk):
    dust = [ToyPosition(account(number), gold=1, cash=99) for number in range(1, 501)]
    await watched.mine(*dust)
    for _ in range(20):
        await watched.mine()
    assert len(watched.events("decision.skipped")) == len(dust)
    assert sum(each["event"] != "chain.head" for each in watched.told) <= 3 * len(dust)
    await watched.reporter.close()
    assert len(await watched.decisions.latest(10_000)) == len(dust)


# ECO-06


async def test_eco_06_a_token_that_refuses_the_allowance_is_named_and_nothing_is_sent(scene: Scene):
    await set_refusal(scene, CASH.address, "Pausable: paused")
    await set_refusal(scene, POOL, "ERC20: insufficient allowance")
    async with scene.keeper() as one:
        (verdict,) = await one.submit(ALICE, approvals=[allowance()])
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.TOKEN_BLOCKED
    assert list(scene.arrivals) == []
    await scene.check()


@pytest.mark.parametrize("words", ["Blacklistable: account is blacklisted", "Pausable: paused"])
async def test_eco_06_a_token_that_refuses_within_the_liquidation_is_named_and_nothing_is_sent(
    scene: Scene, words: str
):
    await set_refusal(scene, POOL, words)
    async with scene.keeper() as one:
        (verdict,) = await one.submit(ALICE)
        assert isinstance(verdict, Skipped)
        assert (verdict.reason, verdict.detail) == (Reason.TOKEN_BLOCKED, words)
    assert list(scene.arrivals) == []
    await scene.check()


async def set_refusal(scene: Scene, where: Address, words: str) -> None:
    """Put code in a contract's place that reverts with words, whatever it is asked: PUSH, CODECOPY, REVERT."""
    data = bytes.fromhex("08c379a0") + encode(["string"], [words])
    code = bytes.fromhex(f"60{len(data):02x}600a5f3960{len(data):02x}5ffd") + data
    await scene.world.cheat("anvil_setCode", "0x" + where.hex(), "0x" + code.hex())


# ECO-10

IS_SIMULATED = {"coinbase": "4115", "gas price": "3a15", "origin": "3215"}
"""What a contract may look at: COINBASE, GASPRICE, ORIGIN, each with ISZERO. For BASEFEE see the last of these tests."""


def bait(*looks: str) -> bytes:
    """Return code that does a liquidation, log and all, where any of these is zero, and reverts otherwise."""
    looked = IS_SIMULATED[looks[0]] + "".join(IS_SIMULATED[each] + "17" for each in looks[1:])
    jump = f"60{len(looked) // 2 + 6:02x}57" + "5f5ffd" + "5b"
    account_and_sender = "600435" + "60601c" + "60601b5f52" + "3360601b601452"
    return bytes.fromhex(looked + jump + account_and_sender + "7f" + TAKEN.hex() + "60285fa1" + "00")


@pytest.mark.parametrize("look", list(IS_SIMULATED))
async def test_eco_10_a_contract_that_behaves_in_simulations_only_is_found_out_before_anything_is_sent(
    scene: Scene, look: str
):
    miner = b"\xaa" * 20
    await scene.set_code(bait(look))
    await scene.world.cheat("anvil_setCoinbase", "0x" + miner.hex())
    await scene.block(base_fee_gwei=1)
    now = replace(await scene.head(), coinbase=Address(miner))
    async with scene.keeper() as one:
        (verdict,) = await one.sender.submit(Batch(now, (), (plan_of(now, ALICE, 100),)))
        assert isinstance(verdict, Skipped)
        assert verdict.reason is Reason.REVERTED
    assert list(scene.arrivals) == []
    await scene.check()


async def test_eco_10_the_bait_is_taken_by_a_simulation_that_leaves_zeros(scene: Scene):
    """What the test above would be worth nothing without."""
    await scene.set_code(bait("gas price"))
    call = {"to": "0x" + POOL.hex(), "from": "0x" + "11" * 20, "data": "0x" + (b"liq!" + ALICE).hex()}
    (block,) = await scene.world.cheat("eth_simulateV1", {"blockStateCalls": [{"calls": [call]}]}, "latest")
    assert [int(each["status"], 16) for each in block["calls"]] == [1]


async def test_eco_10_the_simulation_asks_for_the_heads_own_base_fee_and_for_a_fee_that_is_paid(scene: Scene):
    """The local node tells contracts a base fee of zero in every simulation that is not validated; others do not."""
    await scene.block(base_fee_gwei=7)
    async with scene.keeper() as one:
        await one.submit(ALICE)
    asked = [
        each["params"][0]["blockStateCalls"][0]
        for view in scene.views
        for each in view.calls
        if each["method"] == "eth_simulateV1"
    ]
    assert asked
    for block in asked:
        assert int(block["blockOverrides"]["baseFeePerGas"], 16) == 7 * GWEI
        assert "feeRecipient" in block["blockOverrides"]
        assert all(int(each["maxFeePerGas"], 16) > 7 * GWEI for each in block["calls"])


# ECO-17


async def test_eco_17_a_borrower_who_tops_up_in_the_last_moment_costs_us_no_more_than_a_part_of_the_profit(
    scene: Scene,
):
    profit_usd = 100
    async with scene.keeper() as one:
        await one.sent(ALICE, profit_usd=profit_usd)
        await scene.set_liquidatable(ALICE, wanted=False)
        await one.mine()
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is Result.REVERTED
        native = plan_of(await scene.head(), ALICE, profit_usd).native_price_base
        policy = FeePolicy(max_fee_wei=Wei(500 * GWEI))
        assert outcome.gas_cost_wei <= gas_budget_wei(Base(profit_usd * 10**8), Base(0), native, policy)
    await scene.check()


@pytest.mark.parametrize("pause_s", [60, 3_600])
def test_eco_17_a_day_of_griefing_at_every_block_costs_no_more_than_the_budget_and_one_attempt(pause_s: int):
    """Each top-up by a wei is another state, for which there is no cool-down: the breaker and the budgets are for that."""
    budget = Budget(Wei(10**17), Wei(3 * 10**17), 60, 3, pause_s)
    cost, breaker, ended = Wei(3 * 10**15), Breaker(), list[Settled]()
    for now_s in range(0, DAY_S, BLOCK_S):
        if breaker.is_open(now_s) or spent(ended, budget, now_s):
            continue
        lost = Settled(str(now_s), now_s, now_s + BLOCK_S, cost, is_loss=True, result=Result.REVERTED)
        ended.append(lost)
        breaker = breaker.after(lost, budget)
    total = sum(each.cost_wei for each in ended)
    assert total <= budget.loss_per_day_wei + cost
    assert len(ended) <= 3 + 24 + 60  # three, then one for each pause, which doubles up to an hour


# ECO-19


async def test_eco_19_a_debt_that_little_collateral_is_left_of_is_told_once_and_again_when_it_changes(watched: Desk):
    """Nothing to gain: half of the debt buys all the gold there is."""
    await watched.mine(ToyPosition(account(1), gold=1, cash=1_000_000))
    for _ in range(30):
        await watched.mine()
    told = [each["reason"] for each in watched.events("decision.skipped")]
    assert told == [Reason.UNPROFITABLE]
    await watched.mine(ToyPosition(account(1), gold=100, cash=9_000))
    told = [each["reason"] for each in watched.events("decision.skipped")]
    assert told == [Reason.UNPROFITABLE, Reason.OBSERVE_MODE]
    assert not [each for each in watched.told if each["log_level"] in {"warning", "error"}]
    await watched.reporter.close()
    spans = await watched.decisions.of_account(Address(account(1)))
    assert [(span.heads, span.last.decision) for span in spans] == [(1, Decision.SKIPPED), (31, Decision.SKIPPED)]


# ECO-21

FEES = FeePolicy(max_fee_wei=Wei(500 * GWEI), max_tip_wei=Wei(50 * GWEI))


@given(
    profit=st.integers(0, 10**15),
    least=st.integers(0, 10**12),
    native=st.integers(10**6, 10**14),
    gas=st.integers(21_000, FEES.max_gas_limit),
    base_fee=st.integers(0, 10**12),
    tips=st.lists(st.integers(0, 50 * GWEI), min_size=1, max_size=5).map(sorted),
    rises=st.lists(st.integers(0, 10**12), max_size=6),
)
def test_eco_21_whatever_others_bid_ours_and_its_replacements_leave_the_owner_his_share(
    *, profit: int, least: int, native: int, gas: int, base_fee: int, tips: list[int], rises: list[int]
):
    """The profit is what the simulation brought: a share of it goes to the chain at most, tip and base fee together."""
    budget = gas_budget_wei(Base(profit), Base(least), Base(native), FEES)
    limit = Wei(budget // gas)
    market = FeeMarket(Wei(base_fee), tuple(map(Wei, tips)))
    bid = quote(market, limit, FEES)
    bids: list[FeeQuote] = []
    while isinstance(bid, FeeQuote):
        bids.append(bid)
        if not rises:
            break
        base_fee += rises.pop()
        bid = bump(bid, FeeMarket(Wei(base_fee), tuple(map(Wei, tips))), limit, FEES) or Reason.UNPROFITABLE
    for each in bids:
        paid = gas * each.max_fee_wei
        assert paid * native * BPS <= max(0, profit - least) * FEES.max_gas_share_bps * 10**18
        assert each.tip_wei <= each.max_fee_wei <= FEES.max_fee_wei
    assert all(each.tip_wei <= FEES.max_tip_wei for each in bids[:1])


# ECO-23


@pytest.mark.parametrize(
    ("code", "reason"), [("00", Reason.SIMULATION_FAILED), ("5f5ffd", Reason.REVERTED), ("fe", None)]
)
async def test_eco_23_a_market_whose_code_changed_since_the_scan_is_sent_nothing(
    scene: Scene, code: str, reason: Reason | None
):
    """The scan saw the genuine market; by the time of the simulation there is other code in its place."""
    async with scene.keeper() as one:
        now = await scene.head()
        await scene.set_code(bytes.fromhex(code))
        (verdict,) = await one.sender.submit(
            Batch(now, (Approval(CASH.address, POOL, TokenAmount(1)),), (plan_of(now, ALICE, 100),))
        )
        assert isinstance(verdict, Skipped)
        assert reason is None or verdict.reason is reason
    assert [each for each in scene.arrivals if each.fields["to"] == "0x" + POOL.hex()] == []
    await scene.check()


@pytest.mark.parametrize("code", ["00", "5f5ffd", "fe"])
async def test_eco_23_a_market_whose_code_changes_after_the_send_costs_the_gas_and_nobody_else_is_held_up(
    scene: Scene, code: str
):
    before = await scene.balance()
    async with scene.keeper() as one:
        (first,) = await one.submit(ALICE)
        assert isinstance(first, Accepted)
        await scene.set_code(bytes.fromhex(code))
        await one.until_over()
        (outcome,) = one.outcomes
        assert outcome.result is not Result.WON
        (seen, *_) = scene.arrivals
        assert 0 < before - await scene.balance() <= seen.fields["gas"] * seen.fields["maxFeePerGas"]
        assert one.sender._lane.slots == {}


# ECO-24

EVIL = [
    "\x1b[31mUSDC\x1b[0m",
    "\x1b]0;owned\x07",
    "[red]USDC[/red]",
    "[link=x]",
    "<script>x()</script>",
    "<img src=x>",
    "*bold*_it_`x`",
    "[a](http://x)",
    "\u202eCDSU",
    "US\u200bDC",
    "a\nlevel=error",
    '","event":"x',
    'x"} 1\nevil{a="',
    "{{7*7}}",
    "%s%n$(id)`id`",
    "USDC" * 5_000,
    "",
]


def token_of(name: str) -> Token:
    """Return the token as a reader would, from what its contract answered."""
    where = Address(b"\x42" * 20)
    return Token(where, symbol(ViewResult(ok=True, data=encode(["string"], [name])), where), 6)


@pytest.mark.parametrize("name", EVIL)
def test_eco_24_a_hostile_name_is_short_and_printable_wherever_it_is_shown(name: str):
    token = token_of(name)
    assert len(token.symbol) <= MAX_SYMBOL
    assert token.symbol.isascii()
    assert token.symbol.isprintable()
    holding = Holding(token, TokenAmount(10**6), Base(10**8))
    health = Health(
        Wad(10**18), Base(10**8), Base(10**8), is_liquidatable=False, collateral=(holding,), debt=(holding,)
    )
    listing = Listing(head(), (Line(key(1), health),))
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, width=400, color_system=None).print(as_table(listing))
    assert f"1 {token.symbol} ($1.00)" in screen.getvalue()
    assert json.loads(as_json(listing))["positions"][0]["debt"][0]["symbol"] == token.symbol


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("form", ["json", "console"])
def test_eco_24_a_hostile_name_makes_one_line_of_log_which_goes_by_the_address(name: str, form: logs.Format):
    move = PriceMove(token_of(name), Turn.JUMPED, before_base=Base(10**8), price_base=Base(10**20))
    stream = io.StringIO()
    output = logs.configure(level="info", format=form, mode="observe", chain_id=1, stream=stream)
    try:
        tell_price("toy", move, head())
    finally:
        output.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all("\x1b" not in line and "\u202e" not in line for line in lines)
    if form == "json":
        told = [json.loads(line) for line in lines]
        assert [each["event"] for each in told] == ["oracle.jump", "oracle.quarantined"]
        assert {each["token"].lower() for each in told} == {"0x" + "42" * 20}


async def test_eco_24_no_metric_is_labelled_by_a_tokens_name(watched: Desk):
    await watched.mine(ToyPosition(account(1), gold=100, cash=9_000))
    shown = generate_latest(watched.metrics.registry).decode()
    assert GOLD.symbol not in shown
    assert CASH.symbol not in shown
    assert 'reason="observe_mode"' in shown
