"""From the chain to the domain: discover a comptroller's cTokens, read them at a block, read accounts. No decisions."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import Log, LogFilter, ViewCall, ViewResult
from keeper.domain.ports import PriceAge, Reads, Taken, Touched
from keeper.domain.position import Health, Token
from keeper.domain.units import NATIVE, WAD, ZERO_ADDRESS, Address, PositionId
from keeper.errors import Invalid, Stale, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2 import calls
from keeper.protocols.compound_v2 import contracts as compound
from keeper.protocols.compound_v2.calls import Layout
from keeper.protocols.compound_v2.contracts import (
    CompoundPosition,
    CompoundSnapshot,
    CToken,
    Entry,
    Kind,
    Listing,
    Terms,
)
from keeper.protocols.compound_v2.rules import case, leg, pool_terms

_FEW_CALLS: Final = 1_500  # up to that many, accounts are read in one round; above, what they have entered comes first
_NATIVE_DECIMALS: Final = 18
_AT_ONCE: Final = 16  # accounts whose health is asked in one sequence
_Told = Mapping[ViewCall, ViewResult]


class CompoundReader:
    """Read one market; `root` is its comptroller. Without a `kind`, the contracts tell which dialect they speak."""

    def __init__(self, market: str, root: Address, *, kind: Kind | None = None, prices: Prices) -> None:
        """Keep where to begin; `prices` values native currency where no cToken does."""
        self._market = market
        self._root = root
        self._kind = kind
        self._prices = prices
        self._found: Layout | None = None
        self._seen: dict[PositionId, CompoundPosition] = {}

    @property
    def market(self) -> str:
        """Return the market's name."""
        return self._market

    @property
    def _layout(self) -> Layout:
        if self._found is None:
            raise Stale(f"market {self._market} has not been discovered")
        return self._found

    @property
    def discovery_filter(self) -> LogFilter:
        """Return the borrows: whoever never borrowed cannot be liquidated."""
        layout = self._layout
        return LogFilter(frozenset(layout.listings) | layout.others, frozenset({calls.BORROW, calls.MINT_VAI}))

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change an account's balances, debts and exceptions, or the market."""
        topics = calls.TOKEN_ACCOUNTS.keys() | calls.ROOT_ACCOUNTS.keys() | calls.OTHER_ACCOUNTS.keys()
        topics |= calls.MARKET_EVENTS | {calls.LIQUIDATED, calls.LIQUIDATED_VENUS}
        return LogFilter(frozenset({self._root, *self._layout.listings}) | self._layout.others, frozenset(topics))

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take nothing: every part of the market is found from its root."""

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the accounts that borrowed, or entered what is not known yet and may have been borrowed at once."""
        layout, found = self._layout, set[Address]()
        for log in logs:
            if log.topics[:1] == (calls.ENTERED,) and log.address == self._root:
                token, account = calls.accounts(log, (0, 1))
                found |= set() if token in layout.listings else {account}
            is_borrow = log.topics[:1] == (calls.BORROW,) and log.address in layout.listings
            if is_borrow or (log.topics[:1] == (calls.MINT_VAI,) and log.address == layout.controller):
                found.update(calls.accounts(log, (0,)))
        return frozenset(PositionId(each) for each in found)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the accounts whose state the logs changed, and whether the market's own did."""
        layout, found, is_market_changed = self._layout, set[Address](), False
        for log in logs:
            events: Mapping[bytes, tuple[int, ...]] = {}
            if log.address in layout.listings:
                events = calls.TOKEN_ACCOUNTS
            elif log.address == self._root:
                events = calls.ROOT_ACCOUNTS
                is_market_changed = is_market_changed or bool(calls.MARKET_EVENTS.intersection(log.topics[:1]))
            elif log.address in layout.others:
                events = calls.OTHER_ACCOUNTS
            if places := events.get(log.topics[0] if log.topics else b""):
                found.update(calls.accounts(log, places))
        return Touched(frozenset(PositionId(each) for each in found), is_market_changed)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return this market's liquidations, with the receipts that the liquidator got, and the redemptions."""
        return calls.taken(self._market, self._layout, list(logs))

    def recognise(self, positions: Sequence[CompoundPosition]) -> None:
        """Take back positions."""
        self._seen |= {each.id: each for each in positions}

    async def discover(self, reads: Reads) -> None:
        """Find the oracle, the cTokens and, in Venus, the pools, the Liquidator and VAI.

        Raises: Unsafe when the root is no comptroller.
        """
        try:
            layout = await _discover(reads, self._root, self._kind, self._prices.wrapped_native)
            await self._read(reads, layout)
        except Invalid as error:
            if self._found is not None:
                raise Invalid(str(error)) from error
            raise Unsafe(
                f"market {self._market}: {to_checksum_address(self._root)} is not the comptroller of a Compound v2 "
                f"market or a fork that is known ({error}); correct its root in the chain file"
            ) from error
        self._found = layout

    async def snapshot(self, reads: Reads) -> CompoundSnapshot:
        """Read prices, indexes and parameters; where the layout has changed without a log, discover it first."""
        for _ in range(2):
            if (found := await self._read(reads, self._layout)) is not None:
                return found
            await self.discover(reads)
        raise Stale(f"market {self._market} answers differently at the same block")

    async def _read(self, reads: Reads, layout: Layout) -> CompoundSnapshot | None:
        """Read the market by a layout, unless that is no longer true."""
        told, indexes, prices = await asyncio.gather(
            _ask(reads, layout.snapshot), _vai_indexes(reads, layout), self._prices.read(reads)
        )
        if any(told[call] != answer for call, answer in layout.answers.items()):
            return None
        root, through = layout.root, layout.liquidator
        is_stopped = compound.flag(told[layout.stop])
        tokens: dict[int, CToken] = {}
        terms: dict[tuple[int, int], Terms] = {}
        for address, listing in layout.listings.items():
            listed, is_listed = told[view(root, compound.MARKETS, address_word(address))], True
            if layout.is_venus:
                terms[0, listing.id], is_listed = compound.venus_terms(listed)
            else:
                factor = compound.wad(ViewResult(listed.ok, listed.data[abi.WORD :]), "a collateral factor")
                incentive = compound.amount(told[view(root, compound.INCENTIVE)], "the liquidation incentive")
                terms[0, listing.id] = Terms(factor, incentive)
            if is_listed:
                answers = [told[call] for call in layout.of_token(address)]
                tokens[listing.id] = compound.ctoken(listing, answers, layout.kind, is_stopped=is_stopped)
        for pool in layout.pools:
            _add_pool(layout, pool, told, terms)
        wrapped = {NATIVE, self._prices.wrapped_native}
        native = [each.value_base(WAD) for each in tokens.values() if each.underlying.address in wrapped and each.price]
        share = None if through is None else told[view(through, compound.TREASURY_SHARE)]
        return CompoundSnapshot(
            market=self._market,
            kind=layout.kind,
            head=reads.head,
            close_factor_wad=compound.wad(told[view(root, compound.CLOSE_FACTOR)], "the close factor"),
            tokens=tokens,
            terms=terms,
            liquidator=through,
            treasury_share_wad=0 if share is None else compound.wad(share, "the treasury's share"),
            redeem_fee_wad=compound.wad(told[view(root, compound.REDEEM_FEE)], "the fee") if layout.is_venus else 0,
            vai=calls.vai(layout, reads.head, told, indexes, is_stopped=is_stopped),
            native_price_base=native[0] if native else prices.get(NATIVE),
            payments=layout.payments,
        )

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[CompoundPosition]:
        """Read what accounts have in the cTokens that they have entered, in one round where they are few.

        Raises: Invalid for a value that no contract could hold.
        """
        layout, wanted = self._layout, [Address(each) for each in ids if each[:20] != ZERO_ADDRESS]
        asked = [call for each in wanted for call in layout.of_account(each)]
        if len(wanted) * len(layout.listings) <= _FEW_CALLS // 2:
            asked += [call for each in wanted for token in layout.listings for call in layout.of_entry(each, token)]
        told = await _ask(reads, asked)
        entered = {each: _entered(layout, told[layout.of_account(each)[0]]) for each in wanted}
        more = [call for each, held in entered.items() for token in held for call in layout.of_entry(each, token)]
        told |= await _ask(reads, [call for call in more if call not in told])
        found = [_position(layout, each, entered[each], told) for each in wanted]
        if not layout.is_venus:
            debtors = [Address(each.id) for each in found if each.has_debt]
            held = {each: layout.beside(each, entered[each]) for each in debtors}
            rest = [call for asked_of in held.values() for call in asked_of.values()]
            told |= await _ask(reads, [call for call in rest if call not in told])
            found = [calls.with_the_rest(each, held.get(Address(each.id), {}), told) for each in found]
        for each in found:
            self._seen.pop(each.id, None)
        self._seen |= {each.id: each for each in found if each.has_debt}
        return found

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Ask the comptroller for accounts' liquidity as stored, and again when their cTokens have accrued interest.

        A debt within the uncertainty of what was read of it is taken as the rules take it, and the margin with it.
        """
        parts = [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]
        return [each for part in await asyncio.gather(*(self._ask_health(reads, x) for x in parts)) for each in part]

    async def _ask_health(self, reads: Reads, ids: Sequence[PositionId]) -> list[Health | None]:
        layout = self._layout
        by_id = {listing.id: token for token, listing in layout.listings.items()}
        held = {each: self._seen[each].entries if each in self._seen else () for each in ids}
        entered = {each: [by_id[entry.token] for entry in held[each] if entry.token in by_id] for each in ids}
        asked = list(dict.fromkeys(call for each in ids for call in layout.of_health(Address(each), entered[each])))
        tokens = dict.fromkeys(token for each in entered.values() for token in each)
        accruing = [view(token, compound.ACCRUE) for token in tokens]
        accruing += [view(layout.controller, compound.ACCRUE_VAI)] if layout.controller is not None else []
        answers = await reads.sequence([*asked, *accruing, *asked])
        then = dict(zip(asked, answers, strict=False))
        now = dict(zip(asked, answers[-len(asked) :], strict=True))
        known = {each: {entry.token: entry for entry in held[each]} for each in ids}
        return [_health_or_none(layout, Address(each), known[each], then, now) for each in ids]

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return every listed token's price; comptrollers' oracles do not tell how old theirs are."""
        listed = (await self.snapshot(reads)).tokens.values()
        return [PriceAge(each.underlying, each.value_base(10**each.underlying.decimals), None) for each in listed]


