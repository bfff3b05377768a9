"""What is weighed in the search for the best size: ways, deals, and what was found."""

from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from keeper.domain.position import Opportunity
from keeper.domain.program import Step
from keeper.domain.units import Address
from keeper.engine.exchange import Route
from keeper.engine.funding import Funding
from keeper.engine.program import Choice
from keeper.engine.split import Stage


class Way(NamedTuple):
    """A route with who pays first; the same route has the same number."""

    route: Route
    funding: Funding
    number: int

    @property
    def key(self) -> tuple[int, int]:
        """Return what tells it from the other ways."""
        hop = self.funding.hop
        return self.number, id(self.funding.lender) if hop is None else id(hop.pool)


Sample = tuple[int, list[int], Way]
"""What a way is worth at a few sizes, after the most of it."""


@dataclass(frozen=True, slots=True)
class Deal:
    """Stages and what they come to: what may be taken from us at most, what should be, and what there is to sell."""

    stages: tuple[Stage, ...]
    steps: tuple[Step, ...]
    token: Address
    repaid: int
    borrowed: int
    sold: Address
    amount: int
    gas: int
    cuts: list[tuple[int, int, Optional["Deal"]]] = field(default_factory=list, compare=False)
    """What is legal below it, for all amounts from one to another."""


@dataclass(frozen=True, slots=True)
class Found:
    """An exact choice with its worth after everything (base units times `SCALE`)."""

    worth: int
    deal: Deal
    way: Way
    choice: Choice
    gas: int

    @property
    def stages(self) -> tuple[Opportunity, ...]:
        """Return the liquidations."""
        return tuple(each.opportunity for each in self.deal.stages)


@dataclass(frozen=True, slots=True)
class Best:
    """The best of a deal, and the best with all of it, where that can be had."""

    top: Found
    whole: Found | None
