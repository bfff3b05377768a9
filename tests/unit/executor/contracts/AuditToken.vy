# pragma version 0.4.3
"""
@notice A token that refuses by a custom error without arguments, knows DAI's `move`, and lets one spender take anything,
        as Balancer's pool tokens let the vault.
"""

balanceOf: public(HashMap[address, uint256])
allowances: HashMap[address, HashMap[address, uint256]]
vault: public(address)


@external
def trust(vault: address):
    self.vault = vault


@external
def mint(to: address, amount: uint256):
    self.balanceOf[to] += amount


@external
@view
def allowance(owner: address, spender: address) -> uint256:
    return max_value(uint256) if spender == self.vault else self.allowances[owner][spender]


@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowances[msg.sender][spender] = amount
    return True


@external
def transfer(to: address, amount: uint256) -> bool:
    self._move(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    self._spend(owner, amount)
    self._move(owner, to, amount)
    return True


@external
def move(owner: address, to: address, amount: uint256):
    self._spend(owner, amount)
    self._move(owner, to, amount)


@internal
def _spend(owner: address, amount: uint256):
    if msg.sender != self.vault:
        self.allowances[owner][msg.sender] -= amount


@internal
def _move(owner: address, to: address, amount: uint256):
    if self.balanceOf[owner] < amount:
        raw_revert(method_id("InsufficientBalance()"))
    self.balanceOf[owner] -= amount
    self.balanceOf[to] += amount
