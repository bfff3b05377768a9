"""Which protocols a chain file may name: the keeper's own, and those that installed packages offer."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from keeper import registry
from keeper.chainfile import ChainFile, MarketConfig, Options
from keeper.domain.ports import Market
from keeper.errors import ConfigurationError
from keeper.oracles.prices import Prices
from keeper.registry import BUILT_IN, GROUP, markets_of, prices_of, protocol_names
from tests.toy import ToyReader, toy_market

HERE = "tests.unit.test_registry"
WETH, ROOT = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2", "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
USDC, FEED = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "0x8fFfFfd4AfB6115b954Bd326cbe7B4BA576818f6"
FILE = f"""
chain_id = 1
name = "testing"
wrapped_native = "{WETH}"
block_time_ms = 12000
"""


def chain_file(folder: Path, *markets: str, more: str = "") -> ChainFile:
    """Write a chain file with a market for each protocol; what follows a comma is put into its table."""
    text = FILE if markets else FILE + "markets = []\n"
    for number, market in enumerate(markets):
        protocol, _, options = market.partition(",")
        root = f"0x{number + 1:040x}"
        text += (
            f'[[markets]]\nname = "m{number}"\nprotocol = "{protocol}"\nroot = "{root}"\nfrom_block = 1\n{options}\n'
        )
    path = folder / "testing.toml"
    path.write_text(text + more, encoding="utf-8")
    return ChainFile.load(str(path))


class ToyOptions(Options):
    """What a toy market may say."""

    depth: int = 1


def bind_toy(config: MarketConfig, chain: ChainFile) -> Market:
    """Bind a market to the toy protocol, as another package would."""
    depth = ToyOptions.read(config).depth
    if chain.chain_id == depth:
        raise ConfigurationError("options.depth: is the chain's number", "options.depth: is too deep")
    return replace(toy_market(ToyReader(market=config.name)), from_block=config.from_block)


def install(monkeypatch: pytest.MonkeyPatch, **offered: str) -> None:
    """Pretend that packages are installed which offer protocols under these names."""
    points = [EntryPoint(name, value, GROUP) for name, value in offered.items()]

    def entry_points(**wanted: Any) -> Sequence[EntryPoint]:
        return [each for each in points if wanted == {"group": each.group}]

    monkeypatch.setattr(registry, "entry_points", entry_points)


def problems_of(chain: ChainFile) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        markets_of(chain)
    return caught.value.problems


def test_every_market_of_an_unknown_protocol_is_named_at_once(tmp_path: Path) -> None:
    known = ", ".join(sorted(BUILT_IN))
    assert problems_of(chain_file(tmp_path, "aave_v3", "unheard_of", "nobodys")) == (
        f"testing: market m1: unknown protocol; known are {known}",
        f"testing: market m2: unknown protocol; known are {known}",
    )


def test_a_chain_without_markets_is_refused_with_its_cure(tmp_path: Path) -> None:
    assert problems_of(chain_file(tmp_path)) == ("testing: the chain file lists no market; add a [[markets]] table",)


def test_a_known_protocol_is_bound_to_its_market(tmp_path: Path) -> None:
    (market,) = markets_of(chain_file(tmp_path, "aave_v3"))
    assert (market.name, market.protocol, market.from_block) == ("m0", "aave_v3", 1)
    assert market.root == bytes(19) + b"\x01"


def test_a_protocol_that_takes_no_options_refuses_all_of_them(tmp_path: Path) -> None:
    chain = chain_file(tmp_path, "aave_v3,options = { depth = 1, width = 2 }", "unheard_of")
    assert problems_of(chain) == (
        "testing: market m0: options.depth: is not a known key",
        "testing: market m0: options.width: is not a known key",
        f"testing: market m1: unknown protocol; known are {', '.join(sorted(BUILT_IN))}",
    )


def test_another_package_offers_a_protocol_with_options_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, toy=f"{HERE}:bind_toy")
    chain = chain_file(tmp_path, "aave_v3", "toy,options = { depth = 3 }")
    assert set(protocol_names()) == {*BUILT_IN, "toy"}
    assert [(each.name, each.protocol) for each in markets_of(chain)] == [("m0", "aave_v3"), ("m1", "toy")]


def test_every_wrong_option_is_named_with_its_market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, toy=f"{HERE}:bind_toy")
    chain = chain_file(tmp_path, "toy,options = { depht = 3 }", 'toy,options = { depth = "deep" }', "toy")
    first, second, *third = problems_of(chain)
    assert first == "testing: market m0: options.depht: is not a known key; did you mean depth?"
    assert second.startswith("testing: market m1: options.depth: must be a valid integer")
    assert third == [
        "testing: market m2: options.depth: is the chain's number",
        "testing: market m2: options.depth: is too deep",
    ]


def test_another_package_cannot_take_the_place_of_a_built_in_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, aave_v3=f"{HERE}:bind_toy")
    assert set(protocol_names()) == set(BUILT_IN)
    (market,) = markets_of(chain_file(tmp_path, "aave_v3"))
    assert not isinstance(market.reader, ToyReader)


def test_every_market_whose_package_cannot_be_loaded_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, toy=f"{HERE}:bind_toy", gone="nowhere_at_all:bind", blank=f"{HERE}:no_such_thing")
    first, second = problems_of(chain_file(tmp_path, "aave_v3", "gone", "blank"))
    assert first.startswith("testing: market m1: the package that offers its protocol cannot be loaded: ")
    assert second.startswith("testing: market m2: the package that offers its protocol cannot be loaded: ")


def test_a_package_that_no_market_needs_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, gone="nowhere_at_all:bind")
    assert len(markets_of(chain_file(tmp_path, "aave_v3"))) == 1


def test_a_protocol_that_two_packages_offer_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("toy", f"{HERE}:bind_toy", GROUP), EntryPoint("toy", "another:bind", GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    assert problems_of(chain_file(tmp_path, "toy")) == (
        "testing: market m0: several installed packages offer its protocol; keep one of them",
    )


def test_a_chains_prices_come_from_its_feeds_and_its_oracle(tmp_path: Path) -> None:
    weth, usdc, feed, oracle = (bytes.fromhex(each[2:]) for each in (WETH, USDC, FEED, ROOT))
    more = f'[prices]\noracle = "{ROOT}"\n[[prices.feeds]]\ntoken = "{USDC}"\nfeed = "{FEED}"\n'
    assert prices_of(chain_file(tmp_path, "aave_v3", more=more)) == Prices(weth, oracle, {usdc: feed})  # type: ignore[arg-type,dict-item]
    assert prices_of(chain_file(tmp_path, "aave_v3")) == Prices(weth)  # type: ignore[arg-type]
