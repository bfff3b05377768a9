"""Compound v2's rules: values that the genuine contracts computed in an EVM, and what dialects differ in."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.chain import BlockHead, Moment
from keeper.domain.outcome import Reason
from keeper.domain.position import Action, Assessment, Opportunity, Token
from keeper.domain.units import NATIVE, WAD, Address, BlockHash, PositionId, TokenAmount, Wei
from keeper.protocols.compound_v2 import rules
from keeper.protocols.compound_v2.contracts import (
    VAI_ID,
    CompoundPosition,
    CompoundSnapshot,
    CToken,
    Entry,
    Kind,
    Terms,
    Vai,
    VaiDebt,
)

VECTORS = json.loads((Path(__file__).parent / "test_compound_v2_vectors.json").read_text(encoding="utf-8"))
WHOLE = [each for each in VECTORS if each["function"] == "c2_accrue+c2_liquidity+c2_seize"]
SEIZE = [each for each in VECTORS if each["function"] == "c2_seize"]
NOW = Moment(19_000_000, 1_700_000_000)
ACCOUNT = PositionId(bytes([7]) * 20)
LIQUIDATOR_CONTRACT = Address(bytes([9]) * 20)


def address(number: int) -> Address:
    return Address(number.to_bytes(20, "big"))


def head(at: Moment = NOW) -> BlockHead:
    return BlockHead(
        at.block, BlockHash(b"h" * 32), BlockHash(b"p" * 32), at.time_s, Wei(10**9), 30_000_000, bytes(256)
    )


def ctoken(number: int, **changes: Any) -> CToken:
    """Return a cToken of a token with 18 decimals, worth a dollar, brought up to `NOW`, one cToken being 0.02 of it."""
    underlying = Token(address(100 + number), f"T{number}", 18)
    made = CToken(
        id=number,
        receipt=Token(address(200 + number), f"c{number}", 8),
        underlying=underlying,
        pays=underlying,
        price=WAD,
        cash=10**24,
        borrows=10**24,
        reserves=0,
        supply=10**16,
        borrow_index=WAD,
        accrued=NOW.block,
        is_per_second=False,
        borrow_rate=10**10,
        reserve_factor_wad=WAD // 10,
        exchange_rate=2 * 10**26,
        seize_share_wad=0,
    )
    return replace(made, **changes)


def snapshot(tokens: list[CToken], *, kind: Kind = "compound", **changes: Any) -> CompoundSnapshot:
    made = CompoundSnapshot(
        market="m",
        kind=kind,
        head=head(),
        close_factor_wad=WAD // 2,
        tokens={each.id: each for each in tokens},
        terms={(0, each.id): Terms(WAD * 3 // 4, WAD * 108 // 100) for each in tokens},
        liquidator=None,
        treasury_share_wad=0,
        redeem_fee_wad=0,
        vai=None,
        native_price_base=None,
        payments=(),
    )
    return replace(made, **changes)


def position(*entries: Entry, **changes: Any) -> CompoundPosition:
    return replace(CompoundPosition(ACCOUNT, entries), **changes)


def state(inputs: dict[str, Any]) -> tuple[CompoundPosition, CompoundSnapshot, Moment]:
    tokens = [
        ctoken(
            place,
            price=int(each["price"]),
            cash=int(each["cash"]),
            borrows=int(each["totalBorrows"]),
            reserves=int(each["totalReserves"]),
            supply=int(each["totalSupply"]),
            borrow_index=int(each["borrowIndex"]),
            accrued=int(each["accrualBlock"]),
            borrow_rate=int(each["rate"]),
            reserve_factor_wad=int(each["reserveFactor"]),
            exchange_rate=int(each["er"]),
            seize_share_wad=28 * 10**15,
        )
        for place, each in enumerate(inputs["st"])
    ]
    market = snapshot(
        tokens,
        close_factor_wad=int(inputs["cfac"]),
        terms={(0, place): Terms(int(each["cf"]), int(inputs["li"])) for place, each in enumerate(inputs["st"])},
    )
    entries = [
        Entry(place, int(each["ct"]), int(each["bb"]), int(each["borrowIndex"]))
        for place, each in enumerate(inputs["st"])
    ]
    return position(*entries), market, Moment(int(inputs["block"]), 0)


def pair(found: Assessment, debt: CToken, collateral: CToken) -> Opportunity | None:
    wanted = debt.underlying.address, collateral.receipt.address
    return next((each for each in found.opportunities if (each.repay.address, each.seize.address) == wanted), None)


@pytest.mark.parametrize("vector", WHOLE, ids=lambda each: each["id"])
def test_liquidity_is_the_contracts_as_stored(vector: dict[str, Any]):
    held, market, at = state(vector["inputs"])
    _, liquidity, shortfall = map(int, vector["expected"]["accountLiquidity"])
    valued = rules.health(held, market, at)
    assert (valued.health_factor_wad < WAD) is (shortfall > 0)
    sums = [
        (entry.receipts * ((terms.threshold_wad * token.exchange_rate // WAD) * (token.price or 0) // WAD) // WAD,
         entry.debt * (token.price or 0) // WAD)
        for entry, token, terms in zip(held.entries, market.tokens.values(), market.terms.values(), strict=True)
    ]  # fmt: skip
    assert sum(one - other for one, other in sums) == liquidity - shortfall
    assert valued.debt_base == sum(other for _, other in sums) // 10**10


@pytest.mark.parametrize("vector", WHOLE, ids=lambda each: each["id"])
def test_a_liquidation_moves_what_the_contract_moves_or_is_not_offered(vector: dict[str, Any]):
    inputs, expected = vector["inputs"], vector["expected"]["result"]
    held, market, at = state(inputs)
    debt, collateral, repay = market.tokens[int(inputs["bi"])], market.tokens[int(inputs["ci"])], int(inputs["repay"])
    found = rules.assess(held, market, at, {debt.underlying.address: TokenAmount(repay)})
    chosen = pair(found, debt, collateral)
    if expected["ok"]:
        assert chosen is not None
        assert chosen.repay_amount == chosen.repay_limit == repay
        assert chosen.seized_amount + chosen.protocol_fee_amount == int(expected["ev"][4])
        assert chosen.seized_amount == int(expected["kbal"])
        fresh = debt.accrue(at)
        if debt != collateral:  # whose reserves also take a share of what is seized
            assert [fresh.borrow_index, fresh.reserves] == [int(each) for each in inputs["post"]["b"]]
    else:
        assert chosen is None or chosen.repay_amount < repay


@pytest.mark.parametrize("vector", SEIZE, ids=lambda each: each["id"])
def test_seized_receipts_are_the_contracts(vector: dict[str, Any]):
    inputs = {key: int(value) for key, value in vector["inputs"].items()}
    rate, repay = inputs["exchangeRate"], inputs["repay"]
    debt = ctoken(0, price=inputs["priceBorrowed"], is_forced=True)
    collateral = ctoken(1, price=inputs["priceCollateral"], exchange_rate=rate)
    market = snapshot([debt, collateral], terms={(0, each): Terms(WAD // 2, inputs["incentive"]) for each in (0, 1)})
    held = position(Entry(0, 0, repay, WAD), Entry(1, 10**30, 0, WAD))
    found = rules.assess(held, market, NOW, None).opportunities
    assert [each.seized_amount for each in found] == [int(vector["expected"])]


def test_every_vector_is_used():
    assert (len(VECTORS), len(WHOLE), len(SEIZE)) == (13, 6, 4)


def vector(name: str) -> tuple[dict[str, int], Any]:
    found = next(each for each in VECTORS if each["id"] == name)
    return {key: int(value) for key, value in found["inputs"].items() if isinstance(value, str)}, found["expected"]


def taken(seized: int, *, kind: Kind, share: int = 0, **changes: Any) -> Opportunity:
    """Return a liquidation that seizes so many receipts."""
    debt, collateral = ctoken(0, is_forced=True), ctoken(1, exchange_rate=WAD, seize_share_wad=share)
    market = snapshot([debt, collateral], kind=kind, terms={(0, each): Terms(WAD, WAD * 11 // 10) for each in (0, 1)})
    repay = -(-seized * 10 // 11)
    held = position(Entry(0, 0, repay, WAD), Entry(1, seized, 0, WAD))
    (found,) = rules.assess(held, replace(market, **changes), NOW, None).opportunities
    assert found.seized_amount + found.protocol_fee_amount in {seized, seized - 1}
    return found


def test_venus_liquidator_keeps_a_share_of_the_bonus():
    inputs, (theirs, ours) = vector("venus-split")
    share = inputs["treasuryPercent"]
    found = taken(inputs["seized"], kind="venus", liquidator=LIQUIDATOR_CONTRACT, treasury_share_wad=share)
    assert abs(found.seized_amount - int(theirs)) <= 1
    assert abs(found.protocol_fee_amount - int(ours)) <= 1
    assert (found.target, found.spender, found.terms) == (LIQUIDATOR_CONTRACT, LIQUIDATOR_CONTRACT, address(200))


def test_a_moonwell_token_keeps_a_share_of_what_is_seized():
    inputs, (theirs, ours) = vector("moonwell-seize")
    found = taken(inputs["seize"], kind="moonwell", share=inputs["share"])
    assert abs(found.seized_amount - int(theirs)) <= 1
    assert abs(found.protocol_fee_amount - int(ours)) <= 1
    assert (found.target, found.spender, found.terms) == (address(200), address(200), b"")


def test_liquidity_of_native_collateral_and_a_dollar_debt_is_the_contracts():
    found = next(each for each in VECTORS if each["id"] == "compv2-liquidity")
    tokens, entries, terms = [], [], {}
    for place, each in enumerate(found["inputs"]["assets"]):
        numbers = {key: int(value) for key, value in each.items()}
        tokens.append(ctoken(place, price=numbers["price"], exchange_rate=numbers["exchangeRate"]))
        entries.append(Entry(place, numbers["cTokens"], numbers["borrow"], WAD))
        terms[0, place] = Terms(numbers["cf"], WAD)
    valued = rules.health(position(*entries), snapshot(tokens, terms=terms), NOW)
    expected = {key: int(value) for key, value in found["expected"].items()}
    assert valued.debt_base == expected["sumBorrowPlus"] // 10**10
    assert valued.health_factor_wad == expected["sumCollateral"] * WAD // expected["sumBorrowPlus"]


@given(
    principal=st.integers(1, 10**30),
    first=st.integers(WAD, 3 * WAD),
    growth=st.integers(0, WAD),
    later=st.integers(0, WAD),
)
def test_a_debt_whose_principal_is_unknown_is_bounded_at_every_later_index(
    principal: int, first: int, growth: int, later: int
):
    then, now = first + growth, first + growth + later
    entry = Entry(0, 0, principal * then // first, then)
    true = principal * now // first
    assert entry.owed(now) <= true <= entry.owed(now) + entry.uncertainty(now)
    assert entry.uncertainty(then) == 0
    assert entry.uncertainty(now) <= 1 + now // then


def sinking(**changes: Any) -> tuple[CompoundPosition, CompoundSnapshot]:
    """Return an account with 1,000 dollars of collateral that counts for 750, and a debt of a little more."""
    tokens = [ctoken(0), ctoken(1)]
    held = position(Entry(0, 0, 751 * WAD, WAD), Entry(1, 5 * 10**12, 0, WAD))
    return held, snapshot(tokens, **changes)


def test_only_the_pairs_own_tokens_are_brought_up_to_date():
    idle = ctoken(2, accrued=NOW.block - 10**6, borrow_rate=10**11)
    held, market = sinking()
    held = replace(
        held, entries=(replace(held.entries[0], debt=700 * WAD), held.entries[1], Entry(2, 0, 49 * WAD, WAD))
    )
    market = replace(market, tokens={**market.tokens, 2: idle}, terms={**market.terms, (0, 2): market.terms[0, 0]})
    found = rules.assess(held, market, NOW, None)
    assert {each.repay.symbol for each in found.opportunities} == {"T2"}  # its interest makes the difference
    assert found.health.health_factor_wad > WAD
    assert found.health.is_liquidatable


def test_interest_is_by_the_second_where_the_market_says_so():
    slow, fast = ctoken(0), ctoken(0, accrued=NOW.time_s, is_per_second=True)
    later = Moment(NOW.block + 1, NOW.time_s + 12)
    assert slow.accrue(later).borrow_index == WAD + 10**10
    assert fast.accrue(later).borrow_index == WAD + 12 * 10**10
    assert slow.accrue(NOW) is slow


def test_an_empty_token_without_a_price_matters_only_where_the_contract_asks_for_it():
    held, market = sinking()
    held = replace(held, entries=(*held.entries, Entry(2, 0, 0, WAD)))
    tokens = {**market.tokens, 2: ctoken(2, price=None)}
    assert rules.assess(held, replace(market, tokens=tokens), NOW, None).blocked is Reason.PRICE_UNKNOWN
    assert rules.assess(held, replace(market, tokens=tokens, kind="venus"), NOW, None).opportunities


def test_forced_debt_may_be_repaid_whole_and_needs_no_shortfall():
    held, market = sinking()
    held = replace(held, entries=(replace(held.entries[0], debt=10 * WAD), held.entries[1]))
    assert rules.assess(held, market, NOW, None).blocked is Reason.NOT_LIQUIDATABLE
    (found,) = rules.assess(replace(held, forced=frozenset({0})), market, NOW, None).opportunities
    assert found.repay_amount == 10 * WAD


def test_debt_without_collateral_is_liquidatable_and_blocked():
    held, market = sinking()
    found = rules.assess(replace(held, entries=held.entries[:1]), market, NOW, None)
    assert found.health.is_liquidatable
    assert found.blocked is Reason.NO_COLLATERAL


def test_a_paused_or_restricted_pair_is_blocked_and_named():
    held, market = sinking()
    for paused in (
        replace(market.tokens[0], is_liquidation_paused=True),
        replace(market.tokens[1], is_seizing_paused=True),
    ):
        tokens = {**market.tokens, paused.id: paused}
        assert rules.assess(held, replace(market, tokens=tokens), NOW, None).blocked is Reason.PAUSED
    assert rules.assess(replace(held, is_restricted=True), market, NOW, None).blocked is Reason.PAUSED


def test_native_debt_is_paid_with_native_currency_and_no_allowance():
    held, market = sinking()
    native = Token(NATIVE, "native", 18)
    tokens = {**market.tokens, 0: replace(market.tokens[0], underlying=native, pays=native)}
    (found,) = rules.assess(held, replace(market, tokens=tokens), NOW, {NATIVE: TokenAmount(WAD)}).opportunities
    assert (found.repay.address, found.spender, found.repay_limit) == (NATIVE, None, WAD)


def test_what_cannot_be_afforded_is_said_to_be_so():
    held, market = sinking()
    assert rules.assess(held, market, NOW, {}).blocked is Reason.INSUFFICIENT_INVENTORY


def test_vai_comes_first_where_there_is_much_of_it():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    vai = Vai(Token(address(50), "VAI", 18), address(51), WAD + 10**16, 10**9, NOW.block, False, 100 * WAD)
    market, held = replace(market, vai=vai), replace(held, vai=VaiDebt(99 * WAD, 0, WAD))
    assert {each.repay.symbol for each in rules.assess(held, market, NOW, None).opportunities} == {"T0", "VAI"}
    much = replace(held, vai=VaiDebt(100 * WAD, 0, WAD))
    (found,) = rules.assess(much, market, NOW, None).opportunities
    assert (found.repay.symbol, found.repay_amount, found.terms) == ("VAI", 505 * WAD // 10, address(51))
    paused = replace(market, vai=replace(vai, is_paused=True, first_from=None))
    assert {each.repay.symbol for each in rules.assess(much, paused, NOW, None).opportunities} == {"T0"}


def test_interest_on_vai_that_is_not_stored_makes_vai_liquidatable_and_nothing_else():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    held = replace(held, entries=(replace(held.entries[0], debt=649 * WAD), held.entries[1]))
    held = replace(held, vai=VaiDebt(100 * WAD, 0, WAD))
    vai = Vai(Token(address(50), "VAI", 18), address(51), WAD + 10**16 * 3, 10**9, NOW.block, False, 102 * WAD)
    stale = replace(market, vai=replace(vai, lag=10**16 * 2))
    (found,) = rules.assess(held, stale, NOW, None).opportunities
    assert (found.repay.symbol, found.repay_amount) == ("VAI", 515 * WAD // 10)
    assert rules.health(held, stale, NOW).debt_base == 750 * 10**8
    (found,) = rules.assess(held, replace(market, vai=vai), NOW, None).opportunities
    assert found.repay.symbol == "VAI"  # it comes first now
    late = replace(stale, vai=replace(vai, lag=10**16, first_from=102 * WAD))
    assert {each.repay.symbol for each in rules.assess(held, late, NOW, None).opportunities} == {"VAI"}
    some = replace(stale, vai=replace(vai, lag=10**16, first_from=103 * WAD))
    assert {each.repay.symbol for each in rules.assess(held, some, NOW, None).opportunities} == {"T0", "VAI"}


def test_forced_debt_in_vai_may_be_repaid_whole_and_needs_no_shortfall():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    vai = Vai(Token(address(50), "VAI", 18), address(51), WAD, 10**9, NOW.block, False, None)
    held = replace(held, entries=held.entries[1:], vai=VaiDebt(100 * WAD, 0, WAD))
    market = replace(market, vai=vai)
    assert rules.assess(held, market, NOW, None).blocked is Reason.NOT_LIQUIDATABLE
    chosen, all_of_it = replace(held, forced=frozenset({VAI_ID})), replace(market, vai=replace(vai, is_forced=True))
    for position_, market_ in ((chosen, market), (held, all_of_it)):
        (found,) = rules.assess(position_, market_, NOW, None).opportunities
        assert (found.repay.symbol, found.repay_amount) == ("VAI", 100 * WAD)
        row = dict(rules.row(position_, market_))
        assert any(each.slack > 2**150 for each in rules.weights(market_, row.keys(), NOW).values())


def test_vai_comes_before_a_debt_that_is_forced_for_its_account_alone():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    vai = Vai(Token(address(50), "VAI", 18), address(51), WAD, 10**9, NOW.block, False, 100 * WAD)
    held = replace(held, vai=VaiDebt(100 * WAD, 0, WAD), forced=frozenset({0}))
    found = rules.assess(held, replace(market, vai=vai), NOW, None).opportunities
    assert {each.repay.symbol for each in found} == {"VAI"}
    tokens = {**market.tokens, 0: replace(market.tokens[0], is_forced=True)}
    found = rules.assess(held, replace(market, vai=vai, tokens=tokens), NOW, None).opportunities
    assert {each.repay.symbol for each in found} == {"T0", "VAI"}


def test_native_debt_is_seized_for_by_the_core_pools_terms_and_shared_by_the_own_pools():
    held, market = sinking(kind="venus", liquidator=LIQUIDATOR_CONTRACT)
    native = Token(NATIVE, "native", 18)
    terms = {**market.terms, (1, 0): market.terms[0, 0], (1, 1): Terms(WAD * 3 // 4, WAD * 12 // 10)}
    tokens = {**market.tokens, 0: replace(market.tokens[0], underlying=native, pays=native)}
    market, held = replace(market, terms=terms, treasury_share_wad=WAD // 2), replace(held, pool=1)
    (own,) = rules.assess(held, market, NOW, None).opportunities
    (core,) = rules.assess(held, replace(market, tokens=tokens), NOW, None).opportunities
    own_gross, core_gross = (each.seized_amount + each.protocol_fee_amount for each in (own, core))
    assert (own.repay_amount, own_gross) == (core.repay_amount, 3755 * 5 * 12 * 10**7)
    assert core_gross == 3755 * 5 * 108 * 10**6
    assert core.protocol_fee_amount == core_gross // 6 // 2


def test_one_of_two_tokens_that_take_the_same_may_be_without_a_price():
    first, second = ctoken(0, price=None), ctoken(1)
    market = snapshot([first, replace(second, underlying=first.underlying, pays=first.pays)])
    assert market.value_base(first.underlying.address, TokenAmount(WAD)) == 10**8


def test_a_pool_that_does_not_fall_back_gives_strangers_no_weight():
    core, own = Terms(1, 2), Terms(3, 4)
    assert rules.pool_terms(core, own, is_active=True, falls_back=True) == own
    assert rules.pool_terms(core, own, is_active=False, falls_back=False) == core
    assert rules.pool_terms(core, None, is_active=True, falls_back=True) == core
    assert rules.pool_terms(core, None, is_active=True, falls_back=False) == Terms(0, 0)


def test_receipts_are_redeemed_as_far_as_the_cash_goes():
    owner = address(77)
    token = ctoken(0, cash=10 * WAD, reserves=4 * WAD)
    held = {token.receipt.address: TokenAmount(10**13)}  # 2,000 tokens
    (found,) = rules.settlements(owner, held, snapshot([token]), NOW)
    assert (found.action, found.spender, found.key.id) == (Action.SETTLE, None, owner + token.receipt.address)
    assert (found.repay_amount, found.seized_amount) == (5 * 10**10, 10 * WAD)
    assert (found.seized_base, found.repay_base) == (10 * 10**8, 99 * 10**7)
    (less,) = rules.settlements(owner, held, snapshot([token], kind="venus", redeem_fee_wad=WAD // 10), NOW)
    assert (less.repay_amount, less.seized_amount) == (3 * 10**10, 54 * 10**17)
    assert rules.settlements(owner, held, snapshot([replace(token, cash=0)]), NOW) == []
    assert rules.settlements(owner, held, snapshot([replace(token, is_redeeming_paused=True)]), NOW) == []
    assert rules.settlements(owner, {}, snapshot([token]), NOW) == []
