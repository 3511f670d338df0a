"""Values that a user wrote into an expectation, fitted to the type of a column."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from expectations.polars_engine.domain import Column
from features.entity import DataType


def bound(value: Any, column: Column) -> Any:
    """A value as it can be compared with the column: text of ISO 8601 stands for the moment or day it names."""
    dtype = column.dtype
    if isinstance(value, str) and dtype in (pl.Date, pl.Datetime):
        with suppress(ValueError):
            value = date.fromisoformat(value) if dtype == pl.Date else datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo and isinstance(dtype, pl.Datetime) and dtype.time_zone:
        value = value.astimezone(ZoneInfo(dtype.time_zone))  # Polars compares moments of one zone only
    return value


def fitting(values: Iterable[Any], column: Column) -> pl.Expr:
    """Those of the values that the column could hold, in its type, as a list; the others equal none of its values."""
    return pl.lit(pl.Series([value for value in values if holds(column, value)], dtype=column.dtype)).implode()


def holds(column: Column, value: Any) -> bool:
    """Whether the column could hold exactly this value."""
    try:
        return bool(pl.Series([value], dtype=column.dtype, strict=True).item() == value)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return False


def comparable(one: DataType, other: DataType) -> bool:
    """Whether values of two types can be equal at all."""
    return one == other or (one.is_numeric() and other.is_numeric())
