"""Compound v2's arithmetic: exact integers, the contracts' truncations in the contracts' order, dialects as data.

Why the screen never misses. A pair of debt and collateral is liquidatable if and only if, in US dollars with 18
decimals, `sum(C) < sum(D)`, where the pair's two cTokens are brought up to the moment and the others are as stored.
*Collateral.* `C = f * receipts // 1e18` with `f = (threshold*rate//1e18)*price//1e18`. A rate never falls by accruing, so
`C > f*receipts/1e18 - 1` with the factor f of the stored rate, computed as the contract does: that is the column's weight,
with a slack of 1. *Debt.* `D = price*debt//1e18`, and what was read as B at the index I is at any index up to the
moment's J less than `(B+1)*J/I`. The row holds `ceil((B+1)*1e36/I)`, the weight is `-price*J/1e54`: never less than D.
*VAI* is at most `minted + n*(X-k)/1e18` at the moment's index X, with `n = minted - interest`; the row's three entries
`minted`, `n`, `n*k//1e18` with weights `-1`, `-X/1e18`, `+1` add up to at least that, negated.
Hence liquidatable implies `m < slack`. A debt that anybody may liquidate gets a slack beyond any margin. What has no price
counts for nothing: the contract refuses its holders, so none of them can be missed.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from keeper.domain.chain import Moment
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import MAX_UINT256, NATIVE, WAD, Address, Base, Column, PositionId, TokenAmount, Wad
from keeper.errors import Invalid
from keeper.protocols.compound_v2.contracts import (
    PROFILES,
    VAI_ID,
    CompoundPosition,
    CompoundSnapshot,
    CToken,
    Entry,
    Kind,
    Terms,
)

_BASE_WAD: Final = 10**10
_BASE_PRICE: Final = 10**28
_SCALE: Final = 10**36
_BEYOND_ANY_MARGIN: Final = 2**200
_COLLATERAL, _DEBT, _VAI_MINTED, _VAI_NEW, _VAI_INDEX, _FORCED = range(6)
_VAI_SIDES: Final = (_VAI_MINTED, _VAI_NEW, _VAI_INDEX)
_NO_TERMS: Final = Terms(0, 0)
_OBSTACLES: Final = (  # of several, the first is named
    Reason.INSUFFICIENT_INVENTORY,
    Reason.DUST_RULE,
    Reason.PRICE_UNKNOWN,
    Reason.PAUSED,
    Reason.NO_COLLATERAL,
)


@dataclass(frozen=True, slots=True)
class Leg:
    """An account's entry in one cToken: as it is stored, and brought up to the moment. Values are in wads of dollars."""

    stored: CToken
    fresh: CToken
    terms: Terms
    receipts: int
    owed: int
    collateral: int
    debt: int
    gain: int
    """How much the margin grows when the cToken is brought up to the moment; mostly negative."""
    is_priced: bool
    is_forced: bool
    is_entered: bool = True

    @property
    def held(self) -> int:
        """Return the deposit with interest."""
        return self.receipts * self.fresh.exchange_rate // WAD


