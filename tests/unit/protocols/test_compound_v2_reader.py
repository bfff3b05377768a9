"""The dialects that the parity tests have no contracts for, as a scripted chain tells them."""

from collections.abc import Sequence

import pytest

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, topic, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.units import NATIVE, WAD, Address, BlockHash, PositionId, TokenAmount, TxHash
from keeper.errors import Invalid, Unsafe
from keeper.oracles.prices import Prices
from keeper.protocols.compound_v2 import contracts as compound
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

    @property
    def head(self) -> BlockHead:
        return head()

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
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
    with pytest.raises(abi.Unreadable):
        await found.positions(reads, [PositionId(WHO)])
    reads.answers[view(C_USDC, compound.ACCOUNT, word)] = told(0, 2**200, 0, 0)
    with pytest.raises(Invalid):
        await found.positions(reads, [PositionId(WHO)])


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


async def test_a_comptroller_that_seizes_nothing_blocks_everything():
    reads, found = chain("compound"), reader()
    await found.discover(reads)
    reads.answers[view(ROOT, compound.SEIZE_PAUSED)] = told(1)
    snapshot = await found.snapshot(reads)
    assert all(each.is_seizing_paused and not each.is_redeeming_paused for each in snapshot.tokens.values())
