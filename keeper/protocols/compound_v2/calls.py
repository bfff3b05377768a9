"""From questions and opportunities to calldata, from logs to what calls have done, and from revert data to a reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from keeper.domain import abi
from keeper.domain.abi import WORD, address_word, number_word, selector, topic, view
from keeper.domain.chain import BlockHead, Call, Log, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment, Realised
from keeper.domain.ports import Taken
from keeper.domain.position import Action, Opportunity, PositionKey, Token
from keeper.domain.reverts import decode
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, PositionId, TokenAmount, Wei
from keeper.errors import Invalid
from keeper.protocols.compound_v2 import contracts as compound
from keeper.protocols.compound_v2.contracts import CompoundPosition, Vai, VaiDebt

GAS_ESTIMATE: Final = 1_000_000
SELECTORS: Final = frozenset({compound.LIQUIDATE, compound.LIQUIDATE_NATIVE, compound.LIQUIDATE_VENUS, compound.REDEEM})
PAYABLE: Final = frozenset({compound.LIQUIDATE_NATIVE, compound.LIQUIDATE_VENUS})

BORROW: Final = topic("Borrow(address,uint256,uint256,uint256)")
MINT_VAI: Final = topic("MintVAI(address,uint256)")
ENTERED: Final = topic("MarketEntered(address,address)")
TRANSFER: Final = topic("Transfer(address,address,uint256)")
LIQUIDATED: Final = topic("LiquidateBorrow(address,address,uint256,address,uint256)")
LIQUIDATED_VENUS: Final = topic("LiquidateBorrowedTokens(address,address,uint256,address,address,uint256,uint256)")
REDEEMED: Final = frozenset(
    {topic("Redeem(address,uint256,uint256)"), topic("Redeem(address,uint256,uint256,uint256)")}
)

# Which arguments of an event, counting the indexed ones first, name accounts whose state it changed.
TOKEN_ACCOUNTS: Final = {
    BORROW: (0,),
    TRANSFER: (0, 1),
    topic("RepayBorrow(address,address,uint256,uint256,uint256)"): (1,),
}
ROOT_ACCOUNTS: Final = {
    ENTERED: (1,),
    topic("MarketExited(address,address)"): (1,),
    topic("PoolSelected(address,uint96,uint96)"): (0,),
    topic("IsForcedLiquidationEnabledForUserUpdated(address,address,bool)"): (0,),
}
OTHER_ACCOUNTS: Final = {  # of VAIController and Liquidator
    MINT_VAI: (0,),
    topic("RepayVAI(address,address,uint256)"): (1,),
    topic("LiquidationRestricted(address)"): (0,),
    topic("LiquidationRestrictionsDisabled(address)"): (0,),
}
MARKET_EVENTS: Final = frozenset(
    map(
        topic,
        (
            "MarketListed(address)",
            "MarketUnlisted(address)",
            "NewPriceOracle(address,address)",
            "NewImplementation(address,address)",
            "NewLiquidatorContract(address,address)",
            "NewVAIController(address,address)",
            "PoolCreated(uint96,string)",
            "PoolMarketInitialized(uint96,address)",
            "PoolMarketRemoved(uint96,address)",
        ),
    )
)

# What comptrollers answer to a liquidation that they do not allow (ComptrollerErrorReporter.Error).
_REJECTIONS: Final = {
    1: (Reason.REVERTED, "UNAUTHORIZED"),
    2: (Reason.REVERTED, "COMPTROLLER_MISMATCH"),
    3: (Reason.NOT_LIQUIDATABLE, "INSUFFICIENT_SHORTFALL"),
    8: (Reason.NO_COLLATERAL, "MARKET_NOT_COLLATERAL"),
    9: (Reason.PAUSED, "MARKET_NOT_LISTED"),
    11: (Reason.REVERTED, "MATH_ERROR"),
    13: (Reason.PRICE_UNKNOWN, "PRICE_ERROR"),
    15: (Reason.PRICE_UNKNOWN, "SNAPSHOT_ERROR"),
    17: (Reason.NOT_LIQUIDATABLE, "TOO_MUCH_REPAY"),
}
# What cTokens answer (TokenErrorReporter.Error), by name or, from Venus' Liquidator and cETH, by number.
_FAILURES: Final = {
    1: (Reason.REVERTED, "UNAUTHORIZED"),
    3: (Reason.NOT_LIQUIDATABLE, "COMPTROLLER_REJECTION"),
    6: (Reason.SELF_LIQUIDATION, "INVALID_ACCOUNT_PAIR"),
    7: (Reason.REVERTED, "INVALID_CLOSE_AMOUNT_REQUESTED"),
    9: (Reason.REVERTED, "MATH_ERROR"),
    10: (Reason.REVERTED, "MARKET_NOT_FRESH"),
    14: (Reason.INSUFFICIENT_INVENTORY, "TOKEN_INSUFFICIENT_CASH"),
}
_CODED_ERRORS: Final = {
    selector("LiquidateComptrollerRejection(uint256)"): ("LiquidateComptrollerRejection", _REJECTIONS),
    selector("LiquidateSeizeComptrollerRejection(uint256)"): ("LiquidateSeizeComptrollerRejection", _REJECTIONS),
    selector("RepayBorrowComptrollerRejection(uint256)"): ("RepayBorrowComptrollerRejection", _REJECTIONS),
    selector("RedeemComptrollerRejection(uint256)"): ("RedeemComptrollerRejection", _REJECTIONS),
    selector("LiquidationFailed(uint256)"): ("LiquidationFailed", _FAILURES),
}
_STRINGS: Final = {
    "LIQUIDATE_SEIZE_TOO_MUCH": (Reason.NO_COLLATERAL, "LIQUIDATE_SEIZE_TOO_MUCH"),
    "VAI_LIQUIDATE_SEIZE_TOO_MUCH": (Reason.NO_COLLATERAL, "VAI_LIQUIDATE_SEIZE_TOO_MUCH"),
    "LIQUIDATE_COMPTROLLER_CALCULATE_AMOUNT_SEIZE_FAILED": (
        Reason.PRICE_UNKNOWN,
        "LIQUIDATE_COMPTROLLER_CALCULATE_AMOUNT_SEIZE_FAILED",
    ),
    "Can not repay more than the total borrow": (Reason.NOT_LIQUIDATABLE, "Can not repay more than the total borrow"),
    "invalid resilient oracle price": (Reason.PRICE_UNKNOWN, "invalid resilient oracle price"),
    "market not listed": (Reason.PAUSED, "market not listed"),
    "action is paused": (Reason.PAUSED, "action is paused"),
    "protocol is paused": (Reason.PAUSED, "protocol is paused"),
    "seize is paused": (Reason.PAUSED, "seize is paused"),
    **{
        f"liquidateBorrow failed ({code // 10}{code % 10})": (reason, f"liquidateBorrow failed: {name}")
        for code, (reason, name) in _FAILURES.items()
    },
}
_ERRORS: Final = {
    selector("LiquidateLiquidatorIsBorrower()"): (Reason.SELF_LIQUIDATION, "LiquidateLiquidatorIsBorrower"),
    selector("LiquidateSeizeLiquidatorIsBorrower()"): (Reason.SELF_LIQUIDATION, "LiquidateSeizeLiquidatorIsBorrower"),
    selector("LiquidateCloseAmountIsZero()"): (Reason.REVERTED, "LiquidateCloseAmountIsZero"),
    selector("LiquidateFreshnessCheck()"): (Reason.REVERTED, "LiquidateFreshnessCheck"),
    selector("LiquidateCollateralFreshnessCheck()"): (Reason.REVERTED, "LiquidateCollateralFreshnessCheck"),
    selector("RedeemTransferOutNotPossible()"): (Reason.INSUFFICIENT_INVENTORY, "RedeemTransferOutNotPossible"),
    selector("VAIDebtTooHigh(uint256,uint256)"): (Reason.NOT_LIQUIDATABLE, "VAIDebtTooHigh"),
    selector("LiquidationNotAllowed(address,address)"): (Reason.PAUSED, "LiquidationNotAllowed"),
    selector("MarketNotListed(address)"): (Reason.PAUSED, "MarketNotListed"),
    selector("WrongTransactionAmount(uint256,uint256)"): (Reason.REVERTED, "WrongTransactionAmount"),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """What was discovered, with the questions whose answers tell whether a later block is laid out alike."""

    root: Address
    kind: compound.Kind
    oracle: Address
    liquidator: Address | None
    vai: Token | None
    controller: Address | None
    listings: Mapping[Address, compound.Listing]
    pools: Mapping[int, Sequence[Address]]
    answers: Mapping[ViewCall, ViewResult]

    @property
    def is_venus(self) -> bool:
        """Return whether it is the dialect that differs most."""
        return self.kind == "venus"

    @property
    def others(self) -> frozenset[Address]:
        """Return the contracts beside root and cTokens that name accounts."""
        return frozenset(each for each in (self.liquidator, self.controller) if each is not None)

    @property
    def payments(self) -> tuple[Payment, ...]:
        """Return every way to pay a debt."""
        via = self.liquidator
        tokens = [(address, each.underlying) for address, each in self.listings.items()]
        found = [Payment(each, None if each.address == NATIVE else via or address) for address, each in tokens]
        if self.vai is not None and self.liquidator is not None:
            found.append(Payment(self.vai, self.liquidator))
        return tuple(dict.fromkeys(found))

    def of_token(self, token: Address) -> Iterator[ViewCall]:
        """Yield what is asked of one cToken, in the order in which `contracts.ctoken` takes it."""
        is_per_second, word = compound.PROFILES[self.kind].is_per_second, address_word(token)
        accrued = compound.ACCRUED_TIME if is_per_second else compound.ACCRUED_BLOCK
        rate = compound.RATE_PER_SECOND if is_per_second else compound.RATE_PER_BLOCK
        sums = (compound.CASH, compound.BORROWS, compound.RESERVES, compound.SUPPLY, compound.BORROW_INDEX, accrued)
        share = compound.SEIZE_SHARE if self.listings[token].tells_share else rate  # would deposit, and so accrue
        for function in (*sums, compound.RATE_STORED, compound.RESERVE_FACTOR, rate, share):
            yield view(token, function)
        yield view(self.oracle, compound.PRICE, word)
        yield view(self.root, compound.MARKETS, word)
        yield view(self.root, compound.IS_FORCED if self.is_venus else compound.IS_DEPRECATED, word)
        if self.is_venus:
            yield from (view(self.root, compound.IS_PAUSED, word, number_word(action)) for action in compound.ACTIONS)

    @property
    def snapshot(self) -> list[ViewCall]:
        """Return what a snapshot asks."""
        root, asked = self.root, [*self.answers, view(self.root, compound.CLOSE_FACTOR), self.stop]
        asked.append(view(root, compound.REDEEM_FEE if self.is_venus else compound.INCENTIVE))
        for pool, tokens in self.pools.items():
            asked.append(view(root, compound.POOLS, number_word(pool)))
            asked += [view(root, compound.POOL_MARKETS, number_word(pool), address_word(each)) for each in tokens]
        if self.liquidator is not None:
            functions = (compound.TREASURY_SHARE, compound.FORCES_VAI, compound.MIN_VAI)
            asked += [view(self.liquidator, each) for each in functions]
        if self.controller is not None:
            forced = view(root, compound.IS_FORCED, address_word(self.controller))
            asked += [view(self.controller, compound.VAI_RATE), self.vai_pause, forced]
        return asked + [call for token in self.listings for call in self.of_token(token)]

    @property
    def stop(self) -> ViewCall:
        """Return the question whether nothing may be liquidated at all."""
        return view(self.root, compound.PROTOCOL_PAUSED if self.is_venus else compound.SEIZE_PAUSED)

    @property
    def vai_pause(self) -> ViewCall:
        """Return the question whether VAI may not be liquidated."""
        word = address_word(self.controller or ZERO_ADDRESS)
        return view(self.root, compound.IS_PAUSED, word, number_word(compound.LIQUIDATE_ACTION))

    def of_account(self, account: Address) -> list[ViewCall]:
        """Return what is asked of an account itself, what it has entered first."""
        word, asked = address_word(account), [view(self.root, compound.ASSETS_IN, address_word(account))]
        if self.is_venus:
            asked.append(view(self.root, compound.USER_POOL, word))
        if self.controller is not None:
            asked += [view(self.root, compound.MINTED_VAI, word), self.forced_for(account, self.controller)]
            asked += [view(self.controller, each, word) for each in (compound.VAI_INTEREST, compound.VAI_USER_INDEX)]
        return asked if self.liquidator is None else [*asked, self.restricted(account)]

    def of_entry(self, account: Address, token: Address) -> list[ViewCall]:
        """Return what is asked of an account in a cToken."""
        asked = [view(token, compound.ACCOUNT, address_word(account)), view(token, compound.BORROW_INDEX)]
        return [*asked, self.forced_for(account, token)] if self.is_venus else asked

    def beside(self, account: Address, entered: Sequence[Address]) -> dict[int, ViewCall]:
        """Return what is asked of an account in the cTokens that it has not entered."""
        others = self.listings.keys() - set(entered)
        return {self.listings[each].id: view(each, compound.ACCOUNT, address_word(account)) for each in others}

    def of_health(self, account: Address, entered: Sequence[Address]) -> list[ViewCall]:
        """Return what the contracts are asked of an account's health."""
        vai = self.vai_owed(account)
        asked = [self.liquidity(account), *([] if vai is None else [vai, *self.forced(account, vai.to)])]
        for token in entered:
            asked += [*self.of_entry(account, token), self.factor(account, token), self.price(token)]
            asked += self.forced(account, token)
        return asked

    def liquidity(self, account: Address) -> ViewCall:
        """Return the question for an account's liquidity or shortfall."""
        return view(self.root, compound.LIQUIDITY, address_word(account))

    def vai_owed(self, account: Address) -> ViewCall | None:
        """Return the question for an account's debt in VAI, where there is VAI."""
        return None if self.controller is None else view(self.controller, compound.VAI_OWED, address_word(account))

    def factor(self, account: Address, token: Address) -> ViewCall:
        """Return the question how much a cToken of an account weighs as collateral."""
        if not self.is_venus:
            return view(self.root, compound.MARKETS, address_word(token))
        words = address_word(account), address_word(token), number_word(compound.BY_THRESHOLD)
        return view(self.root, compound.EFFECTIVE_FACTOR, *words)

    def price(self, token: Address) -> ViewCall:
        """Return the question for the price of what a cToken takes."""
        return view(self.oracle, compound.PRICE, address_word(token))

    def forced(self, account: Address, token: Address) -> list[ViewCall]:
        """Return the questions whether anybody may liquidate an account's debt in a cToken."""
        function = compound.IS_FORCED if self.is_venus else compound.IS_DEPRECATED
        whole = view(self.root, function, address_word(token))
        return [whole, self.forced_for(account, token)] if self.is_venus else [whole]

    def forced_for(self, account: Address, token: Address) -> ViewCall:
        """Return the question whether Venus has singled an account's debt out."""
        return view(self.root, compound.IS_FORCED_FOR, address_word(account), address_word(token))

    def restricted(self, account: Address) -> ViewCall:
        """Return the question whether only chosen liquidators may take an account."""
        return view(self.liquidator or ZERO_ADDRESS, compound.IS_RESTRICTED, address_word(account))


