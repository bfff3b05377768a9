# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy off
"""
@title VolatileSwap
@notice Our own pool with the interface of Curve's pools of volatile coins, which count them in uint256: two coins at a
        constant product, and a fee that falls while a trade brings the pool towards balance, so that the amount that
        comes out is not everywhere concave. It can be told to answer nonsense.
"""
from ethereum.ercs import IERC20

FEE_UNIT: constant(uint256) = 10**10

_coins: address[2]
balances: public(uint256[2])
low_fee: uint256
high_fee: uint256
nonsense: uint256


@deploy
def __init__(coins: address[2], low_fee: uint256, high_fee: uint256):
    self._coins = coins
    self.low_fee = low_fee
    self.high_fee = high_fee


@external
@view
def coins(place: uint256) -> address:
    return self._coins[place]


@external
def fill(amounts: uint256[2]):
    for place: uint256 in range(2):
        self.balances[place] += amounts[place]
        assert extcall IERC20(self._coins[place]).transferFrom(msg.sender, self, amounts[place])


@external
def lie(nonsense: uint256):
    """
    @param nonsense 1: more than any token has; 2: less for more
    """
    self.nonsense = nonsense


@internal
@view
def _out(give: uint256, take: uint256, amount: uint256) -> uint256:
    assert give != take and amount > 0
    if self.nonsense == 1:
        return max_value(uint256)
    if self.nonsense == 2:
        return 10**24 - amount
    x: uint256 = self.balances[give] + amount
    out: uint256 = self.balances[take] * amount // x
    y: uint256 = self.balances[take] - out
    balance: uint256 = 4 * x * y * 10**18 // (x + y) // (x + y)  # 1e18 where both are alike
    fee: uint256 = (self.low_fee * balance + self.high_fee * (10**18 - balance)) // 10**18
    return out - out * fee // FEE_UNIT


@external
@view
def get_dy(i: uint256, j: uint256, dx: uint256) -> uint256:
    return self._out(i, j, dx)


@external
def exchange(i: uint256, j: uint256, dx: uint256, min_dy: uint256) -> uint256:
    out: uint256 = self._out(i, j, dx)
    assert out >= min_dy
    self.balances[i] += dx
    self.balances[j] -= out
    assert extcall IERC20(self._coins[i]).transferFrom(msg.sender, self, dx)
    assert extcall IERC20(self._coins[j]).transfer(msg.sender, out)
    return out
