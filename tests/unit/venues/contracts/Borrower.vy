# pragma version 0.4.3
# pragma evm-version cancun
"""
@title Borrower
@notice Takes a loan of any of the lenders that the keeper knows, makes the calls that it was told to while the loan is
        out, pays back, and remembers what the loan cost. Anybody may use it: it is for the tests alone.
"""
from ethereum.ercs import IERC20

struct Action:
    target: address
    data: Bytes[1024]

MAX_ACTIONS: constant(uint256) = 4

fee: public(uint256)
amount: public(uint256)
_token: address
_first: DynArray[Action, MAX_ACTIONS]
_second: DynArray[Action, MAX_ACTIONS]


@external
def borrow(
    lender: address,
    call: Bytes[1024],
    token: address,
    first: DynArray[Action, MAX_ACTIONS],
    second: DynArray[Action, MAX_ACTIONS],
):
    """
    @notice Call a lender; `first` is run in its callback, `second` in a liquidation's callback inside that.
    """
    self._token = token
    self._first = first
    self._second = second
    raw_call(lender, call)


@internal
def _run(amount: uint256, fee: uint256):
    self.amount = amount
    self.fee = fee
    for action: Action in self._first:
        raw_call(action.target, action.data)


@internal
def _owe(token: address, amount: uint256):
    extcall IERC20(token).approve(msg.sender, amount)


@external
def executeOperation(asset: address, amount: uint256, premium: uint256, initiator: address, params: Bytes[32]) -> bool:
    self._run(amount, premium)
    self._owe(asset, amount + premium)
    return True


@external
def onMorphoFlashLoan(assets: uint256, data: Bytes[32]):
    self._run(assets, 0)
    self._owe(self._token, assets)


@external
def onMorphoLiquidate(assets: uint256, data: Bytes[32]):
    for action: Action in self._second:
        raw_call(action.target, action.data)
    self._owe(self._token, assets)


@external
def receiveFlashLoan(
    tokens: DynArray[address, 1], amounts: DynArray[uint256, 1], fees: DynArray[uint256, 1], data: Bytes[32]
):
    self._run(amounts[0], fees[0])
    extcall IERC20(tokens[0]).transfer(msg.sender, amounts[0] + fees[0])


@external
def onFlashLoan(initiator: address, token: address, amount: uint256, fee: uint256, data: Bytes[32]) -> bytes32:
    self._run(amount, fee)
    self._owe(token, amount + fee)
    return keccak256("ERC3156FlashBorrower.onFlashLoan")
