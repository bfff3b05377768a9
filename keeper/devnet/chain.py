"""A thin JSON-RPC client for the local node: batches, cheat codes, and transactions that are checked."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

import aiohttp
import msgspec
from eth_utils.address import to_checksum_address

from keeper.devnet.abi import call_data, parsed, result, revert_reason
from keeper.devnet.artifacts import Artifact
from keeper.errors import Fatal

# The first accounts of the node's well-known mnemonic: unlocked, rich, and the same on every start.
ADMIN: Final = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
ORACLE: Final = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
LENDER: Final = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
ANCHOR: Final = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
TREASURY: Final = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"

MAX_UINT: Final = 2**256 - 1
_GWEI: Final = 10**9
_DEPLOY_GAS: Final = 12_000_000
_CALL_GAS: Final = 8_000_000
_BULK_GAS_LIMIT: Final = 10**10
_BATCH: Final = 500
_EXECUTION_REVERTED: Final = 3
_RECEIPT_DEADLINE_S: Final = 60.0
_POLL_S: Final = 0.005

Receipt = dict[str, Any]


class RpcFailed(Fatal):
    """The node answered with an error; `data` is what a reverted call returned."""

    def __init__(self, method: str, error: Mapping[str, Any]) -> None:
        """Keep the parts of the JSON-RPC error."""
        self.code = int(error.get("code", 0))
        self.data = str(error.get("data") or "")
        super().__init__(f"{method}: {error.get('message', error)} {self.data}".rstrip())


class Reverted(Fatal):
    """A call or a transaction reverted; `reason` is the decoded string or the custom error's name."""

    def __init__(self, what: str, reason: str) -> None:
        """Keep the reason apart from the message."""
        self.reason = reason
        super().__init__(f"{what} reverted: {reason}")


@dataclass(frozen=True, slots=True)
class Tx:
    """A contract call to send from an unlocked or impersonated account."""

    sender: str
    to: str
    signature: str
    args: tuple[object, ...] = ()
    gas: int = _CALL_GAS

    def request(self, **more: str) -> dict[str, str]:
        """Return the call as JSON-RPC wants it."""
        data = call_data(self.signature, *self.args)
        return {"from": self.sender, "to": self.to, "data": data, "gas": hex(self.gas), **more}


