"""A candidate through the executor: from the best trade to a plan, within what is left of the pools' depth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from keeper.domain.chain import BlockHead
from keeper.domain.exchange import Lender
from keeper.domain.ports import Executor
from keeper.domain.position import Opportunity, Proceeds, Token
from keeper.domain.units import Address, Base, TokenAmount, Wei
from keeper.engine.exchange import Exchange
from keeper.engine.funding import OwnInventory
from keeper.engine.scan import Candidate
from keeper.engine.sizing import Refused, Trade, best
from keeper.engine.terms import Terms

INVENTORY = "inventory"


@dataclass(frozen=True, slots=True)
class Trading:
    """What trades are made of at one head.

    `hold` are the tokens that may be seized and kept where they cannot be sold. `last_block` and `deadline_s` are when
    a transaction becomes worthless.
    """

    executor: Executor
    exchange: Exchange
    lenders: Sequence[Lender]
    last_block: int
    deadline_s: int
    floor_bps: int
    tolerance_bps: int
    max_slippage_bps: int
    data_fee_wei: Wei = Wei(0)
    hold: frozenset[Address] = frozenset()

    def after(self, trade: Trade) -> "Trading":
        """Return what is left for others when a trade is made."""
        return replace(self, exchange=trade.exchange_after)

    def best(
        self, head: BlockHead, candidate: Candidate, *, own: OwnInventory | None, native: Base, floor_base: Base
    ) -> Trade | Refused:
        """Find the trade that brings most, paid with a loan or with what we own ourselves."""
        terms = Terms(
            gas_price_wei=head.base_fee_wei,
            native_price_base=native,
            min_profit_base=floor_base,
            last_block=self.last_block,
            deadline_s=self.deadline_s,
            data_fee_wei=self.data_fee_wei,
            floor_bps=self.floor_bps,
            tolerance_bps=self.tolerance_bps,
            max_slippage_bps=self.max_slippage_bps,
        )
        lenders = self.lenders if own is None else [own, *self.lenders]
        at = candidate.assessment.opportunities[0].at
        return best(candidate, self.exchange, at=at, lenders=lenders, terms=terms)

    def opportunity(self, candidate: Candidate, trade: Trade, *, own: OwnInventory | None) -> Opportunity:
        """Return a trade's stages as one opportunity that says what it is to bring home."""
        first = trade.stages[0]
        widest = next(
            each
            for each in candidate.assessment.opportunities
            if (each.repay.address, each.seize.address) == (first.repay.address, first.seize.address)
        )
        is_own = own is not None and trade.funding == own.name
        return replace(
            first,
            repay_amount=TokenAmount(sum(each.repay_amount for each in trade.stages)),
            repay_limit=TokenAmount(sum(each.repay_limit for each in trade.stages)),
            repay_base=Base(sum(each.repay_base for each in trade.stages)),
            seized_amount=TokenAmount(sum(each.seized_amount for each in trade.stages)),
            seized_base=Base(sum(each.seized_base for each in trade.stages)),
            protocol_fee_amount=TokenAmount(sum(each.protocol_fee_amount for each in trade.stages)),
            spender=self.executor.address if is_own else None,
            proceeds=Proceeds(
                token=_token(candidate, trade),
                amount=trade.profit_amount,
                base=trade.profit_base,
                least=trade.least,
                stake_base=widest.stake_base,
            ),
        )


def _token(candidate: Candidate, trade: Trade) -> Token:
    """Return the token of a trade's profit, which the market knows, as it was repaid or seized."""
    return next(each for each in _known(candidate, trade) if each.address == trade.profit_token)


def _known(candidate: Candidate, trade: Trade) -> Iterator[Token]:
    first = trade.stages[0]
    yield from (first.repay, first.seize)
    yield from (each.token for each in candidate.snapshot.payments)
    yield Token(trade.profit_token, f"0x{trade.profit_token[:2].hex()}..{trade.profit_token[-2:].hex()}", 0)
