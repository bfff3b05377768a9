# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Stake
@notice Our own rebasing stake with its wrapper in one: amounts are shares of a total, rounded down twice on the way, as
        Lido documents it. Transfers of the stake lose up to two units to that.
"""
shares: public(HashMap[address, uint256])
total_shares: public(uint256)
total_staked: public(uint256)
balances: HashMap[address, uint256]  # of the wrapped token
is_precise: bool


@deploy
def __init__(total_shares: uint256, total_staked: uint256, is_precise: bool):
    self.total_shares = total_shares
    self.total_staked = total_staked
    self.is_precise = is_precise


@external
def give(to: address, amount: uint256):
    """
    @notice Give somebody wrapped tokens out of the shares that are there.
    """
    self.balances[to] += amount
    self.shares[self] += amount


@external
@view
def stETH() -> address:
    return self


@internal
@view
def _staked(shares: uint256) -> uint256:
    return shares * self.total_staked // self.total_shares


@external
@view
def stEthPerToken() -> uint256:
    return self._staked(10**18)


@external
@view
def getStETHByWstETH(amount: uint256) -> uint256:
    assert self.is_precise
    return self._staked(amount)


@external
@view
def staked(owner: address) -> uint256:
    """
    @notice What an account holds of the stake.
    """
    return self._staked(self.shares[owner])


@external
def unwrap(amount: uint256) -> uint256:
    self.balances[msg.sender] -= amount
    staked: uint256 = self._staked(amount)
    moved: uint256 = staked * self.total_shares // self.total_staked
    self.shares[self] -= moved
    self.shares[msg.sender] += moved
    return staked
