"""The local chain is what it says: genuine contracts, honest positions, the same again from the cache."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eth_utils.crypto import keccak

from keeper.devnet.aave import deploy_aave
from keeper.devnet.chain import ADMIN, DevChain, Reverted, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.market import MINT, AaveMarket, Generation
from keeper.devnet.multicall import MULTICALL3, deploy_multicall3
from keeper.devnet.node import Anvil, AnvilOptions
from keeper.devnet.packages import Packages, default_cache_dir, ensure_packages, find_anvil
from keeper.devnet.population import random_positions
from keeper.devnet.positions import PositionSpec, open_positions, owner_address
from keeper.devnet.sentinel import set_price_oracle_sentinel
from keeper.errors import Fatal

WAD = 10**18
ROOT = Path(__file__).parents[2]
GENERATIONS: tuple[Generation, ...] = ("3.0", "3.6")
SMALL = DevnetSpec(generations=GENERATIONS, n_positions=40, seed=3)
STRANGER = "0x" + "7e" * 20
ANSWER_UPDATED = "0x" + keccak(text="AnswerUpdated(int256,uint256,uint256)").hex()
BORROW = "0x" + keccak(text="Borrow(address,address,address,uint256,uint8,uint256,uint16)").hex()


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    async with cached_devnet(default_cache_dir(), SMALL) as running:
        yield running


@pytest.fixture
def packages() -> Packages:
    return ensure_packages(default_cache_dir(), sets=("core", "origin"))


async def scaled_balances(market: AaveMarket, owners: tuple[str, ...]) -> list[int]:
    calls = [
        (token, "scaledBalanceOf(address)(uint256)", (owner,))
        for owner in owners
        for reserve in market.reserves.values()
        for token in (reserve.a_token, reserve.variable_debt_token)
    ]
    return [int(balance) for balance in await market.chain.call_all(calls)]


async def logs(market: AaveMarket, to_block: int) -> list[dict[str, Any]]:
    span = {"fromBlock": hex(market.from_block), "toBlock": hex(to_block), "address": market.pool}
    return list(await market.chain.rpc("eth_getLogs", span))


async def borrowed_and_nearly_sunk(market: AaveMarket) -> str:
    owner = owner_address(9_999)
    position = PositionSpec(owner=owner, supplies={"WETH": 10 * WAD}, borrows={"USDC": 24_000 * 10**6})
    await open_positions(market, [position])
    return owner


async def test_both_generations_stand_on_one_node_with_positions_in_the_drawn_range(packages: Packages):
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        old = await deploy_aave(chain, packages, "3.0")
        new = await deploy_aave(chain, packages, "3.6", assets=old.reserves)
        assert old.reserves.keys() - new.reserves.keys() == {"GUSD"}
        assert all(new.reserves[symbol].token == old.reserves[symbol].token for symbol in new.reserves)
        for market in (old, new):
            specs = random_positions(market, 40, seed=5, hf_range=(1.01, 3.0))
            owners = await open_positions(market, specs)
            found = await market.accounts_data(owners)
            assert all(1.01 * WAD <= account.health_factor_wad <= 3.0 * WAD for account in found)
            assert len({spec.emode for spec in specs}) > 1
            assert any("CRV" in spec.supplies for spec in specs)
            held = await market.account_data(owners[0])
            assert held.collateral_base > held.debt_base > 0
        assert await chain.is_automining()


async def test_the_gas_limit_and_the_mining_mode_come_back_after_bulk_work(devnet: Devnet):
    await borrowed_and_nearly_sunk(devnet.markets["3.6"])
    await devnet.chain.mine()
    assert int((await devnet.chain.header())["gasLimit"], 16) == 60_000_000
    assert await devnet.chain.is_automining()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_price_drop_makes_a_position_liquidatable(devnet: Devnet, generation: Generation):
    market = devnet.markets[generation]
    owner = await borrowed_and_nearly_sunk(market)
    with pytest.raises(Reverted) as healthy:
        await market.liquidate(owner, collateral="WETH", debt="USDC")
    assert healthy.value.reason == {"3.0": '"45"', "3.6": "HealthFactorNotBelowThreshold"}[generation]
    call = "liquidationCall(address,address,address,uint256,bool)"
    tokens = [market.reserves[symbol].token for symbol in ("WETH", "USDC")]
    with pytest.raises(Reverted) as dry_run:
        await devnet.chain.call(market.pool, call, *tokens, owner, 1, False)
    assert dry_run.value.reason == healthy.value.reason
    await market.set_prices({"WETH": 2_800 * 10**8})
    before = await market.account_data(owner)
    assert before.health_factor_wad < WAD
    receipt = await market.liquidate(owner, collateral="WETH", debt="USDC")
    assert receipt["status"] == "0x1"
    after = await market.account_data(owner)
    assert after.debt_base < before.debt_base
    assert after.collateral_base < before.collateral_base


async def test_prices_move_together_in_one_block_and_the_aggregators_say_so(devnet: Devnet):
    market = devnet.markets["3.0"]
    tip = await devnet.chain.block_number()
    wanted = {"WETH": 2_500 * 10**8, "WBTC": 80_000 * 10**8, "USDC": 99_000_000}
    await market.set_prices(wanted)
    assert await devnet.chain.block_number() == tip + 1
    found = await devnet.chain.rpc("eth_getLogs", {"fromBlock": hex(tip + 1), "topics": [ANSWER_UPDATED]})
    assert {log["address"] for log in found} == {market.reserves[symbol].aggregator.lower() for symbol in wanted}
    assert (await market.prices()).items() >= wanted.items()
    feed = market.reserves["WETH"]
    assert await devnet.chain.call(feed.feed, "aggregator()(address)") == feed.aggregator.lower()


async def test_prices_sent_without_mining_wait_in_the_pool(devnet: Devnet):
    market = devnet.markets["3.0"]
    async with devnet.chain.held():
        (sent,) = await market.set_prices({"WETH": 2_999 * 10**8}, mine=False)
        assert (await market.prices())["WETH"] == 3_000 * 10**8
        await devnet.chain.mine()
        assert (await devnet.chain.receipt(sent))["status"] == "0x1"
    assert (await market.prices())["WETH"] == 2_999 * 10**8


async def test_the_published_view_of_liquidation_amounts_agrees_with_the_call(devnet: Devnet):
    market = devnet.markets["3.6"]
    assert devnet.markets["3.0"].liquidation_data_provider is None
    assert market.liquidation_data_provider is not None
    owner = await borrowed_and_nearly_sunk(market)
    await market.set_prices({"WETH": 2_800 * 10**8})
    tokens = [market.reserves[symbol].token for symbol in ("WETH", "USDC")]
    info = "(uint256[6],(address,uint256[4]),(address,uint256[4]),uint256,uint256,uint256,uint256)"
    view = f"getLiquidationInfo(address,address,address)({info})"
    found = await devnet.chain.call(market.liquidation_data_provider, view, owner, *tokens)
    before = await market.account_data(owner)
    await market.liquidate(owner, collateral="WETH", debt="USDC")
    repaid_base = before.debt_base - (await market.account_data(owner)).debt_base
    # Two blocks of interest lie between the view and the call.
    assert abs(found[4] * 100 - repaid_base) <= 100_000


async def test_a_higher_bid_is_mined_first(devnet: Devnet):
    market = devnet.markets["3.0"]
    async with devnet.chain.held():
        (low,) = await market.set_prices({"WETH": 2_999 * 10**8}, mine=False, max_fee_wei=5 * 10**9)
        bid = Tx(ADMIN, market.reserves["USDC"].token, MINT, (ADMIN, 1))
        (high,) = await devnet.chain.submit([bid], max_fee_wei=6 * 10**9)
        await devnet.chain.mine()
        first, second = [await devnet.chain.receipt(sent) for sent in (high, low)]
    assert (first["blockNumber"], first["transactionIndex"]) == (second["blockNumber"], "0x0")


async def test_interest_accrues_on_every_reserve(devnet: Devnet):
    for market in devnet.markets.values():
        calls = [
            (market.pool, f"{view}(address)(uint256)", (reserve.token,))
            for reserve in market.reserves.values()
            for view in ("getReserveNormalizedIncome", "getReserveNormalizedVariableDebt")
        ]
        before = await devnet.chain.call_all(calls)
        await devnet.chain.increase_time(86_400)
        await devnet.chain.mine()
        after = await devnet.chain.call_all(calls)
        assert all(late > early for early, late in zip(before, after, strict=True))


async def test_a_saved_chain_comes_back_the_same():
    states = []
    for _ in range(2):
        async with cached_devnet(default_cache_dir(), SMALL) as running:
            # The one block on top is the feeds' refresh.
            saved = await running.chain.block_number() - 1
            for generation, market in running.markets.items():
                owners = tuple(spec.owner for spec in running.positions[generation])
                found = await logs(market, saved)
                borrowers = {log["topics"][2][-40:] for log in found if log["topics"][0] == BORROW}
                assert {owner[2:].lower() for owner in owners} <= borrowers
                receipt = await running.chain.receipt(found[-1]["transactionHash"])
                assert found[-1] in receipt["logs"]
                states.append((market.record(), running.positions, found, await scaled_balances(market, owners)))
    assert states[:2] == states[2:]


async def test_nobody_sends_without_a_key_once_the_positions_are_open(devnet: Devnet):
    owner = devnet.positions["3.0"][0].owner
    with pytest.raises(Fatal, match="No Signer available"):
        await devnet.chain.send(devnet.markets["3.0"].pool, "setUserEMode(uint8)", 0, sender=owner)


async def test_a_keeper_gets_money(devnet: Devnet):
    await devnet.fund_keeper(STRANGER, {"USDC": 5, "GUSD": 6}, native_wei=7)
    tokens = [devnet.markets["3.0"].reserves[symbol].token for symbol in ("USDC", "GUSD")]
    held = await devnet.chain.call_all((token, "balanceOf(address)(uint256)", (STRANGER,)) for token in tokens)
    assert held == [5, 6]
    assert int(await devnet.chain.rpc("eth_getBalance", STRANGER, "latest"), 16) == 7


async def test_multicall_answers_at_its_canonical_address(packages: Packages):
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        signature = "aggregate3((address,bool,bytes)[])((bool,bytes)[])"
        ((ok, returned),) = await chain.call(
            MULTICALL3, signature, [(MULTICALL3, False, keccak(text="getChainId()")[:4])]
        )
        assert ok
        assert int.from_bytes(returned) == 31_337


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_the_sentinel_holds_liquidations_back_until_the_grace_period_is_over(
    devnet: Devnet, generation: Generation
):
    market = devnet.markets[generation]
    owner = await borrowed_and_nearly_sunk(market)
    await market.set_prices({"WETH": 2_880 * 10**8})
    sentinel = await set_price_oracle_sentinel(market, devnet.packages, grace_period_s=3_600)
    now = int((await devnet.chain.header())["timestamp"], 16)
    await sentinel.set_sequencer(is_down=False, since_s=now)
    assert not await sentinel.is_liquidation_allowed()
    with pytest.raises(Reverted) as held_back:
        await market.liquidate(owner, collateral="WETH", debt="USDC")
    assert held_back.value.reason == {"3.0": '"59"', "3.6": "PriceOracleSentinelCheckFailed"}[generation]
    await devnet.chain.increase_time(3_700)
    await devnet.chain.mine()
    assert await sentinel.is_liquidation_allowed()
    await market.liquidate(owner, collateral="WETH", debt="USDC")
    await sentinel.remove()


@pytest.mark.parametrize("generation", GENERATIONS)
async def test_a_paused_reserve_liquidates_nobody(devnet: Devnet, generation: Generation):
    market = devnet.markets[generation]
    owner = await borrowed_and_nearly_sunk(market)
    await market.set_prices({"WETH": 2_800 * 10**8})
    await market.set_paused("WETH", True)
    with pytest.raises(Reverted) as paused:
        await market.liquidate(owner, collateral="WETH", debt="USDC")
    assert paused.value.reason == {"3.0": '"29"', "3.6": "ReservePaused"}[generation]
    await market.set_paused("WETH", False)
    await market.liquidate(owner, collateral="WETH", debt="USDC", amount=1_000 * 10**6)


async def test_a_grace_period_protects_for_its_time_where_the_generation_has_one(devnet: Devnet):
    market = devnet.markets["3.6"]
    owner = await borrowed_and_nearly_sunk(market)
    await market.set_prices({"WETH": 2_800 * 10**8})
    await market.set_grace_period("WETH", 600)
    with pytest.raises(Reverted) as protected:
        await market.liquidate(owner, collateral="WETH", debt="USDC")
    assert protected.value.reason == "LiquidationGraceSentinelCheckFailed"
    await devnet.chain.increase_time(700)
    await market.liquidate(owner, collateral="WETH", debt="USDC")
    with pytest.raises(Fatal, match="no liquidation grace period"):
        await devnet.markets["3.0"].set_grace_period("WETH", 600)


async def test_an_owner_can_be_moved_by_hand(devnet: Devnet):
    market = devnet.markets["3.6"]
    owner = owner_address(8_888)
    await market.supply(owner, "wstETH", 10 * WAD)
    await market.set_user_emode(owner, 1)
    await market.borrow(owner, "WETH", 10 * WAD)
    leveraged = await market.account_data(owner)
    assert leveraged.liquidation_threshold_bps == 9_500
    await market.repay(owner, "WETH", 6 * WAD)
    await market.set_user_emode(owner, 0)
    await market.withdraw(owner, "wstETH", WAD)
    assert (await market.account_data(owner)).liquidation_threshold_bps == 8_100
    with pytest.raises(Reverted):
        await market.set_collateral(owner, "wstETH", False)


async def test_a_snapshot_takes_everything_back(devnet: Devnet):
    before = await devnet.chain.block_number()
    snapshot = await devnet.chain.snapshot()
    await devnet.chain.mine(3)
    await devnet.chain.revert(snapshot)
    assert await devnet.chain.block_number() == before
    with pytest.raises(Fatal, match="no such snapshot"):
        await devnet.chain.revert("0x7777")


async def test_the_clock_the_fee_and_the_mining_mode_are_ours(devnet: Devnet):
    chain = devnet.chain
    late = int((await chain.header())["timestamp"], 16) + 1_000
    await chain.set_next_timestamp(late)
    await chain.set_next_base_fee(5 * 10**9)
    await chain.mine()
    header = await chain.header()
    assert (int(header["timestamp"], 16), int(header["baseFeePerGas"], 16)) == (late, 5 * 10**9)
    await chain.set_interval(1)
    assert not await chain.is_automining()
    await chain.set_interval(0)
    await chain.set_automine(True)
    assert await chain.is_automining()


async def test_a_node_that_cannot_start_says_why(packages: Packages):
    with pytest.raises(Fatal, match="--nonsense"):
        async with Anvil(find_anvil(packages), AnvilOptions(extra=("--nonsense",))):
            pass


async def test_a_stopped_node_is_gone(packages: Packages):
    async with Anvil(find_anvil(packages)) as node:
        pid = node.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Fatal, match="not running"):
        _ = node.pid


def test_the_node_dies_with_its_parent(packages: Packages):
    program = """
        import asyncio, pathlib, sys
        from keeper.devnet.node import Anvil

        async def main():
            async with Anvil(pathlib.Path(sys.argv[1])) as node:
                print(node.pid, flush=True)
                await asyncio.sleep(60)

        asyncio.run(main())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(find_anvil(packages))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert is_gone(pid)


