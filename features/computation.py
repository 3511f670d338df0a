"""Computation: the rows that an incremental run or a backfill appends, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import polars as pl

from features.capacity import ANY_CAPACITY, Capacity
from features.changes import changes, existing, gone, no_rows, nothing, standing, states, stored
from features.compute import compute, first_time, input_dtypes, scope_columns
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, DELETED, EVENT, pushed_plans
from features.inputs import Input
from features.intervals import Interval
from features.runs import Chunks
from features.source import EVENT_DATE
from features.stores import FeatureTable, OfflineStore, Plan
from features.tiling import Tiling
from features.times import EPOCH as BEGINNING
from features.times import TICK, duration, from_micros, micros, to_micros
from features.window_computation import Computed, RowsOf, WindowComputation
from features.withdrawals import Withdrawals


@dataclass(frozen=True)
class ChunkPreview:
    """What one chunk of a backfill would do: rows of the first input to read, feature rows by what happens to them.

    The interval [start, end) is UTC; ``read`` counts whole dates.
    """

    start: datetime
    end: datetime
    read: int
    new: int
    changed: int
    withdrawn: int


class Computation:
    """Implements features.runs.Work for the kinds "incremental" and "backfill"."""

    def __init__(self, store: OfflineStore, capacity: Capacity = ANY_CAPACITY) -> None:
        self._store = store
        self._windows = WindowComputation(Tiling(store, capacity))

    def inputs(self, group: FeatureGroup) -> dict[str, Input]:
        """The group's inputs by the name that ``prepare`` knows them by."""
        return {n: Input(n, o, input_dtypes(o), self._store) for n, o in group.inputs.items()}

    def start(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Chunks:
        """What a plan appends: per chunk what changed against the table, tombstones included."""
        pushed = pushed_plans(self._store.publications(group.table_id))
        rows, state = self._rows_of(group, table, plan, pushed, keep_tiles=True), table.state()
        # Nobody else writes while the plan is open: where no row stood then, none stands for a chunk.
        dates = table.days(state.version)[EVENT_DATE]

        def chunk(number: int) -> pl.DataFrame:
            difference = self._difference(group, table, plan, rows, pushed, number, dates)
            return stored(no_rows(group) if difference is None else difference[0], group, plan, state.epoch)

        return chunk

    def preview(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Iterator[ChunkPreview]:
        """What each chunk of a plan that is not opened would read and change; writes nothing."""
        pushed = pushed_plans(self._store.publications(group.table_id))
        rows = self._rows_of(group, table, plan, pushed, keep_tiles=False)
        first = next(iter(self.inputs(group).values()))
        version, dates = plan.sources[first.name][1], table.days(table.state().version)[EVENT_DATE]
        for number, (start, end) in enumerate(plan.chunks):
            there = (pl.col(EVENT_DATE) >= start.date()) & (pl.col(EVENT_DATE) <= end.date())
            read = 0 if version is None else int(first.days(version).filter(there)["rows"].sum())
            difference = self._difference(group, table, plan, rows, pushed, number, dates)
            if difference is None:
                yield ChunkPreview(start, end, read, 0, 0, 0)
                continue
            found, old = difference
            live, stood = found.filter(~pl.col(DELETED)), old.filter(~pl.col(DELETED))
            new = live.join(stood, on=[*group.keys, EVENT], how="anti").height
            yield ChunkPreview(start, end, read, new, live.height - new, found.height - live.height)

    def _rows_of(
        self, group: FeatureGroup, table: FeatureTable, plan: Plan, pushed: pl.Series, *, keep_tiles: bool
    ) -> RowsOf:
        inputs = self.inputs(group)
        if group.grain == "window":
            return self._windows.start(group, inputs, plan, keep_tiles=keep_tiles)
        return partial(self._rows, group, table, inputs, plan, pushed, self._scope(group, inputs, plan))

    def _scope(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> pl.DataFrame | None:
        """The values of the scope columns whose rows the run recomputes; None means all."""
        by = scope_columns(group)
        if plan.kind != "incremental" or plan.previous is None:
            return None
        if not set(by) <= {*group.keys, first_time(group)}:
            return None  # the table does not say which of its rows belong to these values: some might be gone
        if any(after is None for after, version in plan.sources.values() if version is not None):
            return None
        parts = self.revisited(group, inputs, plan)
        for name, item in inputs.items():
            after, version = plan.sources[name]
            parts.append(item.changes(after, version, [item.time if c == first_time(group) else c for c in by]))
        dtypes = next(iter(inputs.values())).dtypes
        named = [part.rename(dict(zip(part.columns, by, strict=True))) for part in parts]
        return pl.concat([part.cast({c: dtypes[c] for c in by}) for part in named]).unique()

    def revisited(
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

    def _rows(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        inputs: dict[str, Input],
        plan: Plan,
        pushed: pl.Series,
        scope: pl.DataFrame | None,
        interval: Interval,
    ) -> Computed | None:
        """The rows of one interval, for event and entity grain; None where no raw row can matter."""
        if scope is not None and scope.is_empty():
            return None
        frames, scope = self._frames(group, table, inputs, plan, interval, scope)
        stood = states(group, table, interval, scope, pushed)
        return Computed(compute(group, frames, interval, states=stood), scope)

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
        if by == [first_time(group)]:
            start = max(BEGINNING, interval.start)
            found = {n: i.scan(versions[n], plan.stamp, start, interval.end, scope) for n, i in inputs.items()}
            return found, scope
        if len(plan.chunks) > 1 or (scope is None and interval.start > BEGINNING):
            # Key groups with rows in the chunk (a boundary's rows begin one step before it), then all of theirs.
            start = max(BEGINNING, interval.start - duration(group.every or "0s"))
            dtypes = next(iter(inputs.values())).dtypes
            alike = [pl.col(c).cast(dtypes[c]) for c in by]
            there = [
                i.scan(versions[n], plan.stamp, start, interval.end, scope).select(alike) for n, i in inputs.items()
            ]
            if set(by) <= set(group.keys):
                # Key groups that had rows in the chunk and lost them: what they made becomes tombstones.
                there.append(standing(group, table, interval, scope).select(alike))
            scope = pl.concat(there).unique().collect()
        return {n: i.scan(versions[n], plan.stamp, scope=scope) for n, i in inputs.items()}, scope

    def _difference(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        plan: Plan,
        rows: RowsOf,
        pushed: pl.Series,
        number: int,
        dates: pl.Series,
    ) -> tuple[pl.DataFrame, pl.DataFrame] | None:
        """What a chunk changes against the table, and what stands there; None where nothing can have changed."""
        interval = Interval(*plan.chunks[number], plan.stamp)
        computed = rows(interval)
        if computed is None:
            return None
        near = dates.is_between(max(interval.start, BEGINNING).date(), min(interval.end, interval.cutoff).date())
        old = existing(group, table, interval, computed.scope, pushed) if near.any() else nothing(group)
        lost, fresh = gone(group, computed.rows, old), computed.rows
        # Windows look at what was known at each boundary. Of others, rows that were always live have no such date.
        if group.grain != "window" and (plan.kind == "backfill" or old[AS_IF].null_count() < old.height):
            withdrawals = Withdrawals.of(group, self.inputs(group), plan, interval, computed.scope)
            lost, fresh = withdrawals.bound(lost), withdrawals.bound(fresh)
        return changes(group, fresh, old, lost, plan), old
