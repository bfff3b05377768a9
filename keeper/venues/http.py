"""Services that quote a swap over HTTP and write the call for it: optional, never waited for, never believed.

All of a head's questions share one deadline; what comes later is dropped. A quote is of one amount and holds for no other:
its pool takes the amounts that were asked for (all, half and a quarter of what a plan could give) and leaves the rest
unsold. What an answer would do is checked word by word (`allow`), and its amount against a price that is not its own.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.exchange import Pool, Swapped, Want
from keeper.domain.ports import Clock, Reads
from keeper.domain.program import ALL, Step, StepKind
from keeper.domain.units import BPS, NATIVE, Address, TokenAmount
from keeper.errors import ConfigurationError, Invalid, Transient
from keeper.venues.allow import Ask, Distrusted, Offer, Unfit, check
from keeper.venues.door import Door, Key, Line, NoOffer, Unanswered, check_url
from keeper.venues.service import Service

_PARTS: Final = (1, 2, 4)
_USUAL_GAS: Final = 450_000
_LEAST_GAS: Final = 150_000
_MOST_GAS: Final = 3_000_000
_MOST_TOLERANCE_BPS: Final = 1_000
_EXCESS_BPS: Final = 300
_SHORTFALL_BPS: Final = 3_000
_SILENCE_S: Final = 600.0

Fair = Callable[[Address, Address, TokenAmount], TokenAmount | None]
"""Says what an amount of one token is worth in another by prices that are trusted; None where there is none."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What an operator may want to know of a service. Nothing in it is the service's own text."""

    venue: str
    what: str
    is_deceit: bool = False


@dataclass(frozen=True, slots=True)
class Quoted:
    """An amount that can be given, exactly, and what is offered for it."""

    size: TokenAmount
    offer: Offer


