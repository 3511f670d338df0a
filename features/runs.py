"""Runs: a plan is opened, done chunk by chunk and closed, each step one commit (SEMANTICS.md §5).

Whatever kind of run a killed process left open, the next runner of the group finishes it first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import polars as pl

from features.compute import stored_schema
from features.errors import ConcurrentRun, StorageError
from features.feature_group import FeatureGroup
from features.stores import FeatureTable, OfflineStore, Plan, TableState
from features.times import TICK, Clock

Progress = Callable[[int, int], None]
"""Told (chunks done, chunks in all)."""

PUSH = "push"
"""The kind of plans that take pushed rows into the table."""

COMPUTED = ("incremental", "backfill")
"""The kinds of plans that compute rows by the code's definition."""

Chunks = Callable[[int], pl.DataFrame]
"""The rows of a plan's chunk by its number, bookkeeping included."""


class Work(Protocol):
    """What the runs of one kind append."""

    def start(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Chunks:
        """Get ready for a plan, new or left open; the same plan always gives the same rows."""


@dataclass(frozen=True)
class Run:
    """What a run did: its plan (None where there was nothing to do), rows appended, table version.

    ``note`` says what whoever asked for it should know, though it is no error.
    """

    group: str
    plan: int | None
    rows: int
    version: int
    note: str = ""


@dataclass(frozen=True)
class ChunkRun:
    """A chunk that was done: its number, the rows appended, the table's version after it.

    The version is None where the chunk was there already.
    """

    chunk: int
    rows: int
    version: int | None


class Waiting(Protocol):
    """Rows that wait beside the tables until a run takes them in: what was pushed (features.folding)."""

    def stamp(self, group: FeatureGroup, floor: datetime) -> datetime:
        """A stamp for a run, not before ``floor``, that differs from those of the waiting rows."""

    def plan(self, group: FeatureGroup, table: FeatureTable) -> Plan | None:
        """The plan, of the kind "push", that takes them in; None where nothing waits or another plan is open."""

    def forget(self, group: FeatureGroup, table: FeatureTable) -> None:
        """Let go of the rows that the table has by now."""


class Runs:
    """Opens, does and closes the plans of groups; ``works`` says how by the kind of plan.

    What is ``waiting`` is taken in before any other run, so that runs find it in the table. ``check`` raises
    where a group may not be computed now. ``parallel`` chunks of a backfill are done at once.
    """

    def __init__(
        self,
        store: OfflineStore,
        clock: Clock,
        works: Mapping[str, Work],
        waiting: Waiting | None = None,
        check: Callable[[FeatureGroup], None] | None = None,
        parallel: int = 1,
    ) -> None:
        self._parallel = parallel
        self._store = store
        self._check = check
        self._clock = clock
        self._works = dict(works)
        self._waiting = waiting

    def table(self, group: FeatureGroup) -> FeatureTable:
        """The group's table, created when needed."""
        return self._store.feature_table(group.table_id, stored_schema(group), group.keys)

    def settle(self, group: FeatureGroup, table: FeatureTable, progress: Progress | None = None) -> int:
        """Finish the plan that a killed run left open, take in what waits; how many rows that plan still appended."""
        plan = table.unfinished()
        rows = 0 if plan is None else self._do(group, table, plan, progress)
        self.fold(group, table)
        return rows

    def fold(self, group: FeatureGroup, table: FeatureTable) -> Run:
        """Take in what waits, unless another run is at work."""
        done = Run(group.name, None, 0, table.state().version)
        if self._waiting is None:
            return done
        self._waiting.forget(group, table)  # what a killed run took in
        plan = self._waiting.plan(group, table)
        if plan is None:
            return done
        try:
            done = self.run(group, table, plan)
        except ConcurrentRun:  # another run began, or took them in, first
            if (open_plan := table.unfinished()) is not None and open_plan.kind == PUSH:
                self._do(group, table, open_plan, None)
        self._waiting.forget(group, table)
        return done

    def state(self, group: FeatureGroup, table: FeatureTable) -> TableState:
        """The table's state while no plan is open; raises ConcurrentRun where another run is at work."""
        state = table.state()
        if state.opened > state.closed and table.plan(state.opened).kind == PUSH:
            self.settle(group, table)  # it is over in a moment: no reason to give up
            state = table.state()
        if state.opened > state.closed:
            raise ConcurrentRun(
                f"feature group {group.name!r}: another run is at work on it; run again when it is done"
            )
        return state

    def stamp(self, state: TableState, group: FeatureGroup | None = None) -> datetime:
        """A new run's stamp: now, but always after the group's last one, whatever the clock does.

        With ``group``, it is kept from those who push to the group at the same moment.
        """
        now = self._clock()
        stamp = now if state.stamp is None else max(now, state.stamp + TICK)
        return stamp if group is None or self._waiting is None else self._waiting.stamp(group, stamp)

    def run(self, group: FeatureGroup, table: FeatureTable, plan: Plan, progress: Progress | None = None) -> Run:
        """Open a plan, do its chunks, close it."""
        plan = self.open(group, table, plan)
        rows = self._do(group, table, plan, progress)
        return Run(group.name, plan.number, rows, table.state().version)

    def open(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Plan:
        """Open a plan; returned as it was opened, since pushes may have taken its number."""
        if self._check is not None and plan.kind in COMPUTED:
            # After the plan got its number: a rollback that came in between has taken that number or is seen here.
            self._check(group)
        try:
            table.open_plan(plan)
        except ConcurrentRun:
            if plan.kind == PUSH or table.plan(plan.number).kind != PUSH:
                raise
            # Pushes were taken in meanwhile: that changes the plan's number and nothing else of it.
            self.settle(group, table)
            return self.open(group, table, replace(plan, number=self.state(group, table).opened + 1))
        return plan

    def abandon(self, table: FeatureTable, plan: Plan) -> None:
        """Close an open plan with what it wrote; what it was to take in is still to be taken in."""
        table.close_plan(replace(plan, kind="abandoned"), {})

    def writer(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Callable[[int], ChunkRun]:
        """Get ready for the chunks of an open plan: what is returned does one by its number, exactly once.

        What all chunks need, such as tiles, is written before.
        """
        if plan.kind not in self._works:
            raise StorageError(
                f"feature group {group.name!r}: plan {plan.number} ({plan.kind}) was left open, and this store cannot "
                f"finish it: run `featurefab fold` where it was opened"
            )
        rows_of = self._works[plan.kind].start(group, table, plan)

        def chunk(number: int) -> ChunkRun:
            if table.has_chunk(plan, number):
                return ChunkRun(number, 0, None)
            rows = rows_of(number)
            version = table.append(plan, number, rows)
            return ChunkRun(number, 0 if version is None else rows.height, version)

        return chunk

    def close(self, table: FeatureTable, plan: Plan) -> None:
        """Close an open plan of which every chunk is done."""
        moved = {name: version for name, (_, version) in plan.sources.items() if version is not None}
        table.close_plan(plan, moved if plan.kind == "incremental" else {})

    def _do(self, group: FeatureGroup, table: FeatureTable, plan: Plan, progress: Progress | None) -> int:
        """The chunks of an open plan that are missing, then its close; how many rows were appended."""
        chunk, appended = self.writer(group, table, plan), 0
        # The chunks of a backfill are independent of each other: each looks at its own interval of the table.
        workers = self._parallel if plan.kind == "backfill" else 1
        with ThreadPoolExecutor(workers) as pool:
            each = pool.map if workers > 1 else map
            for done, run in enumerate(each(chunk, range(len(plan.chunks))), 1):
                appended += run.rows
                if progress is not None:
                    progress(done, len(plan.chunks))
        self.close(table, plan)
        return appended