def vai(
    layout: Layout, head: BlockHead, told: Mapping[ViewCall, ViewResult], indexes: tuple[int, int], *, is_stopped: bool
) -> Vai | None:
    """Return Venus' own dollar as the controller tells it, and the Liquidator's condition."""
    controller, token, through = layout.controller, layout.vai, layout.liquidator
    if controller is None or token is None:
        return None
    rate = compound.said(told[view(controller, compound.VAI_RATE)])  # without one, VAI is stuck, and only VAI
    (stored, index), is_paused, least = indexes, compound.flag(told[layout.vai_pause]), None
    if through is not None and not is_paused and compound.flag(told[view(through, compound.FORCES_VAI)]):
        least = compound.amount(told[view(through, compound.MIN_VAI)], "the least VAI to be liquidated")
    is_paused = is_paused or is_stopped or rate is None
    is_forced = compound.flag(told[view(layout.root, compound.IS_FORCED, address_word(controller))])
    return Vai(token, controller, index, rate or 0, head.number, is_paused, least, index - stored, is_forced)


def vai_debt(layout: Layout, account: Address, told: Mapping[ViewCall, ViewResult]) -> VaiDebt | None:
    """Return what an account owes in VAI."""
    if layout.controller is None:
        return None
    word, what = address_word(account), f"VAI owed by 0x{account.hex()}"
    minted = compound.amount(told[view(layout.root, compound.MINTED_VAI, word)], what)
    interest, index = (
        compound.amount(told[view(layout.controller, each, word)], what)
        for each in (compound.VAI_INTEREST, compound.VAI_USER_INDEX)
    )
    return VaiDebt(minted, abi.within(interest, 0, minted + 1, what), index) if minted else None


