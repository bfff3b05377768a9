"""From the chain to the domain: discover a market from its root, read it at a block, read accounts. No decisions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Final

from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import view
from keeper.domain.chain import BlockHead, Log, LogFilter, ViewCall, ViewResult
from keeper.domain.plan import Payment, Realised
from keeper.domain.ports import PriceAge, Reads, Taken, Touched
from keeper.domain.position import Health, PositionKey, Token
from keeper.domain.units import BASE_UNIT, RAY, WAD, ZERO_ADDRESS, Address, PositionId, TokenAmount
from keeper.errors import Invalid, Stale, Unsafe
from keeper.protocols.aave_v3 import contracts as aave
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, Reserve, StableDebt
from keeper.protocols.aave_v3.rules import PROFILES, Profile

_FEW_CALLS: Final = 1_500  # up to that many, accounts are read in one round; above, their bitmaps come first
_BITMAP_CATEGORY: Final = (aave.GET_CATEGORY, aave.GET_CATEGORY_BITMAP)
_STATUS: Final = (aave.GET_USER_BITMAP, aave.GET_USER_CATEGORY)
_STABLE: Final = (aave.STABLE_PRINCIPAL, aave.STABLE_RATE, aave.STABLE_UPDATED)

_Question = tuple[Address, bytes, Address]  # a contract, its function, the account it is asked about


@dataclass(frozen=True, slots=True)
class _Listing:
    """A reserve's contracts."""

    id: int
    token: Token
    a_token: Address
    variable_token: Address
    stable_token: Address | None

    def is_borrowed(self, bits: int) -> bool:
        return bool(bits >> 2 * self.id & 1)

    def is_collateral(self, bits: int) -> bool:
        return bool(bits >> 2 * self.id + 1 & 1)


@dataclass(frozen=True, slots=True)
class _Layout:
    """What was discovered, with the questions whose answers tell whether a later block is laid out alike."""

    pool: Address
    oracle: Address
    sentinel: Address | None
    authorities: frozenset[Address]
    revision: int
    questions: tuple[ViewCall, ...]
    answers: tuple[ViewResult, ...]
    listings: Mapping[int, _Listing]
    categories: Mapping[int, Category]
    price_sources: Mapping[int, Address]

    @property
    def profile(self) -> Profile:
        return PROFILES[self.revision]

    @property
    def tokens(self) -> frozenset[Address]:
        """Return the contracts that keep accounts' balances."""
        every = ((each.a_token, each.variable_token, each.stable_token) for each in self.listings.values())
        return frozenset(token for each in every for token in each if token is not None)

    @property
    def parts(self) -> set[tuple[str, int]]:
        """Return the ids of what accounts can use."""
        return {("reserve", each) for each in self.listings} | {("category", each) for each in self.categories}

    @property
    def calls(self) -> list[ViewCall]:
        """Return what a snapshot asks, in the order in which it is decoded."""
        calls = list(self.questions)
        if self.sentinel is not None:
            calls.append(view(self.sentinel, aave.IS_LIQUIDATION_ALLOWED))
        calls += [view(self.oracle, aave.GET_PRICE, abi.address_word(each)) for each in self.price_sources.values()]
        for listing in self.listings.values():
            token = abi.address_word(listing.token.address)
            calls += [view(self.pool, aave.GET_RESERVE, token), view(self.oracle, aave.GET_PRICE, token)]
            if self.profile.has_grace_period:
                calls.append(view(self.pool, aave.GET_GRACE_PERIOD, token))
        return calls


