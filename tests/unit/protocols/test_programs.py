"""How each protocol's liquidations go through the executor, and what they leave of the position."""

from dataclasses import replace

import pytest

from keeper.domain.abi import address_word, number_word
from keeper.domain.position import Opportunity
from keeper.domain.program import ALL, StepKind
from keeper.domain.units import BPS, NATIVE, RAY, WAD, Address, TokenAmount
from keeper.protocols.aave_v3 import programs as aave_programs
from keeper.protocols.aave_v3 import rules as aave_rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, StableDebt
from keeper.protocols.compound_v2 import programs as compound_programs
from keeper.protocols.compound_v2 import rules as compound_rules
from keeper.protocols.compound_v2.contracts import CompoundSnapshot, Entry, Vai, VaiDebt
from keeper.protocols.morpho_blue import programs as morpho_programs
from keeper.protocols.morpho_blue import rules as morpho_rules
from tests.unit.protocols import test_compound_v2_rules as compound
from tests.unit.protocols.aave_v3 import market as aave
from tests.unit.protocols.morpho_blue import market as morpho

INDEX = RAY + 3 * 10**26 + 7


def aave_case(
    revision: int, *, owed: int = 8_200, held: int = 10_000
) -> tuple[AavePosition, AaveSnapshot, Opportunity]:
    reserves = [
        aave.reserve(0, liquidity_index_ray=INDEX, borrow_index_ray=INDEX),
        aave.reserve(1, decimals=6, liquidity_index_ray=INDEX, borrow_index_ray=INDEX),
    ]
    market = aave.snapshot(revision, reserves)
    position = aave.position({0: held * 10**18}, {1: owed * 10**6})
    (found,) = aave_rules.assess(position, market, aave.NOW, None).opportunities
    return position, market, found


def test_aave_is_one_call_that_brings_the_token_itself():
    _, market, found = aave_case(10)
    (step,) = aave_programs.steps(found, market)
    assert (step.kind, step.target, step.give, step.take) == (
        StepKind.LIQUIDATE_AAVE,
        aave.POOL,
        aave.asset(1),
        aave.asset(0),
    )
    assert (step.amount, step.limit, step.data) == (found.repay_limit, 0, address_word(aave.BORROWER))
    assert aave_programs.proceeds(found, market) == (aave.asset(0), found.seized_amount)
    assert aave_programs.permits(market) == {(aave.POOL, StepKind.LIQUIDATE_AAVE)}


