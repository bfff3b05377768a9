"""What nodes say about a raw transaction, in the words of every client and provider that we know."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import pytest

from keeper.chain.failures import AnswerTooLarge, RateLimited, RpcError
from keeper.chain.mask import Mask
from keeper.chain.phrases import SendVerdict, send_verdict
from keeper.chain.refusals import refusal

SAID: Final[Mapping[SendVerdict, Sequence[str]]] = {
    SendVerdict.NONCE_TOO_LOW: (
        "Transaction nonce is too low. Try incrementing the nonce.",
        "nonce too low: next nonce 5, tx nonce 4",
        "nonce too low: address 0xaB, current nonce (833) > tx nonce (832)",
        "invalid transaction nonce",
        "OldNonce, Current nonce: 22, nonce of rejected tx: 17",
        "nonce too low. allowed nonce range: 427 - 447, actual: 426",
        "Nonce too low",
        "INTERNAL_ERROR: nonce too low",
        "nonce too low: tx: 3 state: 4",
        "Pool(Stale)",
    ),
    SendVerdict.NONCE_TOO_HIGH: (
        "NonceGap, Future nonce. Expected nonce: 10",
        "nonce too high. allowed nonce range: 427 - 477, actual: 527",
        "nonce too high: address 0x, tx: 5 state: 3",
        "Nonce too distant from current sender nonce",
        "Transaction nonce is too distant from current sender nonce",
        "gapped-nonce tx from delegated accounts",
        "nonce gap too large",
    ),
    SendVerdict.REPLACEMENT_UNDERPRICED: (
        "Transaction gas price supplied is too low. There is another transaction with same nonce in the queue. Try increasing the gas price or incrementing the nonce.",
        "replacement transaction underpriced",
        "Replacement transaction underpriced",
        "there is another tx which has the same nonce in the tx pool",
        "could not replace existing tx",
        "ReplacementNotAllowed",
        "replacement transaction underpriced: new tx gas fee cap 1 <= 2 queued",
        "tx with same nonce already inserted. to replace it, you need to specify a gas price > 5",
        "duplicated nonce",
        "INTERNAL_ERROR: could not replace existing tx",
    ),
    SendVerdict.ALREADY_KNOWN: (
        "Transaction with the same hash was already imported.",
        "already known",
        "Known transaction",
        "ALREADY_EXISTS: already known",
        "AlreadyKnown",
        "AlreadyKnown, Already known in pool",
        "known transaction. transaction with hash 0x1 is already in the system",
        "Pool(AlreadyImported)",
        "transaction already finalized",
        "transaction already imported",
        "tx already exist",
        "already have transaction",
        "tx already in mempool",
        "block already known",
        "Transaction already exists",
    ),
    SendVerdict.EXCEEDS_CAP: (
        "tx fee (1.10 ether) exceeds the configured cap (1.00 ether)",
        "Transaction fee cap exceeded",
        "tx fee (1.10 of currency celo) exceeds the configured cap (1.00 celo)",
        "tx fee (2.0 ether) exceeds the configured cap (1.00 ether)",
    ),
    SendVerdict.INSUFFICIENT_FUNDS: (
        "insufficient funds for gas * price + value: address 0x have 1 want 2",
        "Insufficient funds. The account you tried to send transaction from does not have enough funds. Required 1 and got: 0.",
        "Insufficient balance for transaction.",
        "Upfront cost exceeds account balance",
        "insufficient funds for transfer",
        "not enough funds for gas",
        "InsufficientFunds, Account balance: 4740799397601480913, cumulative cost: 22019342038993800000",
        "InsufficientFunds, Balance is 1092404690719251702 less than sending value + gas 7165512000464000000",
        "transaction would cause overdraft",
        "insufficient funds for gas * price + value + gatewayFee",
        "out of balance, needs 9 but account balance is 8",
        "insufficient funds for l1 fee: balance 1",
        "sender doesn't have enough funds to send tx. The upfront cost is: 1",
        "insufficient funds for gas + value. balance: 4, fee: 5",
        "''insufficient funds for gas * price + value",
    ),
    SendVerdict.FEE_TOO_LOW: (
        "Transaction gas price is too low. It does not satisfy your node's minimal gas price (minimal: 5 got: 4). Try increasing the gas price.",
        "transaction underpriced",
        "transaction underpriced: tip needed 1, tip permitted 0",
        "Gas price below configured minimum gas price",
        "gas price too low",
        "max fee per gas less than block base fee: address 0x, maxFeePerGas: 1 baseFee: 2",
        "gas price too low: 18000000000 wei, use at least tx.gasPrice = 19500000000 wei",
        "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 50, BaseFee: 100, MaxPriorityFeePerGas:50, Block number: 5",
        "FeeTooLow, EffectivePriorityFeePerGas too low 10 < 20, BaseFee: 30",
        "FeeTooLowToCompete",
        "FeeTooLow, FeePerGas needs to be higher than 100 to be added to the TxPool. Affordable FeePerGas of rejected tx: 50.",
        "gasprice is less than gas price minimum floor",
        "gas price less than block base fee",
        "transaction gas price 1wei is below the minimum",
        "virtual machine entered unexpected state. please contact developers and provide transaction details that caused this error. Error description: The operator included transaction with an unacceptable gas price",
        "effective gas price below minimum",
        "gas tip cap 0, minimum needed 1",
        "fee cap less than block base fee",
        "max fee per gas less than block base fee",
        "transaction priority fee below minimum required",
        "INTERNAL_ERROR: fee too low",
        "max priority fee per gas below minimum",
    ),
    SendVerdict.POOL_FULL: (
        "There are too many transactions in the queue. Your transaction was dropped due to limit. Try increasing the fee.",
        "txpool is full",
        "queue full",
        "sequencer pending tx pool full, please try again",
        "sequencer pending tx pool full, please try again: context deadline exceeded",
        "transaction pool limit reached",
        "account limit exceeded: pooled 4, limit 4",
        "in-flight transaction limit reached for delegated accounts",
        "too many transactions from this sender",
        "Transaction pool is full",
        "address already reserved",
    ),
    SendVerdict.INVALID: (
        "intrinsic gas too low: have 1, want 2",
        "exceeds block gas limit",
        "invalid sender",
        "negative value",
        "oversized data: transaction size 5, limit 4",
        "gas uint64 overflow",
        "max priority fee per gas higher than max fee per gas: address 0x",
        "SenderIsContract",
        "GasLimitExceeded, Gas limit: 6",
        "FailedToResolveSender",
        "Int256Overflow",
        "forbidden sender address",
        "invalid message format",
        "Invalid signature",
        "Transaction gas limit exceeds block gas limit",
        "Intrinsic gas exceeds gas limit",
        "rlp: expected input list for types.LegacyTx",
        "invalid chain id for signer: have 1 want 2",
        "transaction type not supported",
        "tx of type 3 not supported",
        "max initcode size exceeded",
        "only replay-protected (EIP-155) transactions allowed over RPC",
        "Transaction gas is too low. There is not enough gas to cover minimal cost of the transaction (minimal: 1 got: 2). Try increasing supplied gas.",
        "Sender is banned in local queue.",
        "not enough gas for transaction validation",
        "Failed to pay the fee to the operator",
        "Code is banned in local queue.",
        "max fee per gas higher than 2^64-1",
        "typed transaction too short",
        "transaction gas limit too high (cap: 16777216, tx: 30000000)",
        "insufficient gas for floor data gas cost: gas 1, minimum needed 2",
        "transaction size too big",
        "Transaction is not permitted",
        "Wrong chainId",
        "INVALID, wrong chain id",
        "InvalidTxSignature",
        "exceeds maximum gas limit 16777216",
    ),
}
"""geth, erigon, reth, besu, nethermind, openethereum, nitro, the OP stack, zksync, metis, celo, avalanche, moonbeam, conflux."""


@pytest.mark.parametrize(("verdict", "words"), [(verdict, each) for verdict, told in SAID.items() for each in told])
def test_a_nodes_words_about_a_transaction_have_one_meaning(verdict: SendVerdict, words: str) -> None:
    assert send_verdict(words) is verdict
    assert send_verdict(f"err: {words}") is verdict
    assert send_verdict(words.upper()) is verdict


def _said(method: str, code: int, message: str) -> object:
    raw = msgspec.Raw(msgspec.json.encode({"code": code, "message": message}))
    return refusal(raw, node="rpc-1", method=method, mask=Mask("http://node.example/"))


@pytest.mark.parametrize("words", ["50/second request limit reached", "Too Many Requests", "request rate limited"])
def test_a_send_that_is_over_the_budget_is_no_verdict_on_the_transaction(words: str) -> None:
    assert isinstance(_said("eth_sendRawTransaction", -32005, words), RateLimited)


@pytest.mark.parametrize("words", ["txpool is full", "sequencer pending tx pool full, please try again"])
def test_a_full_pool_is_a_verdict_even_where_the_code_is_that_of_a_rate_limit(words: str) -> None:
    assert isinstance(_said("eth_sendRawTransaction", -32005, words), RpcError)


@pytest.mark.parametrize(
    "words", ["response too large", "Response size exceeded", "Response is too big", "result exceeds the limit"]
)
def test_an_answer_that_the_node_will_not_send_at_once_is_asked_for_in_parts(words: str) -> None:
    assert isinstance(_said("eth_call", -32003, words), AnswerTooLarge)