@dataclass(frozen=True, slots=True)
class Quotes:
    """Implement `Pool` over one service's quotes for one pair, the largest first. Once used it has nothing more to give."""

    takes_exactly = True

    venue: str
    give: Address
    take: Address
    router: Address
    quoted: tuple[Quoted, ...]

    @property
    def id(self) -> bytes:
        """Return the venue and the pair."""
        return self.venue.encode() + self.give + self.take

    @property
    def lock(self) -> bytes:
        """Return the router: it is not used inside itself. Which pools it leads through nobody knows beforehand."""
        return self.router

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return the pair, as long as there is a quote."""
        return [(self.give, self.take)] if self.quoted else []

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote the largest amount that is not more; what is beyond it stays unsold."""
        found = self._find(give, take, amount)
        if found is None:
            return None
        return Swapped(found.offer.amount, _gas(found.offer.gas), replace(self, quoted=()))

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the step of the quote that `swap` found for the amount.

        Raises: ValueError for an amount that nothing was quoted for, `ALL` among them.
        """
        found = None if amount == ALL else self._find(give, take, TokenAmount(amount))
        if found is None:
            raise ValueError(f"{self.venue} has no quote for {amount}")
        return Step(
            kind=StepKind.SWAP_ROUTER,
            target=self.router,
            give=give,
            take=take,
            amount=found.size,
            limit=least,
            data=found.offer.data,
        )

    def _find(self, give: Address, take: Address, amount: TokenAmount) -> Quoted | None:
        if (give, take) != (self.give, self.take):
            return None
        return next((each for each in self.quoted if each.size <= amount), None)


class HttpQuoter:
    """Implement `Quoter` over one service."""

    def __init__(
        self,
        service: Service,
        *,
        executor: Address,
        origin: Address,
        clock: Clock,
        name: str = "",
        key: Key | None = None,
        url: str = "",
        tolerance_bps: int = 50,
        timeout_ms: int = 400,
        pace_ms: int | None = None,
        most_wants: int = 4,
        fair: Fair | None = None,
        notice: Callable[[Notice], None] | None = None,
    ) -> None:
        """Open nothing before the first question.

        Raises: ConfigurationError.
        """
        profile = service.profile
        if profile.needs_key and key is None:
            raise ConfigurationError(f"{profile.name} answers nobody without an API key")
        if key is not None and not profile.takes_key:
            raise ConfigurationError(f"{profile.name} has no API keys; leave it out")
        if not 0 < tolerance_bps <= _MOST_TOLERANCE_BPS:
            raise ConfigurationError(f"tolerance_bps must be from 1 to {_MOST_TOLERANCE_BPS}")
        self._service = service
        self._router = service.router
        self._layouts = profile.by_selector
        self._name = name or profile.name
        self._executor = executor
        self._origin = origin
        self._clock = clock
        self._tolerance_bps = tolerance_bps
        self._timeout_s = timeout_ms / 1000
        self._most_wants = most_wants
        self._fair = fair
        self._notice = notice
        self._lasting: dict[ViewCall, ViewResult] = {}
        self._said: dict[str, float] = {}
        self._door = Door(
            name=self._name,
            url=check_url(url or profile.url_on(service.chain_id, is_keyed=key is not None)),
            headers=service.headers("" if key is None else key.reveal()),
            clock=clock,
            pace_s=(profile.pace_ms[key is not None] if pace_ms is None else pace_ms) / 1000,
        )

    def __repr__(self) -> str:
        """Name the venue."""
        return f"HttpQuoter({self._name})"

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        return self._name

    @property
    def is_open(self) -> bool:
        """Return whether the service is asked at present."""
        return self._door.is_open

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Ask for the first few wants, each at three sizes; a service finds the hops by itself. See `Quoter`."""
        usable = [want for want in wanted if _is_askable(want) and not want.is_hop][: self._most_wants]
        if not usable or not self._door.is_open:
            return []
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        try:
            async with asyncio.timeout(self._timeout_s):
                facts = await self._facts(reads, {token for want in usable for token in (want.give, want.take)})
        except (TimeoutError, Transient):
            return []
        asks = [self._ask(want, part, facts) for part in _PARTS for want in usable if want.most >= part]
        offers = await self._offers(asks, deadline_s)
        pools = [self._pool(want, offers) for want in usable]
        return [pool for pool in pools if pool.quoted]

    async def close(self) -> None:
        """Drop the connections."""
        await self._door.close()

    def _ask(self, want: Want, part: int, facts: Mapping[ViewCall, ViewResult]) -> Ask:
        return Ask(
            give=want.give,
            take=want.take,
            amount=TokenAmount(want.most // part),
            executor=self._executor,
            origin=self._origin,
            tolerance_bps=self._tolerance_bps,
            facts=facts,
        )

    async def _facts(self, reads: Reads, tokens: Collection[Address]) -> Mapping[ViewCall, ViewResult]:
        views = self._service.views(tokens)
        missing = [view for view in views if view not in self._lasting]
        found = dict(zip(missing, await reads.many(missing), strict=True)) if missing else {}
        if self._service.profile.views_last:
            self._lasting |= {view: result for view, result in found.items() if result.ok}
        return {**self._lasting, **found}

    async def _offers(self, asks: Sequence[Ask], deadline_s: float) -> Sequence[tuple[Ask, Offer]]:
        """Ask everything at once, at the service's pace, and keep what came in time.

        One answer that would do something else spoils the others: whoever wrote it wrote them too.
        """
        line = self._door.until(deadline_s)
        tasks = [asyncio.create_task(self._offer(line, ask), name=self._name) for ask in asks]
        try:
            await asyncio.wait(tasks, timeout=max(deadline_s - self._clock.monotonic_s(), 0))
        finally:
            is_late = sum(task.cancel() for task in tasks) > 0
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        offers = [(ask, offer) for ask, offer in zip(asks, ended, strict=True) if isinstance(offer, Offer)]
        deceits = [each for each in ended if isinstance(each, Distrusted)]
        if deceits:
            self._door.distrust()
            self._say(str(deceits[0]), is_deceit=True)
            return []
        for error in ended:
            if isinstance(error, Exception):
                raise error
        if is_late and not offers:
            self._door.strike()
        return offers

    async def _offer(self, line: Line, ask: Ask) -> Offer | None:
        """Ask once; None where nothing came that can be used.

        Raises: Distrusted.
        """
        try:
            offer = await self._service.offer(line, ask)
            self._check(offer, ask)
        except Distrusted:
            raise
        except (NoOffer, Unanswered):
            return None
        except Unfit as unfit:
            self._say(str(unfit))
            return None
        except (Invalid, ValueError, RecursionError):
            self._door.strike()
            self._say("an answer of another form")
            return None
        self._door.praise()
        return offer

    def _check(self, offer: Offer, ask: Ask) -> None:
        trusted = self._service.trusted(ask)
        check(offer, ask, router=self._router, layouts=self._layouts, trusted=trusted)
        self._compare(offer, ask)

    def _compare(self, offer: Offer, ask: Ask) -> None:
        """Refuse what is too good to be true, and what nobody would take."""
        worth = None if self._fair is None else self._fair(ask.give, ask.take, ask.amount)
        if worth is None:
            return
        if offer.amount * BPS > worth * (BPS + _EXCESS_BPS):
            raise Unfit("a quote far above what it is worth")
        if offer.amount * BPS < worth * (BPS - _SHORTFALL_BPS):
            raise Unfit("a quote far below what it is worth")

    def _pool(self, want: Want, offers: Sequence[tuple[Ask, Offer]]) -> Quotes:
        """Make a pool of the quotes for a want; one that a smaller amount betters is no use."""
        own = [(ask.amount, offer) for ask, offer in offers if (ask.give, ask.take) == (want.give, want.take)]
        kept = list[Quoted]()
        for size, offer in sorted(own, key=lambda each: each[0]):
            if not kept or (size > kept[-1].size and offer.amount > kept[-1].offer.amount):
                kept.append(Quoted(size, offer))
        return Quotes(self._name, want.give, want.take, self._router, tuple(reversed(kept)))

    def _say(self, what: str, *, is_deceit: bool = False) -> None:
        """Tell it, the same thing only once in a while."""
        now_s = self._clock.monotonic_s()
        if self._notice is None or now_s < self._said.get(what, now_s):
            return
        self._said[what] = now_s + _SILENCE_S
        self._notice(Notice(self._name, what, is_deceit))


def _is_askable(want: Want) -> bool:
    """Return whether a router can do it: it is handed tokens, never native currency."""
    return want.most > 0 and want.give != want.take and NATIVE not in (want.give, want.take)


def _gas(told: int) -> int:
    """Return what a swap takes, as the service says, within reason."""
    return min(max(told, _LEAST_GAS), _MOST_GAS) if told else _USUAL_GAS
