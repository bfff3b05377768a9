# pragma version 0.4.3
"""
@notice Lender, market, pool, router or owner with a script: when it is called for the n-th time it makes the n-th
        script's calls, in order. A call that need not succeed is counted where it is refused. Without arguments, so that
        the address of a pool follows from its code.
"""


struct Action:
    to: address
    data: Bytes[1024]
    amount: uint256  # of native currency
    must: bool


scripts: HashMap[uint256, DynArray[Action, 32]]
calls: public(uint256)
refused: public(uint256)
digest: public(bytes32)  # of what it was last called with


@external
def write(number: uint256, script: DynArray[Action, 32]):
    self.scripts[number] = script


@external
def act(number: uint256):
    self._act(number)


@external
@payable
def __default__():
    number: uint256 = self.calls
    self.calls += 1
    # the contract that answers with what it is called with, since msg.data cannot be copied otherwise
    self.digest = keccak256(
        raw_call(0x0000000000000000000000000000000000000004, msg.data, max_outsize=8300, is_static_call=True)
    )
    self._act(number)


@internal
def _act(number: uint256):
    for action: Action in self.scripts[number]:
        is_done: bool = False
        response: Bytes[256] = b""
        is_done, response = raw_call(
            action.to, action.data, max_outsize=256, value=action.amount, revert_on_failure=False
        )
        if not is_done:
            if action.must:
                raw_revert(response)
            self.refused += 1
