"""What Morpho Blue has on chain: functions, events and errors as bytes, and the state that a decision needs.

Source: morpho-org/morpho-blue 1.0.0, morpho-blue-irm 1.0.0, morpho-blue-oracles 2.0.0, pre-liquidation 1.0.0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from eth_utils.crypto import keccak

from keeper.domain import abi
from keeper.domain.abi import UINT128, WORD, address_word, number_word, selector, topic
from keeper.domain.chain import BlockHead, ViewResult
from keeper.domain.fixed import div_up
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, Base, PositionId, TokenAmount

_PARAMS: Final = "(address,address,address,address,uint256)"
_MARKET: Final = "(uint128,uint128,uint128,uint128,uint128,uint128)"

# Morpho
MARKET: Final = selector("market(bytes32)")
POSITION: Final = selector("position(bytes32,address)")
MARKET_PARAMS: Final = selector("idToMarketParams(bytes32)")
IS_AUTHORIZED: Final = selector("isAuthorized(address,address)")
IS_IRM_ENABLED: Final = selector("isIrmEnabled(address)")
ACCRUE_INTEREST: Final = selector(f"accrueInterest({_PARAMS})")
LIQUIDATE: Final = selector(f"liquidate({_PARAMS},address,uint256,uint256,bytes)")
# oracles: every one has a price, MorphoChainlinkOracleV2 also names what moves it
PRICE: Final = selector("price()")
FEEDS: Final = tuple(map(selector, ("BASE_FEED_1()", "BASE_FEED_2()", "QUOTE_FEED_1()", "QUOTE_FEED_2()")))
# interest rate models; `rateAtTarget` is AdaptiveCurveIrm's own
RATE_AT_TARGET: Final = selector("rateAtTarget(bytes32)")
BORROW_RATE: Final = selector(f"borrowRateView({_PARAMS},{_MARKET})")
# PreLiquidation, its factory and AdaptiveCurveIrm name the Morpho that they are for
OF_MORPHO: Final = selector("MORPHO()")
PRE_TERMS: Final = (selector("ID()"), OF_MORPHO, selector("preLiquidationParams()"))
PRE_LIQUIDATE: Final = selector("preLiquidate(address,uint256,uint256,bytes)")

PARAMS_WORDS: Final = 5
MARKET_WORDS: Final = 6
POSITION_WORDS: Final = 3
PRE_PARAMS_WORDS: Final = 6
ID_BYTES: Final = 32
MAX_DECIMALS: Final = 36
ORACLE_SCALE: Final = 10**36
VIRTUAL_SHARES: Final = 10**6
VIRTUAL_ASSETS: Final = 1

CREATE_MARKET: Final = topic(f"CreateMarket(bytes32,{_PARAMS})")
BORROW: Final = topic("Borrow(bytes32,address,address,address,uint256,uint256)")
LIQUIDATION: Final = topic("Liquidate(bytes32,address,address,uint256,uint256,uint256,uint256,uint256)")
SET_AUTHORIZATION: Final = topic("SetAuthorization(address,address,address,bool)")
CREATE_PRE_LIQUIDATION: Final = topic(
    "CreatePreLiquidation(address,bytes32,(uint256,uint256,uint256,uint256,uint256,address))"
)
PRE_LIQUIDATION: Final = topic("PreLiquidate(bytes32,address,address,uint256,uint256,uint256)")

BORROWER_PLACE: Final = {
    BORROW: 2,
    topic("Repay(bytes32,address,address,uint256,uint256)"): 3,
    topic("SupplyCollateral(bytes32,address,address,uint256)"): 3,
    topic("WithdrawCollateral(bytes32,address,address,address,uint256)"): 2,
    LIQUIDATION: 3,
}
"""Which topic of a pair's event names the account whose position it changed; the first one names the pair."""

