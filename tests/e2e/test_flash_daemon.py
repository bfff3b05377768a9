"""The whole daemon with an executor: an account with gas money alone liquidates everywhere, and the cold one is paid."""

import json
from collections import Counter
from pathlib import Path

from eth_utils.crypto import keccak

from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.ledger import FlashStatement, read_flash_statement, read_standing
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess
from tests.e2e.flash_funding import make_vai_pool
from tests.e2e.flash_operator import FlashOperator, equipped
from tests.e2e.test_every_protocol import late, left_over, quiet_since
from tests.operator import run_keeper

SPEC = DevnetSpec(generations=("3.0", "3.6"), others=("morpho", "venus", "uniswap"), n_positions=50)
MARKETS = {"aave-v3.0", "aave-v3.6", "morpho", "venus"}
CRASH_PERCENT = 62
MAJORS = ("WETH", "wstETH", "WBTC", "LINK", "CRV")
ALLOWANCE = "allowance(address,address)(uint256)"


async def test_in_a_crash_every_profitable_position_is_liquidated_with_borrowed_money_alone(tmp_path: Path) -> None:
    async with cached_devnet(default_cache_dir(), SPEC, options=AnvilOptions(block_time_s=1)) as devnet:
        await make_vai_pool(devnet)
        flash = await equipped(devnet, tmp_path)
        chain, operator = devnet.chain, flash.operator
        before = await read_standing(chain, flash.tokens, operator.address, flash.executor)
        assert not any(before.account.tokens.values())
        async with KeeperProcess(operator.environment(LOG_LEVEL="debug")) as keeper:
            await keeper.ready()
            await flash.authorize()
            await crash(devnet)
            await settled(devnet, keeper)
            assert await keeper.stop() == 0, keeper.tail()
        await chain.set_interval(0)
        statement = await read_flash_statement(chain, aave(devnet), operator.address, flash.executor, before)
        assert statement.reverted == 0
        assert statement.difference() == {}
        assert_everything_is_accounted_for(keeper, statement)
        assert await allowances(flash) == {}
        assert await left_over(devnet, operator, keeper) == {}
        assert await late(devnet, operator, keeper, before.account.block) == {}


def aave(devnet: Devnet):
    """Return the Aave markets by the names that the chain file gives them."""
    return {f"aave-v{generation}": market for generation, market in devnet.markets.items()}


async def crash(devnet: Devnet) -> None:
    """Let the majors fall: the feeds, Morpho's oracles, and the pools where they are traded."""
    assert devnet.uniswap is not None
    start = await devnet.uniswap.prices()
    await devnet.move({name: start[name] * CRASH_PERCENT // 100 for name in MAJORS}, mine=False)


async def settled(devnet: Devnet, keeper: KeeperProcess) -> None:
    """Wait until nothing is liquidated any more, although arbitrageurs have filled the pools again."""
    assert devnet.uniswap is not None
    done = -1
    while done < (done := len(keeper.events("liquidation.won"))):
        await keeper.wait_for(quiet_since(len(keeper.events("chain.head")) + 2), 90)
        for sent in await devnet.chain.submit(await devnet.uniswap.arbitrage()):
            await devnet.chain.receipt(sent)


def assert_everything_is_accounted_for(keeper: KeeperProcess, statement: FlashStatement) -> None:
    """Every market was liquidated in, every plan has its outcome, and what the log tells is what the owner got."""
    won = keeper.events("liquidation.won")
    assert {line["market"] for line in won} == MARKETS
    assert {line["plan_id"] for line in keeper.events("decision.accepted")} == {line["plan_id"] for line in won}
    assert not keeper.events("liquidation.lost")
    told: Counter[str] = Counter()
    for line in won:
        told[line["profit_token"].lower()] += int(line["profit_amount"])
        assert int(line["profit_amount"]) >= int(line["least_profit_amount"])
    earned = {token.lower(): amount for token, amount in statement.profits.items()}
    assert all(earned[token] >= amount for token, amount in told.items())
    assert not [line for line in keeper.lines if line.get("level") == "error"]


async def allowances(flash: FlashOperator) -> dict[tuple[str, str], int]:
    """Return what anybody may still take of the executor's tokens, of all that it may call."""
    chain, executor = flash.operator.devnet.chain, flash.executor.address
    authorized = "Authorized(address,uint256,bytes32)"
    topic = "0x" + keccak(text=authorized).hex()
    logs = await chain.rpc("eth_getLogs", {"address": executor, "fromBlock": "0x0", "topics": [topic]})
    targets = sorted({"0x" + log["topics"][1][-40:] for log in logs})
    asked = [(token, target) for token in flash.tokens for target in targets]
    left = await chain.call_all((token, ALLOWANCE, (executor, target)) for token, target in asked)
    return {pair: amount for pair, amount in zip(asked, left, strict=True) if amount}


def test_the_demo_earns_without_capital_and_adds_up() -> None:
    done = run_keeper("demo", "--json", environment={"HOME": str(Path.home())})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reconciled"]
    assert found["liquidations"] >= found["transactions"] > 0  # a transaction may liquidate in stages
    assert found["reverted"] == 0
    assert {symbol for symbol, amount in found["profit"].items() if int(amount) > 0} >= {"USDC", "WETH"}