class AaveReader:
    """Read one market; `root` is its PoolAddressesProvider, and `wrapped_native` prices gas."""

    def __init__(self, market: str, root: Address, wrapped_native: Address | None) -> None:
        self._market, self._root, self._wrapped_native = market, root, wrapped_native
        self._found: _Layout | None = None
        self._missing: set[tuple[str, int]] = set()

    @property
    def market(self) -> str:
        """Return the market's name."""
        return self._market

    @property
    def _layout(self) -> _Layout:
        if self._found is None:
            raise Stale(f"market {self._market} has not been discovered")
        return self._found

    @property
    def discovery_filter(self) -> LogFilter:
        """Return the pool's borrows: whoever never borrowed cannot be liquidated."""
        return LogFilter(frozenset({self._layout.pool}), frozenset({aave.BORROW}))

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change an account's balances, flags and mode, or the market."""
        topics = aave.POOL_ACCOUNTS.keys() | aave.TOKEN_ACCOUNTS.keys() | aave.MARKET_EVENTS
        return LogFilter(self._layout.tokens | self._layout.authorities, frozenset(topics))

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take nothing: the pool itself tells of all its parts."""

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the accounts that borrowed."""
        places = aave.POOL_ACCOUNTS[aave.BORROW]
        borrows = self._from_pool(logs, aave.BORROW)
        return frozenset(PositionId(account) for log in borrows for account in abi.named(log, places))

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the accounts whose state the logs changed, and whether the market's own did."""
        pool, tokens, authorities = self._layout.pool, self._layout.tokens, self._layout.authorities
        accounts: set[Address] = set()
        is_market_changed = False
        for log in logs:
            if log.topics and (log.address in tokens or log.address in authorities):
                events = aave.POOL_ACCOUNTS if log.address == pool else aave.TOKEN_ACCOUNTS
                accounts.update(abi.named(log, events.get(log.topics[0], ())))
                is_market_changed = is_market_changed or log.topics[0] in aave.MARKET_EVENTS
        return Touched(frozenset(map(PositionId, accounts)), is_market_changed)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return this pool's liquidations."""
        taken = []
        for log in self._from_pool(logs, aave.LIQUIDATION):
            collateral, debt, account = abi.named(log, (1, 2, 3))
            repaid, seized, liquidator, _ = abi.words(ViewResult(ok=True, data=log.data), 4, "a liquidation")
            key, realised = (
                PositionKey(self._market, PositionId(account)),
                Realised(TokenAmount(repaid), TokenAmount(seized)),
            )
            taken.append(Taken(key, abi.address(liquidator), realised, debt, collateral, log))
        return taken

    def _from_pool(self, logs: Iterable[Log], event: bytes) -> Iterator[Log]:
        return (log for log in logs if log.address == self._layout.pool and log.topics[:1] == (event,))

    def recognise(self, positions: Sequence[AavePosition]) -> None:
        """Take back positions; all that reading them leaves behind is found with the market."""

    async def discover(self, reads: Reads) -> None:
        """Find the pool, its oracle and generation, its reserves and eMode categories.

        Raises: Unsafe when the root is no PoolAddressesProvider, or its pool is not one that the rules know.
        """
        try:
            layout = await _discover(reads, self._market, self._root)
            self._snapshot(layout, reads.head, await reads.many(layout.calls))  # a fork may lack what its revision has
        except Invalid as error:
            if self._found is not None:
                raise
            raise Unsafe(
                f"market {self._market}: {to_checksum_address(self._root)} is not the PoolAddressesProvider of an "
                f"Aave v3 market ({error}); correct its root in the chain file"
            ) from error
        self._found = layout

    async def snapshot(self, reads: Reads) -> AaveSnapshot:
        """Read prices, indexes and parameters; where the layout has changed without a log, discover it first."""
        for _ in range(2):
            layout = self._layout
            results = await reads.many(layout.calls)
            if tuple(results[: len(layout.questions)]) == layout.answers:
                return self._snapshot(layout, reads.head, results)
            await self.discover(reads)
        raise Stale(f"market {self._market} answers differently at the same block")

    def _snapshot(self, layout: _Layout, head: BlockHead, answers: Sequence[ViewResult]) -> AaveSnapshot:
        results = iter(answers[len(layout.questions) :])
        is_allowed = layout.sentinel is None or next(results) == ViewResult(ok=True, data=abi.number_word(1))
        prices = {each: aave.price(next(results)) for each in layout.price_sources}
        reserves, members = {}, dict.fromkeys(layout.categories, 0)
        for listing in layout.listings.values():
            reserve, category = _reserve(layout, listing, results, head)
            reserves[reserve.id] = reserve
            members[category] = members.get(category, 0) | 1 << reserve.id
        categories = layout.categories
        if not layout.profile.has_category_bitmaps:
            categories = {
                each: replace(
                    category, collateral_bits=members[each], has_own_price=each in prices, price_base=prices.get(each)
                )
                for each, category in categories.items()
            }
        native = next((each for each in reserves.values() if each.token.address == self._wrapped_native), None)
        return AaveSnapshot(
            market=self._market,
            head=head,
            revision=layout.revision,
            pool=layout.pool,
            reserves=reserves,
            categories=categories,
            is_liquidation_allowed=is_allowed,
            native_price_base=None if native is None else native.value_base(WAD),
            payments=tuple(Payment(each.token, layout.pool) for each in reserves.values()),
        )

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[AavePosition]:
        """Read accounts' bitmaps, modes and scaled balances, in one round where they are few.

        Raises: Invalid for a balance that no token could hold.
        """
        accounts = [Address(each) for each in ids]
        known: dict[_Question, ViewResult] = {}
        pool = self._layout.pool
        questions = [(pool, each, account) for account in accounts for each in _STATUS]
        width = len(_STATUS) + sum(1 for _ in _balance_questions(self._layout, self._root))
        if len(accounts) * width <= _FEW_CALLS:
            questions += [each for account in accounts for each in _balance_questions(self._layout, account)]
        await _ask(reads, known, questions)
        bits = {each: _told(known, (pool, aave.GET_USER_BITMAP, each), 256) for each in accounts}
        modes = {each: _told(known, (pool, aave.GET_USER_CATEGORY, each), 8) for each in accounts}
        layout = await self._layout_for(reads, bits.values(), modes.values())
        questions = [each for account in accounts for each in _balance_questions(layout, account, bits[account])]
        await _ask(reads, known, questions)
        return [_position(layout, each, bits[each], modes[each], known) for each in accounts]

    async def _layout_for(self, reads: Reads, bits: Iterable[int], modes: Iterable[int]) -> _Layout:
        """Return the layout, discovered anew where accounts use a reserve or category that it does not have.

        What is still missing then is missing on chain as well (a dropped reserve), and is not looked for again.
        """
        every = reduce(or_, bits, 0)
        used = {("reserve", each) for each in range(aave.MAX_RESERVES) if every >> 2 * each & 3}
        used |= {("category", each) for each in modes if each}
        if used - self._layout.parts - self._missing:
            await self.discover(reads)
            self._missing |= used - self._layout.parts
        return self._layout

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Ask the pool for accounts' health factors at the block's own time."""
        pool = self._layout.pool
        results = await reads.many([view(pool, aave.GET_USER_HEALTH, abi.address_word(Address(each))) for each in ids])
        return [aave.health(result) if result.ok else None for result in results]

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return every reserve's price with the time that its feed gives; ratio and cap adapters give none."""
        oracle, tokens = self._layout.oracle, [each.token for each in self._layout.listings.values()]
        assets = [abi.address_word(each.address) for each in tokens]
        asked = [view(oracle, each, asset) for each in (aave.GET_PRICE, aave.GET_PRICE_SOURCE) for asset in assets]
        told = await reads.many(asked)
        prices, named = told[: len(assets)], told[len(assets) :]
        sources = [abi.address(abi.number(each, "a price source")) for each in named]
        rounds = await reads.many([view(each, abi.LATEST_ROUND) for each in sources])
        found = zip(tokens, prices, rounds, strict=True)
        return [PriceAge(token, aave.price(price), abi.round_updated_s(round_)) for token, price, round_ in found]


