"""A remote signer that is slow, broken, mistaken or hostile: nothing of it reaches the chain, and no secret a message."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from eth_account import Account

from keeper.domain.outcome import Reason, Result
from keeper.domain.units import Address, Wei
from keeper.errors import ExitCode, Unsafe
from keeper.execution.envelope import Transaction
from keeper.execution.remote import RemoteSigner, SignerDeviated
from keeper.execution.signer import PolicyRefused, Signer, SignerFailed, SigningPolicy
from keeper.execution.verdicts import Accepted, Skipped
from tests.faults.canary import KEY, PATH_TOKEN, QUERY_TOKEN, USER, USER_PASSWORD, canary_forms
from tests.operator import Operator
from tests.toy import POOL
from tests.unit.execution.desk import ALICE, SIGNING, desk, new_chain
from tests.unit.execution.desk import KEY as DESK_KEY
from tests.unit.execution.desk import signer as desk_signer
from tests.unit.execution.fake_chain import batch_of, plan_of

CHAIN_ID = 31_337
POLICY = SigningPolicy(
    chain_id=CHAIN_ID, max_fee_wei=Wei(10**12), max_gas_limit=10**6, calls=frozenset({(POOL, b"liq!")})
)
OWNER = Signer.from_hex(KEY, POLICY).address
ASKED = Transaction(CHAIN_ID, 7, Wei(3), Wei(10**9), 300_000, POOL, Wei(0), b"liq!" + bytes(40))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

Answer = Callable[[dict[str, Any]], Awaitable[web.StreamResponse] | web.StreamResponse]


@dataclass
class SignerServer:
    """A signer as web3signer, geth and clef are: it holds the key and signs with another library than the keeper."""

    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        found = self.answer(body)
        return await found if isinstance(found, Awaitable) else found

    def client(self, *, timeout_s: int = 5, credentials: bool = False) -> RemoteSigner:
        user = f"{USER}:canary%3AP%40ss%2F5ecret@" if credentials else ""
        url = f"http://{user}127.0.0.1:{self.port}/{PATH_TOKEN}?key={QUERY_TOKEN}"
        return RemoteSigner(url, OWNER, POLICY, timeout_s=timeout_s)


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[SignerServer]:
    server = SignerServer(answer)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.serve)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


def signed(call: dict[str, Any], *, key: str = KEY, **changes: Any) -> bytes:
    """Sign what a request asks for, or something else."""
    names = ("chainId", "nonce", "gas", "maxFeePerGas", "maxPriorityFeePerGas", "value")
    fields = {name: int(call[name], 16) for name in names}
    wanted = {"type": 2, "to": bytes(POOL), "data": call["data"], **fields, **changes}
    return bytes(Account.sign_transaction(wanted, "0x" + key).raw_transaction)


def result(value: object) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "result": value})


def refusal(code: object, message: str) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}})


def honest(body: dict[str, Any]) -> web.Response:
    return result("0x" + signed(body["params"][0]).hex())


def assert_clean(error: BaseException | None) -> None:
    """No secret in an error, in what it was raised from, or in what was being handled."""
    seen = 0
    while error is not None:
        text = f"{error!s} {error!r} {error.args!r}".lower().encode()
        assert not [form for form in canary_forms() if form in text]
        error, seen = error.__cause__ or (None if error.__suppress_context__ else error.__context__), seen + 1
    assert seen


async def assert_refused(server: SignerServer, kind: type[Exception], says: str, *, timeout_s: int = 5) -> None:
    """Ask for a signature and get none."""
    client = server.client(timeout_s=timeout_s, credentials=True)
    try:
        with pytest.raises(kind, match=says) as caught:
            await client.signed(ASKED)
        assert caught.type is kind
        assert_clean(caught.value)
        assert len(server.asked) == 1  # never asked again by itself
    finally:
        await client.close()


@pytest.mark.parametrize("form", ["bytes", "bytes and words"])
async def test_sec_07_an_honest_signer_gives_what_our_own_key_would_have_given(form: str):
    def answer(body: dict[str, Any]) -> web.Response:
        raw = "0x" + signed(body["params"][0]).hex()
        return result(raw if form == "bytes" else {"raw": raw, "tx": {"nonce": "0x7"}})

    async with served(answer) as server:
        client = server.client(credentials=True)
        try:
            found = await client.signed(ASKED)
        finally:
            await client.close()
        assert found == Signer.from_hex(KEY, POLICY).sign(ASKED)
        (asked,) = server.asked
        assert asked["method"] == "eth_signTransaction"
        assert asked["params"][0]["from"] == "0x" + OWNER.hex()
        assert server.headers[0]["Authorization"].startswith("Basic ")
        assert USER_PASSWORD not in server.headers[0]["Host"]


async def test_sec_07_clef_is_asked_by_its_own_name_and_the_name_is_remembered():
    def answer(body: dict[str, Any]) -> web.Response:
        return honest(body) if body["method"] == "account_signTransaction" else refusal(-32601, "method not found")

    async with served(answer) as server:
        client = server.client()
        try:
            assert await client.signed(ASKED) == await client.signed(ASKED)
        finally:
            await client.close()
        assert [each["method"].partition("_")[0] for each in server.asked] == ["eth", "account", "account"]


@pytest.mark.parametrize(
    "changes",
    [
        {"to": "0x" + "66" * 20},
        {"data": b"liq!" + bytes(39) + b"\x01"},
        {"value": 10**18},
        {"nonce": 8},
        {"gas": 400_000},
        {"maxFeePerGas": 10**12},
        {"maxPriorityFeePerGas": 4},
        {"chainId": 1},
        {"accessList": [{"address": "0x" + "66" * 20, "storageKeys": []}]},
    ],
)
async def test_sec_07_another_transaction_than_was_asked_for_is_an_alarm(changes: dict[str, Any]):
    async with served(lambda body: result("0x" + signed(body["params"][0], **changes).hex())) as server:
        await assert_refused(server, SignerDeviated, "another transaction")


async def test_sec_07_another_sender_is_an_alarm():
    async with served(lambda body: result("0x" + signed(body["params"][0], key="22" * 32).hex())) as server:
        await assert_refused(server, SignerDeviated, "another key")


async def test_sec_07_the_high_half_of_a_signature_is_not_taken():
    def answer(body: dict[str, Any]) -> web.Response:
        raw = bytearray(signed(body["params"][0]))
        raw[-32:] = (ORDER - int.from_bytes(raw[-32:])).to_bytes(32)
        place = -67
        raw[place] = 0x80 if raw[place] == 1 else 1
        return result("0x" + raw.hex())

    async with served(answer) as server:
        await assert_refused(server, SignerFailed, "no signature that the chain accepts")


def redirect(_: dict[str, Any]) -> web.Response:
    return web.Response(status=307, headers={"Location": f"http://127.0.0.1:1/{PATH_TOKEN}"})


def says(text: str) -> Answer:
    return lambda _: web.Response(text=text, content_type="application/json")


def of_status(status: int) -> Answer:
    return lambda _: web.Response(status=status, text=f"<html>{PATH_TOKEN} {USER_PASSWORD}</html>")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (of_status(500), "HTTP 500"),
        (of_status(503), "HTTP 503"),
        (of_status(401), "HTTP 401"),
        (of_status(403), "HTTP 403"),
        (redirect, "HTTP 307"),
        (says(""), "no JSON-RPC"),
        (says("<html>"), "no JSON-RPC"),
        (says("[]"), "no JSON-RPC"),
        (lambda _: web.Response(body=b'{"result": "\xff"}'), "no JSON-RPC"),
        (says('{"jsonrpc":"2.0","id":1,"resu'), "no JSON-RPC"),
        (says("[" * 100_000), "no JSON-RPC"),
        (says('{"result":' + '{"tx":' * 50_000), "no JSON-RPC"),
        (says('{"result": null}'), "no EIP-1559 transaction"),
        (says('{"result": 7}'), "no JSON-RPC"),
        (says('{"result": {"tx": {}}}'), "no JSON-RPC"),
        (says('{"result": "0xzz"}'), "no bytes"),
        (says('{"result": "0x"}'), "no EIP-1559 transaction"),
        (says('{"result": "0x02c0"}'), "no EIP-1559 transaction"),
        (says('{"result": "0xf86b80"}'), "no EIP-1559 transaction"),
        (says('{"error": "no"}'), "no JSON-RPC"),
        (says('{"error": {"message": "no"}}'), "refused"),
        (lambda _: refusal(-32000, f"authentication needed: {PATH_TOKEN} http://a/{QUERY_TOKEN}"), "-32000"),
        (lambda _: web.Response(body=b"x" * (2 << 20)), "longer than"),
        (lambda _: web.Response(body=b'"' + b"0" * (8 << 20), headers={"Content-Encoding": "identity"}), "longer than"),
    ],
)
async def test_sec_07_what_is_no_signature_is_a_failure_that_passes_and_says_no_secret(answer: Answer, why: str):
    async with served(answer) as server:
        await assert_refused(server, SignerFailed, why)


async def test_sec_07_a_compressed_flood_is_cut_off():
    def answer(_: dict[str, Any]) -> web.Response:
        flood = web.Response(body=b" " * (64 << 20))
        flood.enable_compression(web.ContentCoding.gzip)
        return flood

    async with served(answer) as server:
        await assert_refused(server, SignerFailed, "longer than", timeout_s=30)


async def test_sec_07_a_late_answer_is_none_and_does_not_reach_the_next_question():
    release = asyncio.Event()

    async def late(body: dict[str, Any]) -> web.StreamResponse:
        if len(server.asked) == 1:
            await release.wait()
        return honest(body)

    async with served(late) as server:
        client = server.client(timeout_s=1)
        try:
            with pytest.raises(SignerFailed, match="no answer within 1 s") as caught:
                await client.signed(ASKED)
            assert_clean(caught.value)
            release.set()
            other = Transaction(CHAIN_ID, 8, Wei(3), Wei(10**9), 300_000, POOL, Wei(0), b"liq!" + bytes(40))
            assert await client.signed(other) == Signer.from_hex(KEY, POLICY).sign(other)
        finally:
            await client.close()


async def test_sec_07_a_signer_that_is_not_there_is_a_failure_without_its_address():
    async with served(honest) as server:
        client = server.client(credentials=True)
    try:
        with pytest.raises(SignerFailed, match="connection failed") as caught:
            await client.signed(ASKED)
        assert_clean(caught.value)
        assert not [form for form in canary_forms() if form in repr(client).lower().encode()]
    finally:
        await client.close()


async def test_sec_07_what_the_policy_forbids_is_never_shown_to_the_signer():
    async with served(honest) as server:
        client = server.client()
        stranger = Transaction(CHAIN_ID, 7, Wei(3), Wei(10**9), 300_000, Address(b"\x66" * 20), Wei(0), b"liq!")
        try:
            with pytest.raises(PolicyRefused, match="the call to"):
                await client.signed(stranger)
        finally:
            await client.close()
        assert server.asked == []


async def test_sec_07_proxy_settings_of_the_environment_are_not_followed(monkeypatch: pytest.MonkeyPatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with served(honest) as server:
        client = server.client()
        try:
            assert (await client.signed(ASKED)).raw
        finally:
            await client.close()


def desks(server: SignerServer) -> RemoteSigner:
    """Return the desk's signer, whose key the server has instead."""
    return RemoteSigner(f"http://127.0.0.1:{server.port}/", desk_signer().address, SIGNING, timeout_s=5)


