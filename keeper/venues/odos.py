"""Odos: smart order routing API v3, two requests, a key for more than one request a second.

`POST /sor/quote/v3` takes chainId, inputTokens (tokenAddress, amount), outputTokens (tokenAddress, proportion), userAddr,
slippageLimitPercent and `compact`, false of which keeps to calldata that can be read; addresses are checksummed. It
answers `pathId` and outAmounts. `POST /sor/assemble` makes a transaction (to, data, value, gas) of that path within 60
seconds; `receiver` is where the output goes. The key goes into `x-api-key`, on a host of its own. What the swap brings
beyond the quote stays with the router.

The second version was retired in January 2026; without a key there is one request a second, so that a quote takes
more than one: it needs a `timeout_ms` of 2500 at least.

Source: docs.odos.xyz, API, sor/quote, sor/assemble, authentication, v3 migration; odos-xyz OdosRouterV3.sol.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from eth_utils.address import to_checksum_address

from keeper.chain.wire import data, fixed
from keeper.domain.chain import ViewCall
from keeper.domain.units import Address, TokenAmount
from keeper.venues.allow import Ask, Layout, Offer, number
from keeper.venues.door import Line, NoOffer
from keeper.venues.service import Profile, percent

ROUTER: Final = Address(bytes.fromhex("0d05a7d3448512b78fa8a9e46c4872c88c4a0d05"))
"""OdosRouterV3, at one address on every chain. Source: docs.odos.xyz, v3 migration."""
_CHAINS: Final = (1, 10, 56, 137, 8453, 42161, 43114)

# A zero receiver stands for the caller. Source: OdosRouterV3.swap and _swap
SWAP: Final = Layout(
    signature="swap((address,uint256,address,address,uint256,uint256,address),bytes,address,(uint64,uint64,address))",
    give=(0,),
    amount=(1,),
    take=(3,),
    least=(5,),
    recipient=(6,),
)
PROFILE: Final = Profile(
    name="odos",
    url="https://api.odos.xyz",
    routers=dict.fromkeys(_CHAINS, ROUTER),
    layouts=(SWAP,),
    pace_ms=(1000, 100),
    keyed_url="https://enterprise-api.odos.xyz",
)


class _Quote(msgspec.Struct):
    pathId: str | None = None  # noqa: N815 - the service's own name


class _Token(msgspec.Struct):
    tokenAddress: str  # noqa: N815
    amount: str


class _Transaction(msgspec.Struct):
    to: str
    data: str
    value: str
    gas: int = 0


class _Assembled(msgspec.Struct):
    outputTokens: list[_Token]  # noqa: N815
    transaction: _Transaction


@dataclass(frozen=True, slots=True)
class Odos:
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
        """Return the key, where there is one."""
        return {"x-api-key": key} if key else {}

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return nothing: it needs no facts."""
        del tokens
        return []

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return nothing: the receiver and the least amount bind whatever executes the path."""
        del ask
        return frozenset()

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for a path, then for its transaction."""
        user = to_checksum_address(ask.executor)
        wanted = {
            "chainId": self.chain_id,
            "inputTokens": [{"tokenAddress": to_checksum_address(ask.give), "amount": str(ask.amount)}],
            "outputTokens": [{"tokenAddress": to_checksum_address(ask.take), "proportion": 1}],
            "userAddr": user,
            "slippageLimitPercent": msgspec.Raw(percent(ask.tolerance_bps).encode()),
            "compact": False,
        }
        quote = msgspec.json.decode(await line.post("/sor/quote/v3", wanted), type=_Quote)
        if not quote.pathId:
            raise NoOffer("odos: no path")
        chosen = {"userAddr": user, "pathId": quote.pathId, "simulate": False, "receiver": user}
        found = msgspec.json.decode(await line.post("/sor/assemble", chosen), type=_Assembled)
        if len(found.outputTokens) != 1:
            raise ValueError("not one output")
        return Offer(
            router=Address(fixed(found.transaction.to, 20)),
            data=data(found.transaction.data),
            amount=TokenAmount(number(found.outputTokens[0].amount)),
            gas=max(found.transaction.gas, 0),
            value=number(found.transaction.value),
        )
