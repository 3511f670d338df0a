"""Feature values from raw rows: what a group's definition computes, for each grain.

Pure functions over Polars frames. The result has keys, event_timestamp, the features in their stored
types, and ``_arrival``: a bound on when the newest source row that was used became known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import polars as pl

from features.entity import DataType
from features.errors import DefinitionError, InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.inputs import ARRIVAL, SUPERSEDED, event_time, upstream_dtypes
from features.intervals import Interval
from features.known import STEP, any_late, known_at_step, known_times, lasting, of_step, steps, us
from features.prepare import run_prepare
from features.source import BOOKKEEPING, Source
from features.stored_types import key_dtypes, stored_dtype, typed_value
from features.times import UTC_US, micros
from features.windows import (
    AT,
    KNOWN,
    REPLACED,
    Member,
    aggregated,
    boundary_after,
    boundary_from,
    emissions,
    of_nothing,
    placed,
)

Frames = Mapping[str, pl.LazyFrame]

_MOMENT = "_moment"
_UNTIL = "_until"
_ROWS = "_rows"
_BATCH = "_batch"
_GROUP = "_key_group"
_COPIED = 30_000_000
"""About so many values are made at once of copies of raw rows, one for each moment that sees it."""


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
        frame = prepared(group, frames)
        there = frame.collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(f"{who}: `prepare` does not fit its inputs: {reason}; mend the function") from error
    missing = [c for c in (*group.keys, first_time(group)) if c not in there]
    if missing:
        raise DefinitionError(f"{who}: column(s) {missing} are not there after `prepare`: let it keep or make them")
    try:
        computed = _evaluate(group, frame, []).collect_schema()
    except pl.exceptions.PolarsError as error:
        raise DefinitionError(_misfit(who, group, there)) from error
    found = {name: stored_dtype(who, name, computed[name]) for name in group.feature_names}
    for feature in group.features:
        if feature.default is not None:
            typed_value(f"{who}: default of feature {feature.name!r}", feature.default, found[feature.name])
    return key_dtypes(group.entity) | found


def _misfit(who: str, group: FeatureGroup, there: pl.Schema) -> str:
    """Which expression does not fit the columns there are, and why."""
    for feature in group.features:
        try:
            pl.LazyFrame(schema=there).select(feature.expr).collect_schema()
        except pl.exceptions.PolarsError as error:
            lacking = [c for c in feature.expr.meta.root_names() if c not in there]
            own = [c for c in there if not c.startswith("_")]
            reason = f"there is no column {lacking}; there are {own}" if lacking else str(error).splitlines()[0]
            return f"{who}: feature {feature.name!r} does not fit its inputs: {reason}; mend its expression"
    return f"{who}: its features do not fit its inputs together; mend their expressions"


def prepared(group: FeatureGroup, frames: Frames) -> pl.LazyFrame:
    """What the expressions see: the group's ``prepare`` over its inputs, or its one input."""
    if group.prepare is None:
        return next(iter(frames.values()))
    named = isinstance(group.source, Mapping)
    frame = run_prepare(f"feature group {group.name!r}", group.prepare, frames, named=named)
    if ARRIVAL not in frame.collect_schema():
        return _with_arrival(group, frame, frames)
    # A row that looked at others is known when they are, whatever arrival of its own it kept.
    return _with_arrival(group, frame.drop(ARRIVAL), frames) if group.prepare_by else frame


