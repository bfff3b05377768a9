"""US dollar prices of tokens, for protocols whose own oracles quote something else.

A chain file names an oracle that prices many tokens (the interface of Aave's), or a Chainlink feed for a token.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import UINT128, WORD, address_word, selector, view
from keeper.domain.chain import ViewResult
from keeper.domain.ports import Reads
from keeper.domain.units import BASE_UNIT, NATIVE, Address, Base

GET_PRICE: Final = selector("getAssetPrice(address)")
_MAX_DECIMALS: Final = 36


@dataclass(frozen=True, slots=True)
class Prices:
    """Where to ask for prices. Native currency is priced as the token that wraps it."""

    wrapped_native: Address
    oracle: Address | None = None
    feeds: Mapping[Address, Address] = field(default_factory=dict)

    async def read(self, reads: Reads, tokens: Collection[Address] = ()) -> Mapping[Address, Base]:
        """Read the prices of whole tokens, and of native currency; what nothing prices is left out.

        A token's own feed counts before the oracle. The request is shared with everything read at the same time.
        """
        wanted = {*tokens, self.wrapped_native} - {NATIVE}
        fed, listed = sorted(wanted & self.feeds.keys()), sorted(wanted - self.feeds.keys())
        by_feed, by_oracle = await asyncio.gather(self._by_feed(reads, fed), self._by_oracle(reads, listed))
        found = {**by_feed, **by_oracle}
        native = found.get(self.wrapped_native)
        return found if native is None else {**found, NATIVE: native}

    async def _by_feed(self, reads: Reads, tokens: list[Address]) -> dict[Address, Base]:
        questions = [view(self.feeds[each], what) for each in tokens for what in (abi.LATEST_ROUND, abi.DECIMALS)]
        answers = await reads.many(questions) if questions else ()
        pairs = zip(tokens, answers[::2], answers[1::2], strict=True)
        priced = {token: _scaled(answer, decimals) for token, answer, decimals in pairs}
        return {token: price for token, price in priced.items() if price is not None}

    async def _by_oracle(self, reads: Reads, tokens: list[Address]) -> dict[Address, Base]:
        if self.oracle is None or not tokens:
            return {}
        answers = await reads.many([view(self.oracle, GET_PRICE, address_word(each)) for each in tokens])
        said = {token: _word(answer) for token, answer in zip(tokens, answers, strict=True)}
        return {token: Base(price) for token, price in said.items() if 0 < price < UINT128}


def _scaled(answer: ViewResult, decimals: ViewResult) -> Base | None:
    """Bring a feed's answer to the base currency's decimals, rounding down."""
    price, places = abi.round_answer(answer), _word(decimals)
    if price is None or not decimals.ok or places > _MAX_DECIMALS:
        return None
    scaled = price * BASE_UNIT // 10**places
    return Base(scaled) if scaled else None


def _word(result: ViewResult) -> int:
    return int.from_bytes(result.data, "big") if result.ok and len(result.data) == WORD else 0
