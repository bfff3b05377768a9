"""The endpoints answer, and tell the truth, whatever is asked of them, and whatever the keeper is going through."""

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from keeper.observe.health import Health, Thresholds, Why
from keeper.observe.metrics import MAX_VALUES, Metrics
from keeper.observe.server import MAX_CONNECTION_S, MAX_CONNECTIONS, Server
from tests.faults.program import Program, finished
from tests.faults.recovery import Recovery
from tests.operator import Operator
from tests.unit.observe.clock import StoppedClock

PATIENCE_S = 30.0
MAX_MEMORY_GROWTH_KB = 64 * 1024
THRESHOLDS = Thresholds(max_head_age_s=60, max_evaluation_age_s=60, max_stuck_s=60)


class Site:
    """A server on a free port, and what it shows."""

    def __init__(self, server: Server, health: Health, metrics: Metrics, clock: StoppedClock) -> None:
        self.server, self.health, self.metrics, self.clock = server, health, metrics, clock

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body=body, headers={"Host": "localhost", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def checks(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.ask("/readyz")[1])["checks"]}

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), PATIENCE_S)

    def send(self, raw: bytes) -> bytes:
        """Send bytes and read to the end; a connection that is closed in our face counts as no answer."""
        with self.connect() as connection:
            try:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(1 << 16), b""))
            except ConnectionError:
                return b""

    def is_well(self) -> bool:
        try:
            return self.ask("/livez")[0] == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    clock = StoppedClock()
    health = Health(thresholds=THRESHOLDS, clock=clock)
    metrics = Metrics(clock=clock, version="1", chain="local", mode="observe")
    with Server(host="127.0.0.1", port=0, health=health, exposition=metrics.exposition) as server:
        yield Site(server, health, metrics, clock)


def well(health: Health, clock: StoppedClock) -> None:
    """Make everything well."""
    health.started(is_sending=True)
    health.head(1, int(clock.unix))
    health.evaluated()
    health.endpoints(1)
    health.nonce(is_stuck=False)
    health.balance(is_low=False)
    health.storage(is_ok=True)
    health.gate()
    health.lease(is_held=True)
    health.beat()


BLOCK_ONCE = """
import pathlib, sys, time
from keeper import cli, scanner

make_pass, flag = scanner.Scanner.make_pass, pathlib.Path({flag!r})

async def blocked(self, head):
    if flag.exists():
        flag.unlink()
        time.sleep(10)
    return await make_pass(self, head)

scanner.Scanner.make_pass = blocked
cli.main()
"""


@pytest.mark.slow
async def test_htp_01_a_loop_that_is_blocked_for_ten_seconds_is_told_by_another_thread(
    operator: Operator, tmp_path: Path, recovery: Recovery
) -> None:
    flag = tmp_path / "block"
    code = BLOCK_ONCE.format(flag=str(flag))
    with Program(tmp_path / "run", operator.environment(is_live=False), "run", python=("-c", code)) as program:
        await program.seen("chain.head")
        status, _, _ = await asyncio.to_thread(program.page, "/livez")
        assert status == 200
        flag.touch()
        body = await until(program, "/livez", 503)
        assert json.loads(body)["checks"][0]["reason"] == "loop_blocked"
        assert "loop_blocked" in (await asyncio.to_thread(program.page, "/readyz"))[2].decode()
        stuck_s = time.monotonic()
        await until(program, "/readyz", 200)
        recovery("HTP-01", seconds=time.monotonic() - stuck_s)
        assert await program.stop() == 0


