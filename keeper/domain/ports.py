"""The seams: what a protocol gives the engine, and what the outside gives a protocol.

A module can implement a Protocol, so a protocol's `rules` and `calls` are plain modules of pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from keeper.domain.chain import BlockHead, Call, Log, LogFilter, Moment, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.plan import Payment, Realised
from keeper.domain.position import Action, Assessment, Health, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.program import Program, Step, StepKind
from keeper.domain.units import ZERO_ADDRESS, Address, Base, Column, PositionId, TokenAmount

SnapshotOut = TypeVar("SnapshotOut", bound="Snapshot", covariant=True)
PositionOut = TypeVar("PositionOut", bound="Position", covariant=True)
SnapshotIn = TypeVar("SnapshotIn", bound="Snapshot", contravariant=True)
PositionIn = TypeVar("PositionIn", bound="Position", contravariant=True)


class Clock(Protocol):
    """The only source of time."""

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards."""
        ...

    def unix_s(self) -> float:
        """Return seconds since 1970."""
        ...


class Reads(Protocol):
    """Batched contract reads, all pinned to one block."""

    @property
    def head(self) -> BlockHead:
        """Return the block that every answer is from."""
        ...

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer each call in order; calls of concurrent callers share one request, so none may change state.

        Raises: Transient when no endpoint answers; Stale when the block is gone.
        """
        ...

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        """Answer calls one after the other in a request of their own: what one changes, only those behind it see.

        Raises: Transient when no endpoint answers, or the calls are too heavy for one request; Stale when the block is
        gone.
        """
        ...


class Snapshot(Protocol):
    """A market's shared state at one block: prices, indexes, parameters.

    Rules are functions of it alone, so it also names its market, for the keys of what they find.
    """

    @property
    def head(self) -> BlockHead:
        """Return the block it was read at."""
        ...

    @property
    def native_price_base(self) -> Base | None:
        """Return the value of 10**18 wei, or None where nothing prices it."""
        ...

    @property
    def payments(self) -> Sequence[Payment]:
        """Return every way in which a liquidator may have to pay."""
        ...

    @property
    def proceeds(self) -> Sequence[Token]:
        """Return the tokens that liquidations bring and that are to be turned into others: receipts for deposits."""
        ...

    @property
    def targets(self) -> frozenset[Address]:
        """Return the contracts that the keeper's calls go to."""
        ...

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a token, rounding down, or None without a price."""
        ...


class Position(Protocol):
    """One position's own state, as stored on chain (scaled, without interest); equal states compare equal."""

    @property
    def id(self) -> PositionId:
        """Return which position of its market it is."""
        ...

    @property
    def has_debt(self) -> bool:
        """Return whether it can ever be liquidated as it stands."""
        ...


@dataclass(frozen=True, slots=True)
class Touched:
    """What a block's logs changed: positions to read again, and whether the market must be discovered anew."""

    positions: frozenset[PositionId]
    is_market_changed: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A liquidation, or a step before or after one, that a log reports, whoever made it."""

    key: PositionKey
    liquidator: Address
    realised: Realised
    repay_token: Address
    seize_token: Address
    log: Log
    action: Action = Action.LIQUIDATE


@dataclass(frozen=True, slots=True)
class PriceAge:
    """A token's price, and when its source last reported it (None where the source does not tell)."""

    token: Token
    price_base: Base | None
    updated_s: int | None


