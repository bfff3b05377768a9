"""Price moves that make a handful of positions liquidatable: found with the keeper's own engine, made on the chain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from keeper.chain.endpoint import nodes_of
from keeper.chain.rpc import Rpc
from keeper.chain.view import ChainView, latest_head
from keeper.devnet.market import AaveMarket
from keeper.domain.ports import Market
from keeper.domain.units import BASE_UNIT, Address, Base, PositionId
from keeper.engine.scan import MarketBook
from keeper.errors import Fatal
from keeper.parts import SystemClock
from keeper.protocols.aave_v3 import calls, rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot
from keeper.protocols.aave_v3.reader import AaveReader

HANDFUL: Final = 20
_AIM: Final = 8
_SHARE: Final = 25
_DEEPEST: Final = 0.6
_WORTH_BASE: Final = 20 * BASE_UNIT
_LATER_S: Final = 3
_CHUNK: Final = 500
_BUDGET: Final = 1_000


def address(text: str) -> Address:
    return Address(bytes.fromhex(text.removeprefix("0x")))


@dataclass(frozen=True, slots=True)
class Move:
    """A new price, how many more positions are worth liquidating at it, and by which share it is lower."""

    symbol: str
    price: int
    positions: int
    fall: float


class Forecast:
    """The market's positions as the chain has them, valued under prices that are not there yet."""

    def __init__(self, rpc: Rpc, market: AaveMarket) -> None:
        self._rpc = rpc
        self._view = ChainView(rpc)
        self._dev = market
        self._reader = AaveReader("bench", address(market.provider), address(market.reserves["WETH"].token))
        self._book = MarketBook(Market("bench", "aave_v3", 0, self._reader, rules, calls))
        self._snapshot: AaveSnapshot | None = None
        self.opening: tuple[list[AavePosition], AaveSnapshot] | None = None
        """The positions and prices as they were before any move."""

    @classmethod
    async def open(cls, rpc: Rpc, market: AaveMarket, owners: tuple[str, ...]) -> Self:
        """Read all positions at one block."""
        made = cls(rpc, market)
        reads = made._view.reads(await latest_head(rpc))
        await made._reader.discover(reads)
        made._snapshot = await made._reader.snapshot(reads)
        for start in range(0, len(owners), _CHUNK):
            part = [PositionId(address(each)) for each in owners[start : start + _CHUNK]]
            made._book.put(list(await made._reader.positions(reads, part)), made._snapshot)
        made.opening = list(made._book.book), made._snapshot
        return made

    @property
    def book(self) -> MarketBook:
        """Return the positions."""
        return self._book

    @property
    def snapshot(self) -> AaveSnapshot:
        """Return the latest snapshot."""
        if self._snapshot is None:
            raise Fatal("the forecast was not opened")
        return self._snapshot

    async def refresh(self) -> None:
        """Take the newest prices, and read again whatever a liquidation may have touched."""
        reads = self._view.reads(await latest_head(self._rpc))
        again = sorted(self._liquidatable(self.snapshot))
        self._snapshot = await self._reader.snapshot(reads)
        again += sorted(self._liquidatable(self._snapshot) - set(again))
        if again:
            self._book.put(list(await self._reader.positions(reads, again)), self._snapshot)

    def gentlest(self, symbols: Sequence[str]) -> Move:
        """Return the smallest fall of one asset that makes about a handful more positions worth liquidating.

        Raises: Fatal when no asset can.
        """
        known = self._worthwhile(self.snapshot)
        found = [move for each in symbols if (move := self._move(each, known)) is not None]
        if not found:
            raise Fatal(f"no fall of {', '.join(symbols)} makes a position worth liquidating")
        return min(found, key=lambda move: (move.positions < self._aim, move.fall))

    @property
    def _aim(self) -> int:
        return max(1, min(_AIM, len(self._book.book) // _SHARE))

    def _move(self, symbol: str, known: set[PositionId]) -> Move | None:
        token = address(self._dev.reserves[symbol].token)
        reserve = next(each for each in self.snapshot.reserves.values() if each.token.address == token)
        if not reserve.price_base:
            return None
        start = int(reserve.price_base)

        def fallen(price: int) -> int:
            moved = replace(reserve, price_base=Base(price))
            reserves = {**self.snapshot.reserves, reserve.id: moved}
            return len(self._worthwhile(replace(self.snapshot, reserves=reserves)) - known)

        high, low, step = start, start, max(1, start // 20_000)
        while (count := fallen(low)) < self._aim and low > start * _DEEPEST:
            high, step = low, step * 2
            low = max(low - step, int(start * _DEEPEST))
        while count > HANDFUL and high - low > 1:
            between = (low + high) // 2
            at_between = fallen(between)
            if at_between >= self._aim:
                low, count = between, at_between
            else:
                high = between
        return Move(symbol, low, count, (start - low) / start) if 0 < count <= HANDFUL else None

    def _liquidatable(self, snapshot: AaveSnapshot) -> set[PositionId]:
        later = snapshot.head.landing(_LATER_S)
        return {each.position.id for each in self._book.scan(snapshot, later).candidates}

    def _worthwhile(self, snapshot: AaveSnapshot) -> set[PositionId]:
        later = snapshot.head.landing(_LATER_S)
        return {
            each.position.id
            for each in self._book.scan(snapshot, later).candidates
            if each.assessment.opportunities and each.assessment.opportunities[0].gross_profit_base >= _WORTH_BASE
        }


def rpc_to(url: str) -> Rpc:
    """Return a pool of one node, to be started and closed."""
    return Rpc(nodes_of([url], calls_per_s=_BUDGET), clock=SystemClock())
