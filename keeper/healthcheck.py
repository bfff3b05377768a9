"""`python -m keeper.healthcheck`: exit 0 if the keeper on this machine is alive, else 1. For containers."""

import socket
import sys
from typing import Final

from keeper.errors import ConfigurationError
from keeper.settings import http_address

TIMEOUT_S: Final = 3.0
LONGEST_ANSWER: Final = 4096
HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the addresses that mean all of this machine's


def answer(host: str, port: int) -> str:
    """Ask `/livez` and return the status line.

    Raises: OSError when nobody answers in time.
    """
    with socket.create_connection((HERE.get(host, host), port), TIMEOUT_S) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.makefile("r", encoding="latin-1").readline(LONGEST_ANSWER).strip()


def main() -> int:
    """Say how it is on the standard output, where container engines keep it."""
    try:
        status = answer(*http_address())
    except (OSError, ConfigurationError) as error:
        status = str(error)
    print(status)  # noqa: T201 - its output is the answer
    return 0 if status.split(" ")[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main())
