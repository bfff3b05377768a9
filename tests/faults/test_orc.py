"""Whatever a price source says, nobody else is held up, nothing raises, and a price that cannot be right moves no money."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from keeper.devnet.chain import ADMIN, Tx
from keeper.devnet.devnet import Devnet
from keeper.domain.units import Address
from keeper.oracles.prices import Prices
from keeper.protocols.morpho_blue import rules as morpho_rules
from tests.faults.program import Program, finished
from tests.faults.recovery import Recovery
from tests.operator import Operator
from tests.unit.oracles.test_prices import FEED, TOKEN, WRAPPED, FakeSources
from tests.unit.protocols.morpho_blue import market as morpho

DAY_S = 86_400
VOLATILE = ("WETH", "wstETH", "WBTC", "LINK")
ENDINGS = ("liquidation.won", "liquidation.lost")
REVERTS = "0x5f5ffd"
BURNS_ALL_GAS = "0x5b5f56"
RETURNS_A_MEGABYTE = "0x621000005ff3"
ANSWERS_NOTHING = "0x00"


def feed_code(price: int, updated_s: int | None = None) -> str:
    """Return a contract that answers everything with a round, or with the price alone."""
    words = [price] if updated_s is None else [price, price, updated_s, updated_s, price]
    stores = "".join(
        f"7f{word % 2**256:064x}60{32 * place:02x}52" for place, word in enumerate(words)
    )  # PUSH32 word, PUSH1 place, MSTORE
    return f"0x{stores}60{32 * len(words):02x}5ff3"  # PUSH1 size, PUSH0, RETURN


class Scene:
    """A live keeper on the genuine market, and the means to disturb its prices."""

    def __init__(self, devnet: Devnet, program: Program, prices: Mapping[str, int]) -> None:
        self.devnet, self.program, self.prices = devnet, program, prices
        self.market = devnet.markets["3.0"]

    async def set_code(self, symbol: str, code: str) -> str:
        """Put other code where a feed is; return what was there."""
        feed = self.market.reserves[symbol].feed
        before = str(await self.devnet.chain.rpc("eth_getCode", feed, "latest"))
        await self.devnet.chain.rpc("anvil_setCode", feed, code)
        return before

    async def scale(self, numerator: int, denominator: int, *symbols: str) -> None:
        """Set prices to a part of what they were in the beginning."""
        await self.market.set_prices({each: self.prices[each] * numerator // denominator for each in symbols})

    async def heads(self, number: int) -> None:
        """Wait for so many further heads."""
        await self.program.seen("chain.head", len(self.program.events("chain.head")) + number)

    def strangers_to(self, symbol: str) -> set[str]:
        """Return the borrowers that neither hold nor owe a token."""
        borrowers = self.devnet.positions["3.0"]
        return {each.owner for each in borrowers if symbol not in {**each.supplies, **each.borrows}}


@asynccontextmanager
async def scene(operator: Operator, folder: Path) -> AsyncIterator[Scene]:
    """Run a live keeper until the end of the block; it must then stop as it should."""
    prices = await operator.devnet.markets["3.0"].prices()
    with Program(folder / "run", operator.environment(), "run") as program:
        await program.seen("chain.head", 2)
        yield Scene(operator.devnet, program, prices)
        assert await program.stop() == 0, program.text()[-2000:]
        assert not program.events("keeper.crashed")


@pytest.mark.slow
async def test_orc_01_a_stale_price_is_told_and_still_acted_upon_as_the_protocol_would(
    operator: Operator, tmp_path: Path
) -> None:
    async with scene(operator, tmp_path) as on:
        for symbol in ("WETH", "WBTC", "USDC", "USDT"):
            old = int(time.time()) - 3 * DAY_S
            percent = 60 if symbol in VOLATILE else 100
            await on.set_code(symbol, feed_code(on.prices[symbol] * percent // 100, old))
        await on.program.seen("liquidation.won")
        environment = operator.environment(is_live=False)
        _, checked = await asyncio.to_thread(finished, tmp_path / "check", environment, "check")
    for symbol in ("WETH", "WBTC", "USDC", "USDT"):
        assert f"{symbol} is 72 h old" in checked.text()


async def assert_doubted(on: Scene, symbol: str, code: str, recovery: Recovery, case: str) -> None:
    """Jump a price, see that nothing is done by it, put it back, and see that it is acted upon again."""
    heads = len(on.program.events("chain.head"))
    before = await on.set_code(symbol, code)
    await on.program.seen("oracle.quarantined")
    (jump,) = on.program.events("oracle.jump")
    assert jump["symbol"] == symbol
    seen = [line["number"] for line in on.program.events("chain.head")[heads:] if line["number"] <= jump["block"]]
    assert len(seen) <= 2, "it took more than a block after the change"
    await on.heads(3)
    held = [line for line in on.program.events("decision.skipped") if line["reason"] == "oracle_quarantined"]
    assert held, "nobody became liquidatable by it, so it proved nothing"
    assert not {line["account"] for line in held} & on.strangers_to(symbol)
    assert not on.program.events("decision.accepted")
    assert not on.program.events("tx.broadcast")
    assert len(on.program.events("oracle.quarantined")) == 1
    await on.set_code(symbol, before)
    mended = await on.devnet.chain.block_number()
    await on.program.seen("oracle.restored")
    recovery(case, blocks=max(0, on.program.events("oracle.restored")[0]["block"] - mended))
    await on.scale(70, 100, *VOLATILE)
    await on.program.seen("liquidation.won")


@pytest.mark.slow
@pytest.mark.parametrize("bound", [2**95, 1])
async def test_orc_02_a_price_at_its_sources_bound_moves_no_money(
    bound: int, operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    async with scene(operator, tmp_path) as on:
        await assert_doubted(on, "WETH", feed_code(bound), recovery, "ORC-02")


IMPOSSIBLE = [0, *(pytest.param(each, marks=pytest.mark.slow) for each in (2**255 - 1, -1, -(2**255), 2**128))]


@pytest.mark.parametrize("answer", IMPOSSIBLE)
async def test_orc_03_an_impossible_price_raises_nothing_and_is_let_go_of_again(
    answer: int, operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    async with scene(operator, tmp_path) as on:
        await assert_unreadable(on, feed_code(answer), recovery, "ORC-03", is_partial=answer <= 0)


async def assert_unreadable(on: Scene, code: str, recovery: Recovery, case: str, *, is_partial: bool) -> None:
    """Break one feed: no money moves for who holds that token, the others go on, and all do once it is mended."""
    before = await on.set_code("LINK", code)
    await on.heads(2)
    await on.scale(60, 100, "WBTC")
    strangers = on.strangers_to("LINK")
    if is_partial:
        await on.program.wait_for(lambda program: accounts(program, "liquidation.won") & strangers)
    else:
        await on.heads(3)
    assert accounts(on.program, "decision.accepted") <= strangers
    await on.set_code("LINK", before)
    mended = await on.devnet.chain.block_number()
    await on.scale(60, 100, *VOLATILE)
    await on.program.wait_for(lambda program: accounts(program, "liquidation.won") - strangers)
    first = next(line for line in on.program.events("decision.accepted") if line["account"] not in strangers)
    recovery(case, blocks=max(0, first["block"] - mended))


def accounts(program: Program, event: str) -> set[str]:
    """Return the accounts that an event was logged for."""
    return {str(line["account"]) for line in program.events(event)}


@pytest.mark.slow
async def test_orc_04_a_source_that_is_swapped_is_followed(operator: Operator, tmp_path: Path) -> None:
    async with scene(operator, tmp_path) as on:
        other = "0x" + "0f" * 20
        await on.devnet.chain.rpc("anvil_setCode", other, feed_code(on.prices["WETH"] * 70 // 100))
        token = on.market.reserves["WETH"].token
        swap = Tx(ADMIN, on.market.oracle, "setAssetSources(address[],address[])", ([token], [other]))
        await on.devnet.chain.submit([swap])
        await on.program.seen("liquidation.won")
        assert not on.program.events("index.audit_mismatch")


async def test_orc_04_decimals_are_read_beside_every_answer() -> None:
    sources = FakeSources()
    prices = Prices(WRAPPED, None, {TOKEN: FEED})
    for decimals in (8, 18, 6, 0):
        sources.feed(3 * 10**decimals, decimals)
        assert (await prices.read(sources, [TOKEN]))[TOKEN] == 3 * 10**8


@pytest.mark.slow
async def test_orc_04_a_price_with_ten_more_decimals_moves_no_money(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    async with scene(operator, tmp_path) as on:
        await assert_doubted(on, "wstETH", feed_code(on.prices["wstETH"] * 10**10), recovery, "ORC-04")


async def test_orc_05_a_price_in_another_unit_moves_no_money(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    """As of cbETH in February 2026: 1.12 ETH taken for 1.12 dollars."""
    async with scene(operator, tmp_path) as on:
        await assert_doubted(on, "WETH", feed_code(112 * 10**6), recovery, "ORC-05")


@pytest.mark.slow
async def test_orc_07_a_price_a_million_times_too_high_moves_no_money(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    async with scene(operator, tmp_path) as on:
        await assert_doubted(on, "LINK", feed_code(on.prices["LINK"] * 10**6), recovery, "ORC-07")


UNREADABLE = [
    BURNS_ALL_GAS,
    *(pytest.param(each, marks=pytest.mark.slow) for each in (REVERTS, RETURNS_A_MEGABYTE, ANSWERS_NOTHING)),
]


@pytest.mark.parametrize("code", UNREADABLE)
async def test_orc_08_a_feed_that_cannot_be_read_holds_up_its_own_holders_only(
    code: str, operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    async with scene(operator, tmp_path) as on:
        is_partial = code in {REVERTS, ANSWERS_NOTHING}
        await assert_unreadable(on, code, recovery, "ORC-08", is_partial=is_partial)


async def test_orc_09_a_price_that_recovers_in_our_block_costs_gas_and_no_token(
    operator: Operator, tmp_path: Path
) -> None:
    devnet = operator.devnet
    async with scene(operator, tmp_path) as on:
        tokens = [reserve.token for reserve in on.market.reserves.values()]
        balance = "balanceOf(address)(uint256)"
        held = await devnet.chain.call_all((each, balance, (operator.address,)) for each in tokens)
        await devnet.chain.set_interval(0)
        await devnet.chain.set_automine(False)
        await on.scale(70, 100, *VOLATILE)
        await on.program.seen("tx.broadcast", 3)
        sent = {line["plan_id"] for line in on.program.events("decision.accepted")}
        back = {each: on.prices[each] for each in VOLATILE}
        await on.market.set_prices(back, mine=False, max_fee_wei=10**12)  # ahead of ours
        await devnet.chain.mine()
        await devnet.chain.set_interval(1)
        await on.program.wait_for(lambda program: sent <= ended(program))
        assert not on.program.events("liquidation.won")
        after = await devnet.chain.call_all((each, balance, (operator.address,)) for each in tokens)
        assert list(after) == list(held)


def ended(program: Program) -> set[str]:
    """Return the plans that have an outcome."""
    return {str(line["plan_id"]) for each in ENDINGS for line in program.events(each)}


async def test_orc_11_a_health_that_flaps_at_every_block_makes_no_second_attempt_beside_the_first(
    operator: Operator, tmp_path: Path
) -> None:
    async with scene(operator, tmp_path) as on:
        for percent in (70, 100, 70, 100, 70, 100, 70):
            await on.scale(percent, 100, *VOLATILE)
            await on.heads(1)
        await on.program.seen("liquidation.won")
        await on.program.wait_for(lambda program: accepted(program) <= ended(program))
        assert len(on.program.events("decision.accepted")) == len(accepted(on.program))
        landed = {line["plan_id"]: line["block"] for each in ENDINGS for line in on.program.events(each)}
        before: dict[str, str] = {}
        for line in on.program.events("decision.accepted"):
            last = before.get(line["account"])
            assert last is None or landed[last] <= line["block"], "two attempts for one account at once"
            before[line["account"]] = line["plan_id"]


def accepted(program: Program) -> set[str]:
    """Return the plans that were sent."""
    return {str(line["plan_id"]) for line in program.events("decision.accepted")}


@pytest.mark.parametrize("sold_for", [27, 50])
def test_orc_12_collateral_that_its_oracle_overstates_counts_at_what_the_market_pays(sold_for: int) -> None:
    """The pair's oracle is hard-coded to 2,000; the token sells for a part: unwinding would pay for nothing."""
    found = morpho.pair()
    held = morpho.position(found, 1_800 * 10**12)
    usd = {
        morpho.LOAN.address: 10**8,
        morpho.COLLATERAL.address: 2_000 * 10**8 * sold_for // 100,
        Address(bytes(20)): 2_000 * 10**8,
    }
    market = replace(morpho.snapshot([found], prices=usd), vouched=frozenset(), acts_on_any=True)
    assessment = morpho_rules.assess(held, market, morpho.NOW, None)
    assert assessment.health.is_liquidatable
    assert all(each.gross_profit_base < 0 for each in assessment.opportunities)
