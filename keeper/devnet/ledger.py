"""What a liquidator's account really did, told by the chain alone, and whether it adds up to the wei."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from eth_abi.abi import decode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.chain import DevChain
from keeper.devnet.market import AaveMarket

LIQUIDATION: Final = "0x" + keccak(text="LiquidationCall(address,address,address,uint256,uint256,address,bool)").hex()
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
        found = {
            token: self.after.tokens[token] - self.before.tokens[token] - expected[token] for token in self.after.tokens
        }
        found[""] = self.after.native_wei - self.before.native_wei + self.gas_wei
        return {token: amount for token, amount in found.items() if amount}


async def read_balances(chain: DevChain, markets: list[AaveMarket], account: str) -> Balances:
    """Read what an account holds of everything that the markets list."""
    tokens = sorted({reserve.token for market in markets for reserve in market.reserves.values()})
    block = await chain.block_number()
    held = await chain.call_all([(token, _BALANCE, (account,)) for token in tokens])
    native = int(await chain.rpc("eth_getBalance", account, "latest"), 16)
    return Balances(block, native, dict(zip(tokens, held, strict=True)))


async def read_statement(chain: DevChain, markets: dict[str, AaveMarket], account: str, before: Balances) -> Statement:
    """Read every transaction and liquidation of an account since a moment; blocks must not be mined meanwhile."""
    after = await read_balances(chain, list(markets.values()), account)
    statement = Statement(before, after)
    blocks = [("eth_getBlockReceipts", [hex(number)]) for number in range(before.block + 1, after.block + 1)]
    pools = {market.pool.lower(): name for name, market in markets.items()}
    for receipts in await chain.batch(blocks) if blocks else []:
        for receipt in receipts:
            if receipt["from"].lower() == account.lower():
                _add(statement, receipt, pools, account)
    return statement


def _add(statement: Statement, receipt: dict[str, Any], pools: dict[str, str], account: str) -> None:
    statement.transactions += 1
    statement.reverted += int(receipt["status"], 16) == 0
    statement.gas_wei += int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    for log in receipt["logs"]:
        market = pools.get(log["address"].lower())
        if market is None or log["topics"][0] != LIQUIDATION:
            continue
        repaid, seized, liquidator, _ = decode(
            ["uint256", "uint256", "address", "bool"], bytes.fromhex(log["data"][2:])
        )
        if liquidator.lower() == account.lower():
            collateral, debt, borrower = (to_checksum_address(f"0x{topic[-40:]}") for topic in log["topics"][1:4])
            block, tx_hash = int(log["blockNumber"], 16), str(log["transactionHash"])
            statement.liquidations.append(
                Liquidation(market, borrower, debt, collateral, repaid, seized, block, tx_hash)
            )