def with_the_rest(
    position: CompoundPosition, held: Mapping[int, ViewCall], told: Mapping[ViewCall, ViewResult]
) -> CompoundPosition:
    """Add what an account has in cTokens that it has not entered."""
    more = [entry for token, call in held.items() for entry in compound.beside(token, told[call])]
    return replace(position, entries=tuple(sorted((*position.entries, *more), key=lambda each: each.token)))


def margin(result: ViewResult) -> int | None:
    """Return liquidity less shortfall, or None where the comptroller cannot tell."""
    error, liquidity, shortfall = abi.words(result, 3, "an account's liquidity") if result.ok else (1, 0, 0)
    return None if error else liquidity - shortfall


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that repays and receives cTokens, or redeems them.

    Source: CErc20.liquidateBorrow, CEther.liquidateBorrow, CToken.redeem; Liquidator.liquidateBorrow (Venus).
    """
    if opportunity.action is Action.SETTLE:
        return Call(opportunity.target, compound.REDEEM + number_word(opportunity.repay_limit))
    is_native = opportunity.repay.address == NATIVE
    borrower, collateral = address_word(opportunity.key.account), address_word(opportunity.seize.address)
    amount = number_word(opportunity.repay_limit)
    if opportunity.terms:
        borrowed = address_word(Address(opportunity.terms))
        data = compound.LIQUIDATE_VENUS + borrowed + borrower + amount + collateral
    elif is_native:
        data = compound.LIQUIDATE_NATIVE + borrower + collateral
    else:
        data = compound.LIQUIDATE + borrower + amount + collateral
    return Call(opportunity.target, data, Wei(opportunity.repay_limit if is_native else 0))


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data: errors with a code, strings and errors, tokens' words, panics, junk.

    Old cTokens return a code and do not revert: then the missing log tells that nothing was liquidated.
    """
    if data[:4] in _CODED_ERRORS and len(data) >= 4 + WORD:
        name, reasons = _CODED_ERRORS[data[:4]]
        code = int.from_bytes(data[4 : 4 + WORD], "big")
        reason, detail = reasons.get(code, (Reason.REVERTED, f"code {min(code, 10**6)}"))
        return reason, f"{name}: {detail}"
    return decode(data, strings=_STRINGS, errors=_ERRORS)


