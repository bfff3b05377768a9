"""Can the shipped chain files be trusted? An address is money."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from eth_utils.address import is_checksum_address
from eth_utils.crypto import keccak

from keeper.chainfile import ChainFile
from keeper.domain.abi import address_word, number_word
from keeper.domain.units import Address
from keeper.registry import BUILT_IN
from keeper.venues.factories import created
from keeper.venues.uniswap_v2 import INIT_CODE_HASH
from keeper.venues.uniswap_v3_factory import INIT_CODE_HASH as V3_HASH

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(CONFIG.glob("*.toml"))
LIVE = [path for path in FILES if path.stem != "local"]

CHAIN_KEYS = {"chain_id", "name", "native_symbol", "wrapped_native", "block_time_ms", "prices", "markets"}
OPTIONAL_KEYS = {"data_fee_oracle", "data_gas_oracle", "multicall", "explorer", "exchange"}
MARKET_KEYS = {"name", "protocol", "root", "from_block"}
OPTION_KEYS = {
    "aave_v3": set[str](),
    "morpho_blue": {"irm", "pre_liquidation_factories", "min_borrow_usd", "trusted_pairs"},
    "compound_v2": {"kind"},
    "perp_curie": set[str](),
}
PLACE_KEYS = {"name", "kind", "root"}
PLACE_OPTIONS = {"init_code_hash", "deployer", "fee_bps", "holders"}
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


def test_no_executor_is_shipped_because_it_would_be_another_operators():
    assert not [path.stem for path in FILES if "executor" in parsed(path)]


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_every_live_chain_has_somewhere_to_sell_and_to_borrow(path: Path):
    chain = parsed(path)
    exchange = chain["exchange"]
    assert exchange.keys() == {"bases", "venues", "lenders"}
    assert chain["wrapped_native"] in exchange["bases"]
    assert len(exchange["bases"]) >= 3
    for place in (*exchange["venues"], *exchange["lenders"]):
        assert place.keys() - {"options"} == PLACE_KEYS, place
        assert place.get("options", {}).keys() <= PLACE_OPTIONS, place
    assert {"uniswap_v3", "uniswap_v2"} <= {venue["kind"] for venue in exchange["venues"]}
    assert {"aave_v3", "uniswap_v3"} <= {lender["kind"] for lender in exchange["lenders"]}


@pytest.mark.parametrize("path", LIVE, ids=lambda path: path.stem)
def test_what_is_a_market_and_a_lender_at_once_is_one_contract(path: Path):
    chain = parsed(path)
    markets = {market["root"] for market in chain["markets"] if market["protocol"] == "morpho_blue"}
    lenders = {lender["root"] for lender in chain["exchange"]["lenders"] if lender["kind"] == "morpho"}
    assert markets == lenders
    factories = {venue["root"] for venue in chain["exchange"]["venues"] if venue["kind"] == "uniswap_v3"}
    loans = {lender["root"] for lender in chain["exchange"]["lenders"] if lender["kind"] == "uniswap_v3"}
    assert factories == loans


CREATED = {
    ("bnb", "pancakeswap-v2"): (
        ("0xbb4CdB9CBd36B01bD1cBaEBF2De08d9173bc095c", "0xe9e7CEA3DedcA5984780Bafc599bD69ADd087D56"),
        "0x58F876857a02D6762E0101bb5C46A8c1ED44Dc16",
    ),
    ("polygon", "quickswap-v2"): (
        ("0x0d500B1d8E8eF31E21C99d1Db9A6444d3ADf1270", "0x2791Bca1f2de4661ED88A30C99A7a9449Aa84174"),
        "0x6e7a5FAFcec6BB1e78bAE2A1F0B612012BF14827",
    ),
    ("avalanche", "traderjoe-v1"): (
        ("0xB31f66AA3C1e785363F0875A1B74E27b85FD66c7", "0xA7D7079b0FEaD91F3e65f86E8915Cb59c1a4C664"),
        "0xA389f9430876455C36478DeEa9769B7Ca4E3DDB1",
    ),
    ("ethereum", "uniswap-v2"): (
        ("0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2", "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"),
        "0xB4e16d0168e52d35CaCD2c6185b44281Ec28C9Dc",
    ),
}
"""Pairs that everybody knows.

