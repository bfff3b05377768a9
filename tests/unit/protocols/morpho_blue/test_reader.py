"""What the reader makes of answers and logs: pre-liquidation contracts above all, which parity cannot deploy."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, WAD, ZERO_ADDRESS, Address, Base, PositionId
from keeper.errors import Invalid, Stale, Transient, Unsafe
from keeper.oracles.prices import GET_PRICE, Prices
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue import rules
from keeper.protocols.morpho_blue.contracts import Pair, PreLiquidation, position_id
from keeper.protocols.morpho_blue.reader import MorphoReader
from tests.unit.protocols.morpho_blue.fake import USD, WRAPPED, FakeMorpho, log, words
from tests.unit.protocols.morpho_blue.market import (
    BORROWER,
    COLLATERAL,
    FACTORY,
    IRM,
    LOAN,
    NOW_S,
    ORACLE,
    PRICE,
    ROOT,
    contract,
    head,
    pair,
    totals,
)

SHARES = 1_660 * 10**12  # between the pre-liquidation's threshold and the pair's
OTHER = Address(b"\xb1" * 20)
GREEDY = Address(b"\x67" * 20)
NOT_YET = morpho.NOT_PRE_LIQUIDATABLE


def made(*, floor: int = 0, adaptive: Address | None = IRM) -> MorphoReader:
    prices = Prices(WRAPPED, oracle=USD)
    factories = frozenset({FACTORY})
    return MorphoReader(
        "morpho",
        ROOT,
        prices,
        trust=None,
        floor_base=Base(floor),
        pre_liquidation_factories=factories,
        adaptive_irm=adaptive,
    )


def created(found: Pair) -> PositionId:
    return position_id(ZERO_ADDRESS, found.params.id)


def part(by: PreLiquidation) -> PositionId:
    return PositionId(ZERO_ADDRESS + by.terms.pair + by.address)


async def with_contract(by: PreLiquidation, found: Pair) -> tuple[FakeMorpho, MorphoReader, PositionId]:
    """List a pair and a contract, with a borrower who has authorised it."""
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    chain.list_contract(by)
    chain.hold(BORROWER, found, SHARES, 10**18)
    chain.authorise(BORROWER, by.address)
    reader.recall([created(found), part(by)])
    await reader.discover(chain)
    return chain, reader, position_id(BORROWER, found.params.id)


async def test_a_contract_counts_once_somebody_has_authorised_it():
    found = pair()
    by = contract(found)
    chain, reader, key = await with_contract(by, found)
    assert (await reader.snapshot(chain)).pre_liquidations == {}
    (position,) = await reader.positions(chain, [key])
    assert position.authorised == (by.address,)
    snapshot = await reader.snapshot(chain)
    assert snapshot.pre_liquidations == {by.address: by}
    assessment = rules.assess(position, snapshot, chain.head.moment, None)
    assert [each.target for each in assessment.opportunities] == [by.address]
    (theirs,) = await reader.chain_health(chain, [key])
    assert replace(assessment.health, collateral=(), debt=()) == theirs


@pytest.mark.parametrize(
    ("verdict", "allowed", "is_open"),
    [
        (bytes.fromhex("4e487b71") + number_word(0x11), True, True),
        (bytes.fromhex("44bb1e75") + bytes(64), True, True),
        (NOT_YET, True, False),
        (morpho.LIQUIDATABLE_POSITION, True, False),
        (bytes.fromhex("4e487b71") + number_word(0x11), False, False),
    ],
)
async def test_the_contracts_own_refusal_tells_whether_it_is_open(verdict: bytes, allowed: bool, is_open: bool):
    found = pair()
    by = contract(found)
    chain, reader, key = await with_contract(by, found)
    await reader.positions(chain, [key])
    chain.authorise(BORROWER, by.address, allowed=allowed, verdict=verdict)
    (theirs,) = await reader.chain_health(chain, [key])
    assert theirs is not None
    assert theirs.is_liquidatable is is_open


async def test_an_oracle_of_a_contract_that_reverts_closes_only_the_contract():
    found, own = pair(), Address(b"\x5a" * 20)
    by = contract(found, oracle=own)
    chain, reader, key = await with_contract(by, found)
    (position,) = await reader.positions(chain, [key])
    snapshot = await reader.snapshot(chain)
    assert snapshot.pre_liquidations[by.address].price is None
    local = rules.assess(position, snapshot, chain.head.moment, None)
    assert local.blocked is Reason.NOT_LIQUIDATABLE
    (theirs,) = await reader.chain_health(chain, [key])
    assert theirs == replace(local.health, collateral=(), debt=())
    chain.say(view(own, morpho.PRICE), PRICE)
    assert (await reader.snapshot(chain)).pre_liquidations[by.address].price == PRICE


async def test_an_authorisation_touches_the_borrowers_position_and_wakes_the_contract():
    found = pair()
    by = contract(found)
    chain, reader, key = await with_contract(by, found)
    set_to = log(ROOT, morpho.SET_AUTHORIZATION, BORROWER, BORROWER, by.address, data=number_word(1))
    touched = reader.touched([set_to, log(ROOT, morpho.SET_AUTHORIZATION, BORROWER, BORROWER, OTHER)])
    assert touched.positions == {key}
    assert not touched.is_market_changed
    assert (await reader.snapshot(chain)).pre_liquidations.keys() == {by.address}


async def test_a_new_contract_is_a_part_of_the_market_and_changes_what_is_listened_to():
    found = pair()
    by = contract(found)
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    reader.recall([created(found)])
    await reader.discover(chain)
    terms = words(found.params.id, by.terms.pre_lltv_wad, 1, 1, WAD, WAD, ORACLE)
    new = log(FACTORY, morpho.CREATE_PRE_LIQUIDATION, by.address, data=terms)
    assert new.address in reader.head_filter.addresses & reader.discovery_filter.addresses
    assert reader.named([new]) == {part(by)}
    assert reader.touched([new]).is_market_changed
    before = reader.head_filter
    chain.list_contract(by)
    reader.recall(reader.named([new]))
    assert reader.head_filter == before
    await reader.discover(chain)
    assert reader.head_filter.addresses - before.addresses == {by.address}
    assert await reader.positions(chain, [created(found), part(by)]) == []


async def test_a_contract_for_another_morpho_is_left_out():
    found = pair()
    by = contract(found)
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    chain.list_contract(by, root=OTHER)
    reader.recall([created(found), part(by)])
    await reader.discover(chain)
    assert by.address not in reader.head_filter.addresses


async def test_liquidations_of_both_kinds_are_told_and_strangers_are_not():
    found = pair()
    by = contract(found)
    _, reader, key = await with_contract(by, found)
    names = (found.params.id, OTHER, BORROWER)
    own = log(ROOT, morpho.LIQUIDATION, *names, data=words(100, 1, 200, 0, 0))
    pre = log(by.address, morpho.PRE_LIQUIDATION, *names, data=words(10, 1, 20))
    strange = log(OTHER, morpho.PRE_LIQUIDATION, *names, data=words(10, 1, 20))
    unknown = log(ROOT, morpho.LIQUIDATION, bytes(32), OTHER, BORROWER, data=words(100, 1, 200, 0, 0))
    taken = reader.liquidations([own, pre, strange, unknown])
    assert [(each.realised.repaid_amount, each.realised.seized_amount) for each in taken] == [(100, 200), (10, 20)]
    assert {(each.key.id, each.liquidator, each.repay_token, each.seize_token) for each in taken} == {
        (key, OTHER, LOAN.address, COLLATERAL.address)
    }
    with pytest.raises(Invalid):
        reader.liquidations([log(ROOT, morpho.LIQUIDATION, found.params.id, data=words(1, 1, 1, 1, 1))])


async def test_a_pair_of_things_that_are_no_tokens_is_left_out_of_the_market():
    odd = Address(b"\x0d" * 20)
    found, junk = pair(), pair(lltv_wad=WAD // 2)
    junk = replace(junk, params=replace(junk.params, collateral=odd))
    chain, reader = FakeMorpho(), made()
    for each in (found, junk):
        chain.list_pair(each)
    reader.recall([created(found), created(junk)])
    await reader.discover(chain)
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}
    chain.hold(BORROWER, junk, SHARES, 10**18)
    key = position_id(BORROWER, junk.params.id)
    (position,) = await reader.positions(chain, [key])
    snapshot = await reader.snapshot(chain)
    assert rules.assess(position, snapshot, chain.head.moment, None).blocked is Reason.PRICE_UNKNOWN
    assert await reader.chain_health(chain, [key]) == [None]


async def test_a_pair_that_nobody_owes_in_is_not_read_until_somebody_borrows():
    found = pair(totals=totals(0, 0))
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    reader.recall([created(found)])
    await reader.discover(chain)
    chain.rounds.clear()
    assert (await reader.snapshot(chain)).pairs == {}
    assert sum(chain.rounds) == 1  # the native currency's price
    chain.list_pair(replace(found, totals=totals()))
    borrow = log(ROOT, morpho.BORROW, found.params.id, BORROWER, OTHER, data=bytes(96))
    assert reader.named([borrow]) == {position_id(BORROWER, found.params.id)}
    reader.touched([borrow])
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}


async def test_a_debt_that_a_reorganisation_brings_back_wakes_its_pair():
    found = pair()
    chain, reader, key = await with_contract(contract(found), found)
    chain.list_pair(replace(found, totals=totals(0, 0)))  # everybody has repaid
    await reader.snapshot(chain)
    chain.list_pair(found)
    assert (await reader.snapshot(chain)).pairs == {}
    await reader.positions(chain, [key])
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}


async def test_a_model_that_reverts_or_a_price_that_is_none_leaves_the_pair_unreadable():
    found = pair()
    chain, reader, key = await with_contract(contract(found), found)
    del chain.answers[view(IRM, morpho.RATE_AT_TARGET, found.params.id)]
    del chain.answers[view(ROOT, morpho.ACCRUE_INTEREST, found.params.encoded)]
    (position,) = await reader.positions(chain, [key])
    snapshot = await reader.snapshot(chain)
    assert not snapshot.pairs[found.params.id].is_readable
    assert rules.assess(position, snapshot, chain.head.moment, None).blocked is Reason.PRICE_UNKNOWN
    assert await reader.chain_health(chain, [key]) == [None]


async def test_a_model_that_is_not_mirrored_is_asked_with_the_stored_totals():
    found = pair()
    chain, reader = FakeMorpho(), made(adaptive=None)
    chain.say(view(ROOT, morpho.IS_IRM_ENABLED, address_word(ZERO_ADDRESS)), 0)
    chain.list_pair(found)
    chain.say(view(IRM, morpho.BORROW_RATE, found.params.encoded, found.totals.encoded), 77)
    reader.recall([created(found)])
    await reader.discover(chain)
    chain.rounds.clear()
    snapshots = [await reader.snapshot(chain) for _ in range(2)]
    assert [each.pairs[found.params.id].rate for each in snapshots] == [77, 77]
    assert [each for each in snapshots if not each.pairs[found.params.id].is_readable] == []
    assert len(chain.rounds) == 2 + 1 + 2  # prices come beside each; the first had to ask again


async def test_native_currency_and_loans_are_priced():
    found = pair()
    chain, reader, _ = await with_contract(contract(found), found)
    snapshot = await reader.snapshot(chain)
    assert snapshot.prices[NATIVE] == snapshot.native_price_base == 2_000 * 10**8
    assert snapshot.prices[LOAN.address] == 10**8


async def test_what_no_contract_could_hold_is_invalid_and_silence_is_no_zero():
    found = pair()
    chain, reader, key = await with_contract(contract(found), found)
    chain.hold(BORROWER, found, 2**128, 1)
    with pytest.raises(Invalid):
        await reader.positions(chain, [key])
    del chain.answers[view(ROOT, morpho.POSITION, found.params.id, address_word(BORROWER))]
    with pytest.raises(abi.Unreadable):
        await reader.positions(chain, [key])
    del chain.answers[view(ROOT, morpho.MARKET, found.params.id)]
    with pytest.raises(abi.Unreadable):
        await reader.snapshot(chain)


async def test_a_reader_that_has_not_discovered_says_so_and_a_wrong_root_is_refused():
    with pytest.raises(Stale):
        await made().snapshot(FakeMorpho())
    chain = FakeMorpho()
    chain.say(view(ROOT, morpho.IS_IRM_ENABLED, address_word(IRM)), 0)
    with pytest.raises(Unsafe, match="adaptive_irm"):
        await made().discover(chain)
    chain = FakeMorpho()
    chain.say(view(FACTORY, morpho.OF_MORPHO), OTHER)
    with pytest.raises(Unsafe, match="another Morpho"):
        await made().discover(chain)


async def test_a_collateral_is_as_old_as_the_oldest_feed_behind_its_oracle():
    found = pair()
    chain, reader, _ = await with_contract(contract(found), found)
    young, old = Address(b"\x61" * 20), Address(b"\x62" * 20)
    for function, feed in zip(morpho.FEEDS, (young, old, ZERO_ADDRESS, ZERO_ADDRESS), strict=True):
        chain.say(view(ORACLE, function), feed)
    chain.say(view(young, abi.LATEST_ROUND), 1, 10**8, 0, 900, 1)
    chain.say(view(old, abi.LATEST_ROUND), 1, 10**8, 0, 500, 1)
    assert await reader.feeds(chain) == {found.params.id: (young, old)}
    ages = {each.token: (each.price_base, each.updated_s) for each in await reader.price_ages(chain)}
    assert ages == {LOAN: (10**8, None), COLLATERAL: (2_000 * 10**8, 500)}


class Starved(FakeMorpho):
    """A Morpho in which one oracle takes all the gas of a request: whatever stands behind it is silent, or all of it."""

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        greedy = next((place for place, each in enumerate(calls) if each == view(GREEDY, morpho.PRICE)), None)
        if greedy is not None and self.is_refused:
            raise Transient("too heavy")
        said = await self.many(calls)
        return said if greedy is None else [*said[:greedy], *[ViewResult(ok=False, data=b"")] * (len(said) - greedy)]

    is_refused = False


@pytest.mark.parametrize("is_refused", [True, False])
async def test_an_oracle_that_takes_all_the_gas_spoils_only_the_verdicts_of_its_own_pair(is_refused: bool):
    found, trap = pair(), pair(lltv_wad=WAD // 2)
    trap = replace(trap, params=replace(trap.params, oracle=GREEDY))
    chain, reader = Starved(), made()
    chain.is_refused = is_refused
    for each in (found, trap):
        chain.list_pair(each)
        chain.hold(BORROWER, each, SHARES, 10**18)
    reader.recall([created(found), created(trap)])
    await reader.discover(chain)
    keys = [position_id(BORROWER, each.params.id) for each in (trap, found)]
    positions = await reader.positions(chain, keys)
    snapshot = await reader.snapshot(chain)
    local = rules.assess(positions[1], snapshot, chain.head.moment, None).health
    assert await reader.chain_health(chain, keys) == [None, replace(local, collateral=(), debt=())]


async def test_a_flood_of_contracts_costs_a_position_a_bounded_number_of_questions():
    found = pair()
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    chain.hold(BORROWER, found, SHARES, 10**18)
    flood = [contract(found, number) for number in range(500)]
    for each in flood:
        chain.list_contract(each)
        chain.authorise(BORROWER, each.address, allowed=False)
    reader.recall([created(found), *map(part, flood)])
    await reader.discover(chain)
    key, last = position_id(BORROWER, found.params.id), flood[-1]
    chain.rounds.clear()
    assert (await reader.positions(chain, [key]))[0].authorised == ()
    assert sum(chain.rounds) < 100
    assert len(reader.head_filter.addresses) < 100
    chain.authorise(BORROWER, last.address)
    reader.touched([log(ROOT, morpho.SET_AUTHORIZATION, BORROWER, BORROWER, last.address, data=number_word(1))])
    assert (await reader.positions(chain, [key]))[0].authorised == (last.address,)
    assert last.address in reader.head_filter.addresses
    assert (await reader.snapshot(chain)).pre_liquidations == {last.address: last}


async def test_a_pair_whose_loan_nothing_prices_is_read_for_one_head_and_again_once_it_has_a_price():
    found = pair()
    chain, reader = FakeMorpho(), made()
    chain.list_pair(found)
    price = view(USD, GET_PRICE, address_word(LOAN.address))
    told = chain.answers.pop(price)
    reader.recall([created(found)])
    await reader.discover(chain)
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}
    chain.rounds.clear()
    assert (await reader.snapshot(chain)).pairs == {}
    assert sum(chain.rounds) == 1
    chain.answers[price] = told
    chain.head = head(NOW_S + 301, 130)
    assert (await reader.snapshot(chain)).pairs == {}  # looks at it
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}
    del chain.answers[price]  # a feed that fails now and then puts nobody to sleep
    for _ in range(3):
        assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}


async def test_a_pair_that_has_grown_above_the_floor_is_read_within_minutes():
    found = pair()
    chain, reader = FakeMorpho(), made(floor=10**6 * 10**8)
    chain.list_pair(found)
    reader.recall([created(found)])
    await reader.discover(chain)
    assert (await reader.snapshot(chain)).pairs == {}
    chain.list_pair(replace(found, totals=totals(2 * 10**12)))
    chain.head = head(NOW_S + 301, 130)
    await reader.snapshot(chain)
    assert (await reader.snapshot(chain)).pairs.keys() == {found.params.id}


async def test_a_new_pair_costs_its_own_questions_and_not_those_of_all_that_sleep():
    chain, reader = FakeMorpho(), made()
    sleeping = [pair(lltv_wad=number + 1, totals=totals(0, 0)) for number in range(300)]
    odd = [pair(lltv_wad=number + 1_000) for number in range(300)]
    odd = [replace(each, params=replace(each.params, collateral=OTHER)) for each in odd]
    for each in (*sleeping, *odd):
        chain.list_pair(each)
    reader.recall([created(each) for each in (*sleeping, *odd)])
    await reader.discover(chain)
    new = pair()
    chain.list_pair(new)
    reader.recall([created(new)])
    chain.rounds.clear()
    await reader.discover(chain)
    assert sum(chain.rounds) < 20
    assert (await reader.snapshot(chain)).pairs.keys() == {new.params.id}
    chain.token(
        Token(OTHER, "LATE", 18)
    )  # deployed after the pair was made, and the pair made again after a reorganisation
    reader.recall([created(odd[0])])
    await reader.discover(chain)
    assert odd[0].params.id in (await reader.snapshot(chain)).pairs


async def test_what_the_operator_has_named_is_vouched_for_and_what_anybody_made_is_not():
    found = pair()
    for allow in (frozenset[bytes](), frozenset({found.params.id})):
        chain = FakeMorpho()
        chain.list_pair(found)
        reader = MorphoReader("morpho", ROOT, Prices(WRAPPED, oracle=USD), allow=allow, adaptive_irm=IRM)
        reader.recall([created(found)])
        await reader.discover(chain)
        snapshot = await reader.snapshot(chain)
        assert (snapshot.vouched, snapshot.acts_on_any) == (allow, False)
        assert snapshot.prices[COLLATERAL.address] == 2_000 * 10**8
