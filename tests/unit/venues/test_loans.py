"""Lenders that answer as they are told to: what is believed, what is left out, and how each fee is rounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keeper.domain.abi import Unreadable, address_word, number_word, selector
from keeper.domain.exchange import Lender, Lenders
from keeper.domain.program import StepKind
from keeper.domain.units import MAX_UINT256, Address, TokenAmount
from keeper.errors import Invalid
from keeper.venues.loans import AaveLenders, AskedFee, BalancerLenders, Erc3156Lenders, MorphoLenders, Share
from tests.unit.venues.memory import Memory, MemoryReads, hexed

ACTIVE, PAUSED, LENDING = 1 << 56, 1 << 60, 1 << 63
HELD, VIRTUAL, SUPPLY = 10**21, 9 * 10**20, 10**22
STRANGER = Address(b"\x99" * 20)


class Told:
    """A contract that answers what it is told to."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.address = memory.deploy("Lender")

    def tell(self, function: str, *words: int | bytes, of: bytes = bytes(20)) -> None:
        answer = b"".join(each if isinstance(each, bytes) else number_word(each) for each in words)
        argument = int.from_bytes(of)
        self.memory.send(self.address, "tell(bytes4,uint256,bytes)", selector(function), argument, answer)


class AaveSite:
    """A pool with one reserve."""

    def __init__(self, revision: int = 10, configuration: int = ACTIVE | LENDING) -> None:
        self.memory = Memory()
        self.pool, a_token = Told(self.memory), Told(self.memory)
        self.token = self.memory.coin(18)
        self.pool.tell("POOL_REVISION()", revision)
        self.pool.tell("FLASHLOAN_PREMIUM_TOTAL()", 5)
        self.configure(configuration, a_token.address)
        self.pool.tell("getVirtualUnderlyingBalance(address)", VIRTUAL, of=self.token)
        a_token.tell("totalSupply()", SUPPLY)
        self.a_token = a_token
        self.memory.send(self.token, "mint(address,uint256)", hexed(a_token.address), HELD)

    def configure(self, configuration: int, a_token: Address) -> None:
        words: list[int | bytes] = [configuration, *([0] * 7), address_word(a_token)]
        self.pool.tell("getReserveData(address)", *words, of=self.token)
        self.pool.tell("getReserveData(address)", *([0] * 9), of=STRANGER)


async def lent(memory: Memory, lenders: Lenders, *tokens: Address) -> list[Lender]:
    return list(await lenders.lenders(MemoryReads(memory), tokens))


def fee(lender: Lender, token: Address, amount: int) -> int | None:
    return lender.fee(token, TokenAmount(amount))


@pytest.mark.parametrize(
    ("revision", "available", "fees"),
    [(3, HELD, (0, 1, 1)), (8, VIRTUAL, (0, 1, 1)), (9, VIRTUAL, (1, 1, 2)), (11, VIRTUAL, (1, 1, 2))],
)
async def test_aaves_generations_round_the_premium_and_bound_the_loan_each_in_its_way(
    revision: int, available: int, fees: tuple[int, ...]
):
    site = AaveSite(revision)
    (loan,) = await lent(site.memory, AaveLenders("aave", site.pool.address), site.token, STRANGER)
    assert tuple(fee(loan, site.token, amount) for amount in (999, 1_000, 2_001)) == fees
    assert fee(loan, site.token, available) is not None
    assert fee(loan, site.token, available + 1) is None
    assert fee(loan, STRANGER, 1) is None
    assert fee(loan, site.token, 0) is None


@pytest.mark.parametrize("configuration", [0, ACTIVE, LENDING, ACTIVE | LENDING | PAUSED])
async def test_a_reserve_that_may_not_lend_is_left_out(configuration: int):
    site = AaveSite(configuration=configuration)
    assert await lent(site.memory, AaveLenders("aave", site.pool.address), site.token) == []


async def test_a_reserve_whose_money_moved_is_read_again_at_once():
    site = AaveSite()
    lenders = AaveLenders("aave", site.pool.address)
    (before,) = await lent(site.memory, lenders, site.token)
    other = Told(site.memory)
    other.tell("totalSupply()", 77)
    site.memory.send(site.token, "mint(address,uint256)", hexed(other.address), 1_000)
    site.configure(ACTIVE | LENDING, other.address)
    (after,) = await lent(site.memory, lenders, site.token)
    assert fee(before, site.token, VIRTUAL) is not None
    assert fee(after, site.token, 77) is not None
    assert fee(after, site.token, 78) is None
    site.pool.tell("POOL_REVISION()", 3)  # a generation without books
    (older,) = await lent(site.memory, lenders, site.token)
    assert fee(older, site.token, 1_000) is not None


@pytest.mark.parametrize("words", [[ACTIVE | LENDING], [*([MAX_UINT256] * 9)]])
async def test_a_reserve_that_answers_nonsense_is_left_out(words: list[int | bytes]):
    site = AaveSite()
    site.pool.tell("getReserveData(address)", *words, of=site.token)
    assert await lent(site.memory, AaveLenders("aave", site.pool.address), site.token) == []


@pytest.mark.parametrize(("function", "words"), [("FLASHLOAN_PREMIUM_TOTAL()", [10_001]), ("POOL_REVISION()", [b""])])
async def test_a_pool_that_answers_nonsense_says_so(function: str, words: list[int | bytes]):
    site = AaveSite()
    site.pool.tell(function, *words)
    with pytest.raises(Invalid):
        await lent(site.memory, AaveLenders("aave", site.pool.address), site.token)
    with pytest.raises(Unreadable):
        await lent(site.memory, AaveLenders("none", site.token), site.token)


