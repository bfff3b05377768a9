"""The conformance kit, run on every built-in protocol at once, and on parts that break their promises."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keeper.chainfile import ChainFile
from keeper.checks import Check, Status
from keeper.conformance import STRANGER, examine
from keeper.devnet.chain import RpcFailed
from keeper.devnet.chain_file import chain_text
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.packages import default_cache_dir
from keeper.domain.chain import Call
from keeper.domain.outcome import Reason
from keeper.domain.ports import Market
from keeper.domain.position import Row
from keeper.domain.units import Base, PositionId
from keeper.registry import BUILT_IN, markets_of
from tests.parity.desk import DevReads, raw, read_head, read_logs

SPEC = DevnetSpec(generations=("3.0", "3.6"), others=("morpho", "venus", "perp"), n_positions=50)
FALL_PERCENT = 62


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    async with cached_devnet(default_cache_dir(), SPEC) as devnet:
        assert devnet.morpho is not None
        assert devnet.perp is not None
        start = await devnet.morpho.prices()
        await devnet.perp.move({name: start[name] * FALL_PERCENT // 100 for name in ("WETH", "WBTC")})
        others = ("WETH", "WBTC", "wstETH", "LINK", "CRV")
        await devnet.morpho.set_prices({name: start[name] * FALL_PERCENT // 100 for name in others})
        yield devnet


async def bound(devnet: Devnet, folder: Path) -> dict[Market, list[PositionId]]:
    """Bind every market of the devnet, discover it, and find who is in it."""
    path = folder / "local.toml"
    path.write_text(chain_text(devnet), encoding="utf-8")
    reads = DevReads(devnet.chain, await read_head(devnet.chain))
    found = {}
    for market in markets_of(ChainFile.load(str(path))):
        await market.reader.discover(reads)
        named = market.reader.named(await read_logs(devnet.chain, market.reader.discovery_filter, market.from_block))
        market.reader.recall(named)
        await market.reader.discover(reads)
        await market.reader.snapshot(reads)
        found[market] = [each.id for each in await market.reader.positions(reads, sorted(named)) if each.has_debt]
    return found


async def examined(devnet: Devnet, market: Market, ids: Sequence[PositionId]) -> dict[str, Check]:
    async def probe(call: Call) -> bytes | None:
        request = {"from": "0x" + STRANGER.hex(), "to": "0x" + call.to.hex(), "data": "0x" + call.data.hex()}
        try:
            await devnet.chain.rpc("eth_call", request, "latest")
        except RpcFailed as failed:
            return raw(failed.data)
        return None

    reads = DevReads(devnet.chain, await read_head(devnet.chain))
    checks = await examine(market, reads, ids, probe)
    return {each.name.removeprefix(f"{market.name}: "): each for each in checks}


async def test_every_built_in_protocol_keeps_every_promise_after_a_crash(devnet: Devnet, tmp_path: Path) -> None:
    markets = await bound(devnet, tmp_path)
    assert {market.protocol for market in markets} == set(BUILT_IN)
    for market, ids in markets.items():
        checks = await examined(devnet, market, ids)
        assert [each for each in checks.values() if each.status is not Status.OK] == []
        assert len(ids) >= 30
        assert not checks["assessments"].finding.startswith("0 ")


class Broken:
    """A part that is another's in everything but what is named here."""

    def __init__(self, part: Any, **other: Any) -> None:
        self._part = part
        self.__dict__.update(other)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def wrong(market: Market) -> dict[str, Market]:
    """Return the market with one promise broken at a time, by the check that has to notice."""
    rules, calls, reader = market.rules, market.calls, market.reader

    def valued(*known: Any) -> Any:
        health = rules.health(*known)
        return replace(health, debt_base=Base(health.debt_base + 1))

    def row(*known: Any) -> Row:
        return tuple((column, 2 * amount) for column, amount in rules.row(*known))

    def weightless(*known: Any) -> Any:
        return {column: replace(each, numerator=abs(each.numerator)) for column, each in rules.weights(*known).items()}

    def spendthrift(position: Any, snapshot: Any, at: Any, _budget: Any) -> Any:
        return rules.assess(position, snapshot, at, None)

    def elsewhere(opportunity: Any) -> Call:
        return replace(calls.liquidation(opportunity), to=STRANGER)

    return {
        "parity": replace(market, rules=Broken(rules, health=valued)),
        "screen": replace(market, rules=Broken(rules, row=row, weights=weightless)),
        "budgets": replace(market, rules=Broken(rules, assess=spendthrift)),
        "calls": replace(market, calls=Broken(calls, liquidation=elsewhere)),
        "reverts": replace(market, calls=Broken(calls, decode_revert=lambda data: (Reason.UNKNOWN, data.hex()))),
        "logs": replace(market, reader=Broken(reader, named=lambda logs: frozenset(log.topics[1] for log in logs))),
        "parts": replace(market, calls=SimpleNamespace(liquidation=calls.liquidation)),
    }


async def test_each_broken_promise_is_noticed_by_the_check_that_is_for_it(devnet: Devnet, tmp_path: Path) -> None:
    markets = await bound(devnet, tmp_path)
    market, ids = next((each, ids) for each, ids in markets.items() if each.protocol == "aave_v3")
    for check, broken in wrong(market).items():
        checks = await examined(devnet, broken, ids)
        assert checks[check].status is Status.FAIL, check
