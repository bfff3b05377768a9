"""Opens positions with the owners' own transactions, many to a block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.chain import MAX_UINT, Tx
from keeper.devnet.market import (
    APPROVE,
    BORROW,
    MINT,
    NO_REFERRAL,
    SET_COLLATERAL,
    SET_EMODE,
    SUPPLY,
    VARIABLE_RATE,
    WITHDRAW,
    AaveMarket,
)
from keeper.devnet.owners import open_in_parts
from keeper.devnet.packages import Progress, silent

_GAS: Final = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionSpec:
    """What one owner holds: amounts in the tokens' own units.

    `withdrawals` are taken out of the supplies after borrowing, which brings a health factor below what the
    loan-to-value limit lets anyone open.
    """

    owner: str
    supplies: dict[str, int]
    borrows: dict[str, int] = field(default_factory=dict)
    withdrawals: dict[str, int] = field(default_factory=dict)
    emode: int = 0


def owner_address(index: int, seed: int = 0) -> str:
    """Return the made-up address of an owner: nobody has its key, the node impersonates it."""
    return to_checksum_address(keccak(text=f"keeper devnet owner {seed}/{index}")[-20:])


async def open_positions(
    market: AaveMarket, specs: Sequence[PositionSpec], progress: Progress = silent
) -> tuple[str, ...]:
    """Open the positions and return the owners; every receipt is checked.

    Raises: Reverted when the market refuses one.
    """

    async def open_part(part: Sequence[PositionSpec]) -> None:
        await market.chain.send_all(tx for spec in part for tx in _transactions(market, spec))

    return await open_in_parts(market.chain, specs, open_part, progress)


def _transactions(market: AaveMarket, spec: PositionSpec) -> Iterator[Tx]:
    owner = spec.owner

    switch_on = True

    def to_pool(signature: str, *args: object) -> Tx:
        return Tx(owner, market.pool, signature, args, gas=_GAS)

    if spec.emode:
        yield to_pool(SET_EMODE, spec.emode)
    for symbol, amount in spec.supplies.items():
        token = market.reserves[symbol].token
        yield Tx(owner, token, MINT, (owner, amount), gas=_GAS)
        yield Tx(owner, token, APPROVE, (market.pool, MAX_UINT), gas=_GAS)
        yield to_pool(SUPPLY, token, amount, owner, NO_REFERRAL)
        if market.spec.reserve(symbol).isolated:
            # An isolated collateral is never switched on by itself.
            yield to_pool(SET_COLLATERAL, token, switch_on)
    for symbol, amount in spec.borrows.items():
        yield to_pool(BORROW, market.reserves[symbol].token, amount, VARIABLE_RATE, NO_REFERRAL, owner)
    for symbol, amount in spec.withdrawals.items():
        yield to_pool(WITHDRAW, market.reserves[symbol].token, amount, owner)
