"""Does the suite police itself?"""

import socket
from pathlib import Path

import pytest

from tests.architecture.tiers import BORDER, is_outside, tier_of


@pytest.mark.parametrize("address", [("192.0.2.1", 443), ("2001:db8::1", 443)])
def test_a_connection_to_another_machine_is_refused_and_remembered(address: tuple[str, int]):
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(PermissionError, match="may not leave"):
        client.connect(address)
    assert len(BORDER.attempts) == 1
    BORDER.attempts.clear()


def test_a_question_to_a_name_server_is_refused():
    with pytest.raises(PermissionError, match="may not leave"):
        socket.getaddrinfo("example.invalid", 443)
    BORDER.attempts.clear()


def test_a_server_on_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize(
    "host", [None, "", "localhost", "127.0.0.1", b"127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::"]
)
def test_the_names_of_this_machine_are_not_outside(host: str | bytes | None):
    assert not is_outside(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "192.168.1.1", "example.invalid", "8.8.8.8"])
def test_everything_else_is_outside(host: str):
    assert is_outside(host)


def test_a_test_outside_of_every_tier_is_refused():
    tests = Path("tests")
    assert tier_of(tests / "unit" / "engine" / "test_book.py", tests) == "unit"
    with pytest.raises(LookupError, match="belongs to no tier"):
        tier_of(tests / "integration" / "test_book.py", tests)
    with pytest.raises(LookupError, match="belongs to no tier"):
        tier_of(tests / "test_book.py", tests)