STRING_ERRORS: Final = {
    "position is healthy": (Reason.NOT_LIQUIDATABLE, "position is healthy"),
    "transferFrom reverted": (Reason.INSUFFICIENT_INVENTORY, "transferFrom reverted"),
    "transferFrom returned false": (Reason.INSUFFICIENT_INVENTORY, "transferFrom returned false"),
    "TRANSFER_FROM_FAILED": (Reason.INSUFFICIENT_INVENTORY, "TRANSFER_FROM_FAILED"),
    "transfer reverted": (Reason.TOKEN_BLOCKED, "transfer reverted"),
    "transfer returned false": (Reason.TOKEN_BLOCKED, "transfer returned false"),
    "unauthorized": (Reason.NOT_LIQUIDATABLE, "unauthorized"),
    "insufficient collateral": (Reason.NOT_LIQUIDATABLE, "insufficient collateral"),
    "inconsistent input": (Reason.REVERTED, "inconsistent input"),
    "zero assets": (Reason.DUST_RULE, "zero assets"),
}
NOT_PRE_LIQUIDATABLE: Final = selector("NotPreLiquidatablePosition()")
LIQUIDATABLE_POSITION: Final = selector("LiquidatablePosition()")
CUSTOM_ERRORS: Final = {
    NOT_PRE_LIQUIDATABLE: (Reason.NOT_LIQUIDATABLE, "NotPreLiquidatablePosition"),
    LIQUIDATABLE_POSITION: (Reason.NOT_LIQUIDATABLE, "LiquidatablePosition"),
    selector("PreLiquidationTooLarge(uint256,uint256)"): (Reason.REVERTED, "PreLiquidationTooLarge"),
    selector("InconsistentInput()"): (Reason.REVERTED, "InconsistentInput"),
}
IS_HEALTHY: Final = (  # Error("position is healthy")
    selector("Error(string)") + number_word(WORD) + number_word(19) + b"position is healthy".ljust(WORD, b"\0")
)


@dataclass(frozen=True, slots=True)
class PairParams:
    """What names a pair, and never changes."""

    loan: Address
    collateral: Address
    oracle: Address
    irm: Address
    lltv_wad: int

    @property
    def encoded(self) -> bytes:
        """Return the parameters as arguments of a call."""
        words = map(address_word, (self.loan, self.collateral, self.oracle, self.irm))
        return b"".join(words) + number_word(self.lltv_wad)

    @property
    def id(self) -> bytes:
        """Return the pair's name (`MarketParamsLib.id`)."""
        return keccak(self.encoded)


@dataclass(frozen=True, slots=True)
class Totals:
    """A pair's amounts as stored on chain, without interest since they were updated."""

    supply_assets: int
    supply_shares: int
    borrow_assets: int
    borrow_shares: int
    updated_s: int
    fee_wad: int

    @property
    def encoded(self) -> bytes:
        """Return the amounts as arguments of a call."""
        amounts = (self.supply_assets, self.supply_shares, self.borrow_assets, self.borrow_shares)
        return b"".join(map(number_word, (*amounts, self.updated_s, self.fee_wad)))

    @property
    def virtual_assets(self) -> int:
        """Return the borrowed assets with the virtual one (`SharesMathLib`)."""
        return self.borrow_assets + VIRTUAL_ASSETS

    @property
    def virtual_shares(self) -> int:
        """Return the shares of the debt with the virtual ones (`SharesMathLib`)."""
        return self.borrow_shares + VIRTUAL_SHARES

    def assets_up(self, shares: int) -> int:
        """Return what shares of the debt stand for, rounded up (`toAssetsUp`)."""
        return div_up(shares * self.virtual_assets, self.virtual_shares)

    def assets_down(self, shares: int) -> int:
        """Return what shares of the debt stand for, rounded down (`toAssetsDown`)."""
        return shares * self.virtual_assets // self.virtual_shares

    def shares_up(self, assets: int) -> int:
        """Return the shares of the debt for an amount, rounded up (`toSharesUp`)."""
        return div_up(assets * self.virtual_shares, self.virtual_assets)

    def shares_down(self, assets: int) -> int:
        """Return the shares of the debt for an amount, rounded down (`toSharesDown`)."""
        return assets * self.virtual_shares // self.virtual_assets


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair at one block.

    `price` is None where the oracle reverts. `rate_at_target` is the state of an adaptive-curve model (per second,
    wad), `rate` what any other model says; both are None for a pair without interest and where the model reverts.
    """

    params: PairParams
    loan: Token
    collateral: Token
    totals: Totals
    price: int | None
    rate_at_target: int | None
    rate: int | None

    @property
    def is_readable(self) -> bool:
        """Return whether its price and its interest are known: where they are not, every call reverts."""
        has_rate = self.params.irm == ZERO_ADDRESS or self.rate_at_target is not None or self.rate is not None
        return has_rate and self.price is not None


@dataclass(frozen=True, slots=True)
class PreTerms:
    """A pre-liquidation contract's own terms, which never change: the pair, and lines from pre-LLTV to LLTV."""

    pair: bytes
    pre_lltv_wad: int
    close_factors_wad: tuple[int, int]
    incentives_wad: tuple[int, int]
    oracle: Address


