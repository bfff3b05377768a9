"""No secret leaves the process, whatever goes wrong: canaries through every output there is."""

import asyncio
import base64
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper import preflight
from keeper.chain.mask import Mask
from keeper.chainfile import ChainFile
from keeper.devnet.devnet import Devnet
from keeper.domain.units import Wei
from keeper.execution.signer import Signer, SigningPolicy
from keeper.observe.redaction import Redactor
from keeper.settings import Settings
from keeper.text import address_text
from tests.faults.canary import (
    KEY,
    PASSWORD,
    PATH_TOKEN,
    USER,
    USER_PASSWORD,
    assert_no_canary,
    canary_hits,
    canary_urls,
)
from tests.faults.program import Program, finished
from tests.faults.servers import Answer, Asked, as_json, each, serving
from tests.operator import Operator
from tests.proxy import proxied

PAGES = ("/metrics", "/readyz", "/livez", "/config", "/debug", "/openapi.json", "/")


def echo(asked: Asked) -> bytes:
    return f"<html><body>upstream failed: http://127.0.0.1{asked.path} {asked.headers}</body></html>".encode()


def refused_by_rpc(asked: Asked) -> Answer:
    return each(asked, lambda _call: {"error": {"code": -32000, "message": f"no such key: {asked.echo}"}})


FAULTS: dict[str, Callable[[Asked], Answer | None]] = {
    "hangs up": lambda _asked: None,
    "401": lambda asked: Answer(401, echo(asked)),
    "403": lambda asked: Answer(403, echo(asked)),
    "429": lambda asked: Answer(429, echo(asked), (("Retry-After", "1"),)),
    "500": lambda asked: Answer(500, echo(asked)),
    "200 with a page": lambda asked: Answer(200, echo(asked)),
    "garbage": lambda asked: Answer(200, asked.path.encode() + b"\xff\xfe{]"),
    "empty": lambda _asked: Answer(200, b""),
    "an error of JSON-RPC": refused_by_rpc,
    "an error for the whole batch": lambda asked: as_json({"id": None, "error": {"code": -1, "message": asked.echo}}),
    "a result that is no hexadecimal": lambda asked: each(asked, lambda _call: {"result": asked.echo}),
    "a redirect": lambda asked: Answer(307, echo(asked), (("Location", f"http://127.0.0.1:9{asked.path}"),)),
}


async def shot(program: Program) -> dict[str, bytes]:
    """Return every page of a running keeper."""
    pages = {}
    for path in PAGES:
        status, headers, body = await asyncio.to_thread(program.page, path)
        pages[f"{path} {status}"] = headers + body
    return pages


async def test_sec_01_no_canary_is_seen_of_a_live_keeper_between_faulty_endpoints(
    devnet: Devnet, operator: Operator, tmp_path: Path
) -> None:
    await devnet.chain.set_balance(address := address_of(KEY), 10**20)
    await fund(devnet, address)
    operator.key_file.write_text(KEY)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(fault)) for fault in FAULTS.values()]
        places = [list(canary_urls(server.port).items()) for server in servers]
        bad = [urls[number % len(urls)] for number, urls in enumerate(places)]
        async with proxied(devnet.node.http_url, path=f"/v3/{PATH_TOKEN}") as good:
            urls = ",".join([good.url, *(url for _, url in bad)])
            environment = operator.environment(RPC_URLS=urls, LOG_LEVEL="debug", DRAIN_TIMEOUT_S="5")
            with Program(tmp_path / "run", environment, "run") as program:
                await program.seen("chain.head", 2)
                await drop(devnet, 70)
                await program.seen("liquidation.won")
                pages = await shot(program)
                assert await program.stop() == 0, program.text()[-2000:]
            sinks = {**program.output(), **pages}
            for command in ("check", "positions"):
                _, done = await asyncio.to_thread(finished, tmp_path / command, environment, command)
                sinks |= {f"{command} {name}": content for name, content in done.output().items()}
        unasked = {place for (place, _), server in zip(bad, servers, strict=True) if not server.asked}
    assert unasked <= {"label"}, "an endpoint was never asked, so it proved nothing"  # not every system resolves that
    assert b"endpoint rpc-13" in sinks["check stdout"]
    assert_no_canary(sinks, operator.folder / "state", least=8)


@pytest.mark.parametrize(
    ("command", "place"), [("run", "path"), ("once", "credentials"), ("check", "encoded"), ("positions", "label")]
)
async def test_sec_01_a_dead_node_is_told_by_its_number(
    command: str, place: str, operator: Operator, tmp_path: Path
) -> None:
    environment = operator.environment(is_live=False, RPC_URLS=canary_urls(9)[place], LOG_LEVEL="debug")
    code, done = await asyncio.to_thread(finished, tmp_path, environment, command)
    assert code == 4
    assert "rpc-1" in done.text()
    assert_no_canary(done.output())


def test_sec_01_problems_of_the_configuration_show_no_value(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "KEEPER_CHAIN": PATH_TOKEN,
        "KEEPER_RPC_URLS": f"ftp://{USER}@{PATH_TOKEN}.example/",
        "KEEPER_MODE": PATH_TOKEN,
        "KEEPER_PRIVATE_KEY": f"{KEY}00",
        "KEEPER_KEYSTORE_PASSWORD": PASSWORD,
        "KEEPER_DATABASE_URL": f"mysql://{USER}:{PATH_TOKEN}@host/db",
        "KEEPER_HTTP_HOST": f"{PATH_TOKEN} ",
        "KEEPER_MAX_FEE_GWEI": KEY,
        "KEEPER_PRIVAT_KEY": KEY,
    }
    for command in ("run", "check", "positions"):
        code, done = finished(tmp_path / command, environment, command)
        assert code == 3
        assert "KEEPER_PRIVATE_KEY" in done.text()
        assert_no_canary(done.output())


