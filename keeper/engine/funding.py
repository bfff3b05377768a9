"""Who pays first: a lender, the protocol itself, a pool that is paid last, or the caller's own tokens."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from keeper.domain.exchange import Lender, Pool
from keeper.domain.program import Step, StepKind
from keeper.domain.units import ZERO_ADDRESS, Address, TokenAmount
from keeper.engine.exchange import Hop, Route, is_paid_last
from keeper.engine.terms import Values

DOORS: Final = frozenset({StepKind.LIQUIDATE_MORPHO, StepKind.PRE_LIQUIDATE_MORPHO})
"""Liquidations that are paid when all the rest is done: they need no loan."""
_PULL_GAS: Final = 60_000
_SMALL: Final = 16


@dataclass(frozen=True, slots=True)
class OwnInventory:
    """What the caller holds and lets the executor pull: the cheapest loan, as far as it goes."""

    held: Mapping[Address, TokenAmount]

    @property
    def name(self) -> str:
        """Return what it is."""
        return "own inventory"

    @property
    def lock(self) -> bytes:
        """Return what nothing else locks."""
        return b"own inventory"

    @property
    def gas(self) -> int:
        """Return what two transfers take."""
        return _PULL_GAS

    def fee(self, token: Address, amount: TokenAmount) -> TokenAmount | None:
        """Return nothing, or None for more than is held."""
        return TokenAmount(0) if amount <= self.held.get(token, 0) else None

    def step(self, token: Address, amount: TokenAmount, most_fee: TokenAmount) -> Step:
        """Return the step that pulls."""
        return Step(StepKind.PULL, ZERO_ADDRESS, ZERO_ADDRESS, token, amount, most_fee)


class Owed(NamedTuple):
    """What has to be given back at the end, and the pool that wants it, as it stands afterwards."""

    token: Address
    amount: int
    gas: int
    pool: Pool | None = None


@dataclass(frozen=True, slots=True)
class Funding:
    """One way to have the tokens that a liquidation repays: `lender`, or `hop`, or else the protocol waits for them."""

    token: Address
    lender: Lender | None = None
    hop: Hop | None = None

    @property
    def name(self) -> str:
        """Return who it is, for people."""
        if self.lender is not None:
            return self.lender.name
        return "the protocol" if self.hop is None else f"{self.hop.pool.venue}, paid last"

    def owed(self, repaid: int, borrowed: int) -> Owed | None:
        """Return what has to be given back, unused tokens aside; None where so much cannot be had."""
        if self.hop is not None:
            pool, give, take = self.hop
            bought = pool.buy(give, take, TokenAmount(borrowed)) if is_paid_last(pool) else None
            return None if bought is None else Owed(give, bought.amount, bought.gas, bought.pool)
        if self.lender is None:
            return Owed(self.token, repaid, 0)
        fee = self.lender.fee(self.token, TokenAmount(borrowed))
        return None if fee is None else Owed(self.token, repaid + fee, self.lender.gas)


@dataclass(frozen=True, slots=True)
class _Asked:
    lender: Lender
    at_most: int | None
    at_small: int | None

    def makes_needless(self, other: "_Asked") -> bool:
        """Return whether it lends wherever the other does, and is nowhere dearer."""
        pairs = ((self.at_most, other.at_most), (self.at_small, other.at_small))
        return all(theirs is None or (mine is not None and mine <= theirs) for mine, theirs in pairs)


class Loans:
    """The lenders of one token, as far as one can be the cheapest at some size up to the most."""

    def __init__(self, lenders: Iterable[Lender], token: Address, most: int, values: Values) -> None:
        """Ask every lender at the most and at a small part of it."""

        def cost(lender: Lender, amount: int) -> int | None:
            fee = lender.fee(token, TokenAmount(amount))
            return None if fee is None else fee * values.rate(token) + values.of_gas(lender.gas)

        asked = (_Asked(each, cost(each, most), cost(each, most // _SMALL + 1)) for each in lenders)
        self._asked = [each for each in asked if each.at_most is not None or each.at_small is not None]
        self._locks = frozenset(each.lender.lock for each in self._asked)
        self._outside: dict[frozenset[bytes], Sequence[Lender]] = {}
        self._asked.sort(key=lambda each: (each.at_most is None, each.at_most or 0, each.at_small or 0))

    def outside(self, locks: Iterable[bytes]) -> Sequence[Lender]:
        """Return the lenders whose loan leaves all of that open, without those that another one makes needless."""
        closed = self._locks.intersection(locks)
        if closed not in self._outside:
            kept = list[_Asked]()
            for each in self._asked:
                if each.lender.lock not in closed and not any(other.makes_needless(each) for other in kept):
                    kept.append(each)
            self._outside[closed] = [each.lender for each in kept]
        return self._outside[closed]


def fundings(route: Route, token: Address, loans: Loans) -> Iterator[tuple[Route, Funding]]:
    """Yield every way to pay first for a liquidation whose proceeds go that way, with what is left of the way.

    What a loan locks cannot be used inside it. Where the last pool of the way is paid last, it lends by itself.
    """
    for lender in loans.outside(hop.pool.lock for hop in route):
        yield route, Funding(token, lender=lender)
    if route and is_paid_last(route[-1].pool):
        rest, last = route[:-1], route[-1]
        if all(hop.pool.lock != last.pool.lock for hop in rest):
            yield rest, Funding(token, hop=last)