Source: DefiLlama/DefiLlama-Adapters@1eb4e81d grizzlyfi, onx and abracadabra; sky-ecosystem/chainlog-ui@090ef2a3 UNIV2USDCETH.
"""


@pytest.mark.parametrize(("chain", "venue"), CREATED, ids=lambda value: value)
def test_a_forks_factory_and_hash_lead_to_its_best_known_pair(chain: str, venue: str):
    (found,) = (each for each in ChainFile.load(chain, [CONFIG]).exchange.venues if each.name == venue)
    tokens, pair = CREATED[chain, venue]
    init_code_hash = found.options.get("init_code_hash", "0x" + INIT_CODE_HASH.hex())
    salt = keccak(b"".join(sorted(bytes.fromhex(token[2:]) for token in tokens)))
    assert created(found.root, salt, bytes.fromhex(init_code_hash[2:])) == bytes.fromhex(pair[2:])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_address_is_checksummed(path: Path):
    written = re.findall(r"0x(?![0-9a-f]{64})[0-9a-fA-F]+", path.read_text(encoding="utf-8"))
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
def test_every_market_feed_venue_and_lender_says_where_its_numbers_are_from(path: Path):
    text = path.read_text(encoding="utf-8")
    head, *tables = re.split(r"\[\[?(?:markets|prices\.feeds|exchange|exchange\.venues|exchange\.lenders)\]\]?", text)
    assert SOURCE.search(head)
    assert tables
    assert all(SOURCE.search(table) for table in tables)


BEST_POOLS = {
    ("ethereum", "uniswap-v3"): ("USDC", 500, "0x88e6A0c2dDD26FEEb64F039a2c41296FcB3f5640"),
    ("arbitrum", "uniswap-v3"): ("USDC", 500, "0xC6962004f452bE9203591991D15f6b388e09E8D0"),
    ("base", "uniswap-v3"): ("USDC", 500, "0xd0b53D9277642d899DF5C87A3966A349A798F224"),
    ("avalanche", "uniswap-v3"): ("USDC", 500, "0xfAe3f424a0a47706811521E3ee268f00cFb5c45E"),
    ("bnb", "pancakeswap-v3"): ("USDT", 500, "0x36696169C63e42cd08ce11f5deeBbCeBae652050"),
    ("ethereum", "pancakeswap-v3"): ("USDC", 500, "0x1ac1A8FEaAEa1900C4166dEeed0C11cC10669D36"),
}
"""The wrapped native token's best known pools: the other token, the fee, the pool."""


@pytest.mark.parametrize(("chain", "venue"), BEST_POOLS, ids=lambda value: value)
def test_a_factory_or_its_deployer_leads_to_its_best_known_pool(chain: str, venue: str):
    file = ChainFile.load(chain, [CONFIG])
    symbol, fee, pool = BEST_POOLS[chain, venue]
    (other,) = re.findall(rf'"(0x\w+)",? # {symbol}\n', (CONFIG / f"{chain}.toml").read_text(encoding="utf-8"))
    (found,) = (each for each in file.exchange.venues if each.name == venue)
    maker = found.options.get("deployer", "0x" + found.root.hex())
    init_code_hash = found.options.get("init_code_hash", "0x" + V3_HASH.hex())
    tokens = sorted((file.wrapped_native, Address(bytes.fromhex(other[2:]))))
    salt = keccak(b"".join(map(address_word, tokens)) + number_word(fee))
    made = created(Address(bytes.fromhex(maker[2:])), salt, bytes.fromhex(init_code_hash[2:]))
    assert made == bytes.fromhex(pool[2:])


def test_chain_ids_and_names_are_unique():
    chains = [parsed(path) for path in FILES]
    assert len({chain["chain_id"] for chain in chains}) == len(chains)
    assert len({chain["name"] for chain in chains}) == len(chains)
