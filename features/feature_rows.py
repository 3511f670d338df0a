"""Feature rows: their bookkeeping columns, their order and what counts as a change.

A row is keys, event_timestamp, features, and: created_timestamp (the stamp of its run), ``_plan``
(that run's number), ``_as_if`` (when a counterfactual row could have been known; null for live
rows), ``_epoch`` (grows with each rollback), ``_deleted`` (tombstone). Rows are only appended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from features.entity import DataType
from features.source import EVENT_DATE
from features.times import UTC_US

EVENT = "event_timestamp"
CREATED = "created_timestamp"
PLAN = "_plan"
AS_IF = "_as_if"
EPOCH = "_epoch"
DELETED = "_deleted"
ORDER = [EPOCH, EVENT, CREATED]
"""What decides between two rows of an entity: the greatest tuple wins."""

TOLERANCE = 1e-9
"""Relative difference above which two floats count as different values."""


def table_columns(features: Mapping[str, DataType], keys: Sequence[str]) -> dict[str, DataType]:
    """The columns of a feature table: keys, times and bookkeeping first, so that statistics cover them.

    ``features`` maps the key columns and the features to their stored types.
    """
    bookkeeping: dict[str, DataType] = {EVENT: UTC_US, CREATED: UTC_US, PLAN: pl.Int64(), AS_IF: UTC_US}
    bookkeeping |= {EPOCH: pl.Int64(), DELETED: pl.Boolean(), EVENT_DATE: pl.Date()}
    rest = {name: dtype for name, dtype in features.items() if name not in keys}
    return {**{k: features[k] for k in keys}, **bookkeeping, **rest}


def winners(rows: pl.LazyFrame, by: Sequence[str]) -> pl.LazyFrame:
    """Of the rows with equal ``by`` the one that wins by order."""
    return rows.sort(ORDER).unique(subset=list(by), keep="last", maintain_order=False)


def pushed_plans(publications: pl.DataFrame) -> pl.Series:
    """The plans that folded pushes, from a group's publish log: their rows were published one by one."""
    return publications.filter(pl.col("published_at").is_null())["plan"]


def differs(column: str, other: str, dtype: DataType) -> pl.Expr:
    """Whether two columns of one frame hold different values (null and NaN states included)."""
    left, right = pl.col(column), pl.col(other)
    if dtype not in (pl.Float32, pl.Float64):
        return left.ne_missing(right)
    scale = pl.max_horizontal(left.abs(), right.abs())
    # Infinities are equal to themselves; their difference would be NaN.
    far = ((left - right).abs() > TOLERANCE * scale) & (left != right)
    far = far | (left.is_infinite() & right.is_infinite() & (left != right))
    states = left.is_null().ne_missing(right.is_null()) | left.is_nan().ne_missing(right.is_nan())
    infinite = left.is_infinite().ne_missing(right.is_infinite())
    return states.fill_null(value=True) | infinite.fill_null(value=False) | far.fill_null(value=False)
