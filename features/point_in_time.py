"""The point-in-time join: for each entity row, what the online store would have answered then.

A row is available from the publication of its plan; in the history "backfilled" a counterfactual row
already from its ``_as_if``. The answer at t is the winner by order among the rows available at or
before t (SEMANTICS.md §2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import polars as pl

from features.entity import DataType
from features.errors import InvalidInput
from features.feature_rows import AS_IF, CREATED, DELETED, EVENT, ORDER, PLAN
from features.stored_types import cast_exactly
from features.times import UTC_US

History = Literal["backfilled", "as_served"]

PRESENT = "PRESENT"
NULL_VALUE = "NULL_VALUE"
NOT_FOUND = "NOT_FOUND"
OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"

AVAILABLE = "_available"
_ROW = "_row"
_RANK = "_rank"
_ASKED = "_asked"


def with_availability(
    rows: pl.LazyFrame, publications: pl.DataFrame, history: History, *, online: bool
) -> pl.LazyFrame:
    """Rows with the moment from which they are available; those that never are, are left out.

    ``publications`` has after, plan, published_at of the primary target: plans in (after, plan]
    became visible at published_at. For an offline-only group a commit is its publication.
    """
    if online:
        log = publications.lazy().select(pl.col("plan").alias(PLAN), pl.col("published_at").alias(AVAILABLE))
        # The first publication that reaches a plan is the one that made it visible.
        first = log.group_by(PLAN).agg(pl.col(AVAILABLE).min()).sort(PLAN)
        rows = rows.sort(PLAN).join_asof(first, on=PLAN, strategy="forward")
    else:
        rows = rows.with_columns(pl.col(CREATED).alias(AVAILABLE))
    if history == "backfilled":
        rows = rows.with_columns(pl.min_horizontal(AVAILABLE, AS_IF).alias(AVAILABLE))
    return rows.filter(pl.col(AVAILABLE).is_not_null())


def served(rows: pl.LazyFrame, keys: Sequence[str]) -> pl.LazyFrame:
    """The rows that were ever the answer: each beats all that were available before it.

    The result is sorted by availability; an as-of join on it finds the winner.
    """
    ranked = rows.sort(ORDER).with_row_index(_RANK).sort(AVAILABLE, _RANK)
    return ranked.filter(pl.col(_RANK) == pl.col(_RANK).cum_max().over(keys)).drop(_RANK)


def join(
    asked: pl.DataFrame,
    rows: pl.LazyFrame,
    *,
    keys: Mapping[str, DataType],
    features: Sequence[str],
    now: datetime,
    ttl: timedelta | None,
) -> pl.DataFrame:
    """What each asked row would have been answered; same rows, same order.

    ``asked`` has the key columns and event_timestamp; ``rows`` come from ``with_availability``. The
    result has the features, event_timestamp of the answer and ``status`` of the row as a whole
    (PRESENT, NOT_FOUND or OUTSIDE_MAX_AGE). Rows later than ``now`` see what is visible now; ttl is
    measured to the row's own time; null keys match nothing.
    """
    left = entity_keys(asked, keys).with_columns(asked[EVENT].alias(_ASKED))
    left = left.with_columns(pl.min_horizontal(_ASKED, pl.lit(now, UTC_US)).alias(AVAILABLE)).with_row_index(_ROW)
    whole = left.filter(pl.all_horizontal(pl.col(k).is_not_null() for k in keys))
    right = served(rows, list(keys)).select(*keys, AVAILABLE, EVENT, DELETED, *features)
    found = (
        whole.lazy()
        .sort(AVAILABLE)
        .join_asof(right, on=AVAILABLE, by=list(keys), strategy="backward", check_sortedness=False)
    )
    found = found.select(_ROW, EVENT, DELETED, *features)
    answered = left.lazy().select(_ROW, _ASKED).join(found, on=_ROW, how="left").sort(_ROW)
    missing = pl.col(EVENT).is_null() | pl.col(DELETED)
    expired = pl.lit(False) if ttl is None else pl.col(_ASKED) - pl.col(EVENT) > ttl
    status = pl.when(missing).then(pl.lit(NOT_FOUND)).when(expired).then(pl.lit(OUTSIDE_MAX_AGE))
    answered = answered.with_columns(status.otherwise(pl.lit(PRESENT)).alias("status"))
    visible = pl.col("status") == PRESENT
    values = [pl.when(visible).then(pl.col(f)).alias(f) for f in features]
    return answered.select(*values, pl.when(visible).then(pl.col(EVENT)).alias(EVENT), "status").collect()


def feature_status(feature: str, row_status: str = "status") -> pl.Expr:
    """A feature's status from its value and the status of its row."""
    empty = (pl.col(row_status) == PRESENT) & pl.col(feature).is_null()
    return pl.when(empty).then(pl.lit(NULL_VALUE)).otherwise(pl.col(row_status))


def entity_keys(asked: pl.DataFrame, keys: Mapping[str, DataType]) -> pl.DataFrame:
    """The key columns of entity rows in their stored types; InvalidInput if one is missing or does not fit."""
    missing = [k for k in keys if k not in asked.columns]
    if missing:
        raise InvalidInput(f"the entity rows lack key column(s) {missing}; they have {asked.columns}")
    return cast_exactly(asked, keys, f"an entity key does not fit its declared type {dict(keys)}")
