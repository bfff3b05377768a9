"""The best size of one pair's liquidation, with the way that its proceeds go and who pays first.

What is sold grows with what is repaid, and a route brings ever less for more of it: for one route and one lender the
worth rises to a single peak, up to steps of a tick's gas. So a few sizes tell which ways can be the best, the peak of
each of these is found on the protocol's own ratio of what is seized to what is repaid, and the protocol's exact rules
then say what comes nearest to it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from keeper.domain.chain import Moment
from keeper.domain.exchange import Lender
from keeper.domain.outcome import Reason
from keeper.domain.ports import Programs
from keeper.domain.position import Opportunity
from keeper.domain.program import Step
from keeper.domain.units import BPS, NATIVE, Address, Base, TokenAmount
from keeper.engine.exchange import Exchange, Quote, Route, quote
from keeper.engine.funding import DOORS, Funding, Loans, fundings
from keeper.engine.program import Choice, conversion_gas, merged
from keeper.engine.scan import Candidate
from keeper.engine.split import Splitter, Stage
from keeper.engine.terms import Terms, Values

NOTHING: Final = -(1 << 4096)
_PARTS: Final = (1, 4, 16)
"""The parts of the largest size at which ways are looked for."""
_SCALES: Final = (1, 16, 256, 4_096)
_CLIMBED: Final = 24
_NEAR: Final = 64
_FINE: Final = 200
_CLOSE: Final = 3
_STEPS: Final = 20
_ENOUGH: Final = 4_096
_CLIFF: Final = 2_048
_APART: Final = 50
_HALVES: Final = 12
_ROOM: Final = 900


Point = tuple[int, int]
"""A worth, and what is repaid for it."""


class Way(NamedTuple):
    """A route with who pays first; the same route has the same number."""

    route: Route
    funding: Funding
    number: int


@dataclass(frozen=True, slots=True)
class Deal:
    """Stages and what they come to: what may be taken from us at most, what should be, and what there is to sell."""

    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    token: Address
    repaid: int
    borrowed: int
    sold: Address
    amount: int
    gas: int


@dataclass(frozen=True, slots=True)
class Found:
    """An exact choice with its worth after everything (base units times `SCALE`)."""

    worth: int
    deal: Deal
    way: Way
    choice: Choice
    gas: int

    @property
    def stages(self) -> tuple[Opportunity, ...]:
        """Return the liquidations."""
        return tuple(each.opportunity for each in self.deal.stages)


@dataclass(frozen=True, slots=True)
class Best:
    """The best of a deal, and the best with all of it, where that can be had."""

    top: Found
    whole: Found | None


class Search:
    """One candidate with all that its trades are made of."""

    def __init__(  # noqa: PLR0917 - what `sizing.best` was given
        self,
        candidate: Candidate,
        programs: Programs[Any, Any],
        exchange: Exchange,
        at: Moment,
        lenders: Sequence[Lender],
        terms: Terms,
    ) -> None:
        """Take the market's prices."""
        self.candidate, self.programs, self.exchange = candidate, programs, exchange
        self.lenders, self.terms = lenders, terms
        self.values = Values(candidate.market.name, candidate.snapshot, terms, exchange.wrapped_native)
        self.splitter = Splitter(candidate.market, candidate.snapshot, at)
        self._numbers: dict[tuple[bytes, ...], int] = {}
        self._quotes: dict[tuple[int, int], Quote | None] = {}

    def pair(self, whole: Opportunity, beat: int = NOTHING) -> Found | tuple[Reason, str]:
        """Return the best of one pair, or why there is nothing; `whole` is all of it that is legal.

        What surely does not beat the best of another pair is not looked for to the end.
        """
        stage = Stage(self.candidate.position, whole)
        deal = self._deal((stage,))
        if deal is not None and not deal.amount:
            part = self._redeemable(stage)
            deal = None if part is None else self._deal((part,))
            if deal is None:
                return Reason.NOT_REDEEMABLE, f"there is nothing to be had for {whole.seize.symbol}"
        if deal is None:
            return Reason.NO_PROGRAM, ""
        top = self._best(deal, beat=beat)
        if isinstance(top, Best):
            return self._lengthened(top)
        return top, f"from {whole.seize.symbol} to {whole.repay.symbol}"

    def _deal(self, stages: tuple[Stage, ...]) -> Deal | None:
        """Add stages up; None where the executor cannot do them."""
        snapshot, opportunities = self.candidate.snapshot, [each.opportunity for each in stages]
        parts = [self.programs.steps(each, snapshot) for each in opportunities]
        if not all(parts):
            return None
        steps, first = merged(parts), opportunities[0]
        seized = TokenAmount(sum(each.seized_amount for each in opportunities))
        sold, amount = self.programs.proceeds(replace(first, seized_amount=seized), snapshot)
        seized_base = Base(sum(each.seized_base for each in opportunities))
        repay = first.repay
        token = self.exchange.wrapped_native or repay.address if repay.address == NATIVE else repay.address
        self.values.suppose(sold, amount, seized_base)
        self.values.suppose(token, first.repay_amount, first.repay_base)
        gas = self.terms.overhead_gas + len(stages) * self.candidate.market.calls.GAS_ESTIMATE + conversion_gas(steps)
        repaid = sum(each.repay_amount for each in opportunities)
        borrowed = sum(each.repay_limit for each in opportunities)
        return Deal(stages, steps, token, repaid, borrowed, sold, amount, gas)

    def _redeemable(self, stage: Stage) -> Stage | None:
        """Return about the largest part of a stage whose proceeds can be had; None where there is none."""
        low, high, found = 0, int(stage.opportunity.repay_amount), None
        for _ in range(_HALVES):
            part = self.splitter.cut(stage, (low + high) // 2)
            if part is not None and self.programs.proceeds(part.opportunity, self.candidate.snapshot)[1]:
                found, low = part, (low + high) // 2
            else:
                high = (low + high) // 2
        return found

    def _ways(self, deal: Deal, amounts: Iterable[int]) -> list[Way] | Reason:
        """Return every way worth a look for some amounts, or what is missing."""
        routes: dict[int, Route] = {}
        for amount in filter(None, amounts):
            for route in self.exchange.routes(deal.sold, deal.token, amount, self.values):
                routes[self._number(route)] = route
        if not routes:
            return Reason.NO_ROUTE
        if deal.steps[-1].kind in DOORS:
            return [Way(each, Funding(deal.token), number) for number, each in routes.items()]
        loans = Loans(self.lenders, deal.token, deal.borrowed, self.values)
        pairs = (each for route in routes.values() for each in fundings(route, deal.token, loans))
        return [Way(rest, funding, self._number(rest)) for rest, funding in pairs] or Reason.NO_LENDER

    def _number(self, route: Route) -> int:
        return self._numbers.setdefault(tuple(hop.pool.id + hop.take for hop in route), len(self._numbers))

    def _quote(self, way: Way, amount: int) -> Quote | None:
        key = way.number, amount
        if key not in self._quotes:
            self._quotes[key] = quote(way.route, amount)
        return self._quotes[key]

    def _best(self, deal: Deal, floor: int = 0, beat: int = NOTHING) -> "Best | Reason":
        """Return the exact best of a deal, or what is in the way of any; no less than a floor is repaid.

        Where the smallest sample is the best, or none can be had, smaller ones are looked at.
        """
        top: Found | None = None
        whole: Found | None = None
        for scale in _SCALES:
            ways = self._ways(deal, [deal.amount // (part * scale) for part in _PARTS])
            if isinstance(ways, Reason):
                return Best(top, whole) if top is not None else ways if scale == 1 else Reason.PRICE_IMPACT
            sizes = [floor + (deal.repaid - floor) // (part * scale) for part in _PARTS]
            sampled = [(way, [self._worth(deal, way, size) for size in sizes]) for way in ways]
            sampled.sort(key=lambda each: -max(each[1]))
            is_small = not floor and max(sampled[0][1]) == sampled[0][1][-1]
            if not is_small and self._is_beaten(deal, [each for _, each in sampled], beat):
                return Reason.UNPROFITABLE if top is None else Best(top, whole)
            if scale == 1:
                way, worths = max(sampled, key=lambda each: each[1][0])
                top = whole = self._found(deal, way) if worths[0] > NOTHING else None
            top = self._top(deal, sampled, sizes, floor, top)
            ways = [] if top is None or top.deal is deal else self._ways(deal, [top.choice.quote.given])
            if not isinstance(ways, Reason):  # what is the best way there was perhaps none of the best at the samples
                known = {way.number for way, _ in sampled}
                more = [each for each in ways if each.number not in known]
                sampled = [(way, [self._worth(deal, way, size) for size in sizes]) for way in more]
                top = self._top(deal, sampled, sizes, floor, top)
            if not is_small:
                break
        return Reason.PRICE_IMPACT if top is None else Best(top, whole)

    def _is_beaten(self, deal: Deal, sampled: Sequence[Sequence[int]], beat: int) -> bool:
        """Return whether so many times as much of a deal, all at the best rate, is not better than that."""
        nothing = self._nothing(deal)
        most = max(_ceiling(each, nothing) for each in sampled)
        return most + (self.terms.max_stages - 1) * max(0, most - nothing) <= beat

    def _nothing(self, deal: Deal) -> int:
        """Return what it would be worth to liquidate nothing."""
        return -self.values.of_gas(deal.gas) - self.values.of_data

    def _top(
        self, deal: Deal, sampled: Sequence[tuple[Way, list[int]]], sizes: Sequence[int], floor: int, top: Found | None
    ) -> Found | None:
        """Return the exact best by some ways, of which a few sizes are known, or what was found before."""
        for way, worths in sampled[:_CLIMBED]:
            if max(worths) == NOTHING:
                continue
            curve = _curve(self, deal, way)
            least = curve(floor) if floor else self._nothing(deal)
            beat = NOTHING if top is None else top.worth
            if _ceiling(worths, least) <= beat:
                continue
            peak, repaid = _peak(curve, sizes, worths, (least, floor), beat)
            found = self._exact(deal, way, repaid) if peak > beat else None
            if found is not None and found.worth > beat:
                top = found
        return top

    def _lengthened(self, best: "Best") -> Found:
        """Return the best with more stages of the same pair, where all that is legal of one leaves room for another."""
        top, whole, health = best.top, best.whole, self.candidate.assessment.health
        while (
            whole is not None and len(whole.deal.stages) < self.terms.max_stages and self._would_pay(whole, top.worth)
        ):
            grown = self.splitter.longer(whole.deal.stages, health)
            deal = None if grown is None else self._deal(grown[0])
            if grown is None or deal is None or not deal.amount:
                break
            found = self._best(deal, deal.repaid - deal.stages[-1].opportunity.repay_amount)
            if isinstance(found, Reason):
                break
            top = found.top if found.top.worth > top.worth else top
            if not grown[1]:
                break
            health, whole = self.splitter.health(deal.stages[-1]), found.whole
        return top

    def _would_pay(self, whole: Found, beat: int) -> bool:
        """Return whether as much again, at the rate of the last bit of it, pays for another stage's gas and beats that."""
        deal = whole.deal
        less = self._worth(deal, whole.way, deal.repaid - deal.repaid // _NEAR)
        gas = self.values.of_gas(self.candidate.market.calls.GAS_ESTIMATE)
        return less == NOTHING or whole.worth + (whole.worth - less) * _NEAR - gas > beat

    def _exact(self, deal: Deal, way: Way, repaid: int) -> Found | None:
        """Return what the rules allow nearest below a size; all, where they allow nothing near."""
        if repaid >= deal.repaid:
            return self._found(deal, way)
        # what a call may take at most is more than what it takes
        found = self._cut(deal, way, repaid) or self._cut(deal, way, repaid - repaid // _ROOM)
        if found is not None and (repaid - found.deal.repaid) * _FINE <= repaid:
            return found
        whole = self._found(deal, way)
        return max((each for each in (found, whole) if each is not None), key=lambda each: each.worth, default=None)

    def _cut(self, deal: Deal, way: Way, most: int) -> Found | None:
        """Return a deal whose last stage takes no more than what is left of the most."""
        before, last = deal.stages[:-1], deal.stages[-1]
        left = most - sum(each.opportunity.repay_amount for each in before)
        part = self.splitter.cut(last, left) if left > 0 else None
        cut = None if part is None else self._deal((*before, part))
        return None if cut is None or not cut.amount else self._found(cut, way)

    def _found(self, deal: Deal, way: Way) -> Found | None:
        choice = self._choice(deal, way, deal.repaid, deal.borrowed)
        if choice is None:
            return None
        gas = deal.gas + choice.owed.gas + choice.quote.gas
        return Found(self._weigh(choice, gas), deal, way, choice, gas)

    def _worth(self, deal: Deal, way: Way, repaid: int) -> int:
        choice = self._choice(deal, way, repaid, repaid if repaid < deal.repaid else deal.borrowed)
        return NOTHING if choice is None else self._weigh(choice, deal.gas + choice.owed.gas + choice.quote.gas)

    def _weigh(self, choice: Choice, gas: int) -> int:
        rate = self.values.rate
        worth = choice.profit * rate(choice.owed.token)
        if choice.spare:
            worth += choice.spare * rate(choice.token)
        return worth - self.values.of_gas(gas) - self.values.of_data

    def _choice(self, deal: Deal, way: Way, repaid: int, borrowed: int) -> Choice | None:
        """Return a deal of that size, by its own ratio; None where it cannot be had, or is below the oracle's bound."""
        funding, amount = way.funding, deal.amount * repaid // deal.repaid
        owed = funding.owed(repaid, borrowed)
        if owed is None or not (rate := self.values.rate(owed.token)):
            return None
        fair = BPS - self.terms.max_slippage_bps
        if funding.hop is not None and borrowed * self.values.rate(deal.token) * BPS < owed.amount * rate * fair:
            return None
        quoted = self._quote(way, amount)
        if quoted is None:
            return None
        least = amount * self.values.rate(deal.sold) * fair
        for hop, out in zip(way.route, quoted.amounts, strict=True):
            rate = self.values.rate(hop.take)
            if rate and out * rate * BPS < least:
                return None
        return Choice(deal.token, deal.steps, repaid, borrowed, deal.sold, funding, owed, quoted)


def _curve(search: Search, deal: Deal, way: Way) -> Callable[[int], int]:
    return lambda repaid: search._worth(deal, way, repaid)  # noqa: SLF001 - of this module


def _ceiling(worths: Sequence[int], nothing: int) -> int:
    """Return what no size can be above, by samples at one, a quarter and a sixteenth of the largest.

    Where the curve never turns up, it lies below every line through two of its points, outside of them. `nothing` is its
    height at 0.
    """
    largest, middle, small = worths
    if NOTHING in {small, middle}:
        return -NOTHING
    above = middle + 4 * (middle - small)
    between = 4 * small - 3 * nothing
    if largest != NOTHING:
        between = min(between, middle + (middle - largest) // 4)
    return max(largest, above, between, small + (small - middle) // 3)


def _peak(curve: Callable[[int], int], sizes: Sequence[int], worths: Sequence[int], floor: Point, beat: int) -> Point:
    """Return the highest worth and its size, from samples at falling sizes, and from the floor's own worth and size.

    What surely does not beat another worth is not looked for to the end.
    """
    known = [*zip(worths, sizes, strict=True), floor]
    top = max(range(len(sizes)), key=lambda each: worths[each])
    if top == 0:
        near = sizes[0] - (sizes[0] - floor[1]) // _NEAR
        known.insert(1, (curve(near), near))
        if known[1] <= known[0]:
            return known[0]
        top = 1
    return _climb(curve, known[top + 1], known[top], known[top - 1], beat)


def _climb(curve: Callable[[int], int], low: Point, top: Point, high: Point, beat: int) -> Point:
    """Return the peak between two sizes, from one between that is higher: by parabolas, and by halves up to a cliff.

    Outside of two points, a curve that never turns up lies below the line through them: that says how much there may be
    still to gain.
    """
    for _ in range(_STEPS):
        left, right = top[1] - low[1], high[1] - top[1]
        if left + right <= _CLOSE:
            break
        rise = (top[0] - low[0]) * right // left if left and low[0] != NOTHING else -NOTHING
        if high[0] == NOTHING:
            if right * _CLIFF <= high[1]:
                break
            gain, tried = rise, (top[1] + high[1]) // 2
        else:
            fall = (top[0] - high[0]) * left // right if right else -NOTHING
            gain, tried = max(rise, fall), _vertex(low, top, high)
        if gain * _ENOUGH <= abs(top[0]) or top[0] + gain <= beat:
            break
        found = curve(tried), tried
        if found[0] > top[0]:
            low, top, high = (top, found, high) if tried > top[1] else (low, found, top)
        else:
            low, high = (low, found) if tried > top[1] else (found, high)
    return top


def _vertex(low: Point, top: Point, high: Point) -> int:
    """Return where a parabola through three points is highest; at least a little off the one in the middle."""
    left, right = top[1] - low[1], high[1] - top[1]
    rise, fall = (top[0] - low[0]) * right, (top[0] - high[0]) * left
    least = (high[1] - low[1]) // _APART + 1
    by = (rise * right - fall * left) // (2 * (rise + fall)) if low[0] != NOTHING and rise + fall else 0
    if abs(by) < least:
        by = least if right > left else -least
    return min(max(top[1] + by, low[1] + 1), high[1] - 1)
