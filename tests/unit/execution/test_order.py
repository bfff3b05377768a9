"""What an operator orders by hand: priced within the limits, signed once, sent until a receipt says how it ended."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio
from eth_account import Account
from eth_utils.crypto import keccak

from keeper.chain.rpc import Rpc
from keeper.domain.chain import Call
from keeper.domain.units import Address, Wei
from keeper.errors import Unsafe
from keeper.execution.envelope import NOBODY, created_address
from keeper.execution.fees import FeePolicy
from keeper.execution.order import MAX_GAS_LIMIT, Patience, Priced, carried_out, priced
from keeper.execution.signer import PolicyRefused, Signed, Signer, SigningPolicy
from tests.unit.chain.fake_node import CHAIN_ID, POOL, FakeChain, FakeNode, RealClock, Refusal

KEY = "c0ffee" * 10 + "abcd"
CODE = b"\x60\x00" * 30
GWEI = 10**9
FEES = FeePolicy(max_fee_wei=Wei(200 * GWEI), max_tip_wei=Wei(2 * GWEI), max_gas_limit=MAX_GAS_LIMIT)
POLICY = SigningPolicy(CHAIN_ID, Wei(200 * GWEI), MAX_GAS_LIMIT, creations=frozenset({keccak(CODE)}))
SOON = Patience(look_s=0.01, most_s=5)
CREATION = Call(NOBODY, CODE)


@dataclass
class Bench:
    """A node that says what it is told to say, and somebody who signs."""

    rpc: Rpc
    node: FakeNode
    signer: Signer

    async def priced(self, call: Call = CREATION, fees: FeePolicy = FEES) -> Priced:
        return await priced(self.rpc, self.signer, call, fees, chain_id=CHAIN_ID)

    async def done(self, order: Priced, patience: Patience = SOON) -> tuple[Any, list[Signed]]:
        told: list[Signed] = []
        return await carried_out(self.rpc, self.signer, order, patience, told=told.append), told

    def says(self, method: str, answer: object) -> None:
        self.node.methods[method] = lambda *_: answer

    def refuses(self, method: str, message: str) -> None:
        def refuse(*_: object) -> None:
            raise Refusal(3, message)

        self.node.methods[method] = refuse

    def mines(self, status: str = "0x1", *, after: int = 1) -> None:
        """Have a receipt for whatever was sent, once it was asked for so often."""
        asked = 0

        def receipt(tx_hash: str) -> dict[str, Any] | None:
            nonlocal asked
            asked += 1
            if asked < after or not self.node.sent:
                return None
            block = self.node.chain.head
            return {
                "transactionHash": tx_hash,
                "blockHash": "0x" + block.hash.hex(),
                "blockNumber": hex(block.number),
                "gasUsed": "0x5208",
                "status": status,
                "effectiveGasPrice": "0x77",
                "logs": [],
            }

        self.node.methods["eth_getTransactionReceipt"] = receipt


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    async with FakeNode(FakeChain()) as node:
        rpc = Rpc([node.node("rpc-1")], clock=RealClock())
        await rpc.start(CHAIN_ID)
        made = Bench(rpc, node, Signer.from_hex(KEY, POLICY))
        made.says(
            "eth_feeHistory",
            {
                "oldestBlock": "0x1",
                "baseFeePerGas": [hex(10 * GWEI), hex(10 * GWEI)],
                "gasUsedRatio": [0.5],
                "reward": [[hex(GWEI)] * len(FEES.tip_percentiles)],
            },
        )
        node.methods["eth_getTransactionCount"] = lambda _, tag: {"latest": "0x5", "pending": "0x8"}.get(
            str(tag), "0x5"
        )
        made.says("eth_getBalance", hex(10**18))
        made.says("eth_estimateGas", hex(1_000_000))
        made.mines()
        yield made
        await rpc.close()
        await asyncio.sleep(0.01)  # connections close in the loop's next turns


async def test_a_creation_is_bid_for_like_a_liquidation_signed_once_and_found_where_it_was_foretold(
    bench: Bench,
) -> None:
    order = await bench.priced()
    made = order.transaction
    assert (made.nonce, made.to, made.value_wei, made.data) == (8, NOBODY, 0, CODE)
    assert (made.gas_limit, made.tip_wei) == (1_200_000, GWEI)
    assert 11 * GWEI < made.max_fee_wei <= FEES.max_fee_wei
    assert order.most_wei == made.gas_limit * made.max_fee_wei
    receipt, told = await bench.done(order)
    (raw,) = bench.node.sent
    assert [each.raw.hex() for each in told] == [raw[2:]]
    assert Account.recover_transaction(raw) == Account.from_key(KEY).address
    assert (receipt.tx_hash, receipt.succeeded) == (told[0].tx_hash, True)
    assert created_address(bench.signer.address, 8) != created_address(bench.signer.address, 9)


async def test_a_node_that_has_not_heard_of_the_last_transaction_is_not_believed_about_the_nonce(bench: Bench) -> None:
    behind = await priced(bench.rpc, bench.signer, CREATION, FEES, chain_id=CHAIN_ID, least_nonce=9)
    assert behind.transaction.nonce == 9
    ahead = await priced(bench.rpc, bench.signer, CREATION, FEES, chain_id=CHAIN_ID, least_nonce=3)
    assert ahead.transaction.nonce == 8


def test_a_created_contract_lies_where_the_sender_and_its_nonce_put_it() -> None:
    sender = Address(bytes.fromhex("6ac7ea33f8831ea9dcc53393aaa88b25a785dbf0"))
    found = [created_address(sender, nonce).hex() for nonce in (0, 1, 2, 3)]
    assert found == [  # the example that go-ethereum tests with
        "cd234a471b72ba2f1ccf0a70fcaba648a5eecd8d",
        "343c43a37d37dff08ae8c4a11544c718abb4fcf8",
        "f778b86fa74e846c4f0a1fbd1335fe81c00a0c91",
        "fffd933a0bc612844eaf0c6fe3e5b8e9b6c1d19c",
    ]


async def test_a_call_that_would_fail_is_not_sent_and_the_nodes_words_are_passed_on(bench: Bench) -> None:
    bench.refuses("eth_estimateGas", "execution reverted: executor: owner")
    with pytest.raises(Unsafe, match="would fail: execution reverted: executor: owner"):
        await bench.priced(Call(POOL, b"\x01\x02\x03\x04"))
    assert bench.node.sent == []


async def test_fees_above_the_operators_cap_and_money_that_is_not_there_stop_it(bench: Bench) -> None:
    with pytest.raises(Unsafe, match="KEEPER_MAX_FEE_GWEI"):
        await bench.priced(fees=replace(FEES, max_fee_wei=Wei(GWEI)))
    bench.says("eth_getBalance", hex(10**15))
    with pytest.raises(Unsafe, match="top it up"):
        await bench.priced()
    assert bench.node.sent == []


async def test_only_what_the_policy_names_is_signed(bench: Bench) -> None:
    order = await bench.priced(Call(NOBODY, CODE + b"\x00"))
    with pytest.raises(PolicyRefused, match="the creation of a contract"):
        await bench.done(order)
    assert bench.node.sent == []


async def test_a_refusal_by_every_node_and_a_failed_transaction_are_told(bench: Bench) -> None:
    order = await bench.priced()
    bench.mines("0x0")
    with pytest.raises(Unsafe, match=r"transaction 0x[0-9a-f]{64} failed in block 4"):
        await bench.done(order)
    bench.refuses("eth_sendRawTransaction", "insufficient funds for gas * price + value")
    with pytest.raises(Unsafe, match="no node took the transaction: rpc-1: insufficient funds"):
        await bench.done(order)


async def test_what_is_not_mined_is_sent_again_as_it_is_and_its_hash_is_left_to_look_for(bench: Bench) -> None:
    bench.says("eth_getTransactionReceipt", None)
    order = await bench.priced()
    with pytest.raises(Unsafe, match=r"0x[0-9a-f]{64} was sent and is not mined after 0 s"):
        await bench.done(order, Patience(look_s=0.005, most_s=0.4))
    assert len(bench.node.sent) > 1
    assert len(set(bench.node.sent)) == 1
    bench.mines(after=12)
    receipt, told = await bench.done(order)
    assert receipt.tx_hash == told[0].tx_hash
    assert len(set(bench.node.sent)) == 1
