"""Pools of Balancer v2's vault, asked by `queryBatchSwap` at several amounts in one batch.

The query is no view, but it leaves nothing changed: the vault makes the swap in a call to itself that always reverts with
the amounts. So it may stand in a batch with other reads. It answers while the vault is paused, and while it is locked.
Source: v2-vault 2.0.0, Swaps.queryBatchSwap, PoolTokens.getPoolTokens; TemporarilyPausable.getPausedState.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import UINT128, Unreadable, address_word, number_word, selector, view
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.exchange import Pool, Want
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import ZERO_ADDRESS, Address
from keeper.errors import Invalid
from keeper.venues.samples import SampledPool, Samples, ladder, largest

_TOKENS: Final = selector("getPoolTokens(bytes32)")
_IS_PAUSED: Final = selector("getPausedState()")
_QUERY: Final = selector(
    "queryBatchSwap(uint8,(bytes32,uint256,uint256,uint256,bytes)[],address[],(address,bool,address,bool))"
)
_MOST_TOKENS: Final = 64
_NOISE: Final = 4
_RELATIVE_NOISE: Final = 10**13
"""Weighted pools take powers to 1e-14 of what they hold (LogExpMath, FixedPoint.powUp)."""
_GAS: Final = 160_000


@dataclass(frozen=True, slots=True)
class BalancerPool(SampledPool):
    """A pool of the vault; its id is the vault's."""

    target: Address

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step: a single swap of the vault."""
        return Step(StepKind.SWAP_BALANCER, self.target, give, take, amount, least, self.id)


class BalancerQuoter:
    """Some pools of one vault."""

    def __init__(self, name: str, root: Address, pools: Sequence[bytes]) -> None:
        """Take the vault's address, and the pools' ids of 32 bytes."""
        self.name = name
        self._vault = root
        self._pools = tuple(pools)
        self._tokens: dict[bytes, frozenset[Address]] = {}

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Return the pools that have both tokens of something wanted.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        await self._discover(reads)
        return await self._quoted(reads, self._plan(largest(wanted)))

    async def close(self) -> None:
        """Do nothing: it is asked over the reads."""

    def _plan(self, asked: Mapping[tuple[Address, Address], int]) -> Sequence["_Question"]:
        """Return what to ask of each pool that has both tokens."""
        return [
            _Question(pool, pair, ladder(most))
            for pool, tokens in self._tokens.items()
            for pair, most in asked.items()
            if tokens.issuperset(pair)
        ]

    async def _quoted(self, reads: Reads, plan: Sequence["_Question"]) -> Sequence[Pool]:
        """Ask everything in one batch."""
        if not plan:
            return []
        calls = [call for question in plan for call in self._calls(question)]
        paused, *answers = await reads.many([view(self._vault, _IS_PAUSED), *calls])
        if abi.number(paused, "the vault's pause"):
            return []
        offers = dict[bytes, dict[tuple[Address, Address], Samples]]()
        for question in plan:
            held, *outs = answers[: 1 + len(question.amounts)]
            del answers[: 1 + len(question.amounts)]
            try:
                samples = question.samples(held, outs)
            except Invalid:
                continue
            if samples is not None:
                offers.setdefault(question.pool, {})[question.pair] = samples
        return [BalancerPool(pool, self._vault, self.name, _GAS, each, self._vault) for pool, each in offers.items()]

    async def _discover(self, reads: Reads) -> None:
        """Ask for the tokens of pools that have not told them yet."""
        unknown = [pool for pool in self._pools if pool not in self._tokens]
        answers = await reads.many([view(self._vault, _TOKENS, pool) for pool in unknown]) if unknown else []
        for pool, result in zip(unknown, answers, strict=True):
            try:
                self._tokens[pool] = frozenset(_held(result))
            except Invalid:
                continue

    def _calls(self, question: "_Question") -> Iterator[ViewCall]:
        """Yield what a pool holds, and then each amount's query."""
        yield view(self._vault, _TOKENS, question.pool)
        for amount in question.amounts:
            yield self._query(question.pool, *question.pair, amount)

    def _query(self, pool: bytes, give: Address, take: Address, amount: int) -> ViewCall:
        """Return the question what a single exact amount in would bring."""
        funds = (address_word(ZERO_ADDRESS), number_word(0), address_word(ZERO_ADDRESS), number_word(0))
        swap = (pool, number_word(0), number_word(1), number_word(amount), number_word(5 * abi.WORD), number_word(0))
        assets = (number_word(2), address_word(give), address_word(take))
        heads = 7 * abi.WORD
        swaps = (number_word(1), number_word(abi.WORD), *swap)
        places = (number_word(0), number_word(heads), number_word(heads + len(swaps) * abi.WORD))
        return view(self._vault, _QUERY, *places, *funds, *swaps, *assets)


@dataclass(frozen=True, slots=True)
class _Question:
    """One direction of one pool, and the amounts to ask about."""

    pool: bytes
    pair: tuple[Address, Address]
    amounts: tuple[int, ...]

    def samples(self, held: ViewResult, results: Sequence[ViewResult]) -> Samples | None:
        """Read the answers."""
        noise = _NOISE + _held(held).get(self.pair[1], 0) // _RELATIVE_NOISE
        outs = (_out(amount, result) for amount, result in zip(self.amounts, results, strict=True))
        return Samples.of(zip(self.amounts, outs, strict=True), noise)


def _held(result: ViewResult) -> dict[Address, int]:
    """Return what a pool holds of each token: two arrays, side by side."""
    tokens, balances = (_array(result, place) for place in (0, 1))
    if len(tokens) != len(balances) or len(tokens) < 2:
        raise Unreadable("a pool's tokens cannot be read")
    return dict(zip(map(abi.address, tokens), balances, strict=True))


def _array(result: ViewResult, place: int) -> list[int]:
    offset = abi.words(result, 3, "a pool's tokens")[place]
    values = abi.split(result.data)[abi.within(offset, 0, len(result.data), "a pool's tokens") // abi.WORD :]
    count = abi.within(values[0] if values else 0, 0, _MOST_TOKENS + 1, "a pool's tokens")
    if len(values) <= count:
        raise Unreadable("a pool's tokens cannot be read")
    return values[1 : 1 + count]


def _out(amount: int, result: ViewResult) -> int | None:
    """Return what an amount brings; None where the pool refuses it or takes another amount."""
    if not result.ok or len(result.data) != 4 * abi.WORD:
        return None
    given, taken = map(abi.signed, abi.split(result.data)[2:])
    return -taken if given == amount and 0 <= -taken < UINT128 else None
