"""How the plans ended: for summaries and profit and loss."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome
from keeper.domain.position import Token
from keeper.domain.units import Address, TokenAmount, Wei
from keeper.store.codec import read_outcome
from keeper.store.database import Database
from keeper.store.schema import intent, outcome


@dataclass(frozen=True, slots=True)
class Summary:
    """Totals over a range of blocks. `gas_wei` holds everything spent, that of approvals and gap fillers included."""

    results: Mapping[Result, int]
    reasons: Mapping[Reason, int]
    gas_wei: Wei
    repaid: Mapping[Token, TokenAmount]
    seized: Mapping[Token, TokenAmount]


class Outcomes:
    """The stored outcomes, read only: the journal writes them."""

    def __init__(self, database: Database) -> None:
        """Use the state directory's database."""
        self._database = database

    async def latest(self, limit: int = 100) -> tuple[Outcome, ...]:
        """Return the latest outcomes, newest first."""
        query = select(outcome).order_by(outcome.c.block.desc()).limit(limit)
        rows = await self._database.run(lambda connection: connection.execute(query).mappings().all())
        return tuple(read_outcome(row) for row in rows)

    async def of_account(self, account: Address) -> tuple[Outcome, ...]:
        """Return an account's outcomes in every market, newest first."""
        query = select(outcome).where(outcome.c.account == account).order_by(outcome.c.block.desc())
        rows = await self._database.run(lambda connection: connection.execute(query).mappings().all())
        return tuple(read_outcome(row) for row in rows)

    async def summary(self, from_block: int = 0, to_block: int = 2**62) -> Summary:
        """Add up what ended in a range of blocks, both ends included."""
        ended = select(outcome).where(outcome.c.block.between(from_block, to_block))
        mined = select(intent.c.gas_cost_wei).where(intent.c.mined_block.between(from_block, to_block))
        rows, costs = await self._database.run(
            lambda connection: (
                connection.execute(ended).mappings().all(),
                connection.execute(mined).scalars().all(),
            )
        )
        results: dict[Result, int] = {}
        reasons: dict[Reason, int] = {}
        repaid: dict[Token, TokenAmount] = {}
        seized: dict[Token, TokenAmount] = {}
        for each in map(read_outcome, rows):
            results[each.result] = results.get(each.result, 0) + 1
            if each.reason is not None:
                reasons[each.reason] = reasons.get(each.reason, 0) + 1
            if each.realised is not None and each.opportunity is not None:
                _add(repaid, each.opportunity.repay, each.realised.repaid_amount)
                _add(seized, each.opportunity.seize, each.realised.seized_amount)
        return Summary(results, reasons, Wei(sum(costs)), repaid, seized)


def _add(totals: dict[Token, TokenAmount], token: Token, amount: TokenAmount) -> None:
    totals[token] = TokenAmount(totals.get(token, 0) + amount)
