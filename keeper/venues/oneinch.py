"""1inch: Classic Swap API v6.1, one request, a key needed.

`GET /swap/v6.1/{chain}/swap` takes src, dst, amount, from (who calls the router), origin (who sends the transaction),
slippage in percent (0 to 50), receiver, `disableEstimate` (the executor holds nothing yet) and `compatibility`, which
keeps to the router's general `swap`; the others name no tokens. It answers `dstAmount` and `tx` (to, data, value, gas).
A refusal is HTTP 400 with `error` and `description`. The key goes into `Authorization: Bearer`.

Source: business.1inch.com/portal, Classic Swap v6.1, "Generate calldata to swap"; 1inch/1inch-sdk-go, aggregation types
generated from its OpenAPI file; the calldata as 1inch's own examples have it, and the verified source of the router.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keeper.chain.wire import data, fixed, hex_of
from keeper.domain.chain import ViewCall
from keeper.domain.units import Address, TokenAmount
from keeper.venues.allow import Ask, Layout, Offer, number
from keeper.venues.door import Line
from keeper.venues.service import Profile, percent

ROUTER: Final = Address(bytes.fromhex("111111125421ca6dc452d289314280a0f8842a65"))
"""Aggregation Router V6, at one address on every chain here. Source: business.1inch.com/portal, supported chains."""
_CHAINS: Final = (1, 10, 56, 137, 8453, 42161, 43114)
_PARTIAL_FILL: Final = 1 << 0
_REQUIRES_EXTRA_ETH: Final = 1 << 1
_USE_PERMIT2: Final = 1 << 2

# A zero receiver stands for the caller. Source: GenericRouter.swap of the verified Aggregation Router V6
SWAP: Final = Layout(
    signature="swap(address,(address,address,address,address,uint256,uint256,uint256),bytes)",
    give=(1,),
    take=(2,),
    recipient=(4,),
    amount=(5,),
    least=(6,),
    unset=(((7,), _PARTIAL_FILL | _REQUIRES_EXTRA_ETH | _USE_PERMIT2),),
)
PROFILE: Final = Profile(
    name="oneinch",
    url="https://api.1inch.com",
    routers=dict.fromkeys(_CHAINS, ROUTER),
    layouts=(SWAP,),
    pace_ms=(1000, 1000),
    needs_key=True,
)


class _Tx(msgspec.Struct):
    to: str
    data: str
    value: str
    gas: int = 0


class _Answer(msgspec.Struct):
    dstAmount: str  # noqa: N815 - the service's own name
    tx: _Tx
    gas: int = 0


@dataclass(frozen=True, slots=True)
class OneInch:
    """Implement `Service`."""

    chain_id: int
    root: Address

    @property
    def profile(self) -> Profile:
        """Return what is known of it."""
        return PROFILE

    @property
    def router(self) -> Address:
        """Return the router, or refuse another."""
        return PROFILE.router(self.chain_id, self.root)

    def headers(self, key: str) -> Mapping[str, str]:
        """Return the key as a bearer's."""
        return {"Authorization": f"Bearer {key}"}

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return nothing: it needs no facts."""
        del tokens
        return []

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return nothing: the receiver and the least amount bind whatever executes the swap."""
        del ask
        return frozenset()

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for one amount."""
        query = {
            "src": hex_of(ask.give),
            "dst": hex_of(ask.take),
            "amount": str(ask.amount),
            "from": hex_of(ask.executor),
            "origin": hex_of(ask.origin),
            "receiver": hex_of(ask.executor),
            "slippage": percent(ask.tolerance_bps),
            "disableEstimate": "true",
            "allowPartialFill": "false",
            "compatibility": "true",
            "includeGas": "true",
        }
        body = await line.get(f"/swap/v6.1/{self.chain_id}/swap", query)
        found = msgspec.json.decode(body, type=_Answer)
        return Offer(
            router=Address(fixed(found.tx.to, 20)),
            data=data(found.tx.data),
            amount=TokenAmount(number(found.dstAmount)),
            gas=found.gas or found.tx.gas,
            value=number(found.tx.value),
        )
