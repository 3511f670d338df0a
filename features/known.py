"""What of a window group's raw rows was known at each boundary, where ``prepare`` must see it as it was.

A key group (``prepare_by``; all rows where there is none) is prepared anew at each boundary at which a row of it
enters, becomes known or is replaced; what that makes stays until the next one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from features.feature_group import FeatureGroup
from features.inputs import ARRIVAL, SUPERSEDED, event_time
from features.intervals import Interval
from features.times import UTC_US, micros
from features.windows import KNOWN, REPLACED, boundary_after, boundary_from

STEP = "_step"
"""The place of a boundary among those at which its key group is prepared."""

_ALL = "_all"
_AFTER = "_after"
_TWIN = "_twin"
_STAY = "_stay"


def known_times(group: FeatureGroup, frames: Mapping[str, pl.LazyFrame], by: Sequence[str]) -> pl.DataFrame:
    """Of all raw rows the ``by`` columns, the boundary after them, and those of KNOWN and REPLACED."""
    every, delay, found = micros(group.every or ""), micros(group.delay), []
    for name, frame in frames.items():
        after = boundary_after(us(event_time(group.inputs[name])), every)
        known = pl.max_horizontal(after, boundary_from(us(ARRIVAL) - delay, every))
        replaced: pl.Expr = pl.lit(None, pl.Int64)
        if SUPERSEDED in frame.collect_schema():
            replaced = boundary_from(us(SUPERSEDED) - delay, every)
        found.append(frame.select(*by, after.alias(_AFTER), known.alias(KNOWN), replaced.alias(REPLACED)))
    return pl.concat(found, how="vertical_relaxed").collect()


def any_late(times: pl.DataFrame) -> bool:
    """Whether a row was known later than at the boundary after it, or not for good."""
    return not times.filter((pl.col(KNOWN) > pl.col(_AFTER)) | pl.col(REPLACED).is_not_null()).is_empty()


def steps(group: FeatureGroup, times: pl.DataFrame, by: Sequence[str], interval: Interval) -> list[pl.DataFrame]:
    """The boundaries (KNOWN) at which key groups are prepared and until when it holds (REPLACED), by STEP.

    The first of a key group is what was known before the interval, if anything was.
    """
    every, key = micros(group.every or ""), [*by, _ALL]
    low, high = interval.boundaries(every)
    moments = pl.concat([times.select(*by, KNOWN), times.select(*by, pl.col(REPLACED).alias(KNOWN))])
    moments = moments.filter(pl.col(KNOWN) <= high).with_columns(pl.col(KNOWN).clip(lower_bound=low - every))
    moments = moments.with_columns(pl.lit(0).alias(_ALL)).unique().sort(*key, KNOWN)
    following, place = pl.col(KNOWN).shift(-1).over(key), pl.int_range(pl.len()).over(key)
    found = moments.with_columns(following.alias(REPLACED), place.alias(STEP)).drop(_ALL)
    return found.partition_by(STEP, maintain_order=True) or [found]


def of_step(rows: pl.LazyFrame, due: pl.DataFrame, by: Sequence[str]) -> pl.LazyFrame:
    """The rows of the key groups of a step, with what ``steps`` says of these; null for other rows that are there."""
    right, key = due.lazy().with_columns(pl.lit(0).alias(_ALL)), [*by, _ALL]
    return rows.with_columns(pl.lit(0).alias(_ALL)).join(right, on=key, how="left", nulls_equal=True).drop(_ALL)


def known_at_step(
    group: FeatureGroup, frames: Mapping[str, pl.DataFrame], due: pl.DataFrame, by: Sequence[str]
) -> dict[str, pl.LazyFrame]:
    """The raw rows before the boundaries of a step, as they were known at them."""
    boundary, found = pl.col(KNOWN).cast(UTC_US), {}
    until = boundary + group.delay
    for name, frame in frames.items():
        rows = of_step(frame.lazy(), due, by)
        rows = rows.filter((pl.col(event_time(group.inputs[name])) < boundary) & (pl.col(ARRIVAL) <= until))
        if SUPERSEDED in frame.columns:
            rows = rows.filter(pl.col(SUPERSEDED).is_null() | (pl.col(SUPERSEDED) > until)).drop(SUPERSEDED)
        found[name] = rows.drop(KNOWN, REPLACED, STEP)
    return found


def lasting(pieces: pl.DataFrame) -> pl.LazyFrame:
    """Pieces made at steps, those that a step made again as the step before it had made them as one."""
    same = [c for c in pieces.columns if c not in (KNOWN, REPLACED, STEP)]
    # Equal rows of one step are different pieces.
    twin = pl.int_range(pl.len()).over(*same, STEP).alias(_TWIN)
    # Without a gap, the steps of a piece have the same distance to its own count of them.
    stay = (pl.col(STEP) - pl.int_range(pl.len()).over(*same, _TWIN, order_by=STEP)).alias(_STAY)
    runs = pieces.lazy().with_columns(twin).with_columns(stay).group_by(*same, _TWIN, _STAY)
    ended = pl.when(pl.col(REPLACED).is_null().any()).then(None).otherwise(pl.col(REPLACED).max())
    return runs.agg(pl.col(KNOWN).min(), ended.alias(REPLACED)).drop(_TWIN, _STAY)


def us(column: str) -> pl.Expr:
    """A column of moments in µs since the epoch."""
    return pl.col(column).dt.timestamp("us")
