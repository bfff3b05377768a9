"""The executor in its operator's hands: created, authorised by its cold owner, looked at, paused, swept."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from eth_account import Account

from keeper.chainfile import ChainFile
from keeper.devnet.chain import RpcFailed
from keeper.devnet.devnet import Devnet, cached_devnet
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.process import KeeperProcess
from keeper.domain.program import StepKind
from keeper.domain.units import Address
from keeper.executor.artifact import load
from keeper.venues.odos import Odos
from tests.e2e.estate import SPEC, Estate, bare_estate, deployed, keep, verdicts
from tests.faults.postgres import running_postgres

pytestmark = pytest.mark.asyncio(loop_scope="module")
UNSENT = 7


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def devnet() -> AsyncIterator[Devnet]:
    async with cached_devnet(default_cache_dir(), SPEC, options=AnvilOptions(block_time_s=1)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def bare(devnet: Devnet, tmp_path: Path) -> Estate:
    """Return an operator who has gas money, and no executor yet."""
    return await bare_estate(devnet, tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def estate(bare: Estate) -> Estate:
    """Return an operator with an executor that may do nothing yet."""
    return await deployed(bare)


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


async def test_what_deploy_prints_can_be_put_into_the_chain_file_as_it_is(bare: Estate) -> None:
    done = await bare.command("executor", "deploy", "--owner", bare.owner)
    assert done.exit_code == 0, done.stderr
    table = done.stdout[done.stdout.index("[executor]") : done.stdout.index("then: keeper executor authorize")]
    path = bare.operator.chain_file
    path.write_text(path.read_text().replace("[exchange]", f"{table}[exchange]", 1))
    chain = ChainFile.load(str(path))
    assert chain.executor is not None
    assert chain.executor.code_hash == load().code_hash
    assert chain.executor.owner == bytes.fromhex(bare.owner[2:])
    assert chain.warnings == ()
    shown = await bare.command("executor", "status")
    assert shown.exit_code == 4
    for each in (f"owner     {bare.owner}", f"callers   {bare.operator.address}", "paused    no", "holds     nothing"):
        assert each in shown.stdout
    assert "→ keeper executor authorize" in shown.stdout


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


def place(name: str, kind: str, root: str) -> str:
    return f'[[exchange.venues]]\nname = "{name}"\nkind = "{kind}"\nroot = "{root}"\n'


async def test_what_nothing_needs_any_more_is_found_and_taken_back_when_asked_to(estate: Estate) -> None:
    key = ("--owner-key-file", str(estate.owner_key))
    async with KeeperProcess(estate.operator.environment()) as keeper:
        await keeper.ready()
    assert estate.devnet.uniswap is not None
    factory, router = estate.devnet.uniswap.v2_factory, estate.devnet.uniswap.router
    path = estate.operator.chain_file
    text = path.read_text()
    path.write_text(text + place("odos", "odos", router) + 'options = { url = "http://127.0.0.1:9" }\n')
    code, _, said = await estate.executor("authorize", "--add-caller", estate.owner, *key)
    assert code == 0, said
    chain = estate.devnet.chain
    (function,) = Odos(31_337, Address(bytes.fromhex(router[2:]))).profile.by_selector
    assert await chain.call(estate.address, "selectors(address,bytes4)(bool)", router, function) is True
    venue = place("uniswap-v2", "uniswap_v2", factory)
    assert venue in text
    path.write_text(text.replace(venue, ""))
    code, found, _ = await estate.executor("status")
    warned = verdicts(found, "warn")
    assert code == 0
    for each in (factory, router, f"0x{function.hex()} of {router}"):
        assert each in warned["executor permits"]["finding"]
    assert estate.owner in warned["executor callers"]["finding"]
    code, kept, _ = await estate.executor("authorize", *key)
    assert (code, kept["sent"]) == (0, [])
    code, _, said = await estate.executor("authorize", "--revoke", *key)
    assert code == 0, said
    for each in (factory, router):
        assert await chain.call(estate.address, "permits(address)(uint256)", each) == 0
    assert await chain.call(estate.address, "selectors(address,bytes4)(bool)", router, function) is False
    assert await chain.call(estate.address, "is_caller(address)(bool)", estate.owner) is False
    assert (await estate.executor("status"))[0] == 0


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
    await chain.set_balance(estate.address, 5 * 10**15)
    await market.mint("USDC", estate.address, 7_000_000)
    code, found, _ = await estate.executor("status")
    usdc = market.reserves["USDC"].token
    assert {key.lower(): each for key, each in found["balances"].items()} == {
        usdc.lower(): "7000000",
        "0x" + "ee" * 20: "5000000000000000",
    }
    assert verdicts(found, "warn")["executor balances"]["fix"] == "keeper executor sweep"
    code, printed, _ = await estate.executor("sweep")
    assert code == UNSENT
    texts = printed["transactions"][0]["meaning"].removeprefix("send ").removesuffix(f" to {estate.owner}").split(", ")
    assert sorted(texts) == ["0.005 ETH", "7 USDC"]
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


async def test_a_key_that_is_not_the_owners_is_told_and_orders_nothing(estate: Estate) -> None:
    for command in ("authorize", "pause", "unpause", "sweep"):
        code, _, said = await estate.executor(command, "--owner-key-file", str(estate.operator.key_file))
        assert (code, f"the owner is {estate.owner}" in said) == (4, True), command


async def test_a_key_of_the_owner_that_everybody_can_read_is_refused(estate: Estate) -> None:
    estate.owner_key.chmod(0o644)
    code, _, said = await estate.executor("unpause", "--owner-key-file", str(estate.owner_key))
    assert (code, "chmod it 600" in said) == (3, True)


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
