"""What an operator may set, and what is said when it is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keeper.domain.mode import Mode
from keeper.errors import ConfigurationError
from keeper.settings import Settings, http_address, load_configuration, settings_table

KEY = "0x" + "4c" * 32
ENOUGH = {"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS": "https://node.example/"}


def problems(**env: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(env)
    return caught.value.problems


def complaint(name: str, value: str) -> str:
    found = problems(**{**ENOUGH, name: value})
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")
    assert value not in found[0]
    return found[0]


def test_the_chain_and_a_node_are_enough() -> None:
    settings = Settings.load(ENOUGH)
    assert settings.mode is Mode.OBSERVE
    assert [url.reveal() for url in settings.rpc_urls] == ["https://node.example/"]
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 9464)
    assert settings.min_profit_base == 5 * 10**8
    assert settings.max_fee_wei == 200 * 10**9
    assert settings.database_url.reveal() == f"sqlite:///{settings.state_dir}/ethereum.sqlite3"
    assert settings.warnings == ()


def test_every_problem_is_reported_at_once() -> None:
    found = problems(
        KEEPER_RPC_URLS="ftp://node.example",
        KEEPER_MODE="live",
        KEEPER_MAX_FEE_GWEI="10",
        KEEPER_MAX_PRIORITY_FEE_GWEI="11",
        KEEPER_BUMP_BPS="999",
        KEEPER_HTTP_PORT="70000",
        KEEPER_LOG_LEVELL="info",
        KEEPER_KEYSTORE_PASSWORD="hunter22",
    )
    assert sorted(line.split(":")[0].split(" ")[0] for line in found) == [
        "KEEPER_BUMP_BPS",
        "KEEPER_CHAIN",
        "KEEPER_HTTP_PORT",
        "KEEPER_KEYSTORE_PASSWORD",
        "KEEPER_LOG_LEVELL",
        "KEEPER_MAX_PRIORITY_FEE_GWEI",
        "KEEPER_MODE",
        "KEEPER_RPC_URLS",
    ]
    assert all("\n" not in line for line in found)


def test_nothing_is_read_from_the_process_when_an_environment_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPER_MODE", "live")
    monkeypatch.setenv("KEEPER_HTTP_PORT", "1234")
    assert Settings.load(ENOUGH).http_port == 9464
    assert Settings(chain="x", rpc_urls="http://n").mode is Mode.OBSERVE  # type: ignore[arg-type]


def test_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("KEEPER_")]:
        monkeypatch.delenv(name)
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)
    assert Settings.load().chain == "ethereum"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("KEEPER_MAX_FEE", "KEEPER_MAX_FEE_GWEI"),
        ("KEEPER_HTTP__PORT", "KEEPER_HTTP_PORT"),
        ("KEEPER_PRIVATE_KEY_FIEL", "KEEPER_PRIVATE_KEY_FILE"),
        ("keeper_mode", "KEEPER_MODE"),
        ("KEEPER_CHAIN_FILE", "KEEPER_CHAIN"),
    ],
)
def test_an_unknown_name_is_refused_with_the_likeliest_one(name: str, suggestion: str) -> None:
    assert problems(**ENOUGH, **{name: "1"}) == (f"{name}: is not a setting; did you mean {suggestion}?",)


def test_an_unknown_name_that_resembles_nothing_gets_no_suggestion_and_no_escape_codes() -> None:
    assert problems(**ENOUGH, **{"KEEPER_\x1b[31m": "1"})[0].startswith("KEEPER_…: is not a setting")
    assert problems(**ENOUGH, KEEPER_QQQQQQ="1") == ("KEEPER_QQQQQQ: is not a setting",)


def test_what_kubernetes_adds_for_a_service_called_keeper_is_ignored() -> None:
    Settings.load(
        ENOUGH
        | {
            "KEEPER_SERVICE_HOST": "10.0.0.1",
            "KEEPER_SERVICE_PORT_METRICS": "9464",
            "KEEPER_PORT": "tcp://10.0.0.1:9464",
            "KEEPER_PORT_9464_TCP_ADDR": "10.0.0.1",
        }
    )
    assert "did you mean" in problems(**ENOUGH, KEEPER_PORT="9464")[0]


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert Settings.load(ENOUGH | {"KEEPER_MODE": "", "KEEPER_PRIVATE_KEY": " "}).mode is Mode.OBSERVE


@pytest.mark.parametrize(
    ("value", "base"), [("0", 0), ("2.5", 250_000_000), ("0.00000001", 1), ("100.000000000", 100 * 10**8)]
)
def test_a_decimal_text_is_scaled_exactly(value: str, base: int) -> None:
    assert Settings.load(ENOUGH | {"KEEPER_MIN_PROFIT_USD": value}).min_profit_base == base


@pytest.mark.parametrize("value", ["1e18", "-1", "1,5", "5 USD", "0.000000001", "nan", "٣", "1_000", ".75"])
def test_a_number_in_any_other_form_is_refused_without_repeating_it(value: str) -> None:
    complaint("KEEPER_MIN_PROFIT_USD", value)


def test_wei_in_a_gwei_field_is_refused() -> None:
    assert "check the unit" in complaint("KEEPER_MAX_FEE_GWEI", "30000000000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEPER_MODE", "yolo"),
        ("KEEPER_BUMP_BPS", "10.5"),
        ("KEEPER_CONFIRMATIONS", "-7"),
        ("KEEPER_LOG_LEVEL", "loud"),
        ("KEEPER_LOG_FORMAT", "xml"),
        ("KEEPER_HTTP_HOST", "a b"),
        ("KEEPER_DRAIN_TIMEOUT_S", "forever"),
        ("KEEPER_STATE_DIR", "a\x07b"),
        ("KEEPER_CHAIN", "x" * 2000),
        ("KEEPER_DATABASE_URL", "postgresql://user:password@host"),
        ("KEEPER_DATABASE_URL", "sqlite:///:memory:"),
    ],
)
def test_a_value_out_of_bounds_is_named_and_not_repeated(name: str, value: str) -> None:
    complaint(name, value)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("https://a.example,ws://", "entry 2"),
        ("https://[::1", "entry 1"),
        ("https://a.example:99999", "entry 1"),
        ("https://a.example, https://a.example", "entry 2"),
        ("not a url", "entry 1"),
        (" , ", "at least one"),
    ],
)
def test_a_bad_endpoint_is_named_by_its_place(value: str, place: str) -> None:
    assert place in complaint("KEEPER_RPC_URLS", value)


def test_endpoints_may_be_separated_by_commas_and_lines(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    file.write_text("https://a.example/\nwss://b.example/,http://[::1]:8545\n")
    file.chmod(0o600)
    settings = Settings.load({"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS_FILE": str(file)})
    assert [url.reveal() for url in settings.rpc_urls] == [
        "https://a.example/",
        "wss://b.example/",
        "http://[::1]:8545",
    ]


def test_live_needs_a_key() -> None:
    (line,) = problems(**ENOUGH, KEEPER_MODE="LIVE")
    assert "KEEPER_PRIVATE_KEY" in line
    assert "KEEPER_KEYSTORE_FILE" in line
    assert Settings.load(ENOUGH | {"KEEPER_MODE": "live", "KEEPER_PRIVATE_KEY": KEY}).mode is Mode.LIVE


def test_shadow_needs_an_address_or_a_key_and_no_more() -> None:
    address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
    (problem,) = problems(**ENOUGH, KEEPER_MODE="shadow")
    assert problem.startswith("KEEPER_MODE is shadow without KEEPER_ADDRESS or a key")
    for enough in ({"KEEPER_ADDRESS": address}, {"KEEPER_PRIVATE_KEY": KEY}):
        assert Settings.load({**ENOUGH, "KEEPER_MODE": "shadow", **enough}).mode is Mode.SHADOW


def test_a_key_and_a_keystore_exclude_each_other_and_a_keystore_needs_its_password(tmp_path: Path) -> None:
    keystore = tmp_path / "keystore.json"
    keystore.write_text("{}")
    keystore.chmod(0o600)
    found = problems(**ENOUGH, KEEPER_PRIVATE_KEY=KEY, KEEPER_KEYSTORE_FILE=str(keystore))
    assert len(found) == 2
    given = {"KEEPER_MODE": "live", "KEEPER_KEYSTORE_FILE": str(keystore), "KEEPER_KEYSTORE_PASSWORD": " p "}
    settings = Settings.load(ENOUGH | given)
    assert settings.keystore_file == keystore
    assert settings.keystore_password is not None
    assert settings.keystore_password.reveal() == " p "


def test_the_same_contradictions_are_refused_in_keywords() -> None:
    with pytest.raises(ValueError, match="live without"):
        Settings(chain="x", rpc_urls="http://n", mode="live")  # type: ignore[arg-type]


def test_a_broken_key_is_not_also_reported_as_a_missing_one() -> None:
    found = problems(**ENOUGH, KEEPER_MODE="live", KEEPER_PRIVATE_KEY=KEY, KEEPER_PRIVATE_KEY_FILE="/nowhere")
    assert len(found) == 1
    assert len(problems(**ENOUGH, KEEPER_MODE="live", KEEPER_PRIVATE_KEY="0x12")) == 1
    assert len(problems(KEEPER_CHAIN="x", KEEPER_RPC_URLS_FILE="/nowhere")) == 1


def test_a_priority_fee_above_the_fee_is_refused_and_its_default_follows_a_small_fee() -> None:
    (line,) = problems(**ENOUGH, KEEPER_MAX_FEE_GWEI="1", KEEPER_MAX_PRIORITY_FEE_GWEI="2")
    assert "KEEPER_MAX_FEE_GWEI" in line
    assert "KEEPER_MAX_PRIORITY_FEE_GWEI" in line
    assert Settings.load(ENOUGH | {"KEEPER_MAX_FEE_GWEI": "0.01"}).max_priority_fee_wei == 10**7


def test_doubts_are_told_and_stop_nothing() -> None:
    settings = Settings.load(
        ENOUGH
        | {
            "KEEPER_HTTP_HOST": "0.0.0.0",
            "KEEPER_RPC_URLS": "https://a.node.example/1,https://b.node.example/2,http://127.0.0.1:1,http://127.0.0.1:2",
        }
    )
    assert [warning.split(":")[0] for warning in settings.warnings] == ["KEEPER_HTTP_HOST", "KEEPER_RPC_URLS"]
    assert "1 and 2" in settings.warnings[1]
    assert "example" not in settings.warnings[1]


def test_the_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load(ENOUGH).mode = Mode.LIVE


def test_paths_may_begin_at_home() -> None:
    assert Settings.load(ENOUGH | {"KEEPER_STATE_DIR": "~/here"}).state_dir == Path.home() / "here"


def test_colour_is_refused_the_usual_way() -> None:
    assert Settings.load(ENOUGH | {"NO_COLOR": "1"}).no_color
    assert not Settings.load(ENOUGH | {"NO_COLOR": ""}).no_color


def test_the_problems_of_the_chain_file_come_with_the_others() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration({"KEEPER_CHAIN": "etherium", "KEEPER_BUMP_BPS": "1"})
    assert [line.split(":")[0] for line in caught.value.problems] == [
        "KEEPER_RPC_URLS",
        "KEEPER_BUMP_BPS",
        "KEEPER_CHAIN",
    ]
    settings, chain = load_configuration(ENOUGH)
    assert (settings.chain, chain.chain_id) == ("ethereum", 1)


def test_the_health_address_needs_no_other_setting() -> None:
    assert http_address({}) == ("127.0.0.1", 9464)
    assert http_address({"KEEPER_HTTP_HOST": "::", "KEEPER_HTTP_PORT": "80"}) == ("::", 80)
    for port in ("0", "65536", "http", "9" * 99):
        with pytest.raises(ConfigurationError):
            http_address({"KEEPER_HTTP_PORT": port})


def test_the_table_names_every_setting_with_its_default_and_meaning() -> None:
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(Settings.model_fields)
    assert all(row.count("|") == 4 for row in rows)
    assert "| `KEEPER_CHAIN` | required |" in rows[0]
    assert any(row.startswith("| `KEEPER_MAX_FEE_GWEI` | `200` |") for row in rows)
    assert any("`KEEPER_PRIVATE_KEY_FILE`" in row for row in rows)


def test_the_table_is_printed_by_the_module() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "keeper.settings"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert printed == settings_table() + "\n"
