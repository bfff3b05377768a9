"""A wrong configuration is refused before anything else, all of it at once, with the cure and without a value."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.devnet.chain_file import chain_text
from keeper.errors import ConfigurationError
from keeper.settings import Settings, load_configuration
from tests.faults.canary import KEY, assert_no_canary
from tests.faults.program import Program, finished
from tests.operator import Operator
from tests.proxy import Call, proxied

ENOUGH = {"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS": "https://node.example/"}
WORD = "canaryValue5ecret"
OTHER_CHAIN = 1
WORDS = {"live", "shadow"}
"""Values that a message may name: they are the setting's own."""


def problems(**more: str) -> tuple[str, ...]:
    """Return what is wrong with an environment; none of it may show a value."""
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(ENOUGH | more)
    secret = [value for value in more.values() if len(value) > 4 and value not in WORDS]
    assert not [line for line in caught.value.problems for value in secret if value in line]
    return caught.value.problems


def test_cfg_01_all_that_is_missing_is_told_in_one_go(tmp_path: Path) -> None:
    for command in ("run", "check"):
        code, done = finished(tmp_path / command, {"HOME": str(tmp_path), "KEEPER_MODE": "live"}, command)
        assert code == 3
        told = done.text()
        assert all(name in told for name in ("KEEPER_CHAIN", "KEEPER_RPC_URLS", "KEEPER_PRIVATE_KEY"))
        assert re.search(r"\d problems in the configuration", told)


def test_cfg_01_problems_come_as_json_where_json_is_asked_for(tmp_path: Path) -> None:
    code, done = finished(tmp_path, {"HOME": str(tmp_path), "KEEPER_MODE": "live"}, "check", "--json")
    found = json.loads(done.output()["stdout"])
    assert code == 3
    assert found["ok"] is False
    assert len(found["checks"]) >= 3


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("KEEPER_MAX_GASS", "KEEPER_MAX_GAS_SHARE_BPS"),
        ("KEEPER_RPC_URL", "KEEPER_RPC_URLS"),
        ("KEEPER_PRIVATE_KEYFILE", "KEEPER_PRIVATE_KEY_FILE"),
        ("KEEPER_LOGLEVEL", "KEEPER_LOG_LEVEL"),
        ("KEEPER_STATEDIR", "KEEPER_STATE_DIR"),
    ],
)
def test_cfg_02_a_mistyped_name_is_refused_with_what_was_meant(name: str, meant: str) -> None:
    (line,) = problems(**{name: WORD})
    assert line.startswith(f"{name}: is not a setting")
    assert f"did you mean {meant}?" in line


def test_cfg_02_a_mistyped_key_of_a_chain_file_is_refused_with_what_was_meant(operator: Operator) -> None:
    operator.chain_file.write_text(operator.chain_file.read_text().replace("block_time_ms", "blocktime_ms"))
    found = problems(KEEPER_CHAIN=str(operator.chain_file))
    assert any("blocktime_ms: is not a known key; did you mean block_time_ms?" in line for line in found)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEPER_MODE", WORD),
        ("KEEPER_CONFIRMATIONS", "3.5"),
        ("KEEPER_CONFIRMATIONS", "0x10"),
        ("KEEPER_HTTP_PORT", "65536"),
        ("KEEPER_HTTP_PORT", "-1000"),
        ("KEEPER_MIN_PROFIT_USD", "NaN4"),
        ("KEEPER_MIN_PROFIT_USD", "1,000"),
        ("KEEPER_RPC_URLS", '["https://node.example"'),
        ("KEEPER_RPC_URLS", "file:///etc/passwd"),
        ("KEEPER_LOG_LEVEL", WORD),
        ("KEEPER_MAX_FEE_GWEI", "9" * 400),
        ("KEEPER_POLL_INTERVAL_MS", "٣٣٣٣"),
    ],
)
def test_cfg_03_a_value_of_a_wrong_form_is_named_and_not_shown(name: str, value: str) -> None:
    (line,) = problems(**{name: value})
    assert line.startswith(f"{name}: ")


