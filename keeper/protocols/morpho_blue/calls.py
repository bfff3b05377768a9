"""From an opportunity to calldata, from revert data to a reason, and the calls whose refusal tells a verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keeper.domain import abi, reverts
from keeper.domain.abi import WORD, address_word, number_word, view
from keeper.domain.chain import Call, ViewCall, ViewResult
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.position import Health, Opportunity
from keeper.domain.units import MAX_UINT256, WAD, Address, Base, Wad
from keeper.protocols.morpho_blue import contracts as morpho

GAS_ESTIMATE: Final = 320_000
SELECTORS: Final = frozenset({morpho.LIQUIDATE, morpho.PRE_LIQUIDATE})
PAYABLE: Final[frozenset[bytes]] = frozenset()
_SELECTOR_BYTES: Final = 4
_TOO_MUCH: Final = number_word(0) + number_word(MAX_UINT256)  # by shares: what every call refuses, after its verdict


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays out of the caller's own loan tokens.

    Source: Morpho.liquidate, 1.0.0; PreLiquidation.preLiquidate, 1.0.0.
    """
    return liquidation_with_callback(opportunity, b"")


def liquidation_with_callback(opportunity: Opportunity, data: bytes) -> Call:
    """Return the call that hands `data` to the caller, which is a contract, between the collateral and the payment.

    Without data nobody is called back.
    Source: Morpho.liquidate, 1.0.0: onMorphoLiquidate; PreLiquidation.preLiquidate, 1.0.0: onPreLiquidate.
    """
    function, terms = opportunity.terms[:_SELECTOR_BYTES], opportunity.terms[_SELECTOR_BYTES:]
    params, amounts = terms[: -2 * WORD], terms[-2 * WORD :]
    head = params + address_word(opportunity.key.account) + amounts
    padded = data + bytes(-len(data) % WORD)
    body = number_word(len(head) + WORD) + number_word(len(data)) + padded
    return Call(opportunity.target, function + head + body)


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: Morpho's strings, pre-liquidation's errors, tokens' words, panics, junk."""
    return reverts.decode(data, strings=morpho.STRING_ERRORS, errors=morpho.CUSTOM_ERRORS)


def accrual(root: Address, params: morpho.PairParams) -> tuple[ViewCall, ...]:
    """Return what a pair is asked first: to accrue its interest, its totals then, its price."""
    accrue = view(root, morpho.ACCRUE_INTEREST, params.encoded)
    return accrue, view(root, morpho.MARKET, params.id), view(params.oracle, morpho.PRICE)


def trial(
    root: Address, params: morpho.PairParams, account: Address, contracts: Iterable[Address]
) -> tuple[ViewCall, ...]:
    """Return what a position is asked: its state, and calls for more than there is, which are refused in any case."""
    owner = address_word(account)
    liquidate = view(root, morpho.LIQUIDATE, params.encoded, owner, _TOO_MUCH, _end_of(9))
    calls = [view(root, morpho.POSITION, params.id, owner), liquidate]
    for each in contracts:
        calls.append(view(root, morpho.IS_AUTHORIZED, owner, address_word(each)))
        calls.append(view(each, morpho.PRE_LIQUIDATE, owner, _TOO_MUCH, _end_of(4)))
    return tuple(calls)


def _end_of(words: int) -> bytes:
    """Return the last argument of a call with so many words before its end: no data."""
    return number_word(words * WORD) + number_word(0)


@dataclass(frozen=True, slots=True)
class Tried:
    """What Morpho said in a row: of a pair, then to calls that ask for more than there is.

    `pair`: the accrual, the totals after it, the price. `answers`: the position, the refused liquidation, and for each
    pre-liquidation contract the authorisation and the refused call; `quotes`: what these contracts' oracles say.
    """

    listing: morpho.Listing
    pair: Sequence[ViewResult]
    answers: Sequence[ViewResult]
    quotes: Sequence[ViewResult]

    @property
    def is_silent(self) -> bool:
        """Return whether something failed without a word, as everything does once somebody has taken all the gas."""
        return not all(each.ok or each.data for each in (*self.pair, *self.answers, *self.quotes))

    def health(self, prices: Mapping[Address, Base]) -> Health | None:
        """Return the position's health with their verdicts, or None where every call reverts."""
        price, params = morpho.word(self.pair[2]), self.listing.params
        if price is None or not all(each.ok for each in (*self.pair, self.answers[0])) or not self.answers[1].data:
            return None
        now, (shares, collateral) = morpho.totals(self.pair[1]), morpho.held(self.answers[0])
        if collateral * price > MAX_UINT256:
            return None
        borrowed, quoted = now.assets_up(shares), collateral * price // morpho.ORACLE_SCALE
        usd, unit = prices.get(params.loan, Base(0)), 10**self.listing.loan.decimals
        limit = quoted * params.lltv_wad // WAD
        return Health(
            health_factor_wad=Wad(limit * WAD // borrowed if borrowed else MAX_UINT256),
            collateral_base=Base(quoted * usd // unit),
            debt_base=Base(div_up(borrowed * usd, unit)),
            is_liquidatable=self.answers[1].data != morpho.IS_HEALTHY or self._is_open(collateral),
            collateral=(),
            debt=(),
        )

    def _is_open(self, collateral: int) -> bool:
        """Return whether a contract that is allowed refused the call for its size, and not for the position's health."""
        contracts = zip(self.answers[2::2], self.answers[3::2], map(morpho.word, self.quotes), strict=True)
        return any(
            abi.number(allowed, "an authorisation")
            and refused.data[:4] not in {morpho.NOT_PRE_LIQUIDATABLE, morpho.LIQUIDATABLE_POSITION}
            and quote is not None
            and collateral * quote <= MAX_UINT256
            for allowed, refused, quote in contracts
        )
