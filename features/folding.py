"""Folding: what was pushed, from the log into the group's table, as one plan.

The rows are in the table's history as they were served: under the stamps of their pushes, and available
from then on. In the publish log such a plan has no published_at.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime

import polars as pl

from features.compute import stored_schema
from features.errors import StorageError
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, PLAN, pushed_plans
from features.push import Pusher
from features.runs import PUSH, Chunks
from features.source import EVENT_DATE
from features.stores import FeatureTable, OfflineStore, Plan, PushLog, TableState
from features.times import TICK, UTC_US, from_micros, to_micros


class Folding:
    """Implements features.runs.Work for the kind "push", and features.runs.Waiting."""

    def __init__(self, offline: OfflineStore, target: str, log: PushLog, pusher: Pusher) -> None:
        self._offline = offline
        self._target = target
        self._log = log
        self._pusher = pusher

    def stamp(self, group: FeatureGroup, floor: datetime) -> datetime:
        """A stamp for a run, not before ``floor``, after those of all pushes."""
        return self._log.reserve(group.table_id, floor)

    def plan(self, group: FeatureGroup, table: FeatureTable) -> Plan | None:
        """The plan that folds what is online and not in the table yet; None for nothing, or while a plan is open."""
        with suppress(StorageError):  # where the online store cannot be reached, what it lacks stays in the log
            self._pusher.deliver(group)
        state = table.state()
        if state.opened > state.closed:
            return None
        oldest, through = self._log.ends(group.table_id).oldest, self._pusher.reached(group)
        if oldest is None or through is None or oldest > through:
            return None
        self._log.serve(group.table_id, through)  # from here on nobody gives these pushes other stamps
        moments = self._log.read(group.table_id, {EVENT: UTC_US}, None, through)[EVENT]
        # What an audit asks of the newest plan: the inputs' versions stay those of the run before.
        sources = table.plan(state.closed).sources if state.closed else {}
        return Plan(
            number=state.opened + 1,
            kind=PUSH,
            stamp=through,  # no row has it; so it makes no difference to later stamps when pushes were folded
            previous=state.through,
            sources={name: (read, read) for name, (_, read) in sources.items()},
            chunks=[(moments.min(), moments.max() + TICK)],  # type: ignore[list-item, operator]  # datetimes
            details={"version": group.version, "log": self._log.name, "through": to_micros(through)},
        )

    def forget(self, group: FeatureGroup, table: FeatureTable) -> None:
        """Drop what was folded from the log."""
        if (folded := table.folded(self._log.name)) is not None:
            self._log.drop(group.table_id, folded)

    def start(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Chunks:
        """The pushed rows of a plan, which says beforehand how they were published.

        The entry is there when closing the plan makes its rows visible, so that they are never without.
        """
        if plan.details["log"] != self._log.name:
            raise StorageError(
                f"feature group {group.name!r}: plan {plan.number} folds pushes that lie in another push log: "
                f"run `featurefab fold` with the home where they were pushed"
            )
        entry = {"table_id": group.table_id, "target": self._target, "after": plan.number - 1, "plan": plan.number}
        frame = pl.DataFrame([entry]).with_columns(pl.lit(None, UTC_US).alias("published_at"))
        app_id = f"push:{self._target}:{group.table_id}"
        self._offline.append_publications(frame, app_id=app_id, number=plan.number)
        return lambda _: self._rows(group, table.folded(self._log.name), _through(plan)).with_columns(
            pl.lit(plan.number, pl.Int64).alias(PLAN)
        )

    def snapshot(
        self, group: FeatureGroup, table: FeatureTable, version: int | None = None, through: datetime | None = None
    ) -> tuple[TableState, pl.DataFrame]:
        """A state of the table, and the served pushes that were not in it yet: rows with the table's columns.

        Their ``_plan`` is null; they are available from their created_timestamp. At a ``version`` of the
        past they are those up to the push stamped ``through`` (None: none).
        """
        if version is not None:
            return table.state(version), self._as_of(group, table, version, through)
        # The log before the table: what is folded in between is then in both, and not in neither.
        rows = self._rows(group, None, self._pusher.reached(group))
        state = table.state()
        return state, _after(rows, table.folded(self._log.name, state.version))

    def _as_of(self, group: FeatureGroup, table: FeatureTable, version: int, through: datetime | None) -> pl.DataFrame:
        if through is None:
            return self._rows(group, None, None).clear()
        logged = self._rows(group, None, through)
        then, now = table.state(version), table.state()
        pushed = pushed_plans(self._offline.publications(group.table_id))
        plans = pushed.filter((pushed > then.closed) & (pushed <= now.closed))
        folded = table.scan(now.version).filter(pl.col(PLAN).is_in(plans.implode()) & (pl.col(CREATED) <= through))
        rows = folded.with_columns(pl.lit(None, pl.Int64).alias(PLAN)).select(logged.columns).collect()
        return pl.concat([rows, _after(logged, table.folded(self._log.name, now.version))])

    def _rows(self, group: FeatureGroup, after: datetime | None, through: datetime | None) -> pl.DataFrame:
        """The rows of pushes in (after, through], with the table's columns, sorted by entity and time."""
        dtypes = {**stored_schema(group), EVENT: UTC_US, EPOCH: pl.Int64()}
        rows = self._log.read(group.table_id, dtypes, after, through)
        rows = rows if through is not None else rows.clear()
        return rows.with_columns(
            pl.lit(None, pl.Int64).alias(PLAN),
            pl.lit(None, UTC_US).alias(AS_IF),
            pl.lit(False).alias(DELETED),
            pl.col(EVENT).dt.date().alias(EVENT_DATE),
        ).sort([*group.keys, EVENT, CREATED])


def _through(plan: Plan) -> datetime:
    return from_micros(plan.details["through"])


def _after(rows: pl.DataFrame, stamp: datetime | None) -> pl.DataFrame:
    return rows if stamp is None else rows.filter(pl.col(CREATED) > stamp)
