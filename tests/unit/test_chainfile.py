"""What a chain file holds, and what is said when it is wrong."""

from pathlib import Path

import pytest

from keeper.chainfile import FOLDERS, ChainFile, ExchangeConfig, Options, PricesConfig
from keeper.domain.units import Address
from keeper.errors import ConfigurationError

WETH = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
ROOT = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
HEAD = f"""
chain_id = 1
name = "test"
wrapped_native = "{WETH}"
block_time_ms = 12000
"""
MARKET = f"""
[[markets]]
name = "main"
protocol = "aave_v3"
root = "{ROOT}"
from_block = 7
"""


def write(folder: Path, text: str, name: str = "test.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> tuple[str, ...]:
    path = write(folder, text)
    with pytest.raises(ConfigurationError) as caught:
        ChainFile.load(str(path))
    assert all(line.startswith("test.toml: ") for line in caught.value.problems)
    return tuple(line.removeprefix("test.toml: ") for line in caught.value.problems)


def test_a_chain_file_is_read(tmp_path: Path) -> None:
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET)))
    assert (chain.chain_id, chain.name, chain.native_symbol, chain.block_time_ms) == (1, "test", "ETH", 12000)
    assert chain.wrapped_native == Address(bytes.fromhex(WETH[2:]))
    assert chain.multicall == Address(bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11"))
    assert [(market.name, market.protocol, market.from_block) for market in chain.markets] == [("main", "aave_v3", 7)]
    assert chain.markets[0].root == Address(bytes.fromhex(ROOT[2:]))
    assert chain.warnings == ()


@pytest.mark.parametrize("path", sorted(FOLDERS[0].glob("*.toml")), ids=lambda path: path.stem)
def test_every_chain_file_of_the_repository_is_sound(path: Path) -> None:
    assert ChainFile.load(path.stem) == ChainFile.load(str(path))


def test_every_problem_is_reported_at_once_with_its_key(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
        chain_id = true
        nam = "test"
        wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc3"
        block_time_ms = "12"
        multicall = "0x0000000000000000000000000000000000000000"
        explorer = "javascript:alert(1)"
        [[markets]]
        name = "Main Market"
        protocol = "aave-v3"
        root = "0x12"
        from_blok = 1
        [[markets]]
        name = "two"
        protocol = "aave_v3"
        root = 5
        from_block = -1
        """,
    )
    assert sorted(line.split(": ")[0] for line in found) == [
        "block_time_ms",
        "chain_id",
        "explorer",
        "markets[0].from_block",
        "markets[0].from_blok",
        "markets[0].name",
        "markets[0].protocol",
        "markets[0].root",
        "markets[1].from_block",
        "markets[1].root",
        "multicall",
        "nam",
        "name",
        "wrapped_native",
    ]
    assert "nam: is not a known key; did you mean name?" in found
    assert "markets[0].from_blok: is not a known key; did you mean from_block?" in found
    assert any("checksum" in line for line in found)


def test_an_address_without_checksum_is_taken_with_a_warning(tmp_path: Path) -> None:
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET.replace(ROOT, ROOT.lower()))))
    assert len(chain.warnings) == 1
    assert chain.warnings[0].startswith("test.toml: markets[0].root: ")


@pytest.mark.parametrize(
    "address", [ROOT.upper().replace("0X", "0x"), ROOT.swapcase().replace("0X", "0x"), ROOT[2:], "0x" + "zz" * 20]
)
def test_an_address_with_a_wrong_checksum_is_refused(tmp_path: Path, address: str) -> None:
    assert len(problems(tmp_path, HEAD + MARKET.replace(ROOT, address))) == 1


def test_a_name_or_address_that_appears_twice_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, HEAD + MARKET + MARKET.replace(ROOT, ROOT.lower())) == (
        "markets[1].root: is the same address as markets[0].root; each must be its own",
        "markets[1].name: is the same name as markets[0].name; each must be its own",
    )
    assert problems(tmp_path, HEAD + MARKET.replace(ROOT, WETH)) == (
        "markets[0].root: is the same address as wrapped_native; each must be its own",
    )


USDC, FEED = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "0x8fFfFfd4AfB6115b954Bd326cbe7B4BA576818f6"
MISTYPED = "has a wrong EIP-55 checksum: a digit is mistyped; copy the address again from its source"
ORACLE = "0x54586bE62E3c3580375aE3723C145253060Ca0C2"
PRICES = f"""
[prices]
oracle = "{ORACLE}"
[[prices.feeds]]
token = "{USDC}"
feed = "{FEED}"
"""


def test_sources_of_prices_are_read_and_a_feed_may_price_several_tokens(tmp_path: Path) -> None:
    assert ChainFile.load(str(write(tmp_path, HEAD + MARKET))).prices == PricesConfig()
    another = f'[[prices.feeds]]\ntoken = "{WETH}"\nfeed = "{FEED}"\n'
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET + PRICES + another)))
    usdc, weth, feed, oracle = (Address(bytes.fromhex(each[2:])) for each in (USDC, WETH, FEED, ORACLE))
    assert chain.prices.oracle == oracle
    assert [(each.token, each.feed) for each in chain.prices.feeds] == [(usdc, feed), (weth, feed)]
    assert chain.warnings == ()


def test_every_problem_of_the_prices_is_reported_with_those_of_the_rest(tmp_path: Path) -> None:
    wrong = f"""
    [prices]
    oracel = "{ORACLE}"
    oracle = "0x12"
    [[prices.feeds]]
    token = "{USDC}"
    fed = "{FEED}"
    [[prices.feeds]]
    token = "{USDC.replace("A0b", "A0c")}"
    feed = "{FEED}"
    """
    assert sorted(problems(tmp_path, HEAD.replace("12000", "0") + MARKET + wrong)) == [
        "block_time_ms: must be greater than or equal to 10",
        "prices.feeds[0].fed: is not a known key; did you mean feed?",
        "prices.feeds[0].feed: is missing",
        f"prices.feeds[1].token: {MISTYPED}",
        "prices.oracel: is not a known key; did you mean oracle?",
        "prices.oracle: must be an address: 0x and 40 hexadecimal digits",
    ]


@pytest.mark.parametrize(
    "prices",
    [
        "prices = 1\n",
        "prices = { feeds = 1 }\n",
        "prices = { feeds = [1] }\n",
        "prices = { feeds = [{ token = 1, feed = 2 }] }\n",
        "prices = { oracle = 5 }\n",
    ],
)
def test_prices_of_another_shape_are_refused(tmp_path: Path, prices: str) -> None:
    assert all(line.startswith("prices") for line in problems(tmp_path, prices + HEAD + MARKET))


def test_a_token_that_has_two_feeds_is_refused(tmp_path: Path) -> None:
    again = f'[[prices.feeds]]\ntoken = "{USDC.lower()}"\nfeed = "{ORACLE}"\n'
    assert problems(tmp_path, HEAD + MARKET + PRICES + again) == (
        "prices.feeds[1].token: is the same token as prices.feeds[0].token; each must be its own",
    )


def test_an_address_of_a_price_source_without_checksum_is_warned_of(tmp_path: Path) -> None:
    lowered = PRICES.replace(ORACLE, ORACLE.lower()).replace(FEED, FEED.lower()).replace(USDC, USDC.lower())
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET + lowered)))
    assert [each.split(": ")[1] for each in chain.warnings] == [
        "prices.oracle",
        "prices.feeds[0].token",
        "prices.feeds[0].feed",
    ]


def test_a_markets_options_are_kept_for_its_protocol(tmp_path: Path) -> None:
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET + "[markets.options]\ndepth = 3\nwords = ['a']\n")))
    assert chain.markets[0].options == {"depth": 3, "words": ["a"]}
    with pytest.raises(ConfigurationError) as caught:
        Options.read(chain.markets[0])
    assert caught.value.problems == (
        "options.depth: is not a known key",
        "options.words: is not a known key",
    )
    assert problems(tmp_path, HEAD + MARKET + "options = 3\n") == ("markets[0].options: must be a valid dictionary",)


def test_a_file_without_markets_is_warned_of(tmp_path: Path) -> None:
    chain = ChainFile.load(str(write(tmp_path, HEAD + "markets = []\n")))
    assert "nothing to watch" in chain.warnings[0]
    assert problems(tmp_path, HEAD) == ("markets: is missing",)
    assert len(problems(tmp_path, HEAD + "markets = [1]\n")) == 1
    assert len(problems(tmp_path, HEAD + "markets = 1\n")) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"chain_id = ", "not valid TOML"), (b"\xff\xfe", "not UTF-8"), (b"#" * (1 << 21), "larger")],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "test.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told):
        ChainFile.load(str(path))


def test_a_name_is_looked_up_in_the_folders_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    write(second, HEAD + MARKET)
    assert ChainFile.load("test", (first, second)).name == "test"
    write(first, HEAD.replace('"test"', '"nearer"') + MARKET)
    assert ChainFile.load("test", (first, second)).name == "nearer"


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    write(tmp_path, HEAD, "ethereum.toml")
    write(tmp_path, HEAD, "base.toml")
    with pytest.raises(ConfigurationError) as caught:
        ChainFile.load("etherium", (tmp_path,))
    (line,) = caught.value.problems
    assert "did you mean ethereum?" in line
    assert "base, ethereum" in line
    with pytest.raises(ConfigurationError, match="available: none"):
        ChainFile.load("x", (tmp_path / "nowhere",))


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, HEAD)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigurationError) as caught:
        ChainFile.load(str(path))
    assert caught.value.problems == ("test.toml: cannot be read: Permission denied",)


@pytest.mark.parametrize("name", ["./nowhere.toml", "some/where", "nowhere.toml", "~/nowhere.toml", "x" * 5000])
def test_a_path_that_leads_nowhere_is_refused_without_repeating_it(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ChainFile.load(name)
    assert name not in str(caught.value)


EXECUTOR, COLD = "0x87870Bca3F3fD6335C3F4ce8392D69350B4fA4E2", "0xC13e21B648A5Ee794902342038FF3aDAB66BE987"
FACTORY = "0x1F98431c8aD98523631AE4a59f267346ea31F984"
HASH = "0x" + "ab" * 32
TRADE = f"""
[executor]
address = "{EXECUTOR}"
code_hash = "{HASH}"
owner = "{COLD}"
hold = ["{USDC}"]
[exchange]
bases = ["{WETH}", "{USDC}"]
[[exchange.venues]]
name = "uniswap-v3"
kind = "uniswap_v3"
root = "{FACTORY}"
[exchange.venues.options]
fees = [500, 3000]
[[exchange.lenders]]
name = "uniswap-v3"
kind = "uniswap_v3"
root = "{FACTORY}"
[[exchange.lenders]]
name = "main"
kind = "aave_v3"
root = "{ROOT}"
"""


def test_the_executor_and_the_exchange_are_read_and_a_contract_may_have_several_parts(tmp_path: Path) -> None:
    plain = ChainFile.load(str(write(tmp_path, HEAD + MARKET)))
    assert (plain.executor, plain.exchange) == (None, ExchangeConfig())
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET + TRADE)))
    weth, usdc, executor, cold, factory, root = (
        Address(bytes.fromhex(each[2:])) for each in (WETH, USDC, EXECUTOR, COLD, FACTORY, ROOT)
    )
    assert chain.executor is not None
    assert (chain.executor.address, chain.executor.code_hash) == (executor, b"\xab" * 32)
    assert (chain.executor.owner, chain.executor.hold, chain.executor.from_block) == (cold, (usdc,), None)
    assert chain.exchange.bases == (weth, usdc)
    (venue,) = chain.exchange.venues
    assert (venue.name, venue.kind, venue.root, venue.options) == (
        "uniswap-v3",
        "uniswap_v3",
        factory,
        {"fees": [500, 3000]},
    )
    assert [(each.name, each.root) for each in chain.exchange.lenders] == [("uniswap-v3", factory), ("main", root)]
    assert chain.warnings == ()


def test_every_problem_of_the_executor_and_the_exchange_is_reported_at_once(tmp_path: Path) -> None:
    wrong = f"""
    [executor]
    adress = "{EXECUTOR}"
    code_hash = "0x12"
    owner = "{COLD.replace("C13", "C14")}"
    hold = "{USDC}"
    from_block = -1
    [exchange]
    base = []
    bases = ["0x12", "{USDC}"]
    [[exchange.venues]]
    name = "Uniswap V3"
    kind = "uniswap-v3"
    rot = "{FACTORY}"
    [[exchange.lenders]]
    name = "main"
    root = 5
    """
    assert sorted(problems(tmp_path, HEAD + MARKET + wrong)) == [
        "exchange.base: is not a known key; did you mean bases?",
        "exchange.bases[0]: must be an address: 0x and 40 hexadecimal digits",
        "exchange.lenders[0].kind: is missing",
        "exchange.lenders[0].root: must be an address: 0x and 40 hexadecimal digits",
        "exchange.venues[0].kind: must match pattern '^[a-z][a-z0-9_]{0,39}$'",
        "exchange.venues[0].name: must match pattern '^[a-z0-9][a-z0-9_.-]{0,39}$'",
        "exchange.venues[0].root: is missing",
        "exchange.venues[0].rot: is not a known key; did you mean root?",
        "executor.address: is missing",
        "executor.adress: is not a known key; did you mean address?",
        "executor.code_hash: must be a hash: 0x and 64 hexadecimal digits",
        "executor.from_block: must be greater than or equal to 0",
        "executor.hold: must be a valid tuple",
        f"executor.owner: {MISTYPED}",
    ]


def test_what_appears_twice_in_the_exchange_is_refused(tmp_path: Path) -> None:
    twice = TRADE.replace(f'"{WETH}", "{USDC}"', f'"{USDC}", "{USDC.lower()}"').replace(
        f'hold = ["{USDC}"]', f'hold = ["{USDC}", "{USDC}"]'
    )
    again = f"""
    [[exchange.lenders]]
    name = "main"
    kind = "morpho"
    root = "{ROOT.lower()}"
    """
    assert problems(tmp_path, HEAD + MARKET + twice.replace(EXECUTOR, WETH) + again) == (
        "executor.address: is the same address as wrapped_native; each must be its own",
        "executor.hold[1]: is the same token as executor.hold[0]; each must be its own",
        "exchange.bases[1]: is the same token as exchange.bases[0]; each must be its own",
        "exchange.lenders[2].root: is the same root as exchange.lenders[1].root; each must be its own",
        "exchange.lenders[2].name: is the same name as exchange.lenders[1].name; each must be its own",
    )


def test_addresses_of_the_exchange_without_checksum_are_warned_of(tmp_path: Path) -> None:
    lowered = TRADE
    for each in (EXECUTOR, COLD, USDC, WETH, FACTORY, ROOT):
        lowered = lowered.replace(each, each.lower())
    chain = ChainFile.load(str(write(tmp_path, HEAD + MARKET + lowered)))
    assert [each.split(": ")[1] for each in chain.warnings] == [
        "executor.address",
        "executor.owner",
        "executor.hold[0]",
        "exchange.bases[0]",
        "exchange.bases[1]",
        "exchange.venues[0].root",
        "exchange.lenders[0].root",
        "exchange.lenders[1].root",
    ]


@pytest.mark.parametrize(
    "part", ["executor = 1\n", "exchange = 1\n", "exchange = { venues = 1 }\n", "exchange = { lenders = [1] }\n"]
)
def test_an_exchange_of_another_shape_is_refused(tmp_path: Path, part: str) -> None:
    assert all(line.startswith(("executor", "exchange")) for line in problems(tmp_path, part + HEAD + MARKET))
