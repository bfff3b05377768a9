"""Loans within one transaction: what each kind of lender takes and has, read in one batch at each head.

What a lender locks while its loan is out, after its sources:
- Aave v3: nothing. No function of the pool has a guard (core 1.19.3, origin v3.1.0 to v3.7: FlashLoanLogic validates, lets
  the receiver run, and only then caches and updates the reserve), so that it liquidates inside its own loan.
- Morpho: nothing. `flashLoan` and `liquidate` change all state before they call back (morpho-blue 1.0.0, Morpho.sol).
- Balancer v2: the vault. `flashLoan`, `swap` and `batchSwap` share one `nonReentrant` (v2-vault 2.0.0, Swaps.sol).
- ERC-3156: the standard is silent, so that the lender counts as locked.
A loan also locks itself: its lender cannot lend the same money twice.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import BALANCE_OF, UINT128, address_word, number_word, selector, view
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.exchange import Lender
from keeper.domain.fixed import div_half_up, div_up
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import BPS, WAD, ZERO_ADDRESS, Address, TokenAmount
from keeper.errors import Invalid

# Aave's Pool and AToken
_PREMIUM: Final = selector("FLASHLOAN_PREMIUM_TOTAL()")
_REVISION: Final = selector("POOL_REVISION()")
_RESERVE: Final = selector("getReserveData(address)")
_VIRTUAL_BALANCE: Final = selector("getVirtualUnderlyingBalance(address)")
_TOTAL_SUPPLY: Final = selector("totalSupply()")
_RESERVE_WORDS: Final = 9
_A_TOKEN: Final = 8
_ACTIVE, _PAUSED, _LENDING = (56, 1), (60, 1), (63, 1)
_FIRST_VIRTUAL: Final = 4  # origin v3.1
_FIRST_UPWARDS: Final = 9  # origin v3.5: percentMulCeil
_AAVE_GAS: Final = 150_000
# Balancer's Vault and ProtocolFeesCollector
_COLLECTOR: Final = selector("getProtocolFeesCollector()")
_FLASH_FEE: Final = selector("getFlashLoanFeePercentage()")
_IS_VAULT_PAUSED: Final = selector("getPausedState()")
_BALANCER_GAS: Final = 60_000
# Morpho
_MORPHO_GAS: Final = 60_000
# ERC-3156
_MAX_LOAN: Final = selector("maxFlashLoan(address)")
_LOAN_FEE: Final = selector("flashFee(address,uint256)")
_ASKED: Final = tuple(4**power for power in range(57))
_ERC3156_GAS: Final = 80_000


@dataclass(frozen=True, slots=True)
class Loan:
    """One token of one lender. `premium` says what an amount costs."""

    name: str
    lock: bytes
    gas: int
    kind: StepKind
    target: Address
    token: Address
    available: TokenAmount
    premium: Callable[[int], int]

    def fee(self, token: Address, amount: TokenAmount) -> TokenAmount | None:
        """Return what a loan costs; None for another token, and for more than there is."""
        if token != self.token or not 0 < amount <= self.available:
            return None
        return TokenAmount(self.premium(amount))

    def step(self, token: Address, amount: TokenAmount, most_fee: TokenAmount) -> Step:
        """Return the executor's step that opens the loan."""
        return Step(self.kind, self.target, take=token, amount=amount, limit=most_fee)


@dataclass(frozen=True, slots=True)
class Share:
    """A fee in proportion to the amount. Rounding: up, or a half up."""

    parts: int
    whole: int
    is_half_up: bool = False

    def __call__(self, amount: int) -> int:
        """Return the fee."""
        if self.is_half_up:
            return div_half_up(amount * self.parts, self.whole)
        return div_up(amount * self.parts, self.whole)


@dataclass(frozen=True, slots=True)
class AskedFee:
    """A fee of which only some points (amount, fee) are known, rising in both. Rounding: never below the lender's.

    Between two points it lies on their line unless one of them is a bend, above the line of its neighbours by more than
    rounding can lift it: beside a bend the larger amount's fee is taken. A flat part and a proportional one have none.
    """

    points: tuple[tuple[int, int], ...]
    bends: frozenset[int]

    @classmethod
    def of(cls, points: Sequence[tuple[int, int]]) -> "AskedFee":
        """Judge the points.

        Raises: Invalid for a fee that falls while the amount rises.
        """
        if not points or any(after[1] < before[1] for before, after in pairwise(points)):
            raise Invalid("a loan's fee falls while the loan grows")
        corners = enumerate(zip(points, points[1:], points[2:], strict=False), start=1)
        bends = (at for at, corner in corners if _is_bend(*corner))
        return cls(tuple(points), frozenset(bends))

    def __call__(self, amount: int) -> int:
        """Return the fee, or a little more."""
        place = bisect_left(self.points, (amount, 0))
        above = self.points[place]
        if not place or {place - 1, place} & self.bends:
            return above[1]
        below = self.points[place - 1]
        return below[1] + div_up((above[1] - below[1]) * (amount - below[0]), above[0] - below[0])


