"""From a choice to the executor's program: what is borrowed, done, swapped, and has to come out."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from keeper.domain.fixed import div_up
from keeper.domain.program import ALL, Output, Program, Step, StepKind
from keeper.domain.units import BPS, NATIVE, Address, TokenAmount
from keeper.engine.exchange import Quote, is_paid_last
from keeper.engine.funding import Funding, Owed
from keeper.engine.terms import SCALE, Terms, Values

CONVERSION_GAS: Final = {
    StepKind.REDEEM_COMPOUND: 250_000,
    StepKind.REDEEM_ERC4626: 120_000,
    StepKind.UNWRAP_WSTETH: 50_000,
    StepKind.WRAP_NATIVE: 30_000,
    StepKind.UNWRAP_NATIVE: 30_000,
}
"""What a step behind a liquidation takes; the liquidation itself is the protocol's to estimate."""


class Choice(NamedTuple):
    """Steps that liquidate, who pays for them first, and where the proceeds go.

    `token` is what the debt is paid in, wrapped where it is native currency; `borrowed` is what the calls may take at
    most, `repaid` what they should take.
    """

    token: Address
    steps: tuple[Step, ...]
    repaid: int
    borrowed: int
    sold: Address
    funding: Funding
    owed: Owed
    quote: Quote

    @property
    def profit(self) -> int:
        """Return what is left in the end of the token that is owed."""
        return self.quote.amount - self.owed.amount

    @property
    def spare(self) -> int:
        """Return what is left of the token that was borrowed, where that is another one."""
        return 0 if self.owed.token == self.token else self.borrowed - self.repaid


def merged(stages: Sequence[tuple[Step, ...]]) -> tuple[Step, ...]:
    """Put the steps of several stages in a row; what turns all that is there into something else is done once, last."""
    steps = [step for stage in stages for step in stage]
    return tuple(step for place, step in enumerate(steps) if step.amount != ALL or step not in steps[place + 1 :])


def conversion_gas(steps: Sequence[Step]) -> int:
    """Return what the steps behind the liquidations take."""
    return sum(CONVERSION_GAS.get(step.kind, 0) for step in steps)


def bound(worth: int, rate: int, terms: Terms) -> int:
    """Return the least amount of a token that something may be sold for, by the oracle's prices.

    Rounding: up.
    """
    return div_up(worth * (BPS - terms.max_slippage_bps), rate * BPS)


def least_profit(amount: int, rate: int, terms: Terms) -> TokenAmount:
    """Return how much of an expected profit has to come out."""
    return TokenAmount(max(amount * terms.floor_bps // BPS, div_up(terms.min_profit_base * SCALE, rate)))


def build(choice: Choice, values: Values, terms: Terms) -> Program:
    """Return the program.

    Every swap gives all that the one before it has brought: what really comes is sold. It has to bring what was quoted,
    less the tolerance, and what the oracle's bound says.
    """
    steps = [*_opening(choice, values, terms), *choice.steps, *_wrapped_rest(choice), *_swaps(choice, values, terms)]
    profit = choice.profit
    outputs = {choice.owed.token: least_profit(profit, values.rate(choice.owed.token), terms)}
    for token in (choice.token, choice.sold, *(hop.take for hop in choice.quote.route)):
        outputs.setdefault(token, TokenAmount(0))  # nothing rests: what a swap leaves over goes home as well
    rows = tuple(Output(token, least) for token, least in outputs.items())
    return Program(tuple(steps), rows, terms.last_block, terms.deadline_s)


def _opening(choice: Choice, values: Values, terms: Terms) -> Iterator[Step]:
    """Yield what brings the tokens that are repaid."""
    funding, owed = choice.funding, choice.owed
    borrowed = TokenAmount(choice.borrowed)
    if funding.lender is not None:
        yield funding.lender.step(choice.token, borrowed, TokenAmount(owed.amount - choice.repaid))
    elif funding.hop is not None and is_paid_last(funding.hop.pool):
        rate = values.rate(owed.token)
        fair = borrowed * values.rate(choice.token) * BPS // (rate * (BPS - terms.max_slippage_bps))
        most = min(fair, div_up(owed.amount * (BPS + terms.tolerance_bps), BPS))
        yield funding.hop.pool.first(owed.token, choice.token, borrowed, most)
    if _is_native(choice):
        yield Step(StepKind.UNWRAP_NATIVE, choice.token, choice.token, NATIVE, borrowed)


def _is_native(choice: Choice) -> bool:
    return any(step.give == NATIVE for step in choice.steps)


def _wrapped_rest(choice: Choice) -> Iterator[Step]:
    """Yield what wraps native currency that the liquidations did not take, unless the first swap does."""
    is_rest = _is_native(choice) and choice.borrowed > choice.repaid
    if is_rest and not (choice.quote.route and choice.quote.route[0].give == NATIVE):
        yield Step(StepKind.WRAP_NATIVE, choice.token, NATIVE, choice.token)


def _swaps(choice: Choice, values: Values, terms: Terms) -> Iterator[Step]:
    worth, given = choice.quote.given * values.rate(choice.sold), choice.quote.given
    for (pool, give, take), amount in zip(choice.quote.route, choice.quote.amounts, strict=True):
        rate = values.rate(take)
        least = max(amount * (BPS - terms.tolerance_bps) // BPS, bound(worth, rate, terms) if rate else 0)
        yield pool.step(give, take, given if pool.takes_exactly else ALL, least)
        given = amount
