"""0x: Swap API v2 in its AllowanceHolder flavour, one request, a key needed.

`GET /swap/allowance-holder/quote` takes chainId, sellToken, buyToken, sellAmount, taker, txOrigin (where the taker is a
contract), recipient and slippageBps; it answers `liquidityAvailable`, and then buyAmount, minBuyAmount and `transaction`
(to, data, value, gas, which may be null). The headers are `0x-api-key` and `0x-version: v2`. The other flavour needs a
signature of Permit2, which a contract without a key cannot give.

`transaction.to` is the AllowanceHolder, and so is who gets the allowance: for the length of its `exec` it lets one
operator take a token, and calls a target. Both have to be the Settler, whose address changes with every release: the
registry tells the current one (`ownerOf(2)`, 2 being swaps that the taker submits) and the one before (`prev(2)`), which
the service goes on using for a while. A registry that reverts says that it is paused. Settler's `execute` then names the
recipient, the token and the least amount.

Five requests a second are free; an account that asks for quotes and hardly ever trades may be blocked.

Source: docs.0x.org, getQuote (Allowance Holder), core concepts, contracts, and rate limits; 0xProject/0x-settler, README,
src/allowanceholder/AllowanceHolderBase.sol, src/interfaces/ISettlerTakerSubmitted.sol, chain_config.json.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from keeper.chain.wire import data, fixed, hex_of
from keeper.domain.abi import WORD, number_word, selector, view
from keeper.domain.chain import ViewCall
from keeper.domain.units import Address, TokenAmount
from keeper.venues.allow import INNER, Ask, Layout, Offer, number
from keeper.venues.door import Line, NoOffer
from keeper.venues.service import Profile

ALLOWANCE_HOLDER: Final = Address(bytes.fromhex("0000000000001ff3684f28c67538d4d072c22734"))
"""On chains with transient storage. Source: 0xProject/0x-settler, src/allowanceholder/AllowanceHolderContext.sol."""
REGISTRY: Final = Address(bytes.fromhex("00000000000004533fe15556b1e086bb1a72ceae"))
"""Source: 0xProject/0x-settler, README and chain_config.json."""
_CHAINS: Final = (1, 10, 56, 137, 8453, 42161, 43114)
_TAKER_SUBMITTED: Final = 2
_SETTLERS: Final = (
    view(REGISTRY, selector("ownerOf(uint256)"), number_word(_TAKER_SUBMITTED)),
    view(REGISTRY, selector("prev(uint128)"), number_word(_TAKER_SUBMITTED)),
)

EXEC: Final = Layout(
    signature="exec(address,address,uint256,address,bytes)",
    give=(1,),
    amount=(2,),
    take=(INNER, 1),
    recipient=(INNER, 0),
    least=(INNER, 2),
    trusted=((0,), (3,)),
    is_zero_caller=False,
    inner=((4,), "execute((address,address,uint256),bytes[],bytes32)"),
)
PROFILE: Final = Profile(
    name="zerox",
    url="https://api.0x.org",
    routers=dict.fromkeys(_CHAINS, ALLOWANCE_HOLDER),
    layouts=(EXEC,),
    pace_ms=(200, 200),
    needs_key=True,
    views_last=False,
)


class _Transaction(msgspec.Struct):
    to: str
    data: str
    value: str
    gas: str | None = None


class _Answer(msgspec.Struct):
    liquidityAvailable: bool  # noqa: N815 - the service's own names
    buyAmount: str = ""  # noqa: N815
    transaction: _Transaction | None = None


@dataclass(frozen=True, slots=True)
class ZeroEx:
    """Implement `Service`."""

    chain_id: int
    root: Address

    @property
    def profile(self) -> Profile:
        """Return what is known of it."""
        return PROFILE

    @property
    def router(self) -> Address:
        """Return the AllowanceHolder, or refuse another."""
        return PROFILE.router(self.chain_id, self.root)

    def headers(self, key: str) -> Mapping[str, str]:
        """Return the key and the version."""
        return {"0x-api-key": key, "0x-version": "v2"}

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return the questions to the registry."""
        del tokens
        return _SETTLERS

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return the current Settler and the one before; none where the registry says that it is paused."""
        current, before = (ask.facts.get(each) for each in _SETTLERS)
        if current is None or not current.ok:
            return frozenset()
        told = [each.data for each in (current, before) if each is not None and each.ok and len(each.data) == WORD]
        return frozenset(Address(word[-20:]) for word in told if any(word[-20:]) and not any(word[:-20]))

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for one amount."""
        query = {
            "chainId": str(self.chain_id),
            "sellToken": hex_of(ask.give),
            "buyToken": hex_of(ask.take),
            "sellAmount": str(ask.amount),
            "taker": hex_of(ask.executor),
            "txOrigin": hex_of(ask.origin),
            "recipient": hex_of(ask.executor),
            "slippageBps": str(ask.tolerance_bps),
        }
        found = msgspec.json.decode(await line.get("/swap/allowance-holder/quote", query), type=_Answer)
        if not found.liquidityAvailable:
            raise NoOffer("zerox: no liquidity")
        if found.transaction is None:
            raise ValueError("liquidity, but no transaction")
        return Offer(
            router=Address(fixed(found.transaction.to, 20)),
            data=data(found.transaction.data),
            amount=TokenAmount(number(found.buyAmount)),
            gas=number(found.transaction.gas or "0"),
            value=number(found.transaction.value),
        )