async def test_sec_07_without_a_signature_nothing_leaves_and_the_nonce_is_used_again(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, ALICE)
    is_up = False

    def answer(body: dict[str, Any]) -> web.Response:
        if not is_up:
            return web.Response(status=503)
        return result("0x" + signed(body["params"][0], key=DESK_KEY[2:]).hex())

    async with served(answer) as server:
        client = desks(server)
        async with desk(chain, signatory=client) as one:
            for _ in range(3):
                (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
                assert isinstance(verdict, Skipped)
                assert verdict.reason is Reason.SIGNER_FAILED
                await one.head()
            assert chain.seen == []
            assert len(server.asked) == 3  # once a head, never again by itself
            is_up = True
            (verdict,) = await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
            assert isinstance(verdict, Accepted)
            assert verdict.nonce == 0
            await one.heads(2)
            assert one.results == [Result.WON]
        await client.close()


async def test_sec_07_a_signer_that_deviates_stops_the_keeper_and_an_honest_one_goes_on(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, ALICE)
    is_honest = False

    def answer(body: dict[str, Any]) -> web.Response:
        changes = {} if is_honest else {"to": "0x" + "66" * 20}
        return result("0x" + signed(body["params"][0], key=DESK_KEY[2:], **changes).hex())

    async with served(answer) as server:
        client = desks(server)
        async with desk(chain, signatory=client) as one:
            with pytest.raises(Unsafe, match="another transaction"):
                await one.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
            assert "security.policy_refused" in one.told.names
        assert chain.seen == []
        is_honest = True
        async with desk(chain, signatory=client) as other:
            (verdict,) = await other.sender.submit(batch_of(chain, plan_of(chain, ALICE)))
            assert isinstance(verdict, Accepted)
            assert verdict.nonce == 0
            await other.heads(2)
            assert other.results == [Result.WON]
        await client.close()


@pytest.mark.parametrize("is_right", [True, False])
async def test_sec_07_the_preflight_has_the_signer_prove_its_account(operator: Operator, is_right: bool) -> None:
    def prove(body: dict[str, Any]) -> web.Response:
        call = body["params"][0]
        return result("0x" + signed(call, to=bytes.fromhex(call["to"][2:])).hex())

    async with served(prove if is_right else of_status(503)) as server:
        settings = {
            "MODE": "live",
            "ADDRESS": "0x" + OWNER.hex() if is_right else operator.address,
            "REMOTE_SIGNER_URL": f"http://127.0.0.1:{server.port}/{PATH_TOKEN}",
        }
        done = await asyncio.to_thread(operator.command, "check", "--json", is_live=False, **settings)
    (found,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "remote signer"]
    assert found["status"] == ("ok" if is_right else "fail")
    assert PATH_TOKEN not in done.stdout + done.stderr
    assert (done.returncode == 0) is is_right or done.returncode == ExitCode.UNSAFE
