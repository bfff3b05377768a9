"""The generic client library behind the same door, for what is not on the block path."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

from eth_utils.address import to_checksum_address
from web3 import AsyncWeb3
from web3.exceptions import Web3Exception
from web3.providers.async_base import AsyncBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from keeper.chain.failures import RpcError
from keeper.chain.mask import printable
from keeper.chain.rpc import Rpc
from keeper.chain.turns import Priority
from keeper.chain.wire import hex_of
from keeper.domain.units import Address
from keeper.errors import Transient

_TEXT: Final = 200
_NOT_ACCEPTED: Final = -32000


class DoorProvider(AsyncBaseProvider):
    """Makes the library's requests through the pool: its failover, its budget, its masking."""

    def __init__(self, rpc: Rpc) -> None:
        """Use a started pool. Contracts cannot make the library fetch from elsewhere (CCIP is off)."""
        super().__init__()
        self._rpc = rpc
        self.global_ccip_read_enabled = False

    def __str__(self) -> str:
        return "DoorProvider"

    async def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """Make one call; a raw transaction is broadcast once to every node.

        Raises: Transient.
        """
        if method == "eth_sendRawTransaction":
            return await self._send(params[0])
        (result,) = await self._rpc.batch([(method, params)], priority=Priority.READ)
        if isinstance(result, RpcError):
            error = {"code": result.code, "message": result.message, "data": hex_of(result.data)}
            return cast("RPCResponse", {"jsonrpc": "2.0", "id": 0, "error": error})
        return cast("RPCResponse", {"jsonrpc": "2.0", "id": 0, "result": result})

    async def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: FBT001, FBT002 - the library's signature
        """Return whether some node can be asked."""
        del show_traceback
        return bool(self._rpc.usable())

    async def _send(self, raw: str | bytes) -> RPCResponse:
        report = await self._rpc.send_raw(raw if isinstance(raw, bytes) else bytes.fromhex(raw.removeprefix("0x")))
        if report.is_accepted:
            return cast("RPCResponse", {"jsonrpc": "2.0", "id": 0, "result": hex_of(report.tx_hash)})
        told = "; ".join(f"{each.node}: {each.verdict} {each.message}" for each in report.answers)
        return cast("RPCResponse", {"jsonrpc": "2.0", "id": 0, "error": {"code": _NOT_ACCEPTED, "message": told}})


def web3_through(rpc: Rpc) -> "AsyncWeb3[DoorProvider]":
    """Return the library's client on a started pool, without its own extra `eth_chainId` calls."""
    client = AsyncWeb3(DoorProvider(rpc))
    client.middleware_onion.remove("validation")
    return client


async def read_code(rpc: Rpc, addresses: Sequence[Address]) -> list[bytes]:
    """Return the contract code at each address, empty where there is none.

    Raises: Transient.
    """
    client = web3_through(rpc)
    try:
        found = await asyncio.gather(*(client.eth.get_code(to_checksum_address(address)) for address in addresses))
    except Web3Exception as refused:
        raise Transient(f"no node told the code of a contract: {printable(str(refused), _TEXT)}") from None
    return [bytes(code) for code in found]
