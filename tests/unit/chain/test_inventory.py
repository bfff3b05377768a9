"""What the signer can pay with: tokens, native currency and margins, and the proceeds that it holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from keeper.chain.inventory import read_inventory
from keeper.domain.abi import ALLOWANCE, BALANCE_OF, address_word, number_word, selector, view
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, Address, Wei
from tests.toy import CASH, GOLD, POOL, RECEIPT, address, head

OWNER, OTHER, HOLDER = (address(number) for number in range(1, 4))
COIN = Token(NATIVE, "ETH", 18)
FREE = selector("freeCollateral(address)")
MARGIN = Payment(Token(HOLDER, "margin", 6), None, FREE)


@dataclass
class FakeReads:
    """Implements `inventory.BalanceReads` from a table; whatever is not in it reverts."""

    answers: dict[ViewCall, bytes] = field(default_factory=dict)
    asked: list[ViewCall] = field(default_factory=list)
    head: BlockHead = field(default_factory=head)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.asked += calls
        return [ViewResult(ok=each in self.answers, data=self.answers.get(each, b"")) for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    async def native_balance(self, address: Address) -> Wei:
        assert address == OWNER
        return Wei(5)

    def holds(self, token: Address, amount: int, function: bytes = BALANCE_OF) -> None:
        self.answers[view(token, function, address_word(OWNER))] = number_word(amount)

    def allows(self, token: Address, spender: Address, amount: int) -> None:
        self.answers[view(token, ALLOWANCE, address_word(OWNER), address_word(spender))] = number_word(amount)


async def test_a_token_with_two_spenders_has_one_balance_and_two_allowances() -> None:
    reads = FakeReads()
    reads.holds(CASH.address, 7)
    reads.allows(CASH.address, POOL, 3)
    reads.allows(CASH.address, OTHER, 2**256 - 1)
    found = await read_inventory(reads, OWNER, [Payment(CASH, POOL), Payment(CASH, OTHER), Payment(CASH, POOL)])
    assert found.balances == {CASH.address: 7, NATIVE: 5}
    assert found.allowances == {(CASH.address, POOL): 3, (CASH.address, OTHER): 2**256 - 1}
    assert len(reads.asked) == 3


async def test_native_currency_is_a_balance_that_no_contract_is_asked_for() -> None:
    reads = FakeReads()
    found = await read_inventory(reads, OWNER, [Payment(COIN, None)])
    assert (found.native_wei, found.balances, found.allowances) == (5, {NATIVE: 5}, {})
    assert reads.asked == []


async def test_a_margin_is_asked_of_its_holder_by_the_holders_own_function() -> None:
    reads = FakeReads()
    reads.holds(HOLDER, 900, FREE)
    found = await read_inventory(reads, OWNER, [MARGIN, Payment(CASH, POOL)])
    assert found.balances == {HOLDER: 900, NATIVE: 5}
    assert found.allowances == {}
    assert [call for call in reads.asked if call.to == HOLDER] == [view(HOLDER, FREE, address_word(OWNER))]


async def test_proceeds_are_counted_and_their_allowances_are_nobodys_business() -> None:
    reads = FakeReads()
    reads.holds(RECEIPT.address, 4)
    reads.holds(CASH.address, 1)
    found = await read_inventory(reads, OWNER, [Payment(CASH, POOL)], [RECEIPT, GOLD])
    assert found.balances == {RECEIPT.address: 4, CASH.address: 1, NATIVE: 5}
    assert {call.data[:4] for call in reads.asked if call.to in {RECEIPT.address, GOLD.address}} == {BALANCE_OF}


async def test_a_token_that_is_paid_with_and_brought_is_asked_for_once() -> None:
    reads = FakeReads()
    reads.holds(CASH.address, 6)
    reads.allows(CASH.address, POOL, 2)
    found = await read_inventory(reads, OWNER, [Payment(CASH, POOL)], [CASH])
    assert (found.balances, found.allowances) == ({CASH.address: 6, NATIVE: 5}, {(CASH.address, POOL): 2})
    assert len(reads.asked) == 2


@pytest.mark.parametrize("answer", [b"", b"\x07", bytes(31), bytes(33), bytes(64)])
async def test_an_answer_that_is_not_one_word_is_neither_counted_on_nor_spent(answer: bytes) -> None:
    reads = FakeReads()
    reads.holds(GOLD.address, 8)
    reads.answers[view(CASH.address, BALANCE_OF, address_word(OWNER))] = answer
    reads.answers[view(CASH.address, ALLOWANCE, address_word(OWNER), address_word(POOL))] = answer
    found = await read_inventory(reads, OWNER, [Payment(CASH, POOL), Payment(GOLD, POOL)])
    assert (found.balances, found.allowances) == ({GOLD.address: 8, NATIVE: 5}, {})
