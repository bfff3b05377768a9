"""Two small charts as SVG, written by hand: requests per head, and time to value every position."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import Final

from tests.bench.figures import Report, middle

_WIDTH: Final = 460
_HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 36, 74
_COLOURS: Final = ("#0b6e4f", "#1f77b4", "#b5473c", "#c98a1b", "#7a5195", "#6b6b6b")

Series = Mapping[str, Sequence[tuple[float, float]]]


def draw(report: Report) -> str:
    """Return a report's charts."""
    requests: dict[str, list[tuple[float, float]]] = {}
    seconds: dict[str, list[tuple[float, float]]] = {}
    for size in report.sizes:
        for shift in size.shifts:
            name = f"keeper, {shift.transport}"
            requests.setdefault(name, []).append((size.positions, shift.steady.requests_per_head))
            seconds.setdefault(name, []).append((size.positions, middle(shift.steady.pass_ms) / 1_000))
        for each in size.patterns:
            requests.setdefault(each.client, []).append((size.positions, each.requests))
            seconds.setdefault(each.client, []).append((size.positions, each.seconds))
    charts = (
        _chart("HTTP requests per head", requests, 0),
        _chart("seconds from head to every position valued", seconds, _WIDTH),
    )
    body = "\n".join(charts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * _WIDTH}" height="{_HEIGHT}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _chart(title: str, series: Series, left: int) -> str:
    """Draw lines on logarithmic axes."""
    points = [(x, y) for line in series.values() for x, y in line if x > 0 and y > 0]
    if not points:
        return ""
    low_x, high_x = _decades(x for x, _ in points)
    low_y, high_y = _decades(y for _, y in points)

    def at(x: float, y: float) -> tuple[float, float]:
        across = (log10(x) - low_x) / (high_x - low_x)
        up = (log10(y) - low_y) / (high_y - low_y)
        return (
            left + _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [f'<text x="{left + _LEFT}" y="20" font-size="13" font-weight="bold">{escape(title)}</text>']
    for decade in range(low_y, high_y + 1):
        x, y = at(10.0**low_x, 10.0**decade)
        parts.append(f'<line x1="{x:.0f}" x2="{left + _WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:,g}</text>')
    for decade in range(low_x, high_x + 1):
        x, y = at(10.0**decade, 10.0**low_y)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.0f}" text-anchor="middle">{10**decade:,}</text>')
    parts.append(f'<text x="{left + _WIDTH - _RIGHT}" y="{_HEIGHT - _BOTTOM - 6}" text-anchor="end">positions</text>')
    for place, (name, line) in enumerate(series.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        spots = [at(x, y) for x, y in line if y > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        column, row = place % 2, place // 2
        x, y = left + _LEFT + column * 190, _HEIGHT - _BOTTOM + 34 + row * 15
        parts.append(f'<rect x="{x}" y="{y - 8}" width="10" height="8" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="{y}">{escape(name)}</text>')
    return "\n".join(parts)


def _decades(values: Iterable[float]) -> tuple[int, int]:
    """Return the powers of ten that enclose the values."""
    known = list(values)
    low, high = floor(log10(min(known))), ceil(log10(max(known)))
    return low, max(high, low + 1)