async def until(program: Program, path: str, wanted: int) -> bytes:
    """Ask until the answer is as wanted."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        status, _, body = await asyncio.to_thread(program.page, path)
        if status == wanted:
            return body
        assert time.monotonic() < deadline_s, body
        await asyncio.sleep(0.1)


def stick(health: Health, clock: StoppedClock) -> None:
    health.nonce(is_stuck=True)
    clock.forward(61)


FAULTS: dict[str, tuple[str, Why, Callable[[Health, StoppedClock], object]]] = {
    "loop": ("loop", Why.LOOP_BLOCKED, lambda _health, clock: clock.forward(6)),
    "head": ("head", Why.HEAD_TOO_OLD, lambda health, clock: health.head(1, int(clock.unix) - 61)),
    "evaluation": ("evaluation", Why.EVALUATION_TOO_OLD, lambda _health, clock: clock.forward(61)),
    "sender": ("sender", Why.SENDER_STUCK, lambda _health, clock: clock.forward(61)),
    "endpoints": ("endpoints", Why.NO_HEALTHY_ENDPOINT, lambda health, _clock: health.endpoints(0)),
    "nonce": ("nonce", Why.NONCE_STUCK, stick),
    "balance": ("balance", Why.BALANCE_LOW, lambda health, _clock: health.balance(is_low=True)),
    "storage": ("storage", Why.STORAGE_FAILED, lambda health, _clock: health.storage(is_ok=False)),
    "paused": ("gate", Why.PAUSED, lambda health, _clock: health.gate(Why.PAUSED)),
    "halted": ("gate", Why.HALTED, lambda health, _clock: health.gate(Why.HALTED)),
    "budget": ("gate", Why.BUDGET_SPENT, lambda health, _clock: health.gate(Why.BUDGET_SPENT)),
    "breaker": ("gate", Why.BREAKER_OPEN, lambda health, _clock: health.gate(Why.BREAKER_OPEN)),
    "lease": ("lease", Why.LEASE_LOST, lambda health, _clock: health.lease(is_held=False)),
    "stopping": ("lifecycle", Why.STOPPING, lambda health, _clock: health.stopping()),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_htp_02_each_reason_not_to_be_ready_is_told_by_its_name(fault: str, site: Site) -> None:
    name, reason, break_it = FAULTS[fault]
    well(site.health, site.clock)
    assert site.ask("/readyz")[0] == 200
    break_it(site.health, site.clock)
    assert site.ask("/readyz")[0] == 503
    told = site.checks()[name]
    assert (told["ok"], told["reason"]) == (False, reason.value)
    well(site.health, site.clock)
    assert site.ask("/readyz")[0] == 200


def test_htp_02_an_invariant_that_is_broken_is_told_until_it_holds_again(site: Site) -> None:
    well(site.health, site.clock)
    site.health.invariant("N11", holds=False)
    site.health.invariant("N2", holds=False)
    site.health.invariant("N2", holds=True)
    assert site.checks()["invariants"] == {"name": "invariants", "ok": False, "reason": "invariant_broken", "value": 1}
    site.health.invariant("N11", holds=True)
    assert site.ask("/readyz")[0] == 200


def test_htp_03_a_thousand_connections_keep_nobody_out_for_long_and_leave_no_descriptor(
    site: Site, recovery: Recovery
) -> None:
    lowest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = min(1_000, lowest // 4)
    before = open_descriptors()
    crowd = []
    for _ in range(wanted):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", site.server.port))
        crowd.append(connection)
    assert open_descriptors() < before + wanted + 4 * MAX_CONNECTIONS
    for connection in crowd:
        connection.close()
    closed_s = time.monotonic()
    while not site.is_well():
        assert time.monotonic() - closed_s < PATIENCE_S
        time.sleep(0.02)
    recovery("HTP-03", seconds=time.monotonic() - closed_s)
    while open_descriptors() > before + 2:
        assert time.monotonic() - closed_s < PATIENCE_S
        time.sleep(0.05)


def test_htp_03_many_scrapes_beside_slow_clients_are_all_answered(site: Site) -> None:
    slow = [site.connect() for _ in range(MAX_CONNECTIONS // 2)]
    for connection in slow:
        connection.sendall(b"GET /metrics HT")
    answers: list[int] = []

    def scrape() -> None:
        answers.extend(site.ask("/metrics")[0] for _ in range(50))

    scrapers = [threading.Thread(target=scrape) for _ in range(4)]
    for each in scrapers:
        each.start()
    for each in scrapers:
        each.join(PATIENCE_S)
    for connection in slow:
        connection.close()
    assert answers == [200] * 200


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"])
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/pause", "/api/v1/halt"])
def test_htp_04_nothing_can_be_changed_by_http_because_there_is_nothing_but_reading(
    method: str, path: str, site: Site
) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{{}}"
    answer = site.send(head.encode())
    assert answer == b"" or answer.split(b" ")[1] in {b"400", b"404", b"405"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:9464", "keeper", "0x7f000001.example"])
def test_htp_04_a_web_page_that_names_itself_for_this_machine_reads_nothing(host: str, site: Site) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        status, body = site.ask(path, Host=host)
        assert status == 403
        assert b"keeper_" not in body
    answer = site.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n")
    assert b"access-control-allow" not in answer.lower()


TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=20)
REQUESTS = st.one_of(
    st.binary(max_size=2_000),
    st.builds(
        lambda method, path, version, headers, body: (
            b"%s %s %s\r\n%s\r\n%s"
            % (
                method,
                path,
                version,
                b"".join(b"%s: %s\r\n" % (name.encode(), value) for name, value in headers),
                body,
            )
        ),
        st.sampled_from([b"GET", b"HEAD", b"POST", b"\x00", b"G\xc3\x89T", b"PRI"]),
        st.one_of(
            st.binary(max_size=300),
            st.sampled_from(
                [b"/metrics", b"/../../etc/passwd", b"/%2e%2e%2f%00", b"/\xff", b"//metrics", b"http://evil/", b"*"]
            ),
        ),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"", b"ICY"]),
        st.lists(
            st.tuples(
                st.one_of(
                    TOKENS, st.sampled_from(["Host", "Content-Length", "Transfer-Encoding", "Expect", "Upgrade"])
                ),
                st.one_of(
                    st.binary(max_size=60),
                    st.sampled_from([b"localhost", b"chunked", b"-1", b"1" * 40, b"gzip", b"100-continue", b"h2c"]),
                ),
            ),
            max_size=8,
        ),
        st.binary(max_size=500),
    ),
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=REQUESTS)
@example(raw=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
@example(raw=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef")
@example(raw=b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nExpect: 200-ok\r\n\r\n")
@example(raw=b"GET http://localhost:99999999/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
@example(
    raw=b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: "
    + b"application/openmetrics-text; q=x,," * 50
    + b"\r\n\r\n"
)
def test_htp_05_any_bytes_are_answered_by_a_refusal_or_by_the_page(raw: bytes, site: Site) -> None:
    answer = site.send(raw)
    first = answer.split(b"\r\n", 1)[0].split(b" ")
    assert answer == b"" or first[1][:1] in {b"2", b"4"}, answer[:200]


def test_htp_05_a_body_of_a_hundred_megabytes_is_not_read(site: Site) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n"
    chunk, sent, status = b"x" * (1 << 20), 0, b""
    with site.connect() as connection:
        try:
            connection.sendall(head)
            while sent < 100:
                connection.sendall(chunk)
                sent += 1
        except ConnectionError:
            pass
        try:
            status = connection.recv(1 << 12).split(b" ")[1]
        except ConnectionError:
            status = b"reset"
    assert status in {b"405", b"reset"}
    assert sent < 100, "it took all of it"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MAX_MEMORY_GROWTH_KB
    assert site.is_well()


def test_htp_05_an_endless_chunked_body_is_not_read(site: Site) -> None:
    head = b"POST /readyz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with site.connect() as connection, pytest.raises(ConnectionError):
        connection.sendall(head + chunks * 10_000)
    assert site.is_well()


def test_htp_06_a_port_in_use_is_one_clear_message(operator: Operator, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, done = finished(tmp_path / "run", operator.environment(is_live=False, HTTP_PORT=port), "run")
        assert code == 3
        (line,) = done.events("config.invalid")
        assert line["problem"] == f"KEEPER_HTTP_PORT: port {port} is in use; choose another, or stop what listens there"
        code, done = finished(tmp_path / "check", operator.environment(is_live=False, HTTP_PORT=port), "check")
        assert code == 4
        assert f"127.0.0.1:{port} is in use" in done.text()


def test_htp_07_a_hundred_thousand_values_of_a_label_are_a_bounded_number_of_series(site: Site) -> None:
    before = len(site.ask("/metrics")[1])
    for number in range(100_000):
        site.metrics.decisions.at(outcome="skipped", reason=f"reason-{number}").inc()
        site.metrics.positions.at(market=f"market\n{number}").set(1)
    _, body = site.ask("/metrics")
    families = {each.name: each.samples for each in text_string_to_metric_families(body.decode())}
    assert len(families["keeper_decisions"]) <= MAX_VALUES + 1
    assert sum(each.value for each in families["keeper_decisions"]) == 100_000
    assert {each.labels["market"] for each in families["keeper_positions"]} == {"other"}
    assert len(body) - before < 1 << 16


def test_htp_08_a_client_that_never_reads_is_hung_up_on(site: Site) -> None:
    """There is no stream to read for ever: the longest answer is one page, and a connection lasts seconds."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with connection:
        connection.connect(("127.0.0.1", site.server.port))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        opened_s = time.monotonic()
        assert site.is_well()
        while is_connected(connection, site.server.port):
            assert time.monotonic() - opened_s < MAX_CONNECTION_S + PATIENCE_S
            time.sleep(0.2)
    assert site.is_well()


def is_connected(ours: socket.socket, port: int) -> bool:
    """Say whether the server's end of a connection is still there, by the system's own table."""
    _, our_port = ours.getsockname()
    ends = {f":{port:04X}", f":{our_port:04X}"}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if {local[-5:], remote[-5:]} == ends and local[-5:] == f":{port:04X}" and state == "01":
            return True
    return False
