"""Column types of the online stores: as what a value is stored, and how it comes back.

A value comes back as the Python value that Polars' ``to_list`` gives for it, exactly. What Python
cannot hold (nanoseconds, years beyond 9999) is refused when it is written, never rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from features.errors import InvalidInput

Restore = Callable[[Any], Any]
Spec = list[Any]
"""A column type in msgpack's own types: its name, then its parameters."""

_STORED: dict[type[pl.DataType], type[pl.DataType]] = {
    **{
        kept: kept
        for kept in (
            *(pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64),
            *(pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Null),
        )
    },
    pl.Float16: pl.Float32,
    **dict.fromkeys((pl.Datetime, pl.Duration, pl.Time), pl.Int64),
    pl.Date: pl.Int32,
    # As text: msgpack's integers end at 64 bits, and it has no decimals.
    **dict.fromkeys((pl.Int128, pl.UInt128, pl.Decimal, pl.Categorical, pl.Enum), pl.String),
}

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  a column without a zone gives naive datetimes back
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()
_MICROSECOND = timedelta(microseconds=1)
# A day inside Python's bounds, so that no time zone can push a moment over them.
_FIRST = (_EPOCH.replace(year=1, day=2) - _EPOCH) // _MICROSECOND
_LAST = (_EPOCH.replace(year=9999, month=12, day=31) - _EPOCH) // _MICROSECOND
_LONGEST = timedelta.max // _MICROSECOND


def stored_type(column: str, dtype: pl.DataType) -> pl.DataType:
    """The type to cast a column to, whose Python values msgpack can hold.

    Raises InvalidInput for a type that has none.

    >>> stored_type("seen_at", pl.List(pl.Datetime("us", "UTC")))
    List(Int64)
    >>> stored_type("die", pl.Struct({"x": pl.Int8}))
    Traceback (most recent call last):
    features.errors.InvalidInput: column 'die' is Struct({'x': Int8}), which an online store cannot keep: \
make it scalars or lists of scalars (a struct: one column per field)
    """
    if isinstance(dtype, (pl.List, pl.Array)):
        return pl.List(stored_type(column, _inner(dtype)))
    stored = _STORED.get(dtype.base_type())
    if stored is None:
        remedy = "make it scalars or lists of scalars (a struct: one column per field)"
        raise InvalidInput(f"column {column!r} is {dtype}, which an online store cannot keep: {remedy}")
    return stored()


def check_values(column: str, values: pl.Series) -> None:
    """Raise InvalidInput where a value could not be given back exactly by Python's types."""
    dtype = values.dtype
    if isinstance(dtype, (pl.List, pl.Array)):
        if _limits(_leaf(dtype)) is not None:
            check_values(column, values.explode())
        return
    limits = _limits(dtype)
    if limits is None:
        return
    first, last, grain = limits
    physical = values.to_physical()
    if ((physical < first) | (physical > last)).any():
        remedy = "null such values, or cast the column to an integer"
        raise InvalidInput(f"column {column!r} ({dtype}) has values beyond Python's years 1 to 9999: {remedy}")
    if grain > 1 and (physical % grain != 0).any():
        remedy = "truncate it to microseconds, or cast it to an integer"
        raise InvalidInput(f"column {column!r} ({dtype}) has nanoseconds, which Python's times cannot hold: {remedy}")


def describe(dtype: pl.DataType) -> Spec:
    """A column type as a list that msgpack can hold.

    >>> describe(pl.List(pl.Datetime("ms", "UTC")))
    ['List', ['Datetime', 'ms', 'UTC']]
    """
    match dtype:
        case pl.List() | pl.Array():
            return ["List", describe(_inner(dtype))]
        case pl.Datetime():
            return ["Datetime", dtype.time_unit, dtype.time_zone]
        case pl.Duration():
            return ["Duration", dtype.time_unit]
        case pl.Decimal():
            return ["Decimal", dtype.precision, dtype.scale]
        case _:
            return [dtype.base_type().__name__]


def restorer(spec: Spec) -> Restore | None:
    """The function from a stored value (never None) to the value; None where they are the same."""
    match spec:
        case ["List", inner]:
            restore = restorer(inner)
            return restore and (lambda items: [None if i is None else restore(i) for i in items])
        case ["Datetime", unit, zone]:
            return _datetimes(unit, zone)
        case ["Duration", unit]:
            return lambda value: timedelta(microseconds=_micros(value, unit))
        case ["Date"]:
            return lambda value: date.fromordinal(value + _EPOCH_DAY)
        case ["Time"]:
            return lambda value: (_EPOCH + timedelta(microseconds=value // 1000)).time()
        case ["Decimal", *_]:
            return Decimal
        case ["Int128" | "UInt128"]:
            return int
        case _:
            return None


def _datetimes(unit: str, zone: str | None) -> Restore:
    if zone is None:
        return lambda value: _EPOCH + timedelta(microseconds=_micros(value, unit))
    place = ZoneInfo(zone)
    if zone == "UTC":  # as below, without the conversion
        start = _EPOCH.replace(tzinfo=place)
        return lambda value: start + timedelta(microseconds=_micros(value, unit))
    return lambda value: (_EPOCH_UTC + timedelta(microseconds=_micros(value, unit))).astimezone(place)


def _micros(value: int, unit: str) -> int:
    if unit == "us":
        return value
    return value * 1000 if unit == "ms" else value // 1000


def _limits(dtype: pl.DataType) -> tuple[int, int, int] | None:
    """The least and greatest physical value that Python can hold, and the steps in which; None: all."""
    match dtype:
        case pl.Date():
            return date.min.toordinal() - _EPOCH_DAY, date.max.toordinal() - _EPOCH_DAY, 1
        case pl.Time():
            return 0, 86_400 * 10**9, 1000
        case pl.Datetime():
            return _in_unit(_FIRST, _LAST, dtype.time_unit)
        case pl.Duration():
            return _in_unit(-_LONGEST, _LONGEST, dtype.time_unit)
        case _:
            return None


def _in_unit(first: int, last: int, unit: str) -> tuple[int, int, int]:
    if unit == "ns":
        return -(2**63), 2**63 - 1, 1000
    divisor = 1000 if unit == "ms" else 1
    return max(first // divisor, -(2**63)), min(last // divisor, 2**63 - 1), 1


def _inner(dtype: pl.List | pl.Array) -> pl.DataType:
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()


def _leaf(dtype: pl.DataType) -> pl.DataType:
    return _leaf(_inner(dtype)) if isinstance(dtype, (pl.List, pl.Array)) else dtype
