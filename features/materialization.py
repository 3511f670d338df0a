"""Materialization: feature rows into the offline store, exactly once, incrementally or as a backfill.

A run is a plan that is opened, done chunk by chunk and closed, each step one commit; a run that
finds an open plan finishes it first (SEMANTICS.md §5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.compute import Interval, compute, first_time, input_dtypes, stored_schema
from features.errors import ConcurrentRun, InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, PLAN, differs, winners
from features.inputs import ARRIVAL, Input
from features.source import EVENT_DATE
from features.stores import FeatureTable, OfflineStore, Plan, TableState
from features.times import EPOCH as BEGINNING
from features.times import TICK, UTC_US, Clock, duration, from_micros, micros, to_micros

Progress = Callable[[int, int], None]
"""Told (chunks done, chunks in all)."""


_VERSION = "version"  # of the group, as a plan's detail


@dataclass(frozen=True)
class MaterializationRun:
    """What a run did: its plan (None where there was nothing to do), rows appended, table version."""

    group: str
    plan: int | None
    rows: int
    version: int


class Materializer:
    """Computes groups from their inputs and appends what changed to their tables."""

    def __init__(self, store: OfflineStore, clock: Clock, chunk_rows: int = 5_000_000) -> None:
        self._store = store
        self._clock = clock
        self._chunk_rows = chunk_rows

    def table(self, group: FeatureGroup) -> FeatureTable:
        """The group's table, created when needed."""
        return self._store.feature_table(group.table_id, stored_schema(group), group.keys)

    def incremental(self, group: FeatureGroup, progress: Progress | None = None) -> MaterializationRun:
        """The live path: emit what source commits and the passing of time made necessary."""
        table = self.table(group)
        finished = self._finish_open(group, table, progress)
        inputs = self._inputs(group)
        state = _settled(group, table)
        spans = {name: (table.cursor(name), item.version()) for name, item in inputs.items()}
        stamp = self._stamp(state.stamp)
        plan = Plan(state.opened + 1, "incremental", stamp, state.stamp, spans, [], {_VERSION: group.version})
        if not self._due(group, inputs, plan):
            return MaterializationRun(group.name, None, finished, state.version)
        plan = self._with_chunks(inputs, plan, self._start(group, inputs, plan), stamp + TICK)
        return self._run(group, table, plan, progress, finished)

    def backfill(
        self, group: FeatureGroup, start: datetime, end: datetime, progress: Progress | None = None
    ) -> MaterializationRun:
        """Emit what the schedule would have emitted in [start, end); past the clock's now it is clamped.

        Nothing is left to do where the group's last run was this very backfill (as when a killed one is
        run again, and its plan finished). Raises InvalidInput if nothing lies between start and end.
        """
        table = self.table(group)
        finished = self._finish_open(group, table, progress)
        state = _settled(group, table)
        stamp = self._stamp(state.stamp)
        end = min(end, stamp + TICK)
        if start >= end:
            raise InvalidInput(f"backfill of {group.name!r}: start {start:%F %T} is not before end {end:%F %T}")
        inputs = self._inputs(group)
        spans = {name: (None, item.version()) for name, item in inputs.items()}
        plan = Plan(state.opened + 1, "backfill", stamp, state.stamp, spans, [], {_VERSION: group.version})
        wait = duration(group.settle or "0s")
        if state.closed and _covers(last := table.plan(state.closed), plan, (start, end), end + wait):
            return MaterializationRun(group.name, last.number, finished, state.version)
        return self._run(group, table, self._with_chunks(inputs, plan, start, end), progress, finished)

    def _inputs(self, group: FeatureGroup) -> dict[str, Input]:
        return {n: Input(n, o, input_dtypes(o), self._store) for n, o in group.inputs.items()}

    def _stamp(self, last: datetime | None) -> datetime:
        """The run's stamp: now, but always after the group's last one, whatever the clock does."""
        now = self._clock()
        return now if last is None else max(now, last + TICK)

    def _finish_open(self, group: FeatureGroup, table: FeatureTable, progress: Progress | None) -> int:
        """Finish the plan that a killed run left open; how many rows were still to append."""
        plan = table.unfinished()
        return 0 if plan is None else self._run(group, table, plan, progress, 0, opened=True).rows

    def _due(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> bool:
        """Whether an incremental run can find anything: a new commit, or rows that time made due."""
        if all(version is None for _, version in plan.sources.values()):
            return False
        if plan.previous is None or any(after != version for after, version in plan.sources.values()):
            return True
        if group.every is not None:
            every = micros(group.every)
            return to_micros(plan.stamp) // every > to_micros(plan.previous) // every
        return any(not frame.is_empty() for frame in self._revisited(group, inputs, plan, limit=1))

    def _start(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> datetime:
        """Where an incremental run begins: for windows at the first boundary that can have changed."""
        if group.grain != "window" or plan.previous is None:
            return BEGINNING
        first, by = next(iter(inputs.values())), list(group.prepare_by)
        moments: list[Any] = [plan.previous]
        for name, item in inputs.items():
            after, version = plan.sources[name]
            if after is None and version is not None:
                return BEGINNING
            changed = item.changes(after, version, [*by, item.time])
            if by and not changed.is_empty():
                # What `prepare` makes of any row of these keys may have changed, of earlier ones too.
                touched = first.scan(plan.sources[first.name][1], plan.stamp, scope=changed.select(by).unique())
                moments.append(touched.select(pl.col(first.time).min()).collect().item())
            moments.append(changed[item.time].min())
        earliest: datetime = min(moment for moment in moments if moment is not None)
        return earliest

    def _with_chunks(self, inputs: dict[str, Input], plan: Plan, start: datetime, end: datetime) -> Plan:
        """Cut [start, end) at dates so that a chunk has about ``chunk_rows`` rows of the first input."""
        first = next(iter(inputs.values()))
        version = plan.sources[first.name][1]
        day = pl.col(first.time).dt.truncate("1d").alias("day")
        days = first.scan(version, plan.stamp, start, end).select(day).group_by("day").len().sort("day").collect()
        cuts, filled = [start], 0
        for moment, rows in days.iter_rows():
            if filled and filled + rows > self._chunk_rows and moment > cuts[-1]:
                cuts.append(moment)
                filled = 0
            filled += rows
        chunks = list(zip(cuts, [*cuts[1:], end], strict=True))
        return replace(plan, chunks=chunks)

    def _run(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        plan: Plan,
        progress: Progress | None,
        finished: int,
        opened: bool = False,
    ) -> MaterializationRun:
        """Open the plan unless it is, do the chunks that are missing, close it."""
        if not opened:
            table.open_plan(plan)
        inputs = self._inputs(group)
        scope = self._scope(group, inputs, plan)
        appended = 0
        for number, (start, end) in enumerate(plan.chunks):
            if not table.has_chunk(plan, number):
                interval = Interval(start, end, plan.stamp)
                rows = self._chunk(group, table, inputs, plan, interval, scope)
                appended += rows.height if table.append(plan, number, rows) else 0
            if progress is not None:
                progress(number + 1, len(plan.chunks))
        moved = {name: version for name, (_, version) in plan.sources.items() if version is not None}
        table.close_plan(plan, moved if plan.kind == "incremental" else {})
        return MaterializationRun(group.name, plan.number, finished + appended, table.state().version)

    def _scope(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> pl.DataFrame | None:
        """The values of the scope columns whose rows the run recomputes; None means all."""
        by = scope_columns(group)
        if plan.kind != "incremental" or plan.previous is None or group.grain == "window":
            return None
        if not set(by) <= {*group.keys, first_time(group)}:
            return None  # the table does not say which of its rows belong to these values: some might be gone
        if any(after is None for after, version in plan.sources.values() if version is not None):
            return None
        parts = self._revisited(group, inputs, plan)
        for name, item in inputs.items():
            after, version = plan.sources[name]
            parts.append(item.changes(after, version, [item.time if c == first_time(group) else c for c in by]))
        dtypes = next(iter(inputs.values())).dtypes
        named = [part.rename(dict(zip(part.columns, by, strict=True))) for part in parts]
        return pl.concat([part.cast({c: dtypes[c] for c in by}) for part in named]).unique()

    def _revisited(
        self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan, limit: int | None = None
    ) -> list[pl.DataFrame]:
        """Scope values of rows that no run could emit before, because they were unsettled or in the future."""
        if plan.previous is None:
            return []
        if group.settle is not None:
            since = plan.previous - duration(group.settle)
        elif group.every is not None:
            since = from_micros(to_micros(plan.previous) // micros(group.every) * micros(group.every))
        else:
            since = plan.previous + TICK
        found = []
        for name, item in inputs.items():
            columns = [item.time if c == first_time(group) else c for c in scope_columns(group)]
            rows = item.scan(plan.sources[name][1], plan.stamp, since).select(columns)
            found.append((rows.unique() if limit is None else rows.head(limit)).collect())
        return found

    def _chunk(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        inputs: dict[str, Input],
        plan: Plan,
        interval: Interval,
        scope: pl.DataFrame | None,
    ) -> pl.DataFrame:
        """The rows to append for one chunk: what changed against the table, tombstones included."""
        if scope is not None and scope.is_empty():
            return _stored(_no_rows(group), group, plan, table)
        frames, scope = self._frames(group, table, inputs, plan, interval, scope)
        fresh = compute(group, frames, interval)
        old = _existing(group, table, interval, scope)
        gone = _gone(group, frames, fresh, old)
        return _stored(_changes(group, fresh, old, gone, plan), group, plan, table)

    def _frames(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        inputs: dict[str, Input],
        plan: Plan,
        interval: Interval,
        scope: pl.DataFrame | None,
    ) -> tuple[dict[str, pl.LazyFrame], pl.DataFrame | None]:
        """The raw rows that may matter for a chunk, key groups whole, and the scope they cover."""
        versions = {name: version for name, (_, version) in plan.sources.items()}
        by = scope_columns(group)
        if group.grain == "window":
            longest = max(micros(f.window or "") for f in group.features)
            start = max(BEGINNING, interval.start - timedelta(microseconds=longest) - duration(group.every or "0s"))
            frames = {n: i.scan(versions[n], plan.stamp, start, interval.end) for n, i in inputs.items()}
            if group.prepare_by:
                whole = pl.concat([f.select(by) for f in frames.values()], how="vertical_relaxed").unique().collect()
                frames = {n: i.scan(versions[n], plan.stamp, scope=whole) for n, i in inputs.items()}
            return frames, None
        if by == [first_time(group)]:
            start = max(BEGINNING, interval.start)
            found = {n: i.scan(versions[n], plan.stamp, start, interval.end, scope) for n, i in inputs.items()}
            return found, scope
        if len(plan.chunks) > 1 or interval.start > BEGINNING:
            # Key groups with rows in the chunk (a boundary's rows begin one step before it), then all of theirs.
            start = max(BEGINNING, interval.start - duration(group.every or "0s"))
            there = [i.scan(versions[n], plan.stamp, start, interval.end, scope).select(by) for n, i in inputs.items()]
            if scope is not None and set(by) <= set(group.keys):
                # Key groups that had rows in the chunk and lost them: what they made becomes tombstones.
                there.append(_standing(group, table, interval, scope).select(by).cast(scope.schema))
            scope = pl.concat(there).unique().collect()
        return {n: i.scan(versions[n], plan.stamp, scope=scope) for n, i in inputs.items()}, scope


def _settled(group: FeatureGroup, table: FeatureTable) -> TableState:
    """The table's state while no plan is open; raises ConcurrentRun where another run is at work."""
    state = table.state()
    if state.opened > state.closed:
        raise ConcurrentRun(f"feature group {group.name!r}: another run is at work on it; run again when it is done")
    return state


def _covers(done: Plan, plan: Plan, interval: tuple[datetime, datetime], settled: datetime) -> bool:
    """Whether the last plan did all that ``plan`` would do in an interval.

    ``settled`` is the moment after which the passing of time brings nothing more into it.
    """
    same = (done.kind, done.sources, done.details) == (plan.kind, plan.sources, plan.details)
    return same and (done.chunks[0][0], done.chunks[-1][1]) == interval and settled <= done.stamp


def scope_columns(group: FeatureGroup) -> list[str]:
    """The columns whose values say which raw rows belong together: recomputing needs all of those."""
    if group.prepare_by:
        return list(group.prepare_by)
    return group.keys if group.grain == "entity" else [first_time(group)]


def _standing(group: FeatureGroup, table: FeatureTable, interval: Interval, scope: pl.DataFrame | None) -> pl.LazyFrame:
    """The table's rows in a chunk's interval, of the scope where the table has its columns."""
    start = None if interval.start == BEGINNING else interval.start.date()
    rows = table.scan(since=start, until=min(interval.end, interval.cutoff).date())
    rows = rows.filter(interval.keep(EVENT, boundary=group.every is not None))
    if scope is not None:
        named = scope.rename({first_time(group): EVENT}, strict=False)
        if set(named.columns) <= {*group.keys, EVENT}:
            rows = rows.join(named.lazy(), on=named.columns, how="semi")
    return rows


def _existing(group: FeatureGroup, table: FeatureTable, interval: Interval, scope: pl.DataFrame | None) -> pl.DataFrame:
    """Per key (entity, event_timestamp) the row that stands in the table, and whether it ever was live."""
    rows = _standing(group, table, interval, scope)
    key = [*group.keys, EVENT]
    live = rows.group_by(key).agg(pl.col(AS_IF).is_null().any().alias("_live"))
    standing = winners(rows, key).select(*key, AS_IF, DELETED, *group.feature_names)
    return standing.join(live, on=key, how="left").collect()


def _gone(group: FeatureGroup, frames: dict[str, pl.LazyFrame], fresh: pl.DataFrame, old: pl.DataFrame) -> pl.DataFrame:
    """The standing rows whose key a recompute no longer yields.

    Earlier states of the entity grain stay as long as a raw row of their entity is left.
    """
    if group.on_conflict == "first":
        return old.clear()
    gone = old.filter(~pl.col(DELETED)).join(fresh, on=[*group.keys, EVENT], how="anti")
    if group.grain != "entity" or gone.is_empty():
        return gone
    by = scope_columns(group)
    if not set(by) <= set(group.keys):
        return old.clear()
    left = pl.concat([frame.select(by).cast({c: old.schema[c] for c in by}) for frame in frames.values()])
    return gone.join(left.unique().collect(), on=by, how="anti")


def _changes(
    group: FeatureGroup, fresh: pl.DataFrame, old: pl.DataFrame, gone: pl.DataFrame, plan: Plan
) -> pl.DataFrame:
    """Fresh rows that are new or differ, unchanged values copied bit for bit, and tombstones for those gone.

    A key that was ever live stays live (no ``_as_if``); a counterfactual one keeps its old moment,
    or the new arrival if that is later; a key new in a backfill becomes counterfactual.
    """
    key = [*group.keys, EVENT]
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
    wait = group.delay + (duration(group.settle) if group.settle else timedelta(0))
    possible = pl.max_horizontal(pl.col(EVENT) + wait, ARRIVAL)
    fresh_as_if = possible if plan.kind == "backfill" else pl.lit(None, UTC_US)
    kept_as_if = pl.when(pl.col("_live")).then(pl.lit(None, UTC_US)).otherwise(pl.max_horizontal(AS_IF, ARRIVAL))
    as_if = pl.when(new).then(fresh_as_if).otherwise(kept_as_if).alias(AS_IF)
    rows = both.select(*key, *values, as_if, pl.lit(False).alias(DELETED))
    return pl.concat([rows, _tombstones(group, gone, rows)])


def _tombstones(group: FeatureGroup, gone: pl.DataFrame, like: pl.DataFrame) -> pl.DataFrame:
    """A tombstone for each row that is gone, live if it was."""
    as_if = pl.when(pl.col("_live")).then(pl.lit(None, UTC_US)).otherwise(pl.col(AS_IF)).alias(AS_IF)
    nulls = [pl.lit(None, like.schema[f]).alias(f) for f in group.feature_names]
    return gone.select(*group.keys, EVENT, *nulls, as_if, pl.lit(True).alias(DELETED))


def _no_rows(group: FeatureGroup) -> pl.DataFrame:
    schema = stored_schema(group)
    return pl.DataFrame(schema={**schema, EVENT: UTC_US, AS_IF: UTC_US, DELETED: pl.Boolean()})


def _stored(rows: pl.DataFrame, group: FeatureGroup, plan: Plan, table: FeatureTable) -> pl.DataFrame:
    """Rows with their bookkeeping, sorted by entity and time so that statistics prune."""
    return rows.with_columns(
        pl.lit(plan.stamp, UTC_US).alias(CREATED),
        pl.lit(plan.number, pl.Int64).alias(PLAN),
        pl.lit(table.state().epoch, pl.Int64).alias(EPOCH),
        pl.col(EVENT).dt.date().alias(EVENT_DATE),
    ).sort([*group.keys, EVENT])
