"""Column types as tables keep them, alike offline and online, and casts that lose nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import polars as pl

from features.entity import DataType, Entity
from features.errors import DefinitionError, InvalidInput
from features.times import UTC_US

_SIGNED: dict[type[pl.DataType], DataType] = {
    pl.UInt8: pl.Int16(),
    pl.UInt16: pl.Int32(),
    pl.UInt32: pl.Int64(),
    pl.UInt64: pl.Int64(),
}
_KEPT = (
    pl.Int8,
    pl.Int16,
    pl.Int32,
    pl.Int64,
    pl.Float32,
    pl.Float64,
    pl.Boolean,
    pl.String,
    pl.Binary,
    pl.Date,
    pl.Time,
)


def stored_dtype(owner: str, column: str, dtype: DataType) -> DataType:
    """The type a column is stored with.

    Unsigned integers become the next wider signed type (64 bits stay 64), categories strings, times
    UTC microseconds, durations microseconds. Raises DefinitionError for a type that tables cannot hold.

    >>> stored_dtype("source 'parts'", "bin", pl.UInt8)
    Int16
    """
    base = dtype.base_type()
    if base in _SIGNED:
        return _SIGNED[base]
    if base in (pl.Categorical, pl.Enum):
        return pl.String()
    if base == pl.Datetime:
        return UTC_US
    if base == pl.Duration:
        return pl.Duration("us")
    if isinstance(dtype, pl.List):
        return pl.List(stored_dtype(owner, column, cast("DataType", dtype.inner)))
    if dtype in _KEPT or isinstance(dtype, pl.Decimal):
        return dtype
    raise DefinitionError(f"{owner}: {column!r} is {dtype}, which cannot be stored: cast it to a number or string")


def plain_dtype(owner: str, column: str, dtype: DataType) -> DataType:
    """The type a column is stored with that engines beside this one read and write as it is.

    Raises DefinitionError for a type that Delta cannot hold.
    """
    stored = stored_dtype(owner, column, dtype)
    if table_dtype(stored) != stored:
        raise DefinitionError(
            f"{owner}: {column!r} is {dtype}, which only a feature can be: declare an integer, "
            f"and make features of it, like pl.duration(seconds=...)"
        )
    return stored


def table_dtype(dtype: DataType) -> DataType:
    """The type in which a table keeps a stored type: Delta has no durations and times of day.

    >>> table_dtype(pl.Duration("us")), table_dtype(pl.List(pl.Time())), table_dtype(pl.Date())
    (Int64, List(Int64), Date)
    """
    if isinstance(dtype, pl.List):
        return pl.List(table_dtype(cast("DataType", dtype.inner)))
    return pl.Int64() if dtype in (pl.Duration, pl.Time) else dtype


def widest(dtype: DataType) -> DataType:
    """The type that holds every value of any type that a feature of this one may widen to.

    >>> widest(pl.Int16()), widest(pl.Float32()), widest(pl.String())
    (Int64, Float64, String)
    """
    if dtype.is_signed_integer() and dtype.base_type() != pl.Int128:
        return pl.Int64()
    return pl.Float64() if dtype == pl.Float32 else dtype


def key_dtypes(entity: Entity) -> dict[str, DataType]:
    """An entity's key columns with the types they are stored with; DefinitionError where one is no scalar."""
    who = f"entity {entity.name!r}"
    found = {key: plain_dtype(who, key, dtype) for key, dtype in entity.keys.items()}
    for key, dtype in found.items():
        if dtype.is_nested():
            raise DefinitionError(f"{who}: key {key!r} is {dtype}: a key is made of scalars, a column for each")
    return found


def cast_exactly(frame: pl.DataFrame, dtypes: Mapping[str, DataType], complaint: str) -> pl.DataFrame:
    """The columns of ``dtypes`` in these types; InvalidInput, after ``complaint``, where a value would be lost.

    Of a float column that is to hold integers, NaN becomes null: that is how pandas writes a missing one.
    """
    exact = [c for c, t in dtypes.items() if t.is_integer() and _has_fractions(frame.schema[c])]
    frame = frame.with_columns(pl.col(c).fill_nan(None) for c in exact if frame.schema[c].is_float())
    try:
        found = frame.select(pl.col(c).cast(t) for c, t in dtypes.items())
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(f"{complaint}: {str(error).splitlines()[0]}") from error
    for column in exact:
        if not found[column].cast(frame.schema[column]).eq_missing(frame[column]).all():
            raise InvalidInput(f"{complaint}: {column!r} holds fractions, its type is an integer: round them")
    return found


def typed_value(what: str, value: Any, dtype: DataType) -> Any:
    """A value as a column of a type gives it back; DefinitionError where it is of another type.

    >>> typed_value("default of 'amount'", 3, pl.Float64())
    3.0
    """
    try:
        return pl.Series([value], dtype=dtype, strict=True).to_list()[0]
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DefinitionError(f"{what}: {value!r} is not {dtype}: give a value of that type") from error


def _has_fractions(dtype: pl.DataType) -> bool:
    return dtype.is_float() or dtype.is_decimal()
