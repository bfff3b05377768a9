"""What decides whether a trade pays: the operator's terms, and what tokens and gas are worth at one head."""

from dataclasses import dataclass
from typing import Final

from keeper.domain.ports import Snapshot
from keeper.domain.units import NATIVE, WAD, ZERO_ADDRESS, Address, Base, TokenAmount, Wei

SCALE: Final = 10**48
"""Worths are in base units times this, so that nothing is lost where a token's unit is worth next to nothing."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every trade of one head has to observe.

    `gas_price_wei` is what a unit of gas is expected to cost, tip included, and `data_fee_wei` what a rollup takes beside
    it. `overhead_gas` is what the executor itself takes. Of the expected profit at least `floor_bps` have to come out, or
    all is undone. A swap may bring `tolerance_bps` less than was quoted, and never be `max_slippage_bps` below the price
    of the market's oracle.
    """

    gas_price_wei: Wei
    native_price_base: Base
    min_profit_base: Base
    last_block: int
    deadline_s: int
    data_fee_wei: Wei = Wei(0)
    overhead_gas: int = 60_000
    floor_bps: int = 9_000
    tolerance_bps: int = 50
    max_slippage_bps: int = 300
    max_stages: int = 3


class Values:
    """What tokens and gas are worth in base units times `SCALE`, by one market's prices."""

    def __init__(self, name: str, snapshot: Snapshot, terms: Terms, wrapped_native: Address | None) -> None:
        """Start with the native currency's price; the market's own are asked for when they are needed."""
        self.name = name
        self._snapshot = snapshot
        native = terms.native_price_base * SCALE // WAD
        self._gas = terms.gas_price_wei * native
        self._data = terms.data_fee_wei * native
        self._spare = {NATIVE: native, wrapped_native or NATIVE: native}
        self._rates: dict[Address, int] = {ZERO_ADDRESS: 0}

    def rate(self, token: Address) -> int:
        """Return the worth of a token's smallest unit; 0 where nothing prices it."""
        known = self._rates.get(token)
        if known is None:
            known = self._snapshot.value_base(token, TokenAmount(SCALE)) or self._spare.get(token, 0)
            self._rates[token] = known
        return known

    def suppose(self, token: Address, amount: int, value: Base) -> None:
        """Take a price for what the market has none for."""
        if amount and not self.rate(token):
            self._rates[token] = value * SCALE // amount

    def of_gas(self, gas: int) -> int:
        """Return what gas is worth."""
        return gas * self._gas

    @property
    def of_data(self) -> int:
        """Return what a transaction costs beside its gas."""
        return self._data
