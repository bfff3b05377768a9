"""A pool that has to be asked: what it said at a few amounts, and what that promises between them."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from keeper.domain.exchange import Swapped, Want
from keeper.domain.program import Step
from keeper.domain.units import Address, TokenAmount

_RUNGS: Final = ((24, 14, 15), (8, 4, 5), (3, 1, 2))
"""How many amounts are asked about in a row, and what each is of the one before it."""
_NOISE: Final = 2
"""Units by which a contract's own rounding may disturb what rises with the amount."""


def ladder(most: int) -> tuple[int, ...]:
    """Return the amounts to ask about, from the most downwards, in rising order.

    A line between two amounts leaves out a share of the price impact that falls with the square of their distance: about
    a thousandth of it down to a fifth of the most, and a hundredth down to a thirtieth.
    """
    amounts = {most}
    for times, part, whole in _RUNGS:
        for _ in range(times):
            amounts.add(min(amounts) * part // whole)
    return tuple(sorted(each for each in amounts if each > 0))


@dataclass(frozen=True, slots=True)
class Samples:
    """Points (amount in, amount out), rising in both; the line through them starts at nothing for nothing."""

    points: tuple[tuple[int, int], ...]
    noise: int = _NOISE

    @classmethod
    def of(cls, answers: Iterable[tuple[int, int | None]], noise: int = _NOISE) -> Self | None:
        """Keep what can be relied on of answers in rising order of the amount; None where nothing can.

        Behind an amount that the pool refuses, and behind one that brings less than a smaller one, nothing is kept; less by
        no more than the noise is passed over.
        Where an amount brings more than in proportion, its point is put down onto the line through those before it:
        the result must be concave, or a line between two points would promise too much. Where the second brings more, what
        is below the first lies above the line through both, which then starts later than at nothing.
        """
        kept = [(0, 0)]
        rise, run = 1, 0  # the last slope; none yet
        start = 0
        for amount, out in answers:
            if out is None or out < kept[-1][1] - noise or amount <= kept[-1][0]:
                break
            if out < kept[-1][1]:
                continue
            width = amount - kept[-1][0]
            height = out - kept[-1][1]
            if run and height * run > (rise + noise) * width:
                if len(kept) == 2:
                    start = amount - out * width // height
                height = (rise + noise) * width // run
            kept.append((amount, kept[-1][1] + height))
            rise, run = height, width
        if kept[-1][1] <= 0:
            return None
        return cls(((start, 0), *kept[1:]) if start > 0 else tuple(kept[1:]), noise)

    @property
    def most(self) -> int:
        """Return the largest amount that anything is known about."""
        return self.points[-1][0]

    def out(self, amount: int) -> int | None:
        """Return the least that an amount brings; None beyond the largest that was asked about.

        Rounding: down, by the noise where the amount itself was not asked about.
        """
        if not 0 < amount <= self.most:
            return None
        place = bisect_left(self.points, (amount, 0))
        above = self.points[place]
        if above[0] == amount:
            return above[1]
        below = self.points[place - 1] if place else (0, 0)
        rise, run = above[1] - below[1], above[0] - below[0]
        return max(below[1], below[1] + rise * (amount - below[0]) // run - self.noise)


@dataclass(frozen=True, slots=True)
class SampledPool(ABC):
    """A pool known by samples of some directions.

    What it offers after a swap nobody asked about, so that it then offers nothing until the next head. A venue's own
    pool adds how a step of it looks.
    """

    takes_exactly = False

    id: bytes
    lock: bytes
    venue: str
    gas: int
    offers: Mapping[tuple[Address, Address], Samples]

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return every (give, take) that it was asked about."""
        return tuple(self.offers)

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote from below; None beyond what was asked about."""
        offer = self.offers.get((give, take))
        out = None if offer is None else offer.out(amount)
        return None if out is None else Swapped(TokenAmount(out), self.gas, replace(self, offers={}))

    @abstractmethod
    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step that does it."""


def largest(wanted: Iterable[Want]) -> dict[tuple[Address, Address], int]:
    """Return the most that is wanted of each exchange, by (give, take)."""
    asked = dict[tuple[Address, Address], int]()
    for want in wanted:
        pair = want.give, want.take
        if want.most > 0 and want.give != want.take:
            asked[pair] = max(want.most, asked.get(pair, 0))
    return asked