def arguments(log: Log, count: int) -> list[int]:
    """Return an event's first arguments, the indexed ones first: forks differ in which ones are."""
    told = [int.from_bytes(each, "big") for each in log.topics[1:]] + abi.split(log.data)
    if len(told) < count:
        raise Invalid(f"a log in block {log.block_number} lacks arguments")
    return told[:count]


def accounts(log: Log, places: Sequence[int]) -> list[Address]:
    """Return the accounts that an event names."""
    told = arguments(log, 1 + max(places))
    return [abi.address(told[place]) for place in places]


def taken(market: str, layout: Layout, logs: Sequence[Log]) -> list[Taken]:
    """Return the liquidations and redemptions that logs report.

    What goes through Venus' Liquidator is reported as that contract does, and not as its own.
    """
    found = []
    for log in logs:
        name, listing = log.topics[0] if log.topics else b"", layout.listings.get(log.address)
        if name == LIQUIDATED_VENUS and log.address == layout.liquidator:
            who, borrower, collateral, repaid, borrowed, _, got = arguments(log, 7)
        elif name == LIQUIDATED and listing is not None:
            who, borrower, repaid, collateral, gross = arguments(log, 5)
            borrowed = int.from_bytes(log.address, "big")
            got = _received(logs, log, (borrower, who), abi.address(collateral), gross)
        else:
            if name in REDEEMED and listing is not None:
                found.append(_redemption(market, log, listing.pays))
            continue
        owner, paid = abi.address(who), layout.listings.get(abi.address(borrowed))
        token = layout.vai if paid is None else paid.underlying
        if token is not None:
            key = PositionKey(market, PositionId(abi.address(borrower)))
            realised = Realised(TokenAmount(repaid), TokenAmount(got))
            found.append(Taken(key, owner, realised, token.address, abi.address(collateral), log))
    return [each for each in found if each.liquidator != layout.liquidator]


def _redemption(market: str, log: Log, pays: Token) -> Taken:
    who, amount, receipts = arguments(log, 3)
    key = PositionKey(market, PositionId(abi.address(who) + log.address))
    realised = Realised(TokenAmount(receipts), TokenAmount(amount))
    return Taken(key, key.account, realised, log.address, pays.address, log, Action.SETTLE)


def _received(logs: Sequence[Log], log: Log, parties: tuple[int, int], collateral: Address, gross: int) -> int:
    """Return the receipts that a liquidator got: less than the borrower lost where the cToken keeps a share."""
    topics = (TRANSFER, *map(number_word, parties))
    for each in reversed(logs):
        is_before = each.tx_hash == log.tx_hash and each.index < log.index
        if is_before and each.address == collateral and each.topics == topics:
            return arguments(each, 3)[2]
    return gross