NAMES = sorted(f"KEEPER_{key.upper()}" for key in Settings.model_fields)


@given(name=st.sampled_from(NAMES), value=st.text(st.characters(exclude_characters="\0"), max_size=60))
def test_cfg_03_any_text_in_any_setting_is_taken_or_refused_and_never_shown(name: str, value: str) -> None:
    told = f"{WORD}{value}{WORD}"
    assert not [line for line in refusals(ENOUGH | {name: told}) if WORD in line or "\n" in line]


def refusals(environment: dict[str, str]) -> tuple[str, ...]:
    """Return what is wrong with an environment, if anything is."""
    try:
        Settings.load(environment)
    except ConfigurationError as error:
        return error.problems
    return ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEPER_MAX_FEE_GWEI", "200000000000"),
        ("KEEPER_MAX_FEE_GWEI", "1e18"),
        ("KEEPER_MAX_PRIORITY_FEE_GWEI", "5000000000"),
        ("KEEPER_MIN_PROFIT_USD", "5000000000000000000"),
        ("KEEPER_MAX_GAS_SHARE_BPS", "0.5"),
        ("KEEPER_MAX_GAS_SHARE_BPS", "50%"),
        ("KEEPER_BUMP_BPS", "10"),
        ("KEEPER_BUMP_BPS", "1.125"),
        ("KEEPER_POLL_INTERVAL_MS", "1"),
        ("KEEPER_MAX_HEAD_AGE_S", "60000000"),
        ("KEEPER_LOW_BALANCE_GWEI", "100000000000000000000"),
    ],
)
def test_cfg_04_a_value_in_another_unit_is_refused(name: str, value: str) -> None:
    (line,) = problems(**{name: value})
    assert line.startswith(f"{name}: must ")


def test_cfg_04_every_quantity_says_its_unit_in_its_name() -> None:
    plain = {"CONFIRMATIONS", "MAX_PLANS_PER_HEAD", "PARITY_EVERY_HEADS", "PARITY_SAMPLE"}
    plain |= {"ORACLE_MAX_RISE", "ORACLE_MAX_FALL"}  # times
    units = {"USD", "GWEI", "BPS", "MS", "S", "SECOND", "PORT", "BLOCKS", "MINUTE", "HOUR", "DAY", "LOSSES"}
    for name, field in Settings.model_fields.items():
        if any(type(each).__name__ in {"Whole", "Scaled"} or "Whole" in repr(each) for each in field.metadata):
            told = (field.alias or name).upper()
            assert told in plain or told.rpartition("_")[2] in units, told


@pytest.mark.parametrize(
    ("key", "told"),
    [(KEY[:-1], "63"), (f"{KEY}00", "66"), ("0x" + KEY[:40], "an address"), (KEY[:-1] + "g", "not hexadecimal")],
)
def test_cfg_05_a_malformed_key_is_explained_without_it(key: str, told: str, tmp_path: Path) -> None:
    environment = ENOUGH | {"HOME": str(tmp_path), "KEEPER_MODE": "live", "KEEPER_PRIVATE_KEY": key}
    code, done = finished(tmp_path, environment, "run")
    assert code == 3
    assert told in done.text()
    assert_no_canary(done.output(), secrets=(KEY[:-1], KEY[:40]))


async def test_cfg_05_a_key_of_another_account_than_expected_is_refused(operator: Operator, tmp_path: Path) -> None:
    other = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
    for command, address, expected in (("run", other, 3), ("check", other, 4), ("check", operator.address, 0)):
        environment = operator.environment(ADDRESS=address)
        code, done = await asyncio.to_thread(finished, tmp_path / f"{command}{expected}", environment, command)
        assert code == expected, done.text()
        assert ("KEEPER_ADDRESS: is not the address of the configured key" in done.text()) == bool(expected)


