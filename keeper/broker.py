"""What the executor can trade with, head by head: pools kept in memory, loans on offer, and venues that must be asked."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from keeper.domain.abi import number, number_word, selector, view
from keeper.domain.chain import BlockHead, Log, LogFilter
from keeper.domain.exchange import Lender, Lenders, Pool, Quoter, Venue, Want
from keeper.domain.ports import Executor, Reads, Snapshot
from keeper.domain.units import MAX_UINT256, Address, TokenAmount, Wei
from keeper.engine.exchange import Exchange
from keeper.engine.scan import Candidate
from keeper.engine.trading import Trading
from keeper.errors import Invalid, Transient
from keeper.rounds import all_of

_ASKED_FOR: Final = 64
"""For how many candidates venues are asked that have to be: the best ones come first."""
_WAYS: Final = 4
_MANY: Final = TokenAmount(10**30)
"""Enough of any token for its price to be told exactly."""
_L1_FEE: Final = selector("getL1Fee(bytes)")
_TYPICAL: Final = bytes(range(1, 256)) * 6
"""About as many bytes as a transaction of the executor has, and as hard to compress."""


@dataclass(frozen=True, slots=True)
class TradePolicy:
    """The operator's and the chain's limits on trades.

    A transaction is worthless after `last_blocks` and `last_s`; on a chain whose contracts see another chain's block
    numbers only the time counts, and `last_blocks` is None. `data_fee_oracle` tells what the data of one costs.
    """

    floor_bps: int
    tolerance_bps: int
    max_slippage_bps: int
    last_blocks: int | None
    last_s: int
    hold: frozenset[Address] = frozenset()
    data_fee_oracle: Address | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """What is on offer at one head. `silent` names what did not answer, with why."""

    pools: tuple[Pool, ...] = ()
    lenders: tuple[Lender, ...] = ()
    data_fee_wei: Wei = Wei(0)
    silent: dict[str, str] = field(default_factory=dict)


class Scales:
    """What asked venues' offers are weighed with: the prices of the candidates' own markets at the head."""

    def __init__(self) -> None:
        """Know no price."""
        self._snapshots: Sequence[Snapshot] = ()

    def take(self, candidates: Iterable[Candidate]) -> None:
        """Take the prices of the candidates' markets."""
        self._snapshots = list({id(each.snapshot): each.snapshot for each in candidates}.values())

    def worth(self, give: Address, take: Address, amount: TokenAmount) -> TokenAmount | None:
        """Return what an amount is worth in another token, rounded down; None where no market prices both."""
        for snapshot in self._snapshots:
            value, unit = snapshot.value_base(give, amount), snapshot.value_base(take, _MANY)
            if value is not None and unit:
                return TokenAmount(value * _MANY // unit)
        return None


class Broker:
    """Owned by the scan loop. A venue that cannot be read is left out of a head, and stops nothing."""

    def __init__(
        self,
        *,
        executor: Executor,
        venues: Sequence[Venue],
        quoters: Sequence[Quoter],
        lenders: Sequence[Lenders],
        bases: Collection[Address],
        wrapped_native: Address,
        policy: TradePolicy,
        scales: Scales | None = None,
    ) -> None:
        """Trade through `executor`, over `bases` where two tokens have no pool of their own."""
        self.executor = executor
        self._venues = venues
        self._quoters = quoters
        self._lenders = lenders
        self._bases = frozenset(bases) | {wrapped_native}
        self._wrapped_native = wrapped_native
        self._policy = policy
        self._scales = scales or Scales()
        self._tokens: frozenset[Address] = frozenset()
        self._pairs: frozenset[tuple[Address, Address]] = frozenset()
        self._searched: dict[str, frozenset[tuple[Address, Address]]] = {}
        """For which pairs each venue has looked for pools."""

    @property
    def filters(self) -> list[LogFilter]:
        """Return the logs that change what is on offer."""
        return [each.head_filter for each in self._venues]

    def follow(self, logs: Sequence[Log], *, is_broken: bool) -> None:
        """Take the logs of new blocks; where others were orphaned, or are missing, everything is read again."""
        for venue in self._venues:
            if is_broken:
                venue.distrust()
            venue.follow(logs)

    async def read(self, reads: Reads, tokens: Iterable[Address]) -> Stall:
        """Read what has changed, and look for pools of tokens that are new; concurrent reads share one request.

        Raises: Stale.
        """
        fresh = self._bases.union(tokens) - self._tokens
        self._tokens |= fresh
        self._pairs |= {_sorted(each, base) for each in fresh for base in self._bases if each != base}
        silent: dict[str, str] = {}
        pools, loans, fee = await all_of(
            all_of(*(self._pools(each, reads, silent) for each in self._venues)),
            all_of(*(self._loans(each, reads, silent) for each in self._lenders)),
            self._data_fee(reads),
        )
        return Stall(tuple(chain.from_iterable(pools)), tuple(chain.from_iterable(loans)), fee, silent)

    async def trading(self, reads: Reads, head: BlockHead, stall: Stall, candidates: Sequence[Candidate]) -> Trading:
        """Return what the candidates' trades can be made of: what is on offer, and what is asked for them.

        Raises: Stale.
        """
        wanted = _wants(sorted(candidates, key=_stake, reverse=True)[:_ASKED_FOR])
        if not wanted:
            return self._trading(head, stall.pools, stall)
        self._scales.take(candidates)
        quoted = await self._quotes(reads, [*wanted, *self._hops(wanted)], stall)
        beyond = _beyond(quoted, wanted)
        if beyond:
            quoted += await self._quotes(reads, [*beyond, *self._hops(beyond)], stall)
        direct = {_sorted(want.give, want.take) for want in [*wanted, *beyond]}
        tokens = {token for pair in direct for token in pair}
        tokens |= {token for pool in quoted for pair in pool.pairs for token in pair}
        if not (tokens <= self._tokens and direct <= self._pairs):  # what only a candidate brings up
            self._pairs |= direct
            stall = replace(await self.read(reads, tokens), silent=stall.silent)
        return self._trading(head, [*stall.pools, *quoted], stall)

    async def _quotes(self, reads: Reads, wanted: Sequence[Want], stall: Stall) -> list[Pool]:
        asked = await all_of(*(self._asked(each, reads, wanted, stall.silent) for each in self._quoters))
        return list(chain.from_iterable(asked))

    def _hops(self, wanted: Sequence[Want]) -> list[Want]:
        """Return the exchanges by way of a base that what is wanted may be made of, at what the amounts are worth."""
        most: dict[tuple[Address, Address], int] = {}
        for want in wanted:
            for base in self._bases - {want.give, want.take}:
                _widen(most, (want.give, base), want.most)
                _widen(most, (base, want.take), self._scales.worth(want.give, base, want.most) or 0)
        direct = {(each.give, each.take) for each in wanted}
        found = {pair: TokenAmount(amount) for pair, amount in most.items() if amount and pair not in direct}
        return [Want(*pair, amount, is_hop=True) for pair, amount in found.items()]

    def _trading(self, head: BlockHead, pools: Sequence[Pool], stall: Stall) -> Trading:
        return Trading(
            executor=self.executor,
            exchange=Exchange(pools, self._bases, self._wrapped_native),
            lenders=stall.lenders,
            last_block=MAX_UINT256 if self._policy.last_blocks is None else head.number + self._policy.last_blocks,
            deadline_s=head.timestamp_s + self._policy.last_s,
            floor_bps=self._policy.floor_bps,
            tolerance_bps=self._policy.tolerance_bps,
            max_slippage_bps=self._policy.max_slippage_bps,
            data_fee_wei=stall.data_fee_wei,
            hold=self._policy.hold,
        )

    async def close(self) -> None:
        """Let go of what services are asked over."""
        for quoter in self._quoters:
            await quoter.close()

    async def _pools(self, venue: Venue, reads: Reads, silent: dict[str, str]) -> Sequence[Pool]:
        pairs = self._pairs
        try:
            if self._searched.get(venue.name) != pairs:
                await venue.discover(reads, pairs)
                self._searched[venue.name] = pairs
            return await venue.pools(reads)
        except (Invalid, Transient) as error:
            silent[venue.name] = str(error)
            return ()

    async def _loans(self, lenders: Lenders, reads: Reads, silent: dict[str, str]) -> Sequence[Lender]:
        try:
            return await lenders.lenders(reads, self._tokens)
        except (Invalid, Transient) as error:
            silent[lenders.name] = str(error)
            return ()

    async def _asked(
        self, quoter: Quoter, reads: Reads, wanted: Sequence[Want], silent: dict[str, str]
    ) -> Sequence[Pool]:
        try:
            return await quoter.quotes(reads, wanted)
        except (Invalid, Transient) as error:
            silent[quoter.name] = str(error)
            return ()

    async def _data_fee(self, reads: Reads) -> Wei:
        """Read what a rollup of the OP stack takes for a typical transaction's data; the sender prices it exactly."""
        oracle = self._policy.data_fee_oracle
        if oracle is None:
            return Wei(0)
        offset, length = number_word(32), number_word(len(_TYPICAL))
        (answer,) = await reads.many(
            [view(oracle, _L1_FEE, offset, length, _TYPICAL.ljust(-(-len(_TYPICAL) // 32) * 32, b"\0"))]
        )
        return Wei(number(answer, "a data fee"))


def _stake(candidate: Candidate) -> int:
    """Return what a candidate is worth to a liquidator at most."""
    return max((each.stake_base for each in candidate.assessment.opportunities), default=0)


def _wants(candidates: Sequence[Candidate]) -> list[Want]:
    """Return what the candidates' collateral would be swapped for, up to the most that any of them brings."""
    most: dict[tuple[Address, Address], int] = {}
    for candidate in candidates:
        programs = candidate.market.programs
        if programs is not None:
            for each in candidate.assessment.opportunities[:_WAYS]:
                give, amount = programs.proceeds(each, candidate.snapshot)
                if give != each.repay.address:
                    _widen(most, (give, each.repay.address), amount)
    return [Want(*pair, TokenAmount(amount)) for pair, amount in most.items() if amount]


def _beyond(quoted: Sequence[Pool], wanted: Sequence[Want]) -> list[Want]:
    """Return the exchanges of what collateral can only be turned into: the asset of a vault, a token unwrapped."""
    most: dict[tuple[Address, Address], int] = {}
    asked = {want.give for want in wanted}
    for pool in quoted:
        if len(pool.pairs) == 1:  # it goes one way: a wrapper
            ((give, asset),) = pool.pairs
            for want in wanted:
                swapped = pool.swap(give, asset, want.most) if want.give == give else None
                if swapped is not None and asset != want.take and asset not in asked:
                    _widen(most, (asset, want.take), swapped.amount)
    return [Want(*pair, TokenAmount(amount)) for pair, amount in most.items() if amount]


def _sorted(one: Address, other: Address) -> tuple[Address, Address]:
    return min(one, other), max(one, other)


def _widen(most: dict[tuple[Address, Address], int], pair: tuple[Address, Address], amount: int) -> None:
    most[pair] = max(most.get(pair, 0), amount)
