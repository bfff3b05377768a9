"""Curve's pools, asked for `get_dy` at several amounts in one batch.

Pools of stable coins count their coins in int128, those of volatile ones in uint256; otherwise both answer alike. `get_dy`
takes the fee off. Every coin is as the pool itself holds it: nothing is unwrapped, and no metapool is entered.
Source: curvefi/curve-contract, pool-templates/base/SwapTemplateBase.vy; curvefi/curve-crypto-contract,
contracts/two/CurveCryptoSwap2.vy; curvefi/stableswap-ng, contracts/main/CurveStableSwapNG.vy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import UINT128, Unreadable, number_word, selector, view
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.exchange import Pool, Want
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import ZERO_ADDRESS, Address
from keeper.venues.samples import SampledPool, Samples, ladder, largest

# a pool of stable coins first, then one of volatile coins
_GET_DY: Final = (selector("get_dy(int128,int128,uint256)"), selector("get_dy(uint256,uint256,uint256)"))
_COINS: Final = (selector("coins(uint256)"), selector("coins(int128)"))  # the second in the oldest pools
_BALANCES: Final = selector("balances(uint256)")
_IS_KILLED: Final = selector("is_killed()")
_MOST_COINS: Final = 8
_PROBES: Final = (10**6, 10**12, 10**18)
_NOISE: Final = 2
_VOLATILE_NOISE: Final = 10**13
"""Volatile pools solve for the amount only to 1e-14 of what they hold (`newton_y`)."""
_GAS: Final = (180_000, 330_000)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What never changes of a pool: its coins, how it counts them, and whether it can be killed at all."""

    coins: tuple[Address, ...]
    is_volatile: bool
    has_switch: bool


@dataclass(frozen=True, slots=True)
class CurvePool(SampledPool):
    """A pool of Curve's; `places` are the coins' indices."""

    target: Address
    places: Mapping[Address, int]
    is_volatile: bool

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step: `exchange(i, j, amount, least)`."""
        words = (self.places[give], self.places[take], int(self.is_volatile))
        data = b"".join(map(number_word, words))
        return Step(StepKind.SWAP_CURVE, self.target, give, take, amount, least, data)


class CurveQuoter:
    """One pool."""

    def __init__(self, name: str, root: Address) -> None:
        """Take the pool's address."""
        self.name = name
        self._pool = root
        self._terms: _Terms | None = None

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Return the pool for those of the wanted exchanges that it has the coins for.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        terms = self._terms = self._terms or await self._discovered(reads)
        places = {coin: place for place, coin in enumerate(terms.coins)}
        asked = largest(want for want in wanted if {want.give, want.take} <= places.keys())
        return await self._quoted(reads, terms, places, asked) if asked else []

    async def close(self) -> None:
        """Do nothing: it is asked over the reads."""

    async def _discovered(self, reads: Reads) -> _Terms:
        """Ask for the coins by either name of the function, and for a rate by either."""
        coins = [view(self._pool, each, number_word(place)) for each in _COINS for place in range(_MOST_COINS)]
        rates = [self._rate(is_volatile, 0, 1, amount) for is_volatile in (False, True) for amount in _PROBES]
        switch, *answers = await reads.many([view(self._pool, _IS_KILLED), *coins, *rates])
        found = max(_coins(answers[:_MOST_COINS]), _coins(answers[_MOST_COINS : 2 * _MOST_COINS]), key=len)
        stable, volatile = (
            any(result.ok and len(result.data) == abi.WORD for result in part)
            for part in (answers[-2 * len(_PROBES) : -len(_PROBES)], answers[-len(_PROBES) :])
        )
        if len(found) < 2 or stable == volatile:
            raise Unreadable("a pool has no coins, or tells no rate")
        return _Terms(found, volatile, switch.ok and len(switch.data) == abi.WORD)

    async def _quoted(
        self, reads: Reads, terms: _Terms, places: Mapping[Address, int], asked: Mapping[tuple[Address, Address], int]
    ) -> Sequence[Pool]:
        calls = [view(self._pool, _IS_KILLED)] if terms.has_switch else []
        for (give, take), most in asked.items():
            calls.append(view(self._pool, _BALANCES, number_word(places[take])))
            calls += (self._rate(terms.is_volatile, places[give], places[take], amount) for amount in ladder(most))
        answers = list(await reads.many(calls))
        if terms.has_switch and abi.number(answers.pop(0), "whether a pool is killed"):
            return []  # it would still tell a rate
        offers = dict[tuple[Address, Address], Samples]()
        for pair, most in asked.items():
            amounts = ladder(most)
            held, *rates = answers[: 1 + len(amounts)]
            del answers[: 1 + len(amounts)]
            noise = _noise(held) if terms.is_volatile else _NOISE
            samples = Samples.of(zip(amounts, map(_out, rates), strict=True), noise)
            if samples is not None:
                offers[pair] = samples
        if not offers:
            return []
        gas = _GAS[terms.is_volatile]
        return [CurvePool(self._pool, self._pool, self.name, gas, offers, self._pool, places, terms.is_volatile)]

    def _rate(self, is_volatile: bool, give: int, take: int, amount: int) -> ViewCall:  # noqa: FBT001 - an index
        return view(self._pool, _GET_DY[is_volatile], number_word(give), number_word(take), number_word(amount))


def _coins(answers: Sequence[ViewResult]) -> tuple[Address, ...]:
    """Return the coins up to the first place that has none."""
    found = list[Address]()
    for result in answers:
        if not result.ok or len(result.data) != abi.WORD:
            break
        coin = abi.address(int.from_bytes(result.data))
        if coin == ZERO_ADDRESS or coin in found:
            break
        found.append(coin)
    return tuple(found)


def _noise(held: ViewResult) -> int:
    return _NOISE + abi.number(held, "a pool's balance") // _VOLATILE_NOISE


def _out(result: ViewResult) -> int | None:
    """Return what an amount brings; None where the pool refuses it, or says what no pool could."""
    out = int.from_bytes(result.data[: abi.WORD]) if result.ok and len(result.data) >= abi.WORD else None
    return None if out is None or out >= UINT128 else out