async def test_morpho_lends_what_it_holds_and_each_token_apart():
    memory, root = Memory(), Address(b"\x33" * 20)
    first, second, empty = memory.coin(18), memory.coin(6), memory.coin(6)
    for coin in (first, second):
        memory.send(coin, "mint(address,uint256)", hexed(root), 500)
    loans = await lent(memory, MorphoLenders("morpho", root), first, second, empty, STRANGER)
    assert [fee(loan, coin, 500) for loan, coin in zip(loans, (first, second), strict=True)] == [0, 0]
    assert [fee(loan, coin, 501) for loan, coin in zip(loans, (first, second), strict=True)] == [None, None]
    assert loans[0].lock != loans[1].lock


async def test_balancers_tokens_share_the_vaults_lock_and_its_fee_is_rounded_up():
    memory = Memory()
    vault, collector = Told(memory), Told(memory)
    tokens = memory.coin(18), memory.coin(6)
    for coin in tokens:
        memory.send(coin, "mint(address,uint256)", hexed(vault.address), 10**20)
    lenders = BalancerLenders("balancer", vault.address)
    with pytest.raises(Unreadable):  # it names no collector of fees
        await lent(memory, lenders, *tokens)
    vault.tell("getProtocolFeesCollector()", address_word(collector.address))
    vault.tell("getPausedState()", 0, 1, 2)
    collector.tell("getFlashLoanFeePercentage()", 10**14 + 1)
    loans = await lent(memory, lenders, *tokens)
    assert {loan.lock for loan in loans} == {vault.address}
    assert [fee(loans[0], tokens[0], amount) for amount in (1, 9_999, 10_000, 10**18)] == [1, 1, 2, 10**14 + 1]
    collector.tell("getFlashLoanFeePercentage()", 10**18)
    with pytest.raises(Invalid):
        await lent(memory, lenders, *tokens)
    collector.tell("getFlashLoanFeePercentage()", 0)
    assert fee((await lent(memory, lenders, *tokens))[0], tokens[0], 10**20) == 0
    vault.tell("getPausedState()", 1, 1, 2)
    assert await lent(memory, lenders, *tokens) == []


async def test_each_lenders_step_names_the_lender_the_token_and_the_most_that_it_may_cost():
    memory = Memory()
    site = AaveSite()
    coin, root = memory.coin(18), Address(b"\x33" * 20)
    memory.send(coin, "mint(address,uint256)", hexed(root), 500)
    (morpho,) = await lent(memory, MorphoLenders("morpho", root), coin)
    (aave,) = await lent(site.memory, AaveLenders("aave", site.pool.address), site.token)
    for loan, token, kind, target in (
        (morpho, coin, StepKind.FLASH_MORPHO, root),
        (aave, site.token, StepKind.FLASH_AAVE, site.pool.address),
    ):
        step = loan.step(token, TokenAmount(400), TokenAmount(3))
        assert (step.kind, step.target, step.take, step.amount, step.limit) == (kind, target, token, 400, 3)
        assert loan.gas > 0
        assert loan.name in {"aave", "morpho"}


async def test_a_lender_by_the_standard_is_asked_for_fees_only_of_what_it_lends():
    memory = Memory()
    lender = Told(memory)
    token, other = memory.coin(18), memory.coin(18)
    lender.tell("maxFlashLoan(address)", 50, of=token)
    lender.tell("maxFlashLoan(address)", 0, of=other)
    lender.tell("flashFee(address,uint256)", 3, of=token)  # whatever the amount
    lenders, reads = Erc3156Lenders("mint", lender.address), MemoryReads(memory)
    (loan,) = await lenders.lenders(reads, [token, other])
    assert (loan.lock, fee(loan, token, 50), fee(loan, token, 51)) == (lender.address, 3, None)
    asked = reads.calls
    (loan,) = await lenders.lenders(reads, [token, other])
    assert (reads.rounds, reads.calls - asked) == (3, asked - 1)
    lender.tell("flashFee(address,uint256)", MAX_UINT256, of=token)
    assert await lenders.lenders(reads, [token, other]) == []


@given(
    flat=st.integers(0, 10**20),
    parts=st.integers(0, 10**17),
    rounding=st.sampled_from([0, 5 * 10**17, 10**18 - 1]),
    cap=st.integers(0, 10**30) | st.just(10**60),
    amount=st.integers(1, 4**45),
)
def test_a_fee_between_two_that_were_asked_is_never_below_the_lenders(
    flat: int, parts: int, rounding: int, cap: int, amount: int
):
    def real(size: int) -> int:
        return min(cap, flat + (size * parts + rounding) // 10**18)

    told = AskedFee.of([(4**power, real(4**power)) for power in range(46)])(amount)
    assert told >= real(amount)
    if cap == 10**60:
        assert told <= real(amount) + 1


def test_a_fee_that_falls_while_the_loan_grows_is_nonsense():
    with pytest.raises(Invalid):
        AskedFee.of([(1, 5), (4, 4)])
    with pytest.raises(Invalid):
        AskedFee.of([])


@given(amount=st.integers(1, 2**128), parts=st.integers(0, 10**4))
def test_a_share_is_rounded_up_or_a_half_up(amount: int, parts: int):
    up, half_up = Share(parts, 10**4)(amount), Share(parts, 10**4, is_half_up=True)(amount)
    assert 0 <= up * 10**4 - amount * parts < 10**4
    assert -5_000 < half_up * 10**4 - amount * parts <= 5_000
