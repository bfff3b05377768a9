"""A Uniswap v3 pool as a value: quotes to the wei, and the pool as a swap leaves it.

A swap goes from stop to stop: at an initialised tick the liquidity changes, and at the end of a word of the bitmap the
contract rounds although nothing changes there. Between two stops it takes and brings the same amounts whenever it
passes, so these are computed once for as long as nobody adds or removes liquidity.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from keeper.domain.abi import UINT128, number_word
from keeper.domain.exchange import Swapped
from keeper.domain.program import Step, StepKind
from keeper.domain.units import Address, TokenAmount
from keeper.errors import Invalid
from keeper.venues.ticks import (
    FEE_UNIT,
    MAX_TICK,
    MIN_TICK,
    WORD_TICKS,
    amount0_down,
    amount0_up,
    amount1_down,
    amount1_up,
    crossing,
    price_at,
    price_with_0,
    price_with_1,
    price_without_0,
    price_without_1,
    tick_at,
    with_fee,
)

SWAP_GAS: Final = 90_000
"""The pool takes 68,000 to 75,000 with both transfers (measured, tokens of OpenZeppelin's); the rest is the executor's."""
TICK_GAS: Final = 30_000
"""Of a tick that was crossed before; the very first time it is up to 56,000 (measured)."""
WORD_GAS: Final = 5_000
_UNKNOWN: Final = -1


@dataclass(frozen=True, slots=True)
class Listing:
    """What a pool is, for ever. `token0` sorts before `token1`; the fee is in millionths.

    `deployer` is whose CREATE2 made it: what the executor computes its address from.
    """

    venue: str
    deployer: Address
    address: Address
    token0: Address
    token1: Address
    fee: int
    spacing: int

    def other(self, token: Address) -> Address:
        """Return what a token is swapped for."""
        return self.token1 if token == self.token0 else self.token0


class Way:
    """The stops of one direction in the order in which they come, and what each costs from the one before.

    The last one is where knowledge ends, and is never passed. `keys` are the prices, negated where they fall, so that
    they rise in both directions.
    """

    __slots__ = ("costs", "fee", "gases", "is_up", "keys", "liquidity", "outs", "prices")

    def __init__(self, ticks: Sequence[int], liquidity: list[int], gases: list[int], *, fee: int, is_up: bool) -> None:
        """Take each stop with the liquidity before it, and the gas that passing it takes."""
        self.is_up, self.fee = is_up, fee
        self.prices = [price_at(each) for each in ticks]
        self.keys = self.prices if is_up else [-each for each in self.prices]
        self.liquidity, self.gases = liquidity, gases
        self.costs = [_UNKNOWN] * len(ticks)
        self.outs = [0] * len(ticks)

    def place(self, price: int, *, is_below: bool) -> int:
        """Return the stop that comes first after a price; of a tick's own price the pool is above or below."""
        if self.is_up:
            return (bisect_left if is_below else bisect_right)(self.keys, price)
        return (bisect_right if is_below else bisect_left)(self.keys, -price)

    def learn(self, stop: int) -> int:
        """Compute what it costs to come to a stop from the one before, and what that brings."""
        found = crossing(self.prices[stop - 1], self.prices[stop], self.liquidity[stop], self.fee)
        self.costs[stop], self.outs[stop] = found
        return found[0]


class Ladder:
    """The liquidity between two ticks, both beyond which nothing is known; `nets` has every initialised one."""

    __slots__ = ("down", "high", "is_deep", "low", "nets", "up")

    def __init__(self, listing: Listing, span: tuple[int, int], nets: Mapping[int, int], at: tuple[int, int]) -> None:
        """Build it from the pool's tick and its liquidity there.

        Raises: Invalid where these do not fit the initialised ticks.
        """
        self.low, self.high = span
        self.nets = nets
        tick, liquidity = at
        if not MIN_TICK <= self.low < tick < self.high <= MAX_TICK:
            raise Invalid("a pool's price is at the end of what can be")
        ticks = sorted(each for each in nets if self.low < each < self.high)
        place = bisect_right(ticks, tick)
        above = accumulate((nets[each] for each in ticks[place:]), initial=liquidity)
        below = accumulate((-nets[each] for each in reversed(ticks[:place])), initial=liquidity)
        layers = [*reversed([*below][1:]), *above]
        if any(not 0 <= each < UINT128 for each in layers):
            raise Invalid("a pool's liquidity contradicts its ticks")
        self.is_deep = any(layers)
        word = WORD_TICKS * listing.spacing
        first = (self.low // word + 1) * word
        starts = {*ticks, *range(first, self.high, word)}
        ends = {*ticks, *(each for each in range(first - listing.spacing, self.high, word) if each > self.low)}
        down, up = [*sorted(starts, reverse=True), self.low], [*sorted(ends), self.high]
        known = frozenset(ticks)
        gases = ([TICK_GAS if each in known else WORD_GAS for each in stops] for stops in (down, up))
        before = [layers[bisect_right(ticks, each)] for each in down], [layers[bisect_left(ticks, each)] for each in up]
        self.down = Way(down, before[0], next(gases), fee=listing.fee, is_up=False)
        self.up = Way(up, before[1], next(gases), fee=listing.fee, is_up=True)

    def liquidity(self, price: int, *, is_below: bool) -> int:
        """Return the liquidity at a price that is inside."""
        return self.up.liquidity[self.up.place(price, is_below=is_below)]


class UniswapV3Pool:
    """One pool at one head. Its price is a square root in 96 binary places.

    `is_below`: the price is a tick's own and came down to it, so that the tick has been crossed already.
    """

    takes_exactly = False

    __slots__ = ("_down", "_up", "is_below", "ladder", "listing", "price")

    def __init__(self, listing: Listing, ladder: Ladder, price: int, *, is_below: bool) -> None:
        """Stand at a price inside the ladder."""
        self.listing, self.ladder, self.price, self.is_below = listing, ladder, price, is_below
        self._down: tuple[int, int, int] | None = None
        self._up: tuple[int, int, int] | None = None

    @property
    def id(self) -> bytes:
        """Return its address."""
        return self.listing.address

    @property
    def lock(self) -> bytes:
        """Return its address: it can be entered once at a time."""
        return self.listing.address

    @property
    def venue(self) -> str:
        """Return the name of its venue, for people."""
        return self.listing.venue

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return both directions."""
        one, other = self.listing.token0, self.listing.token1
        return (one, other), (other, one)

    @property
    def tick(self) -> int:
        """Return its tick."""
        return tick_at(self.price) - self.is_below

    @property
    def liquidity(self) -> int:
        """Return the liquidity at its price."""
        return self.ladder.liquidity(self.price, is_below=self.is_below)

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote an exact amount given; None where it is more than the known ticks can take.

        Source: UniswapV3Pool.swap, as QuoterV2.quoteExactInputSingle tells it
        """
        if (found := self._begin(give, take)) is None:
            return None
        way, (stop, cost, out) = found
        price, is_below, bought, gas = self.price, self.is_below, 0, SWAP_GAS
        left: int = amount
        costs, outs, gases, last = way.costs, way.outs, way.gases, len(way.costs) - 1
        while left >= cost and left:
            if stop == last:
                return None
            left -= cost
            bought += out
            gas += gases[stop]
            stop += 1
            cost = costs[stop]
            if cost < 0:
                cost = way.learn(stop)
            out = outs[stop]
            price, is_below = way.prices[stop - 1], not way.is_up
        rest = left * (FEE_UNIT - way.fee) // FEE_UNIT
        if rest:
            liquidity = way.liquidity[stop]
            if way.is_up:
                end = price_with_1(price, liquidity, rest)
                bought += amount0_down(price, end, liquidity)
            else:
                end = price_with_0(price, liquidity, rest)
                bought += amount1_down(end, price, liquidity)
            price, is_below = end, is_below and end == price
        after = UniswapV3Pool(self.listing, self.ladder, price, is_below=is_below)
        return Swapped(TokenAmount(bought), gas, after)

    def buy(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote an exact amount taken: the result's amount is what must be given; None where so much is not known of.

        Source: UniswapV3Pool.swap, as QuoterV2.quoteExactOutputSingle tells it
        """
        if (found := self._begin(give, take)) is None:
            return None
        way, (stop, cost, out) = found
        price, is_below, paid, gas = self.price, self.is_below, 0, SWAP_GAS
        left: int = amount
        last = len(way.costs) - 1
        while left >= out and left:
            if stop == last:
                return None
            left -= out
            paid += cost
            gas += way.gases[stop]
            stop += 1
            cost = way.costs[stop]
            if cost < 0:
                cost = way.learn(stop)
            out = way.outs[stop]
            price, is_below = way.prices[stop - 1], not way.is_up
        if left:
            liquidity = way.liquidity[stop]
            if way.is_up:
                end = price_without_0(price, liquidity, left)
                paid += with_fee(amount1_up(price, end, liquidity), way.fee)
            else:
                end = price_without_1(price, liquidity, left)
                paid += with_fee(amount0_up(end, price, liquidity), way.fee)
            price, is_below = end, False
            if end == way.prices[stop]:  # rounding alone brought it there
                if stop == last:
                    return None
                gas, is_below = gas + way.gases[stop], not way.is_up
        after = UniswapV3Pool(self.listing, self.ladder, price, is_below=is_below)
        return Swapped(TokenAmount(paid), gas, after)

    def _begin(self, give: Address, take: Address) -> tuple[Way, tuple[int, int, int]] | None:
        """Return the direction, its first stop, and what coming there costs and brings."""
        listing = self.listing
        if give == listing.token0 and take == listing.token1:
            way, begin = self.ladder.down, self._down
        elif give == listing.token1 and take == listing.token0:
            way, begin = self.ladder.up, self._up
        else:
            return None
        if begin is None:
            stop = way.place(self.price, is_below=self.is_below)
            begin = stop, *crossing(self.price, way.prices[stop], way.liquidity[stop], way.fee)
            if way.is_up:
                self._up = begin
            else:
                self._down = begin
        return way, begin

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step that gives an exact amount."""
        data, target = number_word(self.listing.fee), self.listing.deployer
        return Step(StepKind.SWAP_UNISWAP_V3, target, give, take, amount, least, data)

    def first(self, give: Address, take: Address, amount: int, most: int) -> Step:
        """Return the executor's step that takes an exact amount before it pays."""
        data, target = number_word(self.listing.fee), self.listing.deployer
        return Step(StepKind.SWAP_FIRST_UNISWAP_V3, target, give, take, amount, most, data)


def stand(listing: Listing, ladder: Ladder, price: int, tick: int) -> UniswapV3Pool:
    """Return the pool at the price and the tick that it says it has.

    Raises: Invalid where they contradict each other, or are not inside the ladder.
    """
    if not ladder.low < tick < ladder.high - 1 or not price_at(tick) <= price <= (above := price_at(tick + 1)):
        raise Invalid("a pool's price and its tick contradict each other")
    return UniswapV3Pool(listing, ladder, price, is_below=price == above)
