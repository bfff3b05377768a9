"""The trade that pays best for one position: which pair, how much of it, in how many stages, by whose money and which way."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.chain import Moment
from keeper.domain.exchange import Lender
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.domain.program import Program
from keeper.domain.units import Address, Base, TokenAmount
from keeper.engine.deal import Found
from keeper.engine.exchange import Exchange
from keeper.engine.program import build, least_profit
from keeper.engine.scan import Candidate
from keeper.engine.search import Search
from keeper.engine.terms import SCALE, Terms


@dataclass(frozen=True, slots=True)
class Trade:
    """What pays best for one position, with the exchange as it leaves it.

    `profit_amount` and `profit_base` are before gas, `net_base` is after it and all else.
    """

    stages: tuple[Opportunity, ...]
    funding: str
    route: tuple[str, ...]
    profit_token: Address
    profit_amount: TokenAmount
    least: TokenAmount
    profit_base: Base
    net_base: Base
    gas: int
    program: Program
    exchange_after: Exchange


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing is done; `net_base` is what the best would have brought, where there was one."""

    reason: Reason
    detail: str = ""
    net_base: Base | None = None


def best(
    candidate: Candidate, exchange: Exchange, *, at: Moment, lenders: Sequence[Lender], terms: Terms
) -> Trade | Refused:
    """Return the trade that brings most after gas, or why there is none.

    The candidate's assessment is to be the one at that moment without a budget.
    """
    programs, found = candidate.market.programs, candidate.assessment
    if not found.opportunities:
        return Refused(found.blocked or Reason.UNKNOWN)
    if programs is None:
        return Refused(Reason.NO_PROGRAM)
    search = Search(candidate, programs, exchange, at, lenders, terms)
    top: Found | None = None
    refused: list[Refused] = []
    for each in found.opportunities:
        beat = search.least if top is None else max(search.least, top.worth)
        if top is not None and search.could(each) <= beat:
            continue
        verdict = search.pair(each, beat)
        if isinstance(verdict, Found):
            top = verdict if top is None or verdict.worth > top.worth else top
        else:
            refused.append(Refused(*verdict))
    if top is None:
        return refused[0]
    return _verdict(top, search, terms)


def _verdict(top: Found, search: Search, terms: Terms) -> Trade | Refused:
    """Return the best that was found, unless it brings too little."""
    choice, rate = top.choice, search.values.rate(top.choice.owed.token)
    net = Base(top.worth // SCALE)
    least = least_profit(choice.profit, rate, terms)
    if net < terms.min_profit_base or choice.profit < least:
        return Refused(Reason.UNPROFITABLE, f"repaying {choice.repaid} brings {net} after price impact and gas", net)
    pools = [*choice.quote.pools, *([] if choice.owed.pool is None else [choice.owed.pool])]
    hop = choice.funding.hop
    return Trade(
        stages=top.stages,
        funding=choice.funding.name,
        route=tuple(each.pool.venue for each in (*choice.quote.route, *([] if hop is None else [hop]))),
        profit_token=choice.owed.token,
        profit_amount=TokenAmount(choice.profit),
        least=least,
        profit_base=Base((choice.profit * rate + choice.spare * search.values.rate(choice.token)) // SCALE),
        net_base=net,
        gas=top.gas,
        program=build(choice, search.values, terms),
        exchange_after=search.exchange.after(pools),
    )
