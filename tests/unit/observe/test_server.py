"""The endpoints tell the truth, quickly, to the right client, whatever is sent to them."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from keeper import healthcheck
from keeper.errors import ConfigurationError, ExitCode
from keeper.observe.health import Health, Thresholds
from keeper.observe.heartbeat import beat
from keeper.observe.metrics import Metrics
from keeper.observe.server import MAX_CONNECTIONS, Server
from tests.unit.observe.clock import StoppedClock


class RunningClock:
    def unix_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


class Site:
    """A server on a free port and the state it shows."""

    def __init__(self, server: Server, health: Health, clock: StoppedClock) -> None:
        self.server, self.health, self.clock = server, health, clock

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        connection.request(method, path, headers={"Host": "localhost", **headers})
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response, body

    def send(self, raw: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.server.port), 5) as connection:
            connection.sendall(raw)
            return connection.recv(1 << 16)


@pytest.fixture
def site() -> Iterator[Site]:
    clock = StoppedClock()
    health = Health(thresholds=Thresholds(max_head_age_s=60, max_evaluation_age_s=60, max_stuck_s=60), clock=clock)
    metrics = Metrics(clock=clock, version="1", chain="local", mode="observe")
    with Server(host="127.0.0.1", port=0, health=health, exposition=metrics.exposition) as server:
        yield Site(server, health, clock)


def test_readiness_is_told_with_the_reason_of_each_check(site: Site) -> None:
    response, body = site.ask("/readyz")
    assert response.status == 503
    told: dict[str, Any] = json.loads(body)
    assert told["status"] == "not_ready"
    assert {"name": "evaluation", "ok": False, "reason": "not_evaluated", "value": None} in told["checks"]
    site.health.started()
    site.health.head(1, int(site.clock.unix))
    site.health.evaluated()
    site.health.endpoints(1)
    response, body = site.ask("/readyz")
    assert (response.status, json.loads(body)["status"]) == (200, "ready")
    assert response.getheader("Content-Type", "").startswith("application/json")


def test_liveness_follows_the_heartbeat(site: Site) -> None:
    assert site.ask("/livez")[0].status == 200
    site.clock.forward(6)
    response, body = site.ask("/livez")
    assert response.status == 503
    assert json.loads(body)["checks"][0]["reason"] == "loop_blocked"


def test_the_metrics_are_served(site: Site) -> None:
    response, body = site.ask("/metrics")
    assert response.status == 200
    assert "keeper_build_info" in body
    assert response.getheader("Content-Type", "").startswith("text/plain")
    assert response.getheader("Server") == "keeper"


def test_a_head_request_gets_the_head_only(site: Site) -> None:
    for path in ("/livez", "/metrics"):
        response, body = site.ask(path, "HEAD")
        assert (response.status, body) == (200, "")


@pytest.mark.parametrize("path", ["/", "/readyz/", "/../metrics", "/%2e%2e/etc/passwd", "/metrics%00", "/livez/x"])
def test_any_other_path_is_not_found(site: Site, path: str) -> None:
    assert site.ask(path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_any_other_method_is_refused(site: Site, method: str) -> None:
    response, _ = site.ask("/readyz", method)
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_foreign_name_for_this_machine_is_refused(site: Site, host: str) -> None:
    assert site.ask("/metrics", Host=host)[0].status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9464", "127.0.0.1", "127.0.0.1:9464", "[::1]:9464", "[::1]"])
def test_this_machines_own_names_are_taken(site: Site, host: str) -> None:
    assert site.ask("/livez", Host=host)[0].status == 200


def test_a_server_for_other_machines_takes_any_name() -> None:
    clock = StoppedClock()
    health = Health(thresholds=Thresholds(max_head_age_s=60, max_evaluation_age_s=60, max_stuck_s=60), clock=clock)
    with Server(host="0.0.0.0", port=0, health=health, exposition=lambda _: (b"", "text/plain")) as server:
        assert Site(server, health, clock).ask("/livez", Host="keeper.internal")[0].status == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_nonsense_gets_a_refusal_and_no_log_line(site: Site, raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    try:
        answer = site.send(raw)
    except ConnectionError:
        answer = b""
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4"
    assert caplog.records == []
    assert site.ask("/livez")[0].status == 200


def test_a_great_body_is_not_read(site: Site) -> None:
    head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n"
    assert site.send(head + b"x" * 1000).split(b" ")[1] == b"405"
    assert site.ask("/livez")[0].status == 200


def test_too_many_connections_are_hung_up_on_and_the_rest_are_served_again(site: Site) -> None:
    connections = [socket.create_connection(("127.0.0.1", site.server.port), 5) for _ in range(MAX_CONNECTIONS + 20)]
    refused = [each for each in connections[-20:] if each.recv(1) == b""]
    assert len(refused) == 20
    for each in connections:
        each.close()
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        try:
            if site.ask("/livez")[0].status == 200:
                return
        except (ConnectionError, OSError):
            time.sleep(0.02)
    pytest.fail("the server did not recover")


def test_a_port_in_use_is_explained(site: Site) -> None:
    again = Server(host="127.0.0.1", port=site.server.port, health=site.health, exposition=lambda _: (b"", ""))
    with pytest.raises(ConfigurationError, match="KEEPER_HTTP_PORT") as caught, again:
        pass
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    assert "in use" in str(caught.value)


def test_an_address_of_another_machine_is_explained(site: Site) -> None:
    other = Server(host="192.0.2.1", port=0, health=site.health, exposition=lambda _: (b"", ""))
    with pytest.raises(ConfigurationError, match="KEEPER_HTTP_HOST"), other:
        pass


async def test_a_blocked_loop_is_told_by_a_server_that_is_not() -> None:
    clock = RunningClock()
    thresholds = Thresholds(max_head_age_s=60, max_evaluation_age_s=60, max_stuck_s=60, max_heartbeat_age_s=1.0)
    health = Health(thresholds=thresholds, clock=clock)
    heartbeat = asyncio.create_task(beat(health, clock=clock, lag=lambda _: None, interval_s=0.01))
    await asyncio.sleep(0.05)
    with Server(host="127.0.0.1", port=0, health=health, exposition=lambda _: (b"", "text/plain")) as server:
        assert await asyncio.to_thread(healthcheck.answer, "127.0.0.1", server.port) == "HTTP/1.1 200 OK"
        time.sleep(1.5)  # noqa: ASYNC251 - the loop is blocked on purpose
        blocked = healthcheck.answer("127.0.0.1", server.port)
        assert blocked == "HTTP/1.1 503 Service Unavailable"
        await asyncio.sleep(0.05)
        assert await asyncio.to_thread(healthcheck.answer, "127.0.0.1", server.port) == "HTTP/1.1 200 OK"
    heartbeat.cancel()


def test_the_health_check_exits_by_what_it_hears(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEEPER_HTTP_HOST", "0.0.0.0")
    monkeypatch.setenv("KEEPER_HTTP_PORT", str(site.server.port))
    assert healthcheck.main() == 0
    site.clock.forward(60)
    assert healthcheck.main() == 1
    monkeypatch.setenv("KEEPER_HTTP_PORT", "none")
    assert healthcheck.main() == 1
    monkeypatch.setenv("KEEPER_HTTP_PORT", "1")
    assert healthcheck.main() == 1
    assert "KEEPER_HTTP_PORT" in capsys.readouterr().out
