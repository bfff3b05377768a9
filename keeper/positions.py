"""`keeper positions`: every tracked position at one head, riskiest first."""

import json
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from keeper.chainfile import ChainFile
from keeper.domain.chain import BlockHead
from keeper.domain.position import Health, Holding, PositionKey
from keeper.parts import OnProgress, open_rpc, read_books
from keeper.settings import Settings
from keeper.text import address_text, amount_text, distance_bps, distance_text, health_text, position_text, usd_text


@dataclass(frozen=True, slots=True)
class Line:
    """One position with its exact health at the head's own time."""

    key: PositionKey
    health: Health


@dataclass(frozen=True, slots=True)
class Listing:
    """All positions at one block."""

    head: BlockHead
    lines: tuple[Line, ...]

    def chosen(self, *, below_wad: int | None, market: str | None, limit: int | None) -> "Listing":
        """Keep the positions below a health factor, of one market, and the first ones."""
        kept = [
            line
            for line in self.lines
            if (below_wad is None or line.health.health_factor_wad < below_wad)
            and (market is None or line.key.market == market)
        ]
        return Listing(self.head, tuple(kept[:limit]))


async def read_positions(settings: Settings, chain: ChainFile, on_progress: OnProgress | None = None) -> Listing:
    """Read every tracked position at the newest head; it works beside a running daemon, whose store it only reads.

    Raises: Unsafe, Transient, StorageFailed.
    """
    async with open_rpc(settings, chain) as rpc:
        scanner, head = await read_books(settings, chain, rpc, on_progress)
    lines = []
    for name, books in scanner.books.items():
        snapshot = scanner.snapshot(name)
        for position in books.book:
            health = books.market.rules.health(position, snapshot, head.moment)
            lines.append(Line(PositionKey(name, position.id), health))
    lines.sort(key=lambda line: (line.health.health_factor_wad, -line.health.debt_base, line.key))
    return Listing(head, tuple(lines))


def as_json(listing: Listing) -> str:
    """Write the block first, then each position: exact integers as strings beside the readable texts."""
    document = {
        "block": {"number": listing.head.number, "hash": f"0x{listing.head.hash.hex()}"},
        "positions": [_object(line) for line in listing.lines],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def as_table(listing: Listing) -> Table:
    """Draw the positions for a terminal."""
    table = Table(box=box.SIMPLE_HEAD, title=f"positions at block {listing.head.number}", title_justify="left")
    table.add_column("market")
    table.add_column("account", no_wrap=True)
    table.add_column("health", justify="right")
    table.add_column("distance", justify="right")
    table.add_column("collateral")
    table.add_column("debt")
    for line in listing.lines:
        health = line.health
        style = "red" if health.is_liquidatable else "yellow" if (distance_bps(health) or 0) < 500 else ""
        table.add_row(
            Text(line.key.market),
            position_text(line.key),
            health_text(health.health_factor_wad),
            "now" if health.is_liquidatable else distance_text(health),
            _holdings(health.collateral, health.collateral_base),
            _holdings(health.debt, health.debt_base),
            style=style,
        )
    return table


def _holdings(holdings: tuple[Holding, ...], total_base: int) -> Text:
    """Write amounts as plain text: a token may call itself whatever it likes."""
    parts = [f"{amount_text(each.amount, each.token.decimals, 4)} {each.token.symbol}" for each in holdings]
    return Text(f"{', '.join(parts)} ({usd_text(total_base)})")


def _object(line: Line) -> dict[str, Any]:
    health = line.health
    return {
        "market": line.key.market,
        "account": address_text(line.key.account),
        "part": f"0x{line.key.part.hex()}" if line.key.part else None,
        "health_factor_wad": str(health.health_factor_wad),
        "health_factor": health_text(health.health_factor_wad),
        "is_liquidatable": health.is_liquidatable,
        "distance_bps": distance_bps(health),
        "distance": distance_text(health),
        "collateral_base": str(health.collateral_base),
        "collateral_usd": usd_text(health.collateral_base),
        "debt_base": str(health.debt_base),
        "debt_usd": usd_text(health.debt_base),
        "collateral": [_holding(each) for each in health.collateral],
        "debt": [_holding(each) for each in health.debt],
    }


def _holding(holding: Holding) -> dict[str, str | int]:
    return {
        "symbol": holding.token.symbol,
        "token": address_text(holding.token.address),
        "decimals": holding.token.decimals,
        "amount": str(holding.amount),
        "amount_text": amount_text(holding.amount, holding.token.decimals),
        "value_base": str(holding.value_base),
        "value_usd": usd_text(holding.value_base),
    }
