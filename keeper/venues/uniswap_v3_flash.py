"""Uniswap v3's pools as lenders: any of them lends what it holds, for its fee."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain.abi import BALANCE_OF, WORD, address_word, number_word, view
from keeper.domain.chain import ViewResult
from keeper.domain.fixed import div_up
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, TokenAmount
from keeper.venues.factories import swappable
from keeper.venues.ticks import FEE_UNIT
from keeper.venues.uniswap_v3_factory import INIT_CODE_HASH, LIQUIDITY, UniswapV3Factory
from keeper.venues.uniswap_v3_pool import Listing

FLASH_GAS: Final = 60_000
"""The pool takes 51,000 with both transfers (measured, tokens of OpenZeppelin's); the rest is the executor's."""


@dataclass(frozen=True, slots=True)
class UniswapV3Lender:
    """One pool at one head, with what it holds of the tokens that were asked about."""

    listing: Listing
    held: Mapping[Address, int]

    @property
    def name(self) -> str:
        """Return its name, for people."""
        return f"{self.listing.venue} {self.listing.fee}"

    @property
    def lock(self) -> bytes:
        """Return its address: while its loan is out it swaps nothing."""
        return self.listing.address

    @property
    def gas(self) -> int:
        """Return what a loan takes on top of what is done with it."""
        return FLASH_GAS

    def fee(self, token: Address, amount: TokenAmount) -> TokenAmount | None:
        """Return what a loan costs, or None where it does not hold so much.

        Rounding: up.
        Source: UniswapV3Pool.flash
        """
        if amount > self.held.get(token, 0):
            return None
        return TokenAmount(div_up(amount * self.listing.fee, FEE_UNIT))

    def step(self, token: Address, amount: TokenAmount, most_fee: TokenAmount) -> Step:
        """Return the executor's step that opens the loan."""
        data = address_word(self.listing.other(token)) + number_word(self.listing.fee)
        return Step(StepKind.FLASH_UNISWAP_V3, self.listing.deployer, ZERO_ADDRESS, token, amount, most_fee, data)


class UniswapV3Flash:
    """The pools of one factory of any token that was asked about with one of `bases`."""

    def __init__(
        self,
        name: str,
        factory: Address,
        *,
        bases: Collection[Address] = (),
        init_code_hash: bytes = INIT_CODE_HASH,
        fees: Sequence[int] = (),
        deployer: Address | None = None,
    ) -> None:
        """Keep where to begin; the chain is asked at the first head."""
        self._factory = UniswapV3Factory(name, factory, init_code_hash, fees, deployer)
        self._bases = frozenset(bases)
        self._tokens: frozenset[Address] = frozenset()
        self._pairs: frozenset[tuple[Address, Address]] = frozenset()
        self._listings: dict[Address, Listing] = {}

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        return self._factory.name

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[UniswapV3Lender]:
        """Return what the pools would lend at the reads' head; those of new tokens are looked for first.

        Raises: Transient, Stale; Unsafe when the root is not what the chain file says it is.
        """
        wanted = frozenset(tokens) - {ZERO_ADDRESS, NATIVE}
        await self._discover(reads, wanted | self._bases)
        asked = {each: [t for t in (each.token0, each.token1) if t in wanted] for each in self._listings.values()}
        asked = {each: here for each, here in asked.items() if here}
        calls = []
        for each, here in asked.items():
            calls.append(view(each.address, LIQUIDITY))
            calls += [view(token, BALANCE_OF, address_word(each.address)) for token in here]
        answers = iter(await reads.many(calls))
        found = []
        for each, here in asked.items():
            liquidity, *balances = (_number(next(answers)) for _ in range(1 + len(here)))
            held = {token: balance for token, balance in zip(here, balances, strict=True) if balance}
            if liquidity and held:  # without liquidity at its price a pool lends nothing
                found.append(UniswapV3Lender(each, held))
        return found

    async def _discover(self, reads: Reads, tokens: frozenset[Address]) -> None:
        every = self._tokens | tokens
        if every == self._tokens:
            return
        wanted = swappable((min(each, base), max(each, base)) for each in every for base in self._bases if each != base)
        new = wanted - self._pairs
        self._listings |= {each.address: each for each in await self._factory.find(reads, sorted(new))}
        self._tokens, self._pairs = every, wanted


def _number(answer: ViewResult) -> int:
    """Return a number; what cannot be read lends nothing."""
    return int.from_bytes(answer.data, "big") if answer.ok and len(answer.data) == WORD else 0