def test_cfg_06_a_secret_given_twice_is_refused_and_an_open_file_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\r\n")
    path.chmod(0o600)
    (line,) = problems(KEEPER_PRIVATE_KEY=KEY, KEEPER_PRIVATE_KEY_FILE=str(path))
    assert "are both set" in line
    settings = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": str(path)})
    assert settings.private_key is not None
    assert settings.private_key.reveal() == f"0x{KEY}"
    assert settings.warnings == ()
    path.chmod(0o644)
    (warning,) = Settings.load(ENOUGH | {"KEEPER_PRIVATE_KEY_FILE": str(path)}).warnings
    assert "chmod it 600" in warning


async def test_cfg_07_an_endpoint_of_another_chain_is_never_used(operator: Operator, tmp_path: Path) -> None:
    def other_chain(call: Call) -> Call | None:
        return {"result": hex(OTHER_CHAIN)} if call["method"] == "eth_chainId" else None

    async with proxied(operator.devnet.node.http_url, other_chain) as wrong:
        urls = f"{wrong.url},{operator.devnet.node.http_url}"
        with Program(tmp_path / "run", operator.environment(RPC_URLS=urls), "run") as program:
            await program.seen("chain.head", 2)
            states = {line["node"]: line["state"] for line in program.events("rpc.node_state")}
            assert await program.stop() == 0
        assert "chain" in states["rpc-1"]
        assert set(wrong.methods()) <= {"eth_chainId", "eth_blockNumber", "web3_clientVersion"}
        environment = operator.environment(RPC_URLS=wrong.url)
        for command in ("run", "check"):
            code, done = await asyncio.to_thread(finished, tmp_path / command, environment, command)
            assert code == 4
            assert f"chain {OTHER_CHAIN}" in done.text()


@pytest.mark.parametrize("key", ["multicall", "wrapped_native", "root"])
async def test_cfg_08_a_contract_without_code_is_named(key: str, operator: Operator, tmp_path: Path) -> None:
    text = operator.chain_file.read_text()
    (address,) = re.findall(rf'^{key} = "(0x\w+)"', text, re.MULTILINE) or (None,)
    if address is None:  # the chain file leaves out what is everywhere at the same address
        address = "0x000000000000000000000000000000000000dEaD"
        operator.chain_file.write_text(f'{key} = "{address}"\n{text}')
    else:
        await operator.devnet.chain.rpc("anvil_setCode", address, "0x")
    code, done = await asyncio.to_thread(finished, tmp_path, operator.environment(is_live=False), "check")
    assert code == 4
    assert re.search(
        rf"fail\s+.*{key.split('_', maxsplit=1)[0] if key != 'root' else 'market'}.*{address} has no code",
        done.text(),
        re.IGNORECASE,
    )


@pytest.mark.parametrize(("body", "command"), [("0x00", "check"), ("0x60006000fd", "run")])
async def test_cfg_08_a_root_of_another_interface_is_named(
    body: str, command: str, operator: Operator, tmp_path: Path
) -> None:
    (root,) = re.findall(r'^root = "(0x\w+)"', operator.chain_file.read_text(), re.MULTILINE)
    await operator.devnet.chain.rpc("anvil_setCode", root, body)
    code, done = await asyncio.to_thread(finished, tmp_path, operator.environment(is_live=False), command)
    assert code == 4, done.text()
    assert "aave-v3.0" in done.text()
    assert "Traceback" not in done.text()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("0x0000000000000000000000000000000000000000", "zero"),
        ("0x2F39d218133AFaB8F2B819B1066c7E434Ad94E9e", "checksum"),
        ("0x2f39", "address"),
        ("vitalik.eth", "address"),
    ],
)
def test_cfg_10_a_wrong_address_is_refused(written: str, told: str, operator: Operator) -> None:
    text = re.sub(r'^root = "0x\w+"', f'root = "{written}"', chain_text(operator.devnet), flags=re.MULTILINE)
    operator.chain_file.write_text(text)
    found = problems(KEEPER_CHAIN=str(operator.chain_file))
    assert any("root" in line and told in line for line in found), found


