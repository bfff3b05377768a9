"""From the domain to calldata and back: what to call, what to ask, what reverts and logs say."""

from collections.abc import Iterable, Iterator, Sequence
from types import MappingProxyType
from typing import Final

from keeper.domain import abi, reverts
from keeper.domain.abi import address_word, number_word, signed, view
from keeper.domain.chain import Call, Log, ViewCall
from keeper.domain.outcome import Reason
from keeper.domain.plan import Realised
from keeper.domain.ports import Taken
from keeper.domain.position import Action, Opportunity, PositionKey
from keeper.domain.units import ZERO_ADDRESS, Address, PositionId, TokenAmount
from keeper.errors import Invalid
from keeper.protocols.perp_curie import contracts as perp
from keeper.protocols.perp_curie import rules
from keeper.protocols.perp_curie.contracts import Layout

GAS_ESTIMATE: Final = 1_500_000
SELECTORS: Final = frozenset({perp.LIQUIDATE, perp.CANCEL_ORDERS})
PAYABLE: Final[frozenset[bytes]] = frozenset()

_STRINGS: Final = MappingProxyType(
    {
        "CH_EAV": (Reason.NOT_LIQUIDATABLE, "enough account value"),
        "CH_NEXO": (Reason.NOT_LIQUIDATABLE, "no excess orders"),
        "CH_PSZ": (Reason.NOT_LIQUIDATABLE, "the position is closed"),
        "CH_WLD": (Reason.NOT_LIQUIDATABLE, "the position has changed sides"),
        "CH_CLWTISO": (Reason.NOT_LIQUIDATABLE, "orders have to be cancelled first"),
        "CH_MNO": (Reason.PAUSED, "the market is not open"),
        "Pausable: paused": (Reason.PAUSED, "the ClearingHouse is paused"),
        "CH_IIC": (Reason.NO_COLLATERAL, "the insurance fund cannot cover the bad debt"),
        "CH_NEFCI": (Reason.INSUFFICIENT_INVENTORY, "not enough free margin in the vault"),
        "AB_MNE": (Reason.INSUFFICIENT_INVENTORY, "the liquidator is in too many markets"),
    }
)
_STATUS: Final = (perp.IS_OPEN, perp.IS_CLOSED, perp.GET_PAUSED_PRICE, perp.GET_CLOSED_PRICE)


def liquidation(opportunity: Opportunity) -> Call:
    """Return the call that takes a position over, or that cancels the orders which stand in its way.

    Source: ClearingHouse.liquidate and ClearingHouse.cancelAllExcessOrders, 2.8.4.
    """
    function = perp.CANCEL_ORDERS if opportunity.action is Action.PREPARE else perp.LIQUIDATE
    return Call(opportunity.target, function + address_word(opportunity.key.account) + opportunity.terms)


def decode_revert(data: bytes) -> tuple[Reason, str]:
    """Classify revert data by the ClearingHouse's short strings, then by what tokens say."""
    return reverts.decode(data, strings=_STRINGS, errors={})


def market_views(layout: Layout) -> list[ViewCall]:
    """Return what every snapshot asks: five words, five for each market, three for each collateral."""
    views = [
        view(layout.root, perp.IS_PAUSED),
        view(layout.config, perp.GET_MM_RATIO),
        view(layout.config, perp.GET_IM_RATIO),
        view(layout.config, perp.GET_PENALTY_RATIO),
        view(layout.insurance_fund, perp.GET_CAPACITY),
    ]
    for token in layout.perpetuals:
        views += [view(token, each) for each in _STATUS]
        views.append(view(layout.account_balance, perp.GET_MARK_PRICE, address_word(token)))
    for token in layout.collaterals:
        which, manager = address_word(token), layout.collateral_manager
        views.append(view(manager, perp.GET_PRICE, which, number_word(perp.COLLATERAL_TWAP_S)))
        views += [view(manager, each, which) for each in (perp.GET_PRICE_DECIMALS, perp.GET_COLLATERAL_CONFIG)]
    return views


def account_views(layout: Layout, trader: bytes) -> list[ViewCall]:
    """Return what tells an account's margin and what it is in."""
    who = address_word(Address(trader))
    return [
        view(layout.vault, perp.GET_BALANCE, who),
        view(layout.account_balance, perp.GET_PNL, who),
        view(layout.account_balance, perp.GET_BASE_TOKENS, who),
        view(layout.vault, perp.GET_COLLATERALS, who),
    ]