@pytest.mark.parametrize(("revision", "is_directed"), [(1, False), (8, False), (9, True), (11, True)])
def test_aave_burns_what_is_paid_and_seized_in_its_generations_rounding(revision: int, *, is_directed: bool):
    position, market, found = aave_case(revision)
    left = aave_programs.after(position, market, found)
    assert left is not None

    def scaled(amount: int) -> int:
        return -(-amount * RAY // INDEX) if is_directed else (amount * RAY + INDEX // 2) // INDEX

    burnt = found.repay_amount * RAY // INDEX if is_directed else scaled(found.repay_amount)
    taken = scaled(found.seized_amount) + scaled(found.protocol_fee_amount)
    assert found.protocol_fee_amount > 0
    assert left == replace(position, collateral=((0, 10_000 * 10**18 - taken),), debt=((1, 8_200 * 10**6 - burnt),))
    factor = aave_rules.health(left, market, aave.NOW).health_factor_wad
    assert factor > aave_rules.health(position, market, aave.NOW).health_factor_wad


def test_aave_leaves_nothing_to_follow_where_all_collateral_or_all_debt_is_gone():
    position, market, found = aave_case(10, owed=20_000)
    assert found.seized_amount + found.protocol_fee_amount == 10_000 * 10**18 * INDEX // RAY
    assert aave_programs.after(position, market, found) is None
    position, market, found = aave_case(10, owed=1_000, held=1_200)
    assert found.repay_amount == -(-1_000 * 10**6 * INDEX // RAY)
    assert aave_programs.after(position, market, found) is None


def test_aave_debt_at_the_accounts_own_rate_is_not_followed():
    position, market, found = aave_case(1)
    stable = replace(position, stable_debt=(StableDebt(1, 10**6, 0, aave.NOW_S),))
    assert aave_programs.after(position, market, found) is not None
    assert aave_programs.after(stable, market, found) is None


def compound_market(**changes: object) -> CompoundSnapshot:
    return replace(compound.snapshot([compound.ctoken(0), compound.ctoken(1)]), **changes)  # type: ignore[arg-type]


HELD = compound.position(Entry(0, 0, 8 * 10**20, WAD), Entry(1, 5 * 10**12, 0, WAD))


def compound_opportunity(market: CompoundSnapshot) -> Opportunity:
    (found,) = compound_rules.assess(HELD, market, compound.NOW, None).opportunities
    return found


def test_compound_is_a_call_and_a_redemption_of_all_receipts():
    market = compound_market()
    found = compound_opportunity(market)
    call, redemption = compound_programs.steps(found, market)
    assert (call.kind, call.target) == (StepKind.LIQUIDATE_COMPOUND, market.tokens[0].receipt.address)
    assert (call.give, call.take) == (market.tokens[0].underlying.address, market.tokens[1].receipt.address)
    assert (call.amount, call.data) == (found.repay_limit, address_word(Address(compound.ACCOUNT)))
    assert (redemption.kind, redemption.amount) == (StepKind.REDEEM_COMPOUND, ALL)
    assert redemption.target == redemption.give == market.tokens[1].receipt.address
    assert redemption.take == market.tokens[1].pays.address
    token, amount = compound_programs.proceeds(found, market)
    assert (token, amount) == (market.tokens[1].pays.address, found.seized_amount * 2 * 10**26 // WAD)
    assert compound_programs.permits(market) == {
        (each.receipt.address, kind)
        for each in market.tokens.values()
        for kind in (StepKind.LIQUIDATE_COMPOUND, StepKind.REDEEM_COMPOUND)
    }


def test_venus_goes_through_its_liquidator_and_redeeming_costs_the_treasurys_share():
    market = compound_market(kind="venus", liquidator=compound.LIQUIDATOR_CONTRACT, redeem_fee_wad=10**15)
    found = compound_opportunity(market)
    call, _ = compound_programs.steps(found, market)
    borrowed = address_word(market.tokens[0].receipt.address)
    assert (call.kind, call.target) == (StepKind.LIQUIDATE_VENUS, compound.LIQUIDATOR_CONTRACT)
    assert call.data == borrowed + address_word(Address(compound.ACCOUNT))
    whole = found.seized_amount * 2 * 10**26 // WAD
    assert compound_programs.proceeds(found, market)[1] == whole - whole // 1_000
    assert (compound.LIQUIDATOR_CONTRACT, StepKind.LIQUIDATE_VENUS) in compound_programs.permits(market)


def test_a_native_cether_pays_native_currency():
    token = compound.ctoken(1)
    native = replace(
        token, underlying=replace(token.underlying, address=NATIVE), pays=replace(token.pays, address=NATIVE)
    )
    market = compound.snapshot([compound.ctoken(0), native])
    found = compound_opportunity(market)
    assert compound_programs.steps(found, market)[1].take == NATIVE
    assert compound_programs.proceeds(found, market)[0] == NATIVE


@pytest.mark.parametrize("changes", [{"cash": 10**15}, {"is_redeeming_paused": True}])
def test_receipts_that_cannot_be_redeemed_bring_nothing(changes: dict[str, int]):
    market = compound.snapshot([compound.ctoken(0), compound.ctoken(1, **changes)])
    assert compound_programs.proceeds(compound_opportunity(market), market)[1] == 0


def test_compound_leaves_the_debt_less_the_payment_and_the_receipts_less_all_that_is_seized():
    tokens = [compound.ctoken(each, seize_share_wad=28 * 10**15, accrued=compound.NOW.block - 1_000) for each in (0, 1)]
    market = compound.snapshot(tokens)
    found = compound_opportunity(market)
    left = compound_programs.after(HELD, market, found)
    assert left is not None
    index = tokens[0].accrue(compound.NOW).borrow_index
    debt, collateral = left.entries
    assert (debt.debt, debt.index) == (8 * 10**20 * index // WAD - found.repay_amount, index)
    assert collateral.receipts == 5 * 10**12 - found.seized_amount - found.protocol_fee_amount
    assert found.protocol_fee_amount > 0


def test_a_debt_in_vai_is_not_followed():
    vai = Vai(compound.ctoken(0).underlying, Address(b"\x51" * 20), WAD, 0, compound.NOW.block, False, None)
    market = compound_market(kind="venus", liquidator=compound.LIQUIDATOR_CONTRACT, vai=vai)
    held = replace(HELD, entries=HELD.entries[1:], vai=VaiDebt(9 * 10**20, 0, WAD))
    (found,) = compound_rules.assess(held, market, compound.NOW, None).opportunities
    assert compound_programs.after(held, market, found) is None


def test_morpho_is_a_door_that_says_what_to_seize():
    pair = morpho.pair()
    market = morpho.snapshot([pair])
    held = morpho.position(pair, 1_800 * 10**12, 10**18)
    (found,) = morpho_rules.assess(held, market, morpho.NOW, None).opportunities
    (step,) = morpho_programs.steps(found, market)
    assert (step.kind, step.target) == (StepKind.LIQUIDATE_MORPHO, morpho.ROOT)
    assert (step.give, step.take) == (morpho.LOAN.address, morpho.COLLATERAL.address)
    assert (step.amount, step.limit) == (found.repay_limit, 0)
    assert step.data == pair.params.encoded + address_word(morpho.BORROWER) + found.terms[-64:]
    assert morpho_programs.proceeds(found, market) == (morpho.COLLATERAL.address, found.seized_amount)


def test_a_pre_liquidation_is_a_door_of_its_own_contract():
    pair = morpho.pair()
    contract = morpho.contract(pair)
    market = morpho.snapshot([pair], [contract])
    held = morpho.position(pair, 1_680 * 10**12, 10**18, contract)
    (found,) = morpho_rules.assess(held, market, morpho.NOW, None).opportunities
    (step,) = morpho_programs.steps(found, market)
    assert (step.kind, step.target) == (StepKind.PRE_LIQUIDATE_MORPHO, contract.address)
    assert step.data == address_word(morpho.BORROWER) + found.terms[-64:]
    assert step.data[32:64] == number_word(0)
    assert morpho_programs.permits(market) == {
        (morpho.ROOT, StepKind.LIQUIDATE_MORPHO),
        (contract.address, StepKind.PRE_LIQUIDATE_MORPHO),
    }


def test_a_redemption_is_of_what_two_liquidations_bring_together():
    market = compound_market()
    found = compound_opportunity(market)
    both = replace(found, seized_amount=TokenAmount(2 * found.seized_amount))
    single = compound_programs.proceeds(found, market)[1]
    assert 0 <= compound_programs.proceeds(both, market)[1] - 2 * single <= BPS
