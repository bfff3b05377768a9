"""One daemon, one node, every protocol at once: what an operator of more than one market runs."""

from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from eth_abi.abi import decode
from eth_utils.crypto import keccak

from keeper.chainfile import ChainFile
from keeper.devnet.assets import price_updates
from keeper.devnet.chain import ADMIN, DevChain, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import MINT
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess, Line
from keeper.domain.ports import Market
from keeper.domain.units import PositionId
from keeper.registry import markets_of
from tests.operator import FUNDS_USD, Operator, prepare
from tests.parity.desk import DevReads, raw, read_head, read_logs

POSITIONS = 50
CRASH_PERCENT = 62
WITHIN_BLOCKS = 3
MIN_PROFIT_BASE = 5 * 10**8
MAKERS = ("0x" + "6d" * 20, "0x" + "6e" * 20)
MARGIN_USD = 20_000_000
NATIVE_WEI = 5_000 * 10**18
# A position can be unhealthy for long for one of these, and nobody would do anything about it.
LEGITIMATE = {"unprofitable", "no_collateral", "dust_rule"}
CHANGED, LIQUIDATED, FUNDING = (
    "0x" + keccak(text=signature).hex()
    for signature in (
        "PositionChanged(address,address,int256,int256,uint256,int256,int256,uint256)",
        "PositionLiquidated(address,address,uint256,uint256,uint256,address)",
        "FundingPaymentSettled(address,address,int256)",
    )
)
BALANCE = "balanceOf(address)(uint256)"
SPEC = DevnetSpec(generations=("3.0", "3.6"), others=("morpho", "venus", "perp"), n_positions=POSITIONS)


@pytest.mark.slow
async def test_one_daemon_liquidates_on_every_protocol_at_once(tmp_path: Path) -> None:
    async with cached_devnet(default_cache_dir(), SPEC, options=AnvilOptions(block_time_s=1)) as devnet:
        operator = await prepare(devnet, tmp_path)
        await fund(devnet, operator.address)
        await make_markets(devnet)
        chain = devnet.chain
        tokens = await tokens_of(devnet)
        before = await balances(chain, tokens, operator.address)
        started = await chain.block_number()
        urls = f"{devnet.node.http_url},{devnet.node.ws_url}"
        environment = operator.environment(RPC_URLS=urls, LOG_LEVEL="debug", MAX_VALUE_GWEI=str(1_000 * 10**9))
        async with KeeperProcess(environment) as keeper:
            await keeper.ready()
            await keeper.wait_for(lambda log: len(log.events("chain.head")) >= 16, 60)
            await crash(devnet)
            await keeper.wait_for(quiet_since(len(keeper.events("chain.head")) + 2), 90)
            assert await keeper.stop() == 0, keeper.tail()
        await chain.set_interval(0)
        assert_everything_is_accounted_for(keeper)
        assert few_requests(keeper)
        assert await left_over(devnet, operator, keeper) == {}
        assert await late(devnet, operator, keeper, started) == {}
        after = await balances(chain, tokens, operator.address)
        gas_wei, reverted = await spent(chain, operator.address, started)
        assert reverted == 0
        assert differences(before, after, keeper, gas_wei) == {}
        books, fees = await perpetual_books(devnet, operator.address, started)
        reported, rounding = reported_fees(keeper)
        assert books == {}
        assert abs(reported - fees) <= rounding


async def fund(devnet: Devnet, owner: str) -> None:
    """Give the operator what the other protocols' borrowers owe, and margin for take-overs."""
    assert devnet.morpho is not None
    assert devnet.venus is not None
    assert devnet.perp is not None
    await devnet.chain.set_balance(owner, NATIVE_WEI)
    known = {reserve.token for market in devnet.markets.values() for reserve in market.reserves.values()}
    amounts = {
        asset.token: devnet.morpho.spec.reserve(symbol).amount(FUNDS_USD)
        for symbol, asset in devnet.morpho.assets.items()
        if asset.token not in known
    }
    amounts[devnet.venus.vai] = FUNDS_USD * 10**18
    async with devnet.chain.held():
        await devnet.chain.send_all(Tx(ADMIN, token, MINT, (owner, amount)) for token, amount in amounts.items())
    await devnet.perp.deposit(owner, "USDC", MARGIN_USD * 10**6)


async def make_markets(devnet: Devnet) -> None:
    """Open leveraged longs with orders beside them: those have to be cancelled before anybody can take them over."""
    assert devnet.perp is not None
    price = (await devnet.perp.prices())["WETH"]
    for maker in MAKERS:
        await devnet.perp.deposit(maker, "USDC", 6_000 * 10**6)
        await devnet.perp.trade(maker, "vETH", 35_000)
        reach = price * 95 // 100, price * 105 // 100
        await devnet.perp.add_order(maker, "vETH", prices_usd=reach, value_usd=5_000)