@dataclass(frozen=True, slots=True)
class Case:
    """An account with all that decides about it: `margin` is as stored, `vai` is at the moment, by `vai_gain` more."""

    legs: tuple[Leg, ...]
    vai: int
    vai_gain: int
    margin: int
    is_priced: bool
    is_vai_forced: bool = False

    @property
    def debts(self) -> list[Leg | None]:
        """Return what is owed; None stands for VAI."""
        owed: list[Leg | None] = [each for each in self.legs if each.owed]
        return [*owed, None] if self.vai else owed

    def is_forced(self, debt: Leg | None) -> bool:
        """Return whether all of a debt may be liquidated without a shortfall."""
        return self.is_vai_forced if debt is None else debt.is_forced

    def is_legal(self, debt: Leg | None, collateral: Leg | None) -> bool:
        """Return whether the comptroller lets the pair be liquidated (`liquidateBorrowAllowed`)."""
        if self.is_forced(debt):
            return True
        touched = [each for each in (debt, None if collateral is debt else collateral) if each is not None]
        gain = sum(each.gain for each in touched) + (self.vai_gain if debt is None else 0)
        return self.is_priced and self.margin + gain < 0

    @property
    def health(self) -> Health:
        """Return the figures as stored, which `getAccountLiquidity` is made of, and whether any pair is legal."""
        seizable: list[Leg | None] = [each for each in self.legs if each.receipts]
        weighted = sum(each.collateral for each in self.legs)
        debt, collateral = weighted - self.margin, [each for each in self.legs if each.receipts and each.is_entered]
        return Health(
            health_factor_wad=Wad(weighted * WAD // debt if debt > 0 else MAX_UINT256),
            collateral_base=Base(
                sum(_base(each.stored, each.receipts * each.stored.exchange_rate // WAD) for each in collateral)
            ),
            debt_base=Base(max(0, debt) // _BASE_WAD),
            is_liquidatable=any(self.is_legal(one, other) for one in self.debts for other in seizable or [None]),
            collateral=tuple(_holding(each.fresh, each.held) for each in collateral),
            debt=tuple(_holding(each.fresh, each.owed) for each in self.legs if each.owed),
        )


def pool_terms(core: Terms, own: Terms | None, *, is_active: bool, falls_back: bool) -> Terms:
    """Return what counts for a cToken in a pool, by the terms of the core and, if it is in the pool, its own.

    Source: MarketFacet.getLiquidationParams, venus-protocol 10.3.
    """
    return core if not is_active or (own is None and falls_back) else own or _NO_TERMS


def leg(stored: CToken, fresh: CToken, before: Entry, after: Entry, terms: Terms, *, is_forced: bool) -> Leg:
    """Value an entry by a cToken as stored and as brought up to a moment.

    Source: Comptroller.getHypotheticalAccountLiquidityInternal; ComptrollerLens._calculateAccountPosition (Venus).
    """
    then, now = before.owed(stored.borrow_index), after.owed(fresh.borrow_index)
    price = stored.price or 0
    collateral, debt = _collateral_factor(stored, terms) * before.receipts // WAD, price * then // WAD
    gain = _collateral_factor(fresh, terms) * after.receipts // WAD - price * now // WAD - collateral + debt
    is_priced = stored.price is not None
    amounts = before.receipts, now, collateral, debt, gain
    return Leg(stored, fresh, terms, *amounts, is_priced, is_forced, before.is_entered)


def case(
    legs: Sequence[Leg], kind: Kind, vai: tuple[int, int], margin: int | None = None, *, is_vai_forced: bool = False
) -> Case:
    """Put an account's legs together; `vai` is the debt in VAI, as stored and at the moment, `margin` what the chain says.

    Source: Comptroller.getHypotheticalAccountLiquidityInternal; ComptrollerLens._calculateAccountPosition (Venus).
    """
    needs_every_price = PROFILES[kind].needs_every_price
    counted = [each for each in legs if each.is_entered and (needs_every_price or each.receipts or each.owed)]
    own = sum(each.collateral - each.debt for each in legs) - vai[0]
    is_priced = all(each.is_priced for each in counted)
    return Case(tuple(legs), vai[1], vai[0] - vai[1], own if margin is None else margin, is_priced, is_vai_forced)


def row(position: CompoundPosition, _snapshot: CompoundSnapshot) -> Row:
    """Return the position's receipts and debts by column, as this module's docstring says.

    Source: Comptroller.getHypotheticalAccountLiquidityInternal; ComptrollerLens._calculateAccountPosition (Venus).
    """
    found: list[tuple[Column, int]] = []
    for each in position.entries:
        if each.receipts and each.is_entered:
            found.append((_column(each.token, position.pool, _COLLATERAL), each.receipts))
        if each.debt:
            found.append((_column(each.token, 0, _DEBT), div_up((each.debt + 1) * _SCALE, each.index)))
    if position.vai is not None:
        new = position.vai.minted - position.vai.interest
        parts = (position.vai.minted, new, new * position.vai.index // WAD)
        found += [(_column(0, 0, side), part) for side, part in zip(_VAI_SIDES, parts, strict=True) if part]
    if position.forced:
        found.append((_column(0, 0, _FORCED), 1))
    return tuple(found)


def weights(snapshot: CompoundSnapshot, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
    """Return the columns' factors at a moment, with the bounds that this module's docstring proves.

    Source: Comptroller.getHypotheticalAccountLiquidityInternal; ComptrollerLens._calculateAccountPosition (Venus).
    """
    return {column: _weight(snapshot, column, at) for column in columns}


def health(position: CompoundPosition, snapshot: CompoundSnapshot, at: Moment) -> Health:
    """Value the position as the comptroller does, from stored state; liquidatable if any pair is at the moment.

    Source: Comptroller.getAccountLiquidity, Comptroller.liquidateBorrowAllowed, by dialect.
    """
    return _case(position, snapshot, at).health


def assess(
    position: CompoundPosition, snapshot: CompoundSnapshot, at: Moment, budget: Mapping[Address, TokenAmount] | None
) -> Assessment:
    """Return the largest legal liquidation of every pair of debt and collateral, the most profitable first.

    Source: CToken.liquidateBorrowFresh, Comptroller.liquidateBorrowAllowed, liquidateCalculateSeizeTokens;
    Liquidator.liquidateBorrow (Venus).
    """
    whole = _case(position, snapshot, at)
    valued = whole.health
    if not valued.is_liquidatable:
        return Assessment(valued, (), Reason.NOT_LIQUIDATABLE if whole.is_priced else Reason.PRICE_UNKNOWN)
    pairs = [
        _Pair(snapshot, position, whole, debt, collateral, at)
        for debt in whole.debts
        for collateral in whole.legs
        if collateral.receipts and whole.is_legal(debt, collateral)
    ]
    verdicts = [pair.obstacle or pair.opportunity(budget) for pair in pairs]
    found = [each for each in verdicts if isinstance(each, Opportunity)]
    found.sort(key=lambda each: (-each.gross_profit_base, each.repay.address, each.seize.address))
    refused = {Reason.NO_COLLATERAL, *(each for each in verdicts if not isinstance(each, Opportunity))}
    return Assessment(valued, tuple(found), None if found else min(refused, key=_OBSTACLES.index))


def settlements(
    owner: Address, held: Mapping[Address, TokenAmount], snapshot: CompoundSnapshot, at: Moment
) -> Sequence[Opportunity]:
    """Return how to redeem receipts: all of them, or as many as the cToken surely has cash for.

    Venus may pay its reserves out of the cash just before, so they are not counted on.
    Source: CToken.redeemFresh, all versions.
    """
    found = []
    for stored in snapshot.tokens.values():
        token = stored.accrue(at)
        cash = max(0, token.cash - (token.reserves if snapshot.kind == "venus" else 0))
        covered = ((cash + 1) * WAD - 1) // token.exchange_rate if token.exchange_rate else 0
        receipts = min(held.get(token.receipt.address, 0), covered)
        amount = _redeemed(snapshot, token, receipts)
        if amount and not token.is_redeeming_paused and token.price is not None:
            value = _base(token, amount)
            found.append(
                Opportunity(
                    key=PositionKey(snapshot.market, PositionId(owner + token.receipt.address)),
                    repay=token.receipt,
                    repay_amount=TokenAmount(receipts),
                    repay_limit=TokenAmount(receipts),
                    repay_base=Base(div_up(value * 99, 100)),
                    seize=token.pays,
                    seized_amount=TokenAmount(amount),
                    seized_base=value,
                    protocol_fee_amount=TokenAmount(receipts * token.exchange_rate // WAD - amount),
                    spender=None,
                    target=token.receipt.address,
                    at=at,
                    action=Action.SETTLE,
                )
            )
    return found


@dataclass(frozen=True, slots=True)
class _Pair:
    """One debt to repay (None: VAI) for one collateral."""

    snapshot: CompoundSnapshot
    position: CompoundPosition
    case: Case
    debt: Leg | None
    collateral: Leg
    at: Moment

    @property
    def obstacle(self) -> Reason | None:
        """Return what forbids any amount (`seizeAllowed`, `Liquidator._checkForceVAILiquidate`)."""
        vai, debt = self.snapshot.vai, self.debt
        stored = self.case.vai + self.case.vai_gain
        comes_first = vai is not None and vai.first_from is not None and stored >= vai.first_from
        if self.position.is_restricted or self.collateral.stored.is_seizing_paused:
            return Reason.PAUSED
        if debt is None:
            is_open = vai is not None and not vai.is_paused and self.snapshot.liquidator is not None
            return None if is_open else Reason.PAUSED
        if debt.stored.is_liquidation_paused or (comes_first and not debt.stored.is_forced):
            return Reason.PAUSED
        return None if debt.is_priced and self.collateral.is_priced else Reason.PRICE_UNKNOWN

    @property
    def terms(self) -> tuple[Token, int, int, Address]:
        """Return what is to be paid with, its price, how much of it is owed, and to which contract."""
        vai, debt = self.snapshot.vai, self.debt
        if debt is not None:
            return debt.stored.underlying, debt.stored.price or 0, debt.owed, debt.stored.receipt.address
        if vai is None:
            raise Invalid(f"0x{self.position.id.hex()} owes VAI where there is none")
        return vai.token, WAD, self.case.vai, vai.controller

    @property
    def ratio(self) -> int:
        """Return the receipts to be seized for a unit repaid, as a wad (`liquidateCalculateSeizeTokens`).

        VAI and vBNB, which is not upgraded, do not tell whose collateral it is: then the core pool's terms count.
        """
        terms = self.collateral.terms
        if self.debt is None or self.debt.stored.underlying.address == NATIVE:
            terms = self.snapshot.terms.get((0, self.collateral.stored.id), _NO_TERMS)
        divisor = (self.collateral.fresh.price or 0) * self.collateral.fresh.exchange_rate // WAD
        return (terms.incentive_wad * self.terms[1] // WAD) * WAD // divisor if divisor else 0

    def seized(self, cover: int) -> tuple[int, int]:
        """Return the receipts that the borrower loses, and those that the liquidator gets."""
        repaid, vai, incentive = cover, self.snapshot.vai, self.collateral.terms.incentive_wad
        if self.debt is None and vai is not None and self.position.vai is not None:
            repaid = self.position.vai.repaid(vai.index_at(self.at), cover)
        gross = self.ratio * repaid // WAD
        net = gross - gross * self.collateral.fresh.seize_share_wad // WAD
        if self.snapshot.liquidator is not None and incentive >= WAD:
            net -= (net * (incentive - WAD) // incentive) * self.snapshot.treasury_share_wad // WAD
        return gross, net

    def opportunity(self, budget: Mapping[Address, TokenAmount] | None) -> Opportunity | Reason:
        """Return all that is legal and affordable of this pair."""
        token, price, whole, borrowed = self.terms
        funds = whole if budget is None else budget.get(token.address, TokenAmount(0))
        cap = whole if self.case.is_forced(self.debt) else self.snapshot.close_factor_wad * whole // WAD
        if (ratio := self.ratio) == 0 or cap == 0:
            return Reason.DUST_RULE
        if funds <= 0:
            return Reason.INSUFFICIENT_INVENTORY
        cover = min(cap, funds, ((self.collateral.receipts + 1) * WAD - 1) // ratio)
        gross, net = self.seized(cover)
        if net == 0:
            return Reason.DUST_RULE
        through, fresh = self.snapshot.liquidator, self.collateral.fresh
        return Opportunity(
            key=PositionKey(self.snapshot.market, self.position.id),
            repay=token,
            repay_amount=TokenAmount(cover),
            repay_limit=TokenAmount(cover),
            repay_base=Base(div_up(cover * price, _BASE_PRICE)),
            seize=fresh.receipt,
            seized_amount=TokenAmount(net),
            seized_base=_base(fresh, _redeemed(self.snapshot, fresh, net)),
            protocol_fee_amount=TokenAmount(gross - net),
            spender=None if token.address == NATIVE else through or borrowed,
            target=through or borrowed,
            at=self.at,
            terms=b"" if through is None else borrowed,
        )


def _case(position: CompoundPosition, snapshot: CompoundSnapshot, at: Moment) -> Case:
    legs = []
    for each in position.entries:
        if (stored := snapshot.tokens.get(each.token)) is not None:
            terms = snapshot.terms.get((position.pool, each.token), _NO_TERMS)
            terms = terms if each.is_entered else Terms(0, terms.incentive_wad)
            is_forced = stored.is_forced or each.token in position.forced
            fresh = stored.accrue(at)
            legs.append(leg(stored, fresh, each, each, terms, is_forced=is_forced))
    vai, owed = snapshot.vai, position.vai
    if vai is None or owed is None:
        return case(legs, snapshot.kind, (0, 0))
    stored_and_now = owed.owed(vai.index - vai.lag), owed.owed(vai.index_at(at))
    return case(legs, snapshot.kind, stored_and_now, is_vai_forced=vai.is_forced or VAI_ID in position.forced)


def _weight(snapshot: CompoundSnapshot, column: Column, at: Moment) -> Weight:
    side, pool, token = column & 7, column >> 32, snapshot.tokens.get(column >> 3 & 0xFFFF)
    if side == _FORCED:
        return Weight(0, 1, _BEYOND_ANY_MARGIN)
    if side in _VAI_SIDES:
        index = snapshot.vai.index_at(at) if snapshot.vai is not None else 0
        slack = _BEYOND_ANY_MARGIN if snapshot.vai is not None and snapshot.vai.is_forced else 0
        return Weight({_VAI_MINTED: -WAD, _VAI_NEW: -index, _VAI_INDEX: WAD}[side], WAD, slack)
    if token is None or token.price is None:
        return Weight(0, 1, 0)
    if side == _COLLATERAL:
        factor = _collateral_factor(token, snapshot.terms.get((pool, token.id), _NO_TERMS))
        return Weight(factor, WAD, 1) if factor else Weight(0, 1, 0)
    index = token.accrue(at).borrow_index
    return Weight(-token.price * index, WAD * _SCALE, _BEYOND_ANY_MARGIN if token.is_forced else 0)


def _column(token: int, pool: int, side: int) -> Column:
    return Column(pool << 32 | token << 3 | side)


def _collateral_factor(token: CToken, terms: Terms) -> int:
    """Return what a receipt weighs as collateral (`tokensToDenom`)."""
    return (terms.threshold_wad * token.exchange_rate // WAD) * (token.price or 0) // WAD


def _redeemed(snapshot: CompoundSnapshot, token: CToken, receipts: int) -> int:
    """Return what redeeming receipts brings, after the treasury's share (`redeemFresh`)."""
    amount = receipts * token.exchange_rate // WAD
    return amount - amount * snapshot.redeem_fee_wad // WAD


def _base(token: CToken, amount: int) -> Base:
    return token.value_base(amount) or Base(0)


def _holding(token: CToken, amount: int) -> Holding:
    return Holding(token.underlying, TokenAmount(amount), _base(token, amount))
