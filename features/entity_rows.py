"""Entity rows of an online request: as columns, without a frame where plain values do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import polars as pl

from features.entity import DataType
from features.frames import as_frame
from features.point_in_time import entity_keys
from features.stores import Key

_PLAIN = {int, float, str, bool, type(None)}
"""Types of values that every frame takes."""
_TYPES: Mapping[DataType, type] = {pl.String(): str, pl.Boolean(): bool}
_RANGES: Mapping[DataType, tuple[int, int]] = {
    **{
        kind(): (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for kind, bits in ((pl.Int8, 8), (pl.Int16, 16), (pl.Int32, 32), (pl.Int64, 64))
    },
    **{kind(): (0, 2**bits - 1) for kind, bits in ((pl.UInt8, 8), (pl.UInt16, 16), (pl.UInt32, 32), (pl.UInt64, 64))},
}


class Entities:
    """Entity rows as columns of one height; ``frame`` is made when somebody asks for it.

    A frame of one row takes longer to make than its answer, so columns of plain values, and dicts of them, are taken
    as they are. Raises InvalidInput for what is no table.

    >>> Entities([{"card_id": 1}, {"card_id": 2}]).columns
    {'card_id': [1, 2]}
    """

    def __init__(self, rows: Any) -> None:
        columns = _columns(rows)
        if columns is None:
            self.frame = as_frame(rows)
            self.columns: Mapping[str, Sequence[Any] | pl.Series] = {s.name: s for s in self.frame.iter_columns()}
            self.height = self.frame.height
        else:
            self.columns = columns
            self.height = len(next(iter(columns.values())))

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The rows as a frame."""
        return as_frame(self.columns)

    def keys(self, dtypes: Mapping[str, DataType], named: Mapping[str, str]) -> Sequence[Key]:
        """The keys of each row in the types of an entity; ``named`` are the columns that other keys come from.

        Raises InvalidInput where a column is missing or does not fit.
        """
        if not self.height:
            return []
        found = []
        for key, dtype in dtypes.items():
            values = self.columns.get(named.get(key, key))
            if not isinstance(values, list) or not _fits(values, dtype):
                return entity_keys(self.frame, dtypes, named).rows()
            found.append(values)
        return list(zip(*found, strict=True))


def _columns(rows: Any) -> dict[str, list[Any]] | None:
    """Rows as columns of plain values of one length; None where Polars must look at them."""
    columns: dict[str, list[Any]]
    if isinstance(rows, dict):
        columns = rows
    elif (
        isinstance(rows, list) and rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows)
    ):
        columns = {name: [row[name] for row in rows] for name in rows[0]}
    else:
        return None
    lists = all(isinstance(values, list) for values in columns.values())
    if not columns or not lists or len({len(values) for values in columns.values()}) > 1:
        return None
    # Of one type, for a frame would turn some values of mixed columns into others.
    if any(len(kinds - {type(None)}) > 1 or not kinds <= _PLAIN for kinds in map(_kinds, columns.values())):
        return None
    return columns


def _fits(values: list[Any], dtype: DataType) -> bool:
    """Whether plain values are what a column of the type would give back."""
    kinds = _kinds(values) - {type(None)}
    if (limits := _RANGES.get(dtype)) is not None:
        low, high = limits
        return kinds <= {int} and all(low <= value <= high for value in values if value is not None)
    return dtype in _TYPES and kinds <= {_TYPES[dtype]}


def _kinds(values: list[Any]) -> set[type]:
    return set(map(type, values))