async def _ask(reads: Reads, asked: Sequence[ViewCall]) -> dict[ViewCall, ViewResult]:
    """Ask each question once."""
    once = list(dict.fromkeys(asked))
    return dict(zip(once, await reads.many(once), strict=True)) if once else {}


def _entered(layout: Layout, result: ViewResult) -> list[Address]:
    """Return the listed cTokens that an account has entered; one that is listed since makes the market changed."""
    entered = [abi.address(each) for each in abi.array(result, compound.MAX_MARKETS, "what an account has entered")]
    return [each for each in entered if each in layout.listings]


def _add_pool(layout: Layout, pool: int, told: _Told, terms: dict[tuple[int, int], Terms]) -> None:
    _, is_active, falls_back = abi.words(told[view(layout.root, compound.POOLS, number_word(pool))], 3, "a pool")
    for address, listing in layout.listings.items():
        own, is_in = Terms(0, 0), False
        if address in layout.pools[pool]:
            words = number_word(pool), address_word(address)
            own, is_in = compound.venus_terms(told[view(layout.root, compound.POOL_MARKETS, *words)])
        core, is_fallback = terms[0, listing.id], bool(falls_back)
        terms[pool, listing.id] = pool_terms(
            core, own if is_in else None, is_active=bool(is_active), falls_back=is_fallback
        )


