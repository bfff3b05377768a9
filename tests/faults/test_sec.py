"""Secrets stay where they belong, and nobody makes the keeper sign, install, log or ask what it should not."""

import asyncio
import copy
import io
import json
import logging
import os
import pickle
import re
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from eth_abi.abi import encode
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from keeper import cli
from keeper.chain.endpoint import nodes_of
from keeper.domain.units import Address, Wei
from keeper.errors import ConfigurationError
from keeper.execution.envelope import Transaction
from keeper.execution.signer import PolicyRefused, Signer, SigningPolicy
from keeper.observe import logs
from keeper.settings import Settings
from tests.faults.canary import KEY, PASSWORD, PATH_TOKEN, assert_no_canary, canary_urls
from tests.faults.program import Program, finished
from tests.faults.servers import Answer, Asked, each, serving
from tests.operator import Operator
from tests.proxy import Call, proxied

ROOT = Path(__file__).parents[2]
POLICY = SigningPolicy(
    chain_id=31_337,
    max_fee_wei=Wei(10**11),
    max_gas_limit=5_000_000,
    max_value_wei=Wei(10**18),
    calls=frozenset({(Address(b"\x11" * 20), b"\x00\xa7\x18\xa9")}),
    payable=frozenset({(Address(b"\x22" * 20), b"\xaa\xbb\xcc\xdd")}),
    approvals=frozenset({(Address(b"\x33" * 20), Address(b"\x11" * 20))}),
)
ALLOWED = Transaction(
    chain_id=31_337,
    nonce=7,
    tip_wei=Wei(10**9),
    max_fee_wei=Wei(10**10),
    gas_limit=500_000,
    to=Address(b"\x11" * 20),
    value_wei=Wei(0),
    data=b"\x00\xa7\x18\xa9" + bytes(160),
)


def canary_settings(**more: str) -> Settings:
    return Settings.load(
        {
            "KEEPER_CHAIN": "ethereum",
            "KEEPER_RPC_URLS": ",".join(canary_urls(9).values()),
            "KEEPER_PRIVATE_KEY": KEY,
            **more,
        }
    )


def test_sec_03_no_rendering_of_what_holds_a_secret_shows_it() -> None:
    settings = canary_settings()
    signer = Signer.from_hex(KEY, POLICY)
    nodes = nodes_of([each.reveal() for each in settings.rpc_urls], calls_per_s=1)
    shown = {}
    for name, thing in {"settings": settings, "signer": signer, "nodes": nodes, "key": settings.private_key}.items():
        shown[f"repr {name}"] = repr(thing)
        shown[f"str {name}"] = str(thing)
        shown[f"vars {name}"] = str(getattr(thing, "__dict__", {}))
        shown[f"format {name}"] = f"{thing:}"
    shown["dump"] = str(settings.model_dump()) + settings.model_dump_json()
    shown["copy"] = repr(copy.deepcopy(settings))
    assert_no_canary(shown, least=10)


def test_sec_03_no_secret_can_be_pickled() -> None:
    for thing in (canary_settings(), Signer.from_hex(KEY, POLICY), canary_settings().private_key):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError):
                pickle.dumps(thing, protocol)


@pytest.mark.parametrize("form", ["json", "console"])
def test_sec_03_the_locals_of_a_traceback_are_not_shown(form: logs.Format, capfd: pytest.CaptureFixture[str]) -> None:
    settings = canary_settings()

    def fail(secret: str, url: str) -> None:
        key = bytes.fromhex(secret)
        raise ValueError(f"{secret} {url} {key!r}", key)

    output = logs.configure(level="debug", format=form, mode="live", chain_id=1, secrets=settings.secrets())
    try:
        try:
            fail(KEY, canary_urls(9)["path"])
        except ValueError as error:
            structlog.get_logger().error("keeper.crashed", error=error, exc_info=error)
            logging.getLogger("some.library").exception("it failed with %s", KEY)
    finally:
        output.close()
    told = capfd.readouterr()
    assert "ValueError" in told.out
    assert_no_canary({"out": told.out, "err": told.err})


async def test_sec_03_a_crash_of_the_process_leaves_no_core_file(operator: Operator, tmp_path: Path) -> None:
    with Program(tmp_path / "run", operator.environment(), "run") as program:
        await program.seen("chain.head")
        limits = program.proc("limits").decode()
        soft, hard = re.findall(r"Max core file size\s+(\S+)\s+(\S+)", limits)[0]
        assert {soft, hard} <= {"0", "1"}
        os.kill(program.pid, signal.SIGSEGV)
        _, status = await asyncio.to_thread(os.waitpid, program.pid, 0)
        program.process.returncode = -signal.SIGSEGV
        assert os.WIFSIGNALED(status)
        assert not os.WCOREDUMP(status)


