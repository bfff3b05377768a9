"""Pools and lenders to plan with: a constant product with a fee, exact, and loans at a flat fee."""

from collections.abc import Sequence
from dataclasses import dataclass

from keeper.domain.exchange import Swapped
from keeper.domain.program import Step, StepKind
from keeper.domain.units import BPS, ZERO_ADDRESS, Address, TokenAmount

FACTORY = Address(b"\xfa" * 20)
DEAR_GAS = 25_000


@dataclass(slots=True)
class Product:
    """`x * y = k`, rounded as Uniswap v2 does; `bend` makes more gas the deeper it is gone into, as ticks do."""

    takes_exactly = False

    number: int
    tokens: tuple[Address, Address]
    reserves: tuple[int, int]
    fee_bps: int = 30
    gas: int = 90_000
    bend: int = 0
    is_one_way: bool = False

    @property
    def id(self) -> bytes:
        return self.number.to_bytes(20, "big")

    @property
    def lock(self) -> bytes:
        return self.id

    @property
    def venue(self) -> str:
        return f"product {self.number}"

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        one, other = self.tokens
        return ((one, other),) if self.is_one_way else ((one, other), (other, one))

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        place = self.tokens.index(give)
        assert take == self.tokens[1 - place]
        assert not (place and self.is_one_way)
        into, out_of = self.reserves[place], self.reserves[1 - place]
        paid = amount * (BPS - self.fee_bps)
        brought = out_of * paid // (into * BPS + paid)
        return Swapped(TokenAmount(brought), self._gas(brought, out_of), self._moved(place, amount, brought))

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        return Step(StepKind.SWAP_UNISWAP_V2, FACTORY, give, take, amount, least, self.id)

    def _gas(self, brought: int, out_of: int) -> int:
        return self.gas + DEAR_GAS * (brought * self.bend // out_of)

    def _moved(self, place: int, given: int, brought: int) -> "Product":
        into, out_of = self.reserves[place] + given, self.reserves[1 - place] - brought
        reserves = (into, out_of) if place == 0 else (out_of, into)
        return type(self)(self.number, self.tokens, reserves, self.fee_bps, self.gas, self.bend, self.is_one_way)


@dataclass(slots=True)
class Patient(Product):
    """One that can be paid last."""

    def buy(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        place = self.tokens.index(give)
        into, out_of = self.reserves[place], self.reserves[1 - place]
        if amount >= out_of:
            return None
        cost = into * amount * BPS // ((out_of - amount) * (BPS - self.fee_bps)) + 1
        return Swapped(TokenAmount(cost), self._gas(amount, out_of), self._moved(place, cost, amount))

    def first(self, give: Address, take: Address, amount: int, most: int) -> Step:
        return Step(StepKind.SWAP_FIRST_UNISWAP_V3, FACTORY, give, take, amount, most, self.id)


@dataclass(frozen=True, slots=True)
class Flat:
    """A lender of some tokens at a fee in hundredths of a percent, up to so much of each."""

    name: str
    most: dict[Address, int]
    fee_bps: int = 0
    gas: int = 80_000
    lock: bytes = b"flat"

    def fee(self, token: Address, amount: TokenAmount) -> TokenAmount | None:
        if amount > self.most.get(token, 0):
            return None
        return TokenAmount(-(-amount * self.fee_bps // BPS))

    def step(self, token: Address, amount: TokenAmount, most_fee: TokenAmount) -> Step:
        return Step(StepKind.FLASH_AAVE, ZERO_ADDRESS, ZERO_ADDRESS, token, amount, most_fee)