async def _vai_indexes(reads: Reads, layout: Layout) -> tuple[int, int]:
    """Read VAI's index as stored and with interest to the block: the contract does not tell how old the first is."""
    if layout.controller is None:
        return 0, 0
    index, accrue = (view(layout.controller, each) for each in (compound.VAI_INDEX, compound.ACCRUE_VAI))
    stored, _, fresh = await reads.sequence([index, accrue, index])
    return compound.amount(stored, "VAI's index"), compound.amount(fresh, "VAI's index")


def _entry(layout: Layout, account: Address, token: Address, told: _Told) -> Entry:
    snapshot, index, *_ = (told[call] for call in layout.of_entry(account, token))
    what = f"what 0x{account.hex()} has in 0x{token.hex()}"
    return compound.entry(layout.listings[token].id, snapshot, index, what)


def _position(layout: Layout, account: Address, entered: Sequence[Address], told: _Told) -> CompoundPosition:
    ids = {token: layout.listings[token].id for token in entered}
    pool = told[view(layout.root, compound.USER_POOL, address_word(account))] if layout.is_venus else None
    exceptions = {ids[token]: layout.forced_for(account, token) for token in entered if layout.is_venus}
    if layout.controller is not None:
        exceptions[compound.VAI_ID] = layout.forced_for(account, layout.controller)
    restricted = None if layout.liquidator is None else told[layout.restricted(account)]
    return CompoundPosition(
        id=PositionId(account),
        entries=tuple(_entry(layout, account, token, told) for token in sorted(entered, key=ids.__getitem__)),
        pool=0 if pool is None else abi.within(abi.number(pool, "a pool"), 0, 2**96, "a pool"),
        vai=calls.vai_debt(layout, account, told),
        forced=frozenset(token for token, call in exceptions.items() if compound.flag(told[call])),
        is_restricted=restricted is not None and compound.flag(restricted),
    )


