# pragma version 0.4.3
"""
@notice A plain token that anybody may mint; `tether` makes it as strict about allowances as Tether's.
"""

balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
approvals: public(uint256)
is_tether: bool


@deploy
def __init__(is_tether: bool):
    self.is_tether = is_tether


@external
def mint(to: address, amount: uint256):
    self.balanceOf[to] += amount


@external
def transfer(to: address, amount: uint256) -> bool:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    self.allowance[owner][msg.sender] -= amount
    self.balanceOf[owner] -= amount
    self.balanceOf[to] += amount
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    assert not self.is_tether or amount == 0 or self.allowance[msg.sender][spender] == 0, "from zero only"
    self.approvals += 1
    self.allowance[msg.sender][spender] = amount
    return True
