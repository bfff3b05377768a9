"""How long the keeper needed to be itself again: told by the tests, collected over processes, shown per group."""

from dataclasses import dataclass
from typing import Final, Protocol, Self, cast

PROPERTY: Final = "recovery"


class Recovery(Protocol):
    """Tells a recovery of the case's group; call it once the keeper acts again."""

    def __call__(self, case: str, *, blocks: int | None = None, seconds: float | None = None) -> None:
        """Tell in blocks, in seconds, or in both."""
        ...


@dataclass(frozen=True, slots=True)
class Recovered:
    """One recovery, in a form that travels between processes."""

    case: str
    blocks: int | None
    seconds: float | None

    def plain(self) -> list[str | int | float | None]:
        """Return what a report can carry."""
        return [self.case, self.blocks, self.seconds]

    @classmethod
    def read(cls, told: object) -> Self:
        """Read what a report carried."""
        case, blocks, seconds = cast("tuple[str, int | None, float | None]", told)
        return cls(case, blocks, seconds)