async def _ask(reads: Reads, known: dict[_Question, ViewResult], questions: Iterable[_Question]) -> None:
    """Ask what is not known yet."""
    new = [each for each in questions if each not in known]
    calls = [view(contract, function, abi.address_word(account)) for contract, function, account in new]
    known.update(zip(new, await reads.many(calls) if calls else (), strict=True))


def _told(known: Mapping[_Question, ViewResult], question: _Question, width: int) -> int:
    """Return a number of at most that many bits that a contract said of an account."""
    what = f"the state of 0x{question[2].hex()}"
    return abi.within(abi.number(known[question], what), 0, 1 << width, what)


def _balance_questions(layout: _Layout, account: Address, bits: int = -1) -> Iterator[_Question]:
    """Ask for what counts by a bitmap: collateral that is flagged, debt that is owed."""
    for listing in layout.listings.values():
        if listing.is_collateral(bits):
            yield listing.a_token, aave.SCALED_BALANCE, account
        if listing.is_borrowed(bits):
            yield listing.variable_token, aave.SCALED_BALANCE, account
            if listing.stable_token is not None:
                yield from ((listing.stable_token, function, account) for function in _STABLE)


def _position(
    layout: _Layout, account: Address, bits: int, category: int, known: Mapping[_Question, ViewResult]
) -> AavePosition:
    collateral, debt, stable_debt = [], [], []
    for listing in layout.listings.values():
        if listing.is_collateral(bits):
            collateral.append((listing.id, _told(known, (listing.a_token, aave.SCALED_BALANCE, account), 128)))
        if listing.is_borrowed(bits):
            debt.append((listing.id, _told(known, (listing.variable_token, aave.SCALED_BALANCE, account), 128)))
            if listing.stable_token is not None:
                stable = [(listing.stable_token, each, account) for each in _STABLE]
                principal, rate, updated = (_told(known, each, 128) for each in stable)
                if principal:
                    stable_debt.append(StableDebt(listing.id, principal, rate, updated))
    return AavePosition(PositionId(account), category, tuple(collateral), tuple(debt), tuple(stable_debt))


