"""What a liquidator's account really did, told by the chain alone, and whether it adds up to the wei."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eth_abi.abi import decode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.chain import DevChain
from keeper.devnet.executor import DevExecutor
from keeper.devnet.market import AaveMarket

LIQUIDATION: Final = "0x" + keccak(text="LiquidationCall(address,address,address,uint256,uint256,address,bool)").hex()
_TRANSFER: Final = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
_WRAPPED: Final = {  # a wrapped native token says this instead
    "0x" + keccak(text="Deposit(address,uint256)").hex(): 1,
    "0x" + keccak(text="Withdrawal(address,uint256)").hex(): -1,
}
_PROFIT: Final = "0x" + keccak(text="Profit(address,uint256)").hex()
_BALANCE: Final = "balanceOf(address)(uint256)"


@dataclass(frozen=True, slots=True)
class Liquidation:
    """One `LiquidationCall` event of the account, with its transaction's gas cost."""

    market: str
    borrower: str
    debt_token: str
    collateral_token: str
    repaid: int
    seized: int
    block: int
    tx_hash: str


@dataclass(slots=True)
class Balances:
    """An account's native currency and tokens at one moment."""

    block: int
    native_wei: int
    tokens: dict[str, int]


@dataclass(slots=True)
class Statement:
    """Two balances and everything between them."""

    before: Balances
    after: Balances
    liquidations: list[Liquidation] = field(default_factory=list)
    transactions: int = 0
    reverted: int = 0
    gas_wei: int = 0

    def difference(self) -> dict[str, int]:
        """Return, per token and for the native currency (""), what the balances say less what the events say."""
        expected: dict[str, int] = defaultdict(int)
        for each in self.liquidations:
            expected[each.debt_token] -= each.repaid
            expected[each.collateral_token] += each.seized
        return _gained(self.before, self.after, expected, -self.gas_wei)


@dataclass(frozen=True, slots=True)
class Standing:
    """What everybody held at one moment who takes part where an executor liquidates."""

    account: Balances
    owner: Balances
    executor: Balances


@dataclass(slots=True)
class FlashStatement:
    """Everything between two moments where an executor liquidates: its account pays gas, its owner is paid.

    `traded` is what the executor received of each token from everybody but its owner, less what it gave them.
    """

    before: Standing
    after: Standing
    liquidations: list[Liquidation] = field(default_factory=list)
    traded: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    profits: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    transactions: int = 0
    reverted: int = 0
    gas_wei: int = 0

    def difference(self) -> dict[tuple[str, str], int]:
        """Return, per party and token (native currency is ""), what the balances say less what the events say.

        The executor has to have said as much as it traded, and to hold nothing.
        """
        found = {
            "account": _gained(self.before.account, self.after.account, {}, -self.gas_wei),
            "owner": _gained(self.before.owner, self.after.owner, self.profits, 0),
            "executor": {each: amount for each, amount in self.after.executor.tokens.items() if amount},
            "events": {
                each: self.profits[each] - self.traded[each]
                for each in {*self.profits, *self.traded}
                if self.profits[each] != self.traded[each]
            },
        }
        if self.after.executor.native_wei:
            found["executor"][""] = self.after.executor.native_wei
        return {(party, token): amount for party, amounts in found.items() for token, amount in amounts.items()}


def _gained(before: Balances, after: Balances, expected: Mapping[str, int], native_wei: int) -> dict[str, int]:
    """Return by how much more than expected the balances grew, where they did not grow as expected."""
    found = {token: after.tokens[token] - before.tokens[token] - expected.get(token, 0) for token in after.tokens}
    found[""] = after.native_wei - before.native_wei - native_wei
    return {token: amount for token, amount in found.items() if amount}


async def read_balances(chain: DevChain, markets: list[AaveMarket], account: str) -> Balances:
    """Read what an account holds of everything that the markets list."""
    return await _balances(chain, tokens_of(markets), account)


def tokens_of(markets: Iterable[AaveMarket]) -> list[str]:
    """Return every token that the markets list."""
    return sorted({reserve.token for market in markets for reserve in market.reserves.values()})


