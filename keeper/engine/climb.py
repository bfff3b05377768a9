"""The peak of a curve that is dear to compute: how high it can be at most by a few samples, and where it is highest."""

from collections.abc import Callable, Sequence
from typing import Final

NOTHING: Final = -(1 << 4096)
"""The height where there is nothing."""
_NEAR: Final = 64
_CLOSE: Final = 3
_STEPS: Final = 20
_ENOUGH: Final = 4_096
_CLIFF: Final = 2_048
_APART: Final = 50

Point = tuple[int, int]
"""A worth, and what is repaid for it."""


def ceiling(worths: Sequence[int], nothing: int, least: int) -> int:
    """Return what no size can be above, by samples at one, a quarter and a sixteenth of the largest.

    Where the curve never turns up, it lies below every line through two of its points, outside of them, and where there is
    nothing for a size, there is nothing for any larger one. `nothing` is its height at 0, and `least` what no size below
    the smallest sample can be above.
    """
    largest, middle, small = worths
    if small == NOTHING:
        return least
    between = 4 * small - 3 * nothing
    if middle == NOTHING:
        return max(small, between, least)
    if largest != NOTHING:
        between = min(between, middle + (middle - largest) // 4)
    return max(largest, middle + 4 * (middle - small), between, min(least, small + (small - middle) // 3))


def reach(worths: Sequence[int], times: int) -> int:
    """Return what no size up to so many times the largest can be above, beyond the largest itself."""
    largest, middle, _ = worths
    if NOTHING in {largest, middle}:
        return NOTHING
    return largest + max(0, largest - middle) * 4 * (times - 1) // 3


def is_dearer(worths: Sequence[int], settled: Sequence[int] | None) -> bool:
    """Return whether the same route, paid for by somebody else, is nowhere better, as far as that one reaches."""
    return settled is not None and all(
        one <= other for one, other in zip(worths, settled, strict=True) if other > NOTHING
    )


def peak(curve: Callable[[int], int], sizes: Sequence[int], worths: Sequence[int], floor: Point, beat: int) -> Point:
    """Return the highest worth and its size, from samples at falling sizes, and from the floor's own worth and size.

    What surely does not beat another worth is not looked for to the end.
    """
    known = [*zip(worths, sizes, strict=True), floor]
    top = max(range(len(sizes)), key=lambda each: worths[each])
    if top == 0:
        near = sizes[0] - (sizes[0] - floor[1]) // _NEAR
        known.insert(1, (curve(near), near))
        if known[1] <= known[0]:
            return known[0]
        top = 1
    high = known[top - 1]
    found = _climb(curve, known[top + 1], known[top], high, beat)
    size = found[1] + (found[1] - floor[1]) // _NEAR
    beyond = (curve(size), size) if found[0] > beat and size < high[1] else found
    return _climb(curve, found, beyond, high, beat) if beyond[0] > found[0] else found  # a step down, and then on up


def _climb(curve: Callable[[int], int], low: Point, top: Point, high: Point, beat: int) -> Point:
    """Return the peak between two sizes, from one between that is higher: by parabolas, and by halves up to a cliff.

    Outside of two points, a curve that never turns up lies below the line through them: that says how much there may be
    still to gain.
    """
    for _ in range(_STEPS):
        left, right = top[1] - low[1], high[1] - top[1]
        if left + right <= _CLOSE:
            break
        rise = (top[0] - low[0]) * right // left if left and low[0] != NOTHING else -NOTHING
        if high[0] == NOTHING:
            if right * _CLIFF <= high[1]:
                break
            gain, tried = rise, (top[1] + high[1]) // 2
        else:
            fall = (top[0] - high[0]) * left // right if right else -NOTHING
            gain, tried = max(rise, fall), _vertex(low, top, high)
        if gain * _ENOUGH <= abs(top[0]) or top[0] + gain <= beat:
            break
        found = curve(tried), tried
        if found[0] > top[0]:
            low, top, high = (top, found, high) if tried > top[1] else (low, found, top)
        else:
            low, high = (low, found) if tried > top[1] else (found, high)
    return top


def _vertex(low: Point, top: Point, high: Point) -> int:
    """Return where a parabola through three points is highest; at least a little off the one in the middle."""
    left, right = top[1] - low[1], high[1] - top[1]
    rise, fall = (top[0] - low[0]) * right, (top[0] - high[0]) * left
    least = (high[1] - low[1]) // _APART + 1
    by = (rise * right - fall * left) // (2 * (rise + fall)) if low[0] != NOTHING and rise + fall else 0
    if abs(by) < least:
        by = least if right > left else -least
    return min(max(top[1] + by, low[1] + 1), high[1] - 1)
