"""Time as featurefab keeps it: UTC microseconds, half-open intervals, durations as Polars strings."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import polars as pl

from features.errors import InvalidInput

UTC_US = pl.Datetime("us", "UTC")
"""The one type of every timestamp column: microseconds, UTC."""

Clock = Callable[[], datetime]
"""Returns the present moment as an aware datetime."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
TICK = timedelta(microseconds=1)
"""The least time between two stamps."""

_UNITS = {"w": 604_800_000_000, "d": 86_400_000_000, "h": 3_600_000_000, "m": 60_000_000}
_UNITS |= {"s": 1_000_000, "ms": 1_000, "us": 1}
_PART = re.compile(r"(\d+)(ms|us|[wdhms])")


def utc_now() -> datetime:
    """The wall clock; the only place that reads it."""
    return datetime.now(UTC)


def duration(text: str) -> timedelta:
    """The length of a Polars duration string.

    >>> duration("1h30m")
    datetime.timedelta(seconds=5400)
    >>> duration("one day")
    Traceback (most recent call last):
    features.errors.InvalidInput: 'one day' is not a duration: write it like '15m', '36h' or '7d'
    """
    parts = _PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise InvalidInput(f"{text!r} is not a duration: write it like '15m', '36h' or '7d'")
    return timedelta(microseconds=sum(int(n) * _UNITS[u] for n, u in parts))


def micros(span: timedelta | str) -> int:
    """A duration in whole microseconds.

    >>> micros("2s")
    2000000
    """
    span = duration(span) if isinstance(span, str) else span
    return span // timedelta(microseconds=1)


def as_utc(moment: datetime | date | str) -> datetime:
    """A moment as an aware UTC datetime; a naive one counts as UTC, a date as its midnight.

    >>> as_utc("2026-03-01")
    datetime.datetime(2026, 3, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            hint = "write it like '2026-03-01' or '2026-03-01T12:00'"
            raise InvalidInput(f"{moment!r} is not a moment: {hint}") from error
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """The aware UTC datetime that many microseconds after the epoch."""
    return EPOCH + timedelta(microseconds=value)


def utc_column(column: str, dtype: pl.DataType) -> pl.Expr:
    """An expression that turns a date, naive or zoned column into UTC microseconds.

    Raises InvalidInput where the column is not a time at all.
    """
    expr = pl.col(column)
    if dtype == pl.Date:
        expr = expr.cast(pl.Datetime("us"))
    elif not isinstance(dtype, pl.Datetime):
        if dtype == pl.Null:
            return expr.cast(UTC_US)
        raise InvalidInput(f"column {column!r} is {dtype}, not a time: cast it to a Datetime or Date")
    elif dtype.time_zone is not None:
        return expr.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    return expr.dt.cast_time_unit("us").dt.replace_time_zone("UTC")