class DevChain:
    """Talk to the local node. `errors` maps the selectors of the deployed contracts' custom errors to names."""

    def __init__(self, http_url: str) -> None:
        """Keep the address; the connection opens with the first request."""
        self.http_url = http_url
        self.errors: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open nothing yet: the session belongs to the running loop."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def rpc(self, method: str, *params: object) -> Any:
        """Make one request and return its result.

        Raises: RpcFailed when the node answers with an error.
        """
        answer = await self._post({"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        return _unwrap(method, answer)

    async def batch(self, requests: Sequence[tuple[str, Sequence[object]]]) -> list[Any]:
        """Make many requests and return their results in order; the node works on them concurrently.

        Raises: RpcFailed for the first that failed.
        """
        answers: list[Any] = []
        for start in range(0, len(requests), _BATCH):
            part = requests[start : start + _BATCH]
            body = [
                {"jsonrpc": "2.0", "id": index, "method": method, "params": params}
                for index, (method, params) in enumerate(part)
            ]
            replies = {reply["id"]: reply for reply in await self._post(body)}
            answers += [_unwrap(method, replies[index]) for index, (method, _) in enumerate(part)]
        return answers

    async def mine(self, n: int = 1) -> None:
        """Mine blocks now."""
        await self.rpc("anvil_mine", hex(n))

    async def set_automine(self, wanted: bool) -> None:  # noqa: FBT001 - the method's name says what it means
        """Mine a block for every transaction, or stop doing so."""
        await self.rpc("evm_setAutomine", wanted)

    async def is_automining(self) -> bool:
        """Say whether every transaction is mined at once."""
        return bool(await self.rpc("anvil_getAutomine"))

    async def set_interval(self, seconds: int) -> None:
        """Mine a block every so many seconds, and no longer one for every transaction; 0 stops it."""
        await self.rpc("evm_setIntervalMining", seconds)

    async def increase_time(self, seconds: int) -> None:
        """Move the clock of the next blocks forward."""
        await self.rpc("evm_increaseTime", seconds)

    async def set_next_timestamp(self, timestamp_s: int) -> None:
        """Choose the timestamp of the next block."""
        await self.rpc("evm_setNextBlockTimestamp", timestamp_s)

    async def snapshot(self) -> str:
        """Remember the state; `revert` goes back to it, once."""
        return str(await self.rpc("evm_snapshot"))

    async def revert(self, snapshot: str) -> None:
        """Go back to a snapshot.

        Raises: Fatal when it is unknown.
        """
        if not await self.rpc("evm_revert", snapshot):
            raise Fatal(f"no such snapshot: {snapshot}")

    async def set_balance(self, address: str, wei: int) -> None:
        """Set an account's native balance."""
        await self.rpc("anvil_setBalance", address, hex(wei))

    async def set_next_base_fee(self, wei: int) -> None:
        """Choose the base fee of the next block."""
        await self.rpc("anvil_setNextBlockBaseFeePerGas", hex(wei))

    async def block_number(self) -> int:
        """Return the number of the latest block."""
        return int(await self.rpc("eth_blockNumber"), 16)

    async def header(self, block: str = "latest") -> dict[str, Any]:
        """Return a block without its transactions' bodies."""
        return cast("dict[str, Any]", await self.rpc("eth_getBlockByNumber", block, False))  # noqa: FBT003 - JSON-RPC

    async def auto_impersonate(self, wanted: bool) -> None:  # noqa: FBT001 - the method's name says what it means
        """Let everybody send transactions without a key, or no longer."""
        await self.rpc("anvil_autoImpersonateAccount", wanted)

    @asynccontextmanager
    async def impersonate(self, address: str) -> AsyncIterator[None]:
        """Let the block send transactions of an account without its key, with enough native balance for gas."""
        await self.rpc("anvil_impersonateAccount", address)
        if int(await self.rpc("eth_getBalance", address, "latest"), 16) < _GWEI * _GWEI:
            await self.set_balance(address, 10 * _GWEI * _GWEI)
        try:
            yield
        finally:
            await self.rpc("anvil_stopImpersonatingAccount", address)

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Mine only on request; afterwards the node mines as before. An interval, if one is set, goes on."""
        automine = await self.is_automining()
        await self.set_automine(False)
        try:
            yield
        finally:
            await self.set_automine(automine)

    @asynccontextmanager
    async def bulk(self) -> AsyncIterator[None]:
        """Mine only on request and without a practical gas limit; both come back afterwards."""
        gas_limit = (await self.rpc("anvil_nodeInfo"))["environment"]["gasLimit"]
        async with self.held():
            await self.rpc("evm_setBlockGasLimit", hex(_BULK_GAS_LIMIT))
            try:
                yield
            finally:
                await self.rpc("evm_setBlockGasLimit", gas_limit)

    async def deploy(
        self, artifact: Artifact, *args: object, libraries: Mapping[str, str] | None = None, sender: str = ADMIN
    ) -> str:
        """Deploy a contract and return its address.

        Raises: Reverted when its constructor does.
        """
        self.errors.update(artifact.errors)
        data = artifact.creation(args, libraries or {})
        request = {"from": sender, "data": data, "gas": hex(_DEPLOY_GAS)}
        receipt = await self.receipt(await self.rpc("eth_sendTransaction", request))
        await self._check(f"the constructor of {artifact.name}", receipt)
        return to_checksum_address(receipt["contractAddress"])

    async def send(self, to: str, signature: str, *args: object, sender: str = ADMIN) -> Receipt:
        """Send a transaction of an unlocked account and wait until it is mined.

        Raises: Reverted with the decoded reason.
        """
        tx = Tx(sender, to, signature, args)
        receipt = await self.receipt(await self.rpc("eth_sendTransaction", tx.request()))
        await self._check(parsed(signature).name, receipt)
        return receipt

    async def submit(self, txs: Iterable[Tx], *, max_fee_wei: int | None = None) -> list[str]:
        """Put transactions into the pool, in order for each sender, and return their hashes.

        The node orders a block by the maximum fee, not by the tip: `max_fee_wei` is the bid.
        """
        wanted = list(txs)
        senders = list(dict.fromkeys(tx.sender for tx in wanted))
        counts = await self.batch([("eth_getTransactionCount", (sender, "pending")) for sender in senders])
        # Explicit nonces, because a batch is worked on concurrently; one fee, because the pool orders by it.
        nonces = {sender: int(count, 16) for sender, count in zip(senders, counts, strict=True)}
        fee = max_fee_wei or 2 * int((await self.header())["baseFeePerGas"], 16) + _GWEI
        requests: list[tuple[str, Sequence[object]]] = []
        for tx in wanted:
            nonce = nonces[tx.sender]
            nonces[tx.sender] = nonce + 1
            request = tx.request(nonce=hex(nonce), maxFeePerGas=hex(fee), maxPriorityFeePerGas="0x1")
            requests.append(("eth_sendTransaction", (request,)))
        return [str(sent) for sent in await self.batch(requests)]

    async def send_all(self, txs: Iterable[Tx]) -> list[Receipt]:
        """Send transactions, mine them in one block and check every receipt; call it inside `held()` or `bulk()`.

        Raises: Reverted for the first that failed.
        """
        wanted = list(txs)
        hashes = await self.submit(wanted)
        await self.mine()
        found = await self.batch([("eth_getTransactionReceipt", (sent,)) for sent in hashes])
        receipts = [await self.receipt(sent) if got is None else got for sent, got in zip(hashes, found, strict=True)]
        for tx, receipt in zip(wanted, receipts, strict=True):
            await self._check(f"{parsed(tx.signature).name}{tx.args} from {tx.sender}", receipt)
        return receipts

    async def call(self, to: str, signature: str, *args: object, sender: str = ADMIN, block: str = "latest") -> Any:
        """Call a view function: one result comes back as itself, several as a tuple.

        Raises: Reverted with the decoded reason.
        """
        request = {"from": sender, "to": to, "data": call_data(signature, *args)}
        try:
            return result(signature, await self.rpc("eth_call", request, block))
        except RpcFailed as failed:
            if failed.code != _EXECUTION_REVERTED:
                raise
            raise Reverted(parsed(signature).name, revert_reason(failed.data, self.errors)) from failed

    async def call_all(self, calls: Iterable[tuple[str, str, tuple[object, ...]]], block: str = "latest") -> list[Any]:
        """Call many view functions, given as (address, signature, arguments), in batches."""
        wanted = list(calls)
        requests = [
            ("eth_call", ({"to": to, "data": call_data(signature, *args)}, block)) for to, signature, args in wanted
        ]
        answers = await self.batch(requests)
        return [result(signature, answer) for (_, signature, _), answer in zip(wanted, answers, strict=True)]

    async def receipt(self, sent: str) -> Receipt:
        """Wait for a transaction's receipt.

        Raises: Fatal when it is not mined within a minute.
        """
        deadline = time.monotonic() + _RECEIPT_DEADLINE_S
        while time.monotonic() < deadline:
            found = await self.rpc("eth_getTransactionReceipt", sent)
            if found is not None:
                return cast("Receipt", found)
            await asyncio.sleep(_POLL_S)
        raise Fatal(f"transaction {sent} was not mined")

    async def _check(self, what: str, receipt: Receipt) -> None:
        if int(receipt["status"], 16) == 1:
            return
        trace = await self.rpc("debug_traceTransaction", receipt["transactionHash"], {"tracer": "callTracer"})
        raise Reverted(what, revert_reason(str(trace.get("output") or ""), self.errors))

    async def _post(self, body: object) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers={"Content-Type": "application/json"})
        async with self._session.post(self.http_url, data=msgspec.json.encode(body)) as response:
            return msgspec.json.decode(await response.read())


def _unwrap(method: str, answer: Mapping[str, Any]) -> Any:
    if "error" in answer:
        raise RpcFailed(method, answer["error"])
    return answer["result"]