async def test_sec_04_no_page_shows_a_secret_and_there_are_three_pages(operator: Operator, tmp_path: Path) -> None:
    operator.key_file.write_text(KEY)
    async with proxied(operator.devnet.node.http_url, path=f"/v3/{PATH_TOKEN}") as good:
        bad = canary_urls(9)
        environment = operator.environment(RPC_URLS=",".join([good.url, bad["query"], bad["credentials"]]))
        with Program(tmp_path / "run", environment, "run") as program:
            await program.seen("chain.head")
            pages = {}
            for path in ("/metrics", "/readyz", "/livez", "/", "/config", "/debug", "/debug/vars", "/api/v1", "/env"):
                status, headers, body = await asyncio.to_thread(program.page, path)
                pages[path] = headers + body
                assert (status in {200, 503}) == (path in {"/metrics", "/readyz", "/livez"}), path
            assert await program.stop() == 0
    assert b'node="rpc-1"' in pages["/metrics"]
    assert_no_canary(pages, least=9)


async def test_sec_05_a_secret_given_as_a_file_is_in_no_command_line_and_no_environment(
    operator: Operator, tmp_path: Path
) -> None:
    operator.key_file.write_text(KEY)
    async with proxied(operator.devnet.node.http_url, path=f"/v3/{PATH_TOKEN}") as good:
        urls = tmp_path / "urls"
        urls.touch(mode=0o600)
        urls.write_text(good.url)
        environment = operator.environment()
        del environment["KEEPER_RPC_URLS"]
        with Program(tmp_path / "run", environment | {"KEEPER_RPC_URLS_FILE": str(urls)}, "run") as program:
            await program.seen("chain.head")
            seen = {name: program.proc(name) for name in ("cmdline", "environ")}
            assert await program.stop() == 0
    assert str(urls).encode() in seen["environ"]
    assert_no_canary(seen | program.output())


def test_sec_05_no_command_takes_a_secret_as_an_argument() -> None:
    commands = [get_command(cli.app)]
    types: dict[str, object] = {}
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        options = cast("list[Any]", command.params)  # typer's own, with what it knows of each
        types |= {str(each.name): each.type_descriptor.annotation for each in options}
    assert {"below", "as_json", "limit"} <= types.keys()
    suspects = {name for name in types if re.search("key|password|secret|url|token", name)}
    assert {name for name in suspects if types[name] is not Path} == {"token"}  # an ERC-20's address


def keystore(folder: Path, **changes: object) -> Path:
    """Write a keystore of the canary key, quick to open, with some of its words changed."""
    document = Account.encrypt(bytes.fromhex(KEY), PASSWORD, kdf="pbkdf2", iterations=1_000)
    document["crypto"].update(changes)
    path = folder / "keystore.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": "00" * 32},
        {"ciphertext": "11" * 32},
        {"ciphertext": ""},
        {"kdf": "canaryPath5ecretT0ken"},
        {"kdfparams": {}},
        {"kdfparams": {"dklen": 32, "c": 1, "prf": "hmac-sha256", "salt": "zz"}},
        {"cipherparams": {"iv": PATH_TOKEN}},
    ],
)
def test_sec_06_a_tampered_keystore_is_one_constant_message(changes: dict[str, object], tmp_path: Path) -> None:
    document = keystore(tmp_path, **changes).read_text()
    with pytest.raises(ConfigurationError) as caught:
        Signer.from_keystore(document, PASSWORD, POLICY)
    told = "".join(traceback.format_exception(caught.value))
    assert caught.value.problems == ("the keystore cannot be opened: the password is wrong or the file is damaged",)
    assert_no_canary({"traceback": told})