async def _balances(chain: DevChain, tokens: Sequence[str], account: str) -> Balances:
    block = await chain.block_number()
    held = await chain.call_all([(token, _BALANCE, (account,)) for token in tokens])
    native = int(await chain.rpc("eth_getBalance", account, "latest"), 16)
    return Balances(block, native, dict(zip(tokens, held, strict=True)))


async def read_statement(chain: DevChain, markets: dict[str, AaveMarket], account: str, before: Balances) -> Statement:
    """Read every transaction and liquidation of an account since a moment; blocks must not be mined meanwhile."""
    after = await read_balances(chain, list(markets.values()), account)
    statement = Statement(before, after)
    await _fill(statement, chain, markets, (before.block, after.block), account, account)
    return statement


async def read_standing(chain: DevChain, tokens: Sequence[str], account: str, executor: DevExecutor) -> Standing:
    """Read what an account, its executor, and the executor's owner hold."""
    return Standing(
        account=await _balances(chain, tokens, account),
        owner=await _balances(chain, tokens, executor.owner),
        executor=await _balances(chain, tokens, executor.address),
    )


async def read_flash_statement(
    chain: DevChain, markets: dict[str, AaveMarket], account: str, executor: DevExecutor, before: Standing
) -> FlashStatement:
    """Read what an executor did for an account since a moment; blocks must not be mined meanwhile."""
    after = await read_standing(chain, list(before.account.tokens), account, executor)
    statement = FlashStatement(before, after)
    span = before.account.block, after.account.block
    for receipt in await _fill(statement, chain, markets, span, account, executor.address):
        for log in receipt["logs"]:
            _trade(statement, log, executor)
    return statement


async def _fill(  # noqa: PLR0917 - one reading, in the order of its callers
    statement: Statement | FlashStatement,
    chain: DevChain,
    markets: Mapping[str, AaveMarket],
    span: tuple[int, int],
    account: str,
    liquidator: str,
) -> list[dict[str, Any]]:
    """Add up an account's transactions after one block, up to another, and the liquidations in them; return receipts."""
    blocks = [("eth_getBlockReceipts", [hex(number)]) for number in range(span[0] + 1, span[1] + 1)]
    pools = {market.pool.lower(): name for name, market in markets.items()}
    found = []
    for receipts in await chain.batch(blocks) if blocks else []:
        found += [each for each in receipts if each["from"].lower() == account.lower()]
    for receipt in found:
        statement.transactions += 1
        statement.reverted += int(receipt["status"], 16) == 0
        statement.gas_wei += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
        statement.liquidations += _liquidations(receipt, pools, liquidator)
    return found


def _liquidations(receipt: dict[str, Any], pools: Mapping[str, str], liquidator: str) -> Iterator[Liquidation]:
    for log in receipt["logs"]:
        market = pools.get(log["address"].lower())
        if market is None or log["topics"][0] != LIQUIDATION:
            continue
        repaid, seized, who, _ = decode(["uint256", "uint256", "address", "bool"], bytes.fromhex(log["data"][2:]))
        if who.lower() == liquidator.lower():
            collateral, debt, borrower = (_named(topic) for topic in log["topics"][1:4])
            block, tx_hash = int(log["blockNumber"], 16), str(log["transactionHash"])
            yield Liquidation(market, borrower, debt, collateral, repaid, seized, block, tx_hash)


def _trade(statement: FlashStatement, log: dict[str, Any], executor: DevExecutor) -> None:
    """Add what a log of a token says that the executor received or gave, or what the executor says that it earned."""
    token, (name, *named) = to_checksum_address(log["address"]), log["topics"]
    if name == _TRANSFER:
        giver, taker = (_named(topic) for topic in named)
        if taker == executor.address:
            statement.traded[token] += int(log["data"], 16)
        elif giver == executor.address and taker != executor.owner:
            statement.traded[token] -= int(log["data"], 16)
    elif name in _WRAPPED and _named(named[0]) == executor.address:
        statement.traded[token] += _WRAPPED[name] * int(log["data"], 16)
    elif name == _PROFIT and token == executor.address:
        statement.profits[_named(named[0])] += int(log["data"], 16)


def _named(topic: str) -> str:
    return to_checksum_address(f"0x{topic[-40:]}")
