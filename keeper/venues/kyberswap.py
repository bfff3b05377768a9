"""KyberSwap: Aggregator API v1, two requests, no key.

`GET /{chain}/api/v1/routes` takes tokenIn, tokenOut, amountIn and origin; it answers `data` with a routeSummary and the
router's address. `POST /{chain}/api/v1/route/build` takes that summary as it came, sender, recipient, origin,
slippageTolerance (hundredths of a percent) and source; it answers `data` with amountOut, data, routerAddress,
transactionValue and gas. `code` is 0 where all is well, and names the fault otherwise. `x-client-id` says who asks.
Three requests a second are free, so that a quote takes a `timeout_ms` of 700 at least.

Source: docs.kyberswap.com, developer guide, Aggregator API specification, EVM swaps, rate limits and client id; the router's functions from
KyberNetwork/smart-intent-sc, IKSSwapRouterV2, and the verified MetaAggregationRouterV2.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keeper.chain.wire import data, fixed, hex_of
from keeper.domain.chain import ViewCall
from keeper.domain.units import Address, TokenAmount
from keeper.venues.allow import Ask, Layout, Offer, Path, number
from keeper.venues.door import Line, NoOffer
from keeper.venues.service import Profile

ROUTER: Final = Address(bytes.fromhex("6131b5fae19ea4f9d964eac0408e4408b66337b5"))
"""MetaAggregationRouterV2, at one address on every chain here. Source: docs.kyberswap.com, contracts."""
SLUGS: Final = {
    1: "ethereum",
    10: "optimism",
    56: "bsc",
    137: "polygon",
    8453: "base",
    42161: "arbitrum",
    43114: "avalanche",
}
"""Source: docs.kyberswap.com, EVM swaps, chain identifiers."""
_PARTIAL_FILL: Final = 0x01
_REQUIRES_EXTRA_ETH: Final = 0x02
_BURN_FROM_MSG_SENDER: Final = 0x08
_BURN_FROM_TX_ORIGIN: Final = 0x10
_NEVER: Final = _PARTIAL_FILL | _REQUIRES_EXTRA_ETH | _BURN_FROM_MSG_SENDER | _BURN_FROM_TX_ORIGIN
_CLIENT: Final = "keeper"
_DESCRIPTION: Final = "(address,address,address[],uint256[],address[],uint256[],address,uint256,uint256,uint256,bytes)"


def _described(signature: str, at: Path) -> Layout:
    """Return the layout of a function by where its description of the swap is. A zero receiver stands for the caller."""
    return Layout(
        signature=signature,
        give=(*at, 0),
        take=(*at, 1),
        recipient=(*at, 6),
        amount=(*at, 7),
        least=(*at, 8),
        unset=(((*at, 9), _NEVER),),
    )


SWAP: Final = _described(f"swap((address,address,bytes,{_DESCRIPTION},bytes))", (0, 3))
SWAP_SIMPLE_MODE: Final = _described(f"swapSimpleMode(address,{_DESCRIPTION},bytes,bytes)", (1,))
PROFILE: Final = Profile(
    name="kyberswap",
    url="https://aggregator-api.kyberswap.com",
    routers=dict.fromkeys(SLUGS, ROUTER),
    layouts=(SWAP, SWAP_SIMPLE_MODE),
    pace_ms=(334, 334),
    takes_key=False,
)


class _Summary(msgspec.Struct):
    routeSummary: msgspec.Raw  # noqa: N815 - the service's own name


class _Routes(msgspec.Struct):
    code: int
    data: _Summary | None = None


class _Call(msgspec.Struct):
    amountOut: str  # noqa: N815
    data: str
    routerAddress: str  # noqa: N815
    transactionValue: str = "0"  # noqa: N815
    gas: str = "0"


class _Built(msgspec.Struct):
    code: int
    data: _Call | None = None


@dataclass(frozen=True, slots=True)
class KyberSwap:
    """Implement `Service`. `slug` is the chain's name in its paths, where it is none of those known; else its number."""

    chain_id: int
    root: Address
    slug: str = ""

    @property
    def profile(self) -> Profile:
        """Return what is known of it."""
        return PROFILE

    @property
    def router(self) -> Address:
        """Return the router, or refuse another."""
        return PROFILE.router(self.chain_id, self.root)

    def headers(self, key: str) -> Mapping[str, str]:
        """Return who asks: it has no keys."""
        del key
        return {"x-client-id": _CLIENT}

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return nothing: it needs no facts."""
        del tokens
        return []

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return nothing: the receiver and the least amount bind whatever executes the swap."""
        del ask
        return frozenset()

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for a route, then for its call."""
        base = f"/{self.slug or SLUGS.get(self.chain_id, self.chain_id)}/api/v1"
        query = {
            "tokenIn": hex_of(ask.give),
            "tokenOut": hex_of(ask.take),
            "amountIn": str(ask.amount),
            "origin": hex_of(ask.origin),
        }
        routes = msgspec.json.decode(await line.get(f"{base}/routes", query), type=_Routes)
        if routes.code != 0 or routes.data is None:
            raise NoOffer(f"kyberswap: code {routes.code}")
        chosen = {
            "routeSummary": routes.data.routeSummary,
            "sender": hex_of(ask.executor),
            "recipient": hex_of(ask.executor),
            "origin": hex_of(ask.origin),
            "slippageTolerance": ask.tolerance_bps,
            "source": _CLIENT,
        }
        built = msgspec.json.decode(await line.post(f"{base}/route/build", chosen), type=_Built)
        if built.code != 0 or built.data is None:
            raise NoOffer(f"kyberswap: code {built.code}")
        return Offer(
            router=Address(fixed(built.data.routerAddress, 20)),
            data=data(built.data.data),
            amount=TokenAmount(number(built.data.amountOut)),
            gas=number(built.data.gas),
            value=number(built.data.transactionValue),
        )
