# pragma version 0.4.3
# pragma evm-version cancun
"""
Takes one token and pays another, by four names: Aave's liquidation, Compound's, a router's swap, Curve's exchange.
"""

from ethereum.ercs import IERC20

flag Mood:
    POISON  # reverts
    POISON_BOMB  # reverts with 32 KB
    BURNER  # takes all the gas that it gets
    PAYS_NOTHING
    PAYS_LESS  # pays half
    PAYS_OTHER  # pays its accomplice
    PAYS_JUNK  # pays in a token of its own
    TAKES_NOTHING  # pays, and leaves the allowance as it is
    TAKES_LESS  # takes half, and leaves half of the allowance
    TAKES_MORE  # takes a token more than it was given
    REENTERED  # has its accomplice act
    WATCHING  # pays as long as it looks like a simulation, nothing otherwise
    ERROR_CODE  # does nothing and returns an error code, as old markets do
    LOOTING  # takes, now or later, whatever its allowance still lets it

struct Deal:
    give: address
    take: address
    payer: address
    amount: uint256
    to: address

mood: public(Mood)
other: public(address)
junk: public(address)
rate_bps: public(uint256)
coins: public(address[2])


@external
def behave(mood: Mood, other: address, rate_bps: uint256):
    """`rate_bps`: how much it pays for 10,000 of what it takes."""
    self.mood = mood
    self.other = other
    self.rate_bps = rate_bps


@external
def list_coins(coins: address[2], junk: address):
    self.coins = coins
    self.junk = junk


@external
def liquidationCall(collateral: address, debt: address, user: address, amount: uint256, receive_atoken: bool):
    self._trade(Deal(give=debt, take=collateral, payer=msg.sender, amount=amount, to=msg.sender))


@external
def liquidateBorrow(borrower: address, amount: uint256, collateral: address) -> uint256:
    if Mood.ERROR_CODE in self.mood:
        return 3
    self._trade(Deal(give=self.coins[0], take=collateral, payer=msg.sender, amount=amount, to=msg.sender))
    return 0


@external
def swap(give: address, take: address, amount: uint256, least: uint256, to: address) -> uint256:
    return self._trade(Deal(give=give, take=take, payer=msg.sender, amount=amount, to=to))


@external
def exchange(i: int128, j: int128, amount: uint256, least: uint256) -> uint256:
    return self._trade(Deal(give=self.coins[i], take=self.coins[j], payer=msg.sender, amount=amount, to=msg.sender))


@external
def loot(token: address, victim: address):
    """Take what a standing allowance lets it."""
    amount: uint256 = min(staticcall IERC20(token).allowance(victim, self), staticcall IERC20(token).balanceOf(victim))
    if amount != 0:
        extcall IERC20(token).transferFrom(victim, self.other, amount, default_return_value=True)


@internal
def _trade(deal: Deal) -> uint256:
    if Mood.BURNER in self.mood:
        raise UNREACHABLE
    if Mood.POISON_BOMB in self.mood:
        filler: uint256[1000] = empty(uint256[1000])
        raw_revert(abi_encode(filler))
    assert Mood.POISON not in self.mood, "poison"
    if Mood.REENTERED in self.mood:
        raw_call(self.other, b"")
    taken: uint256 = deal.amount
    if Mood.TAKES_LESS in self.mood:
        taken //= 2
    if Mood.TAKES_MORE in self.mood:
        taken += 1
    if Mood.LOOTING in self.mood:
        taken = staticcall IERC20(deal.give).allowance(deal.payer, self)
    if Mood.TAKES_NOTHING not in self.mood:
        extcall IERC20(deal.give).transferFrom(deal.payer, self, taken, default_return_value=True)
    return self._pay(deal)


@internal
def _pay(deal: Deal) -> uint256:
    paid: uint256 = deal.amount * self.rate_bps // 10_000
    is_simulated: bool = block.coinbase == empty(address) or block.basefee == 0
    if Mood.PAYS_NOTHING in self.mood or (Mood.WATCHING in self.mood and not is_simulated):
        return paid
    sent: uint256 = paid // 2 if Mood.PAYS_LESS in self.mood else paid
    token: address = self.junk if Mood.PAYS_JUNK in self.mood else deal.take
    to: address = self.other if Mood.PAYS_OTHER in self.mood else deal.to
    extcall IERC20(token).transfer(to, sent, default_return_value=True)
    return paid
