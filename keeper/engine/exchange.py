"""The pools at one head as a graph: the ways from one token to another, quoted at an amount."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, NamedTuple, Protocol, TypeGuard

from keeper.domain.exchange import Pool, Swapped
from keeper.domain.program import Step, StepKind
from keeper.domain.units import BPS, NATIVE, Address, TokenAmount
from keeper.engine.terms import Values

MAX_HOPS: Final = 3
_KEPT: Final = 3
_WRAP_GAS: Final = 30_000
_LEADING_BITS: Final = 4
_PREMIUM_BPS: Final = 200
"""How much above the oracle's price a token may sell, when a way is judged before it is gone to the end."""


class PaidLast(Protocol):
    """A pool that hands out first, and is paid when all the rest is done."""

    def buy(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote an exact amount taken: what has to be given, to the wei or from above; None where there is too little."""
        ...

    def first(self, give: Address, take: Address, amount: int, most: int) -> Step:
        """Return the executor's step that opens it."""
        ...


def is_paid_last(pool: object) -> TypeGuard[PaidLast]:
    """Return whether a pool is one that can be paid last."""
    return hasattr(pool, "buy") and hasattr(pool, "first")


class Hop(NamedTuple):
    """One swap of a route."""

    pool: Pool
    give: Address
    take: Address


Route = tuple[Hop, ...]
"""Swaps one after another, each giving all that the one before has brought; none where nothing has to be swapped."""


class Quote(NamedTuple):
    """A route at one amount: what every hop brings, the gas of all, and the pools as they stand afterwards."""

    route: Route
    given: int
    amounts: tuple[int, ...]
    gas: int
    pools: tuple[Pool, ...]

    @property
    def amount(self) -> int:
        """Return what comes out."""
        return self.amounts[-1] if self.amounts else self.given


def quote(route: Route, amount: int, values: Values | None = None, least: int = 0) -> Quote | None:
    """Quote a route, or return None where one of its pools cannot take so much.

    With values, also where some hop brings what is worth less than the least.
    """
    amounts, gas, pools, given = [], 0, [], amount
    for pool, give, take in route:
        swapped = pool.swap(give, take, TokenAmount(given))
        if swapped is None or swapped.amount <= 0:
            return None
        given = swapped.amount
        if values is not None and given * (values.rate(take) or least) < least:
            return None
        amounts.append(given)
        gas += swapped.gas
        pools.append(swapped.pool)
    return Quote(route, amount, tuple(amounts), gas, tuple(pools))


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The chain's wrapped native token as a pool: one for one."""

    takes_exactly = False

    wrapped: Address

    @property
    def id(self) -> bytes:
        """Return the token's address."""
        return self.wrapped

    @property
    def lock(self) -> bytes:
        """Return the token's address, which nothing else locks."""
        return self.wrapped

    @property
    def venue(self) -> str:
        """Return what it does."""
        return "wrap"

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return both ways."""
        return ((NATIVE, self.wrapped), (self.wrapped, NATIVE))

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:  # noqa: ARG002 - the port's
        """Return the same amount."""
        return Swapped(amount, _WRAP_GAS, self)

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the wrapping or the unwrapping."""
        kind = StepKind.WRAP_NATIVE if give == NATIVE else StepKind.UNWRAP_NATIVE
        return Step(kind, self.wrapped, give, take, amount, least)


class _Way(NamedTuple):
    """How a token was reached: for how much, after which gas, on which route, by way of which tokens."""

    amount: int
    gas: int
    route: Route
    seen: tuple[Address, ...]


_Offer = tuple[int, Pool, Swapped]
"""What a pool would bring, with a score of it."""
_score: Final = itemgetter(0)


@dataclass(frozen=True, slots=True)
class _Graph:
    """Which pools swap what, and which tokens may lie between."""

    edges: Mapping[Address, Mapping[Address, Sequence[bytes]]]
    between: frozenset[Address]


class Exchange:
    """Every pool at one head. A value: to use a route returns another.

    Between the first token and the last lie base tokens, and what a token can only be turned into (the asset of a vault).
    """

    def __init__(
        self, pools: Iterable[Pool], bases: Collection[Address] = (), wrapped_native: Address | None = None
    ) -> None:
        """Sort the pools by what they swap."""
        wrapping = [] if wrapped_native is None else [Wrapping(wrapped_native)]
        self.wrapped_native = wrapped_native
        self._pools: dict[bytes, Pool] = {each.id: each for each in (*pools, *wrapping)}
        edges: dict[Address, dict[Address, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        between = set(bases) | ({NATIVE, wrapped_native} if wrapped_native is not None else set())
        for key, pool in self._pools.items():
            pairs = set(pool.pairs)
            for give, take in sorted(pairs):
                edges[give][take].append(key)
                if (take, give) not in pairs:
                    between.add(take)
        self._graph = _Graph({give: dict(takes) for give, takes in edges.items()}, frozenset(between))
        self._known: dict[tuple[str, Address, Address, int], tuple[Route, ...]] = {}

    def after(self, pools: Iterable[Pool]) -> "Exchange":
        """Return the exchange once some pools stand differently."""
        changed = {each.id: each for each in pools}
        made = Exchange.__new__(Exchange)
        made.wrapped_native, made._graph = self.wrapped_native, self._graph  # noqa: SLF001 - its own
        made._pools = self._pools | changed  # noqa: SLF001
        made._known = {  # noqa: SLF001
            key: routes
            for key, routes in self._known.items()
            if not any(hop.pool.id in changed for route in routes for hop in route)
        }
        return made

    def routes(self, give: Address, take: Address, amount: int, values: Values) -> tuple[Route, ...]:
        """Return the best routes for about that amount, the best first, after the gas that they take.

        What is remembered is for every amount that begins with the same bits, so it is found at one that stands for them.
        """
        if give == take:
            return ((),)
        rest = max(0, amount.bit_length() - _LEADING_BITS)
        key = (values.name, give, take, amount >> rest << rest)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._search(give, take, key[3] | 1 << rest >> 1, values)
        return found

    def _search(self, give: Address, take: Address, amount: int, values: Values) -> tuple[Route, ...]:
        """Go hop by hop, keeping the best way to every token: more of a token never brings less in the end."""
        ends: list[tuple[int, Route]] = []
        layer = {give: (0, _Way(amount, 0, (), (give,)))}
        for left in range(MAX_HOPS - 1, -1, -1):
            reached: dict[Address, tuple[int, _Way]] = {}
            bar = sorted(map(_score, ends))[-_KEPT] if len(ends) >= _KEPT else None
            for token, (reach, way) in layer.items():
                rate = values.rate(token)
                if bar is not None and rate and reach + way.amount * rate * _PREMIUM_BPS // BPS < bar:
                    continue
                for onward, pools in self._graph.edges.get(token, {}).items():
                    if onward == take:
                        found = self._onward(way, token, onward, pools, values)
                        ends += [(score, (*way.route, Hop(pool, token, take))) for score, pool, _ in found]
                    elif left and onward not in way.seen and self._leads_on(onward, take, left):
                        if not (found := self._onward(way, token, onward, pools, values)):
                            continue
                        score, pool, swapped = max(found, key=_score)
                        if onward not in reached or score > reached[onward][0]:
                            route, seen = (*way.route, Hop(pool, token, onward)), (*way.seen, onward)
                            reached[onward] = score, _Way(swapped.amount, way.gas + swapped.gas, route, seen)
            layer = reached
        ends.sort(key=_score, reverse=True)
        kept = [route for _, route in ends[:_KEPT]]
        kept += [route for _, route in ends[_KEPT:] if is_paid_last(route[-1].pool)][:1]
        return tuple(kept)

    def _leads_on(self, token: Address, take: Address, left: int) -> bool:
        """Return whether a token may lie between, and the goal can be reached from it with so many hops left."""
        return token in self._graph.between and (left > 1 or take in self._graph.edges.get(token, {}))

    def _onward(self, way: _Way, give: Address, take: Address, pools: Sequence[bytes], values: Values) -> list[_Offer]:
        """Return what every pool that was not used before would bring, with a score of it."""
        found, rate, used = [], values.rate(take), [hop.pool for hop in way.route]
        for key in pools:
            pool = self._pools[key]
            if (used and any(pool is each for each in used)) or (
                swapped := pool.swap(give, take, TokenAmount(way.amount))
            ) is None:
                continue
            score = swapped.amount * rate - values.of_gas(way.gas + swapped.gas) if rate else swapped.amount
            found.append((score, pool, swapped))
        return found
