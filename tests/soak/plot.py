"""The course of a soak as SVG, written by hand: four curves over one time axis, each fault a mark across all of them."""

from collections.abc import Sequence
from html import escape
from typing import Final

from tests.soak.figures import MIB, Report

Point = tuple[float, float]

_WIDTH: Final = 1_100
_PANEL: Final = 120
_GAP: Final = 34
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 60, 40
_GRID: Final = 4
_CURVE, _FAULT, _LOST = "#0b6e4f", "#c98a1b", "#b5473c"


def draw(report: Report) -> str:
    """Return the picture."""
    samples = report.samples
    panels: tuple[tuple[str, list[Point]], ...] = (
        ("resident memory, MiB", [(each.at_s, each.rss_kib / MIB) for each in samples if each.rss_kib]),
        ("descriptors", [(each.at_s, each.descriptors) for each in samples if each.rss_kib]),
        (
            "age of the keeper's head, s",
            [(each.at_s, each.head_age_s) for each in samples if each.head_age_s is not None],
        ),
        ("recovery after a fault, s", [(each.end_s, each.recovery_s or 0.0) for each in report.faults]),
        ("liquidations", [(each.at_s, float(each.won)) for each in samples]),
    )
    end_s = max((each.at_s for each in samples), default=1.0)
    height = _TOP + len(panels) * (_PANEL + _GAP) + _BOTTOM
    held = sum(each.holds for each in report.verdicts)
    title = f"Soak of {report.wish.seconds / 60:g} minutes, seed {report.wish.seed}: {held} of {len(report.verdicts)} invariants held"
    hint = "each band is a fault, red where the keeper did not recover; point at it for its name"
    size = f'width="{_WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="14" font-weight="bold">{title}</text>',
        f'<text x="{_LEFT}" y="38">{hint}</text>',
        *_bands(report, end_s, height),
    ]
    for place, (title, points) in enumerate(panels):
        parts += _panel(title, points, end_s, _TOP + place * (_PANEL + _GAP), is_bars=title.startswith("recovery"))
    bottom = height - _BOTTOM + 4
    for share in range(7):
        at_s = end_s * share / 6
        parts.append(f'<text x="{_across(at_s, end_s):.1f}" y="{bottom}" text-anchor="middle">{at_s / 60:.1f}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 16}" text-anchor="end">minutes</text>')
    return "\n".join([*parts, "</svg>", ""])


def _bands(report: Report, end_s: float, height: int) -> list[str]:
    """Mark each fault from its beginning to its end."""
    found = []
    for each in report.faults:
        left, right = _across(each.begin_s, end_s), _across(each.end_s, end_s)
        colour = _LOST if each.recovery_s is None else _FAULT
        name = escape(f"{each.begin_s:.0f} s: {each.kind} ({each.detail})")
        found.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(right - left, 1.5):.1f}" height="{height - _TOP - _BOTTOM - 14}" '
            f'fill="{colour}" opacity="0.3"><title>{name}</title></rect>'
        )
    return found


def _panel(title: str, points: Sequence[Point], end_s: float, top: float, *, is_bars: bool) -> list[str]:
    """Draw one curve, or one bar for each point."""
    most = max((value for _, value in points), default=0.0) or 1.0
    parts = [f'<text x="{_LEFT}" y="{top - 5:.0f}" font-weight="bold">{escape(title)}</text>']
    for step in range(_GRID + 1):
        y = top + _PANEL - step / _GRID * _PANEL
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * step / _GRID:,.3g}</text>')
    spots = [(_across(at_s, end_s), top + _PANEL - value / most * _PANEL) for at_s, value in points]
    if is_bars:
        base = top + _PANEL
        parts += [
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{y:.1f}" stroke="{_CURVE}" stroke-width="3"/>'
            for x, y in spots
        ]
    else:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_CURVE}" stroke-width="1.5"/>')
    return parts


def _across(at_s: float, end_s: float) -> float:
    return _LEFT + at_s / end_s * (_WIDTH - _LEFT - _RIGHT)
