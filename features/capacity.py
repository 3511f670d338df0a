"""Capacity: how many rows a run may hold at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from features.compute import input_dtypes, stored_schema
from features.entity import DataType
from features.feature_group import FeatureGroup

_COPIES = 8
"""A run holds a row about so often at its peak: as read, prepared, sorted, aggregated, compared, written."""

_WIDE = 40
"""Bytes that a value without a fixed width is taken for."""


@dataclass(frozen=True)
class Capacity:
    """What bounds a chunk: ``memory`` in bytes, or a number of ``rows`` that goes before it.

    ``parallel`` chunks of a backfill are computed at once and share the memory.
    """

    memory: int = 4_000_000_000
    rows: int | None = None
    parallel: int = 1

    def rows_of(self, group: FeatureGroup) -> int:
        """How many raw rows of a group's first input a chunk may work on."""
        if self.rows is not None:
            return self.rows
        first = next(iter(group.inputs.values()))
        width = _width(input_dtypes(first).values()) + _width(stored_schema(group).values())
        return max(1, self.memory // (self.parallel * _COPIES * width))


ANY_CAPACITY = Capacity()


def _width(dtypes: Iterable[DataType]) -> int:
    """The bytes that a row of these columns takes."""
    fixed = {True: 8, False: _WIDE}
    return sum(1 if dtype == pl.Boolean else fixed[dtype.is_numeric() or dtype.is_temporal()] for dtype in dtypes)
