"""Can the shipped chain files be trusted? An address is money."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import is_checksum_address

from keeper.chainfile import ChainFile

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.toml"))
LIVE = [path for path in FILES if path.stem != "local"]

CHAIN_KEYS = {"chain_id", "name", "native_symbol", "wrapped_native", "block_time_ms", "markets"}
OPTIONAL_KEYS = {"multicall", "explorer"}
MARKET_KEYS = {"name", "protocol", "root", "from_block"}
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
    assert all(market.keys() == MARKET_KEYS for market in chain["markets"])


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


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_every_market_says_where_its_numbers_are_from(path: Path):
    text = path.read_text(encoding="utf-8")
    head, *tables = text.split("[[markets]]")
    assert SOURCE.search(head)
    assert tables
    assert all(SOURCE.search(table) for table in tables)


def test_chain_ids_and_names_are_unique():
    chains = [parsed(path) for path in FILES]
    assert len({chain["chain_id"] for chain in chains}) == len(chains)
    assert len({chain["name"] for chain in chains}) == len(chains)
