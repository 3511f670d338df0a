"""Feature values from raw rows: what a group's definition computes, for each grain.

Pure functions over Polars frames. The result has keys, event_timestamp, the features in their stored
types, and ``_arrival``: a bound on when the newest source row that was used became known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import polars as pl

from features.entity import DataType
from features.errors import DefinitionError, InvalidInput
from features.feature_group import Feature, FeatureGroup
from features.feature_rows import EVENT
from features.inputs import ARRIVAL, event_time, upstream_dtypes
from features.source import BOOKKEEPING, Source
from features.stored_types import key_dtypes, stored_dtype
from features.times import UTC_US, micros

Frames = Mapping[str, pl.LazyFrame]

_UNTIL = "_until"
_ROUND = "_round"
_BOUNDARY = "_boundary"
_FIRST = "_first_boundary"
_PRESENT = "_present"
_GROUP = "_key_group"


@dataclass(frozen=True)
class Interval:
    """Which rows to emit: event_timestamp in [start, end) and not after ``cutoff``.

    A row at a boundary b (grains with ``every``) belongs to the interval with start < b ≤ end.
    """

    start: datetime
    end: datetime
    cutoff: datetime

    def keep(self, column: str, *, boundary: bool) -> pl.Expr:
        """Whether a moment belongs to the interval."""
        moment = pl.col(column)
        if boundary:
            inside = (moment > self.start) & (moment <= self.end)
        else:
            inside = (moment >= self.start) & (moment < self.end)
        return inside & (moment <= self.cutoff)


def input_dtypes(origin: Source | FeatureGroup) -> dict[str, DataType]:
    """The columns that an input delivers, with their types."""
    if isinstance(origin, Source):
        return {**origin.dtypes, **BOOKKEEPING}
    return upstream_dtypes(stored_schema(origin))


@cache
def stored_schema(group: FeatureGroup) -> dict[str, DataType]:
    """Keys and features with the types they are stored in, found by running the definition on no rows.

    Raises DefinitionError where an expression or ``prepare`` does not fit its inputs.
    """
    who = f"feature group {group.name!r}"
    frames = {n: pl.LazyFrame(schema={**input_dtypes(o), ARRIVAL: UTC_US}) for n, o in group.inputs.items()}
    _check_inputs(group, frames, who)
    try:
        computed = _evaluate(group, prepared(group, frames), []).collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(f"{who} does not fit its inputs: {reason}; mend the expression or `prepare`") from error
    return key_dtypes(group.entity) | {name: stored_dtype(who, name, computed[name]) for name in group.feature_names}


def prepared(group: FeatureGroup, frames: Frames) -> pl.LazyFrame:
    """What the expressions see: the group's ``prepare`` over its inputs, or its one input."""
    if group.prepare is None:
        return next(iter(frames.values()))
    named = isinstance(group.source, Mapping)
    frame = group.prepare(**frames) if named else group.prepare(next(iter(frames.values())))
    if ARRIVAL not in frame.collect_schema():
        return _with_arrival(group, frame, frames)
    # A row that looked at others is known when they are, whatever arrival of its own it kept.
    return _with_arrival(group, frame.drop(ARRIVAL), frames) if group.prepare_by else frame


def compute(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.DataFrame:
    """The rows that the group has in the interval, from the raw rows that may matter for it.

    ``frames`` hold whole key groups (``prepare_by``, entity) and, for windows, all rows of the
    largest window before the interval. Rows with a null key are left out. Raises InvalidInput where an
    expression or ``prepare`` does not fit the values there are.
    """
    try:
        return _computed(group, frames, interval)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"feature group {group.name!r} cannot be computed: {reason}; mend the expression, `prepare` or the rows"
        ) from error


def _computed(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.DataFrame:
    schema = stored_schema(group)
    match group.grain:
        case "event":
            rows = _event_rows(group, frames)
        case "entity":
            rows = _entity_rows(group, frames, interval)
        case "window":
            rows = _window_rows(group, frames, interval)
    kept = rows.filter(interval.keep(EVENT, boundary=group.every is not None))
    kept = kept.filter(pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys))
    keys = [pl.col(k).cast(schema[k]) for k in group.keys]
    values = [pl.col(f).cast(schema[f]) for f in group.feature_names]
    return kept.select(*keys, EVENT, *values, ARRIVAL).collect()


def first_time(group: FeatureGroup) -> str:
    """The event-time column of the group's first input."""
    return event_time(next(iter(group.inputs.values())))


def scope_columns(group: FeatureGroup) -> list[str]:
    """The columns whose values say which raw rows belong together: recomputing needs all of those."""
    if group.prepare_by:
        return list(group.prepare_by)
    return group.keys if group.grain == "entity" else [first_time(group)]


