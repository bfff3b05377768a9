"""A service on loopback, and the venue that asks it, at one head."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from keeper.domain.abi import DECIMALS, number_word, selector, view
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.exchange import Want
from keeper.domain.units import Address, BlockHash, TokenAmount, Wei
from keeper.forms import Secret
from keeper.venues.http import HttpQuoter, Notice, Quotes
from keeper.venues.kyberswap import KyberSwap
from keeper.venues.odos import Odos
from keeper.venues.oneinch import OneInch
from keeper.venues.service import Service
from keeper.venues.velora import Velora
from keeper.venues.zerox import REGISTRY, ZeroEx
from tests.unit.venues.service import KEY, SETTLER, KyberStall, OdosStall, OneInchStall, Stall, VeloraStall, ZeroExStall

EXECUTOR: Final = Address(b"\xe1" * 20)
ORIGIN: Final = Address(b"\x0f" * 20)
STRANGER: Final = Address(b"\x66" * 20)
GIVE: Final = Address(b"\x11" * 20)
TAKE: Final = Address(b"\x22" * 20)
OTHER: Final = Address(b"\x33" * 20)
HEAD: Final = BlockHead(7, BlockHash(b"\x07" * 32), BlockHash(b"\x06" * 32), 1_700_000_000, Wei(1), 30_000_000, b"")
MOST: Final = TokenAmount(1_000_003)
WANT: Final = Want(GIVE, TAKE, MOST)

SERVICES: Final[Mapping[str, tuple[type[Stall], type[OneInch | ZeroEx | Velora | Odos | KyberSwap]]]] = {
    "oneinch": (OneInchStall, OneInch),
    "zerox": (ZeroExStall, ZeroEx),
    "velora": (VeloraStall, Velora),
    "odos": (OdosStall, Odos),
    "kyberswap": (KyberStall, KyberSwap),
}


class LoopClock:
    """The loop's time: these tests talk over real sockets, or stand in virtual time."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def unix_s(self) -> float:
        return 1_700_000_100.0


def settlers(current: bytes | None, before: bytes | None) -> dict[ViewCall, ViewResult]:
    """Return what the registry of the Settlers tells; None reverts."""
    questions = (("ownerOf(uint256)", current), ("prev(uint128)", before))
    return {
        view(REGISTRY, selector(signature), number_word(2)): ViewResult(
            ok=told is not None, data=b"" if told is None else told.rjust(32, b"\0")
        )
        for signature, told in questions
    }


@dataclass
class HeadReads:
    """Reads at one head of a chain with a few tokens and the Settlers' registry."""

    answers: dict[ViewCall, ViewResult] = field(default_factory=dict)
    error: Exception | None = None
    asked: list[ViewCall] = field(default_factory=list)
    head: BlockHead = HEAD

    def __post_init__(self) -> None:
        decimals = {GIVE: 18, TAKE: 6, OTHER: 18}
        for token, count in decimals.items():
            self.answers.setdefault(view(token, DECIMALS), ViewResult(ok=True, data=number_word(count)))
        self.answers = {**settlers(SETTLER, None), **self.answers}

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.asked += calls
        if self.error is not None:
            raise self.error
        return [self.answers.get(call, ViewResult(ok=False, data=b"")) for call in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)


@dataclass
class Market:
    """A service, who asks it, and what was noticed."""

    stall: Stall
    service: Service
    quoter: HttpQuoter
    notices: list[Notice]

    async def pools(self, *wanted: Want, reads: HeadReads | None = None) -> list[Quotes]:
        """Ask once."""
        found = await self.quoter.quotes(reads or HeadReads(), wanted or [WANT])
        pools = [pool for pool in found if isinstance(pool, Quotes)]
        assert len(pools) == len(found)
        return pools


@asynccontextmanager
async def market(name: str, **options: Any) -> AsyncIterator[Market]:
    """Open a service on Ethereum and the venue that asks it, without a pace and with time enough."""
    stall_type, service_type = SERVICES[name]
    root = service_type(1, Address(bytes(20))).profile.routers[1]
    service: Service = service_type(1, root)
    notices: list[Notice] = []
    async with stall_type(service.router) as stall:
        given: dict[str, Any] = {
            "url": stall.url,
            "pace_ms": 0,
            "timeout_ms": 5000,
            "notice": notices.append,
            "clock": LoopClock(),
            **options,
        }
        if service.profile.takes_key:
            given.setdefault("key", Secret(KEY))
        quoter = HttpQuoter(service, executor=EXECUTOR, origin=ORIGIN, **given)
        try:
            yield Market(stall, service, quoter, notices)
        finally:
            await quoter.close()
