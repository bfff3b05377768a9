"""The best size of one pair's liquidation, with the way that its proceeds go and who pays first.

What is sold grows with what is repaid, and a route brings ever less for more of it: for one route and one lender the
worth rises to a single peak, up to steps of a tick's gas. So a few sizes tell which ways can be the best, the peak of
each of these is found on the protocol's own ratio of what is seized to what is repaid, and the protocol's exact rules
then say what comes nearest to it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from keeper.domain.chain import Moment
from keeper.domain.exchange import Lender
from keeper.domain.outcome import Reason
from keeper.domain.ports import Programs
from keeper.domain.position import Opportunity
from keeper.domain.units import BPS, NATIVE, Address, Base, TokenAmount
from keeper.engine.climb import NOTHING, ceiling, is_dearer, peak, reach
from keeper.engine.deal import Best, Deal, Found, Sample, Way
from keeper.engine.exchange import Exchange, Quote, Route, quote
from keeper.engine.funding import DOORS, Funding, Loans, Owed, fundings
from keeper.engine.program import Choice, conversion_gas, merged
from keeper.engine.scan import Candidate
from keeper.engine.split import Splitter, Stage
from keeper.engine.terms import SCALE, Terms, Values

_PARTS: Final = (1, 4, 16)
"""The parts of the largest size at which ways are looked for."""
_LOOKED: Final = (1, 8)
_SCALES: Final = (1, 16, 256, 4_096)
_CLIMBED: Final = 24
_WIDER: Final = 4
_PREMIUM_BPS: Final = 200
"""How much above the oracle's price collateral may sell, when a pair is judged before it is looked at."""
_NEAR: Final = 64
_ENOUGH: Final = 160
"""Quotes after which no more is looked for, once there is a trade: they bound the time of the rare worst cases."""
_FINE: Final = 200
_HALVES: Final = 12
_ROOM: Final = 900


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
        self.least = terms.min_profit_base * SCALE - 1
        self._fair = BPS - terms.max_slippage_bps
        self._numbers: dict[tuple[bytes, ...], int] = {}
        self._quotes: dict[tuple[int, int], Quote | None] = {}
        self._decided = set[tuple[int, int]]()
        self._loans: dict[tuple[Address, int], Loans] = {}

    def pair(self, whole: Opportunity, beat: int) -> Found | tuple[Reason, str]:
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
        top = self._best(deal, beat)
        if isinstance(top, Best):
            return self._lengthened(top, beat)
        return top, f"from {whole.seize.symbol} to {whole.repay.symbol}"

    def could(self, whole: Opportunity) -> int:
        """Return more than what a pair can be worth."""
        gas = self.terms.overhead_gas + self.candidate.market.calls.GAS_ESTIMATE
        return self.premium(whole) * self.terms.max_stages - self.values.of_gas(gas) - self.values.of_data

    def premium(self, *opportunities: Opportunity) -> int:
        """Return more than what opportunities can bring before gas."""
        return sum(each.gross_profit_base + each.seized_base * _PREMIUM_BPS // BPS for each in opportunities) * SCALE

    def _deal(self, stages: tuple[Stage, ...]) -> Deal | None:
        """Add stages up; None where the executor cannot do them."""
        snapshot, opportunities = self.candidate.snapshot, [each.opportunity for each in stages]
        parts = [self.programs.steps(each, snapshot) for each in opportunities]
        if not all(parts):
            return None
        steps, first = merged(parts), opportunities[0]
        if len(stages) > 1:
            first = replace(first, seized_amount=TokenAmount(sum(each.seized_amount for each in opportunities)))
        sold, amount = self.programs.proceeds(first, snapshot)
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
        if (deal.token, deal.borrowed) not in self._loans:
            self._loans[deal.token, deal.borrowed] = Loans(self.lenders, deal.token, deal.borrowed, self.values)
        loans, ways = self._loans[deal.token, deal.borrowed], list[Way]()
        for number, route in routes.items():
            for rest, funding in fundings(route, deal.token, loans):
                ways.append(Way(rest, funding, number if rest is route else self._number(rest)))
        return ways or Reason.NO_LENDER

    def _number(self, route: Route) -> int:
        return self._numbers.setdefault(tuple(hop.give + hop.pool.id + hop.take for hop in route), len(self._numbers))

    def _best(self, deal: Deal, beat: int, floor: int = 0) -> "Best | Reason":
        """Return the exact best of a deal, or what is in the way of any; no less than a floor is repaid.

        Where the smallest sample is the best, or none can be had, smaller ones are looked at.
        """
        top: Found | None = None
        whole: Found | None = None
        self._decided.clear()
        for scale in _SCALES:
            amounts = [deal.amount // (part * scale) for part in _LOOKED]
            ways = self._ways(deal, [deal.amount] if floor else amounts)
            if isinstance(ways, Reason):
                return Best(top, whole) if top is not None else ways if scale == 1 else Reason.PRICE_IMPACT
            sizes = [floor + (deal.repaid - floor) // (part * scale) for part in _PARTS]
            sampled = self._sampled(deal, ways, sizes)
            is_small = bool(sampled) and sampled[0][0] == sampled[0][1][-1]
            if (
                sampled
                and beat > self.least
                and not floor
                and self._is_beaten(deal, sampled, self._most(deal, sizes[-1]), beat)
            ):
                return Reason.UNPROFITABLE if top is None else Best(top, whole)
            if scale == 1:
                _, worths, way = max(sampled, key=lambda each: each[1][0])
                top = whole = self._found(deal, way) if worths[0] > NOTHING else None
            near = sizes
            while sampled:
                before, top = top, self._top(deal, sampled, near, floor, top, beat)
                if top is None or top is before or top.deal is deal or top.worth <= beat:
                    break
                # what is the best way there was perhaps none of the best at the samples
                more = self._ways(deal, [top.choice.quote.given])
                largest = min(deal.repaid - floor, _WIDER * (top.deal.repaid - floor))
                near = [floor + largest // part for part in _PARTS]
                sampled = [] if isinstance(more, Reason) else self._sampled(deal, more, near)
            bar = beat if top is None else max(beat, top.worth)
            is_small = is_small or top is None or top.deal.repaid < sizes[-1]
            is_legal = all(cut is not None or size < sizes[-1] for _, size, cut in deal.cuts)
            if top is not None and len(self._quotes) > _ENOUGH:
                break
            if floor or not is_small or not is_legal or self._most(deal, sizes[-1]) <= bar:
                break
        return Reason.PRICE_IMPACT if top is None else Best(top, whole)

    def _sampled(self, deal: Deal, ways: Iterable[Way], sizes: Sequence[int]) -> list[Sample]:
        """Return what each way is worth at some sizes, the best first; not those of which enough was known before."""
        found = list[Sample]()
        for way in ways:
            if way.key in self._decided:
                continue
            worths: list[int] = []
            for size in reversed(sizes):  # what cannot be had cannot be had of more
                worths.append(self._worth(deal, way, size) if not worths or worths[-1] > NOTHING else NOTHING)
            found.append((max(worths), worths[::-1], way))
        return sorted(found, key=lambda each: -each[0])

    def _is_beaten(self, deal: Deal, sampled: Sequence[Sample], least: int, beat: int) -> bool:
        """Return whether no part of a deal, nor as many times as much as there may be stages, is better than that."""
        nothing, stages = self._nothing(deal), self.terms.max_stages
        return all(max(ceiling(each, nothing, least), reach(each, stages)) <= beat for _, each, _ in sampled)

    def _most(self, deal: Deal, repaid: int) -> int:
        """Return more than what a part of a deal can be worth."""
        return self._nothing(deal) + self.premium(*(each.opportunity for each in deal.stages)) * repaid // deal.repaid

    def _nothing(self, deal: Deal) -> int:
        """Return what it would be worth to liquidate nothing."""
        return -self.values.of_gas(deal.gas) - self.values.of_data

    def _top(  # noqa: PLR0917 - what `_best` has at hand
        self, deal: Deal, sampled: Sequence[Sample], sizes: Sequence[int], floor: int, top: Found | None, beat: int
    ) -> Found | None:
        """Return the exact best by some ways, of which a few sizes are known, or what was found before.

        What surely does not beat another worth is not looked for to the end, though the first way's best sample is taken.
        """
        small, settled = self._most(deal, sizes[-1]), dict[int, list[int]]()
        for highest, worths, way in sampled[:_CLIMBED]:
            bar = beat if top is None else max(beat, top.worth)
            if highest == NOTHING or (top is not None and len(self._quotes) > _ENOUGH):
                break
            curve = _curve(self, deal, way)
            least = curve(floor) if floor else self._nothing(deal)
            if top is not None and (ceiling(worths, least, small) <= bar or is_dearer(worths, settled.get(way.number))):
                self._decided.add(way.key)
                continue
            if highest > least:  # else its peak is below the smallest
                self._decided.add(way.key)
            worth, repaid = peak(curve, sizes, worths, (least, floor), bar)
            found = self._exact(deal, way, repaid) if top is None or worth > bar else None
            if found is not None and (top is None or found.worth > top.worth):
                top = found
            peaked = worths.index(highest)
            if way.funding.hop is None and (not peaked or worths[peaked - 1] > NOTHING):
                settled[way.number] = worths
        return top

    def _lengthened(self, best: "Best", beat: int) -> Found:
        """Return the best with more stages of the same pair, where all that is legal of one leaves room for another."""
        top, whole, health = best.top, best.whole, self.candidate.assessment.health
        while whole is not None and len(whole.deal.stages) < self.terms.max_stages:
            pays = self._paying(whole, max(beat, top.worth))
            grown = self.splitter.longer(whole.deal.stages, health, pays) if pays(2 * whole.deal.repaid) else None
            deal = None if grown is None else self._deal(grown[0])
            if grown is None or deal is None or not deal.amount:
                break
            floor = deal.repaid - deal.stages[-1].opportunity.repay_amount
            found = self._best(deal, max(beat, top.worth), floor)
            if isinstance(found, Reason):
                break
            top = found.top if found.top.worth > top.worth else top
            if not grown[1]:
                break
            health, whole = self.splitter.health(deal.stages[-1]), found.whole
        return top

    def _paying(self, whole: Found, beat: int) -> Callable[[int], bool]:
        """Return what says of a larger repayment whether more at the rate of the last bit pays for its gas and beats that."""
        deal, last = whole.deal, whole.deal.repaid // _NEAR
        less = self._worth(deal, whole.way, deal.repaid - last)
        bar = beat + self.values.of_gas(self.candidate.market.calls.GAS_ESTIMATE) - whole.worth
        return lambda repaid: less == NOTHING or (whole.worth - less) * (repaid - deal.repaid) > bar * last

    def _exact(self, deal: Deal, way: Way, repaid: int) -> Found | None:
        """Return what the rules allow nearest below a size; all, where they allow nothing near."""
        if repaid >= deal.repaid:
            return self._found(deal, way)
        cut = self._cut(deal, repaid)
        found = None if cut is None else self._found(cut, way)
        if cut is not None and found is None:  # what a call may take at most is more than what it takes
            cut = self._cut(deal, repaid - repaid // _ROOM)
            found = None if cut is None else self._found(cut, way)
        if found is not None and (repaid - found.deal.repaid) * _FINE <= repaid:
            return found
        whole = self._found(deal, way)
        return max((each for each in (found, whole) if each is not None), key=lambda each: each.worth, default=None)

    def _cut(self, deal: Deal, most: int) -> Deal | None:
        """Return a deal whose last stage takes no more than what is left of the most.

        Where one amount is the best that is legal for another, it is so for all between them.
        """
        before, last = deal.stages[:-1], deal.stages[-1]
        left = most - sum(each.opportunity.repay_amount for each in before)
        for low, high, known in deal.cuts:
            if low <= most <= high:
                return known
        part = self.splitter.cut(last, left) if left > 0 else None
        cut = None if part is None else self._deal((*before, part))
        cut = None if cut is None or not cut.amount else cut
        deal.cuts.append((0 if cut is None else cut.repaid, most, cut))
        return cut

    def _found(self, deal: Deal, way: Way) -> Found | None:
        quoted, owed = self._quote(deal, way, deal.repaid), self._owed(deal, way, deal.repaid)
        if quoted is None or owed is None:
            return None
        choice = Choice(deal.token, deal.steps, deal.repaid, deal.borrowed, deal.sold, way.funding, owed, quoted)
        worth = self._weigh(deal, quoted, owed, deal.repaid)
        return Found(worth, deal, way, choice, deal.gas + owed.gas + quoted.gas)

    def _worth(self, deal: Deal, way: Way, repaid: int) -> int:
        """Return what a deal of that size is worth, by its own ratio."""
        quoted = self._quote(deal, way, repaid)
        owed = None if quoted is None else self._owed(deal, way, repaid)
        if quoted is None or owed is None:
            return NOTHING
        return self._weigh(deal, quoted, owed, repaid)

    def _quote(self, deal: Deal, way: Way, repaid: int) -> Quote | None:
        """Return the sale of what a deal of that size brings; None where it cannot be had, or is below the oracle's bound."""
        amount = deal.amount * repaid // deal.repaid
        key = way.number, amount
        if key in self._quotes:
            return self._quotes[key]
        least = -(-amount * self.values.rate(deal.sold) * self._fair // BPS)
        found = quote(way.route, amount, self.values, least)
        self._quotes[key] = found
        return found

    def _owed(self, deal: Deal, way: Way, repaid: int) -> Owed | None:
        """Return what has to be given back; None where so much cannot be had, or only above the oracle's bound."""
        borrowed, rate = repaid if repaid < deal.repaid else deal.borrowed, self.values.rate
        owed = way.funding.owed(repaid, borrowed)
        if owed is None or not (price := rate(owed.token)):
            return None
        if way.funding.hop is not None and borrowed * rate(deal.token) * BPS < owed.amount * price * self._fair:
            return None
        return owed

    def _weigh(self, deal: Deal, quoted: Quote, owed: Owed, repaid: int) -> int:
        rate, values = self.values.rate, self.values
        worth = (quoted.amount - owed.amount) * rate(owed.token)
        if repaid >= deal.repaid and owed.token != deal.token:
            worth += (deal.borrowed - repaid) * rate(deal.token)
        return worth - values.of_gas(deal.gas + owed.gas + quoted.gas) - values.of_data


def _curve(search: Search, deal: Deal, way: Way) -> Callable[[int], int]:
    return lambda repaid: search._worth(deal, way, repaid)  # noqa: SLF001 - of this module