@pytest.mark.parametrize("document", ["", "null", "[]", "{", '{"version": 3}', '{"crypto": 1}', "\ud800", "1" * 5_000])
def test_sec_06_what_is_no_keystore_at_all_is_the_same_message(document: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        Signer.from_keystore(document, PASSWORD, POLICY)


def test_sec_06_a_wrong_password_is_told_by_the_command_without_it(operator: Operator, tmp_path: Path) -> None:
    path = keystore(tmp_path)
    environment = operator.environment(is_live=False, MODE="live", KEYSTORE_FILE=str(path))
    for password, code in ((PASSWORD, 0), (f"{PASSWORD}x", 4)):
        word = tmp_path / "password"
        word.touch(mode=0o600)
        word.write_text(f"{password}\n")
        given = environment | {"KEEPER_KEYSTORE_PASSWORD_FILE": str(word)}
        ended, done = finished(tmp_path / str(code), given, "check")
        assert ended == code, done.text()
        assert ("the keystore cannot be opened" in done.text()) == (code == 4)
        assert_no_canary(done.output())
    ended, done = finished(tmp_path / "run", given, "run")
    assert ended == 3
    assert "the keystore cannot be opened" in done.text()
    assert_no_canary(done.output())


ANYTHING = st.builds(
    Transaction,
    chain_id=st.sampled_from([31_337, 1, 0, -1]),
    nonce=st.integers(0, 2**64 - 1),
    tip_wei=st.sampled_from([0, 10**9, 2 * 10**11, -1]).map(Wei),
    max_fee_wei=st.sampled_from([0, 10**10, 10**11, 10**11 + 1]).map(Wei),
    gas_limit=st.sampled_from([21_000, 5_000_000, 5_000_001]),
    to=st.sampled_from([b"\x11" * 20, b"\x22" * 20, b"\x33" * 20, b"\x44" * 20, bytes(20)]).map(Address),
    value_wei=st.sampled_from([0, 1, 10**18, 10**18 + 1, -1]).map(Wei),
    data=st.one_of(
        st.sampled_from(
            [
                b"",
                b"\x00\xa7\x18\xa9",
                b"\xaa\xbb\xcc\xdd" + bytes(32),
                bytes.fromhex("095ea7b3") + bytes(12) + b"\x11" * 20 + b"\xff" * 32,
                bytes.fromhex("095ea7b3") + bytes(12) + b"\x44" * 20 + b"\xff" * 32,
                bytes.fromhex("095ea7b3") + b"\x01" * 12 + b"\x11" * 20 + b"\xff" * 32,
                bytes.fromhex("a9059cbb") + bytes(64),
            ]
        ),
        st.binary(max_size=100),
    ),
)


def is_within(transaction: Transaction) -> bool:
    """Say in the plainest words what the operator allows."""
    place = (transaction.to, transaction.data[:4])
    if place in POLICY.payable:
        is_call = 0 <= transaction.value_wei <= POLICY.max_value_wei and place in POLICY.calls
    elif transaction.data[:4] == bytes.fromhex("095ea7b3"):
        is_call = transaction.value_wei == 0 and (
            (transaction.to, transaction.data[4:36]) == (b"\x33" * 20, bytes(12) + b"\x11" * 20)
            and len(transaction.data) == 68
        )
    else:
        is_call = transaction.value_wei == 0 and place in POLICY.calls
    return (
        is_call
        and transaction.chain_id == 31_337
        and 0 <= transaction.tip_wei <= transaction.max_fee_wei <= POLICY.max_fee_wei
        and transaction.gas_limit <= POLICY.max_gas_limit
    )


SIGNER = Signer.from_hex(KEY, POLICY)


@given(transaction=ANYTHING)
def test_sec_08_nothing_outside_the_policy_is_ever_signed(transaction: Transaction) -> None:
    assert is_signed(transaction) == is_within(transaction)


def is_signed(transaction: Transaction) -> bool:
    """Ask for a signature; say whether one was given."""
    try:
        return bool(SIGNER.sign(transaction).raw)
    except PolicyRefused:
        return False


@pytest.mark.parametrize(
    "change",
    [
        {"to": Address(b"\x44" * 20)},
        {"data": b"\xde\xad\xbe\xef"},
        {"data": b""},
        {"value_wei": Wei(1)},
        {"chain_id": 0},
        {"chain_id": 1},
        {"max_fee_wei": Wei(10**11 + 1)},
        {"tip_wei": Wei(10**10 + 1)},
        {"gas_limit": 5_000_001},
    ],
)
def test_sec_08_each_way_out_of_the_policy_is_refused_by_itself(change: dict[str, object]) -> None:
    assert is_signed(ALLOWED)
    assert not is_signed(replace(ALLOWED, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_sec_09_every_package_is_pinned_by_version_and_hash(name: str) -> None:
    entries = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
    assert len(entries) > 20
    for entry in entries:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==\S+( ;[^;]*?)?( +--hash=sha256:[0-9a-f]{64})+ *", entry), entry


def test_sec_09_whatever_installs_asks_for_the_hashes() -> None:
    for name in ("Makefile", "Dockerfile"):
        text = (ROOT / name).read_text()
        installs = [line for line in text.splitlines() if re.search(r"\binstall\b.*-r\b", line)]
        assert installs
        assert all("--require-hashes" in line for line in installs), installs
    images = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if "requirements" in line and "RUN" in line
    ]
    assert images
    assert all("--only-binary=:all:" in line for line in images)


def test_sec_09_no_installed_package_runs_code_at_the_start_of_python() -> None:
    """A `.pth` line that begins with `import` is run by every Python that starts: only the editable install has a path."""
    found = {}
    for folder in {Path(entry) for entry in sys.path if entry.endswith("site-packages")}:
        for path in folder.glob("*.pth"):
            lines = [line for line in path.read_text().splitlines() if re.match(r"import[ \t]", line)]
            if lines:
                found[path.name] = lines
    known = {"distutils-precedence.pth", "a1_coverage.pth"}
    assert found.keys() - known == set()


TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from('\n\r\x1b[31m\u2028\u2029\u202e\x85\x0b\x00"}{,:\ud800')), max_size=200
)


