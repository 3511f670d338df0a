"""What a run appends: fresh rows against those that stand in the table, tombstones included."""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from features.compute import first_time, stored_schema
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, PLAN, differs, winners
from features.frames import by_key_and_time
from features.inputs import ARRIVAL
from features.intervals import Interval
from features.source import EVENT_DATE
from features.stores import FeatureTable, Plan
from features.times import EPOCH as BEGINNING
from features.times import UTC_US, duration


def standing(group: FeatureGroup, table: FeatureTable, interval: Interval, scope: pl.DataFrame | None) -> pl.LazyFrame:
    """The table's rows in a chunk's interval, of the scope where the table has its columns."""
    start = None if interval.start == BEGINNING else interval.start.date()
    rows = table.scan(since=start, until=min(interval.end, interval.cutoff).date())
    rows = rows.filter(interval.keep(EVENT, boundary=group.every is not None))
    if scope is not None:
        named = scope.rename({first_time(group): EVENT}, strict=False)
        if set(named.columns) <= {*group.keys, EVENT}:
            rows = rows.join(named.lazy(), on=named.columns, how="semi")
    return rows


def existing(
    group: FeatureGroup, table: FeatureTable, interval: Interval, scope: pl.DataFrame | None, pushed: pl.Series
) -> pl.DataFrame:
    """Per key (entity, event_timestamp) the row that stands in the table, and whether it ever was live or pushed.

    ``pushed`` are the plans that folded pushes.
    """
    rows = standing(group, table, interval, scope)
    key = [*group.keys, EVENT]
    live = rows.group_by(key).agg(
        pl.col(AS_IF).is_null().any().alias("_live"), pl.col(PLAN).is_in(pushed.implode()).any().alias("_pushed")
    )
    newest = winners(rows, key).select(*key, AS_IF, DELETED, *group.feature_names)
    return newest.join(live, on=key, how="left").collect()


def nothing(group: FeatureGroup) -> pl.DataFrame:
    """What ``existing`` gives where no row stands."""
    schema = stored_schema(group)
    own = {EVENT: UTC_US, AS_IF: UTC_US, DELETED: pl.Boolean(), "_live": pl.Boolean(), "_pushed": pl.Boolean()}
    return pl.DataFrame(schema={**schema, **own})


def states(
    group: FeatureGroup, table: FeatureTable, interval: Interval, scope: pl.DataFrame | None, pushed: pl.Series
) -> pl.DataFrame | None:
    """The states of an entity group that stand in the table (keys, event_timestamp), but for what was pushed.

    They are computed again even where no row would make them today: what a correction took from an entity
    must not stay in its newest state. None for groups in which nothing is ever corrected, and other grains.
    """
    if group.grain != "entity" or group.on_conflict == "first":
        return None
    key = [*group.keys, EVENT]
    rows = standing(group, table, interval, scope).select(*key, EPOCH, CREATED, DELETED, PLAN)
    own = rows.filter(~pl.col(PLAN).is_in(pushed.implode()).any().over(key))
    return winners(own, key).filter(~pl.col(DELETED)).select(key).collect()


def gone(group: FeatureGroup, fresh: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """The standing rows whose key a recompute no longer yields; a key that was pushed need not come from a source.

    ARRIVAL, when they became known to be gone, is null.
    """
    old = old.with_columns(pl.lit(None, UTC_US).alias(ARRIVAL))
    if group.on_conflict == "first" or old.is_empty():
        return old.clear()
    return old.filter(~pl.col(DELETED) & ~pl.col("_pushed")).join(fresh, on=[*group.keys, EVENT], how="anti")


def changes(
    group: FeatureGroup, fresh: pl.DataFrame, old: pl.DataFrame, lost: pl.DataFrame, plan: Plan
) -> pl.DataFrame:
    """Fresh rows that are new or differ, unchanged values copied bit for bit, and tombstones for those gone.

    A key that was ever live stays live (no ``_as_if``); a counterfactual one keeps its old moment,
    or the new arrival if that is later; a key new in a backfill becomes counterfactual.
    """
    key = [*group.keys, EVENT]
    wait = group.delay + (duration(group.settle) if group.settle else timedelta(0))
    possible = pl.max_horizontal(pl.col(EVENT) + wait, ARRIVAL)
    fresh_as_if = possible if plan.kind == "backfill" else pl.lit(None, UTC_US)
    if old.is_empty():  # nothing to compare with: wide groups stay quick
        return fresh.select(*key, *group.feature_names, fresh_as_if.alias(AS_IF), pl.lit(False).alias(DELETED))
    old = old.rename({f: f"{f}_old" for f in group.feature_names}).with_columns(pl.lit(True).alias("_stood"))
    both = fresh.join(old, on=key, how="left", maintain_order="left")
    schema = stored_schema(group)
    moved = {f: differs(f, f"{f}_old", schema[f]) for f in group.feature_names}
    new = pl.col("_stood").is_null()
    buried = pl.col(DELETED).fill_null(value=False)
    # One column per change, so that each comparison is written once and wide groups stay quick.
    both = both.with_columns(expr.alias(f"_moved_{f}") for f, expr in moved.items())
    changed = new | buried | pl.any_horizontal(f"_moved_{f}" for f in moved)
    if group.on_conflict == "first":
        changed = new
    both = both.filter(changed)
    kept = new | buried
    values = [
        pl.when(kept | pl.col(f"_moved_{f}")).then(pl.col(f)).otherwise(pl.col(f"{f}_old")).alias(f) for f in moved
    ]
    kept_as_if = pl.when(pl.col("_live")).then(pl.lit(None, UTC_US)).otherwise(pl.max_horizontal(AS_IF, ARRIVAL))
    as_if = pl.when(new).then(fresh_as_if).otherwise(kept_as_if).alias(AS_IF)
    rows = both.select(*key, *values, as_if, pl.lit(False).alias(DELETED))
    return pl.concat([rows, _tombstones(group, lost, rows)])


def _tombstones(group: FeatureGroup, lost: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """A tombstone for each row that is gone, live if it was."""
    as_if = pl.when(pl.col("_live")).then(pl.lit(None, UTC_US)).otherwise(pl.max_horizontal(AS_IF, ARRIVAL))
    nulls = [pl.lit(None, like.schema[f]).alias(f) for f in group.feature_names]
    return lost.select(*group.keys, EVENT, *nulls, as_if.alias(AS_IF), pl.lit(True).alias(DELETED))


def no_rows(group: FeatureGroup) -> pl.DataFrame:
    """No rows to append, with their columns."""
    schema = stored_schema(group)
    return pl.DataFrame(schema={**schema, EVENT: UTC_US, AS_IF: UTC_US, DELETED: pl.Boolean()})


def stored(rows: pl.DataFrame, group: FeatureGroup, plan: Plan, epoch: int) -> pl.DataFrame:
    """Rows with their bookkeeping, sorted by entity and time so that statistics prune."""
    dated = rows.with_columns(
        pl.lit(plan.stamp, UTC_US).alias(CREATED),
        pl.lit(plan.number, pl.Int64).alias(PLAN),
        pl.lit(epoch, pl.Int64).alias(EPOCH),
        pl.col(EVENT).dt.date().alias(EVENT_DATE),
    )
    return by_key_and_time(dated, group.keys, EVENT)
