"""Tokens that stand for another one, at a rate that the token itself tells: vaults' shares and wrapped stakes.

An amount brings the same rate however large it is, and the rate holds after it: each is a pool that no swap moves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import UINT128, address_word, number_word, selector, view
from keeper.domain.chain import ViewResult
from keeper.domain.exchange import Pool, Swapped, Want
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import WAD, Address, TokenAmount

_ASSET: Final = selector("asset()")
_PREVIEW_REDEEM: Final = selector("previewRedeem(uint256)")
_MAX_REDEEM: Final = selector("maxRedeem(address)")
_STETH: Final = selector("stETH()")
_STETH_PER_TOKEN: Final = selector("stEthPerToken()")
_STETH_BY_WSTETH: Final = selector("getStETHByWstETH(uint256)")
_SHARES_OF: Final = (1, 2, 16, 256)
_PRECISE: Final = 10**36  # still fits in the 128 bits that Lido's shares may have
_LOST_IN_SHARES: Final = 2
_MOST_RATE: Final = 1_000
_REDEEM_GAS, _UNWRAP_GAS = 200_000, 110_000


@dataclass(frozen=True, slots=True)
class WrapperPool:
    """A fixed rate in one direction, up to a most. Rounding: down, and by `lost` units more."""

    takes_exactly = False

    venue: str
    gas: int
    kind: StepKind
    target: Address
    give: Address
    take: Address
    taken: int
    given: int
    most: int
    lost: int = 0

    @property
    def id(self) -> bytes:
        """Return the wrapper and what is done with it."""
        return self.target + self.kind.to_bytes(1, "big")

    @property
    def lock(self) -> bytes:
        """Return the same: nothing runs inside."""
        return self.id

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return its only direction."""
        return ((self.give, self.take),)

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote from below; None for another direction, and beyond what can be unwrapped."""
        if (give, take) != (self.give, self.take) or not 0 < amount <= self.most:
            return None
        out = max(0, amount * self.taken // self.given - self.lost)
        return Swapped(TokenAmount(out), self.gas, replace(self, most=self.most - amount))

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step that does it."""
        return Step(self.kind, self.target, give, take, amount, least)


class Erc4626Quoter:
    """Redeems a vault's shares.

    What can be redeemed is asked of accounts that hold many shares, such as the market whose collateral they are:
    `maxRedeem` of one who holds none, as the executor before it has seized them, is 0. Without such accounts only the
    simulation tells that a vault is short of cash.
    Source: EIP-4626: `previewRedeem` is no more than a redemption brings, and knows no limit.
    """

    def __init__(self, name: str, root: Address, holders: Sequence[Address] = ()) -> None:
        """Take the vault's address."""
        self.name = name
        self._vault = root
        self._holders = tuple(holders)
        self._asset: Address | None = None

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Return the redemption, if anything wanted gives the shares.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        most = max((want.most for want in wanted if want.give == self._vault), default=0)
        if most <= 0:
            return []
        if self._asset is None:
            (said,) = await reads.many([view(self._vault, _ASSET)])
            self._asset = abi.address(abi.number(said, "a vault's asset"))
        return [await self._redemption(reads, self._asset, most)]

    async def close(self) -> None:
        """Do nothing: it is asked over the reads."""

    async def _redemption(self, reads: Reads, asset: Address, most: int) -> Pool:
        amounts = [most // part for part in _SHARES_OF if most // part]
        previews = [view(self._vault, _PREVIEW_REDEEM, number_word(amount)) for amount in amounts]
        limits = [view(self._vault, _MAX_REDEEM, address_word(holder)) for holder in self._holders]
        answers = await reads.many([*previews, *limits])
        outs = [_told(result, "a redemption") for result in answers[: len(amounts)]]
        taken, given = outs[0], amounts[0]
        for amount, out in zip(amounts, outs, strict=True):
            if (out + 1) * given < taken * amount:  # worse than in proportion
                taken, given = out, amount
        redeemable = [abi.number(result, "what can be redeemed") for result in answers[len(amounts) :]]
        can = min(most, max(redeemable)) if redeemable else most
        kind = StepKind.REDEEM_ERC4626
        return WrapperPool(self.name, _REDEEM_GAS, kind, self._vault, self._vault, asset, taken, given, can)


class WstethQuoter:
    """Unwraps wstETH, and what is like it.

    The stake is transferred as shares of it, so that up to two units less may arrive than the call says.
    Source: Lido, WstETH.unwrap, StETH.getPooledEthByShares and getSharesByPooledEth, each rounding down.
    """

    def __init__(self, name: str, root: Address) -> None:
        """Take the wrapped token's address."""
        self.name = name
        self._token = root

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Return the unwrapping, if anything wanted gives the wrapped token.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        most = max((want.most for want in wanted if want.give == self._token), default=0)
        if most <= 0:
            return []
        precise = view(self._token, _STETH_BY_WSTETH, number_word(_PRECISE))
        said = await reads.many([view(self._token, _STETH), precise, view(self._token, _STETH_PER_TOKEN)])
        stake = abi.address(abi.number(said[0], "a wrapped stake"))
        is_precise = said[1].ok and len(said[1].data) == abi.WORD
        unit = _PRECISE if is_precise else WAD
        rate = abi.number(said[1] if is_precise else said[2], "a stake's rate")
        abi.within(rate, 1, _MOST_RATE * unit, "a stake's rate")
        kind, lost = StepKind.UNWRAP_WSTETH, _LOST_IN_SHARES
        return [WrapperPool(self.name, _UNWRAP_GAS, kind, self._token, self._token, stake, rate, unit, most, lost)]

    async def close(self) -> None:
        """Do nothing: it is asked over the reads."""


def _told(result: ViewResult, what: str) -> int:
    return abi.within(abi.number(result, what), 0, UINT128, what)
