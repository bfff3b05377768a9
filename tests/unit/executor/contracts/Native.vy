# pragma version 0.4.3
"""
@notice Wrapped native currency, which pays out with the 2,300 gas of a plain transfer.
"""

balanceOf: public(HashMap[address, uint256])


@external
@payable
def deposit():
    self.balanceOf[msg.sender] += msg.value


@external
def withdraw(amount: uint256):
    self.balanceOf[msg.sender] -= amount
    send(msg.sender, amount)


@external
def transfer(to: address, amount: uint256) -> bool:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount
    return True
