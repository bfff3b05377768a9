# pragma version 0.4.3
# pragma evm-version cancun
"""
Lends as ERC-3156 asks for.
"""

import lending

initializes: lending
exports: (lending.behave, lending.heard)


@deploy
def __init__():
    lending.__init__()


@external
@view
def flashFee(token: address, amount: uint256) -> uint256:
    return amount * lending.fee_bps // 10_000


@external
@view
def maxFlashLoan(token: address) -> uint256:
    return max_value(uint256)


@external
def flashLoan(receiver: address, token: address, amount: uint256, data: Bytes[40000]) -> bool:
    terms: lending.Terms = lending.lend(receiver, token, amount, msg.sender)
    message: Bytes[82000] = abi_encode(
        terms.initiator,
        terms.token,
        terms.amount,
        terms.fee,
        lending.told(data),
        method_id=method_id("onFlashLoan(address,address,uint256,uint256,bytes)"),
    )
    lending.call_back(receiver, message)
    lending.collect(terms, token, amount, message)
    return True
