"""Materialization: feature rows into the offline store, exactly once, incrementally or as a backfill.

A run is a plan that is opened, done chunk by chunk and closed, each step one commit; a run that
finds an open plan finishes it first (SEMANTICS.md §5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.capacity import Capacity
from features.computation import ChunkPreview, Computation
from features.errors import ConcurrentRun, InvalidInput, StorageError
from features.feature_group import FeatureGroup
from features.inputs import Input
from features.intervals import DAY, cut, split
from features.remarks import remarks
from features.runs import ChunkRun, Progress, Run, Runs
from features.stores import FeatureTable, Plan
from features.tiles import pieces_of_row
from features.tiling import ROOM
from features.times import EPOCH as BEGINNING
from features.times import TICK, duration, micros, to_micros

Chunk = tuple[datetime, datetime]

_VERSION = "version"  # of the group, as a plan's detail

_MANY = 10_000
"""More chunks than anybody wants to wait for."""


@dataclass(frozen=True)
class Preview:
    """What a backfill would do, chunk by chunk, and the note that its run would have."""

    chunks: list[ChunkPreview]
    note: str


@dataclass(frozen=True)
class Backfill:
    """A backfill that is open: its plan's number and interval, its chunks [start, end) and those to be done.

    It has no chunks where there is nothing to do; it is ``resumed`` where another runner left it open.
    """

    group: str
    plan: int
    interval: Chunk
    chunks: Sequence[Chunk]
    missing: Sequence[int]
    note: str
    resumed: bool = False


class Materializer:
    """Plans the runs that compute groups from their inputs."""

    def __init__(self, runs: Runs, computation: Computation, capacity: Capacity) -> None:
        self._runs = runs
        self._computation = computation
        self._capacity = capacity

    def incremental(self, group: FeatureGroup, progress: Progress | None = None) -> Run:
        """The live path: emit what source commits and the passing of time made necessary."""
        table = self._runs.table(group)
        finished = self._runs.settle(group, table, progress)
        inputs = self._computation.inputs(group)
        state = self._runs.state(group, table)
        spans = {name: (table.cursor(name), item.version()) for name, item in inputs.items()}
        stamp, details = self._runs.stamp(state, group), {_VERSION: group.version, ROOM: self._capacity.rows_of(group)}
        plan = Plan(state.opened + 1, "incremental", stamp, state.through, spans, [], details)
        if not self._due(group, inputs, plan):
            return Run(group.name, None, finished, state.version)
        plan = replace(plan, chunks=self._chunks(group, inputs, plan))
        run = self._runs.run(group, table, plan, progress)
        return replace(run, rows=run.rows + finished)

    def backfill(self, group: FeatureGroup, start: datetime, end: datetime, progress: Progress | None = None) -> Run:
        """Emit what the schedule would have emitted in [start, end); past the clock's now it is clamped.

        Nothing is left to do where the group's last run was this very backfill (as when a killed one is
        run again, and its plan finished). Raises InvalidInput if nothing lies between start and end.
        """
        table = self._runs.table(group)
        finished = self._runs.settle(group, table, progress)
        plan, note = self._backfill(group, table, start, end)
        if self._done(group, table, plan):
            return Run(group.name, plan.number - 1, finished, table.state().version, note)
        run = self._runs.run(group, table, plan, progress)
        return replace(run, rows=run.rows + finished, note=note)

    def preview(self, group: FeatureGroup, start: datetime, end: datetime, longest: timedelta | None = None) -> Preview:
        """What a backfill would read and change, chunk by chunk; nothing is written."""
        table = self._runs.table(group)
        plan, note = self._backfill(group, table, start, end, longest)
        return Preview(list(self._computation.preview(group, table, plan)), note)

    def open_backfill(
        self, group: FeatureGroup, start: datetime, end: datetime, longest: timedelta | None = None
    ) -> Backfill:
        """Open a backfill, of which others do the chunks (``do_chunks``), or take up the one that is open.

        Where the group's last run was this very backfill, nothing is left to do: it has no chunks.
        """
        table = self._runs.table(group)
        plan, note = table.unfinished(), ""
        resumed = plan is not None and plan.kind == "backfill"
        if plan is None or not resumed:
            self._runs.settle(group, table)
            plan, note = self._backfill(group, table, start, end, longest)
            if self._done(group, table, plan):
                return Backfill(group.name, plan.number - 1, (start, end), [], [], note)
            plan = self._runs.open(group, table, plan)
        self._runs.writer(group, table, plan)  # what all chunks need
        missing = [number for number in range(len(plan.chunks)) if not table.has_chunk(plan, number)]
        interval = plan.chunks[0][0], plan.chunks[-1][1]
        return Backfill(group.name, plan.number, interval, plan.chunks, missing, note, resumed)

    def do_chunks(self, group: FeatureGroup, number: int, chunks: Sequence[int]) -> list[ChunkRun]:
        """Do some chunks of the open backfill of that plan number; what is done already is left as it is."""
        table = self._runs.table(group)
        plan = table.unfinished()
        if plan is None or plan.number != number:
            raise ConcurrentRun(f"feature group {group.name!r}: plan {number} is no longer open; another run ended it")
        return [*map(self._runs.writer(group, table, plan), chunks)]

    def close_backfill(self, group: FeatureGroup, number: int) -> Run:
        """Close the open backfill of that plan number; StorageError while chunks of it are missing."""
        table = self._runs.table(group)
        plan = table.unfinished()
        if plan is not None and plan.number == number:
            if missing := [n for n in range(len(plan.chunks)) if not table.has_chunk(plan, n)]:
                raise StorageError(
                    f"feature group {group.name!r}: {len(missing)} chunk(s) of plan {number} are missing"
                )
            self._runs.close(table, plan)
        return Run(group.name, number, 0, table.state().version)

    def _backfill(
        self,
        group: FeatureGroup,
        table: FeatureTable,
        start: datetime,
        end: datetime,
        longest: timedelta | None = None,
    ) -> tuple[Plan, str]:
        """The plan of a backfill, and what should be said of it."""
        state = self._runs.state(group, table)
        stamp, details = self._runs.stamp(state, group), {_VERSION: group.version, ROOM: self._capacity.rows_of(group)}
        until = min(end, stamp + TICK)
        if start >= until:
            moved = "" if until == end else ", which is now: what lies in the future can be backfilled when it is past"
            raise InvalidInput(
                f"backfill of {group.name!r}: start {start:%F %T} is not before end {until:%F %T}{moved}"
            )
        inputs = self._computation.inputs(group)
        spans = {name: (None, item.version()) for name, item in inputs.items()}
        plan = Plan(state.opened + 1, "backfill", stamp, state.through, spans, [], details)
        pieces = [(start, until)] if longest is None else split(start, until, longest)
        if len(pieces) > _MANY:
            raise InvalidInput(f"backfill of {group.name!r}: that makes {len(pieces):,} chunks: take longer ones")
        chunks = [chunk for piece in pieces for chunk in self._cut(group, inputs, plan, *piece)]
        plan = replace(plan, chunks=chunks)
        return plan, remarks(group, inputs, plan, end)

    def _done(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> bool:
        """Whether the group's last run was this very backfill."""
        (start, end), wait = (plan.chunks[0][0], plan.chunks[-1][1]), duration(group.settle or "0s")
        done = plan.number - 1
        return done > 0 and _covers(table.plan(done), plan, (start, end), end + wait)

    def _due(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> bool:
        """Whether an incremental run can find anything: a new commit, or rows that time made due."""
        if all(version is None for _, version in plan.sources.values()):
            return False
        if plan.previous is None or any(after != version for after, version in plan.sources.values()):
            return True
        if group.every is not None:
            every = micros(group.every)
            return to_micros(plan.stamp) // every > to_micros(plan.previous) // every
        return any(not frame.is_empty() for frame in self._computation.revisited(group, inputs, plan, limit=1))

    def _chunks(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> list[Chunk]:
        """The intervals of an incremental run, from the first moment whose rows can have changed."""
        end = plan.stamp + TICK
        if plan.previous is None or any(a is None for a, v in plan.sources.values() if v is not None):
            return self._cut(group, inputs, plan, BEGINNING, end)
        start = self._first_change(group, inputs, plan)
        if group.grain == "entity":
            # Without a row that is gone, one up to `settle` before it is the last of its time.
            return [(max(BEGINNING, start - duration(group.settle or "0s")), end)]
        if group.grain == "event" or start >= plan.previous:
            return self._cut(group, inputs, plan, start, end)
        # Apart, since up to the last run only entities with late rows have to be computed again.
        past = self._cut(group, inputs, plan, start, plan.previous)
        return past + self._cut(group, inputs, plan, plan.previous, end)

    def _first_change(self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan) -> datetime:
        """The earliest moment to which a new commit, or a row that had to wait, can make a difference."""
        first = next(iter(inputs.values()))
        by = list(group.prepare_by) if group.grain == "event" else []  # in others `prepare` never sees a later row
        keys = group.keys if group.grain == "window" and group.prepare is None else []  # what the run asks for next
        moments: list[Any] = [plan.previous]
        for name, item in inputs.items():
            after, version = plan.sources[name]
            changed = item.changes(after, version, [*keys, *by, item.time])
            if by and not changed.is_empty():
                # What `prepare` makes of any row of these keys may have changed, of earlier ones too.
                touched = first.scan(plan.sources[first.name][1], plan.stamp, scope=changed.select(by).unique())
                moments.append(touched.select(pl.col(first.time).min()).collect().item())
            moments.append(changed[item.time].min())
        earliest: datetime = min(moment for moment in moments if moment is not None)
        return earliest

    def _cut(
        self, group: FeatureGroup, inputs: dict[str, Input], plan: Plan, start: datetime, end: datetime
    ) -> list[Chunk]:
        """Cut [start, end) at dates so that a chunk works on as many rows of the first input as fit.

        A row of a window group counts as often as boundaries look at it by itself.
        """
        first = next(iter(inputs.values()))
        version = plan.sources[first.name][1]
        width = min(DAY, duration(group.every or "")) if group.grain == "window" else DAY
        days = first.days(version) if version is not None else pl.DataFrame()
        return cut(days, self._capacity.rows_of(group), start, end, weight=pieces_of_row(group), width=width)


def _covers(done: Plan, plan: Plan, interval: tuple[datetime, datetime], settled: datetime) -> bool:
    """Whether the last plan did all that ``plan`` would do in an interval.

    ``settled`` is the moment after which the passing of time brings nothing more into it.
    """
    # How it was cut does not matter: another memory setting asks for nothing new.
    same = (done.kind, done.sources) == (plan.kind, plan.sources)
    same = same and done.details.get(_VERSION) == plan.details[_VERSION]
    return same and (done.chunks[0][0], done.chunks[-1][1]) == interval and settled <= done.stamp
