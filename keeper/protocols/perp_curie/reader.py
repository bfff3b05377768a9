"""From the chain to the domain: discover a ClearingHouse's parts, read it at a block, read accounts. No decisions.

The contract keeps the funding growth of a market to itself: nothing tells it. It follows from the pending funding of
an account whose size and last growth are known: the larger the account, the narrower what it can be. So every head asks
for the pending funding of the largest accounts, which settles everybody else's to within one unit of 10**-18.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, signed, view
from keeper.domain.chain import BlockHead, Log, LogFilter, ViewCall, ViewResult
from keeper.domain.ports import PriceAge, Reads, Taken, Touched
from keeper.domain.position import Health, Token
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, PositionId, TokenAmount
from keeper.errors import Invalid, Stale, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.perp_curie import calls, rules
from keeper.protocols.perp_curie import contracts as perp
from keeper.protocols.perp_curie.contracts import Layout, Part, PerpPosition, PerpSnapshot, Stake, Valuation

_FEW_CALLS: Final = 1_500  # up to that many, accounts are read in one round; above, their tokens come first
_WITNESSES: Final = 2  # accounts per market whose pending funding tells the growth
_MORE_WITNESSES: Final = 50  # read again where those have gone
_ROOT_GETTERS: Final = (
    perp.GET_VAULT,
    perp.GET_EXCHANGE,
    perp.GET_ORDER_BOOK,
    perp.GET_ACCOUNT_BALANCE,
    perp.GET_INSURANCE_FUND,
    perp.GET_CONFIG,
)
_TRUE: Final = ViewResult(ok=True, data=number_word(1))

_Answers = Mapping[ViewCall, ViewResult]
_Tokens = tuple[tuple[Address, ...], tuple[Address, ...]]  # the markets and the collaterals that an account is in


class PerpReader:
    """Read one ClearingHouse, its `root`; `prices` tell what the settlement token and gas are worth in US dollars."""

    def __init__(self, market: str, root: Address, *, prices: Prices) -> None:
        self._market = market
        self._root = root
        self._prices = prices
        self._found: Layout | None = None
        self._named: dict[Address, None] = {}  # base tokens and collaterals, in the order in which they were named
        self._unread: set[PositionId] = set()
        self._tracked: dict[PositionId, PerpPosition] = {}
        self._opaque: set[PositionId] = set()
        self._witnesses: dict[Address, list[PositionId]] = {}

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
        """Return the logs that name accounts with positions or orders, markets and collaterals."""
        layout = self._layout
        topics = frozenset({perp.POSITION_CHANGED, perp.LIQUIDITY_CHANGED}) | perp.PART_EVENTS
        return LogFilter(frozenset({layout.root, layout.registry, layout.collateral_manager}), topics)

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change an account, or what the market consists of."""
        layout = self._layout
        addresses = {layout.root, layout.account_balance, layout.vault, layout.exchange, layout.registry}
        topics = perp.ACCOUNT_EVENTS.keys() | perp.MARKET_EVENTS
        return LogFilter(frozenset(addresses | {layout.collateral_manager}), frozenset(topics))

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take the accounts, base tokens and collaterals that logs have named so far."""
        for each in known:
            if each.startswith(ZERO_ADDRESS):
                self._named.setdefault(Address(each[20:]))
            elif each not in self._tracked:
                self._unread.add(each)

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the accounts, and the base tokens and collaterals with the zero address in front."""
        wanted, found = self.discovery_filter, set()
        for log in logs:
            if log.address in wanted.addresses and log.topics[:1] and log.topics[0] in wanted.topics:
                (who,) = abi.named(log, (1,))
                found.add(PositionId(ZERO_ADDRESS + who if log.topics[0] in perp.PART_EVENTS else who))
        return frozenset(found)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the accounts whose state the logs changed, and whether there are other markets or collaterals."""
        addresses, accounts, is_market_changed = self.head_filter.addresses, set(), False
        for log in logs:
            if log.topics and log.address in addresses:
                place = perp.ACCOUNT_EVENTS.get(log.topics[0])
                accounts.update(abi.named(log, () if place is None else (place,)))
                is_market_changed = is_market_changed or log.topics[0] in perp.MARKET_EVENTS
        return Touched(frozenset(map(PositionId, accounts)), is_market_changed)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return the take-overs, with the margin that each locked, and the cancellations of orders."""
        ours = [log for log in logs if log.address == self._layout.root]
        return [
            *calls.take_overs(self._layout, self._market, ours),
            *calls.cancellations(self._layout, self._market, ours),
        ]

    def recognise(self, positions: Sequence[PerpPosition]) -> None:
        """Take back positions, and the tokens that they are in: a discovery then finds those."""
        for each in positions:
            tokens = {stake.base_token for stake in each.stakes} | {token for token, _ in each.collaterals}
            self._named.update(dict.fromkeys(sorted((tokens | set(each.orders)) - self._named.keys())))
            self._track(each)

    async def discover(self, reads: Reads) -> None:
        """Find the contracts behind the ClearingHouse, and which of the named tokens are markets or collaterals.

        Raises: Unsafe when the root is no ClearingHouse of this protocol.
        """
        try:
            self._found = await _discover(reads, self._root, tuple(self._named))
        except Invalid as error:
            if self._found is not None:
                raise
            raise Unsafe(
                f"market {self._market}: {to_checksum_address(self._root)} is not the ClearingHouse of a Perpetual "
                f"Protocol v2 market ({error}); correct its root in the chain file"
            ) from error

    async def snapshot(self, reads: Reads) -> PerpSnapshot:
        """Read prices, funding growth, parameters, and what the contract says of accounts that only it can value."""
        if self._unread and not self._tracked:
            with suppress(Invalid):  # which is for whoever reads that account
                await self.positions(reads, sorted(self._unread))
        snapshot, unknown = await self._read(reads)
        if unknown:  # whose pending funding told the growth has closed its position
            await self.positions(reads, unknown)
            snapshot, _ = await self._read(reads)
        return snapshot

    async def _read(self, reads: Reads) -> tuple[PerpSnapshot, list[PositionId]]:
        """Read a snapshot, and tell which accounts to read where nobody told a market's funding growth."""
        layout = self._layout
        witnesses = {token: self._witnesses_of(token) for token in layout.perpetuals}
        opaque = {each: [stake.base_token for stake in self._tracked[each].stakes] for each in sorted(self._opaque)}
        views = calls.market_views(layout)
        shared = len(views)
        for token, known in witnesses.items():
            views += [each for trader in known for each in calls.stake_views(layout, trader, token)]
        for trader, tokens in opaque.items():
            views += calls.valuation_views(layout, trader, tokens)
        wanted = (layout.settlement.address, *layout.collaterals)
        answers, prices = await asyncio.gather(reads.many(views), self._prices.read(reads, wanted))
        rest = iter(answers[shared:])
        told = {token: [[next(rest) for _ in range(3)] for _ in known] for token, known in witnesses.items()}
        growths = {token: perp.growth(each) for token, each in told.items()}
        valuations = {
            trader: perp.valuation([next(rest) for _ in range(2 + len(tokens))], tokens)
            for trader, tokens in opaque.items()
        }
        lost = [token for token, said in told.items() if said and growths[token] is None and all(e[2].ok for e in said)]
        unknown = {each for token in lost for each in self._holders(token)[:_MORE_WITNESSES]}
        snapshot = _snapshot(self._market, layout, reads.head, answers[:shared], growths)
        native = prices.get(NATIVE)
        return replace(snapshot, valuations=valuations, prices=prices, native_price_base=native), sorted(unknown)

    def _witnesses_of(self, token: Address) -> list[PositionId]:
        if token not in self._witnesses:
            self._witnesses[token] = self._holders(token)[:_WITNESSES]
        return self._witnesses[token]

    def _holders(self, token: Address) -> list[PositionId]:
        """Return the accounts with a position and without orders in a market, the largest first."""
        sizes = {
            position.id: abs(stake.size)
            for position in self._tracked.values()
            for stake in position.stakes
            if stake.base_token == token and stake.size and token not in position.orders
        }
        return sorted(sizes, key=lambda each: (-sizes[each], each))

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[PerpPosition]:
        """Read accounts' margin, positions and orders, in one round where they are few.

        Raises: Invalid for what no contract could hold.
        """
        known: dict[ViewCall, ViewResult] = {}
        traders = [each for each in ids if not each.startswith(ZERO_ADDRESS)]
        layout = self._layout
        first = [each for trader in traders for each in calls.account_views(layout, trader)]
        every = tuple(layout.perpetuals), tuple(layout.collaterals)
        details = [each for trader in traders for each in self._details(trader, every)]
        await _ask(reads, known, first + details if len(first) + len(details) <= _FEW_CALLS else first)
        used = {each: _tokens(layout, known, each) for each in traders}
        await self._find({token for both in used.values() for tokens in both for token in tokens}, reads)
        await _ask(reads, known, [each for trader in traders for each in self._details(trader, used[trader])])
        found = [_position(self._layout, known, each, used[each]) for each in traders]
        opaque = [(each.id, used[each.id][0]) for each in found if each.is_opaque]
        await _ask(reads, known, [each for one in opaque for each in calls.valuation_views(self._layout, *one)])
        for place, position in enumerate(found):
            if position.is_opaque:
                found[place] = replace(position, valuation=_valuation(self._layout, known, position.id, used))
            self._track(found[place])
        return found

    def _details(self, trader: PositionId, tokens: _Tokens) -> Iterator[ViewCall]:
        """Yield what has to be asked of an account for each token that it may be in."""
        for base_token in tokens[0]:
            yield from calls.stake_views(self._layout, trader, base_token)[:2]
        for token in tokens[1]:
            yield calls.balance_view(self._layout, trader, token)
        if trader in self._opaque:
            yield from calls.valuation_views(self._layout, trader, tokens[0])

    async def _find(self, tokens: set[Address], reads: Reads) -> None:
        """Discover again where accounts are in a market, or have a collateral, that no log has named yet."""
        if tokens - self._layout.perpetuals.keys() - self._layout.collaterals.keys():
            self._named.update(dict.fromkeys(sorted(tokens - self._named.keys())))
            await self.discover(reads)

    def _track(self, position: PerpPosition) -> None:
        """Remember who has which size, and whom only the contract can value."""
        before = self._tracked.pop(position.id, None)
        self._unread.discard(position.id)
        self._opaque.discard(position.id)
        if position.has_debt:
            self._tracked[position.id] = position
            if position.is_opaque:
                self._opaque.add(position.id)
        for each in (before, position):
            for stake in () if each is None else each.stakes:
                self._witnesses.pop(stake.base_token, None)

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Ask the contract for accounts' values and requirements at the block."""
        settlement = self._layout.settlement.address
        views = [each for trader in ids for each in calls.health_views(self._layout, trader)]
        answers, prices = await asyncio.gather(reads.many(views), self._prices.read(reads, (settlement,)))
        usd = prices.get(settlement)
        return [
            rules.reported(signed(abi.number(value, "a value")), signed(abi.number(required, "a requirement")), usd)
            if value.ok and required.ok
            else None
            for value, required in zip(answers[::2], answers[1::2], strict=True)
        ]

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return every market's and collateral's price with the time that its Chainlink feed gives."""
        layout, snapshot = self._layout, await self.snapshot(reads)
        manager = layout.collateral_manager
        asked = [view(token, perp.GET_PRICE_FEED) for token in layout.perpetuals]
        asked += [view(manager, perp.GET_COLLATERAL_CONFIG, address_word(token)) for token in layout.collaterals]
        feeds = [perp.named_address(each) for each in await reads.many(asked)]
        inner = await reads.many([view(each, perp.GET_CHAINLINK_FEED) for each in feeds])  # behind a dispatcher
        feeds = [feed if not each.ok else perp.named_address(each) for feed, each in zip(feeds, inner, strict=True)]
        named = await reads.many([view(each, perp.GET_AGGREGATOR) for each in feeds])
        rounds = await reads.many([view(perp.named_address(each), abi.LATEST_ROUND) for each in named])
        tokens = [part.token for part in (*layout.perpetuals.values(), *layout.collaterals.values())]
        prices = [snapshot.value_base(each.address, TokenAmount(10**each.decimals)) for each in tokens]
        ages = [abi.round_updated_s(each) for each in rounds]
        return [PriceAge(token, price, age) for token, price, age in zip(tokens, prices, ages, strict=True)]


async def _discover(reads: Reads, root: Address, named: Sequence[Address]) -> Layout:
    answers = await reads.many([view(root, each) for each in _ROOT_GETTERS])
    found = [abi.address(abi.number(each, "a part of the ClearingHouse")) for each in answers]
    vault, exchange, order_book, account_balance, insurance_fund, config = found
    questions = [
        view(vault, perp.GET_CLEARING_HOUSE),
        view(vault, perp.GET_SETTLEMENT_TOKEN),
        view(vault, perp.GET_COLLATERAL_MANAGER),
        view(vault, abi.DECIMALS),
        view(exchange, perp.GET_REGISTRY),
        view(config, perp.GET_IM_RATIO),
    ]
    words = [abi.number(each, "the Vault, Exchange or configuration") for each in await reads.many(questions)]
    if abi.address(words[0]) != root:
        raise Invalid("its Vault belongs to another ClearingHouse")
    settlement, manager, registry = (abi.address(words[place]) for place in (1, 2, 4))
    views = [view(settlement, abi.SYMBOL)]
    for token in named:
        who = address_word(token)
        views += [view(registry, perp.HAS_POOL, who), view(manager, perp.IS_COLLATERAL, who)]
        views += [view(token, abi.SYMBOL), view(token, abi.DECIMALS)]
    symbol, *rest = await reads.many(views)
    perpetuals: dict[Address, Part] = {}
    collaterals: dict[Address, Part] = {}
    for number, token in enumerate(named):
        has_pool, is_collateral, name, places = rest[4 * number : 4 * number + 4]
        if _TRUE in (has_pool, is_collateral):
            decimals = abi.within(abi.number(places, "a token's decimals"), 0, perp.MAX_FEED_DECIMALS + 1, "a token")
            part = Part(number, Token(token, abi.symbol(name, token), decimals))
            (perpetuals if has_pool == _TRUE else collaterals)[token] = part
    decimals = abi.within(words[3], 0, perp.MAX_DECIMALS + 1, "the settlement token's decimals")
    return Layout(
        root=root,
        vault=vault,
        exchange=exchange,
        order_book=order_book,
        account_balance=account_balance,
        insurance_fund=insurance_fund,
        config=config,
        registry=registry,
        collateral_manager=manager,
        settlement=Token(settlement, abi.symbol(symbol, settlement), decimals),
        im_ratio=abi.within(words[5], 0, perp.MILLION + 1, "the initial margin ratio"),
        perpetuals=perpetuals,
        collaterals=collaterals,
    )


def _snapshot(
    market: str, layout: Layout, head: BlockHead, answers: Sequence[ViewResult], growths: Mapping[Address, int | None]
) -> PerpSnapshot:
    """Decode what `calls.market_views` asked; valuations and US dollar prices come from elsewhere."""
    paused, *ratios = (abi.number(each, "the ClearingHouse's state") for each in answers[:4])
    mm_ratio, im_ratio, penalty = (abi.within(each, 0, perp.MILLION + 1, "a ratio") for each in ratios)
    rest = iter(answers[5:])
    return PerpSnapshot(
        market=market,
        head=head,
        clearing_house=layout.root,
        settlement=layout.settlement,
        margin=layout.margin,
        scale=layout.scale,
        is_paused=bool(paused),
        mm_ratio=mm_ratio,
        im_ratio=im_ratio,
        penalty_ratio=penalty,
        insurance=signed(abi.number(answers[4], "the insurance fund")) if answers[4].ok else 0,
        perpetuals={
            token: perp.perpetual(part, [next(rest) for _ in range(5)], growths[token])
            for token, part in layout.perpetuals.items()
        },
        collaterals={
            token: perp.collateral(part, [next(rest) for _ in range(3)]) for token, part in layout.collaterals.items()
        },
        valuations={},
        prices={},
        native_price_base=None,
    )


async def _ask(reads: Reads, known: dict[ViewCall, ViewResult], views: Iterable[ViewCall]) -> None:
    """Ask what is not known yet."""
    new = [each for each in dict.fromkeys(views) if each not in known]
    known.update(zip(new, await reads.many(new) if new else (), strict=True))


def _tokens(layout: Layout, known: _Answers, trader: PositionId) -> _Tokens:
    """Return the markets and the collaterals that an account is in."""
    what = f"the state of 0x{trader.hex()}"
    lists = (abi.array(known[each], perp.MOST_TOKENS, what) for each in calls.account_views(layout, trader)[2:])
    markets, collaterals = (tuple(map(abi.address, each)) for each in lists)
    return markets, collaterals


def _position(layout: Layout, known: _Answers, trader: PositionId, tokens: _Tokens) -> PerpPosition:
    what = f"the state of 0x{trader.hex()}"
    balance, pnl = (known[each] for each in calls.account_views(layout, trader)[:2])
    stakes, orders = [], []
    for base_token in tokens[0]:
        info, ids = (known[each] for each in calls.stake_views(layout, trader, base_token)[:2])
        stakes.append(Stake(base_token, *(signed(word) for word in abi.words(info, 3, what))))
        if abi.array(ids, perp.MOST_ORDERS, what):
            orders.append(base_token)
    held = ((each, abi.number(known[calls.balance_view(layout, trader, each)], what)) for each in tokens[1])
    return PerpPosition(
        id=trader,
        balance=signed(abi.number(balance, what)),
        owed=signed(abi.number(pnl, what)) if pnl.ok else None,
        collaterals=tuple((token, abi.within(amount, 0, 1 << 255, what)) for token, amount in held),
        stakes=tuple(stakes),
        orders=tuple(orders),
    )


def _valuation(
    layout: Layout, known: _Answers, trader: PositionId, used: Mapping[PositionId, _Tokens]
) -> Valuation | None:
    tokens = used[trader][0]
    return perp.valuation([known[each] for each in calls.valuation_views(layout, trader, tokens)], tokens)
