"""The guard over the prices that markets liquidate by: what jumped is not acted upon until it has stood for a while.

A feed in the wrong unit, with a digit too many, or swapped for another makes healthy accounts liquidatable, or what
they are liquidated for worthless. A market moves by per cents from block to block; a broken feed moves at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keeper.domain.chain import BlockHead
from keeper.domain.ports import Snapshot
from keeper.domain.position import Assessment, Token
from keeper.domain.units import Address, Base, TokenAmount

_SETTLED_BPS: Final = 2_000
"""A doubted price stands while it stays within a fifth of where it jumped to."""
_BPS: Final = 10_000


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """How far a price may move within `window_s` of the chain's time, and how long it then has to stand.

    A rise is the more suspicious: prices fall tenfold in a crash, and rise threefold in none. `vouched` are tokens
    whose prices the operator answers for.
    """

    max_rise: int = 3
    max_fall: int = 10
    window_s: int = 600
    settle_s: int = 900
    vouched: frozenset[Address] = frozenset()


class Turn(StrEnum):
    """What happened to the trust in a price."""

    JUMPED = "jumped"
    RESTORED = "restored"


@dataclass(frozen=True, slots=True)
class PriceMove:
    """A price that lost or won back its trust, once for each time that it does."""

    token: Token
    turn: Turn
    before_base: Base
    price_base: Base


@dataclass(frozen=True, slots=True)
class _Anchor:
    """The last price that was believed, and when."""

    price_base: Base
    at_s: int


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Where a price jumped to, and since when it stands there."""

    price_base: Base
    since_s: int


class Guard:
    """Watch one market's prices from head to head. The scan loop is the only owner."""

    def __init__(self, policy: GuardPolicy | None = None) -> None:
        """Start without any price: the first of each is believed."""
        self._policy = policy or GuardPolicy()
        self._tokens: dict[Address, Token] = {}
        self._anchors: dict[Address, _Anchor] = {}
        self._doubts: dict[Address, _Doubt] = {}

    @property
    def doubted(self) -> Mapping[Address, Token]:
        """Return the tokens whose prices are not acted upon."""
        return {address: self._tokens[address] for address in self._doubts}

    @property
    def knows_tokens(self) -> bool:
        """Return whether anything is watched yet."""
        return bool(self._tokens)

    def learn(self, tokens: Iterable[Token]) -> None:
        """Watch some more tokens."""
        self._tokens.update((each.address, each) for each in tokens)

    def watch(self, head: BlockHead, snapshot: Snapshot) -> tuple[PriceMove, ...]:
        """Take the prices of a head; return what lost or won back its trust by them.

        A price that is missing or nothing changes no trust: the protocol itself does not act on it.
        """
        moves = []
        for address, token in self._tokens.items():
            price = snapshot.value_base(address, TokenAmount(10**token.decimals))
            if not price or price < 0:
                continue
            move = self._take(token, price, head.timestamp_s)
            if move is not None:
                moves.append(move)
        return tuple(moves)

    def doubt(self, assessment: Assessment) -> Token | None:
        """Return a token of a position, or of a way to liquidate it, whose price is not to be acted upon."""
        if not self._doubts:
            return None
        health = assessment.health
        tokens = [each.token for each in (*health.collateral, *health.debt)]
        tokens += [token for each in assessment.opportunities for token in (each.repay, each.seize)]
        return next((each for each in tokens if each.address in self._doubts), None)

    def _take(self, token: Token, price: Base, now_s: int) -> PriceMove | None:
        anchor = self._anchors.get(token.address)
        if anchor is None or token.address in self._policy.vouched:
            return self._believe(token, price, now_s)
        if not self._is_jump(anchor.price_base, price):
            if token.address in self._doubts:
                return self._believe(token, price, now_s)
            if now_s - anchor.at_s >= self._policy.window_s:
                self._anchors[token.address] = _Anchor(price, now_s)
            return None
        doubt = self._doubts.get(token.address)
        if doubt is not None and _is_near(doubt.price_base, price):
            return self._believe(token, price, now_s) if now_s - doubt.since_s >= self._policy.settle_s else None
        self._doubts[token.address] = _Doubt(price, now_s)
        return PriceMove(token, Turn.JUMPED, anchor.price_base, price) if doubt is None else None

    def _believe(self, token: Token, price: Base, now_s: int) -> PriceMove | None:
        before = self._anchors.get(token.address)
        self._anchors[token.address] = _Anchor(price, now_s)
        doubt = self._doubts.pop(token.address, None)
        return None if doubt is None or before is None else PriceMove(token, Turn.RESTORED, before.price_base, price)

    def _is_jump(self, before: Base, now: Base) -> bool:
        return now > before * self._policy.max_rise or now * self._policy.max_fall < before


def _is_near(one: Base, other: Base) -> bool:
    return abs(one - other) * _BPS <= one * _SETTLED_BPS