def _is_bend(before: tuple[int, int], point: tuple[int, int], after: tuple[int, int]) -> bool:
    """Say whether a point lies above the line of its neighbours by a unit or more: less is rounding."""
    rise, run = after[1] - before[1], after[0] - before[0]
    return (point[1] - 1 - before[1]) * run >= rise * (point[0] - before[0])


class AaveLenders:
    """The reserves of an Aave v3 pool, by `flashLoanSimple`.

    Source: FlashLoanLogic.executeFlashLoanSimple, ValidationLogic.validateFlashloanSimple; core 1.19.3, origin v3.1.0 to
    v3.7.
    """

    def __init__(self, name: str, root: Address) -> None:
        """Take the pool's address."""
        self.name = name
        self._pool = root
        self._a_tokens: dict[Address, Address] = {}
        self._revision = 0

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        """Return the reserves that lend, in one batch where nothing is new.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        found, again = await self._read(reads, tokens)
        if again:
            found += (await self._read(reads, again))[0]
        return found

    async def _read(self, reads: Reads, tokens: Collection[Address]) -> tuple[list[Lender], list[Address]]:
        """Return the reserves that lend, and those whose money was looked for in the wrong place."""
        known = self._revision
        calls = [view(self._pool, _REVISION), view(self._pool, _PREMIUM)]
        calls += (call for token in tokens for call in self._calls(token))
        said, premium, *answers = await reads.many(calls)
        self._revision = abi.number(said, "the pool's revision")
        share = _aave_premium(self._revision, premium)
        found, again = list[Lender](), list[Address]()
        each = 4 if known >= _FIRST_VIRTUAL else 2
        for place, token in enumerate(tokens):
            reserve, *money = answers[each * place : each * (place + 1)]
            try:
                holder = abi.address(abi.words(reserve, _RESERVE_WORDS, "a reserve")[_A_TOKEN])
                if holder == ZERO_ADDRESS:
                    continue  # not listed
                if (holder, self._revision) != (self._a_tokens.get(token), known):
                    self._a_tokens[token] = holder
                    again.append(token)
                elif _is_lending(reserve):
                    found += self._loan(token, _aave_available(money), share)
            except Invalid:
                continue
        return found, again

    def _calls(self, token: Address) -> Iterator[ViewCall]:
        """Yield what tells a reserve's terms and money."""
        holder = self._a_tokens.get(token, ZERO_ADDRESS)
        yield view(self._pool, _RESERVE, address_word(token))
        yield view(token, BALANCE_OF, address_word(holder))
        if self._revision >= _FIRST_VIRTUAL:
            yield view(self._pool, _VIRTUAL_BALANCE, address_word(token))
            yield view(holder, _TOTAL_SUPPLY)

    def _loan(self, token: Address, available: int, premium: Share) -> list[Lender]:
        lock = self._pool + token
        kind = StepKind.FLASH_AAVE
        return _offered(Loan(self.name, lock, _AAVE_GAS, kind, self._pool, token, TokenAmount(available), premium))


class MorphoLenders:
    """Morpho Blue, which lends all that it holds for nothing.

    Source: morpho-blue 1.0.0, Morpho.flashLoan.
    """

    def __init__(self, name: str, root: Address) -> None:
        """Take Morpho's address."""
        self.name = name
        self._morpho = root

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        """Return the tokens that it holds.

        Raises: Transient, Stale.
        """
        held = await reads.many([view(token, BALANCE_OF, address_word(self._morpho)) for token in tokens])
        found = list[Lender]()
        for token, result in zip(tokens, held, strict=True):
            lock, kind = self._morpho + token, StepKind.FLASH_MORPHO
            available = _amount(result)
            found += _offered(Loan(self.name, lock, _MORPHO_GAS, kind, self._morpho, token, available, Share(0, 1)))
        return found


