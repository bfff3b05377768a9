# pragma version 0.4.3
"""
What all lenders here share: the ways in which a loan can go wrong between the transfer and the repayment.
"""

from ethereum.ercs import IERC20

flag Mood:
    OTHER_INITIATOR  # says that somebody else opened the loan
    DEARER  # asks for a tenth more than the loan, whatever it told before
    TWICE  # calls back twice
    NEVER  # does not call back
    OTHER_DATA  # calls back with data in which a byte differs
    NO_DATA  # calls back without data
    OTHER_AMOUNT  # says that it lent twice as much
    OTHER_TOKEN  # says that it lent another token
    LESS  # lends half of what it says
    AFTERWARDS  # calls back once more when it was repaid
    TAKES_NOTHING  # lets the loan stand, and the allowance with it
    TAKES_LESS  # takes half of the loan back
    TAKES_MORE  # takes a token more than the loan back
    THROUGH_OTHER  # has its accomplice call back
    SWALLOWING  # takes no notice of a callback that fails
    REENTERED  # has its accomplice act before it calls back

struct Terms:
    receiver: address
    token: address
    amount: uint256
    fee: uint256
    initiator: address

mood: public(Mood)
other: public(address)
fee_bps: public(uint256)
place: uint256  # of the byte that differs in other data
heard: public(uint256)  # how many callbacks went through since it was last told how to behave


@deploy
def __init__():
    pass


@external
def behave(mood: Mood, other: address, fee_bps: uint256, place: uint256):
    self.mood = mood
    self.place = place
    self.other = other
    self.fee_bps = fee_bps
    self.heard = 0


@internal
def lend(receiver: address, token: address, amount: uint256, initiator: address) -> Terms:
    """Pay a loan out, and return what the receiver is told of it."""
    fee: uint256 = amount * self.fee_bps // 10_000
    lent: uint256 = amount // 2 if Mood.LESS in self.mood else amount
    extcall IERC20(token).transfer(receiver, lent, default_return_value=True)
    return Terms(
        receiver=receiver,
        token=self.other if Mood.OTHER_TOKEN in self.mood else token,
        amount=amount * 2 if Mood.OTHER_AMOUNT in self.mood else amount,
        fee=fee + amount // 10 if Mood.DEARER in self.mood else fee,
        initiator=self.other if Mood.OTHER_INITIATOR in self.mood else initiator,
    )


@internal
@view
def told(data: Bytes[40000]) -> Bytes[80001]:
    """Return the data that the receiver gets back."""
    if Mood.NO_DATA in self.mood:
        return b""
    if Mood.OTHER_DATA in self.mood:
        at: uint256 = min(self.place, max(len(data), 1) - 1)
        if len(data) < 2 or at + 1 == len(data):
            return b"\x5a"
        return concat(slice(data, 0, at), b"\x5a", slice(data, at + 1, len(data) - at - 1))
    return data


@internal
def call_back(receiver: address, message: Bytes[82000]):
    """Call the receiver as often, and through whom, as the mood has it."""
    if Mood.REENTERED in self.mood:
        raw_call(self.other, b"")
    if Mood.NEVER in self.mood:
        return
    if Mood.THROUGH_OTHER in self.mood:
        raw_call(self.other, abi_encode(receiver, message, method_id=method_id("act(address,bytes)")))
        self.heard += 1
        return
    if Mood.SWALLOWING in self.mood:
        self.again(receiver, message)
    else:
        raw_call(receiver, message)
        self.heard += 1
    if Mood.TWICE in self.mood:
        self.again(receiver, message)


@internal
def again(receiver: address, message: Bytes[82000]):
    """Call back, and take no notice of a failure."""
    if raw_call(receiver, message, revert_on_failure=False):
        self.heard += 1


@internal
def collect(terms: Terms, token: address, amount: uint256, message: Bytes[82000]):
    """Take a loan back by the receiver's allowance."""
    due: uint256 = amount + terms.fee
    if Mood.TAKES_LESS in self.mood:
        due //= 2
    if Mood.TAKES_MORE in self.mood:
        due += 1
    if Mood.TAKES_NOTHING not in self.mood:
        extcall IERC20(token).transferFrom(terms.receiver, self, due, default_return_value=True)
    self.afterwards(terms.receiver, message)


@internal
def afterwards(receiver: address, message: Bytes[82000]):
    """Call back once more where the mood has it."""
    if Mood.AFTERWARDS in self.mood:
        self.again(receiver, message)
