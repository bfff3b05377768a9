# pragma version 0.4.3
# pragma evm-version cancun
"""
A token that is honest until its mood says otherwise. It moves, returns and reverts as tokens on real chains do, and worse.
"""

flag Mood:
    SILENT  # returns nothing
    REFUSING  # returns false, and does nothing
    LIAR  # returns true, and does nothing
    TAXED  # a tenth of each transfer is gone
    BOMB  # returns 32 KB that begin with true
    REVERT_BOMB  # reverts with 32 KB
    BURNER  # takes all the gas that it gets
    STUBBORN  # changes an allowance only from zero or to zero
    NO_ZERO  # refuses to move or allow nothing
    BLOCKING  # refuses whoever is on its list
    PAUSED  # refuses to move anything
    HOOKED  # calls its hook before and after each transfer
    UNSPENT  # never uses an allowance up
    FLATTERER  # tells twice the balance
    SHRINKING  # takes a tenth of what the receiver had before each transfer
    JUNK  # returns a number that is neither 0 nor 1
    DEAF  # says yes to an allowance, and grants nothing
    GENEROUS  # grants twice the allowance that it is asked for

balances: HashMap[address, uint256]
allowances: HashMap[address, HashMap[address, uint256]]
totalSupply: public(uint256)
mood: public(Mood)
blocked: public(HashMap[address, bool])
hook: public(address)
decimals: public(constant(uint8)) = 18


@external
def behave(mood: Mood, hook: address):
    self.mood = mood
    self.hook = hook


@external
def block_account(account: address):
    self.blocked[account] = True


@external
def mint(account: address, amount: uint256):
    self.balances[account] += amount
    self.totalSupply += amount


@external
def rebase(account: address, numerator: uint256, denominator: uint256):
    changed: uint256 = self.balances[account] * numerator // denominator
    self.totalSupply = self.totalSupply + changed - self.balances[account]
    self.balances[account] = changed


@external
def let_stand(owner: address, spender: address, amount: uint256):
    """Leave an allowance, as if from earlier."""
    self.allowances[owner][spender] = amount


@external
@view
def books(accounts: DynArray[address, 4]) -> DynArray[uint256, 4]:
    """Tell the truth about balances."""
    held: DynArray[uint256, 4] = []
    for account: address in accounts:
        held.append(self.balances[account])
    return held


@external
@view
def standing(owner: address, spenders: DynArray[address, 32]) -> DynArray[uint256, 32]:
    """Tell the truth about allowances."""
    allowed: DynArray[uint256, 32] = []
    for spender: address in spenders:
        allowed.append(self.allowances[owner][spender])
    return allowed


@external
@view
def balanceOf(account: address) -> uint256:
    return self.balances[account] * (2 if Mood.FLATTERER in self.mood else 1)


@external
@view
def allowance(owner: address, spender: address) -> uint256:
    return self.allowances[owner][spender]


@external
@raw_return
def transfer(to: address, amount: uint256) -> Bytes[32000]:
    if self._does_nothing():
        return self._answer()
    self._move(msg.sender, to, amount)
    return self._answer()


@external
@raw_return
def transferFrom(owner: address, to: address, amount: uint256) -> Bytes[32000]:
    if self._does_nothing():
        return self._answer()
    allowed: uint256 = self.allowances[owner][msg.sender]
    assert allowed >= amount, "ERC20: insufficient allowance"
    if Mood.UNSPENT not in self.mood:
        self.allowances[owner][msg.sender] = allowed - amount
    self._move(owner, to, amount)
    return self._answer()


@external
@raw_return
def approve(spender: address, amount: uint256) -> Bytes[32000]:
    if self._does_nothing() or Mood.DEAF in self.mood:
        return self._answer()
    if Mood.STUBBORN in self.mood:
        assert amount == 0 or self.allowances[msg.sender][spender] == 0, "approve from non-zero to non-zero"
    if Mood.NO_ZERO in self.mood:
        assert amount != 0, "zero approval"
    self.allowances[msg.sender][spender] = amount * (2 if Mood.GENEROUS in self.mood else 1)
    return self._answer()


# The wrapped native token's own words.


@external
@payable
def deposit():
    self.balances[msg.sender] += msg.value
    self.totalSupply += msg.value


@external
def withdraw(amount: uint256):
    self.balances[msg.sender] -= amount
    self.totalSupply -= amount
    raw_call(msg.sender, b"", value=amount)


@internal
def _move(owner: address, to: address, amount: uint256):
    assert Mood.PAUSED not in self.mood, "Pausable: paused"
    if Mood.NO_ZERO in self.mood:
        assert amount != 0, "zero transfer"
    if Mood.BLOCKING in self.mood:
        assert not self.blocked[owner] and not self.blocked[to], "Blacklistable: account is blacklisted"
    if Mood.HOOKED in self.mood:
        raw_call(self.hook, abi_encode(owner, to, amount, method_id=method_id("tokensToSend(address,address,uint256)")))
    if Mood.SHRINKING in self.mood:
        self.totalSupply -= self.balances[to] // 10
        self.balances[to] -= self.balances[to] // 10
    lost: uint256 = amount // 10 if Mood.TAXED in self.mood else 0
    self.balances[owner] -= amount
    self.balances[to] += amount - lost
    self.totalSupply -= lost
    if Mood.HOOKED in self.mood:
        raw_call(self.hook, abi_encode(owner, to, amount, method_id=method_id("tokensReceived(address,address,uint256)")))


@internal
@view
def _does_nothing() -> bool:
    if Mood.BURNER in self.mood:
        raise UNREACHABLE
    if Mood.REVERT_BOMB in self.mood:
        filler: uint256[1000] = empty(uint256[1000])
        raw_revert(abi_encode(filler))
    return Mood.REFUSING in self.mood or Mood.LIAR in self.mood


@internal
@view
def _answer() -> Bytes[32000]:
    if Mood.SILENT in self.mood:
        return b""
    if Mood.REFUSING in self.mood:
        return abi_encode(False)
    if Mood.JUNK in self.mood:
        return abi_encode(convert(2, uint256))
    if Mood.BOMB in self.mood:
        filler: uint256[1000] = empty(uint256[1000])
        filler[0] = 1
        return abi_encode(filler)
    return abi_encode(True)