class BalancerLenders:
    """The vault of Balancer v2, which lends all that it holds unless it is paused.

    Source: v2-vault 2.0.0, FlashLoans.flashLoan, Fees._calculateFlashLoanFeeAmount, FixedPoint.mulUp.
    """

    def __init__(self, name: str, root: Address) -> None:
        """Take the vault's address."""
        self.name = name
        self._vault = root
        self._collector: Address | None = None

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        """Return the tokens that it holds.

        Raises: Transient, Stale; Invalid where the venue answers as none could.
        """
        if self._collector is None:  # the vault cannot replace it
            (said,) = await reads.many([view(self._vault, _COLLECTOR)])
            self._collector = abi.address(abi.number(said, "the vault's collector of fees"))
        balances = [view(token, BALANCE_OF, address_word(self._vault)) for token in tokens]
        state = [view(self._vault, _IS_VAULT_PAUSED), view(self._collector, _FLASH_FEE)]
        paused, fee, *held = await reads.many([*state, *balances])
        if abi.number(paused, "the vault's pause"):
            return []
        premium = Share(abi.within(abi.number(fee, "the vault's fee"), 0, WAD, "the vault's fee"), WAD)
        kind = StepKind.FLASH_BALANCER
        return [
            loan
            for token, result in zip(tokens, held, strict=True)
            for loan in _offered(
                Loan(self.name, self._vault, _BALANCER_GAS, kind, self._vault, token, _amount(result), premium)
            )
        ]


class Erc3156Lenders:
    """A lender by the standard, whose fee is asked at amounts four times as large each time.

    Source: ERC-3156: `flashFee` must answer for every supported token, whatever can be lent.
    """

    def __init__(self, name: str, root: Address) -> None:
        """Take the lender's address."""
        self.name = name
        self._lender = root
        self._lent: set[Address] = set()

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        """Return the tokens that it lends, in one batch where none is new.

        Raises: Transient, Stale.
        """
        found, again = await self._read(reads, tokens)
        if again:
            found += (await self._read(reads, again))[0]
        return found

    async def _read(self, reads: Reads, tokens: Collection[Address]) -> tuple[list[Lender], list[Address]]:
        """Return the tokens that it lends, and those of which it was not known: others have no fee to ask for."""
        asked = [token for token in tokens if token in self._lent]
        calls = [view(self._lender, _MAX_LOAN, address_word(token)) for token in tokens]
        for token in asked:
            calls += (view(self._lender, _LOAN_FEE, address_word(token), number_word(amount)) for amount in _ASKED)
        answers = await reads.many(calls)
        most = dict(zip(tokens, map(_amount, answers), strict=False))
        found = list[Lender]()
        for place, token in enumerate(asked):
            begin = len(tokens) + len(_ASKED) * place
            try:
                found += self._loan(token, most[token], answers[begin : begin + len(_ASKED)])
            except Invalid:
                continue
        lent = {token for token in tokens if most[token] > 0}
        again = [token for token in tokens if token in lent and token not in self._lent]
        self._lent = self._lent - set(tokens) | lent
        return found, again

    def _loan(self, token: Address, most: TokenAmount, fees: Sequence[ViewResult]) -> list[Lender]:
        points = list[tuple[int, int]]()
        for amount, fee in zip(_ASKED, fees, strict=True):
            if not fee.ok:
                break  # some refuse to price what they could not lend
            points.append((amount, abi.within(abi.number(fee, "a loan's fee"), 0, UINT128, "a loan's fee")))
        premium = AskedFee.of(points)
        available = TokenAmount(min(most, points[-1][0]))
        kind = StepKind.FLASH_ERC3156
        return _offered(Loan(self.name, self._lender, _ERC3156_GAS, kind, self._lender, token, available, premium))


def _offered(loan: Loan) -> list[Lender]:
    return [loan] if loan.available > 0 else []


def _amount(result: ViewResult) -> TokenAmount:
    """Return an amount, nothing where there is no answer: nothing is then lent."""
    return TokenAmount(int.from_bytes(result.data[:32]) if result.ok and len(result.data) >= abi.WORD else 0)


def _is_lending(reserve: ViewResult) -> bool:
    configuration = abi.number(reserve, "a reserve")
    is_active, is_paused, is_lending = (bool(abi.bits(configuration, place)) for place in (_ACTIVE, _PAUSED, _LENDING))
    return is_active and not is_paused and is_lending


def _aave_premium(revision: int, premium: ViewResult) -> Share:
    """Return the premium. Rounding: a half up until v3.5, up from then on."""
    bps = abi.within(abi.number(premium, "the flash premium"), 0, BPS + 1, "the flash premium")
    return Share(bps, BPS, is_half_up=revision < _FIRST_UPWARDS)


def _aave_available(money: Sequence[ViewResult]) -> int:
    """Return what a reserve can lend: what its aToken holds, and from v3.1 on no more than its books and supply say.

    A reserve without virtual accounting (v3.1 to v3.3) has books that say nothing is there; it is left alone.
    """
    return min(abi.number(each, "a reserve's money") for each in money)