def compute(
    group: FeatureGroup,
    frames: Frames,
    interval: Interval,
    only: Sequence[str] | None = None,
    states: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """The rows that the group has in the interval, from the raw rows that may matter for it.

    ``frames`` hold whole key groups (``prepare_by``, entity) and, for windows, all rows of the
    largest window before the interval; ``only`` names the features wanted of a window group. ``states``
    (keys, event_timestamp) are further moments at which entities of an entity group are wanted. Rows with a
    null key are left out. Raises InvalidInput where an expression or ``prepare`` does not fit the values
    there are.
    """
    with translated(group):
        return _computed(group, frames, interval, list(group.feature_names if only is None else only), states)


@contextmanager
def translated(group: FeatureGroup) -> Iterator[None]:
    """Turn what Polars raises over a group's rows into InvalidInput."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(
            f"feature group {group.name!r} cannot be computed: {reason}; mend the expression, `prepare` or the rows"
        ) from error


def _computed(
    group: FeatureGroup, frames: Frames, interval: Interval, names: list[str], states: pl.DataFrame | None
) -> pl.DataFrame:
    schema = stored_schema(group)
    match group.grain:
        case "event":
            rows = _event_rows(group, frames)
        case "entity":
            rows = _entity_rows(group, frames, interval, states)
        case "window":
            rows = _window_rows(group, frames, interval, names)
    kept = rows.filter(interval.keep(EVENT, boundary=group.every is not None))
    kept = kept.filter(pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys))
    keys = [pl.col(k).cast(schema[k]) for k in group.keys]
    values = [pl.col(f).cast(schema[f]) for f in names]
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
    # In order the last row of a key is the one before another key: `unique` would take ten times as long.
    return rows.filter(pl.any_horizontal(pl.col(c).ne_missing(pl.col(c).shift(-1)) for c in [*group.keys, EVENT]))


def _entity_rows(group: FeatureGroup, frames: Frames, interval: Interval, states: pl.DataFrame | None) -> pl.LazyFrame:
    """One row per moment of an entity, over the raw rows that it had by then."""
    batches = _batches(group, frames, interval, states)
    if len(batches) > 1:
        frames = {name: frame.collect().lazy() for name, frame in frames.items()}  # read once, not by each batch
    return pl.concat([_at_moments(group, frames, due.lazy()).collect() for due in batches]).lazy()


def _at_moments(group: FeatureGroup, frames: Frames, due: pl.LazyFrame) -> pl.LazyFrame:
    """The rows of one batch of moments."""
    if group.prepare is None:
        frame = prepared(group, frames).join(due, on=group.keys).filter(pl.col(first_time(group)) < pl.col(_UNTIL))
    else:
        by = scope_columns(group)
        until, seen = due.select(*by, _UNTIL).unique(), {}
        for name, origin in group.inputs.items():
            past = frames[name].join(until, on=by).filter(pl.col(event_time(origin)) < pl.col(_UNTIL))
            seen[name] = past.drop(_UNTIL)
        frame = prepared(group, seen).join(due, on=group.keys)
    return _evaluate(group, frame, [_MOMENT]).rename({_MOMENT: EVENT})


def _batches(
    group: FeatureGroup, frames: Frames, interval: Interval, states: pl.DataFrame | None
) -> list[pl.DataFrame]:
    """When entities have rows: keys, ``_moment``, ``_until`` (exclusive bound of raw rows seen); in batches.

    In a batch there is one bound per key group, so that ``prepare`` never sees a later row; without
    ``prepare`` there are as many moments as do not copy too many rows.
    """
    times = [frames[n].select(*group.keys, pl.col(event_time(o)).alias(_MOMENT)) for n, o in group.inputs.items()]
    whole = pl.all_horizontal(pl.col(k).is_not_null() for k in group.keys)
    events = pl.concat(times, how="vertical_relaxed").filter(whole).group_by(*group.keys, _MOMENT).len(_ROWS).collect()
    due = _moments(group, events, interval)
    if states is not None:
        there = states.rename({EVENT: _MOMENT}).select(pl.col(c).cast(due.schema[c]) for c in due.columns)
        due = pl.concat([due, there]).unique()
    step = pl.duration(microseconds=0 if group.every is not None else 1)
    rows = events.group_by(group.keys).agg(pl.col(_ROWS).sum().cast(pl.Int64))
    due = due.join(rows, on=group.keys, how="left").with_columns((pl.col(_MOMENT) + step).alias(_UNTIL))
    due = due.sort(*group.keys, _MOMENT)
    if group.prepare is None:
        batch = pl.col(_ROWS).cum_sum() * len(group.features) // _COPIED
    else:
        batch = pl.col(_UNTIL).rank("dense").over(scope_columns(group)).cast(pl.Int64)
    due = due.with_columns(batch.alias(_BATCH)).drop(_ROWS)
    return due.partition_by(_BATCH, include_key=False) or [due.drop(_BATCH)]


def _moments(group: FeatureGroup, events: pl.DataFrame, interval: Interval) -> pl.DataFrame:
    """The keys and ``_moment`` of emissions: boundaries after raw rows, or raw rows after which nothing came."""
    moment = pl.col(_MOMENT)
    if group.settle is not None:
        quiet = pl.duration(microseconds=micros(group.settle))
        following = moment.shift(-1).over(group.keys, order_by=_MOMENT)
        ends = (following.is_not_null() & (following - moment >= quiet)) | (
            following.is_null() & (pl.lit(interval.cutoff, UTC_US) - moment >= quiet)
        )
        found = events.filter(ends)
    else:
        boundary = boundary_after(moment.dt.timestamp("us"), micros(group.every or ""))
        found = events.with_columns(boundary.cast(UTC_US).alias(_MOMENT))
    return found.filter(interval.keep(_MOMENT, boundary=group.every is not None)).select(*group.keys, _MOMENT).unique()


def _window_rows(group: FeatureGroup, frames: Frames, interval: Interval, names: list[str]) -> pl.LazyFrame:
    """Per entity and boundary b the aggregates over [b - window, b), from raw rows."""
    every, pieces = micros(group.every or ""), _pieces(group, frames, interval)
    wanted = [f for f in group.features if f.name in names]
    members = [Member(f.name, micros(f.window or ""), f.expr, of_nothing(f, pieces)) for f in wanted]
    order = [*group.keys, *time_order(group, pieces)]
    moments = emissions(pieces, group.keys, _spans(group), interval, every).collect(engine="streaming")
    rows = aggregated(moments, group.keys, members, lambda span: [placed(pieces, span, every)], interval, every, order)
    return rows.with_columns(pl.col(EVENT).alias(ARRIVAL))


def _pieces(group: FeatureGroup, frames: Frames, interval: Interval) -> pl.LazyFrame:
    """Prepared raw rows as pieces of windows (features.windows).

    A row counts from the first boundary b with arrival ≤ b + publish_delay. Where ``prepare`` looks at other
    rows, or may see some that were late or replaced, it is given what was known at each boundary.
    """
    whole = prepared(group, frames)
    if group.prepare is not None:
        # Where what it makes does not tell of which key group it is, all are prepared together.
        by = list(group.prepare_by) if set(group.prepare_by) <= set(whole.collect_schema()) else []
        times = known_times(group, frames, by)
        if group.prepare_by or any_late(times):
            return _as_known(group, frames, steps(group, times, by, interval), by)
    return raw_pieces(group, whole)


def _as_known(group: FeatureGroup, frames: Frames, due: Sequence[pl.DataFrame], by: list[str]) -> pl.LazyFrame:
    """Pieces that ``prepare`` made, at each step, of what was known then."""
    held = {name: frame.collect() for name, frame in frames.items()}  # read once, not at each step
    longest, found = max(_spans(group)), []
    for step in due:
        made = prepared(group, known_at_step(group, held, step, by)).drop(ARRIVAL)
        pieces = of_step(made, step, by).with_columns(us(first_time(group)).alias(AT)).collect()
        if pieces[STEP].null_count():
            raise InvalidInput(
                f"feature group {group.name!r}: `prepare` changes values of {by}, within which it looks across rows "
                f"(`prepare_by`): let it keep them as they are"
            )
        found.append(pieces.filter(pl.col(AT) + longest >= pl.col(KNOWN)))
    return lasting(pl.concat(found))


def _spans(group: FeatureGroup) -> list[int]:
    """The windows of all features of a group (µs)."""
    return sorted({micros(f.window or "") for f in group.features})


def raw_pieces(group: FeatureGroup, frame: pl.LazyFrame) -> pl.LazyFrame:
    """Prepared raw rows as pieces of windows (features.windows)."""
    every, delay = micros(group.every or ""), micros(group.delay)
    at = pl.col(first_time(group)).dt.timestamp("us")
    known = pl.max_horizontal(boundary_after(at, every), boundary_from(us(ARRIVAL) - delay, every))
    replaced: pl.Expr = pl.lit(None, pl.Int64)
    if SUPERSEDED in frame.collect_schema():
        replaced = boundary_from(us(SUPERSEDED) - delay, every)
    pieces = frame.with_columns(at.alias(AT), known.alias(KNOWN), replaced.alias(REPLACED))
    return pieces.filter(pl.col(REPLACED).is_null() | (pl.col(REPLACED) > pl.col(KNOWN)))


def time_order(group: FeatureGroup, frame: pl.LazyFrame) -> list[str]:
    """The columns that put an entity's rows in order: event time, then source keys, else what features read."""
    origin, there = next(iter(group.inputs.values())), frame.collect_schema()
    keys = [k for k in (origin.keys or ()) if k in there] if isinstance(origin, Source) else []
    read = dict.fromkeys(root for f in group.features for root in f.expr.meta.root_names())
    ties = keys or [c for c in read if c in there and not there[c].is_nested()]
    return list(dict.fromkeys([first_time(group), *ties]))
