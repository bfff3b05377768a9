"""Venues that have to be asked keep no failure to themselves: who asks goes on without the venue, and names it."""

from collections.abc import Sequence

import pytest

from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.exchange import Quoter, Want
from keeper.domain.units import Address, TokenAmount
from keeper.errors import KeeperError, Stale, Transient
from keeper.venues.balancer import BalancerQuoter
from keeper.venues.curve import CurveQuoter
from keeper.venues.wrappers import Erc4626Quoter, WstethQuoter
from tests.toy import head

ROOT, TOKEN = Address(b"\x01" * 20), Address(b"\x02" * 20)
QUOTERS: list[Quoter] = [
    CurveQuoter("curve", ROOT),
    BalancerQuoter("balancer", ROOT, [bytes(32)]),
    Erc4626Quoter("vault", ROOT),
    WstethQuoter("wsteth", ROOT),
]
WANTED = [Want(ROOT, TOKEN, TokenAmount(1))]


class Failing:
    """Reads that fail."""

    def __init__(self, error: KeeperError) -> None:
        self.error = error

    @property
    def head(self) -> BlockHead:
        return head()

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        raise self.error

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        raise self.error


@pytest.mark.parametrize("quoter", QUOTERS, ids=lambda each: each.name)
@pytest.mark.parametrize("error", [Transient("no endpoint"), Stale("gone")], ids=["no_endpoint", "no_block"])
async def test_what_no_node_answers_is_told_to_whoever_asked(quoter: Quoter, error: KeeperError):
    with pytest.raises(type(error)):
        await quoter.quotes(Failing(error), WANTED)
    await quoter.close()
