"""What the engine computes on, and what it is asked to compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import polars.selectors as cs
from great_expectations.core.batch import BatchData
from great_expectations.expectations.row_conditions import Condition

ROW = "__row_number__"
"""The column with the number of each row in its batch, for queries that ask which rows."""


class PolarsBatchData(BatchData):
    """A batch as a LazyFrame in which NaN is null: both are missing values, as they are to GX on pandas."""

    def __init__(self, execution_engine: Any, frame: pl.LazyFrame) -> None:
        super().__init__(execution_engine)
        self.schema = frame.collect_schema()
        self.frame = frame.with_columns(cs.float().fill_nan(None))


@dataclass(frozen=True)
class Mark:
    """A Boolean column to compute once for all queries that look at it, called by what it holds."""

    flags: pl.Expr

    @cached_property
    def name(self) -> str:
        """A name that equal marks share."""
        return f"__{hashlib.sha256(self.flags.meta.serialize()).hexdigest()}__"

    @property
    def column(self) -> pl.Expr:
        """The column once it is computed."""
        return pl.col(self.name)


@dataclass(frozen=True)
class Query:
    """One value to compute over a domain: ``value`` yields it, ``read`` makes of it what GX expects.

    ``about`` is what an error calls the metric; ``mark`` is a column that the value is computed from.
    Queries of one domain are computed together.
    """

    about: str
    domain: Mapping[str, Any]
    value: pl.Expr
    read: Callable[[Any], Any] = lambda value: value
    mark: Mark | None = None

    @property
    def rows(self) -> tuple[str | None, str]:
        """What tells domains apart: the batch and the condition on its rows."""
        condition = self.domain.get("row_condition")
        if isinstance(condition, Condition):
            condition = condition.dict()
        return self.domain.get("batch_id"), json.dumps(condition, sort_keys=True, default=repr)