def stake_views(layout: Layout, trader: bytes, base_token: Address) -> list[ViewCall]:
    """Return what tells an account's position, orders and pending funding in one market."""
    both = address_word(Address(trader)), address_word(base_token)
    return [
        view(layout.account_balance, perp.GET_ACCOUNT_INFO, *both),
        view(layout.order_book, perp.GET_ORDERS, *both),
        view(layout.exchange, perp.GET_PENDING_FUNDING, *both),
    ]


def balance_view(layout: Layout, trader: bytes, token: Address) -> ViewCall:
    """Return what tells an account's balance of a collateral."""
    return view(layout.vault, perp.GET_BALANCE_BY_TOKEN, address_word(Address(trader)), address_word(token))


def health_views(layout: Layout, trader: bytes) -> list[ViewCall]:
    """Return what tells the contract's own two figures of an account."""
    who = address_word(Address(trader))
    return [
        view(layout.root, perp.GET_ACCOUNT_VALUE, who),
        view(layout.account_balance, perp.GET_REQUIREMENT, who),
    ]


def valuation_views(layout: Layout, trader: bytes, base_tokens: Iterable[Address]) -> list[ViewCall]:
    """Return what tells the contract's own valuation of an account, with what is in orders."""
    who, at = address_word(Address(trader)), layout.account_balance
    sizes = [view(at, perp.GET_TOTAL_SIZE, who, address_word(token)) for token in base_tokens]
    return health_views(layout, trader) + sizes


def take_overs(layout: Layout, market: str, logs: Sequence[Log]) -> Iterator[Taken]:
    """Yield the liquidations that the ClearingHouse's logs report, with the margin that each locked and its fee.

    The liquidator's own change of position comes right before, and tells the fee that it was given.
    Source: ClearingHouse._liquidate, 2.8.4.
    """
    changed: dict[tuple[bytes, ...], tuple[int, int]] = {}
    for log in logs:
        if log.topics[:1] == (perp.POSITION_CHANGED,):
            size, quote = abi.log_words(log, 2)
            changed[log.tx_hash, *abi.named(log, (1, 2))] = signed(size), signed(quote)
        elif log.topics[:1] == (perp.POSITION_LIQUIDATED,):
            trader, base_token = abi.named(log, (1, 2))
            absolute, _, _, by = abi.log_words(log, 4)
            liquidator = abi.address(by)
            got = changed.get((log.tx_hash, liquidator, base_token))
            if got is None:
                raise Invalid(f"a liquidation in block {log.block_number} changed no position of the liquidator")
            notional = absolute if got[0] >= 0 else -absolute
            fee = got[1] + notional
            margin = rules.margin_needed(notional, fee, layout.im_ratio, layout.scale)
            realised = Realised(TokenAmount(margin), TokenAmount(fee // layout.scale))
            key, paid_in = PositionKey(market, PositionId(trader)), layout.settlement.address
            yield Taken(key, liquidator, realised, layout.vault, paid_in, log)


def cancellations(layout: Layout, market: str, logs: Sequence[Log]) -> Iterator[Taken]:
    """Yield whose orders others cancelled; the logs do not say who did.

    The position changes once, after all orders of a market are gone; a maker that removes its own liquidity sees it
    change before each.
    Source: ClearingHouse._removeAllLiquidity, ClearingHouse.removeLiquidity, 2.8.4.
    """
    changed: set[tuple[bytes, ...]] = set()
    removed: dict[tuple[bytes, ...], Log] = {}
    for log in logs:
        event = log.topics[0] if log.topics else b""
        if event not in (perp.LIQUIDITY_CHANGED, perp.POSITION_CHANGED):
            continue
        maker, base_token = abi.named(log, (1, 2))
        place = (log.tx_hash, maker, base_token)
        if event == perp.LIQUIDITY_CHANGED:
            if signed(abi.log_words(log, 6)[4]) < 0 and place not in changed:
                removed[place] = log
            changed.discard(place)
        elif place in removed:
            nothing, key = Realised(TokenAmount(0), TokenAmount(0)), PositionKey(market, PositionId(maker))
            first = removed.pop(place)
            yield Taken(key, ZERO_ADDRESS, nothing, layout.vault, base_token, first, Action.PREPARE)
        else:
            changed.add(place)
