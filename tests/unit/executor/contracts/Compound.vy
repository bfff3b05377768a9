# pragma version 0.4.3
"""
@notice A Compound-like market, and its own receipt, which says what went wrong by a number instead of reverting.
"""


interface Erc20:
    def mint(to: address, amount: uint256): nonpayable
    def transferFrom(owner: address, to: address, amount: uint256) -> bool: nonpayable


underlying: address
failure: uint256
balanceOf: public(HashMap[address, uint256])


@deploy
def __init__(underlying: address):
    self.underlying = underlying


@external
def fail_with(failure: uint256):
    self.failure = failure


@external
def mint(to: address, amount: uint256):
    self.balanceOf[to] += amount


@external
def liquidateBorrow(borrower: address, amount: uint256, collateral: address) -> uint256:
    if self.failure == 0:
        extcall Erc20(self.underlying).transferFrom(msg.sender, self, amount)
        extcall Erc20(collateral).mint(msg.sender, amount * 2)
    return self.failure


@external
def redeem(amount: uint256) -> uint256:
    if self.failure == 0:
        self.balanceOf[msg.sender] -= amount
        extcall Erc20(self.underlying).mint(msg.sender, amount)
    return self.failure
