"""Polars' operations on single Python values, bit for bit as Polars computes them over a column.

None is null and comes in nowhere: the callers in ``features.row_closure`` handle it. Where Python differs
from Polars' kernels (``polars-compute``, arithmetic and comparison), the kernel's rule is written out:

- a float divided by zero is infinite or NaN; ``//`` is the floor of the quotient, ``%`` what that leaves;
- integers wrap around; divided by zero they are null;
- NaN equals NaN and is greater than every number, but ``min_horizontal`` and ``max_horizontal`` pass over it;
- ``round`` scales, rounds half to even and scales back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

Binary = Callable[[Any, Any], Any]
Unary = Callable[[Any], Any]

_MICROSECOND = timedelta(microseconds=1)


def divide(a: float, b: float) -> float:
    """The quotient of floats.

    >>> divide(1.0, -0.0), divide(0.0, 0.0)
    (-inf, nan)
    """
    if b == 0.0:
        return math.nan if math.isnan(a) or a == 0.0 else math.copysign(math.inf, a) * math.copysign(1.0, b)
    return a / b


def floor(a: float) -> float:
    """The greatest whole float that is not greater; -0.0, NaN and inf stay."""
    return math.copysign(float(math.floor(a)), a) if math.isfinite(a) else a


def ceil(a: float) -> float:
    """The least whole float that is not less; -0.0, NaN and inf stay."""
    return -floor(-a)


def floor_divide(a: float, b: float) -> float:
    """The floor of the quotient of floats."""
    return floor(divide(a, b))


def modulo(a: float, b: float) -> float:
    """What the floor of the quotient leaves of a float."""
    return a - b * floor(divide(a, b))


def modulo_by(b: float) -> Unary:
    """``modulo`` by a literal: Polars multiplies by its inverse."""
    inverse = divide(1.0, b)
    return lambda a: a - b * floor(a * inverse)


def int_floor_divide(a: int, b: int) -> int | None:
    """The floor of the quotient of integers; None by zero."""
    return a // b if b else None


def int_modulo(a: int, b: int) -> int | None:
    """What the floor of the quotient leaves of an integer; None by zero."""
    return a % b if b else None


def wrapping(operation: Callable[..., int | None], bits: int) -> Callable[..., int | None]:
    """An integer operation whose result wraps around at a width.

    >>> wrapping(lambda a: -a, 8)(-128)
    -128
    """
    half, mask = 1 << (bits - 1), (1 << bits) - 1

    def wrapped(*operands: int) -> int | None:
        found = operation(*operands)
        if found is None or -half <= found < half:
            return found
        return ((found + half) & mask) - half

    return wrapped


def equal(a: float, b: float) -> bool:
    """Whether floats are equal; NaN equals NaN."""
    return a == b or (math.isnan(a) and math.isnan(b))


def not_equal(a: float, b: float) -> bool:
    """Whether floats differ; NaN equals NaN."""
    return not equal(a, b)


def less(a: float, b: float) -> bool:
    """Whether a float is less; NaN is greater than all."""
    return a < b or (math.isnan(b) and not math.isnan(a))


def less_equal(a: float, b: float) -> bool:
    """Whether a float is not greater; NaN is greater than all."""
    return a <= b or math.isnan(b)


def greater(a: float, b: float) -> bool:
    """Whether a float is greater; NaN is greater than all."""
    return less(b, a)


def greater_equal(a: float, b: float) -> bool:
    """Whether a float is not less; NaN is greater than all."""
    return less_equal(b, a)


def greatest(a: float, b: float) -> float:
    """The greater of two floats; NaN only where both are."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return max(b, a)  # of equal ones, as of 0.0 and -0.0, the second


def least(a: float, b: float) -> float:
    """The lesser of two floats; NaN only where both are."""
    if math.isnan(a) or math.isnan(b):
        return b if math.isnan(a) else a
    return min(b, a)


def sign(a: float) -> float:
    """The sign of a float, as a float; zeros and NaN stay."""
    return a if math.isnan(a) or a == 0.0 else math.copysign(1.0, a)


def int_sign(a: int) -> int:
    """The sign of an integer."""
    return (a > 0) - (a < 0)


def round_to(decimals: int) -> Unary:
    """Round floats half to even, as scaled by a power of ten.

    >>> round_to(2)(2.675), round_to(0)(-0.5)
    (2.68, -0.0)
    """
    scale = 10.0**decimals

    def rounded(a: float) -> float:
        scaled = a * scale
        return math.copysign(round(scaled) / scale, a) if math.isfinite(scaled) else a

    return rounded


def square_root(a: float) -> float:
    """The square root; NaN below zero."""
    return math.sqrt(a) if a >= 0.0 else math.nan


def square(a: float) -> float:
    """The second power, as Polars computes it."""
    return a * a


def cube(a: float) -> float:
    """The third power, as Polars computes it."""
    return a * a * a


def exponential(a: float) -> float:
    """The exponential; inf where it is too large."""
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def logarithm(a: float) -> float:
    """The natural logarithm; -inf of zero, NaN below it."""
    return math.log(a) if a > 0.0 else (-math.inf if a == 0.0 else math.nan)


def logarithm_to(base: float) -> Unary:
    """The logarithm to a base: the quotient of natural ones."""
    if base == math.e:
        return logarithm
    scale = logarithm(base)
    return lambda a: divide(logarithm(a), scale)


def logarithm_plus_one(a: float) -> float:
    """The natural logarithm of 1 + a."""
    return math.log1p(a) if a > -1.0 else (-math.inf if a == -1.0 else math.nan)


def to_int(bits: int, *, strict: bool) -> Unary:
    """The cast of a float or integer to an integer of a width, fractions cut off.

    Where it does not fit: None, or OverflowError for a strict cast, so that Polars may say what is wrong.
    """
    half = 1 << (bits - 1)

    def cast(a: float) -> int | None:
        found = int(a) if math.isfinite(a) else half
        if -half <= found < half:
            return found
        if strict:
            raise OverflowError(f"{a} does not fit {bits} bits")
        return None

    return cast


def total(unit: int) -> Unary:
    """A duration in whole units of so many microseconds, towards zero."""

    def whole(span: timedelta) -> int:
        count = span // _MICROSECOND
        return count // unit if count >= 0 else -(-count // unit)

    return whole


def total_fraction(unit: int) -> Unary:
    """A duration in units of so many microseconds, as a float."""
    inverse = 1.0 / unit  # as Polars does
    return lambda span: (span // _MICROSECOND) * inverse