@dataclass(frozen=True, slots=True)
class PreLiquidation:
    """A pre-liquidation contract at one block; `price` is None where its oracle reverts."""

    address: Address
    terms: PreTerms
    price: int | None


@dataclass(frozen=True, slots=True)
class Listing:
    """A pair that can be valued, with its tokens."""

    params: PairParams
    loan: Token
    collateral: Token


@dataclass(frozen=True, slots=True)
class Layout:
    """What was discovered: it is only ever added to, as no pair and no contract changes."""

    pairs: Mapping[bytes, Listing] = field(default_factory=dict)
    contracts: Mapping[Address, PreTerms] = field(default_factory=dict)
    of_pair: Mapping[bytes, tuple[Address, ...]] = field(default_factory=dict)
    tokens: Mapping[Address, Token] = field(default_factory=dict)

    def extended(
        self, pairs: Mapping[bytes, PairParams], contracts: Mapping[Address, PreTerms], tokens: Mapping[Address, Token]
    ) -> "Layout":
        """Return it with pairs whose tokens are known, and with contracts."""
        known, every = {**self.tokens, **tokens}, {**self.contracts, **contracts}
        found = {
            name: Listing(each, known[each.loan], known[each.collateral])
            for name, each in pairs.items()
            if each.loan in known and each.collateral in known
        }
        of_pair: dict[bytes, tuple[Address, ...]] = {}
        for each in sorted(every):
            of_pair[every[each].pair] = (*of_pair.get(every[each].pair, ()), each)
        return Layout({**self.pairs, **found}, every, of_pair, known)


