# pragma version 0.4.3
# pragma evm-version cancun
"""
@title FeeVault
@notice Our own vault by EIP-4626, as far as redeeming goes: it takes a fee, flat and in proportion, and has less cash
        than its shares are worth. It can be told to answer nonsense.
"""
asset: public(address)
rate: uint256
flat: uint256
bps: uint256
cash: uint256
shares: HashMap[address, uint256]
nonsense: bool


@deploy
def __init__(asset: address, rate: uint256, flat: uint256, bps: uint256, cash: uint256):
    self.asset = asset
    self.rate = rate
    self.flat = flat
    self.bps = bps
    self.cash = cash


@external
def give(to: address, amount: uint256):
    self.shares[to] += amount


@external
def lie():
    self.nonsense = True


@external
@view
def previewRedeem(shares: uint256) -> uint256:
    if self.nonsense:
        return max_value(uint256)
    gross: uint256 = shares * self.rate // 10**18
    fee: uint256 = self.flat + gross * self.bps // 10_000
    return gross - min(gross, fee)


@external
@view
def maxRedeem(owner: address) -> uint256:
    return min(self.shares[owner], self.cash * 10**18 // self.rate)
