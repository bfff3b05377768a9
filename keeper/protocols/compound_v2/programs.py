"""How a liquidation goes through the executor, and what it leaves of the position."""

from dataclasses import replace

from keeper.domain.abi import address_word
from keeper.domain.position import Opportunity
from keeper.domain.program import Step, StepKind
from keeper.domain.units import WAD, Address, TokenAmount
from keeper.protocols.compound_v2.contracts import CompoundPosition, CompoundSnapshot, CToken


def steps(opportunity: Opportunity, snapshot: CompoundSnapshot) -> tuple[Step, ...]:
    """Return the liquidation, by Venus' Liquidator where there is one, and the redemption of all receipts."""
    repay, seize, through = opportunity.repay.address, opportunity.seize.address, snapshot.liquidator is not None
    who = address_word(opportunity.key.account)
    liquidation = Step(
        StepKind.LIQUIDATE_VENUS if through else StepKind.LIQUIDATE_COMPOUND,
        opportunity.target,
        repay,
        seize,
        opportunity.repay_limit,
        data=address_word(Address(opportunity.terms)) + who if through else who,
    )
    pays = _collateral(opportunity, snapshot).pays.address
    return (liquidation, Step(StepKind.REDEEM_COMPOUND, seize, seize, pays))


def proceeds(opportunity: Opportunity, snapshot: CompoundSnapshot) -> tuple[Address, TokenAmount]:
    """Return what redeeming the seized receipts pays; nothing where the cToken does not have that much cash, or is paused.

    Venus may pay its reserves out of the cash just before, so they are not counted on.
    Source: CToken.redeemFresh, all versions.
    """
    token = _collateral(opportunity, snapshot).accrue(opportunity.at)
    cash = max(0, token.cash - (token.reserves if snapshot.kind == "venus" else 0))
    whole = opportunity.seized_amount * token.exchange_rate // WAD
    if whole > cash or token.is_redeeming_paused:
        return token.pays.address, TokenAmount(0)
    return token.pays.address, TokenAmount(whole - whole * snapshot.redeem_fee_wad // WAD)


def permits(snapshot: CompoundSnapshot) -> frozenset[tuple[Address, StepKind]]:
    """Return every cToken, to be redeemed and, where no Liquidator stands between, to be liquidated."""
    receipts = [each.receipt.address for each in snapshot.tokens.values()]
    redeemed = {(each, StepKind.REDEEM_COMPOUND) for each in receipts}
    if snapshot.liquidator is not None:
        return frozenset({*redeemed, (snapshot.liquidator, StepKind.LIQUIDATE_VENUS)})
    return frozenset({*redeemed, *((each, StepKind.LIQUIDATE_COMPOUND) for each in receipts)})


def after(position: CompoundPosition, snapshot: CompoundSnapshot, opportunity: Opportunity) -> CompoundPosition | None:
    """Return the position as the liquidation leaves it, or None where it leaves no such debt or collateral.

    A debt is known to within a unit or two; the lower end is taken. A debt in VAI is not followed.
    Source: CToken.repayBorrowFresh, CToken.seizeInternal, all versions.
    """
    borrowed = opportunity.terms or opportunity.target
    debt = next((each for each in snapshot.tokens.values() if each.receipt.address == borrowed), None)
    if debt is None:
        return None
    collateral, gross = _collateral(opportunity, snapshot), opportunity.seized_amount + opportunity.protocol_fee_amount
    entries, owed, held = [], 0, 0
    for each in position.entries:
        if each.token not in {debt.id, collateral.id}:
            entries.append(each)
            continue
        index = snapshot.tokens[each.token].accrue(opportunity.at).borrow_index
        left = each.owed(index) - (opportunity.repay_amount if each.token == debt.id else 0)
        receipts = each.receipts - (gross if each.token == collateral.id else 0)
        owed, held = (left if each.token == debt.id else owed), (receipts if each.token == collateral.id else held)
        entries.append(replace(each, receipts=receipts, debt=left, index=index))
    return replace(position, entries=tuple(entries)) if owed > 0 and held > 0 else None


def _collateral(opportunity: Opportunity, snapshot: CompoundSnapshot) -> CToken:
    return next(each for each in snapshot.tokens.values() if each.receipt.address == opportunity.seize.address)
