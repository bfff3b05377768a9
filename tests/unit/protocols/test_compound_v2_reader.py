"""The dialects that the parity tests have no contracts for, as a scripted chain tells them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, topic, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.units import NATIVE, WAD, Address, BlockHash, PositionId, TokenAmount, TxHash
from keeper.engine.parity import differs
from keeper.errors import Invalid, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2 import contracts as compound
from keeper.protocols.compound_v2 import reader as compound_reader
from keeper.protocols.compound_v2 import rules
from keeper.protocols.compound_v2.contracts import Kind
from keeper.protocols.compound_v2.reader import CompoundReader
from tests.unit.protocols.test_compound_v2_rules import NOW, address, head

ROOT, ORACLE, WETH, USDC = (address(number) for number in (1, 2, 3, 4))
C_NATIVE, C_USDC = address(11), address(12)
WHO = address(77)
ERROR = ViewResult(ok=False, data=b"")


def told(*numbers: int) -> ViewResult:
    return ViewResult(ok=True, data=b"".join(map(number_word, numbers)))


def text(value: str) -> ViewResult:
    return ViewResult(ok=True, data=number_word(32) + number_word(len(value)) + value.encode().ljust(32, b"\0"))


def listed(*addresses: Address) -> ViewResult:
    return told(32, len(addresses), *(int.from_bytes(each, "big") for each in addresses))


class ScriptedReads:
    """`ports.Reads` over a dictionary; whatever it does not hold reverts."""

    def __init__(self, answers: dict[ViewCall, ViewResult]) -> None:
        self.answers = answers
        self.rounds = 0
        self.asked: list[ViewCall] = []

    @property
    def head(self) -> BlockHead:
        return head()

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
        self.asked += calls
        return [self.answers.get(call, ERROR) for call in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)


def chain(kind: Kind) -> ScriptedReads:
    """Script a market of native currency (Moonwell: of WETH that pays native currency) and dollars."""
    is_timed = kind == "moonwell"
    answers = {
        view(ROOT, compound.GET_ALL_MARKETS): listed(C_NATIVE, C_USDC),
        view(ROOT, compound.ORACLE): told(int.from_bytes(ORACLE, "big")),
        view(ROOT, compound.CLOSE_FACTOR): told(WAD // 2),
        view(ROOT, compound.INCENTIVE): told(WAD * 11 // 10),
        view(C_USDC, compound.UNDERLYING): told(4),
        view(C_USDC, compound.SEIZE_SHARE): told(28 * 10**15),
        view(USDC, abi.DECIMALS): told(6),
        view(USDC, abi.SYMBOL): text("USDC"),
        view(WETH, abi.DECIMALS): told(18),
        view(WETH, abi.SYMBOL): text("WETH"),
    }
    if is_timed:
        answers[view(C_NATIVE, compound.UNDERLYING)] = told(3)
        answers[view(C_NATIVE, compound.WETH_UNWRAPPER)] = told(5)
    for token, decimals, price in ((C_NATIVE, 18, 3_000), (C_USDC, 6, 1)):
        word = address_word(token)
        answers |= {
            view(token, abi.DECIMALS): told(8),
            view(token, abi.SYMBOL): text("cETH" if token == C_NATIVE else "cUSDC"),
            view(token, compound.CASH): told(10 ** (decimals + 6)),
            view(token, compound.BORROWS): told(10 ** (decimals + 6)),
            view(token, compound.RESERVES): told(0),
            view(token, compound.SUPPLY): told(10**16),
            view(token, compound.BORROW_INDEX): told(2 * WAD),
            view(token, compound.RATE_STORED): told(2 * 10 ** (8 + decimals)),
            view(token, compound.RESERVE_FACTOR): told(WAD // 10),
            view(token, compound.ACCRUED_TIME if is_timed else compound.ACCRUED_BLOCK): told(
                NOW.time_s if is_timed else NOW.block
            ),
            view(token, compound.RATE_PER_SECOND if is_timed else compound.RATE_PER_BLOCK): told(10**9),
            view(ORACLE, compound.PRICE, word): told(price * 10 ** (36 - decimals)),
            view(ROOT, compound.MARKETS, word): told(1, WAD * 3 // 4),
        }
    return ScriptedReads(answers)


def reader(kind: Kind | None = None) -> CompoundReader:
    return CompoundReader("m", ROOT, kind=kind, prices=Prices(WETH))


@pytest.mark.parametrize("kind", ["compound", "moonwell"])
async def test_the_dialect_is_told_by_the_contracts(kind: Kind):
    reads, found = chain(kind), reader()
    await found.discover(reads)
    reads.rounds = 0
    snapshot = await found.snapshot(reads)
    assert reads.rounds == 1
    assert (snapshot.kind, snapshot.native_price_base) == (kind, 3_000 * 10**8)
    native, dollars = snapshot.tokens.values()
    assert native.is_per_second is (kind == "moonwell")
    assert native.pays.address == NATIVE
    assert native.underlying.address == (WETH if kind == "moonwell" else NATIVE)
    assert (native.seize_share_wad, dollars.seize_share_wad) == (0, 28 * 10**15)
    assert (dollars.underlying.symbol, dollars.underlying.decimals) == ("USDC", 6)
    spenders = {each.token.address: each.spender for each in snapshot.payments}
    assert spenders[USDC] == C_USDC
    assert spenders[native.underlying.address] == (C_NATIVE if kind == "moonwell" else None)
    assert snapshot.targets == {C_NATIVE, C_USDC}
    assert snapshot.value_base(USDC, TokenAmount(10**6)) == 10**8
    assert snapshot.value_base(C_USDC, TokenAmount(10**8)) == 2 * 10**6  # one cUSDC is two cents


async def test_an_account_is_read_in_one_round_and_liquidated_as_the_rules_say():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    word = address_word(WHO)
    reads.answers |= {
        view(ROOT, compound.ASSETS_IN, word): listed(C_USDC, C_NATIVE),
        view(C_NATIVE, compound.ACCOUNT, word): told(0, 10**9, 0, 2 * 10**26),  # 0.2 ether
        view(C_USDC, compound.ACCOUNT, word): told(0, 0, 451 * 10**6, 2 * 10**14),
    }
    reads.rounds = 0
    (position,) = await found.positions(reads, [PositionId(WHO)])
    assert reads.rounds == 1
    assert [(each.token, each.receipts, each.debt) for each in position.entries] == [(0, 10**9, 0), (1, 0, 451 * 10**6)]
    snapshot = await found.snapshot(reads)
    (step,) = rules.assess(position, snapshot, NOW, None).opportunities
    assert (step.repay_amount, step.target, step.spender) == (451 * 10**6 // 2, C_USDC, C_USDC)
    assert step.seize.address == C_NATIVE
    reads.answers[view(ROOT, compound.IS_DEPRECATED, address_word(C_USDC))] = told(1)
    (step,) = rules.assess(position, await found.snapshot(reads), NOW, None).opportunities
    assert step.repay_amount == 451 * 10**6


async def test_the_chains_own_view_is_taken_within_what_is_not_known_of_a_debt():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    word = address_word(WHO)
    reads.answers |= {
        view(ROOT, compound.ASSETS_IN, word): listed(C_USDC, C_NATIVE),
        view(C_NATIVE, compound.ACCOUNT, word): told(0, 10**9, 0, 2 * 10**26),
        view(C_USDC, compound.ACCOUNT, word): told(0, 0, 400 * 10**6, 2 * 10**14),
    }
    (position,) = await found.positions(reads, [PositionId(WHO)])
    reads.answers[view(C_USDC, compound.BORROW_INDEX)] = told(3 * WAD)
    for debt, agrees in (
        (600 * 10**6, True),
        (600 * 10**6 + 1, True),
        (600 * 10**6 + 2, False),
        (600 * 10**6 - 1, False),
    ):
        shortfall = debt * 10**12 - 450 * WAD
        reads.answers |= {
            view(C_USDC, compound.ACCOUNT, word): told(0, 0, debt, 2 * 10**14),
            view(ROOT, compound.LIQUIDITY, word): told(0, max(0, -shortfall), max(0, shortfall)),
        }
        (theirs,) = await found.chain_health(reads, [PositionId(WHO)])
        ours = rules.health(position, await found.snapshot(reads), NOW)
        assert theirs is not None
        assert (theirs.debt_base == ours.debt_base) is agrees
    reads.answers[view(ROOT, compound.LIQUIDITY, word)] = told(13, 0, 0)
    assert await found.chain_health(reads, [PositionId(WHO)]) == [None]


async def test_a_broken_token_takes_only_its_holders_down():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    for missing in (view(C_NATIVE, compound.CASH), view(ORACLE, compound.PRICE, address_word(C_NATIVE))):
        kept = reads.answers.pop(missing)
        snapshot = await found.snapshot(reads)
        assert snapshot.tokens[0].price is None
        assert snapshot.tokens[1].price is not None
        assert snapshot.native_price_base is None
        reads.answers[missing] = kept
    rate = reads.answers.pop(view(C_NATIVE, compound.RATE_PER_BLOCK))
    stuck = (await found.snapshot(reads)).tokens[0]
    assert stuck.is_liquidation_paused
    assert stuck.is_seizing_paused
    assert stuck.price is not None
    reads.answers[view(C_NATIVE, compound.RATE_PER_BLOCK)] = rate


async def test_an_error_code_of_a_token_is_no_balance():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    word = address_word(WHO)
    reads.answers[view(ROOT, compound.ASSETS_IN, word)] = listed(C_USDC)
    reads.answers[view(C_USDC, compound.ACCOUNT, word)] = told(9, 0, 0, 0)
    with pytest.raises(Invalid, match="code 9"):
        await found.positions(reads, [PositionId(WHO)])
    reads.answers[view(C_USDC, compound.ACCOUNT, word)] = told(0, 2**200, 0, 0)
    with pytest.raises(Invalid):
        await found.positions(reads, [PositionId(WHO)])


async def test_a_token_that_takes_an_unknown_call_for_a_deposit_says_nothing_by_it():
    reads, found = chain("compound"), reader()
    for function in (compound.UNDERLYING, compound.ACCRUED_TIME, compound.SEIZE_SHARE, compound.WETH_UNWRAPPER):
        reads.answers[view(C_NATIVE, function)] = ViewResult(ok=True, data=b"")  # cETH of 2019 has such a fallback
    await found.discover(reads)
    snapshot = await found.snapshot(reads)
    assert snapshot.kind == "compound"
    assert snapshot.tokens[0].underlying.address == NATIVE
    assert (snapshot.tokens[0].seize_share_wad, snapshot.tokens[0].is_seizing_paused) == (0, False)
    reads.asked.clear()
    await found.snapshot(reads)
    assert view(C_USDC, compound.SEIZE_SHARE) in reads.asked
    assert view(C_NATIVE, compound.SEIZE_SHARE) not in reads.asked  # a deposit accrues interest between other questions


@pytest.mark.parametrize("answer", [ViewResult(ok=True, data=b""), told(2**200)])
async def test_a_token_that_says_nothing_or_the_impossible_takes_only_its_holders_down(answer: ViewResult):
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    for function in (compound.CASH, compound.SUPPLY, compound.RESERVE_FACTOR, compound.RATE_PER_BLOCK):
        kept, reads.answers[view(C_USDC, function)] = reads.answers[view(C_USDC, function)], answer
        native, dollars = (await found.snapshot(reads)).tokens.values()
        assert (native.price, native.is_seizing_paused) == (3_000 * WAD, False)
        assert dollars.is_liquidation_paused
        assert dollars.is_seizing_paused
        reads.answers[view(C_USDC, function)] = kept


async def test_what_contracts_do_not_answer_is_blamed_on_the_account_and_not_on_the_node():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    word = address_word(WHO)
    with pytest.raises(Invalid):
        await found.positions(reads, [PositionId(WHO)])  # what it has entered is not told
    reads.answers[view(ROOT, compound.ASSETS_IN, word)] = listed(C_USDC)
    with pytest.raises(Invalid):
        await found.positions(reads, [PositionId(WHO)])
    reads.answers[view(C_USDC, compound.ACCOUNT, word)] = told(0, 10**9, 1, 2 * 10**14)
    assert await found.positions(reads, [PositionId(WHO)])


@pytest.mark.parametrize("missing", [compound.CLOSE_FACTOR, compound.INCENTIVE, compound.GET_ALL_MARKETS])
async def test_what_a_comptroller_does_not_answer_any_more_is_blamed_on_its_market_alone(missing: bytes):
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    del reads.answers[view(ROOT, missing)]
    with pytest.raises(Invalid):
        await found.snapshot(reads)
    with pytest.raises(Invalid):
        await found.discover(reads)


@pytest.mark.parametrize("few", [compound_reader._FEW_CALLS, 0])
async def test_receipts_that_were_never_entered_are_seized_but_count_for_nothing(
    few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(compound_reader, "_FEW_CALLS", few)
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    word = address_word(WHO)
    reads.answers |= {
        view(ROOT, compound.ASSETS_IN, word): listed(C_USDC),
        view(C_NATIVE, compound.ACCOUNT, word): told(0, 10**9, 0, 2 * 10**26),
        view(C_USDC, compound.ACCOUNT, word): told(0, 0, 100 * 10**6, 2 * 10**14),
        view(ROOT, compound.LIQUIDITY, word): told(0, 0, 100 * WAD),
    }
    (position,) = await found.positions(reads, [PositionId(WHO)])
    snapshot = await found.snapshot(reads)
    assessment = rules.assess(position, snapshot, NOW, None)
    (step,) = assessment.opportunities
    assert (step.seize.address, step.repay_amount) == (C_NATIVE, 50 * 10**6)
    assert (assessment.health.health_factor_wad, assessment.health.collateral_base) == (0, 0)
    (theirs,) = await found.chain_health(reads, [PositionId(WHO)])
    assert theirs is not None
    assert not differs(assessment.health, theirs)
    del reads.answers[view(ORACLE, compound.PRICE, address_word(C_NATIVE))]
    priceless = rules.assess(position, await found.snapshot(reads), NOW, None)
    assert (priceless.health.is_liquidatable, priceless.blocked) == (True, Reason.PRICE_UNKNOWN)
    reads.answers[view(C_NATIVE, compound.ACCOUNT, word)] = told(9, 10**9, 0, 0)
    (position,) = await found.positions(reads, [PositionId(WHO)])
    assert [each.token for each in position.entries] == [1]


async def test_native_currency_is_valued_elsewhere_while_its_token_has_no_price():
    reads = chain("compound")
    reads.answers[view(C_NATIVE, compound.UNDERLYING)] = told(3)
    third = address(13)
    for call, answer in list(reads.answers.items()):
        if call.to == C_NATIVE:
            reads.answers[ViewCall(third, call.data)] = answer
        elif address_word(C_NATIVE) in call.data:
            reads.answers[ViewCall(call.to, call.data.replace(address_word(C_NATIVE), address_word(third)))] = answer
    reads.answers[view(ROOT, compound.GET_ALL_MARKETS)] = listed(C_NATIVE, C_USDC, third)
    del reads.answers[view(ORACLE, compound.PRICE, address_word(C_NATIVE))]
    found = reader()
    await found.discover(reads)
    snapshot = await found.snapshot(reads)
    assert snapshot.tokens[0].price is None
    assert snapshot.native_price_base == 3_000 * 10**8
    assert snapshot.value_base(WETH, TokenAmount(WAD)) == 3_000 * 10**8


def venus() -> ScriptedReads:
    """Script a market of Venus with VAI, whose index was stored 1.01 and has grown to 1.02 since."""
    reads = chain("compound")
    for token in (C_NATIVE, C_USDC):
        reads.answers[view(ROOT, compound.MARKETS, address_word(token))] = told(
            1, WAD // 2, 0, WAD * 3 // 4, WAD * 11 // 10, 0, 1
        )
    word = address_word(WHO)
    reads.answers |= {
        view(ROOT, compound.LAST_POOL): told(0),
        view(ROOT, compound.LIQUIDATOR): told(21),
        view(ROOT, compound.VAI_CONTROLLER): told(22),
        view(ROOT, compound.REDEEM_FEE): told(0),
        view(address(21), compound.TREASURY_SHARE): told(WAD // 2),
        view(address(21), compound.FORCES_VAI): told(1),
        view(address(21), compound.MIN_VAI): told(1_000 * WAD),
        view(address(22), compound.VAI_ADDRESS): told(23),
        view(address(22), compound.VAI_RATE): told(10**9),
        view(address(23), abi.DECIMALS): told(18),
        view(address(23), abi.SYMBOL): text("VAI"),
        view(ROOT, compound.ASSETS_IN, word): listed(C_NATIVE),
        view(C_NATIVE, compound.ACCOUNT, word): told(0, 10**9, 0, 2 * 10**26),
        view(ROOT, compound.USER_POOL, word): told(0),
        view(ROOT, compound.MINTED_VAI, word): told(400 * WAD),
        view(address(22), compound.VAI_INTEREST, word): told(0),
        view(address(22), compound.VAI_USER_INDEX, word): told(WAD),
    }
    return reads


class AccruingReads(ScriptedReads):
    """Let VAI's index grow once interest is accrued in a sequence."""

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        index, told_so = view(address(22), compound.VAI_INDEX), list[ViewResult]()
        for call in calls:
            is_grown = view(address(22), compound.ACCRUE_VAI) in calls[: len(told_so)]
            grown = {index: told(WAD * (102 if is_grown else 101) // 100)}
            told_so.append(grown.get(call, self.answers.get(call, ERROR)))
        return told_so


async def test_interest_on_vai_counts_against_other_debts_only_once_it_is_stored():
    reads, found = AccruingReads(venus().answers), reader()
    await found.discover(reads)
    snapshot = await found.snapshot(reads)
    assert snapshot.vai is not None
    assert (snapshot.vai.index, snapshot.vai.lag) == (WAD * 102 // 100, WAD // 100)
    (position,) = await found.positions(reads, [PositionId(WHO)])
    health = rules.health(position, snapshot, NOW)
    assert health.debt_base == 404 * 10**8
    assert (position.vai is not None, health.is_liquidatable) == (True, False)


async def test_a_debt_in_vai_can_be_forced_for_all_or_for_one():
    controller = address_word(address(22))
    for forced in (
        view(ROOT, compound.IS_FORCED, controller),
        view(ROOT, compound.IS_FORCED_FOR, address_word(WHO), controller),
    ):
        reads, found = AccruingReads(venus().answers | {forced: told(1)}), reader()
        await found.discover(reads)
        (position,) = await found.positions(reads, [PositionId(WHO)])
        assert rules.health(position, await found.snapshot(reads), NOW).is_liquidatable


async def test_where_vai_cannot_accrue_only_vai_is_stuck():
    reads, found = AccruingReads(venus().answers), reader()
    del reads.answers[view(address(22), compound.VAI_RATE)]
    await found.discover(reads)
    snapshot = await found.snapshot(reads)
    assert snapshot.vai is not None
    assert (snapshot.vai.rate, snapshot.vai.is_paused, snapshot.vai.first_from) == (0, True, 1_000 * WAD)
    assert not any(each.is_liquidation_paused for each in snapshot.tokens.values())


async def test_a_new_token_is_found_without_its_log():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    third = address(13)
    for call, answer in list(reads.answers.items()):
        if call.to == C_USDC:
            reads.answers[ViewCall(third, call.data)] = answer
        elif address_word(C_USDC) in call.data:
            reads.answers[ViewCall(call.to, call.data.replace(address_word(C_USDC), address_word(third)))] = answer
    reads.answers[view(ROOT, compound.GET_ALL_MARKETS)] = listed(C_NATIVE, C_USDC, third)
    assert len((await found.snapshot(reads)).tokens) == 3
    assert third in found.head_filter.addresses


async def test_a_root_that_is_none_is_refused():
    with pytest.raises(Unsafe, match="comptroller"):
        await reader().discover(ScriptedReads({}))


def log(where: Address, name: str, *words: bytes, indexed: int = 0) -> Log:
    topics = (topic(name), *words[:indexed])
    return Log(where, topics, b"".join(words[indexed:]), 5, BlockHash(b"b" * 32), 0, TxHash(b"t" * 32))


@pytest.mark.parametrize("indexed", [0, 2])
async def test_accounts_are_named_whether_forks_index_them_or_not(indexed: int):
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    entered = log(ROOT, "MarketEntered(address,address)", address_word(C_USDC), address_word(WHO), indexed=indexed)
    assert found.touched([entered]).positions == {PositionId(WHO)}
    borrowed = log(C_USDC, "Borrow(address,uint256,uint256,uint256)", address_word(WHO), *[number_word(1)] * 3)
    assert found.named([borrowed, entered]) == {PositionId(WHO)}
    moved = log(
        C_USDC, "Transfer(address,address,uint256)", address_word(WHO), address_word(ROOT), number_word(1), indexed=2
    )
    assert found.touched([moved]).positions == {PositionId(WHO), PositionId(ROOT)}
    stranger = log(address(99), "Borrow(address,uint256,uint256,uint256)", address_word(WHO), *[number_word(1)] * 3)
    assert (found.named([stranger]), found.touched([stranger]).positions) == (frozenset(), frozenset())
    assert found.touched([log(ROOT, "MarketListed(address)", address_word(C_USDC))]).is_market_changed


@pytest.mark.parametrize("indexed", [0, 2])
async def test_whoever_enters_a_token_before_it_is_known_is_named(indexed: int):
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    words = address_word(address(13)), address_word(WHO)
    entered = log(ROOT, "MarketEntered(address,address)", *words, indexed=indexed)
    assert entered.topics[0] in found.head_filter.topics
    assert ROOT in found.head_filter.addresses
    assert found.named([entered]) == {PositionId(WHO)}
    assert found.named([replace(entered, address=C_USDC)]) == frozenset()
    known = log(ROOT, "MarketEntered(address,address)", address_word(C_USDC), address_word(WHO), indexed=indexed)
    assert found.named([known]) == frozenset()


async def test_a_token_whose_rate_its_own_contract_refuses_is_stuck():
    bounds: dict[Kind, int] = {"compound": 5 * 10**14, "moonwell": 5 * 10**12}
    for kind, most in bounds.items():
        reads, found = chain(kind), reader()
        await found.discover(reads)
        rate = view(C_USDC, compound.RATE_PER_SECOND if kind == "moonwell" else compound.RATE_PER_BLOCK)
        for said, is_stuck in ((most, False), (most + 1, True)):
            reads.answers[rate] = told(said)
            dollars = (await found.snapshot(reads)).tokens[1]
            assert (dollars.is_seizing_paused, dollars.is_liquidation_paused) == (is_stuck, is_stuck)
            assert dollars.borrow_rate == (0 if is_stuck else said)


async def test_what_cannot_be_compared_of_one_account_does_not_stop_the_comparison():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    other = address(78)
    for who in (WHO, other):
        word = address_word(who)
        reads.answers |= {
            view(ROOT, compound.ASSETS_IN, word): listed(C_USDC),
            view(C_NATIVE, compound.ACCOUNT, word): told(0, 0, 0, 0),
            view(C_USDC, compound.ACCOUNT, word): told(0, 0, 10**6, 2 * 10**14),
            view(ROOT, compound.LIQUIDITY, word): told(0, 0, WAD),
        }
    ids = [PositionId(WHO), PositionId(other)]
    await found.positions(reads, ids)
    reads.answers[view(C_USDC, compound.ACCOUNT, address_word(WHO))] = told(9, 0, 0, 0)
    none, some = await found.chain_health(reads, ids)
    assert none is None
    assert some is not None


async def test_a_comptroller_that_seizes_nothing_blocks_everything():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    reads.answers[view(ROOT, compound.SEIZE_PAUSED)] = told(1)
    snapshot = await found.snapshot(reads)
    assert all(each.is_seizing_paused and not each.is_redeeming_paused for each in snapshot.tokens.values())