def is_gone(pid: int) -> bool:
    """Wait for a process to die; what waits to be reaped by a lazy init is dead too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except FileNotFoundError:
            return True
        if status.rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


async def test_two_nodes_run_at_once(packages: Packages):
    async with Anvil(find_anvil(packages)) as one, Anvil(find_anvil(packages)) as two:
        assert one.http_url != two.http_url
        async with DevChain(one.http_url) as chain, DevChain(two.http_url) as other:
            await chain.set_balance(ADMIN, 1)
            balances = await asyncio.gather(*(c.rpc("eth_getBalance", ADMIN, "latest") for c in (chain, other)))
            assert balances[0] != balances[1]


def test_without_npm_the_packages_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Fatal, match=r"npm is not on the PATH"):
        ensure_packages(tmp_path / "cache")


def test_a_failed_install_shows_its_last_lines_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no such registry >&2\nexit 7\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Fatal, match=r"exit code 7:\nno such registry"):
        ensure_packages(tmp_path / "cache")
    assert not [found for found in (tmp_path / "cache" / "packages").iterdir() if found.is_dir()]


async def test_positions_are_drawn_the_same_for_the_same_seed(devnet: Devnet):
    market = devnet.markets["3.6"]
    assert random_positions(market, 30, seed=9) == random_positions(market, 30, seed=9)
    assert random_positions(market, 30, seed=9) != random_positions(market, 30, seed=10)
