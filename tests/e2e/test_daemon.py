"""The whole daemon, as its operator runs it, on the genuine contracts: does it find everything, and does it pay?"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from keeper.devnet.chain import ADMIN, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.ledger import LIQUIDATION, read_balances, read_statement
from keeper.devnet.market import APPROVE, MINT, AaveMarket, Generation
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess, Line
from keeper.domain.units import WAD
from tests.operator import prepare

POSITIONS = 200
MAJORS = ("WETH", "wstETH", "WBTC", "LINK", "CRV")
STEPS = (88, 95, 76, 60)
WITHIN_BLOCKS = 3
MIN_PROFIT_BASE = 5 * 10**8
LIQUIDATION_GAS = 600_000
LEGITIMATE = {"unprofitable", "no_collateral", "dust_rule"}


@pytest.mark.parametrize("generation", [pytest.param("3.0", marks=pytest.mark.slow), "3.6"])
async def test_every_profitable_unhealthy_position_is_liquidated_within_three_blocks(
    generation: Generation, tmp_path: Path
) -> None:
    spec = DevnetSpec(generations=(generation,), n_positions=POSITIONS)
    async with cached_devnet(default_cache_dir(), spec, options=AnvilOptions(block_time_s=1)) as devnet:
        operator = await prepare(devnet, tmp_path)
        market = devnet.markets[generation]
        owners = tuple(each.owner for each in devnet.positions[generation])
        before = await read_balances(devnet.chain, [market], operator.address)
        start = await market.prices()
        async with KeeperProcess(operator.environment(PARITY_EVERY_HEADS="3", LOG_LEVEL="debug")) as keeper:
            await keeper.ready()
            left: list[str] = []
            for percent in STEPS:
                wanted = {name: start[name] * percent // 100 for name in MAJORS if name in start}
                left = await step(keeper, devnet, market, owners, wanted)
            assert await keeper.stop() == 0, keeper.tail()
        await devnet.chain.set_interval(0)
        statement = await read_statement(devnet.chain, {generation: market}, operator.address, before)
        assert statement.reverted == 0
        assert statement.difference() == {}
        assert len(statement.liquidations) >= 20
        assert_everything_is_accounted_for(keeper, len(statement.liquidations))
        bound = MIN_PROFIT_BASE + 3 * await gas_base(devnet, market)
        for owner in left:
            assert await best_profit_base(devnet, market, owner) < bound, owner


async def step(
    keeper: KeeperProcess, devnet: Devnet, market: AaveMarket, owners: tuple[str, ...], wanted: dict[str, int]
) -> list[str]:
    """Move the prices; return the accounts that are left unhealthy, each of which the keeper must have explained."""
    hashes = await market.set_prices(wanted, mine=False)
    await keeper.wait_for(quiet_since(len(keeper.events("chain.head")) + 1), 40)
    landed = max([int((await devnet.chain.receipt(each))["blockNumber"], 16) for each in hashes])
    unhealthy = await unhealthy_at(market, owners, landed)
    first = await first_liquidations(devnet, market, landed)
    left = [owner for owner in unhealthy if first.get(owner.lower(), landed + 99) > landed + WITHIN_BLOCKS]
    reasons = {line["account"]: line["reason"] for line in keeper.events("decision.skipped")}
    unexplained = {owner: reasons.get(owner) for owner in left if reasons.get(owner) not in LEGITIMATE}
    assert unexplained == {}, (landed, first)
    latest = await unhealthy_at(market, owners, await devnet.chain.block_number())
    assert {reasons.get(owner) for owner in latest} <= LEGITIMATE
    return latest


def quiet_since(seen: int):
    """Wait for three heads in a row at which nothing was sent and nothing is in flight."""

    def is_quiet(log: KeeperProcess) -> bool:
        heads = log.events("chain.head")[seen:][-3:]
        return len(heads) == 3 and not any(line["plans"] or "in_flight" in line["skipped"] for line in heads)

    return is_quiet


async def unhealthy_at(market: AaveMarket, owners: tuple[str, ...], block: int) -> list[str]:
    data = await market.accounts_data(owners, block=hex(block))
    return [owner for owner, each in zip(owners, data, strict=True) if each.health_factor_wad < WAD]


async def first_liquidations(devnet: Devnet, market: AaveMarket, since: int) -> dict[str, int]:
    """Return the block of each account's first liquidation after a block, by the chain's own logs."""
    query = {"address": market.pool, "fromBlock": hex(since), "toBlock": "latest", "topics": [LIQUIDATION]}
    first: dict[str, int] = {}
    for log in await devnet.chain.rpc("eth_getLogs", query):
        first.setdefault("0x" + log["topics"][3][-40:].lower(), int(log["blockNumber"], 16))
    return first


def assert_everything_is_accounted_for(keeper: KeeperProcess, mined: int) -> None:
    """Every liquidatable position has one decision at each head; every accepted plan one outcome; parity held."""
    heads = keeper.events("chain.head")
    for line in heads:
        assert line["liquidatable"] == line["plans"] + sum(line["skipped"].values()), line
    accepted = {line["plan_id"] for line in keeper.events("decision.accepted")}
    won = [line["plan_id"] for line in keeper.events("liquidation.won")]
    assert sorted(accepted) == sorted(won)
    assert len(won) == mined
    assert exact(keeper.events("liquidation.won"))
    assert keeper.events("index.audit_ok")
    assert not keeper.events("index.audit_mismatch")
    assert not [line for line in keeper.lines if line.get("level") == "error"]


def exact(won: Iterable[Line]) -> bool:
    """Return whether what each liquidation realised is what was planned, but for interest of the blocks between."""
    return all(
        abs(int(line["repaid_amount"]) - int(line["planned_repay_amount"])) * 10**5
        <= int(line["repaid_amount"]) + 10**6
        for line in won
    )


async def gas_base(devnet: Devnet, market: AaveMarket) -> int:
    """Value the gas of one liquidation at the base fee of now."""
    base_fee_wei = int((await devnet.chain.header())["baseFeePerGas"], 16)
    return LIQUIDATION_GAS * base_fee_wei * (await market.prices())["WETH"] // 10**18


async def best_profit_base(devnet: Devnet, market: AaveMarket, owner: str) -> int:
    """Try every pair of an account on the node itself, and return the best profit before gas."""
    prices = await market.prices()
    best = 0
    for debt in market.reserves:
        for collateral in market.reserves:
            amounts = await liquidated(devnet, market, owner, debt=debt, collateral=collateral)
            if amounts is not None:
                repaid, seized = amounts
                value = seized * prices[collateral] // 10 ** market.reserves[collateral].decimals
                best = max(best, value - repaid * prices[debt] // 10 ** market.reserves[debt].decimals)
    return best


async def liquidated(
    devnet: Devnet, market: AaveMarket, owner: str, *, debt: str, collateral: str
) -> tuple[int, int] | None:
    """Simulate a liquidation with plenty of tokens; return what its event says, or None where the pool refuses."""
    token, plenty = market.reserves[debt].token, market.spec.reserve(debt).amount(100_000_000)
    seized = market.reserves[collateral].token
    call = "liquidationCall(address,address,address,uint256,bool)"
    transactions = [
        Tx(ADMIN, token, MINT, (ADMIN, plenty)),
        Tx(ADMIN, token, APPROVE, (market.pool, plenty)),
        Tx(ADMIN, market.pool, call, (seized, token, owner, plenty, False)),
    ]
    block = {"calls": [each.request() for each in transactions]}
    answer = await devnet.chain.rpc("eth_simulateV1", {"blockStateCalls": [block], "validation": False}, "latest")
    logs = [log for log in answer[0]["calls"][2]["logs"] if log["topics"][0] == LIQUIDATION]
    return (int(logs[0]["data"][2:66], 16), int(logs[0]["data"][66:130], 16)) if logs else None