def _health_or_none(layout: Layout, account: Address, known: Mapping[int, Entry], *told: _Told) -> Health | None:
    try:
        return _health(layout, account, known, *told)
    except Invalid:
        return None


def _health(layout: Layout, account: Address, known: Mapping[int, Entry], then: _Told, now: _Told) -> Health | None:
    """Put together what the comptroller says before and after accruing; what does not add up shows in the figures."""
    call = layout.vai_owed(account)
    legs, margins = [], [calls.margin(told[layout.liquidity(account)]) for told in (then, now)]
    if None in margins:
        return None
    vai, grown = (0 if call is None else abi.number(told[call], "a debt in VAI") for told in (then, now))
    before, after = (each or 0 for each in margins)
    by_id = {listing.id: token for token, listing in layout.listings.items()}
    for token in (by_id[each] for each in known if each in by_id):
        pair, listing = [], layout.listings[token]
        factor = then[layout.factor(account, token)]
        data = factor.data if layout.is_venus else factor.data[abi.WORD :]
        ours = known[listing.id]
        terms = Terms(compound.wad(ViewResult(factor.ok, data), "a collateral factor") if ours.is_entered else 0, 0)
        for told in (then, now):
            answers = [told[call] for call in layout.of_entry(account, token)]
            said, rate = _entry(layout, account, token, told), abi.words(answers[0], 4, "a rate")[3]
            price = compound.price(told[layout.price(token)])
            taken = said = replace(said, is_entered=ours.is_entered)
            if 0 <= said.debt - ours.owed(said.index) <= ours.uncertainty(said.index):
                taken = replace(said, debt=ours.owed(said.index))
            shift = (price or 0) * said.debt // WAD - (price or 0) * taken.debt // WAD
            before, after = (before + shift, after) if told is then else (before, after + shift)
            pair.append((compound.bare(listing, price, rate, said.index), taken))
        (stored, first), (fresh, second) = pair
        is_forced = any(compound.flag(then[call]) for call in layout.forced(account, token))
        legs.append(leg(stored, fresh, first, second, terms, is_forced=is_forced))
    gained = sum(each.gain for each in legs) + vai - grown
    own = sum(each.collateral - each.debt for each in legs) - vai
    exceptions = [] if layout.controller is None else layout.forced(account, layout.controller)
    is_vai_forced = any(compound.flag(then[call]) for call in exceptions)
    margin = before if before != own else after - gained
    return case(legs, layout.kind, (vai, grown), margin, is_vai_forced=is_vai_forced).health


