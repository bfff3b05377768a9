# pragma version 0.4.3
# pragma evm-version cancun
"""
Lends as Aave v3's pool does.
"""

import lending

initializes: lending
exports: (lending.behave, lending.heard)


@deploy
def __init__():
    lending.__init__()


@external
def flashLoanSimple(receiver: address, asset: address, amount: uint256, params: Bytes[40000], referral: uint16):
    terms: lending.Terms = lending.lend(receiver, asset, amount, msg.sender)
    message: Bytes[82000] = abi_encode(
        terms.token,
        terms.amount,
        terms.fee,
        terms.initiator,
        lending.told(params),
        method_id=method_id("executeOperation(address,uint256,uint256,address,bytes)"),
    )
    lending.call_back(receiver, message)
    lending.collect(terms, asset, amount, message)
