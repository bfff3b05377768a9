"""The log lines of single things: how a plan ended, what a price did, how a plan that was not sent would have fared."""

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Result
from keeper.domain.plan import Outcome, Realised
from keeper.domain.position import Action, Opportunity, PositionKey
from keeper.domain.units import Base
from keeper.execution.shadow import Score
from keeper.observe.events import Event, emit
from keeper.oracles.guard import PriceMove, Turn
from keeper.text import amount_text, usd_text


def named(key: PositionKey) -> dict[str, object]:
    """Return the fields that name a position in a log line."""
    fields: dict[str, object] = {"market": key.market, "account": key.account}
    return fields | {"part": key.part} if key.part else fields


def tell_ending(outcome: Outcome) -> None:
    """Tell how a plan ended, and what it realised."""
    fields: dict[str, object] = {
        "plan_id": outcome.plan_id,
        **named(outcome.key),
        "block": outcome.block,
        "tx_hash": outcome.tx_hash,
        "result": outcome.result.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "detail": outcome.detail,
        "gas_cost_wei": outcome.gas_cost_wei,
    }
    what, real = outcome.opportunity, outcome.realised
    if what is not None and what.action is not Action.LIQUIDATE:
        fields["action"] = what.action.value
    if what is not None and real is not None:
        profit = realised_base(outcome)
        fields |= {
            "repay_token": what.repay.address,
            "repaid": f"{amount_text(real.repaid_amount, what.repay.decimals)} {what.repay.symbol}",
            "repaid_amount": real.repaid_amount,
            "planned_repay_amount": what.repay_amount,
            "seize_token": what.seize.address,
            "seized": f"{amount_text(real.seized_amount, what.seize.decimals)} {what.seize.symbol}",
            "seized_amount": real.seized_amount,
            "planned_seized_amount": what.seized_amount,
            **_brought(what, real),
            "profit_base": profit,
            "profit": usd_text(profit),
        }
    emit(_ending(outcome), **fields)


def _brought(what: Opportunity, real: Realised) -> dict[str, object]:
    """Return the fields of what the executor brought to its owner, beside what was planned."""
    if what.proceeds is None:
        return {}
    return {
        "profit_token": what.proceeds.token.address,
        "profit_amount": real.profit_amount,
        "planned_profit_amount": what.proceeds.amount,
        "least_profit_amount": what.proceeds.least,
    }


def profit_difference(outcome: Outcome) -> float | None:
    """Return how much more a trade brought than planned, as a share of that; None where there was no trade."""
    what, real = outcome.opportunity, outcome.realised
    if what is None or what.proceeds is None or real is None or not what.proceeds.amount:
        return None
    return ((real.profit_amount or 0) - what.proceeds.amount) / what.proceeds.amount


def tell_price(market: str, move: PriceMove, head: BlockHead) -> None:
    """Tell of a price that lost or won back its trust."""
    fields: dict[str, object] = {
        "market": market,
        "token": move.token.address,
        "symbol": move.token.symbol,
        "before_base": move.before_base,
        "price_base": move.price_base,
        "block": head.number,
    }
    if move.turn is Turn.JUMPED:
        emit(Event.ORACLE_JUMP, **fields)
        emit(Event.ORACLE_QUARANTINED, **fields)
    else:
        emit(Event.ORACLE_RESTORED, **fields)


def _ending(outcome: Outcome) -> Event:
    won = outcome.result is Result.WON
    if outcome.opportunity is not None and outcome.opportunity.action is not Action.LIQUIDATE:
        return Event.STEP_DONE if won else Event.STEP_FAILED
    return Event.LIQUIDATION_WON if won else Event.LIQUIDATION_LOST


def realised_base(outcome: Outcome) -> Base:
    """Value what an outcome realised at the plan's prices, before gas."""
    what, real = outcome.opportunity, outcome.realised
    return Base(0) if what is None or real is None else real.profit_base(what)


def scored(score: Score) -> None:
    """Tell what the chain did with a plan that was not sent."""
    emit(
        Event.SHADOW_SCORED,
        plan_id=score.plan_id,
        rank=score.rank.value,
        **named(score.key),
        waited_blocks=score.waited_blocks,
        rival=score.rival,
        profit_base=score.profit_base,
    )
