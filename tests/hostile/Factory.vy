# pragma version 0.4.3
# pragma evm-version cancun
"""
Makes pools by CREATE2 at the addresses of Uniswap's rule, of whatever code it is given.
"""

interface Pool:
    def found(token0: address, token1: address): nonpayable


@external
def make_v3(code: Bytes[20000], token0: address, token1: address, fee: uint256) -> address:
    return self._make(code, token0, token1, keccak256(abi_encode(token0, token1, fee)))


@external
def make_v2(code: Bytes[20000], token0: address, token1: address) -> address:
    salt: bytes32 = keccak256(concat(convert(token0, bytes20), convert(token1, bytes20)))
    return self._make(code, token0, token1, salt)


@internal
def _make(code: Bytes[20000], token0: address, token1: address, salt: bytes32) -> address:
    made: address = raw_create(code, salt=salt)
    extcall Pool(made).found(token0, token1)
    return made
