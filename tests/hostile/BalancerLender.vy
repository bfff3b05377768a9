# pragma version 0.4.3
# pragma evm-version cancun
"""
Lends as Balancer's vault does: what was lent must have come back by itself.
"""

from ethereum.ercs import IERC20

import lending

initializes: lending
exports: (lending.behave, lending.heard)


@deploy
def __init__():
    lending.__init__()


@external
def flashLoan(receiver: address, tokens: DynArray[address, 4], amounts: DynArray[uint256, 4], data: Bytes[40000]):
    token: address = tokens[0]
    before: uint256 = staticcall IERC20(token).balanceOf(self)
    terms: lending.Terms = lending.lend(receiver, token, amounts[0], msg.sender)
    told_tokens: DynArray[address, 4] = [terms.token]
    told_amounts: DynArray[uint256, 4] = [terms.amount]
    fees: DynArray[uint256, 4] = [terms.fee]
    message: Bytes[82000] = abi_encode(
        told_tokens,
        told_amounts,
        fees,
        lending.told(data),
        method_id=method_id("receiveFlashLoan(address[],uint256[],uint256[],bytes)"),
    )
    lending.call_back(receiver, message)
    if lending.Mood.TAKES_NOTHING not in lending.mood:
        assert staticcall IERC20(token).balanceOf(self) >= before + terms.fee, "BAL#515"
    lending.afterwards(receiver, message)
