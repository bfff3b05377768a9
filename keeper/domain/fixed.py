"""Fixed-point arithmetic on integers. The rounding is in the function's name."""

from keeper.domain.units import BPS, RAY


def div_up(numerator: int, denominator: int) -> int:
    """Divide non-negative integers, rounding up."""
    return -(-numerator // denominator)


def div_half_up(numerator: int, denominator: int) -> int:
    """Divide non-negative integers, rounding a half up."""
    return (numerator + denominator // 2) // denominator


def ray_mul_half_up(a: int, b: int) -> int:
    """Multiply by a ray, rounding a half up (Aave `WadRayMath.rayMul`)."""
    return (a * b + RAY // 2) // RAY


def ray_mul_down(a: int, b: int) -> int:
    """Multiply by a ray, rounding down (Aave v3.5 `rayMulFloor`)."""
    return a * b // RAY


def ray_mul_up(a: int, b: int) -> int:
    """Multiply by a ray, rounding up (Aave v3.5 `rayMulCeil`)."""
    return -(-a * b // RAY)


def bps_mul_half_up(value: int, bps: int) -> int:
    """Take a share in basis points, rounding a half up (Aave `PercentageMath.percentMul`)."""
    return (value * bps + BPS // 2) // BPS


def bps_div_half_up(value: int, bps: int) -> int:
    """Divide by a share in basis points, rounding a half up (Aave `PercentageMath.percentDiv`)."""
    return (value * BPS + bps // 2) // bps


def bps_div_up(value: int, bps: int) -> int:
    """Divide by a share in basis points, rounding up (Aave v3.5 `percentDivCeil`)."""
    return -(-value * BPS // bps)