def _reserve(layout: _Layout, listing: _Listing, results: Iterator[ViewResult], head: BlockHead) -> tuple[Reserve, int]:
    """Decode the next reserve, and the eMode category that it belongs to (up to 3.1)."""
    what = f"reserve {listing.token.symbol}"
    words, price = abi.words(next(results), aave.RESERVE_WORDS, what), aave.price(next(results))
    packed = words[aave.CONFIGURATION]
    reserve = Reserve(
        id=abi.within(words[aave.ID], listing.id, listing.id + 1, what),
        token=listing.token,
        unit=10**listing.token.decimals,
        price_base=price,
        threshold_bps=abi.bits(packed, aave.THRESHOLD_BITS),
        bonus_bps=abi.bits(packed, aave.BONUS_BITS),
        fee_bps=abi.bits(packed, aave.FEE_BITS),
        is_active=bool(abi.bits(packed, aave.ACTIVE_BITS)),
        is_paused=bool(abi.bits(packed, aave.PAUSED_BITS)),
        grace_until_s=abi.number(next(results), what) if layout.profile.has_grace_period else 0,
        liquidity_index_ray=abi.within(words[aave.LIQUIDITY_INDEX], RAY, abi.UINT128, what),
        liquidity_rate_ray=abi.within(words[aave.LIQUIDITY_RATE], 0, abi.UINT128, what),
        borrow_index_ray=abi.within(words[aave.BORROW_INDEX], RAY, abi.UINT128, what),
        borrow_rate_ray=abi.within(words[aave.BORROW_RATE], 0, abi.UINT128, what),
        updated_s=abi.within(words[aave.UPDATED], 0, head.timestamp_s + 1, what),
    )
    return reserve, abi.bits(packed, aave.CATEGORY_BITS)


