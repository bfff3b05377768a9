# pragma version 0.4.3
# pragma evm-version cancun
"""
Swaps and lends as a Uniswap v3 pool does, at a fixed price, honestly until its mood says otherwise.
"""

from ethereum.ercs import IERC20

flag Mood:
    ASKS_MORE  # asks for twice the price
    ASKS_OTHER  # asks for the token that it paid
    ASKS_BOTH  # asks for both tokens
    TWICE  # calls back twice
    NEVER  # pays, and does not call back
    OTHER_DATA  # calls back with data in which a byte differs
    NO_DATA
    PAYS_LESS  # pays half
    AFTERWARDS  # calls back once more at the end
    THROUGH_OTHER  # has its accomplice call back
    OTHER_CALLBACK  # calls the flash callback for a swap, and the other way round
    UNWATCHFUL  # takes no notice of what it was paid
    SWALLOWING  # takes no notice of a callback that fails
    REENTERED  # has its accomplice act before it calls back
    DEARER  # asks a tenth more for a loan

token0: public(address)
token1: public(address)
mood: public(Mood)
other: public(address)
price_bps: public(uint256)  # what is paid for 10,000 of what comes in
heard: public(uint256)
place: uint256  # of the byte that differs in other data


@external
def found(token0: address, token1: address):
    self.token0 = token0
    self.token1 = token1
    self.price_bps = 9_970


@external
def behave(mood: Mood, other: address, price_bps: uint256, place: uint256):
    self.mood = mood
    self.place = place
    self.other = other
    self.price_bps = price_bps
    self.heard = 0


@external
def swap(to: address, is_zero_for_one: bool, amount: int256, limit: uint160, data: Bytes[40000]) -> (int256, int256):
    taken: int256 = amount
    paid: int256 = amount * convert(self.price_bps, int256) // 10_000
    if amount < 0:
        paid = -amount
        taken = (-amount * 10_000 + convert(self.price_bps, int256) - 1) // convert(self.price_bps, int256)
    into: address = self.token0 if is_zero_for_one else self.token1
    out: address = self.token1 if is_zero_for_one else self.token0
    sent: int256 = paid // 2 if Mood.PAYS_LESS in self.mood else paid
    extcall IERC20(out).transfer(to, convert(sent, uint256), default_return_value=True)
    before: uint256 = staticcall IERC20(into).balanceOf(self)
    asked: int256 = taken * 2 if Mood.ASKS_MORE in self.mood else taken
    given: int256 = asked if Mood.ASKS_BOTH in self.mood else -paid
    if Mood.ASKS_OTHER in self.mood:
        given = asked
        asked = -paid
    delta0: int256 = asked if is_zero_for_one else given
    delta1: int256 = given if is_zero_for_one else asked
    self._call_back(delta0, delta1, data, True)
    if Mood.UNWATCHFUL not in self.mood:
        assert staticcall IERC20(into).balanceOf(self) >= before + convert(taken, uint256), "IIA"
    self._afterwards(delta0, delta1, data, True)
    return (taken if is_zero_for_one else -paid, -paid if is_zero_for_one else taken)


@external
def flash(to: address, amount0: uint256, amount1: uint256, data: Bytes[40000]):
    before0: uint256 = staticcall IERC20(self.token0).balanceOf(self)
    before1: uint256 = staticcall IERC20(self.token1).balanceOf(self)
    share: uint256 = 2 if Mood.PAYS_LESS in self.mood else 1
    if amount0 > 0:
        extcall IERC20(self.token0).transfer(to, amount0 // share, default_return_value=True)
    if amount1 > 0:
        extcall IERC20(self.token1).transfer(to, amount1 // share, default_return_value=True)
    part: uint256 = 10_000 - self.price_bps + (1_000 if Mood.DEARER in self.mood else 0)
    fee0: uint256 = (amount0 * part + 9_999) // 10_000
    fee1: uint256 = (amount1 * part + 9_999) // 10_000
    asked0: int256 = convert(fee1 if Mood.ASKS_OTHER in self.mood else fee0, int256)
    asked1: int256 = convert(fee0 if Mood.ASKS_OTHER in self.mood else fee1, int256)
    self._call_back(asked0, asked1, data, False)
    if Mood.UNWATCHFUL not in self.mood:
        assert staticcall IERC20(self.token0).balanceOf(self) >= before0 + fee0, "F0"
        assert staticcall IERC20(self.token1).balanceOf(self) >= before1 + fee1, "F1"
    self._afterwards(asked0, asked1, data, False)


@internal
def _call_back(delta0: int256, delta1: int256, data: Bytes[40000], is_swap: bool):
    message: Bytes[82000] = self._message(delta0, delta1, data, is_swap)
    if Mood.REENTERED in self.mood:
        raw_call(self.other, b"")
    if Mood.NEVER in self.mood:
        return
    if Mood.THROUGH_OTHER in self.mood:
        raw_call(self.other, abi_encode(msg.sender, message, method_id=method_id("act(address,bytes)")))
        self.heard += 1
        return
    if Mood.SWALLOWING in self.mood:
        self._again(message)
    else:
        raw_call(msg.sender, message)
        self.heard += 1
    if Mood.TWICE in self.mood:
        self._again(message)


@internal
def _afterwards(delta0: int256, delta1: int256, data: Bytes[40000], is_swap: bool):
    if Mood.AFTERWARDS in self.mood:
        self._again(self._message(delta0, delta1, data, is_swap))


@internal
def _again(message: Bytes[82000]):
    if raw_call(msg.sender, message, revert_on_failure=False):
        self.heard += 1


@internal
@view
def _message(delta0: int256, delta1: int256, data: Bytes[40000], is_swap: bool) -> Bytes[82000]:
    said: Bytes[80001] = data
    if Mood.NO_DATA in self.mood:
        said = b""
    if Mood.OTHER_DATA in self.mood:
        at: uint256 = min(self.place, max(len(data), 1) - 1)
        said = b"\x5a"
        if len(data) > 1 and at + 1 < len(data):
            said = concat(slice(data, 0, at), b"\x5a", slice(data, at + 1, len(data) - at - 1))
    if is_swap != (Mood.OTHER_CALLBACK in self.mood):
        return abi_encode(delta0, delta1, said, method_id=method_id("uniswapV3SwapCallback(int256,int256,bytes)"))
    return abi_encode(delta0, delta1, said, method_id=method_id("uniswapV3FlashCallback(uint256,uint256,bytes)"))
