# pragma version 0.4.3
"""
@notice A Uniswap v2 pair with its invariant, and the fee of 0.3 %. Without arguments: see Counterparty.
"""


interface Erc20:
    def balanceOf(account: address) -> uint256: view
    def transfer(to: address, amount: uint256) -> bool: nonpayable


tokens: address[2]
reserves: uint256[2]


@external
def open(token0: address, token1: address):
    self.tokens = [token0, token1]
    for i: uint256 in range(2):
        self.reserves[i] = staticcall Erc20(self.tokens[i]).balanceOf(self)


@external
@view
def getReserves() -> (uint112, uint112, uint32):
    return convert(self.reserves[0], uint112), convert(self.reserves[1], uint112), 1


@external
def swap(out0: uint256, out1: uint256, to: address, data: Bytes[32]):
    assert len(data) == 0
    outs: uint256[2] = [out0, out1]
    product: uint256 = 1
    for i: uint256 in range(2):
        if outs[i] != 0:
            extcall Erc20(self.tokens[i]).transfer(to, outs[i])
        balance: uint256 = staticcall Erc20(self.tokens[i]).balanceOf(self)
        put: uint256 = balance + outs[i] - self.reserves[i]
        product *= balance * 1000 - put * 3
    assert product >= self.reserves[0] * self.reserves[1] * 1_000_000, "K"
