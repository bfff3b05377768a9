# pragma version 0.4.3
# pragma evm-version cancun
"""
Does what it was told beforehand whenever anybody calls it, and counts what it got away with; or calls what it is told.
"""

struct Deed:
    target: address
    data: Bytes[20000]

deeds: DynArray[Deed, 16]
is_acting: bool
tried: public(uint256)
succeeded: public(uint256)


@external
def prepare(deeds: DynArray[Deed, 16]):
    self.deeds = deeds
    self.tried = 0
    self.succeeded = 0


@external
@payable
def act(target: address, data: Bytes[82000]):
    """Call somebody, and fail as it fails."""
    raw_call(target, data, value=msg.value)


@external
def act_twice(first: address, first_data: Bytes[20000], second: address, second_data: Bytes[20000]):
    """Make two calls in one transaction; the second may fail."""
    raw_call(first, first_data)
    self.tried += 1
    if raw_call(second, second_data, revert_on_failure=False):
        self.succeeded += 1


@external
@payable
def __default__():
    if self.is_acting:
        return
    self.is_acting = True
    for deed: Deed in self.deeds:
        self.tried += 1
        if raw_call(deed.target, deed.data, revert_on_failure=False):
            self.succeeded += 1
    self.is_acting = False