class Reader(Protocol[SnapshotOut, PositionOut]):
    """Chain to domain, without decisions."""

    @property
    def market(self) -> str:
        """Return the market's name."""
        ...

    @property
    def discovery_filter(self) -> LogFilter:
        """Return the logs that name everything that only logs name: positions, and perhaps parts of the market."""
        ...

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change a tracked position or the market."""
        ...

    def recall(self, known: Iterable[PositionId]) -> None:
        """Take what discovery logs have named so far; a discovery then finds what belongs to it."""
        ...

    def recognise(self, positions: Sequence[Any]) -> None:
        """Take back positions that were read before, by an earlier process, and remember what reading them would have."""
        ...

    async def discover(self, reads: Reads) -> None:
        """Find everything reachable from the root and from what was recalled; call again after a market change.

        Raises: Unsafe when the root is not what the chain file says it is.
        """
        ...

    def named(self, logs: Iterable[Log]) -> frozenset[PositionId]:
        """Return what discovery logs name."""
        ...

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return what the logs changed."""
        ...

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return the liquidations in this market, and the steps around them, that logs report, whoever made them."""
        ...

    async def snapshot(self, reads: Reads) -> SnapshotOut:
        """Read the market's shared state."""
        ...

    async def positions(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[PositionOut]:
        """Read positions' own state, in order; what is only a part of the market has none and is left out."""
        ...

    async def chain_health(self, reads: Reads, ids: Sequence[PositionId]) -> Sequence[Health | None]:
        """Ask the protocol itself how healthy positions are (holdings left empty); None where it reverts."""
        ...

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return every token's price with its age, for `keeper check`."""
        ...


class Rules(Protocol[SnapshotIn, PositionIn]):
    """The contract's arithmetic: pure, exact."""

    def row(self, position: PositionIn, snapshot: SnapshotIn) -> Row:
        """Return the position's linear form."""
        ...

    def weights(self, snapshot: SnapshotIn, columns: Set[Column], at: Moment) -> Mapping[Column, Weight]:
        """Return the columns' factors at a moment."""
        ...

    def health(self, position: PositionIn, snapshot: SnapshotIn, at: Moment) -> Health:
        """Value the position exactly; what has no price counts for nothing, and its holder is not liquidatable."""
        ...

    def assess(
        self, position: PositionIn, snapshot: SnapshotIn, at: Moment, budget: Mapping[Address, TokenAmount] | None
    ) -> Assessment:
        """Say whether and how the position can be liquidated, paying at most `budget` per token (None: no bound)."""
        ...

    def settlements(
        self, owner: Address, held: Mapping[Address, TokenAmount], snapshot: SnapshotIn, at: Moment, /
    ) -> Sequence[Opportunity]:
        """Return how to turn what the owner holds of the market's proceeds into what it stands for."""
        ...


class Calls(Protocol):
    """Domain to calldata and back: pure."""

    GAS_ESTIMATE: int
    SELECTORS: frozenset[bytes]
    """The functions that a signer has to allow."""
    PAYABLE: frozenset[bytes]
    """Those of them that may be sent native currency."""

    def liquidation(self, opportunity: Opportunity) -> Call:
        """Return the call that carries out the opportunity, whatever its action."""
        ...

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        """Classify revert data, with a text of at most 256 printable characters."""
        ...


class Programs(Protocol[SnapshotIn, PositionIn]):
    """How a protocol's liquidations go through the executor: pure."""

    def steps(self, opportunity: Opportunity, snapshot: SnapshotIn) -> tuple[Step, ...]:
        """Return the steps that carry an opportunity out and turn what is seized into what can be sold.

        Nothing where the executor cannot do it. A last step that is a door is paid when all the rest is done.
        """
        ...

    def proceeds(self, opportunity: Opportunity, snapshot: SnapshotIn) -> tuple[Address, TokenAmount]:
        """Return what the executor holds after the steps: the token that can be sold, and how much of it, rounded down."""
        ...

    def permits(self, snapshot: SnapshotIn) -> frozenset[tuple[Address, StepKind]]:
        """Return every target, with what is done to it, that any opportunity of the market may need."""
        ...

    def after(self, position: PositionIn, snapshot: SnapshotIn, opportunity: Opportunity) -> Any | None:
        """Return the position as the opportunity leaves it, for a second one in the same block; None where none follows."""
        ...


class Executor(Protocol):
    """The contract that carries programs out, as its own encoder knows it: pure."""

    @property
    def address(self) -> Address:
        """Return where it is."""
        ...

    @property
    def selectors(self) -> frozenset[bytes]:
        """Return the functions that a signer has to allow."""
        ...

    def call(self, program: Program) -> Call:
        """Return the call that runs a program."""
        ...

    def profits(self, logs: Iterable[Log]) -> Mapping[Address, TokenAmount]:
        """Return what it brought to its owner, by token, as it reports itself."""
        ...

    def decode_revert(self, data: bytes) -> tuple[Reason, str] | None:
        """Classify a refusal of its own; None where the words are somebody else's."""
        ...


@dataclass(frozen=True, slots=True)
class Market:
    """A protocol's parts bound to one market of the chain file. Snapshots and positions are its own types."""

    name: str
    protocol: str
    from_block: int
    reader: Reader[Any, Any]
    rules: Rules[Any, Any]
    calls: Calls
    root: Address = ZERO_ADDRESS
    position: type[Any] | None = None
    """The type of its positions, a frozen dataclass, where they may be saved; its reader then has `recognise`."""
    programs: Programs[Any, Any] | None = None
    """How the executor liquidates, where it can; elsewhere the signer's own inventory pays."""

    @property
    def place(self) -> str:
        """Return what is stored under: another root by the same name is another market."""
        return f"{self.name}@{self.root.hex()}"