CRASH = """
import asyncio
import keeper.app
from keeper import cli
from keeper.settings import Settings

async def fail(*args):
    url, key = Settings.load().rpc_urls[0].reveal(), Settings.load().private_key.reveal()
    raise RuntimeError(f"nobody foresaw {url} and {key}") from KeyError(key, {"url": url})

keeper.app.fill_books = fail
cli.main()
"""


async def test_sec_01_an_error_that_nobody_foresaw_shows_no_secret(operator: Operator, tmp_path: Path) -> None:
    async with proxied(operator.devnet.node.http_url, path=f"/v3/{PATH_TOKEN}") as good:
        operator.key_file.write_text(KEY)
        for form in ("json", "console"):
            environment = operator.environment(RPC_URLS=good.url, LOG_LEVEL="debug", LOG_FORMAT=form)
            work = asyncio.to_thread(finished, tmp_path / form, environment, "run", python=("-c", CRASH))
            code, done = await work
            assert code == 1
            assert "nobody foresaw" in done.text()
            assert "RuntimeError" in done.text()
            assert_no_canary(done.output(), operator.folder / "state")


def test_sec_01_the_search_itself_finds_every_spelling(tmp_path: Path) -> None:
    raw = bytes.fromhex(KEY)
    planted: dict[str, bytes | str] = {
        "key": f"0x{KEY.upper()}",
        "number": str(int(KEY, 16)),
        "bytes": b"\0\1" + raw,
        "path": f'{{"url": "http://h/v3/{PATH_TOKEN}"}}',
        "header": f"Authorization: Basic {base64.b64encode(f'{USER}:{USER_PASSWORD}'.encode()).decode()}",
    }
    for name, text in planted.items():
        assert canary_hits({name: text}), name
    (tmp_path / "keeper.sqlite3").write_bytes(b"SQLite" + raw + b"\0")
    with pytest.raises(AssertionError, match=r"keeper\.sqlite3"):
        assert_no_canary({}, tmp_path)
    with pytest.raises(AssertionError, match="nothing to search"):
        assert_no_canary({"stdout": ""})
    assert canary_hits({"nothing": "a line without any"}) == []


IN_PROCESS = [place for place in canary_urls(1) if place != "label"]  # no test asks the system for foreign names


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        (fault, IN_PROCESS[(number + shift) % len(IN_PROCESS)])
        for number, fault in enumerate(FAULTS)
        for shift in ((0, 1, 2, 3, 4) if "JSON" in fault else (0, 2))
    ],
)
async def test_sec_02_every_form_of_an_address_is_hidden_in_what_check_says(
    fault: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(FAULTS[fault]) as server:
        settings = Settings.load(
            {
                "KEEPER_CHAIN": "ethereum",
                "KEEPER_RPC_URLS": canary_urls(server.port)[place],
                "KEEPER_STATE_DIR": str(tmp_path),
                "KEEPER_HTTP_PORT": "0",
            }
        )
        found = await preflight.preflight(settings, ChainFile.load("ethereum"))
    told = json.dumps([[check.name, check.finding, check.fix] for check in found])
    assert "rpc-1" in told
    assert_no_canary({"check": told, **dict(zip(("out", "err"), capsys.readouterr(), strict=True))})


TOKENS = st.text(st.sampled_from("abcXYZ0189-_.~%+="), min_size=12, max_size=40)
PLACES = (
    lambda token: f"https://node.example/v3/{token}",
    lambda token: f"https://node.example/rpc?a=b&key={token}",
    lambda token: f"https://{token}:x@node.example/",
    lambda token: f"https://user:{token}@node.example/rpc",
    lambda token: f"wss://node.example/ws#{token}",
)


@given(token=TOKENS, place=st.sampled_from(PLACES))
def test_sec_02_whatever_the_token_the_log_hides_it(token: str, place: Callable[[str], str]) -> None:
    url = place(token)
    settings = Settings.load({"KEEPER_CHAIN": "ethereum", "KEEPER_RPC_URLS": url})
    redact = Redactor(settings.secrets())
    for told in (url, f"GET {url} failed", f"key {token} refused", json.dumps({"u": url}), repr(url)):
        assert token.casefold() not in redact(told).casefold()


@given(token=TOKENS, place=st.sampled_from(PLACES))
def test_sec_02_whatever_the_token_the_door_to_the_network_hides_it(token: str, place: Callable[[str], str]) -> None:
    url = place(token)
    mask = Mask(url)
    for told in (url, f"GET {url} failed", f"key {token} refused", json.dumps({"u": url})):
        assert token not in mask.clean(told)


def address_of(key: str) -> str:
    return address_text(Signer.from_hex(key, SigningPolicy(31_337, Wei(0), 0)).address)


async def fund(devnet: Devnet, address: str) -> None:
    """Give an account plenty of what borrowers owe."""
    market = devnet.markets["3.0"]
    await devnet.fund_keeper(address, {name: market.spec.reserve(name).amount(10**7) for name in market.reserves})


async def drop(devnet: Devnet, percent: int) -> None:
    """Move the prices of what is volatile."""
    market = devnet.markets["3.0"]
    prices = await market.prices()
    await market.set_prices({each: prices[each] * percent // 100 for each in ("WETH", "wstETH", "WBTC", "LINK")})
