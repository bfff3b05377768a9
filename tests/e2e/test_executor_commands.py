"""The executor in its operator's hands: created, authorised by its cold owner, looked at, paused, swept."""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from eth_account import Account
from typer.testing import CliRunner

from keeper.cli import app
from keeper.devnet.chain import RpcFailed
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess
from keeper.domain.program import StepKind
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.executor.artifact import load
from keeper.text import address_text
from tests.faults.postgres import running_postgres
from tests.operator import Operator, prepare

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPEC = DevnetSpec(generations=("3.0",), others=("morpho", "uniswap"), n_positions=12)
UNSENT = 7
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Estate:
    """An operator with a cold owner, whose key lies in a file of its own, and an executor in the chain file."""

    operator: Operator
    owner: str
    owner_key: Path
    address: str = ""

    @property
    def devnet(self) -> Devnet:
        return self.operator.devnet

    async def run(
        self, *arguments: str, is_live: bool = True, settings: Mapping[str, str] = NOTHING
    ) -> tuple[int, Any, str]:
        """Run `keeper …` with --json, and return its exit code, what it printed, and what it said besides."""
        unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith("KEEPER_")}
        environment = {**unset, **self.operator.environment(is_live=is_live)}
        environment |= {f"KEEPER_{name}": value for name, value in settings.items()}
        done = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"], env=environment)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert self.operator.key_file.read_text() not in done.output
        assert self.owner_key.read_text() not in done.output
        return done.exit_code, json.loads(done.stdout) if done.stdout else None, done.stderr

    async def executor(
        self, *arguments: str, is_live: bool = True, settings: Mapping[str, str] = NOTHING
    ) -> tuple[int, Any, str]:
        return await self.run("executor", *arguments, is_live=is_live, settings=settings)

    async def signed_elsewhere(self, transactions: list[dict[str, Any]]) -> None:
        """Send printed transactions as their signer, as a hardware wallet would."""
        chain = self.devnet.chain
        for each in transactions:
            async with chain.impersonate(each["from"]):
                request = {key: each[key] for key in ("from", "to", "data")}
                receipt = await chain.receipt(await chain.rpc("eth_sendTransaction", request))
            assert int(receipt["status"], 16) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def devnet() -> AsyncIterator[Devnet]:
    async with cached_devnet(default_cache_dir(), SPEC, options=AnvilOptions(block_time_s=1)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def bare(devnet: Devnet, tmp_path: Path) -> Estate:
    """Return an operator who has gas money, and no executor yet."""
    operator = await prepare(devnet, tmp_path, is_funded=False)
    owner_key = tmp_path / "owner"
    owner_key.touch(mode=0o600)
    owner_key.write_text(secrets.token_hex(32))
    owner = Signer.from_hex(owner_key.read_text(), SigningPolicy(0, Wei(0), 0)).address
    for each in (operator.address, address_text(owner)):
        await devnet.fund_keeper(each)
    return Estate(operator, address_text(owner), owner_key)


@pytest_asyncio.fixture(loop_scope="module")
async def estate(bare: Estate) -> Estate:
    """Return an operator with an executor that may do nothing yet."""
    code, made, said = await bare.executor("deploy", "--owner", bare.owner)
    assert code == 0, said
    keep(bare.operator, made)
    return Estate(bare.operator, bare.owner, bare.owner_key, made["address"])


def keep(operator: Operator, made: dict[str, Any]) -> None:
    """Put what `deploy` printed into the chain file."""
    pinned = "".join(f'{key} = "{made[key]}"\n' for key in ("address", "code_hash", "owner"))
    table = f"[executor]\n{pinned}from_block = {made['from_block']}\n"
    text = operator.chain_file.read_text()
    operator.chain_file.write_text(text.replace("[exchange]", f"{table}[exchange]", 1))


def verdicts(found: dict[str, Any], status: str) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in found["checks"] if each["status"] == status}


async def test_deploy_creates_the_shipped_contract_for_its_owner_with_the_hot_key_as_its_caller(bare: Estate) -> None:
    code, made, said = await bare.executor("deploy", "--owner", bare.owner)
    assert code == 0, said
    chain = bare.devnet.chain
    lying = await chain.rpc("eth_getCode", made["address"], "latest")
    assert bytes.fromhex(lying[2:]) == load().runtime
    assert made["code_hash"] == "0x" + load().code_hash.hex()
    assert (await chain.call(made["address"], "owner()(address)")).lower() == bare.owner.lower()
    assert await chain.call(made["address"], "is_caller(address)(bool)", bare.operator.address) is True
    receipt = await chain.receipt(made["hash"])
    assert made["from_block"] == int(receipt["blockNumber"], 16)


