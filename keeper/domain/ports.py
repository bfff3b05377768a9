"""The seams: what a protocol gives the engine, and what the outside gives a protocol.

A module can implement a Protocol, so a protocol's `rules` and `calls` are plain modules of pure functions.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from keeper.domain.chain import BlockHead, Call, Log, LogFilter, ViewCall, ViewResult
from keeper.domain.outcome import Reason
from keeper.domain.plan import Realised
from keeper.domain.position import Assessment, Health, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import ZERO_ADDRESS, Address, Base, Column, TokenAmount

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
        """Answer each call in order; calls of concurrent callers share one request.

        Raises: Transient when no endpoint answers; Stale when the block is gone.
        """
        ...


class Snapshot(Protocol):
    """A market's shared state at one block: prices, indexes, parameters."""

    @property
    def head(self) -> BlockHead:
        """Return the block it was read at."""
        ...

    @property
    def native_price_base(self) -> Base | None:
        """Return the value of 10**18 wei, or None where the market does not price it."""
        ...

    @property
    def inventory_tokens(self) -> Mapping[Address, Token]:
        """Return the tokens that a liquidator may have to pay with."""
        ...

    @property
    def spender(self) -> Address:
        """Return the contract that pulls a liquidator's tokens."""
        ...

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value an amount of a token, rounding down, or None without a price."""
        ...


class Position(Protocol):
    """One account's own state in one market, as stored on chain (scaled, without interest)."""

    @property
    def account(self) -> Address:
        """Return the account."""
        ...

    @property
    def has_debt(self) -> bool:
        """Return whether it can ever be liquidated as it stands."""
        ...


@dataclass(frozen=True, slots=True)
class Touched:
    """What a block's logs changed: accounts to read again, and whether the market must be discovered anew."""

    accounts: frozenset[Address]
    is_market_changed: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """A liquidation that a log reports, whoever made it."""

    key: PositionKey
    liquidator: Address
    realised: Realised
    repay_token: Address
    seize_token: Address
    log: Log


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
        """Return the logs that name every account that may hold a position."""
        ...

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that can change a tracked position or the market."""
        ...

    async def discover(self, reads: Reads) -> None:
        """Find everything reachable from the root; call again after a market change.

        Raises: Unsafe when the root is not what the chain file says it is.
        """
        ...

    def accounts(self, logs: Iterable[Log]) -> frozenset[Address]:
        """Return the accounts that discovery logs name."""
        ...

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return what the logs changed."""
        ...

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return the liquidations in this market that logs report, whoever made them."""
        ...

    async def snapshot(self, reads: Reads) -> SnapshotOut:
        """Read the market's shared state."""
        ...

    async def positions(self, reads: Reads, accounts: Sequence[Address]) -> Sequence[PositionOut]:
        """Read accounts' own state, in order."""
        ...

    async def chain_health(self, reads: Reads, accounts: Sequence[Address]) -> Sequence[Health | None]:
        """Ask the protocol itself how healthy accounts are (holdings left empty); None where it reverts."""
        ...

    async def price_ages(self, reads: Reads) -> Sequence[PriceAge]:
        """Return every token's price with its age, for `keeper check`."""
        ...


class Rules(Protocol[SnapshotIn, PositionIn]):
    """The contract's arithmetic: pure, exact."""

    def row(self, position: PositionIn, snapshot: SnapshotIn) -> Row:
        """Return the position's linear form."""
        ...

    def weights(self, snapshot: SnapshotIn, columns: Set[Column], at_s: int) -> Mapping[Column, Weight]:
        """Return the columns' factors at a time."""
        ...

    def health(self, position: PositionIn, snapshot: SnapshotIn, at_s: int) -> Health:
        """Value the position exactly."""
        ...

    def assess(
        self, position: PositionIn, snapshot: SnapshotIn, at_s: int, budget: Mapping[Address, TokenAmount] | None
    ) -> Assessment:
        """Say whether and how the position can be liquidated, paying at most `budget` per token (None: no bound)."""
        ...


class Calls(Protocol):
    """Domain to calldata and back: pure."""

    GAS_ESTIMATE: int
    SELECTORS: frozenset[bytes]
    """The functions that a signer has to allow."""

    def liquidation(self, opportunity: Opportunity) -> Call:
        """Return the call that carries out the opportunity."""
        ...

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        """Classify revert data, with a text of at most 256 printable characters."""
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

    @property
    def place(self) -> str:
        """Return what is stored under: another root by the same name is another market."""
        return f"{self.name}@{self.root.hex()}"