async def _discover(reads: Reads, root: Address, kind: Kind | None, wrapped_native: Address) -> Layout:
    at_root = [view(root, each) for each in (compound.GET_ALL_MARKETS, compound.ORACLE)]
    of_venus = [view(root, each) for each in (compound.LAST_POOL, compound.LIQUIDATOR, compound.VAI_CONTROLLER)]
    told = await _ask(reads, [*at_root, *of_venus])
    tokens = [abi.address(each) for each in abi.array(told[at_root[0]], compound.MAX_MARKETS, "the markets")]
    if kind is None and told[of_venus[0]].ok:
        kind = "venus"
    liquidator = controller = None
    pools: list[int] = []
    if kind == "venus":
        at_root += of_venus
        last = abi.within(abi.number(told[of_venus[0]], "the pools"), 0, compound.MAX_POOLS, "the pools")
        pools = list(range(1, last + 1))
        named = (abi.address(abi.number(told[each], "the root")) for each in of_venus[1:])
        liquidator, controller = (None if each == ZERO_ADDRESS else each for each in named)
    of_pools = {each: view(root, compound.POOL_TOKENS, number_word(each)) for each in pools}
    functions = [abi.SYMBOL, abi.DECIMALS, compound.UNDERLYING, compound.ACCRUED_TIME, compound.WETH_UNWRAPPER]
    functions.append(compound.SEIZE_SHARE)
    of_vai = [view(controller, compound.VAI_ADDRESS)] if controller is not None else []
    told |= await _ask(reads, [*(view(each, f) for each in tokens for f in functions), *of_pools.values(), *of_vai])
    if kind is None:
        is_timed = any(compound.flag(told[view(each, compound.ACCRUED_TIME)]) for each in tokens)
        kind = "moonwell" if is_timed else "compound"
    taken = {each: told[view(each, compound.UNDERLYING)] for each in tokens}
    under = {each: abi.address(abi.number(said, "a token")) for each, said in taken.items() if compound.flag(said)}
    vai = abi.address(abi.number(told[of_vai[0]], "VAI")) if of_vai else None
    asked = {*under.values(), *([] if vai is None else [vai])}
    told |= await _ask(reads, [view(each, f) for each in sorted(asked) for f in (abi.SYMBOL, abi.DECIMALS)])
    native, listings = Token(NATIVE, "native", _NATIVE_DECIMALS), {}
    for place, each in enumerate(tokens):
        underlying = _token(under[each], told) if each in under else native
        is_unwrapped = told[view(each, compound.WETH_UNWRAPPER)].ok and underlying.address == wrapped_native
        pays, share = native if is_unwrapped else underlying, told[view(each, compound.SEIZE_SHARE)]
        tells_share = each in under or compound.said(share) is not None  # only what is no proxy never learns to
        listings[each] = Listing(place, _token(each, told), underlying, pays, tells_share)
    kept = [*at_root, *of_pools.values(), *of_vai]
    what = "a pool's tokens"
    return Layout(
        root=root,
        kind=kind,
        oracle=abi.address(abi.number(told[at_root[1]], "the oracle")),
        liquidator=liquidator,
        vai=None if vai is None else _token(vai, told),
        controller=controller,
        listings=listings,
        pools={
            pool: [abi.address(each) for each in abi.array(told[call], compound.MAX_MARKETS, what)]
            for pool, call in of_pools.items()
        },
        answers={call: told[call] for call in kept},
    )


def _token(address: Address, told: _Told) -> Token:
    what = f"the decimals of {to_checksum_address(address)}"
    decimals = abi.within(abi.number(told[view(address, abi.DECIMALS)], what), 0, compound.MAX_DECIMALS + 1, what)
    return Token(address, abi.symbol(told[view(address, abi.SYMBOL)], address), decimals)
