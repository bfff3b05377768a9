# pragma version 0.4.3
# pragma evm-version cancun
"""
A constant product of two tokens, as Uniswap v2's pair keeps it: whoever trades first moves the price for the next.
"""

from ethereum.ercs import IERC20

flag Mood:
    PAYS_LESS  # pays half of what was asked for
    PAYS_OTHER  # pays its accomplice
    FLATTERING  # tells twice of the reserve that is paid out

token0: public(address)
token1: public(address)
reserve0: uint256
reserve1: uint256
mood: public(Mood)
other: public(address)


@external
def found(token0: address, token1: address):
    self.token0 = token0
    self.token1 = token1


@external
def behave(mood: Mood, other: address):
    self.mood = mood
    self.other = other


@external
def sync():
    self.reserve0 = staticcall IERC20(self.token0).balanceOf(self)
    self.reserve1 = staticcall IERC20(self.token1).balanceOf(self)


@external
@view
def getReserves() -> (uint112, uint112, uint32):
    scale: uint256 = 2 if Mood.FLATTERING in self.mood else 1
    return convert(self.reserve0, uint112), convert(self.reserve1 * scale, uint112), 0


@external
def swap(amount0: uint256, amount1: uint256, to: address, data: Bytes[1024]):
    share: uint256 = 2 if Mood.PAYS_LESS in self.mood else 1
    receiver: address = self.other if Mood.PAYS_OTHER in self.mood else to
    if amount0 > 0:
        extcall IERC20(self.token0).transfer(receiver, amount0 // share, default_return_value=True)
    if amount1 > 0:
        extcall IERC20(self.token1).transfer(receiver, amount1 // share, default_return_value=True)
    held0: uint256 = staticcall IERC20(self.token0).balanceOf(self)
    held1: uint256 = staticcall IERC20(self.token1).balanceOf(self)
    in0: uint256 = held0 - min(held0, self.reserve0 - amount0)
    in1: uint256 = held1 - min(held1, self.reserve1 - amount1)
    after: uint256 = (held0 * 1000 - in0 * 3) * (held1 * 1000 - in1 * 3)
    assert after >= self.reserve0 * self.reserve1 * 1_000_000, "UniswapV2: K"
    self.reserve0 = held0
    self.reserve1 = held1
