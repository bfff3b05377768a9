# pragma version 0.4.3
"""
@title An honest lender of one token, as ERC-3156 has it
@license MIT
"""

from ethereum.ercs import IERC20


interface Borrower:
    def onFlashLoan(
        initiator: address, token: address, amount: uint256, fee: uint256, data: Bytes[1024]
    ) -> bytes32: nonpayable


DONE: constant(bytes32) = keccak256("ERC3156FlashBorrower.onFlashLoan")
FEE_BPS: constant(uint256) = 1

token: public(immutable(address))


@deploy
def __init__(lent: address):
    token = lent


@view
@external
def maxFlashLoan(asked: address) -> uint256:
    return staticcall IERC20(token).balanceOf(self) if asked == token else 0


@view
@external
def flashFee(asked: address, amount: uint256) -> uint256:
    assert asked == token, "not lent here"
    return amount * FEE_BPS // 10_000


@external
def flashLoan(receiver: address, asked: address, amount: uint256, data: Bytes[1024]) -> bool:
    assert asked == token, "not lent here"
    fee: uint256 = amount * FEE_BPS // 10_000
    assert extcall IERC20(token).transfer(receiver, amount)
    assert extcall Borrower(receiver).onFlashLoan(msg.sender, asked, amount, fee, data) == DONE
    assert extcall IERC20(token).transferFrom(receiver, self, amount + fee)
    return True
