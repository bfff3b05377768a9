# pragma version 0.4.3
"""
@notice Creates its pools where Uniswap's factories would.
"""

blueprint: address


@deploy
def __init__(blueprint: address):
    self.blueprint = blueprint


@external
def create_v3(token0: address, token1: address, fee: uint256) -> address:
    return create_from_blueprint(self.blueprint, salt=keccak256(abi_encode(token0, token1, fee)))


@external
def create_v2(token0: address, token1: address) -> address:
    return create_from_blueprint(
        self.blueprint, salt=keccak256(concat(convert(token0, bytes20), convert(token1, bytes20)))
    )
