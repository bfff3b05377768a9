"""One deployed executor, as plans and the sender see it: it implements `domain.ports.Executor`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from keeper.domain.chain import Call, Log
from keeper.domain.outcome import Reason
from keeper.domain.program import Program
from keeper.domain.units import Address, TokenAmount
from keeper.executor import calls


@dataclass(frozen=True, slots=True)
class DeployedExecutor:
    """The executor at an address."""

    address: Address

    @property
    def selectors(self) -> frozenset[bytes]:
        """Return the one function that a hot key needs."""
        return frozenset({calls.EXECUTE})

    def call(self, program: Program) -> Call:
        """Return the call that runs a program."""
        return calls.call(self.address, program)

    def profits(self, logs: Iterable[Log]) -> Mapping[Address, TokenAmount]:
        """Add up what it reports to have brought to its owner."""
        found: dict[Address, TokenAmount] = {}
        for event in calls.events(self.address, logs):
            if isinstance(event, calls.Profit):
                found[event.token] = TokenAmount(found.get(event.token, 0) + event.amount)
        return found

    def decode_revert(self, data: bytes) -> tuple[Reason, str] | None:
        """Classify a refusal of its own; None where the words are somebody else's."""
        return calls.decode_revert(data)
