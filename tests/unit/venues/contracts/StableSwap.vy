# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy off
"""
@title StableSwap
@notice Our own pool after the invariant that Michael Egorov published in 2019 ("StableSwap - efficient mechanism for
        Stablecoin liquidity"): A n^n sum(x) + D = A D n^n + D^(n+1) / (n^n prod(x)), solved by Newton's method in
        integers of eighteen decimals. Three coins, counted in int128, the fee taken off what comes out. Nothing here is
        Curve's code; its interface is.
"""
from ethereum.ercs import IERC20

N: constant(uint256) = 3
FEE_UNIT: constant(uint256) = 10**10

_coins: address[N]
balances: public(uint256[N])
rates: uint256[N]
amplification: public(uint256)
fee: public(uint256)
is_killed: public(bool)


@deploy
def __init__(coins: address[N], rates: uint256[N], amplification: uint256, fee: uint256):
    """
    @param rates What one unit of each coin is in eighteen decimals
    """
    self._coins = coins
    self.rates = rates
    self.amplification = amplification
    self.fee = fee


@external
@view
def coins(place: uint256) -> address:
    return self._coins[place]


@external
def fill(amounts: uint256[N]):
    for place: uint256 in range(N):
        self.balances[place] += amounts[place]
        assert extcall IERC20(self._coins[place]).transferFrom(msg.sender, self, amounts[place])


@external
def kill(killed: bool):
    self.is_killed = killed


@internal
@view
def _scaled() -> uint256[N]:
    scaled: uint256[N] = self.balances
    for place: uint256 in range(N):
        scaled[place] *= self.rates[place]
    return scaled


@internal
@pure
def _invariant(x: uint256[N], a: uint256) -> uint256:
    total: uint256 = x[0] + x[1] + x[2]
    weight: uint256 = a * N
    d: uint256 = total
    for step: uint256 in range(255):
        part: uint256 = d
        for each: uint256 in x:
            part = part * d // (each * N)
        before: uint256 = d
        d = (weight * total + part * N) * d // ((weight - 1) * d + (N + 1) * part)
        if max(d, before) - min(d, before) <= 1:
            return d
    raise "no invariant"


@internal
@pure
def _solve(give: uint256, take: uint256, given: uint256, x: uint256[N], a: uint256) -> uint256:
    d: uint256 = self._invariant(x, a)
    weight: uint256 = a * N
    rest: uint256 = 0
    c: uint256 = d
    for place: uint256 in range(N):
        if place != take:
            each: uint256 = given if place == give else x[place]
            rest += each
            c = c * d // (each * N)
    c = c * d // (weight * N)
    b: uint256 = rest + d // weight
    y: uint256 = d
    for step: uint256 in range(255):
        before: uint256 = y
        y = (y * y + c) // (2 * y + b - d)
        if max(y, before) - min(y, before) <= 1:
            return y
    raise "no solution"


@internal
@view
def _out(i: int128, j: int128, amount: uint256) -> uint256:
    give: uint256 = convert(i, uint256)
    take: uint256 = convert(j, uint256)
    assert give != take and give < N and take < N
    x: uint256[N] = self._scaled()
    y: uint256 = self._solve(give, take, x[give] + amount * self.rates[give], x, self.amplification)
    out: uint256 = (x[take] - y - 1) // self.rates[take]
    return out - out * self.fee // FEE_UNIT


@external
@view
def get_dy(i: int128, j: int128, dx: uint256) -> uint256:
    return self._out(i, j, dx)


@external
@nonreentrant
def exchange(i: int128, j: int128, dx: uint256, min_dy: uint256) -> uint256:
    assert not self.is_killed
    out: uint256 = self._out(i, j, dx)
    assert out >= min_dy
    self.balances[convert(i, uint256)] += dx
    self.balances[convert(j, uint256)] -= out
    assert extcall IERC20(self._coins[convert(i, uint256)]).transferFrom(msg.sender, self, dx)
    assert extcall IERC20(self._coins[convert(j, uint256)]).transfer(msg.sender, out)
    return out
