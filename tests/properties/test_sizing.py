"""The size, the split, the route and the loan against brute force over the exact rules, which shares no code with them."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, NamedTuple

import pytest

from keeper.domain.chain import Moment
from keeper.domain.exchange import Pool
from keeper.domain.ports import Market
from keeper.domain.position import Opportunity
from keeper.domain.units import NATIVE, RAY, WAD, Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange
from keeper.engine.scan import Candidate
from keeper.engine.sizing import Refused, Trade, best
from keeper.engine.terms import Terms
from keeper.protocols.aave_v3 import calls as aave_calls
from keeper.protocols.aave_v3 import programs as aave_programs
from keeper.protocols.aave_v3 import rules as aave_rules
from keeper.protocols.aave_v3.contracts import Category
from keeper.protocols.compound_v2 import calls as compound_calls
from keeper.protocols.compound_v2 import programs as compound_programs
from keeper.protocols.compound_v2 import rules as compound_rules
from keeper.protocols.compound_v2.contracts import Entry, Kind
from keeper.protocols.compound_v2.contracts import Terms as Weights
from keeper.protocols.morpho_blue import calls as morpho_calls
from keeper.protocols.morpho_blue import programs as morpho_programs
from keeper.protocols.morpho_blue import rules as morpho_rules
from keeper.venues.ticks import MAX_TICK, MIN_TICK, price_at, tick_at
from keeper.venues.uniswap_v3_pool import Ladder, Listing, stand
from tests.unit.engine.pools import FACTORY, Flat, Patient, Product
from tests.unit.protocols import test_compound_v2_rules as compound
from tests.unit.protocols.aave_v3 import market as aave
from tests.unit.protocols.morpho_blue import market as morpho

BIG = 10**48
ETHER_BASE = 2_000 * 10**8
OUTSIDER = Address(b"\x0d" * 20)
WRAPPED = Address(b"\x0e" * 20)


class Case(NamedTuple):
    """One position with all that can be done about it."""

    candidate: Candidate
    at: Moment
    pools: Sequence[Pool]
    bases: Sequence[Address]
    lenders: Sequence[Flat]
    terms: Terms


def between(source: random.Random, low: float, high: float) -> int:
    """Draw evenly on a logarithmic scale."""
    return int(10 ** source.uniform(low, high))


# what is drawn


def aave_candidate(source: random.Random) -> tuple[Candidate, Moment]:
    """Draw an Aave position of 100 dollars to 10 million, a little or far below health, in any generation."""
    revision = source.choice(tuple(aave.REVISIONS.values()))
    reserves = [
        aave.reserve(
            each,
            decimals=source.choice((6, 8, 18)),
            price=between(source, 7, 12.7),
            threshold_bps=source.choice((7_000, 8_300, 9_000)),
            bonus_bps=source.choice((10_200, 10_500, 11_000)),
            fee_bps=source.choice((0, 1_000, 2_000)),
            liquidity_index_ray=RAY + source.randrange(RAY),
            borrow_index_ray=RAY + source.randrange(RAY),
        )
        for each in range(source.choice((2, 2, 3, 4)))
    ]
    market = aave.snapshot(
        revision, reserves, {1: Category(9_300, 10_100, source.getrandbits(4))}, native_price_base=Base(ETHER_BASE)
    )
    ids, usd = list(market.reserves), between(source, 2, 7)

    def worth(each: int) -> int:
        dollars = usd * source.choice((10, 10, 10, 1, 3)) / 10
        return int(dollars * 10**8) * market.reserves[each].unit // (market.reserves[each].price_base or 1) + 1

    held = aave.position(
        {each: worth(each) for each in source.sample(ids, source.choice((1, 1, 2)))},
        {each: worth(each) for each in source.sample(ids, source.choice((1, 1, 2)))},
        category=source.choice((0, 0, 1)),
    )
    health = aave_rules.health(held, market, aave.NOW)
    goal = source.choice((source.uniform(0.951, 0.9999), source.uniform(0.951, 0.9999), source.uniform(0.7, 0.95)))
    factor = int(health.health_factor_wad / goal)
    held = replace(held, debt=tuple((each, scaled * factor // WAD + 1) for each, scaled in held.debt))
    found = aave_rules.assess(held, market, aave.NOW, None)
    bound = Market("aave", "aave_v3", 0, no_reader(), aave_rules, aave_calls, programs=aave_programs)
    return Candidate(bound, market, held, found), aave.NOW


def compound_candidate(source: random.Random) -> tuple[Candidate, Moment]:
    """Draw a Compound position of two or three cTokens, some not brought up to date for a while."""
    kinds: tuple[Kind, ...] = ("compound", "venus")
    now, kind = compound.NOW, source.choice(kinds)
    tokens = []
    for number in range(source.choice((2, 3))):
        borrows, rate = between(source, 24, 27), between(source, 25, 27)
        made = compound.ctoken(
            number,
            price=between(source, 16.5, 21.5),
            borrows=borrows,
            cash=between(source, 25, 28),
            supply=borrows * WAD // rate,
            borrow_index=WAD + source.randrange(WAD),
            accrued=now.block - source.choice((0, 1, 1_000, 100_000)),
            borrow_rate=between(source, 8, 10.5),
            seize_share_wad=source.choice((0, 28 * 10**15)),
        )
        tokens.append(replace(made, exchange_rate=(made.cash + made.borrows) * WAD // made.supply))
    terms = {
        (0, each.id): Weights(WAD * source.randrange(60, 86) // 100, WAD * source.randrange(105, 111) // 100)
        for each in tokens
    }
    market = compound.snapshot(
        tokens,
        kind=kind,
        terms=terms,
        native_price_base=Base(ETHER_BASE),
        liquidator=compound.LIQUIDATOR_CONTRACT if kind == "venus" else None,
        treasury_share_wad=WAD // 2 if kind == "venus" else 0,
        redeem_fee_wad=source.choice((0, 10**14)) if kind == "venus" else 0,
    )
    usd = between(source, 2, 7)

    def units(each: Any) -> int:
        return int(usd * 10**36 * source.uniform(0.3, 1) / each.price)

    debtor = source.choice(tokens)
    entries = [
        Entry(
            each.id,
            0 if each is debtor and source.random() < 0.9 else units(each) * WAD // each.exchange_rate,
            units(each) if each is debtor else 0,
            each.borrow_index - source.randrange(WAD // 100),
        )
        for each in tokens
    ]
    held = compound.position(*entries)
    health = compound_rules.health(held, market, now)
    goal = source.choice((source.uniform(0.95, 0.9999), source.uniform(0.6, 0.95)))
    factor = int(health.health_factor_wad / goal)
    entries = [replace(each, debt=each.debt * factor // WAD) for each in entries]
    held = compound.position(*entries)
    found = compound_rules.assess(held, market, now, None)
    bound = Market(
        "compound", "compound_v2", 0, no_reader(), compound_rules, compound_calls, programs=compound_programs
    )
    return Candidate(bound, market, held, found), now


def morpho_candidate(source: random.Random) -> tuple[Candidate, Moment]:
    """Draw a Morpho position, below its threshold or only below a pre-liquidation contract's."""
    lltv = source.choice((77, 86, 91, 94)) * 10**16
    pair = morpho.pair(lltv)
    contracts = [morpho.contract(pair, pre_lltv_wad=lltv * 9 // 10)] if source.random() < 0.3 else []
    collateral = between(source, 17, 22)
    shares = int(collateral * 2_000 * lltv // 10**24 * source.choice((source.uniform(0.93, 1), source.uniform(1, 1.1))))
    held = morpho.position(pair, shares * 9 * 10**5 + 10**8, collateral, *contracts)
    prices = {morpho.LOAN.address: 10**8, NATIVE: ETHER_BASE}
    if source.random() < 0.7:
        prices[morpho.COLLATERAL.address] = int(ETHER_BASE * source.uniform(0.99, 1.01))
    market = morpho.snapshot([pair], contracts, prices)
    found = morpho_rules.assess(held, market, morpho.NOW, None)
    bound = Market("morpho", "morpho_blue", 0, no_reader(), morpho_rules, morpho_calls, programs=morpho_programs)
    return Candidate(bound, market, held, found), morpho.NOW


def no_reader() -> Any:
    return object()


DRAWN: tuple[Callable[[random.Random], tuple[Candidate, Moment]], ...] = (
    aave_candidate,
    aave_candidate,
    compound_candidate,
    morpho_candidate,
)


def concentrated(
    source: random.Random, number: int, tokens: tuple[Address, Address], reserves: tuple[int, int]
) -> Pool:
    """Make a genuine Uniswap v3 pool that is worth about as much around its price, with some liquidity everywhere."""
    (one, x), (other, y) = sorted(zip(tokens, reserves, strict=True))
    spacing, fee = source.choice(((10, 500), (60, 3_000)))
    listing = Listing("uniswap-v3", FACTORY, Address(number.to_bytes(20, "big")), one, other, fee, spacing)
    price = max(isqrt((y << 192) // x), price_at(MIN_TICK + 2 * spacing))
    tick, depth = tick_at(price), isqrt(x * y) + 1
    middle = tick // spacing * spacing
    spans = [(MIN_TICK // spacing * spacing + spacing, MAX_TICK // spacing * spacing, depth // 20 + 1)]
    for _ in range(4):
        width = spacing * source.randrange(1, 60)
        spans.append((middle - width, middle + width + spacing, depth * source.randrange(1, 10)))
    nets: dict[int, int] = {}
    for low, high, liquidity in spans:
        nets[low], nets[high] = nets.get(low, 0) + liquidity, nets.get(high, 0) - liquidity
    ladder = Ladder(listing, (MIN_TICK, MAX_TICK), nets, (tick, sum(each for *_, each in spans)))
    return stand(listing, ladder, price, tick)


def draw(source: random.Random, *, is_genuine: bool = False) -> Case:
    """Draw a position that can be liquidated, and pools around it: deep ones, thin ones, ones at another price."""
    while True:
        candidate, at = source.choice(DRAWN)(source)
        if candidate.assessment.opportunities:
            break
    found, snapshot = candidate.assessment.opportunities, candidate.snapshot
    programs = candidate.market.programs
    assert programs is not None
    rates = {each.repay.address: each.repay_base * BIG // each.repay_amount for each in found}
    for each in found:
        token, amount = programs.proceeds(each, snapshot)
        if amount:
            rates[token] = each.seized_base * BIG // amount
    rates |= {token: known for token in rates if (known := snapshot.value_base(token, TokenAmount(BIG)))}
    rates = {token: rate for token, rate in rates.items() if rate}
    rates[OUTSIDER], rates[WRAPPED] = 10**8 * 10**42, ETHER_BASE * 10**30
    size = max(each.repay_base for each in found)
    tokens = sorted(rates)
    bases = [OUTSIDER, WRAPPED, *source.sample(tokens, min(len(tokens), source.choice((0, 1))))]
    pools: list[Pool] = []
    for place, one in enumerate(tokens):
        for other in tokens[place + 1 :]:
            for _ in range(source.choice((0, 1, 1, 2, 3))):
                depth, kind = size * between(source, 0, 4) // 10, source.choice((Product, Patient))
                off = source.uniform(0.992, 1.008)
                reserves = depth * BIG // rates[one] + 2, int(depth * BIG // rates[other] * off) + 2
                fee, bend = source.choice((1, 5, 30, 100)), source.choice((0, 0, 20))
                gas, number = source.choice((60, 110)) * 1_000, len(pools) + 1
                if is_genuine and source.random() < 0.7:
                    pools.append(concentrated(source, number, (one, other), reserves))
                else:
                    pools.append(kind(number, (one, other), reserves, fee, gas, bend))
    lenders = [
        Flat("free", {each: source.choice((0, size, size // 3, size * 9)) * BIG // rates[each] for each in tokens}),
        Flat("dear", dict.fromkeys(tokens, 10**60), fee_bps=source.choice((5, 9)), gas=150_000, lock=b"dear"),
    ]
    if pools and source.random() < 0.3:
        lenders.append(Flat("locked", dict.fromkeys(tokens, 10**60), 1, 60_000, source.choice(pools).lock))
    terms = Terms(
        gas_price_wei=Wei(between(source, 6.5, 10.7)),
        native_price_base=Base(ETHER_BASE),
        min_profit_base=Base(0),
        last_block=101,
        deadline_s=at.time_s + 60,
        data_fee_wei=Wei(source.choice((0, 10**12))),
        max_slippage_bps=source.choice((200, 300, 1_000)),
        max_stages=2,
    )
    return Case(candidate, at, pools, bases, source.sample(lenders, len(lenders)), terms)


def solve(case: Case) -> Trade | Refused:
    exchange = Exchange(case.pools, case.bases, WRAPPED)
    return best(case.candidate, exchange, at=case.at, lenders=case.lenders, terms=case.terms)


# brute force


@dataclass(frozen=True)
class Amounts:
    """What some stages take, may take, and bring."""

    stages: int
    repaid: int
    limit: int
    sold: int


class Brute:
    """Try everything on a grid."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.snapshot, self.rules = case.candidate.snapshot, case.candidate.market.rules
        programs = case.candidate.market.programs
        assert programs is not None
        self.programs = programs
        self.rates: dict[Address, int] = {}

    def rate(self, token: Address) -> int:
        if token not in self.rates:
            known = self.snapshot.value_base(token, TokenAmount(BIG))
            self.rates[token] = known or (ETHER_BASE * 10**30 if token in {WRAPPED, NATIVE} else 0)
        return self.rates[token]

    def best(self) -> int | None:
        """Return the most that anything brings, in base units times BIG."""
        return max((each for each in map(self.pair, self.case.candidate.assessment.opportunities) if each is not None),
                   default=None)  # fmt: skip

    def assess(self, position: Any, like: Opportunity, most: int | None) -> Opportunity | None:
        budget = None if most is None else {like.repay.address: TokenAmount(most)}
        for each in self.rules.assess(position, self.snapshot, self.case.at, budget).opportunities:
            if (each.repay, each.seize, each.target) == (like.repay, like.seize, like.target):
                return each
        return None

    def pair(self, whole: Opportunity) -> int | None:
        token, amount = self.programs.proceeds(whole, self.snapshot)
        if not self.rate(token) and amount:
            self.rates[token] = whole.seized_base * BIG // amount
        ways = [*self.ways(token, whole.repay.address)]
        if not ways:
            return None
        position, top = self.case.candidate.position, int(whole.repay_amount)
        steps = sorted({int(top * 0.86**each) for each in range(1, 60)} | {top * each // 60 for each in range(1, 60)})
        found = [(self.value(self.amounts(whole), ways), top)]
        found += [(self.single(position, whole, each, ways), each) for each in steps]
        _, at = max(found)
        gap = max(top // 60, at // 7)
        found += [
            (self.single(position, whole, at + gap * each // 25, ways), 0)
            for each in range(-25, 26)
            if at + gap * each > 0
        ]
        return max(*(each for each, _ in found), self.double(position, whole, ways))

    def single(self, position: Any, whole: Opportunity, most: int, ways: Sequence[Any]) -> int:
        part = self.assess(position, whole, most) if most > 0 else None
        if part is not None and part.repay_amount == whole.repay_amount:
            part = None  # all of it, but without room for interest until it lands
        return -(BIG**4) if part is None else self.value(self.amounts(part), ways)

    def double(self, position: Any, whole: Opportunity, ways: Sequence[Any]) -> int:
        """Try first amounts on a grid that closes in on the best, each with second ones."""
        top, worth = int(whole.repay_amount), -(BIG**4)
        low, high = 0, top
        for _ in range(4):
            found = []
            for each in {low + (high - low) * place // 10 for place in range(11)} - {0}:
                first = whole if each >= top else self.assess(position, whole, each)
                if first is not None:  # with the same room for interest until it lands, whether a part or all
                    limit = TokenAmount(first.repay_amount * whole.repay_limit // whole.repay_amount)
                    first = replace(first, repay_limit=limit)
                left = None if first is None else self.programs.after(position, self.snapshot, first)
                second = None if left is None else self.assess(left, whole, None)
                if first is None or second is None:
                    continue
                lot = [self.value(self.amounts(first, second), ways)]
                for part in range(1, 7):
                    lesser = self.assess(left, whole, second.repay_amount * part // 7)
                    if lesser is not None:
                        lot.append(self.value(self.amounts(first, lesser), ways))
                found.append((max(lot), each))
            if not found:
                break
            highest, at = max(found)
            worth, gap = max(worth, highest), (high - low) // 10
            low, high = max(0, at - gap), min(top, at + gap)
        return worth

    def amounts(self, *stages: Opportunity) -> Amounts:
        sold = self.programs.proceeds(
            replace(stages[0], seized_amount=TokenAmount(sum(each.seized_amount for each in stages))), self.snapshot
        )[1]
        return Amounts(
            len(stages), sum(each.repay_amount for each in stages), sum(each.repay_limit for each in stages), sold
        )

    def ways(self, give: Address, take: Address) -> Iterator[Any]:
        """Yield every path of pools with everybody who could pay first."""
        is_door = self.case.candidate.market.protocol == "morpho_blue"
        for path in [()] if give == take else self.paths(give, take, 3, {give}, ()):
            if is_door:
                yield give, take, path, None, None
                continue
            for lender in self.case.lenders:
                if all(pool.lock != lender.lock for pool, *_ in path):
                    yield give, take, path, lender, None
            if path and hasattr(path[-1][0], "buy"):
                yield give, take, path[:-1], None, path[-1]

    def paths(
        self, give: Address, take: Address, left: int, seen: set[Address], path: tuple[Any, ...]
    ) -> Iterator[Any]:
        for pool in self.case.pools:
            onward = next((to for from_, to in pool.pairs if from_ == give), None)
            if onward is None or any(pool is used for used, *_ in path):
                continue
            if onward == take:
                yield (*path, (pool, give, onward))
            elif left > 1 and onward in self.case.bases and onward not in seen:
                yield from self.paths(onward, take, left - 1, seen | {onward}, (*path, (pool, give, onward)))

    def value(self, amounts: Amounts, ways: Sequence[Any]) -> int:
        if not amounts.sold:
            return -(BIG**4)
        return max(self.worth(amounts, way) for way in ways)

    def worth(self, amounts: Amounts, way: Any) -> int:
        give, take, path, lender, last = way
        terms, out, worth = self.case.terms, amounts.sold, 0
        rates, fair = self.rate, 10_000 - terms.max_slippage_bps
        gas = terms.overhead_gas + amounts.stages * self.case.candidate.market.calls.GAS_ESTIMATE
        if self.case.candidate.market.protocol == "compound_v2":
            gas += 250_000
        for pool, one, other in path:
            swapped = pool.swap(one, other, TokenAmount(out))
            if swapped is None:
                return -(BIG**4)
            out, gas = swapped.amount, gas + swapped.gas
            if out <= 0 or (rates(other) and out * rates(other) * 10_000 < amounts.sold * rates(give) * fair):
                return -(BIG**4)
        if last is not None:
            pool, one, other = last
            bought = pool.buy(one, other, TokenAmount(amounts.limit))
            if (
                bought is None
                or not rates(one)
                or amounts.limit * rates(other) * 10_000 < bought.amount * rates(one) * fair
            ):
                return -(BIG**4)
            worth = (out - bought.amount) * rates(one) + (amounts.limit - amounts.repaid) * rates(other)
            gas += bought.gas
        else:
            fee = 0
            if lender is not None:
                asked = lender.fee(take, TokenAmount(amounts.limit))
                if asked is None:
                    return -(BIG**4)
                fee, gas = asked, gas + lender.gas
            worth = (out - amounts.repaid - fee) * rates(take)
        return worth - (gas * terms.gas_price_wei + terms.data_fee_wei) * ETHER_BASE * BIG // WAD


@dataclass
class Score:
    """How it went: shares of the optimum where there is one, and how long each case took."""

    shares: list[float]
    times_ms: list[float]
    splits: int = 0
    lost: str = ""


def play(seeds: range, *, is_genuine: bool = False) -> Score:
    score = Score([], [])
    for seed in seeds:
        case = draw(random.Random(seed), is_genuine=is_genuine)
        begin = time.process_time()
        found = solve(case)
        score.times_ms.append((time.process_time() - begin) * 1_000)
        most = Brute(case).best()
        if most is None or most < BIG:
            assert isinstance(found, Refused) or found.net_base >= 0, seed
            continue
        net = found.net_base if isinstance(found, Trade) else 0
        score.splits += isinstance(found, Trade) and len(found.stages) > 1
        share = 1.0 if net * BIG >= most - 2 * BIG else net * BIG / most
        score.shares.append(share)
        if share < 0.999:
            score.lost += f"{seed}: {share:.4f} of {most / BIG / 10**8:.2f}, {found if isinstance(found, Refused) else found.route}\n"
    return score


def assert_nothing_is_lost(score: Score, wins: int, splits: int) -> None:
    assert not score.lost
    assert len(score.shares) >= wins
    assert score.splits >= splits


@pytest.mark.timeout(300)
def test_a_trade_is_as_good_as_brute_force_over_the_exact_rules_finds():
    assert_nothing_is_lost(play(range(40)), wins=30, splits=4)


@pytest.mark.timeout(300)
def test_a_trade_through_genuine_uniswap_pools_is_as_good_as_brute_force_finds():
    assert_nothing_is_lost(play(range(5_000, 5_015), is_genuine=True), wins=10, splits=1)


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_a_thousand_trades_are_as_good_as_brute_force_over_the_exact_rules_finds():
    score = play(range(1_000))
    assert_nothing_is_lost(score, wins=800, splits=100)
    times = sorted(score.times_ms)
    print(f"\nmedian {times[500]:.2f} ms, p99 {times[990]:.2f} ms, the longest {times[-1]:.2f} ms")  # noqa: T201 - the measurement
