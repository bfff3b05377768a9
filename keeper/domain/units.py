"""Units and identifiers. Money is an integer whose unit is in its type or its name."""

from typing import Final, NewType

Address = NewType("Address", bytes)
"""Twenty bytes; rendered as a checksummed string only at the edges."""
PositionId = NewType("PositionId", bytes)
"""An account's twenty bytes, followed by what tells its positions in one market apart: nothing where it has but one.

With the zero address in front it is no position but a part of the market that only logs name.
"""
BlockHash = NewType("BlockHash", bytes)
TxHash = NewType("TxHash", bytes)
Wei = NewType("Wei", int)
"""Native currency, 18 decimals."""
TokenAmount = NewType("TokenAmount", int)
"""A token's own smallest unit."""
Base = NewType("Base", int)
"""A market's base currency: US dollars with 8 decimals."""
Wad = NewType("Wad", int)
"""18 decimals."""
Ray = NewType("Ray", int)
"""27 decimals."""
Bps = NewType("Bps", int)
"""Hundredths of a percent."""
Column = NewType("Column", int)
"""A protocol's own number for one shared factor of the linear form."""

WAD: Final = 10**18
RAY: Final = 10**27
BPS: Final = 10**4
BASE_UNIT: Final = 10**8
MAX_UINT256: Final = 2**256 - 1
ZERO_ADDRESS: Final = Address(bytes(20))
NATIVE: Final = Address(b"\xee" * 20)
"""Stands for the chain's native currency where a token's address is expected."""
