# pragma version 0.4.3
# pragma evm-version cancun
"""
Lends and liquidates as Morpho does: the collateral first, then the callback, then the debt.
"""

from ethereum.ercs import IERC20

import lending

initializes: lending
exports: (lending.behave, lending.heard)

struct MarketParams:
    loan: address
    collateral: address
    oracle: address
    irm: address
    lltv: uint256

bonus_bps: constant(uint256) = 500


@deploy
def __init__():
    lending.__init__()


@external
def flashLoan(token: address, amount: uint256, data: Bytes[40000]):
    terms: lending.Terms = lending.lend(msg.sender, token, amount, msg.sender)
    message: Bytes[82000] = abi_encode(
        terms.amount, lending.told(data), method_id=method_id("onMorphoFlashLoan(uint256,bytes)")
    )
    lending.call_back(msg.sender, message)
    lending.collect(terms, token, amount, message)


@external
def liquidate(
    market: MarketParams, borrower: address, seized: uint256, repaid_shares: uint256, data: Bytes[40000]
) -> (uint256, uint256):
    """One loan token for each of collateral, less the bonus."""
    debt: uint256 = seized * 10_000 // (10_000 + bonus_bps)
    terms: lending.Terms = lending.lend(msg.sender, market.collateral, seized, msg.sender)
    said: uint256 = debt * 2 if lending.Mood.OTHER_AMOUNT in lending.mood else debt
    message: Bytes[82000] = abi_encode(said, lending.told(data), method_id=method_id("onMorphoLiquidate(uint256,bytes)"))
    lending.call_back(msg.sender, message)
    lending.collect(terms, market.loan, debt, message)
    return seized, debt
