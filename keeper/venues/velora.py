"""Velora, formerly ParaSwap: Market API with Augustus v6.2, one request, no key.

`GET /swap` joins `/prices` and `/transactions`: it takes srcToken, srcDecimals, destToken, destDecimals, amount, side,
network, userAddress, receiver, slippage (hundredths of a percent), version and includeContractMethods, which keeps to the
general function: the optimised ones pack their tokens into pools. It leaves out sources that ask for signatures, checks
neither balance nor allowance, and answers `priceRoute` (srcAmount, destAmount, gasCost) and `txParams` (to, data, value). Its rate
limit is not published, only that it is lower than that of the two.

Source: developers.velora.xyz, "Get Price & Calldata: /swap"; docs.velora.xyz, API reference, market; the SDK's types in
paraswap/paraswap-sdk, src/methods/swap/swapTx.ts; developers.velora.xyz, Augustus v6.2 interfaces.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keeper.chain.wire import data, fixed, hex_of
from keeper.domain.abi import DECIMALS, WORD, view
from keeper.domain.chain import ViewCall
from keeper.domain.units import Address, TokenAmount
from keeper.venues.allow import Ask, Layout, Offer, number
from keeper.venues.door import Line, NoOffer
from keeper.venues.service import Profile

AUGUSTUS: Final = Address(bytes.fromhex("6a000f20005980200259b80c5102003040001068"))
"""Augustus v6.2, at one address on every chain here; it also gets the allowance.

Source: developers.velora.xyz, Augustus v6.2; paraswap/paraswap-dex-lib, src/config.ts.
"""
_CHAINS: Final = (1, 10, 56, 137, 8453, 42161, 43114)
_MOST_DECIMALS: Final = 77

# A zero beneficiary stands for the caller, and is what the service writes where that is the receiver.
# Source: paraswap/paraswap-dex-lib, src/generic-swap-transaction-builder.ts
SWAP_EXACT_AMOUNT_IN: Final = Layout(
    signature=(
        "swapExactAmountIn(address,(address,address,uint256,uint256,uint256,bytes32,address),uint256,bytes,bytes)"
    ),
    give=(1,),
    take=(2,),
    amount=(3,),
    least=(4,),
    recipient=(7,),
)
PROFILE: Final = Profile(
    name="velora",
    url="https://api.velora.xyz",
    routers=dict.fromkeys(_CHAINS, AUGUSTUS),
    layouts=(SWAP_EXACT_AMOUNT_IN,),
    pace_ms=(500, 500),
    takes_key=False,
)


class _Route(msgspec.Struct):
    destAmount: str  # noqa: N815 - the service's own names
    gasCost: str = "0"  # noqa: N815


class _Tx(msgspec.Struct):
    to: str
    data: str
    value: str


class _Answer(msgspec.Struct):
    priceRoute: _Route  # noqa: N815
    txParams: _Tx  # noqa: N815


@dataclass(frozen=True, slots=True)
class Velora:
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
        """Return nothing: its documentation names no key."""
        del key
        return {}

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return the questions for the tokens' decimals."""
        return [view(token, DECIMALS) for token in sorted(tokens)]

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return nothing: the beneficiary and the least amount bind whatever executes the swap."""
        del ask
        return frozenset()

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for one amount."""
        query = {
            "srcToken": hex_of(ask.give),
            "srcDecimals": str(_decimals(ask, ask.give)),
            "destToken": hex_of(ask.take),
            "destDecimals": str(_decimals(ask, ask.take)),
            "amount": str(ask.amount),
            "side": "SELL",
            "network": str(self.chain_id),
            "userAddress": hex_of(ask.executor),
            "receiver": hex_of(ask.executor),
            "slippage": str(ask.tolerance_bps),
            "version": "6.2",
            "includeContractMethods": "swapExactAmountIn",
            "ignoreBadUsdPrice": "true",
        }
        found = msgspec.json.decode(await line.get("/swap", query), type=_Answer)
        return Offer(
            router=Address(fixed(found.txParams.to, 20)),
            data=data(found.txParams.data),
            amount=TokenAmount(number(found.priceRoute.destAmount)),
            gas=number(found.priceRoute.gasCost),
            value=number(found.txParams.value),
        )


def _decimals(ask: Ask, token: Address) -> int:
    """Return a token's decimals as it tells them itself."""
    told = ask.facts.get(view(token, DECIMALS))
    decimals = int.from_bytes(told.data[:WORD], "big") if told is not None and told.ok else _MOST_DECIMALS + 1
    if told is None or len(told.data) < WORD or decimals > _MOST_DECIMALS:
        raise NoOffer("velora: a token without decimals")
    return decimals