def test_cfg_10_an_address_given_twice_is_refused(operator: Operator) -> None:
    text = chain_text(operator.devnet)
    market = text[text.index("[[markets]]") :]
    operator.chain_file.write_text(f"{text}\n{market.replace('aave-v3.0', 'again')}")
    found = problems(KEEPER_CHAIN=str(operator.chain_file))
    assert any("is the same address as" in line for line in found)


@pytest.mark.parametrize(
    ("given_", "named"),
    [
        ({"MODE": "live"}, ("KEEPER_MODE", "KEEPER_PRIVATE_KEY")),
        ({"MODE": "shadow"}, ("KEEPER_MODE", "KEEPER_ADDRESS")),
        ({"MAX_FEE_GWEI": "1", "MAX_PRIORITY_FEE_GWEI": "2"}, ("KEEPER_MAX_FEE_GWEI", "KEEPER_MAX_PRIORITY_FEE_GWEI")),
        ({"BUMP_BPS": "999"}, ("KEEPER_BUMP_BPS", "1000")),
        ({"KEYSTORE_PASSWORD": WORD}, ("KEEPER_KEYSTORE_PASSWORD", "KEEPER_KEYSTORE_FILE")),
        ({"RPC_URLS": "https://a.example,https://a.example"}, ("KEEPER_RPC_URLS", "entry 2")),
    ],
)
def test_cfg_11_a_contradiction_names_both_sides(given_: dict[str, str], named: tuple[str, ...]) -> None:
    told = "\n".join(problems(**{f"KEEPER_{name}": value for name, value in given_.items()}))
    assert all(each in told for each in named)


def test_cfg_13_two_endpoints_of_one_operator_are_warned_of(tmp_path: Path) -> None:
    urls = f"https://eth.node.example/{WORD},https://b.node.example/{WORD}x,https://other.example/"
    (warning,) = Settings.load(ENOUGH | {"KEEPER_RPC_URLS": urls}).warnings
    assert "entries 1 and 2 are of one operator" in warning
    assert WORD not in warning
    two = "http://10.0.0.1:1/,http://10.0.0.2:1/"
    assert Settings.load(ENOUGH | {"KEEPER_RPC_URLS": two}).warnings == ()


ODD = {
    "plain": {},
    "far away": {"TZ": "Pacific/Kiritimati", "LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8", "PYTHONUTF8": "0"},
    "bare": {"TZ": "<+0545>-5:45", "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "PYTHONHASHSEED": "7"},
}


async def test_cfg_14_an_odd_machine_decides_the_same(operator: Operator, tmp_path: Path) -> None:
    await operator.devnet.chain.set_interval(0)
    market = operator.devnet.markets["3.0"]
    prices = await market.prices()
    await market.set_prices({name: prices[name] * 70 // 100 for name in ("WETH", "wstETH", "WBTC", "LINK")})

    async def decided(name: str) -> list[dict[str, str]]:
        folder = tmp_path / name
        environment = operator.environment(is_live=False, MIN_PROFIT_USD="2.5") | ODD[name]
        environment["KEEPER_STATE_DIR"] = str(folder / "state")
        code, done = await asyncio.to_thread(finished, folder, environment, "once")
        assert code == 0, done.text()
        lines = [json.loads(line) for line in done.output()["stdout"].splitlines()]
        assert all(line["ts"].endswith("Z") for line in lines)
        kept = {"event", "account", "reason", "health_factor"}
        decisions = [line for line in lines if line["event"].startswith("decision.")]
        return [{key: value for key, value in line.items() if key in kept} for line in decisions]

    plain, *odd = [await decided(name) for name in ODD]
    assert plain
    assert odd == [plain, plain]
