"""The common pattern: ask the pool for every account's health at every head, one `getUserAccountData` call each."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from web3 import HTTPProvider, Web3
from web3.types import RPCEndpoint, RPCResponse

from keeper.devnet.abi import call_data, result
from keeper.devnet.market import ACCOUNT_DATA
from tests.bench.figures import Pattern, middle

MOST: Final = 1_000
AT_ONCE: Final = 100
ROUNDS: Final = 3
_ABI: Final[list[Any]] = [
    {
        "name": "getUserAccountData",
        "type": "function",
        "stateMutability": "view",
        "inputs": [{"name": "user", "type": "address"}],
        "outputs": [{"name": f"value{place}", "type": "uint256"} for place in range(6)],
    }
]

Client = Callable[[Sequence[str]], Awaitable[int]]
"""Asks for all accounts and returns how many HTTP requests that took."""


class _Counting(HTTPProvider):
    """The library's provider, counting its requests."""

    count = 0

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        self.count += 1
        return super().make_request(method, params)


class Pool:
    """Clients of one market's pool."""

    def __init__(self, url: str, pool: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._pool = pool
        self._session = session

    @property
    def clients(self) -> dict[str, Client]:
        """Return the ways to ask, by name."""
        return {
            "web3.py, one by one": self._library,
            "aiohttp, one by one": self._one_by_one,
            f"aiohttp, {AT_ONCE} at once": self._at_once,
            f"JSON-RPC batches of {AT_ONCE}": self._batches,
        }

    async def _library(self, accounts: Sequence[str]) -> int:
        return await asyncio.to_thread(self._library_blocking, accounts)

    def _library_blocking(self, accounts: Sequence[str]) -> int:
        provider = _Counting(self._url)
        contract = Web3(provider).eth.contract(address=Web3.to_checksum_address(self._pool), abi=_ABI)
        for account in accounts:
            contract.functions.getUserAccountData(account).call()
        return provider.count

    async def _one_by_one(self, accounts: Sequence[str]) -> int:
        for account in accounts:
            await self._ask(account)
        return len(accounts)

    async def _at_once(self, accounts: Sequence[str]) -> int:
        for start in range(0, len(accounts), AT_ONCE):
            await asyncio.gather(*(self._ask(account) for account in accounts[start : start + AT_ONCE]))
        return len(accounts)

    async def _batches(self, accounts: Sequence[str]) -> int:
        count = 0
        for start in range(0, len(accounts), AT_ONCE):
            body = [self._request(account) for account in accounts[start : start + AT_ONCE]]
            for reply in await self._post(body):
                result(ACCOUNT_DATA, reply["result"])
            count += 1
        return count

    async def _ask(self, account: str) -> Any:
        return result(ACCOUNT_DATA, (await self._post(self._request(account)))["result"])

    def _request(self, account: str) -> dict[str, Any]:
        call = {"to": self._pool, "data": call_data(ACCOUNT_DATA, account)}
        return {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}

    async def _post(self, body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=msgspec.json.encode(body), headers=headers) as answer:
            return msgspec.json.decode(await answer.read())


async def measure(url: str, pool: str, accounts: Sequence[str], progress: Callable[[str], None]) -> list[Pattern]:
    """Ask for at most `MOST` of the accounts by every client in turn, several times, and scale to all of them."""
    asked = accounts[:MOST]
    times: dict[str, list[float]] = {}
    requests: dict[str, int] = {}
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    async with aiohttp.ClientSession(connector=connector) as session:
        clients = Pool(url, pool, session).clients
        for turn in range(ROUNDS):
            for name, client in clients.items():
                progress(f"the common pattern, round {turn + 1} of {ROUNDS}: {name}, {len(asked)} accounts")
                started_s = time.perf_counter()
                requests[name] = await client(asked)
                times.setdefault(name, []).append(time.perf_counter() - started_s)
    factor = len(accounts) / len(asked)
    return [
        Pattern(
            client=name,
            sampled=len(asked),
            sampled_s=middle(taken),
            seconds=middle(taken) * factor,
            requests=requests[name] * factor,
            calls=max(len(accounts), requests[name] * factor),
            is_extrapolated=factor > 1,
        )
        for name, taken in times.items()
    ]
