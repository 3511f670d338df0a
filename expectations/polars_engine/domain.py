"""What a metric is asked about: the columns of a domain, found and typed, and the queries about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
from great_expectations.expectations.metrics.util import get_dbms_compatible_column_names

from expectations.polars_engine.batch import Mark, PolarsBatchData, Query
from expectations.polars_engine.engine import PolarsExecutionEngine, considered
from features.entity import DataType
from features.errors import DefinitionError


@dataclass(frozen=True)
class Column:
    """A column that is there, and its type."""

    name: str
    dtype: DataType

    @property
    def values(self) -> pl.Expr:
        """Its values, missing ones among them."""
        return pl.col(self.name)

    @property
    def number(self) -> pl.Expr:
        """Its values as numbers to calculate with. Raises DefinitionError where they are none."""
        if self.dtype == pl.Null:
            return self.values.cast(pl.Float64)
        if not (self.dtype.is_numeric() or self.dtype == pl.Boolean):
            raise DefinitionError(f"column {self.name!r} is {self.dtype}, not a number; name another")
        return self.values

    @property
    def addend(self) -> pl.Expr:
        """Its values as numbers whose sum no type is too narrow for."""
        return self.number.cast(pl.Int128) if self.dtype.is_integer() else self.number

    @property
    def text(self) -> pl.Expr:
        """Its values as text. Raises DefinitionError where they are none."""
        if self.dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            raise DefinitionError(f"column {self.name!r} is {self.dtype}, not text; name another")
        return self.values.cast(pl.String)


@dataclass(frozen=True)
class Domain:
    """The rows and columns that one metric is about; ``metric`` is its name."""

    metric: str
    engine: PolarsExecutionEngine
    kwargs: Mapping[str, Any]

    @cached_property
    def batch(self) -> PolarsBatchData:
        """The batch it belongs to."""
        return self.engine.batch(self.kwargs)

    @cached_property
    def columns(self) -> list[Column]:
        """Its one, two or many columns. Raises GX's error where one is not there."""
        named = self.kwargs.get("column_list") or [
            self.kwargs[key] for key in ("column", "column_A", "column_B") if key in self.kwargs
        ]
        names = get_dbms_compatible_column_names(list(named), self.batch.schema.names())
        return [Column(str(name), self.batch.schema[str(name)]) for name in names]

    @property
    def column(self) -> Column:
        """Its only column."""
        (column,) = self.columns
        return column

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        return [column.name for column in self.columns]

    @property
    def considered(self) -> pl.Expr:
        """Boolean, true for the rows that are not ignored for what is missing in them."""
        return considered(self.names, self.kwargs.get("ignore_row_if"))

    @property
    def ignores(self) -> bool:
        """Whether rows are ignored for what is missing in them."""
        return self.kwargs.get("ignore_row_if") not in (None, "neither", "never")

    def ask(self, value: pl.Expr, read: Callable[[Any], Any] = lambda value: value, mark: Mark | None = None) -> Query:
        """A query for one value over the domain's rows."""
        return Query(f"{self.metric} of {self.names}" if self.names else self.metric, self.kwargs, value, read, mark)


Answer = Callable[[Domain, Mapping[str, Any]], Any]
"""What answers a metric: a value, or a query for it, from the domain and the metric's own arguments."""