async def _discover(reads: Reads, market: str, root: Address) -> _Layout:
    at_root = [view(root, each) for each in (aave.GET_POOL, aave.GET_ORACLE, aave.GET_SENTINEL, aave.GET_CONFIGURATOR)]
    named = await reads.many(at_root)
    pool, oracle, sentinel, configurator = (abi.address(abi.number(each, "the root")) for each in named)
    if ZERO_ADDRESS in {pool, oracle, configurator}:
        raise abi.Unreadable("it names no pool, oracle or configurator")
    at_pool = [view(pool, each) for each in (aave.POOL_REVISION, aave.GET_RESERVES, aave.ADDRESSES_PROVIDER)]
    at_oracle = [view(oracle, each) for each in (aave.BASE_CURRENCY, aave.BASE_CURRENCY_UNIT)]
    said = await reads.many(at_pool + at_oracle)
    if abi.address(abi.number(said[2], "the pool's provider")) != root:
        raise abi.Unreadable("its pool has another provider")
    revision = abi.number(said[0], "the pool's revision")
    if (profile := PROFILES.get(revision)) is None:
        raise Unsafe(
            f"market {market}: the pool {to_checksum_address(pool)} is of revision {revision}, whose rules are not known "
            f"(but {', '.join(map(str, PROFILES))}); update the keeper or take the market out of the chain file"
        )
    if [abi.number(each, "the oracle") for each in said[3:]] != [0, BASE_UNIT]:
        raise Unsafe(
            f"market {market}: the oracle {to_checksum_address(oracle)} does not quote US dollars with 8 decimals; "
            "only such markets are supported, take this one out of the chain file"
        )
    assets = [abi.address(each) for each in abi.array(said[1], aave.MAX_RESERVES, "the reserves list")]
    functions = _BITMAP_CATEGORY if profile.has_category_bitmaps else (aave.GET_CATEGORY_LEGACY,)
    of_categories = {
        each: tuple(view(pool, function, abi.number_word(each)) for function in functions)
        for each in range(1, aave.MAX_CATEGORY + 1)
    }
    asked = [call for calls in of_categories.values() for call in calls]
    asked += [view(pool, aave.GET_RESERVE, abi.address_word(each)) for each in assets]
    asked += [view(each, abi.SYMBOL) for each in assets]
    answers = dict(zip(asked, await reads.many(asked), strict=True))
    listings = [_listing(profile, pool, each, answers) for each in assets]
    categories, price_sources = aave.categories(of_categories, answers, has_bitmaps=profile.has_category_bitmaps)
    kept = [call for each in categories for call in of_categories[each]]
    return _Layout(
        pool=pool,
        oracle=oracle,
        sentinel=sentinel if profile.has_sentinel and sentinel != ZERO_ADDRESS else None,
        authorities=frozenset({root, pool, oracle, configurator}),
        revision=revision,
        questions=(*at_root[:3], *at_pool[:2], *kept),
        answers=(*named[:3], *said[:2], *(answers[call] for call in kept)),
        listings={each.id: each for each in listings},
        categories=categories,
        price_sources=price_sources,
    )


def _listing(profile: Profile, pool: Address, asset: Address, answers: Mapping[ViewCall, ViewResult]) -> _Listing:
    what = f"reserve {to_checksum_address(asset)}"
    data, symbol = answers[view(pool, aave.GET_RESERVE, abi.address_word(asset))], answers[view(asset, abi.SYMBOL)]
    words = abi.words(data, aave.RESERVE_WORDS, what)
    tokens = [abi.address(words[each]) for each in (aave.A_TOKEN, aave.VARIABLE_TOKEN, aave.STABLE_TOKEN)]
    decimals = abi.within(abi.bits(words[aave.CONFIGURATION], aave.DECIMALS_BITS), 0, aave.MAX_DECIMALS + 1, what)
    return _Listing(
        id=abi.within(words[aave.ID], 0, aave.MAX_RESERVES, what),
        token=Token(asset, abi.symbol(symbol, asset), decimals),
        a_token=tokens[0],
        variable_token=tokens[1],
        stable_token=tokens[2] if profile.has_stable_debt and tokens[2] != ZERO_ADDRESS else None,
    )