async def test_deploy_needs_an_owner_that_is_cold_and_does_not_do_it_twice(bare: Estate) -> None:
    code, _, said = await bare.executor("deploy")
    assert (code, "--owner" in said) == (2, True)
    code, _, said = await bare.executor("deploy", "--owner", "0x" + "12" * 19)
    assert (code, "must be an address" in said) == (2, True)
    code, _, said = await bare.executor("deploy", "--owner", bare.operator.address)
    assert (code, "--owner-is-hot" in said) == (4, True)
    before = await bare.devnet.chain.rpc("eth_getTransactionCount", bare.operator.address, "latest")
    assert int(before, 16) == 0
    code, made, _ = await bare.executor("deploy", "--owner", bare.operator.address, "--owner-is-hot")
    assert code == 0
    keep(bare.operator, made)
    code, _, said = await bare.executor("deploy", "--owner", bare.owner)
    assert (code, "--another" in said) == (4, True)
    code, printed, _ = await bare.executor("deploy", "--owner", bare.owner, "--another", "--print")
    assert code == UNSENT
    assert [(each["to"], each["from"]) for each in printed["transactions"]] == [(None, bare.operator.address)]
    watching = ("deploy", "--owner", bare.owner, "--another", "--print")
    code, _, said = await bare.executor(*watching, is_live=False)
    assert (code, "KEEPER_ADDRESS" in said) == (3, True)


async def test_without_a_key_nothing_is_created_and_without_an_executor_nothing_is_ordered(bare: Estate) -> None:
    code, _, said = await bare.executor("deploy", "--owner", bare.owner, is_live=False)
    assert (code, "no key is configured" in said) == (3, True)
    for command in ("status", "authorize", "sweep", "pause", "unpause"):
        code, _, said = await bare.executor(command)
        assert (code, "has no [executor]" in said) == (3, True), command


async def test_nothing_is_sent_beside_a_keeper_with_the_same_key(estate: Estate) -> None:
    async with KeeperProcess(estate.operator.environment()) as keeper:
        await keeper.ready()
        code, _, said = await estate.executor("pause")
        assert (code, f"pid {keeper.pid}" in said) == (5, True)
        code, _, said = await estate.executor("deploy", "--owner", estate.owner, "--another")
        assert (code, f"pid {keeper.pid}" in said) == (5, True)
        code, found, _ = await estate.executor("status")
        assert (code, found["paused"]) == (4, False)


async def test_the_owner_signs_elsewhere_what_authorize_prints_and_only_once(estate: Estate) -> None:
    code, checked, _ = await estate.run("check")
    missing = verdicts(checked, "fail")["executor permits"]
    assert (code, missing["fix"]) == (4, "keeper executor authorize")
    code, printed, said = await estate.executor("authorize")
    assert code == UNSENT, said
    assert {each["from"] for each in printed["transactions"]} == {estate.owner}
    assert {each["chain_id"] for each in printed["transactions"]} == {31_337}
    assert all("LIQUIDATE_AAVE" in each["meaning"] for each in printed["transactions"])
    await estate.signed_elsewhere(printed["transactions"])
    code, again, said = await estate.executor("authorize")
    assert (code, again["sent"]) == (0, []), said
    code, found, _ = await estate.executor("status")
    assert code == 0, found["checks"]
    assert found["owner"] == estate.owner
    assert found["callers"] == {estate.operator.address: True}
    assert (found["balances"], found["allowances"]) == ({}, [])
    code, checked, _ = await estate.run("check")
    assert code == 0, verdicts(checked, "fail")


async def test_every_target_is_permitted_for_what_the_markets_venues_and_lenders_do_there(estate: Estate) -> None:
    code, _, said = await estate.executor("authorize", "--owner-key-file", str(estate.owner_key))
    assert code == 0, said
    devnet, chain = estate.devnet, estate.devnet.chain
    assert devnet.morpho is not None
    assert devnet.uniswap is not None
    wanted = {
        devnet.markets["3.0"].pool: {StepKind.LIQUIDATE_AAVE, StepKind.FLASH_AAVE},
        devnet.morpho.morpho: {StepKind.LIQUIDATE_MORPHO, StepKind.FLASH_MORPHO},
        devnet.uniswap.v2_factory: {StepKind.SWAP_UNISWAP_V2},
        devnet.uniswap.v3_factory: {
            StepKind.SWAP_UNISWAP_V3,
            StepKind.SWAP_FIRST_UNISWAP_V3,
            StepKind.FLASH_UNISWAP_V3,
        },
        devnet.markets["3.0"].reserves["WETH"].token: {StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE},
    }
    for target, kinds in wanted.items():
        mask = await chain.call(estate.address, "permits(address)(uint256)", target)
        assert {each for each in StepKind if mask >> each & 1} == kinds, target
    init_code_hash = await chain.call(estate.address, "init_code_hashes(address)(bytes32)", devnet.uniswap.v3_factory)
    assert bytes(init_code_hash) == bytes.fromhex(str(devnet.uniswap.v3_init_code_hash).removeprefix("0x"))


