"""Can the shipped chain files be trusted? An address is money."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import is_checksum_address

from keeper.chainfile import ChainFile
from keeper.registry import BUILT_IN

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.toml"))
LIVE = [path for path in FILES if path.stem != "local"]

CHAIN_KEYS = {"chain_id", "name", "native_symbol", "wrapped_native", "block_time_ms", "prices", "markets"}
OPTIONAL_KEYS = {"data_fee_oracle", "data_gas_oracle", "multicall", "explorer"}
MARKET_KEYS = {"name", "protocol", "root", "from_block"}
OPTION_KEYS = {
    "aave_v3": set[str](),
    "morpho_blue": {"irm", "pre_liquidation_factories", "min_borrow_usd", "trusted_pairs"},
    "compound_v2": {"kind"},
    "perp_curie": set[str](),
}
KINDS = {"compound-v2": "compound", "moonwell": "moonwell", "venus": "venus"}
SOURCE = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{8}\b")


def parsed(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def test_a_file_is_shipped_for_every_promised_chain():
    expected = {"ethereum", "base", "arbitrum", "optimism", "polygon", "avalanche", "bnb", "local"}
    assert {path.stem for path in FILES} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_chain_file_has_exactly_the_known_keys(path: Path):
    chain = parsed(path)
    assert chain.keys() - OPTIONAL_KEYS == CHAIN_KEYS
    assert all(market.keys() - {"options"} == MARKET_KEYS for market in chain["markets"])
    assert chain["prices"].keys() - {"feeds"} == {"oracle"}
    assert all(feed.keys() == {"token", "feed"} for feed in chain["prices"].get("feeds", ()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_address_is_checksummed(path: Path):
    written = re.findall(r"0x[0-9a-fA-F]+", path.read_text(encoding="utf-8"))
    assert written
    assert [address for address in written if not is_checksum_address(address)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_keeper_loads_the_file_without_a_warning(path: Path):
    chain = ChainFile.load(path.stem, [CONFIG])
    assert chain.name == path.stem
    assert not [warning for warning in chain.warnings if path in LIVE]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_market_is_of_a_built_in_protocol_and_has_its_options(path: Path):
    chain = ChainFile.load(path.stem, [CONFIG])
    assert {market.protocol for market in chain.markets} <= BUILT_IN.keys()
    for market in chain.markets:
        assert market.options.keys() == OPTION_KEYS[market.protocol], market.name
        assert BUILT_IN[market.protocol](market, chain).name == market.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_fork_of_compound_is_named_after_its_kind(path: Path):
    markets = [market for market in parsed(path)["markets"] if market["protocol"] == "compound_v2"]
    assert all(market["options"]["kind"] == KINDS[market["name"]] for market in markets)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_token_has_one_feed_and_a_feed_one_token(path: Path):
    feeds = parsed(path)["prices"].get("feeds", ())
    assert len({feed["token"] for feed in feeds}) == len({feed["feed"] for feed in feeds}) == len(feeds)


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_every_market_and_feed_says_where_its_numbers_are_from(path: Path):
    text = path.read_text(encoding="utf-8")
    head, *tables = re.split(r"\[\[(?:markets|prices\.feeds)\]\]", text)
    assert SOURCE.search(head)
    assert tables
    assert all(SOURCE.search(table) for table in tables)


def test_chain_ids_and_names_are_unique():
    chains = [parsed(path) for path in FILES]
    assert len({chain["chain_id"] for chain in chains}) == len(chains)
    assert len({chain["name"] for chain in chains}) == len(chains)
