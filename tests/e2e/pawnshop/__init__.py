"""Pawnshop: loans of one token against another in a single contract, one for each account.

Its words, in ours: a *loan* is a position; `health` is the health factor, and a loan below 1 can be liquidated; what
may be owed against the collateral is its *limit*, the value times the liquidation threshold. The loan token counts as
a dollar, whatever it trades at. Interest is linear in the time since the loan was last touched and joins the debt
then. A liquidation repays up to half, the close factor, and is refused where the bonus exceeds what is left.
"""

from keeper.chainfile import ChainFile, MarketConfig, Options
from keeper.domain.ports import Market
from keeper.registry import prices_of

from . import calls, rules
from .reader import PawnshopReader


def bind(config: MarketConfig, chain: ChainFile) -> Market:
    """Bind a market of a chain file; there are no options."""
    Options.read(config)
    reader = PawnshopReader(config.name, config.root, prices_of(chain))
    return Market(config.name, config.protocol, config.from_block, reader, rules, calls, config.root)
