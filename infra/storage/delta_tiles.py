"""A group's tiles on Delta: one table per layout, written step by step within the group's plans."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

import polars as pl

from features.decomposition import TILE
from features.entity import DataType
from features.source import EVENT_DATE
from features.stored_types import table_dtype
from features.times import from_micros, to_micros
from infra.storage.delta_io import Table

_CURSOR = "cursor:"
_FAR = 1 << 53
"""Numbers of transactions only grow, coverage reaches back: it is kept as what is left to here (in µs)."""


class DeltaTileTable:
    """Implements features.stores.TileTable."""

    def __init__(self, table: Table, columns: Mapping[str, DataType]) -> None:
        self._table = table
        self._columns = {**columns, EVENT_DATE: pl.Date()}
        self._kept = {c: table_dtype(t) for c, t in self._columns.items()}
        self._restored = [pl.col(c).cast(t) for c, t in self._columns.items() if t != self._kept[c]]
        table.ensure(self._kept, [EVENT_DATE])

    def cursor(self, source: str) -> int | None:
        """The version of an input whose commits the tiles have taken in; None for never."""
        reached = self._table.reached(_CURSOR + source)
        return reached if reached >= 0 else None

    def covered(self) -> tuple[datetime, datetime] | None:
        """From when to when all tiles are there (half-open); None while there are none."""
        reach = self._table.reached("reach")
        return (from_micros(_FAR - reach), from_micros(self._table.reached("until"))) if reach >= 0 else None

    def took(self, plan: int, step: int) -> bool:
        """Whether a step of a plan was committed."""
        return self._table.took(f"step:{step}", plan)

    def append(self, plan: int, step: int, rows: pl.DataFrame) -> None:
        """Append a step's rows exactly once."""
        dated = rows.with_columns(pl.col(TILE).dt.date().alias(EVENT_DATE)).select(list(self._columns))
        kept = dated.cast({c: t for c, t in self._kept.items() if t != self._columns[c]})
        self._table.append_once(kept, f"step:{step}", plan)

    def finished(self, plan: int) -> bool:
        """Whether a plan brought the tiles up to date."""
        return self._table.took("done", plan)

    def finish(self, plan: int, cursors: Mapping[str, int], covered: tuple[datetime, datetime]) -> None:
        """Say that a plan brought the tiles up to these versions, and from when to when all are there."""
        marks = {_CURSOR + source: version for source, version in cursors.items()}
        marks |= {"reach": _FAR - to_micros(covered[0]), "until": to_micros(covered[1])}
        self._table.append_once(pl.DataFrame(schema=self._kept), "done", plan, marks=marks)

    def scan(self, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
        """All rows of tiles that begin on these dates, both included."""
        frame = self._table.scan(None, since, until)
        assert frame is not None  # ensured in __init__
        return frame.with_columns(self._restored) if self._restored else frame
