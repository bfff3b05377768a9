"""What a service's answer may make the executor do: nothing but the swap that was asked for.

A router's calldata is a stranger's. It is used only where the router and its function are known, and where every word of
it that matters is where the function has it: what is given, how much of it, what is taken, at least how much, for whom.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keeper.domain.abi import WORD, address, selector
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.units import BPS, ZERO_ADDRESS, Address, TokenAmount
from keeper.errors import Invalid

MAX_CALLDATA: Final = 8192
"""What one payload of the executor holds."""
INNER: Final = -1
"""At the beginning of a path: it goes on in the call that this one carries."""
_ROUNDING_BPS: Final = 1
"""Services work their least amount out in their own way; one unit is a rounding as well."""
_SELECTOR: Final = 4
_MOST_DIGITS: Final = 78

Path = tuple[int, ...]
"""The way to a word: numbers of words, every one but the last holding the offset of where to count on from."""


class Distrusted(Invalid):
    """An answer that would do something else than what was asked for."""


class Unfit(Invalid):
    """An honest answer that cannot be used."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a service is asked: to sell an amount for the executor, which `origin` calls.

    `tolerance_bps` is how much less than its quote the service may bring. `facts` were read at the head.
    """

    give: Address
    take: Address
    amount: TokenAmount
    executor: Address
    origin: Address
    tolerance_bps: int
    facts: Mapping[ViewCall, ViewResult] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a service answered. `gas` is 0 where it does not say."""

    router: Address
    data: bytes
    amount: TokenAmount
    gas: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a function says what it does.

    `unset` are bits of words that must not be set. `trusted` are addresses that have to be known as the service's own.
    `is_zero_caller` says that a zero recipient stands for the caller. `inner` is where the call that it carries is, and
    that call's signature.
    """

    signature: str
    give: Path
    take: Path
    amount: Path
    least: Path
    recipient: Path
    unset: tuple[tuple[Path, int], ...] = ()
    trusted: tuple[Path, ...] = ()
    is_zero_caller: bool = True
    inner: tuple[Path, str] | None = None

    @property
    def selector(self) -> bytes:
        """Return how the function is named in calldata."""
        return selector(self.signature)


class _Calldata:
    """Calldata as a contract decodes it."""

    def __init__(self, data: bytes, layout: Layout | None = None) -> None:
        self._data = data
        self._inner = None if layout is None or layout.inner is None else self._carried(*layout.inner)

    def word(self, path: Path) -> int:
        if path[0] == INNER:
            if self._inner is None:
                raise Distrusted("carries no call")
            return self._inner.word(path[1:])
        base = self._base(path[:-1])
        return self._at(base + WORD * path[-1])

    def address(self, path: Path) -> Address:
        return address(self.word(path))

    def _base(self, path: Path) -> int:
        base = _SELECTOR
        for place in path:
            base += self._at(base + WORD * place)
        return base

    def _at(self, begin: int) -> int:
        if begin + WORD > len(self._data):
            raise Distrusted("calldata that ends too early")
        return int.from_bytes(self._data[begin : begin + WORD], "big")

    def _carried(self, path: Path, signature: str) -> "_Calldata":
        base = self._base(path)
        data = self._data[base + WORD : base + WORD + self._at(base)]
        if data[:_SELECTOR] != selector(signature):
            raise Distrusted("carries another function")
        return _Calldata(data)


def check(
    offer: Offer, ask: Ask, *, router: Address, layouts: Mapping[bytes, Layout], trusted: frozenset[Address]
) -> None:
    """Let an offer pass that does what was asked for and nothing else.

    Raises: Distrusted, Unfit; Invalid for calldata that no contract would decode.
    """
    if offer.router != router:
        raise Distrusted("another router")
    if offer.value != 0:
        raise Distrusted("native currency is to be sent along")
    if len(offer.data) > MAX_CALLDATA:
        raise Unfit("more calldata than the executor takes")
    layout = layouts.get(offer.data[:_SELECTOR])
    if layout is None:
        raise Unfit("another function of the router")
    said = _Calldata(offer.data, layout)
    recipient = said.address(layout.recipient)
    if recipient != ask.executor and not (layout.is_zero_caller and recipient == ZERO_ADDRESS):
        raise Distrusted("another recipient")
    if (said.address(layout.give), said.address(layout.take)) != (ask.give, ask.take):
        raise Distrusted("other tokens")
    if said.word(layout.amount) != ask.amount:
        raise Distrusted("another amount")
    if any(said.word(path) & bits for path, bits in layout.unset):
        raise Distrusted("flags that nobody asked for")
    if not all(said.address(path) in trusted for path in layout.trusted):
        raise Distrusted("a contract that is not the service's own")
    _check_least(said.word(layout.least), offer.amount, ask)


def _check_least(least: int, amount: TokenAmount, ask: Ask) -> None:
    """Refuse a least amount that would always revert, being above the quote, and one that invites to take the rest."""
    if least == 0:
        raise Distrusted("no least amount")
    if least > amount:
        raise Unfit("a least amount above the quote")
    if (least + 1) * BPS < amount * (BPS - ask.tolerance_bps - _ROUNDING_BPS):
        raise Unfit("a least amount below the tolerance")


def number(text: str) -> int:
    """Read a decimal number as services write amounts.

    Raises: ValueError.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise ValueError("not a decimal number")
    return int(text)
