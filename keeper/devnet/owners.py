"""Lets many made-up owners act with their own transactions, some of them to a block."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from keeper.devnet.chain import DevChain
from keeper.devnet.packages import Progress

# The pool of pending transactions slows down faster than it grows: about this many owners a block is quickest.
_OWNERS_PER_BLOCK: Final = 20
_OWNER_WEI: Final = 10**19


class Owned(Protocol):
    """What somebody is to hold."""

    @property
    def owner(self) -> str:
        """Return the owner's address."""


OwnedT = TypeVar("OwnedT", bound=Owned)


async def open_in_parts(
    chain: DevChain,
    specs: Sequence[OwnedT],
    open_part: Callable[[Sequence[OwnedT]], Awaitable[object]],
    progress: Progress,
) -> tuple[str, ...]:
    """Open positions part by part, in the name of owners who have native currency, and return the owners."""
    await chain.auto_impersonate(wanted=True)
    try:
        async with chain.bulk():
            for start in range(0, len(specs), _OWNERS_PER_BLOCK):
                part = specs[start : start + _OWNERS_PER_BLOCK]
                await chain.batch([("anvil_setBalance", (spec.owner, hex(_OWNER_WEI))) for spec in part])
                await open_part(part)
                progress(f"opened {start + len(part)} of {len(specs)} positions")
    finally:
        await chain.auto_impersonate(wanted=False)
    return tuple(spec.owner for spec in specs)