@given(text=TEXTS)
def test_sec_11_whatever_a_token_is_called_an_event_is_one_line(text: str) -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        output = logs.configure(level="info", format=form, mode="observe", chain_id=1, stream=stream)
        try:
            structlog.get_logger().info("chain.head", symbol=text, **{text or "empty": text})
        finally:
            output.close()
        told = stream.getvalue()
        assert told.endswith("\n")
        assert len(told.splitlines()) == 1
        assert not set(told[:-1]) & {"\x1b", "\x00", "\u202e", "\u2028", "\x85"}
        if form == "json":
            assert json.loads(told)["event"] == "chain.head"


EVIL = '\x1b[2J\n{"event":"liquidation.won"}\r\u202e[red]evil[/red]'


async def test_sec_11_a_node_with_an_evil_name_and_evil_errors_forges_no_line(
    operator: Operator, tmp_path: Path
) -> None:
    def evil(call: Call) -> Call | None:
        if call["method"] == "web3_clientVersion":
            return {"result": EVIL}
        return {"error": {"code": -32000, "message": EVIL}} if call["method"] == "eth_feeHistory" else None

    async with proxied(operator.devnet.node.http_url, evil) as proxy:
        environment = operator.environment(RPC_URLS=proxy.url, LOG_LEVEL="debug")
        code, checked = await asyncio.to_thread(finished, tmp_path / "check", environment, "check")
        assert code == 0
        _, once = await asyncio.to_thread(finished, tmp_path / "once", environment, "once")
    assert "\x1b" not in checked.text() + once.text()
    assert "[red]evil[/red]" in checked.text()
    assert all(
        line[:4] in {"ok  ", "warn", "fail", "    "} for line in checked.output()["stdout"].decode().splitlines()
    )
    for line in once.output()["stdout"].splitlines():
        assert json.loads(line)["event"] != "liquidation.won"


LOOKUP = bytes.fromhex("556f1830")


def offchain_lookup(url: str) -> str:
    """Encode the error by which a contract asks its caller to fetch something (EIP-3668)."""
    fields = ["address", "string[]", "bytes", "bytes4", "bytes"]
    return "0x" + (LOOKUP + encode(fields, ["0x" + "11" * 20, [url], b"", b"\0\0\0\0", b""])).hex()


async def test_sec_12_neither_a_contract_nor_a_redirect_nor_a_proxy_makes_the_keeper_ask_another_address(
    operator: Operator, tmp_path: Path
) -> None:
    with serving(lambda _asked: Answer(200, b"{}")) as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.port}/latest/meta-data/"
        data = offchain_lookup(url)

        def lookup(asked: Asked) -> Answer:
            return each(
                asked,
                lambda call: (
                    {"result": "0x7a69"}
                    if call["method"] == "eth_chainId"
                    else {"error": {"code": 3, "message": "execution reverted", "data": data}}
                ),
            )

        def redirect(asked: Asked) -> Answer:
            return Answer(307 if asked.calls() else 302, b"", (("Location", url),))

        def call_reverts(call: Call) -> Call | None:
            refusal = {"code": 3, "message": "execution reverted", "data": data}
            return {"error": refusal} if call["method"] == "eth_call" else None

        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), f"http://127.0.0.1:{elsewhere.port}")
        with serving(lookup) as one, serving(redirect) as other:
            async with proxied(operator.devnet.node.http_url, call_reverts) as third:
                urls = f"http://127.0.0.1:{one.port},http://127.0.0.1:{other.port},{third.url}"
                for command in ("check", "once", "positions"):
                    environment = operator.environment(is_live=False, RPC_URLS=urls) | proxies
                    await asyncio.to_thread(finished, tmp_path / command, environment, command)
            assert one.asked
            assert other.asked
        assert elsewhere.asked == []
