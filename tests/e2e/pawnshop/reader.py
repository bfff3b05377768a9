"""From the chain to the domain, without decisions."""

import asyncio
from collections.abc import Iterable, Sequence

from eth_utils.address import to_checksum_address

from keeper.domain import abi
from keeper.domain.abi import address_word, view
from keeper.domain.chain import Log, LogFilter
from keeper.domain.fixed import div_up
from keeper.domain.plan import Realised
from keeper.domain.ports import PriceAge, Reads, Taken, Touched
from keeper.domain.position import Health, PositionKey, Token
from keeper.domain.units import MAX_UINT256, WAD, Address, Base, PositionId, TokenAmount, Wad
from keeper.errors import Stale, Unsafe
from keeper.oracles.prices import Prices

from . import contracts as shop
from .contracts import PawnshopPosition, PawnshopSnapshot, Terms

_TERMS = (
    shop.COLLATERAL,
    shop.LOAN,
    shop.FEED,
    shop.RATE,
    shop.THRESHOLD,
    shop.BONUS,
    shop.CLOSE_FACTOR,
)


class PawnshopReader:
    """Read one Pawnshop, whose address is `root`."""

    def __init__(self, market: str, root: Address, prices: Prices) -> None:
        self._market = market
        self._root = root
        self._prices = prices
        self._found: Terms | None = None

    @property
    def market(self) -> str:
        """Return the market's name."""
        return self._market

    @property
    def _terms(self) -> Terms:
        if self._found is None:
            raise Stale(f"market {self._market} has not been discovered")
        return self._found

    @property
    def discovery_filter(self) -> LogFilter:
        """Return the logs that name borrowers."""
        return LogFilter(frozenset({self._root}), frozenset({shop.OPENED}))

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that change a loan; nothing changes the shop."""
        return LogFilter(frozenset({self._root}), frozenset({shop.OPENED, shop.REPAID, shop.LIQUIDATED}))

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take nothing: no part of the shop is named by logs."""

    def recognise(self, positions: Sequence[PawnshopPosition]) -> None:
        """Take nothing: the shop's positions are not saved."""

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return the borrowers that logs name."""
        return self._accounts(logs, self.discovery_filter)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the loans that logs changed."""
        return Touched(self._accounts(logs, self.head_filter), is_market_changed=False)

    @staticmethod
    def _accounts(logs: Iterable[Log], wanted: LogFilter) -> frozenset[PositionId]:
        ours = (log for log in logs if log.address in wanted.addresses and {*log.topics[:1]} & wanted.topics)
        return frozenset(PositionId(abi.named(log, (1,))[0]) for log in ours)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return the shop's liquidations."""
        taken = []
        for log in logs:
            if log.address == self._root and log.topics[:1] == (shop.LIQUIDATED,):
                account, liquidator = abi.named(log, (1, 2))
                repaid, seized = abi.log_words(log, 2)
                key = PositionKey(self._market, PositionId(account))
                realised = Realised(TokenAmount(repaid), TokenAmount(seized))
                tokens = self._terms.loan.address, self._terms.collateral.address
                taken.append(Taken(key, liquidator, realised, *tokens, log))
        return taken

    async def discover(self, reads: Reads) -> None:
        """Read the terms, once: they never change.

        Raises: Unsafe when the root is no Pawnshop.
        """
        if self._found is not None:
            return
        answers = await reads.many([view(self._root, each) for each in _TERMS])
        if not all(each.ok and len(each.data) == abi.WORD for each in answers):
            name = to_checksum_address(self._root)
            raise Unsafe(f"market {self._market}: {name} is no Pawnshop; correct root in the chain file")
        collateral, loan, feed, *numbers = (abi.number(each, "the terms") for each in answers)
        places = tuple(abi.address(each) for each in (collateral, loan, feed))
        answers = await reads.many([view(each, what) for each in places for what in (abi.DECIMALS, abi.SYMBOL)])
        decimals = [abi.within(abi.number(each, "decimals"), 0, 37, "decimals") for each in answers[::2]]
        symbols = [abi.symbol(each, place) for each, place in zip(answers[1::2], places, strict=True)]
        tokens = [Token(*each) for each in zip(places, symbols, decimals, strict=True)]
        rate_wad, threshold_bps, bonus_bps, close_factor_bps = numbers
        self._found = Terms(
            root=self._root,
            collateral=tokens[0],
            loan=tokens[1],
            feed=places[2],
            feed_decimals=decimals[2],
            rate_wad=rate_wad,
            threshold_bps=threshold_bps,
            bonus_bps=bonus_bps,
            close_factor_bps=close_factor_bps,
        )

    async def snapshot(self, reads: Reads) -> PawnshopSnapshot:
        """Read the feed's answer, and what dollars the chain file's sources say."""
        terms = self._terms
        tokens = (terms.loan.address, terms.collateral.address)
        feed, prices = await asyncio.gather(
            reads.many([view(terms.feed, abi.LATEST_ROUND)]), self._prices.read(reads, tokens)
        )
        return PawnshopSnapshot(self._market, reads.head, terms, abi.round_answer(feed[0]), prices)

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[PawnshopPosition]:
        """Read loans as they are stored."""
        answers = await reads.many([view(self._root, shop.LOANS, address_word(Address(each))) for each in ids])
        stored = (abi.words(each, 3, "a loan") for each in answers)
        return [PawnshopPosition(each, *words) for each, words in zip(ids, stored, strict=True)]

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Ask the shop's own views; None where it has no price."""
        terms = self._terms
        tokens = (terms.loan.address, terms.collateral.address)
        views = (shop.HEALTH, shop.DEBT_OF, shop.LOANS)
        asked = [view(self._root, each, address_word(Address(key))) for key in ids for each in views]
        answers, prices = await asyncio.gather(reads.many(asked), self._prices.read(reads, tokens))
        loan_base, collateral_base = (prices.get(each, Base(0)) for each in tokens)
        found: list[Health | None] = []
        for said, owed, stored in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
            if not said.ok:
                found.append(None)
                continue
            factor, debt = abi.number(said, "a health factor"), abi.number(owed, "a debt")
            held = abi.words(stored, 3, "a loan")[0]
            found.append(
                Health(
                    health_factor_wad=Wad(abi.within(factor, 0, MAX_UINT256 + 1, "a health factor")),
                    collateral_base=Base(held * collateral_base // 10**terms.collateral.decimals),
                    debt_base=Base(div_up(debt * loan_base, 10**terms.loan.decimals)),
                    is_liquidatable=factor < WAD,
                    collateral=(),
                    debt=(),
                )
            )
        return found

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return the loan token's price, and the collateral's with its feed's age."""
        terms = self._terms
        snapshot, rounds = await asyncio.gather(self.snapshot(reads), reads.many([view(terms.feed, abi.LATEST_ROUND)]))
        loan, collateral = (snapshot.prices.get(each.address) for each in (terms.loan, terms.collateral))
        return [
            PriceAge(terms.loan, loan, None),
            PriceAge(terms.collateral, collateral, abi.round_updated_s(rounds[0])),
        ]
