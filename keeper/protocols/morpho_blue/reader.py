"""From the chain to the domain: pairs and pre-liquidation contracts that logs named, positions. No decisions."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import Log, LogFilter, ViewCall, ViewResult
from keeper.domain.plan import Realised
from keeper.domain.ports import PriceAge, Reads, Taken, Touched
from keeper.domain.position import Health, PositionKey, Token
from keeper.domain.units import ZERO_ADDRESS, Address, Base, PositionId, TokenAmount
from keeper.errors import Invalid, Stale, Transient, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue.calls import Tried, accrual, trial
from keeper.protocols.morpho_blue.contracts import MorphoPosition, MorphoSnapshot, Pair, account_of, pair_of

_TRIED_AT_ONCE: Final = 40
_LOOK_EVERY_S: Final = 300
_MOST_CONTRACTS: Final = 64
_NOWHERE: Final = morpho.Totals(0, 0, 0, 0, 0, 0)
_PAIR_BYTES: Final = len(ZERO_ADDRESS) + morpho.ID_BYTES
_CONTRACT_BYTES: Final = _PAIR_BYTES + len(ZERO_ADDRESS)
_OF_CONTRACTS: Final = (morpho.CREATE_PRE_LIQUIDATION, morpho.PRE_LIQUIDATION)


class MorphoReader:
    """Read one Morpho, whose address is `root`.

    `allow`: the names of the only pairs (empty: all). `floor_base`: a pair whose borrowers owe less sleeps, as does one
    whose loan nothing has ever priced: it is read for one head after an event, and looked at every few minutes.
    `adaptive_irm`: the AdaptiveCurveIrm that the rules mirror; others are asked.
    """

    def __init__(
        self,
        market: str,
        root: Address,
        prices: Prices,
        *,
        allow: frozenset[bytes] = frozenset(),
        trust: frozenset[bytes] | None = frozenset(),
        floor_base: Base = Base(0),
        pre_liquidation_factories: frozenset[Address] = frozenset(),
        adaptive_irm: Address | None = None,
    ) -> None:
        self._market, self._root, self._prices = market, root, prices
        self._allow, self._trust, self._factories = allow, trust, pre_liquidation_factories
        self._floor_base, self._adaptive_irm = floor_base, adaptive_irm
        self._named_pairs = set(allow)
        self._named_contracts: set[Address] = set()
        self._found: morpho.Layout | None = None
        self._awake: set[bytes] = set()
        self._authorised: set[Address] = set()
        self._known: dict[bytes, morpho.Totals] = {}
        self._odd: set[bytes] = set()
        self._priced: set[Address] = set()
        self._look_at_s = 0

    @property
    def market(self) -> str:
        """Return the market's name."""
        return self._market

    @property
    def _layout(self) -> morpho.Layout:
        if self._found is None:
            raise Stale(f"market {self._market} has not been discovered")
        return self._found

    @property
    def discovery_filter(self) -> LogFilter:
        """Return the logs that name pairs, borrowers and pre-liquidation contracts."""
        topics = frozenset({morpho.CREATE_MARKET, morpho.BORROW, morpho.CREATE_PRE_LIQUIDATION})
        return LogFilter(self._factories | {self._root}, topics)

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change a position, its authorisations, or the market; interest is read instead."""
        topics = frozenset({morpho.SET_AUTHORIZATION, morpho.CREATE_MARKET, *_OF_CONTRACTS})
        contracts = () if self._found is None else (c for pair in self._found.of_pair for c in self._asked(pair))
        return LogFilter(self._factories.union({self._root}, contracts), topics | morpho.BORROWER_PLACE.keys())

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take the pairs and the contracts that ids name."""
        for each in known:
            pair = pair_of(each)
            if len(each) >= _PAIR_BYTES and self._is_allowed(pair):
                self._named_pairs.add(pair)
                self._odd -= {pair} if account_of(each) == ZERO_ADDRESS else set()
                if len(each) == _CONTRACT_BYTES:
                    self._named_contracts.add(Address(each[_PAIR_BYTES:]))

    def _is_allowed(self, pair: bytes) -> bool:
        return not self._allow or pair in self._allow

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the positions of borrowers, and pairs and pre-liquidation contracts as parts of the market."""
        found = set()
        for log in logs:
            event = log.topics[0] if log.topics else b""
            if log.address == self._root and event in {morpho.CREATE_MARKET, morpho.BORROW}:
                account = self._borrower(log) if event == morpho.BORROW else ZERO_ADDRESS
                found.add(morpho.position_id(account, _topic(log, 1)))
            elif log.address in self._factories and event == morpho.CREATE_PRE_LIQUIDATION:
                (contract,), (pair,) = abi.named(log, (1,)), abi.log_words(log, 1)
                found.add(PositionId(morpho.position_id(ZERO_ADDRESS, number_word(pair)) + contract))
        return frozenset(each for each in found if self._is_allowed(pair_of(each)))

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the positions whose state or authorisation the logs changed; wake the pairs that sleep."""
        found: set[PositionId] = set()
        is_market_changed = False
        for log in logs:
            event = log.topics[0] if log.topics else b""
            if log.address in self._factories:
                is_market_changed = is_market_changed or event == morpho.CREATE_PRE_LIQUIDATION
            elif log.address == self._root and event in morpho.BORROWER_PLACE:
                pair = _topic(log, 1)
                if self._is_allowed(pair):
                    found.add(morpho.position_id(self._borrower(log), pair))
                    self._awake.add(pair)
            elif log.address == self._root and event == morpho.CREATE_MARKET:
                is_market_changed = is_market_changed or self._is_allowed(_topic(log, 1))
            elif log.address == self._root and event == morpho.SET_AUTHORIZATION:
                account, contract = abi.named(log, (2, 3))
                if (terms := self._layout.contracts.get(contract)) is not None:
                    found.add(morpho.position_id(account, terms.pair))
                    self._authorised.add(contract)
        return Touched(frozenset(found), is_market_changed)

    @staticmethod
    def _borrower(log: Log) -> Address:
        (account,) = abi.named(log, (morpho.BORROWER_PLACE[log.topics[0]],))
        return account

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return the liquidations of listed pairs, and those of their pre-liquidation contracts."""
        taken = []
        for log in logs:
            event = log.topics[0] if log.topics else b""
            if log.address == self._root and event == morpho.LIQUIDATION:
                repaid, _, seized, _, _ = abi.log_words(log, 5)
            elif log.address in self._layout.contracts and event == morpho.PRE_LIQUIDATION:
                repaid, _, seized = abi.log_words(log, 3)
            else:
                continue
            liquidator, borrower = abi.named(log, (2, 3))
            if (listing := self._layout.pairs.get(pair := _topic(log, 1))) is not None:
                key, realised = morpho.position_id(borrower, pair), Realised(TokenAmount(repaid), TokenAmount(seized))
                loan, collateral = listing.params.loan, listing.params.collateral
                taken.append(Taken(PositionKey(self._market, key), liquidator, realised, loan, collateral, log))
        return taken

    def recognise(self, positions: Sequence[MorphoPosition]) -> None:
        """Take back positions: their pairs are awake, and what they authorised is asked about."""
        self._awake |= {each.pair for each in positions if each.borrow_shares}
        self._authorised.update(*(each.authorised for each in positions if each.borrow_shares))

    async def discover(self, reads: Reads) -> None:
        """List the pairs and contracts that were named since the last time, and wake the pairs worth reading.

        Raises: Unsafe when the root, the interest model or a factory is not what it should be.
        """
        if self._found is None:
            await self._verify(reads)
        layout = self._found or morpho.Layout()
        pairs = sorted(self._named_pairs - layout.pairs.keys() - self._odd)
        contracts = sorted(self._named_contracts - layout.contracts.keys())
        calls = [view(self._root, morpho.MARKET_PARAMS, each) for each in pairs]
        calls += [view(each, what) for each in contracts for what in morpho.PRE_TERMS]
        answers = iter(await reads.many(calls))
        params = {pair: made for pair in pairs if (made := morpho.params(pair, next(answers))) is not None}
        told = {each: [next(answers) for _ in range(3)] for each in contracts}
        terms = {each: morpho.terms(self._root, *answer) for each, answer in told.items()}
        wanted = {token for each in params.values() for token in (each.loan, each.collateral)} - layout.tokens.keys()
        tokens = await _tokens(reads, sorted(wanted))
        self._found = layout.extended(params, {each: made for each, made in terms.items() if made is not None}, tokens)
        await self._wake(reads, self._found.pairs.keys() & set(pairs))
        self._odd |= set(pairs) - self._found.pairs.keys()

    async def _verify(self, reads: Reads) -> None:
        claims = [*sorted(self._factories), *([] if self._adaptive_irm is None else [self._adaptive_irm])]
        calls = [view(self._root, morpho.IS_IRM_ENABLED, address_word(self._adaptive_irm or ZERO_ADDRESS))]
        calls += [view(self._root, morpho.MARKET_PARAMS, each) for each in sorted(self._allow)]
        root, *told = await reads.many(calls + [view(each, morpho.OF_MORPHO) for each in claims])
        name = f"market {self._market}"
        if not root.ok or len(root.data) != abi.WORD or (self._adaptive_irm is not None and not any(root.data)):
            raise Unsafe(
                f"{name}: {to_checksum_address(self._root)} is no Morpho, or does not know the interest model "
                "adaptive_irm; correct them in the chain file"
            )
        for pair, answer in zip(sorted(self._allow), told, strict=False):
            if morpho.params(pair, answer) is None:
                raise Unsafe(f"{name}: it has no pair 0x{pair.hex()}; correct allow in the chain file")
        for claim, answer in zip(claims, told[len(self._allow) :], strict=True):
            if not answer.ok or answer.data != address_word(self._root):
                raise Unsafe(f"{name}: {to_checksum_address(claim)} is for another Morpho; correct the chain file")

    async def _wake(self, reads: Reads, new: Set[bytes]) -> None:
        """Look at the totals of new pairs, and at times of all that sleep: anybody can make any number of them."""
        layout, now_s = self._layout, reads.head.timestamp_s
        is_due = now_s >= self._look_at_s
        asleep = sorted((layout.pairs.keys() if is_due else new) - self._awake)
        if asleep:
            loans = {layout.pairs[each].params.loan for each in asleep}
            calls = [view(self._root, morpho.MARKET, each) for each in asleep]
            answers, prices = await asyncio.gather(reads.many(calls), self._prices.read(reads, loans))
            totals = {pair: morpho.totals(answer) for pair, answer in zip(asleep, answers, strict=True)}
            self._priced |= prices.keys()
            self._awake |= {pair for pair in asleep if self._is_worth_reading(pair, totals[pair], prices)}
        if is_due:  # also once more for what was no pair of tokens
            self._look_at_s, self._odd = now_s + _LOOK_EVERY_S, set()

    def _is_worth_reading(self, pair: bytes, totals: morpho.Totals, prices: Mapping[Address, Base]) -> bool:
        """Return whether anybody owes anything there, and enough of it where that can be told."""
        loan = self._layout.pairs[pair].loan
        price = prices.get(loan.address)
        is_small = price is not None and totals.borrow_assets * price // 10**loan.decimals < self._floor_base
        return totals.borrow_shares > 0 and not is_small

    async def snapshot(self, reads: Reads) -> MorphoSnapshot:
        """Read the pairs that are awake; one that is no longer worth it sleeps from the next head on."""
        layout = self._layout
        pairs = sorted(self._awake & layout.pairs.keys())
        listings = [layout.pairs[each] for each in pairs]
        contracts = [each for pair in pairs for each in self._contracts(pair)]
        oracles = sorted({each.params.oracle for each in listings} | {layout.contracts[c].oracle for c in contracts})
        # models other than the adaptive one are told the totals of the last head, and again where those are not the same
        before = ((pair, self._rate_call(pair, self._known.get(pair, _NOWHERE))) for pair in pairs)
        asked = {pair: call for pair, call in before if call is not None}
        calls = [*(view(self._root, morpho.MARKET, each) for each in pairs), *asked.values()]
        prices_at = len(calls)  # oracles come last, since any of them may burn what gas there is
        calls += [view(each, morpho.PRICE) for each in oracles]
        tokens = {token for each in listings for token in (each.params.loan, each.params.collateral)}
        pricing = self._prices.read(reads, tokens)
        answers, prices, _ = await asyncio.gather(reads.many(calls), pricing, self._wake(reads, frozenset()))
        totals = {pair: morpho.totals(answer) for pair, answer in zip(pairs, answers, strict=False)}
        rates = dict(zip(asked, answers[len(pairs) : prices_at], strict=True))
        quotes = dict(zip(oracles, map(morpho.word, answers[prices_at:]), strict=True))
        again = ((pair, self._rate_call(pair, totals[pair])) for pair in asked)
        late = {pair: call for pair, call in again if call is not None and call != asked[pair]}
        if late:
            rates.update(zip(late, await reads.many(list(late.values())), strict=True))
        self._known = {pair: totals[pair] for pair in asked}
        self._priced |= prices.keys()
        worth = {pair for pair in pairs if self._is_worth_reading(pair, totals[pair], prices)}
        self._awake -= set(pairs) - {pair for pair in worth if layout.pairs[pair].params.loan in self._priced}
        return MorphoSnapshot(
            market=self._market,
            head=reads.head,
            root=self._root,
            pairs={each: self._pair(each, totals[each], rates.get(each), quotes) for each in pairs},
            pre_liquidations={
                c: morpho.PreLiquidation(c, t := layout.contracts[c], quotes[t.oracle]) for c in contracts
            },
            prices=prices,
            tokens=layout.tokens,
            vouched=self._allow | (self._trust or frozenset()),
            acts_on_any=self._trust is None,
        )

    def _asked(self, pair: bytes) -> list[Address]:
        """Return the pair's pre-liquidation contracts, authorised ones first, and no more than are worth asking about."""
        return sorted(self._layout.of_pair.get(pair, ()), key=lambda c: c not in self._authorised)[:_MOST_CONTRACTS]

    def _contracts(self, pair: bytes) -> list[Address]:
        """Return the pair's pre-liquidation contracts that somebody has authorised."""
        return [each for each in self._asked(pair) if each in self._authorised]

    def _rate_call(self, pair: bytes, totals: morpho.Totals) -> ViewCall | None:
        params = self._layout.pairs[pair].params
        if params.irm == ZERO_ADDRESS:
            return None
        if params.irm == self._adaptive_irm:
            return view(params.irm, morpho.RATE_AT_TARGET, pair)
        return view(params.irm, morpho.BORROW_RATE, params.encoded, totals.encoded)

    def _pair(
        self, pair: bytes, totals: morpho.Totals, rate: ViewResult | None, quotes: Mapping[Address, int | None]
    ) -> Pair:
        known, told = self._layout.pairs[pair], None if rate is None else morpho.word(rate)
        adaptive, other = (told, None) if known.params.irm == self._adaptive_irm else (None, told)
        return Pair(known.params, known.loan, known.collateral, totals, quotes[known.params.oracle], adaptive, other)

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[MorphoPosition]:
        """Read shares, collateral and authorisations.

        Raises: Invalid for an amount that Morpho could not hold.
        """
        wanted = [each for each in ids if account_of(each) != ZERO_ADDRESS and self._is_allowed(pair_of(each))]
        asked = {pair: self._asked(pair) for pair in map(pair_of, wanted)}
        calls: list[ViewCall] = []
        for each in wanted:
            calls.append(view(self._root, morpho.POSITION, pair_of(each), address_word(account_of(each))))
            calls += [self._authorisation(each, contract) for contract in asked[pair_of(each)]]
        answers = iter(await reads.many(calls))
        found = []
        for each in wanted:
            shares, collateral = morpho.held(next(answers))
            allowed = tuple(c for c in asked[pair_of(each)] if abi.number(next(answers), "an authorisation"))
            found.append(MorphoPosition(each, shares, collateral, allowed))
        self.recognise(found)  # also where a reorganisation took back what had put a pair to sleep
        return found

    def _authorisation(self, position: PositionId, contract: Address) -> ViewCall:
        return view(self._root, morpho.IS_AUTHORIZED, address_word(account_of(position)), address_word(contract))

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Let Morpho accrue the interest itself, and ask it and the contracts to liquidate more than there is.

        They refuse that in any case, but tell first whether the position is one to liquidate.
        """
        layout = self._layout
        awake = self._awake & layout.pairs.keys()
        asked = [each for each in dict.fromkeys(ids) if pair_of(each) in awake]
        parts = [asked[begin : begin + _TRIED_AT_ONCE] for begin in range(0, len(asked), _TRIED_AT_ONCE)]
        loans = {layout.pairs[pair_of(each)].params.loan for each in asked}
        trying = asyncio.gather(*(self._try(reads, each) for each in parts))
        prices, tried = await asyncio.gather(self._prices.read(reads, loans), trying)
        found = {key: each.health(prices) for part in tried for key, each in part.items()}
        return [found.get(each) for each in ids]

    async def _try(self, reads: Reads, ids: Sequence[PositionId]) -> dict[PositionId, Tried]:
        """Try positions together, and pair by pair where one took the others' gas: its oracle may be anybody's."""
        try:
            found = await self._tried(reads, ids)
        except Transient:
            found = {}
        pairs: dict[bytes, list[PositionId]] = {}
        for each in ids:
            pairs.setdefault(pair_of(each), []).append(each)
        if len(pairs) == 1:
            return found
        heard = (every for every in pairs.values() if all(e in found and not found[e].is_silent for e in every))
        sure = {each: found[each] for every in heard for each in every}
        alone = (every for every in pairs.values() if every[0] not in sure)
        for again in await asyncio.gather(*(self._try(reads, every) for every in alone)):
            sure |= again
        return sure

    async def _tried(self, reads: Reads, ids: Sequence[PositionId]) -> dict[PositionId, Tried]:
        layout, contracts = self._layout, {pair_of(each): self._contracts(pair_of(each)) for each in ids}
        first = {pair: accrual(self._root, layout.pairs[pair].params) for pair in contracts}
        asked = {pair: [view(layout.contracts[c].oracle, morpho.PRICE) for c in contracts[pair]] for pair in contracts}
        of = {each: (layout.pairs[pair_of(each)].params, account_of(each), contracts[pair_of(each)]) for each in ids}
        trials = {each: trial(self._root, *what) for each, what in of.items()}
        every = [call for calls in (*first.values(), *asked.values(), *trials.values()) for call in calls]
        told = dict(zip(every, await reads.sequence(every), strict=True))
        found = {}
        for each, calls in trials.items():
            pair = pair_of(each)
            said = [[told[call] for call in part] for part in (first[pair], calls, asked[pair])]
            found[each] = Tried(layout.pairs[pair], *said)
        return found

    async def feeds(self, reads: Reads) -> Mapping[bytes, tuple[Address, ...]]:
        """Return the Chainlink feeds that move the pairs which are awake, as far as their oracles name any."""
        pairs = sorted(self._awake & self._layout.pairs.keys())
        oracles = [self._layout.pairs[each].params.oracle for each in pairs]
        answers = iter(await reads.many([view(each, what) for each in oracles for what in morpho.FEEDS]))
        named = {pair: [morpho.word(next(answers)) or 0 for _ in morpho.FEEDS] for pair in pairs}
        return {pair: tuple(abi.address(each) for each in words if 0 < each < 2**160) for pair, words in named.items()}

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return the loan tokens' prices, and those of collateral with the age of the oldest feed behind its oracle."""
        snapshot, feeds = await asyncio.gather(self.snapshot(reads), self.feeds(reads))
        every = sorted({feed for each in feeds.values() for feed in each})
        rounds = await reads.many([view(each, abi.LATEST_ROUND) for each in every])
        updated = dict(zip(every, map(abi.round_updated_s, rounds), strict=True))
        loans = {pair.loan: snapshot.prices.get(pair.params.loan) for pair in snapshot.pairs.values()}
        ages = [PriceAge(token, price, None) for token, price in loans.items()]
        for name, pair in snapshot.pairs.items():
            times = [time_s for each in feeds.get(name, ()) if (time_s := updated[each]) is not None]
            usd = snapshot.prices.get(pair.params.loan)
            worth = None if pair.price is None or usd is None else 10**pair.collateral.decimals * pair.price * usd
            price = None if worth is None else Base(worth // (morpho.ORACLE_SCALE * 10**pair.loan.decimals))
            ages.append(PriceAge(pair.collateral, price, min(times, default=None)))
        return ages


def _topic(log: Log, place: int) -> bytes:
    if len(log.topics) <= place:
        raise Invalid(f"a log in block {log.block_number} lacks a topic")
    return log.topics[place]


async def _tokens(reads: Reads, addresses: Sequence[Address]) -> dict[Address, Token]:
    """Return the tokens among the addresses: a pair can be made of anything."""
    answers = iter(await reads.many([view(each, what) for each in addresses for what in (abi.SYMBOL, abi.DECIMALS)]))
    told = {each: (next(answers), morpho.word(next(answers))) for each in addresses}
    return {
        each: Token(each, abi.symbol(symbol, each), decimals)
        for each, (symbol, decimals) in told.items()
        if decimals is not None and decimals <= morpho.MAX_DECIMALS
    }
