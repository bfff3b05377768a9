"""The commands, as an operator types them: what they answer, and what they say of bad input."""

import asyncio
import json
import os
import signal
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import AaveMarket
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess
from keeper.domain.units import WAD
from tests.operator import Operator, prepare, run_keeper
from tests.proxy import Call, proxied

CANARY = "canary5ecret70ken"


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    spec = DevnetSpec(generations=("3.0",), n_positions=30)
    async with cached_devnet(default_cache_dir(), spec, options=AnvilOptions(block_time_s=1)) as running:
        yield running


@pytest.fixture
async def operator(devnet: Devnet, tmp_path: Path) -> Operator:
    return await prepare(devnet, tmp_path)


async def in_thread(operator: Operator, *arguments: str, is_live: bool = True, **settings: str):
    return await asyncio.to_thread(operator.command, *arguments, is_live=is_live, **settings)


def market_of(devnet: Devnet) -> AaveMarket:
    return devnet.markets["3.0"]


async def drop(devnet: Devnet, percent: int) -> None:
    market = market_of(devnet)
    prices = await market.prices()
    await market.set_prices({each: prices[each] * percent // 100 for each in ("WETH", "wstETH", "WBTC", "LINK")})


async def test_check_finds_nothing_wrong_with_a_good_configuration(operator: Operator) -> None:
    done = await in_thread(operator, "check", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["ok"] is True
    assert [each for each in found["checks"] if each["status"] == "fail"] == []
    names = {each["name"] for each in found["checks"]}
    assert {"storage", "http port", "clock", "multicall", "signer", "inventory", "allowances"} <= names
    assert {"endpoint rpc-1", "endpoint rpc-1 head", "endpoint rpc-1 pinned reads", "endpoint rpc-1 logs"} <= names
    assert "market aave-v3.0 prices" in names


async def test_positions_beside_a_running_daemon_are_what_the_chain_says(devnet: Devnet, operator: Operator) -> None:
    owners = tuple(each.owner for each in devnet.positions["3.0"])
    async with KeeperProcess(operator.environment(is_live=False)) as keeper:
        await keeper.ready()
        done = await in_thread(operator, "positions", "--json", is_live=False)
        checked = await in_thread(operator, "check", "--json", is_live=False)
    assert done.returncode == 0, done.stderr
    assert "held by a running keeper" in checked.stdout
    found = json.loads(done.stdout)
    assert list(found) == ["block", "positions"]
    data = await market_of(devnet).accounts_data(owners, block=hex(found["block"]["number"]))
    chain = {owner: each for owner, each in zip(owners, data, strict=True) if each.debt_base}
    listed = {each["account"]: each for each in found["positions"]}
    assert chain.keys() <= listed.keys()
    for owner, each in chain.items():
        assert listed[owner]["health_factor_wad"] == str(each.health_factor_wad)
        assert listed[owner]["collateral_base"] == str(each.collateral_base)
        assert listed[owner]["debt_base"] == str(each.debt_base)
    factors = [int(each["health_factor_wad"]) for each in found["positions"]]
    assert factors == sorted(factors)


async def test_positions_takes_a_bound_a_limit_and_a_market(operator: Operator) -> None:
    below = await in_thread(operator, "positions", "--json", "--below", "1.05", is_live=False)
    assert all(int(each["health_factor_wad"]) < 105 * WAD // 100 for each in json.loads(below.stdout)["positions"])
    three = await in_thread(operator, "positions", "--limit", "3", is_live=False)
    assert three.stdout.count("0x") == 3
    wrong = await in_thread(operator, "positions", "--market", "nowhere", is_live=False)
    assert wrong.returncode == 2
    assert "there are aave-v3.0" in " ".join(wrong.stderr.replace("│", "").split())


async def test_once_makes_the_same_decisions_and_waits_for_the_ends(devnet: Devnet, operator: Operator) -> None:
    await drop(devnet, 70)
    done = await in_thread(operator, "once", DRAIN_TIMEOUT_S="20")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout
    won = [line for line in lines if line["event"] == "liquidation.won"]
    assert len(won) == len({line["plan_id"] for line in lines if line["event"] == "decision.accepted"}) > 0
    assert len([line for line in lines if line["event"] == "chain.head"]) == 1
    assert {line["mode"] for line in lines} == {"live"}


async def test_observe_mode_explains_and_never_sends(devnet: Devnet, operator: Operator) -> None:
    await drop(devnet, 70)
    async with proxied(devnet.node.http_url) as proxy:
        environment = operator.environment(is_live=False, RPC_URLS=proxy.url)
        async with KeeperProcess(environment) as keeper:
            await keeper.wait_for(lambda log: len(log.events("chain.head")) >= 3, 30)
        assert "eth_sendRawTransaction" not in proxy.methods()
    assert {line["reason"] for line in keeper.events("decision.skipped")} >= {"observe_mode"}
    assert not keeper.events("decision.accepted")


async def test_shadow_mode_with_nothing_but_an_address_simulates_scores_and_never_sends(
    devnet: Devnet, operator: Operator
) -> None:
    await drop(devnet, 70)
    async with proxied(devnet.node.http_url) as proxy:
        shadow = {"MODE": "shadow", "ADDRESS": operator.address}
        async with KeeperProcess(operator.environment(is_live=False, RPC_URLS=proxy.url, **shadow)) as keeper:
            await keeper.wait_for(lambda log: bool(log.events("shadow.scored")), 40)
        assert "eth_simulateV1" in proxy.methods()
        assert "eth_sendRawTransaction" not in proxy.methods()
    assert {line["reason"] for line in keeper.events("decision.skipped")} >= {"shadow_mode"}
    assert not keeper.events("decision.accepted")


async def test_a_second_keeper_on_the_same_state_is_refused(operator: Operator) -> None:
    async with KeeperProcess(operator.environment()) as keeper:
        await keeper.ready()
        second = await in_thread(operator, "once", HTTP_PORT="0")
        assert second.returncode == 5
        assert f"pid {keeper.pid}" in second.stdout
        assert await keeper.stop() == 0


async def test_a_kill_in_mid_flight_is_made_good_at_the_next_start(devnet: Devnet, operator: Operator) -> None:
    market = market_of(devnet)
    async with KeeperProcess(operator.environment()) as keeper:
        await keeper.ready()
        await devnet.chain.set_interval(0)
        await devnet.chain.set_automine(False)
        await drop(devnet, 70)
        await keeper.wait_for(lambda log: len(log.events("tx.broadcast")) >= 3, 30)
        os.kill(keeper.pid, signal.SIGKILL)
        await keeper.ended()
        journalled = {line["plan_id"] for line in keeper.events("intent.created") if line["purpose"] == "liquidation"}
    async with KeeperProcess(operator.environment(DRAIN_TIMEOUT_S="30")) as again:
        await again.ready()
        await devnet.chain.set_interval(1)
        await again.wait_for(lambda log: len(log.events("chain.head")) >= 6, 40)
        assert await again.stop() == 0, again.tail()
    assert journalled
    assert journalled <= {line["plan_id"] for line in again.events("liquidation.won")}
    assert not again.events("tx.foreign_nonce")
    assert not again.events("tx.reverted")
    pending = int(await devnet.chain.rpc("eth_getTransactionCount", operator.address, "pending"), 16)
    assert pending == int(await devnet.chain.rpc("eth_getTransactionCount", operator.address, "latest"), 16)
    assert market.generation == "3.0"


async def test_a_paused_reserve_is_named_as_the_reason(devnet: Devnet, operator: Operator) -> None:
    market = market_of(devnet)
    for symbol in market.reserves:
        await market.set_paused(symbol, True)
    await drop(devnet, 70)
    done = await in_thread(operator, "once")
    skipped = [json.loads(line) for line in done.stdout.splitlines() if "decision.skipped" in line]
    assert done.returncode == 0
    assert skipped
    assert {line["reason"] for line in skipped} == {"paused"}


async def test_the_wrong_chain_is_refused_before_anything_else(operator: Operator) -> None:
    text = operator.chain_file.read_text().replace("chain_id = 31337", "chain_id = 1")
    operator.chain_file.write_text(text)
    done = await in_thread(operator, "run", is_live=False)
    assert done.returncode == 4
    assert "chain 31337" in done.stdout
    checked = await in_thread(operator, "check", is_live=False)
    assert checked.returncode == 4
    assert "is on chain 31337, configured is 1" in checked.stdout


async def test_an_address_without_code_is_named(operator: Operator) -> None:
    lines = operator.chain_file.read_text().splitlines()
    nowhere = 'root = "0x000000000000000000000000000000000000dEaD"'
    operator.chain_file.write_text("\n".join(nowhere if line.startswith("root") else line for line in lines) + "\n")
    checked = await in_thread(operator, "check", is_live=False)
    assert checked.returncode == 4
    assert "market aave-v3.0: 0x000000000000000000000000000000000000dEaD has no code" in checked.stdout
    done = await in_thread(operator, "run", is_live=False)
    assert done.returncode == 4
    assert "aave-v3.0" in done.stdout


async def test_an_endpoint_without_pinned_reads_decides_nothing(devnet: Devnet, operator: Operator) -> None:
    def refuse(call: Call) -> Call | None:
        has_object = any(isinstance(each, dict) and "blockHash" in each for each in call["params"])
        if call["method"] == "eth_call" and has_object:
            return {"error": {"code": -32602, "message": "invalid argument 1: json: cannot unmarshal object"}}
        return None

    async with proxied(devnet.node.http_url, refuse) as proxy:
        checked = await in_thread(operator, "check", is_live=False, RPC_URLS=proxy.url)
        done = await in_thread(operator, "run", is_live=False, RPC_URLS=proxy.url)
    assert checked.returncode == 4
    assert "does not answer reads pinned to a block hash" in checked.stdout
    assert done.returncode == 4
    assert "pinned to a block hash" in done.stdout


async def test_no_endpoint_at_all_is_one_clear_message_without_its_secret(operator: Operator) -> None:
    url = f"http://127.0.0.1:9/v3/{CANARY}"
    for command in ("run", "once", "check", "positions"):
        done = await in_thread(operator, command, is_live=False, RPC_URLS=url, LOG_LEVEL="debug")
        assert done.returncode == 4, command
        assert CANARY not in done.stdout + done.stderr
        assert "rpc-1" in done.stdout + done.stderr


async def test_no_secret_is_in_any_output_of_a_whole_run(devnet: Devnet, operator: Operator) -> None:
    key = operator.key_file.read_text()
    await drop(devnet, 70)
    async with proxied(devnet.node.http_url, path=f"/v3/{CANARY}") as proxy:
        done = await in_thread(operator, "once", RPC_URLS=proxy.url, LOG_LEVEL="debug")
        checked = await in_thread(operator, "check", RPC_URLS=proxy.url, LOG_LEVEL="debug")
    assert done.returncode == 0
    shown = done.stdout + done.stderr + checked.stdout + checked.stderr
    assert CANARY not in shown
    assert key not in shown
    assert all(key.encode() not in each.read_bytes() for each in (operator.folder / "state").rglob("*.sqlite3*"))


def test_a_bad_configuration_is_told_all_at_once_and_without_values(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "KEEPER_RPC_URLS": f"ftp://{CANARY}.example/",
        "KEEPER_MODE": "live",
        "KEEPER_PRIVATE_KEY": f"0x{CANARY}",
        "KEEPER_MAX_GASS": "1",
    }
    for command in ("run", "once", "check", "positions"):
        done = run_keeper(command, environment=environment)
        assert done.returncode == 3
        told = done.stdout + done.stderr
        assert all(
            name in told for name in ("KEEPER_CHAIN", "KEEPER_RPC_URLS", "KEEPER_PRIVATE_KEY", "KEEPER_MAX_GASS")
        )
        assert "did you mean" in told
        assert CANARY not in told


def test_every_command_has_help_and_a_wrong_one_is_a_usage_error(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    for command in ("run", "once", "check", "positions", "demo"):
        assert run_keeper(command, "--help", environment=environment).returncode == 0
    assert run_keeper("bogus", environment=environment).returncode == 2
    assert run_keeper("positions", "--below", "one", environment=environment).returncode == 2


async def test_a_second_sigterm_aborts_a_drain(devnet: Devnet, operator: Operator) -> None:
    async with KeeperProcess(operator.environment(DRAIN_TIMEOUT_S="600")) as keeper:
        await keeper.ready()
        await devnet.chain.set_interval(0)
        await devnet.chain.set_automine(False)
        await drop(devnet, 70)
        await keeper.wait_for(lambda log: bool(log.events("decision.accepted")), 30)
        os.kill(keeper.pid, signal.SIGTERM)
        await keeper.wait_for(lambda log: len(log.events("keeper.stopping")) == 1, 10)
        await asyncio.sleep(1)
        os.kill(keeper.pid, signal.SIGTERM)
        assert await keeper.ended() == 1
    assert len(keeper.events("keeper.stopping")) == 2
    assert not keeper.events("keeper.stopped")


async def test_a_steady_head_costs_at_most_three_requests_over_http(devnet: Devnet, operator: Operator) -> None:
    async with KeeperProcess(operator.environment(is_live=False, PARITY_EVERY_HEADS="2")) as keeper:
        await keeper.wait_for(lambda log: len(log.events("chain.head")) >= 12, 40)
    assert statistics.median(line["requests"] for line in keeper.events("chain.head")[2:]) <= 3


async def test_heads_pushed_over_a_websocket_cost_no_polls(devnet: Devnet, operator: Operator) -> None:
    urls = f"{devnet.node.http_url},{devnet.node.ws_url}"
    async with KeeperProcess(operator.environment(is_live=False, RPC_URLS=urls)) as keeper:
        await keeper.wait_for(lambda log: len(log.events("chain.head")) >= 9, 30)
    heads = keeper.events("chain.head")[2:]
    assert statistics.median(line["requests"] for line in heads) <= 2
    numbers = [line["number"] for line in heads]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_a_reorg_is_followed_to_what_the_chain_says(devnet: Devnet, operator: Operator) -> None:
    owners = tuple(each.owner for each in devnet.positions["3.0"])
    async with KeeperProcess(operator.environment(is_live=False, PARITY_EVERY_HEADS="1", LOG_LEVEL="debug")) as keeper:
        await keeper.wait_for(lambda log: len(log.events("chain.head")) >= 5, 30)
        await market_of(devnet).supply(owners[0], "USDC", 10**9)
        await keeper.wait_for(lambda log: any(line["touched"] for line in log.events("chain.head")), 20)
        await devnet.chain.rpc("anvil_reorg", 3, [])
        await keeper.wait_for(lambda log: any(line["orphaned"] for line in log.events("chain.head")), 20)
        seen = len(keeper.events("chain.head"))
        await keeper.wait_for(lambda log: len(log.events("chain.head")) >= seen + 4, 20)
    assert keeper.events("chain.reorg")
    assert keeper.events("index.audit_ok")
    assert not keeper.events("index.audit_mismatch")


async def ask(operator: Operator, path: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{operator.http_port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


async def test_readiness_tells_the_truth_when_the_node_dies(devnet: Devnet, operator: Operator) -> None:
    async with KeeperProcess(operator.environment(MAX_HEAD_AGE_S="5")) as keeper:
        await keeper.ready()
        assert (await ask(operator, "/livez"))[0] == 200
        status, body = await ask(operator, "/readyz")
        assert (status, json.loads(body)["status"]) == (200, "ready"), body
        metrics = (await ask(operator, "/metrics"))[1]
        assert 'keeper_positions{market="aave-v3.0"}' in metrics
        assert "keeper_rpc_requests_total" in metrics
        await devnet.node.stop()
        for _ in range(150):
            status, body = await ask(operator, "/readyz")
            if status == 503:
                break
            await asyncio.sleep(0.2)
        failed = {each["name"]: each["reason"] for each in json.loads(body)["checks"] if not each["ok"]}
        assert failed.keys() & {"head", "endpoints"}, failed
        assert (await ask(operator, "/livez"))[0] == 200
        assert await keeper.stop() == 0, keeper.tail()