@dataclass(frozen=True, slots=True)
class MorphoSnapshot:
    """The pairs that are watched, at one block; one that is not here cannot be valued.

    `vouched` are the pairs that the operator has named: their oracles are believed without a second opinion. Anybody can
    make a pair, and an oracle that says another price once a payment is under way: others are acted on only by request.
    """

    market: str
    head: BlockHead
    root: Address
    pairs: Mapping[bytes, Pair]
    pre_liquidations: Mapping[Address, PreLiquidation]
    prices: Mapping[Address, Base]
    tokens: Mapping[Address, Token]
    vouched: frozenset[bytes] = frozenset()
    acts_on_any: bool = False

    @property
    def native_price_base(self) -> Base | None:
        """Return the value of 10**18 wei, or None where nothing prices it."""
        return self.prices.get(NATIVE)

    @property
    def payments(self) -> Sequence[Payment]:
        """Return the loan tokens, each with whom it is paid to."""
        found = {(pair.params.loan, self.root): Payment(pair.loan, self.root) for pair in self.pairs.values()}
        for each in self.pre_liquidations.values():
            if (pair := self.pairs.get(each.terms.pair)) is not None:
                found[pair.params.loan, each.address] = Payment(pair.loan, each.address)
        return tuple(found.values())

    @property
    def proceeds(self) -> Sequence[Token]:
        """Return nothing: collateral comes as itself."""
        return ()

    @property
    def targets(self) -> frozenset[Address]:
        """Return the contracts that the keeper's calls go to."""
        return frozenset({self.root, *self.pre_liquidations})

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a token, rounding down, or return None without a price."""
        price, known = self.prices.get(token), self.tokens.get(token)
        return None if price is None or known is None else Base(amount * price // 10**known.decimals)

    def doubt(self, pair: Pair) -> Reason | None:
        """Return why a pair must be left alone, whoever is unhealthy in it."""
        if not self.acts_on_any and pair.params.id not in self.vouched:
            return Reason.UNTRUSTED
        return Reason.PRICE_UNKNOWN if self.worth_base(pair, 0) is None else None

    def worth_base(self, pair: Pair, seized: int) -> Base | None:
        """Value collateral at the lower of what its oracle and the market say; None where only a stranger's oracle does."""
        quoted = self.value_base(pair.params.loan, TokenAmount(seized * (pair.price or 0) // ORACLE_SCALE))
        sold = self.value_base(pair.params.collateral, TokenAmount(seized))
        if sold is None:
            return quoted if pair.params.id in self.vouched else None
        return None if quoted is None else min(quoted, sold)


@dataclass(frozen=True, slots=True)
class MorphoPosition:
    """An account's shares of a pair's debt and its collateral there, and which pre-liquidation contracts it allows."""

    id: PositionId
    borrow_shares: int
    collateral: int
    authorised: tuple[Address, ...] = ()

    @property
    def pair(self) -> bytes:
        """Return the name of the pair."""
        return pair_of(self.id)

    @property
    def has_debt(self) -> bool:
        """Return whether it owes anything."""
        return self.borrow_shares > 0


def position_id(account: Address, pair: bytes) -> PositionId:
    """Name an account's position in a pair, or with the zero address the pair itself."""
    return PositionId(account + pair)


def pair_of(position: PositionId) -> bytes:
    """Return the name of the pair that a position is in."""
    return position[len(ZERO_ADDRESS) : len(ZERO_ADDRESS) + ID_BYTES]


def account_of(position: PositionId) -> Address:
    """Return whose position it is, or the zero address for a part of the market."""
    return Address(position[: len(ZERO_ADDRESS)])


def word(answer: ViewResult) -> int | None:
    """Return a number, or None where the contract reverts or says something else."""
    return int.from_bytes(answer.data, "big") if answer.ok and len(answer.data) == WORD else None


def params(pair: bytes, answer: ViewResult) -> PairParams | None:
    """Return a pair's parameters, or None for a pair that does not exist."""
    loan, collateral, oracle, irm, lltv_wad = abi.words(answer, PARAMS_WORDS, "a pair")
    contracts = (abi.address(each) for each in (loan, collateral, oracle, irm))
    found = PairParams(next(contracts), next(contracts), next(contracts), next(contracts), lltv_wad)
    return found if found.id == pair else None


def totals(answer: ViewResult) -> Totals:
    """Return a pair's totals."""
    return Totals(*(abi.within(each, 0, UINT128, "a pair") for each in abi.words(answer, MARKET_WORDS, "a pair")))


def held(answer: ViewResult) -> tuple[int, int]:
    """Return a position's shares of the debt and its collateral."""
    _, shares, collateral = abi.words(answer, POSITION_WORDS, "a position")
    return abi.within(shares, 0, UINT128, "a debt"), abi.within(collateral, 0, UINT128, "a collateral")


def terms(root: Address, pair: ViewResult, owner: ViewResult, said: ViewResult) -> PreTerms | None:
    """Return a pre-liquidation contract's terms, or None for something else."""
    if not (pair.ok and said.ok) or owner.data != address_word(root) or len(said.data) != PRE_PARAMS_WORDS * WORD:
        return None
    low, factor_1, factor_2, incentive_1, incentive_2, oracle = abi.words(said, PRE_PARAMS_WORDS, "a pre-liquidation")
    return PreTerms(pair.data, low, (factor_1, factor_2), (incentive_1, incentive_2), abi.address(oracle))