async def test_what_nothing_needs_any_more_is_found_and_taken_back_when_asked_to(estate: Estate) -> None:
    key = ("--owner-key-file", str(estate.owner_key))
    async with KeeperProcess(estate.operator.environment()) as keeper:
        await keeper.ready()
    code, _, said = await estate.executor("authorize", "--add-caller", estate.owner, *key)
    assert code == 0, said
    assert estate.devnet.uniswap is not None
    factory = estate.devnet.uniswap.v2_factory
    text = estate.operator.chain_file.read_text()
    venue = f'[[exchange.venues]]\nname = "uniswap-v2"\nkind = "uniswap_v2"\nroot = "{factory}"\n'
    assert venue in text
    estate.operator.chain_file.write_text(text.replace(venue, ""))
    code, found, _ = await estate.executor("status")
    warned = verdicts(found, "warn")
    assert code == 0
    assert factory in warned["executor permits"]["finding"]
    assert estate.owner in warned["executor callers"]["finding"]
    code, kept, _ = await estate.executor("authorize", *key)
    assert (code, kept["sent"]) == (0, [])
    code, _, said = await estate.executor("authorize", "--revoke", *key)
    assert code == 0, said
    chain = estate.devnet.chain
    assert await chain.call(estate.address, "permits(address)(uint256)", factory) == 0
    assert await chain.call(estate.address, "is_caller(address)(bool)", estate.owner) is False


async def test_the_hot_key_pauses_and_only_the_owner_lets_it_go_on(estate: Estate) -> None:
    await estate.executor("authorize", "--owner-key-file", str(estate.owner_key))
    code, _, said = await estate.executor("pause")
    assert code == 0, said
    code, found, _ = await estate.executor("status")
    assert (code, found["paused"]) == (4, True)
    assert verdicts(found, "fail")["executor pause"]["fix"] == "keeper executor unpause"
    code, again, _ = await estate.executor("pause")
    assert (code, again["sent"]) == (0, [])
    code, printed, _ = await estate.executor("unpause")
    assert (code, [each["from"] for each in printed["transactions"]]) == (UNSENT, [estate.owner])
    document = estate.operator.folder / "keystore"
    document.write_text(
        json.dumps(Account.encrypt(bytes.fromhex(estate.owner_key.read_text()), "long and secret", iterations=2))
    )
    password = estate.operator.folder / "password"
    password.write_text("long and secret")
    for each in (document, password):
        each.chmod(0o600)
    arguments = ("--owner-keystore", str(document), "--owner-password-file", str(password))
    code, _, said = await estate.executor("unpause", *arguments)
    assert code == 0, said
    assert await estate.devnet.chain.call(estate.address, "is_paused()(bool)") is False
    assert (await estate.executor("status"))[0] == 0


async def test_what_rests_in_it_is_shown_and_swept_to_the_owner(estate: Estate) -> None:
    market = estate.devnet.markets["3.0"]
    chain = estate.devnet.chain
    await chain.set_balance(estate.address, 5)
    await market.mint("USDC", estate.address, 7_000_000)
    code, found, _ = await estate.executor("status")
    usdc = market.reserves["USDC"].token
    assert {key.lower(): each for key, each in found["balances"].items()} == {
        usdc.lower(): "7000000",
        "0x" + "ee" * 20: "5",
    }
    assert verdicts(found, "warn")["executor balances"]["fix"] == "keeper executor sweep"
    code, printed, _ = await estate.executor("sweep")
    assert code == UNSENT
    assert estate.owner in printed["transactions"][0]["meaning"]
    with pytest.raises(RpcFailed, match="owner"):
        await chain.rpc("eth_call", {**printed["transactions"][0], "from": estate.operator.address}, "latest")
    code, done, said = await estate.executor("sweep", "--owner-key-file", str(estate.owner_key))
    assert (code, len(done["sent"])) == (0, 1), said
    assert await chain.call(usdc, "balanceOf(address)(uint256)", estate.owner) == 7_000_000
    assert await chain.call(usdc, "balanceOf(address)(uint256)", estate.address) == 0
    assert int(await chain.rpc("eth_getBalance", estate.address, "latest"), 16) == 0
    code, again, _ = await estate.executor("sweep")
    assert (code, again["sent"]) == (0, [])


