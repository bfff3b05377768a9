"""Where tokens are swapped and lent, as it stands at one head: what a plan is quoted from."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from keeper.domain.chain import Log, LogFilter
from keeper.domain.ports import Reads
from keeper.domain.program import Step
from keeper.domain.units import Address, TokenAmount


@dataclass(frozen=True, slots=True)
class Swapped:
    """What a swap would bring, the gas that it takes, and the pool as it stands afterwards."""

    amount: TokenAmount
    gas: int
    pool: "Pool"


class Pool(Protocol):
    """One place to swap, at one head. A value: to swap returns another.

    For one direction the amount that comes out grows with what goes in, and ever more slowly.
    """

    @property
    def id(self) -> bytes:
        """Return what tells it from every other pool, at any head."""
        ...

    @property
    def lock(self) -> bytes:
        """Return what it locks while it is used: of two that share it, none can be used inside the other."""
        ...

    @property
    def venue(self) -> str:
        """Return the name of its venue, for people."""
        ...

    @property
    def takes_exactly(self) -> bool:
        """Return whether it takes nothing but the amounts that it was asked about; what is more stays behind."""
        ...

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return every (give, take) that it can swap."""
        ...

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote an exact amount given, to the wei or from below; None where it is more than the pool can take."""
        ...

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step that does it."""
        ...


class Lender(Protocol):
    """One place to borrow from within a transaction, at one head."""

    @property
    def name(self) -> str:
        """Return its name, for people."""
        ...

    @property
    def lock(self) -> bytes:
        """Return what it locks while its loan is out; see `Pool.lock`."""
        ...

    @property
    def gas(self) -> int:
        """Return what a loan takes on top of what is done with it."""
        ...

    def fee(self, token: Address, amount: TokenAmount) -> TokenAmount | None:
        """Return what a loan costs, in the token itself, rounded as the lender does; None where it cannot lend that."""
        ...

    def step(self, token: Address, amount: TokenAmount, most_fee: TokenAmount) -> Step:
        """Return the executor's step that opens the loan."""
        ...


class Venue(Protocol):
    """A family of pools that are quoted from memory: their logs tell which have to be read again."""

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        ...

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that change its known pools."""
        ...

    async def discover(self, reads: Reads, pairs: Collection[tuple[Address, Address]]) -> None:
        """Find the pools of some pairs of tokens, each pair sorted; those that it knows are not looked for again.

        Raises: Transient, Stale; Unsafe when the root is not what the chain file says it is.
        """
        ...

    def follow(self, logs: Iterable[Log]) -> None:
        """Note which pools the logs of new blocks changed."""
        ...

    def distrust(self) -> None:
        """Note that every pool has to be read again: blocks were orphaned, or logs are missing."""
        ...

    async def pools(self, reads: Reads) -> Sequence[Pool]:
        """Return every known pool at the reads' head, reading only those that have changed.

        Raises: Transient, Stale; what was noted is then noted still.
        """
        ...


@dataclass(frozen=True, slots=True)
class Want:
    """An exchange that some plan could use, up to the most that it would give; `is_hop` where it is half of one."""

    give: Address
    take: Address
    most: TokenAmount
    is_hop: bool = False


class Quoter(Protocol):
    """A venue that has to be asked: a contract by one batched call at the head, or a service by HTTP."""

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        ...

    async def quotes(self, reads: Reads, wanted: Sequence[Want]) -> Sequence[Pool]:
        """Return what it offers for what is wanted; nothing where it does not answer in time.

        Raises: Stale.
        """
        ...

    async def close(self) -> None:
        """Let go of what it is asked over, if anything."""
        ...


class Lenders(Protocol):
    """A place to borrow from, read at each head."""

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        ...

    async def lenders(self, reads: Reads, tokens: Collection[Address]) -> Sequence[Lender]:
        """Return what it would lend at the reads' head, in one batch.

        Raises: Transient, Stale.
        """
        ...
