"""A keeper and an executor that is not the one it should be: nothing is sent."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keeper.devnet.devnet import cached_devnet
from keeper.devnet.node import AnvilOptions
from keeper.devnet.packages import default_cache_dir
from keeper.executor.artifact import load
from tests.e2e.estate import SPEC, Estate, bare_estate, deployed


@pytest.fixture
async def estate(tmp_path: Path) -> AsyncIterator[Estate]:
    async with cached_devnet(default_cache_dir(), SPEC, options=AnvilOptions(block_time_s=1)) as devnet:
        yield await deployed(await bare_estate(devnet, tmp_path))


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