async def test_an_allowance_that_was_left_behind_is_a_failure_of_status(estate: Estate) -> None:
    market = estate.devnet.markets["3.0"]
    chain = estate.devnet.chain
    async with chain.impersonate(estate.address):
        await chain.send(
            market.reserves["USDC"].token, "approve(address,uint256)", market.pool, 1, sender=estate.address
        )
    code, found, _ = await estate.executor("status")
    assert code == 4
    assert [each["amount"] for each in found["allowances"]] == ["1"]
    assert "executor allowances" in verdicts(found, "fail")


async def test_an_executor_that_is_not_the_pinned_one_fails_every_look_and_is_not_authorised(estate: Estate) -> None:
    text = estate.operator.chain_file.read_text()
    estate.operator.chain_file.write_text(text.replace("0x" + load().code_hash.hex(), "0x" + "ab" * 32))
    code, found, _ = await estate.executor("status")
    assert code == 4
    assert "the chain file says 0xabab" in verdicts(found, "fail")["executor code"]["finding"]
    code, _, said = await estate.executor("authorize", "--owner-key-file", str(estate.owner_key))
    assert (code, "not the chain file's" in said) == (4, True)
    estate.operator.chain_file.write_text(text.replace(estate.owner, estate.operator.address))
    code, found, _ = await estate.executor("status")
    assert (code, "is not the chain file's" in verdicts(found, "fail")["executor owner"]["finding"]) == (4, True)
    estate.operator.chain_file.write_text(text.replace(estate.address, "0x" + "77" * 20))
    code, found, _ = await estate.executor("status")
    assert (code, "has no code" in verdicts(found, "fail")["executor code"]["finding"]) == (4, True)


async def test_a_key_of_the_owner_that_everybody_can_read_is_refused(estate: Estate) -> None:
    estate.owner_key.chmod(0o644)
    code, _, said = await estate.executor("unpause", "--owner-key-file", str(estate.owner_key))
    assert (code, "chmod it 600" in said) == (3, True)


async def test_cfg_09_a_keeper_does_not_begin_with_an_executor_that_is_not_the_one_it_should_be(estate: Estate) -> None:
    text, chain = estate.operator.chain_file.read_text(), estate.devnet.chain
    before = await chain.rpc("eth_getTransactionCount", estate.operator.address, "latest")
    for wrong, told in (
        (text.replace("0x" + load().code_hash.hex(), "0x" + "ab" * 32), "the chain file says 0xabab"),
        (text.replace(estate.owner, estate.operator.address), "is not the chain file's"),
        (text.replace(estate.address, "0x" + "77" * 20), "has no code"),
    ):
        estate.operator.chain_file.write_text(wrong)
        done = await asyncio.to_thread(estate.operator.command, "once")
        assert (done.returncode, told in done.stdout) == (4, True), done.stdout
    estate.operator.chain_file.write_text(text)
    key = ("--owner-key-file", str(estate.owner_key))
    code, _, said = await estate.executor("authorize", "--remove-caller", estate.operator.address, *key)
    assert code == 0, said
    done = await asyncio.to_thread(estate.operator.command, "once")
    assert (done.returncode, "may not call it" in done.stdout) == (4, True), done.stdout
    assert await chain.rpc("eth_getTransactionCount", estate.operator.address, "latest") == before


async def test_a_keeper_on_another_machine_that_leads_with_the_key_keeps_it_from_sending(bare: Estate) -> None:
    with running_postgres() as server:
        url = server.new_database()
        elsewhere = {"DATABASE_URL": url, "STATE_DIR": str(bare.operator.folder / "elsewhere")}
        async with KeeperProcess(bare.operator.environment(DATABASE_URL=url)) as keeper:
            await keeper.ready()
            code, _, said = await bare.executor("deploy", "--owner", bare.owner, settings=elsewhere)
            assert (code, "another keeper holds the lease" in said) == (5, True)
        code, made, said = await bare.executor("deploy", "--owner", bare.owner, settings=elsewhere)
        assert code == 0, said
    assert await bare.devnet.chain.call(made["address"], "is_paused()(bool)") is False
