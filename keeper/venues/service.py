"""What tells one service from another: requests, answers, and the functions that its router may be called by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from keeper.domain.chain import ViewCall
from keeper.domain.units import Address
from keeper.errors import ConfigurationError
from keeper.venues.allow import Ask, Layout, Offer
from keeper.venues.door import Line


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a service without asking it.

    `keyed_url` is where it answers those who have a key, where that is another place. `routers` by chain id are the only contracts that its calldata is ever sent to. `pace_ms` is the least time between
    two requests without a key and with one, of the smallest plan. `views_last` says that what is read from the chain
    before it is asked never changes.
    """

    name: str
    url: str
    routers: Mapping[int, Address]
    layouts: tuple[Layout, ...]
    pace_ms: tuple[int, int]
    needs_key: bool = False
    takes_key: bool = True
    keyed_url: str = ""
    views_last: bool = True

    @property
    def by_selector(self) -> Mapping[bytes, Layout]:
        """Return the functions by how calldata names them."""
        return {layout.selector: layout for layout in self.layouts}

    def router(self, chain_id: int, root: Address) -> Address:
        """Return the router on a chain, where the chain file names the same; on other chains that which it names.

        Raises: ConfigurationError.
        """
        known = self.routers.get(chain_id)
        if known is not None and known != root:
            raise ConfigurationError(f"root must be {self.name}'s router on this chain, 0x{known.hex()}")
        return root

    def url_on(self, chain_id: int, *, is_keyed: bool) -> str:
        """Return where it answers for a chain; nothing where it does not."""
        if chain_id not in self.routers:
            return ""
        return self.keyed_url if is_keyed and self.keyed_url else self.url


class Service(Protocol):
    """One service on one chain."""

    @property
    def profile(self) -> Profile:
        """Return what is known of it."""
        ...

    @property
    def chain_id(self) -> int:
        """Return its chain."""
        ...

    @property
    def router(self) -> Address:
        """Return the contract that its calldata is for, and that pulls what is given."""
        ...

    def headers(self, key: str) -> Mapping[str, str]:
        """Return what every request carries; the key is empty where there is none."""
        ...

    def views(self, tokens: Collection[Address]) -> Sequence[ViewCall]:
        """Return what has to be read at the head before it is asked."""
        ...

    def trusted(self, ask: Ask) -> frozenset[Address]:
        """Return the contracts that its router may hand tokens to, where its layouts name any."""
        ...

    async def offer(self, line: Line, ask: Ask) -> Offer:
        """Ask for one amount.

        Raises: Unanswered, NoOffer; Invalid or ValueError for an answer of another form.
        """
        ...


def percent(bps: int) -> str:
    """Return hundredths of a percent as percent."""
    return f"{bps // 100}.{bps % 100:02}"