async def crash(devnet: Devnet) -> None:
    """Let the majors fall everywhere: the feeds that all share, the perpetuals' pools after them, Morpho's oracles."""
    assert devnet.morpho is not None
    assert devnet.perp is not None
    start = await devnet.morpho.prices()
    wanted = {name: start[name] * CRASH_PERCENT // 100 for name in ("WETH", "WBTC")}
    await devnet.perp.move(wanted)
    others = {name: start[name] * CRASH_PERCENT // 100 for name in ("wstETH", "LINK", "CRV")}
    updates = await price_updates(devnet.chain, {devnet.morpho.assets[name]: price for name, price in others.items()})
    await devnet.chain.submit([*updates, *await devnet.morpho.oracle_updates(others | wanted)])


def quiet_since(seen: int):
    """Wait for four heads in a row at which nothing was sent and nothing is in flight."""

    def is_quiet(log: KeeperProcess) -> bool:
        heads = log.events("chain.head")[seen:][-4:]
        return len(heads) == 4 and not any(line["plans"] or "in_flight" in line["skipped"] for line in heads)

    return is_quiet


def assert_everything_is_accounted_for(keeper: KeeperProcess) -> None:
    """Every market was liquidated in; every accepted plan has its outcome; parity held; nothing went wrong."""
    won = keeper.events("liquidation.won")
    assert {line["market"] for line in won} == {"aave-v3.0", "aave-v3.6", "morpho", "venus", "perp-v2"}
    accepted = {line["plan_id"] for line in keeper.events("decision.accepted")}
    done = {line["plan_id"] for line in (*won, *keeper.events("step.done"))}
    assert accepted <= done
    assert not keeper.events("liquidation.lost")
    assert {line["action"] for line in keeper.events("step.done")} == {"settle", "prepare"}
    assert {line["market"] for line in keeper.events("index.audit_ok")} == {line["market"] for line in won}
    assert not keeper.events("index.audit_mismatch")
    assert not [line for line in keeper.lines if line.get("level") == "error"]


def few_requests(keeper: KeeperProcess) -> bool:
    """Say whether a head at which nothing is sent costs at most three requests, but for those at which results are compared."""
    idle = [int(line["requests"]) for line in keeper.events("chain.head")[6:16]]
    return median(idle) <= 3


def bound(operator: Operator) -> dict[str, Market]:
    """Return the markets as the keeper binds them, to ask the contracts through their own views."""
    return {market.name: market for market in markets_of(ChainFile.load(str(operator.chain_file)))}


async def unhealthy(devnet: Devnet, operator: Operator, block: str) -> dict[tuple[str, PositionId], Any]:
    """Return what the protocols themselves call unhealthy at a block."""
    chain, found = devnet.chain, {}
    for name, market in bound(operator).items():
        reads = DevReads(chain, await read_head(chain, block))
        await market.reader.discover(reads)
        named = market.reader.named(await read_logs(chain, market.reader.discovery_filter, market.from_block))
        market.reader.recall(named)
        await market.reader.discover(reads)
        await market.reader.snapshot(reads)
        ids = [each.id for each in await market.reader.positions(reads, sorted(named)) if each.has_debt]
        for key, health in zip(ids, await market.reader.chain_health(reads, ids), strict=True):
            if health is not None and health.is_liquidatable:
                found[name, key] = health
    return found


def reasons(keeper: KeeperProcess) -> dict[tuple[str, PositionId], str]:
    """Return the last reason for which each position was left alone."""
    return {key_of(line): line["reason"] for line in keeper.events("decision.skipped")}


def key_of(line: Line) -> tuple[str, PositionId]:
    """Return which position a log line is about."""
    return line["market"], PositionId(raw(line["account"]) + raw(line.get("part", "0x")))


async def left_over(devnet: Devnet, operator: Operator, keeper: KeeperProcess) -> dict[tuple[str, PositionId], Any]:
    """Return what is unhealthy in the end without a good reason."""
    why = reasons(keeper)
    found = await unhealthy(devnet, operator, "latest")
    return {key: (health, why.get(key)) for key, health in found.items() if why.get(key) not in LEGITIMATE}


async def late(
    devnet: Devnet, operator: Operator, keeper: KeeperProcess, started: int
) -> dict[tuple[str, PositionId], int]:
    """Return the positions that were unhealthy more than three blocks before their first liquidation, unexplained."""
    first: dict[tuple[str, PositionId], int] = {}
    for line in keeper.events("liquidation.won"):
        key = key_of(line)
        first[key] = min(first.get(key, line["block"]), line["block"])
    known: dict[int, dict[tuple[str, PositionId], Any]] = {}
    unworthy = {key_of(line) for line in keeper.events("decision.skipped") if line["reason"] in LEGITIMATE}
    slow: dict[tuple[str, PositionId], int] = {}
    for key, block in sorted(first.items()):
        then = block - WITHIN_BLOCKS - 1
        if then <= started or key in unworthy:
            continue
        if then not in known:
            known[then] = await unhealthy(devnet, operator, hex(then))
        if key in known[then]:
            slow[key] = block
    return slow


async def tokens_of(devnet: Devnet) -> list[str]:
    """Return every token that a liquidation may move."""
    assert devnet.morpho is not None
    assert devnet.venus is not None
    found = {reserve.token for market in devnet.markets.values() for reserve in market.reserves.values()}
    found |= {asset.token for asset in devnet.morpho.assets.values()}
    found |= {reserve.v_token for reserve in devnet.venus.reserves.values()} | {devnet.venus.vai}
    return sorted(found)


async def balances(chain: DevChain, tokens: list[str], owner: str) -> dict[str, int]:
    """Return what an account holds, native currency under the empty name."""
    held = await chain.call_all([(token, BALANCE, (owner,)) for token in tokens])
    native = int(await chain.rpc("eth_getBalance", owner, "latest"), 16)
    return dict(zip((each.lower() for each in tokens), held, strict=True)) | {"": native}


async def spent(chain: DevChain, owner: str, since: int) -> tuple[int, int]:
    """Return what an account's transactions cost, and how many of them reverted."""
    until = await chain.block_number()
    blocks = [("eth_getBlockReceipts", [hex(number)]) for number in range(since + 1, until + 1)]
    ours = [
        each for receipts in await chain.batch(blocks) for each in receipts if each["from"].lower() == owner.lower()
    ]
    gas_wei = sum(int(each["gasUsed"], 16) * int(each["effectiveGasPrice"], 16) for each in ours)
    return gas_wei, sum(int(each["status"], 16) == 0 for each in ours)


def differences(before: dict[str, int], after: dict[str, int], keeper: KeeperProcess, gas_wei: int) -> dict[str, int]:
    """Return what the balances say less what the keeper reported, per token: the books must balance to the wei."""
    native = "0x" + "ee" * 20
    told: dict[str, int] = defaultdict(int)
    for line in (*keeper.events("liquidation.won"), *keeper.events("step.done")):
        if line["market"] != "perp-v2":  # whose positions and margin are no tokens of ours
            told[line["repay_token"].lower()] -= int(line["repaid_amount"])
            told[line["seize_token"].lower()] += int(line["seized_amount"])
    told[""] = told.pop(native, 0) - gas_wei
    found = {token: after[token] - before[token] - told[token] for token in before}
    return {token: amount for token, amount in found.items() if amount}


async def perpetual_books(devnet: Devnet, owner: str, since: int) -> tuple[dict[str, int], int]:
    """Return what an account's perpetual positions and margin say less what its events say, and the fees it was paid.

    Every quantity has 18 decimals; a take-over exchanges a position for its notional and adds the fee.
    """
    assert devnet.perp is not None
    chain, perp, me = devnet.chain, devnet.perp, owner.lower()
    until = await chain.block_number()
    blocks = [("eth_getBlockReceipts", [hex(number)]) for number in range(since + 1, until + 1)]
    logs = [log for receipts in await chain.batch(blocks) for each in receipts for log in each["logs"]]
    emitted = [log for log in logs if log["address"].lower() == perp.clearing_house.lower()]
    sizes: dict[str, int] = defaultdict(int)
    notional = funding = fees = 0
    for before, log in zip([None, *emitted], emitted, strict=False):
        who = "0x" + log["topics"][1][-40:] if len(log["topics"]) > 1 else ""
        if log["topics"][0] == CHANGED and who == me:
            size, exchanged = decode(["int256", "int256"], raw(log["data"])[:64])
            sizes["0x" + log["topics"][2][-40:]] += size
            notional += exchanged
        elif log["topics"][0] == FUNDING and who == me:
            funding += decode(["int256"], raw(log["data"]))[0]
        elif log["topics"][0] == LIQUIDATED and before is not None and raw(log["data"])[-20:] == raw(me):
            taken, exchanged = decode(["int256", "int256"], raw(before["data"])[:64])
            worth = decode(["uint256"], raw(log["data"])[:32])[0]
            fees += exchanged + (worth if taken > 0 else -worth)
    found: dict[str, int] = {}
    owed = (await chain.call(perp.account_balance, "getPnlAndPendingFee(address)(int256,int256,uint256)", owner))[0]
    for each in perp.perpetuals.values():
        at = (owner, each.base_token)
        held = await chain.call(perp.account_balance, "getTakerPositionSize(address,address)(int256)", *at)
        owed += await chain.call(perp.account_balance, "getTakerOpenNotional(address,address)(int256)", *at)
        found[each.symbol] = held - sizes[each.base_token.lower()]
    found["quote"] = owed + funding - notional
    return {name: amount for name, amount in found.items() if amount}, fees


def reported_fees(keeper: KeeperProcess) -> tuple[int, int]:
    """Return what the keeper says that take-overs brought, with 18 decimals, and how far whole USDC units round it."""
    profits = [int(line["profit_base"]) for line in keeper.events("liquidation.won") if line["market"] == "perp-v2"]
    return sum(profits) * 10**10, 2 * len(profits) * 10**12