def _check_inputs(group: FeatureGroup, frames: Frames, who: str) -> None:
    """Refuse inputs that lack the columns by which the engine keeps rows together."""
    needed = list(group.prepare_by) or (group.keys if group.grain == "entity" else [])
    for name, frame in frames.items():
        there = frame.collect_schema()
        missing = [c for c in needed if c not in there]
        if missing:
            raise DefinitionError(f"{who}: input {name!r} lacks column(s) {missing}; add them or change `prepare_by`")
        for column, dtype in key_dtypes(group.entity).items():
            given = there.get(column, dtype)
            if column in needed and given != dtype and not (given.is_integer() and dtype.is_integer()):
                raise DefinitionError(
                    f"{who}: {column!r} is {given} in input {name!r} and {dtype} in entity {group.entity.name!r}: "
                    f"declare it alike"
                )
    if group.grain == "entity" and not set(group.prepare_by) <= set(group.keys):
        raise DefinitionError(f"{who}: with grain 'entity', `prepare_by` may name entity keys only ({group.keys})")


def _with_arrival(group: FeatureGroup, frame: pl.LazyFrame, frames: Frames) -> pl.LazyFrame:
    """Give prepared rows a bound on their arrival: the latest of their key group's rows up to then."""
    late = any(isinstance(o, FeatureGroup) or o.live_since is not None for o in group.inputs.values())
    time = first_time(group)
    if not late:
        return frame.with_columns(pl.col(time).alias(ARRIVAL))
    by = [c for c in group.prepare_by if c in frame.collect_schema()]
    raw = [
        frames[name].select(*by, pl.col(event_time(origin)).alias(time), ARRIVAL)
        for name, origin in group.inputs.items()
    ]
    known = pl.concat(raw, how="vertical_relaxed").sort(time)
    newest = pl.col(ARRIVAL).cum_max()
    if not by:
        return frame.sort(time).join_asof(known.with_columns(newest), on=time, strategy="backward")
    # By number: an as-of join by the values themselves would find nothing for a null among them.
    numbers = known.select(by).unique().with_row_index(_GROUP)
    known = known.join(numbers, on=by, nulls_equal=True, maintain_order="left").with_columns(newest.over(_GROUP))
    frame = frame.join(numbers, on=by, how="left", nulls_equal=True).sort(time)
    found = frame.join_asof(known.drop(by), on=time, by=_GROUP, strategy="backward", check_sortedness=False)
    return found.drop(_GROUP)


def _evaluate(group: FeatureGroup, frame: pl.LazyFrame, by: list[str]) -> pl.LazyFrame:
    """The group's expressions over a prepared frame; per entity (and ``by``) unless the grain is event."""
    time = first_time(group)
    values = [f.expr.alias(f.name) for f in group.features]
    if group.grain == "event":
        return frame.select(*group.keys, pl.col(time).alias(EVENT), *by, *values, ARRIVAL)
    # In order, so that equal input gives equal floats as far as Polars allows.
    ordered = frame.sort(by=[*group.keys, *by, time], nulls_last=True)
    return ordered.group_by([*group.keys, *by], maintain_order=True).agg(*values, pl.col(ARRIVAL).max())


def _event_rows(group: FeatureGroup, frames: Frames) -> pl.LazyFrame:
    """One row per (entity, event time): that of the greatest source key."""
    frame = prepared(group, frames)
    origin = next(iter(group.inputs.values()))
    there = frame.collect_schema()
    keys = [k for k in (origin.keys or ()) if k in there] if isinstance(origin, Source) else []
    ties = [f"_tie_{k}" for k in keys]
    frame = frame.with_columns(pl.col(k).alias(tie) for k, tie in zip(keys, ties, strict=True))
    # Without source keys the greatest values win, so that input order decides nothing.
    order = [*group.keys, EVENT, *ties, *group.feature_names]
    rows = _evaluate(group, frame, ties).sort(order, nulls_last=False)
    return rows.unique(subset=[*group.keys, EVENT], keep="last", maintain_order=True)


def _entity_rows(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.LazyFrame:
    """One row per emission moment of an entity, over the raw rows that it had by then.

    Each round computes one moment per entity, so that ``prepare`` never sees a later row.
    """
    moments = _moments(group, frames, interval)
    rounds = moments.select(pl.col(_ROUND).max()).item()
    if rounds is None:
        return _evaluate(group, prepared(group, frames), []).head(0).with_columns(pl.lit(None, UTC_US).alias(EVENT))
    results = []
    for number in range(rounds + 1):
        due = moments.lazy().filter(pl.col(_ROUND) == number)
        until = due.select(*group.keys, _UNTIL)
        seen = {
            name: frames[name].join(until, on=group.keys).filter(pl.col(event_time(origin)) < pl.col(_UNTIL))
            for name, origin in group.inputs.items()
        }
        limited = {name: frame.drop(_UNTIL) for name, frame in seen.items()}
        moment = due.select(*group.keys, EVENT)
        results.append(_evaluate(group, prepared(group, limited), []).join(moment, on=group.keys))
    return pl.concat(results)


def _moments(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.DataFrame:
    """When entities emit: keys, event_timestamp, ``_until`` (exclusive bound of rows seen), ``_round``."""
    times = [frames[n].select(*group.keys, pl.col(event_time(o)).alias(EVENT)) for n, o in group.inputs.items()]
    events = (
        pl.concat(times, how="vertical_relaxed")
        .filter(pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys))
        .unique()
    )
    moment = pl.col(EVENT)
    if group.settle is not None:
        quiet = pl.duration(microseconds=micros(group.settle))
        following = moment.shift(-1).over(group.keys, order_by=EVENT)
        ends = (following.is_not_null() & (following - moment >= quiet)) | (
            following.is_null() & (pl.lit(interval.cutoff, UTC_US) - moment >= quiet)
        )
        found = events.filter(ends).with_columns((moment + pl.duration(microseconds=1)).alias(_UNTIL))
    else:
        every = micros(group.every or "")
        boundary = ((moment.dt.timestamp("us") // every + 1) * every).cast(UTC_US)
        found = events.select(*group.keys, boundary.alias(EVENT)).unique().with_columns(moment.alias(_UNTIL))
    found = found.filter(interval.keep(EVENT, boundary=group.every is not None))
    order = (moment.rank("ordinal").over(group.keys) - 1).cast(pl.Int64)
    return found.with_columns(order.alias(_ROUND)).collect()


def _window_rows(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.LazyFrame:
    """Per entity and boundary b the aggregates over [b - window, b), where a row enters or leaves.

    A row counts from the first boundary b with arrival ≤ b + publish_delay: late rows change later
    boundaries, never ones already served.
    """
    every = micros(group.every or "")
    moment = pl.col(first_time(group)).dt.timestamp("us")
    known = pl.col(ARRIVAL).dt.timestamp("us") - micros(group.delay)
    first = pl.max_horizontal(moment // every + 1, -((-known) // every)) * every
    frame = prepared(group, frames).with_columns(first.alias(_FIRST))
    spans = sorted({micros(f.window or "") for f in group.features})
    emissions = _emissions(group, frame, interval, spans, moment, every)
    rows = emissions
    for span in spans:
        members = [f for f in group.features if micros(f.window or "") == span]
        last = (moment + span) // every * every
        low, high = _bounds(interval, every)
        boundaries = pl.int_ranges(pl.max_horizontal(_FIRST, low), pl.min_horizontal(last, high) + 1, every)
        pieces = frame.with_columns(boundaries.alias(_BOUNDARY)).filter(pl.col(_BOUNDARY).list.len() > 0)
        pieces = pieces.explode(_BOUNDARY).join(emissions, on=[*group.keys, _BOUNDARY], how="semi")
        ordered = pieces.sort(by=[*group.keys, _BOUNDARY, first_time(group)])
        values = [f.expr.alias(f.name) for f in members]
        found = ordered.group_by([*group.keys, _BOUNDARY], maintain_order=True).agg(*values)
        found = found.with_columns(pl.lit(True).alias(_PRESENT))
        rows = rows.join(found, on=[*group.keys, _BOUNDARY], how="left")
        nothing = {f.name: _of_nothing(f, frame) for f in members}
        filled = [pl.when(_PRESENT).then(pl.col(n)).otherwise(pl.lit(v)).alias(n) for n, v in nothing.items()]
        rows = rows.with_columns(filled).drop(_PRESENT)
    moments = pl.col(_BOUNDARY).cast(UTC_US)
    return rows.with_columns(moments.alias(EVENT), moments.alias(ARRIVAL))


def _of_nothing(feature: Feature, frame: pl.LazyFrame) -> Any:
    """What a feature is over no rows: 0 for counts and sums, null where there is no such value."""
    values = pl.DataFrame(schema=frame.collect_schema()).select(feature.expr.alias(feature.name)).to_series()
    return values[0] if len(values) else None


def _bounds(interval: Interval, every: int) -> tuple[pl.Expr, pl.Expr]:
    """The first and last boundary of an interval, in µs."""
    first = pl.lit(interval.start, UTC_US).dt.timestamp("us") // every * every + every
    last = pl.lit(min(interval.end, interval.cutoff), UTC_US).dt.timestamp("us") // every * every
    return first, last


def _emissions(
    group: FeatureGroup, frame: pl.LazyFrame, interval: Interval, spans: list[int], moment: pl.Expr, every: int
) -> pl.LazyFrame:
    """The boundaries in the interval at which a row enters, leaves or becomes known."""
    low, high = _bounds(interval, every)
    changes = [frame.select(*group.keys, pl.col(_FIRST).alias(_BOUNDARY), (moment + spans[-1]).alias(_UNTIL))]
    changes[0] = changes[0].filter(pl.col(_BOUNDARY) <= pl.col(_UNTIL)).drop(_UNTIL)
    for span in spans:
        leaves = ((moment + span) // every + 1) * every
        entered = pl.col(_FIRST) <= moment + span
        changes.append(frame.filter(entered).select(*group.keys, leaves.alias(_BOUNDARY)))
    inside = (pl.col(_BOUNDARY) >= low) & (pl.col(_BOUNDARY) <= high)
    whole = pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys)
    return pl.concat(changes).filter(inside & whole).unique()
