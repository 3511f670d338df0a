"""Push: rows from outside, on disk first, then online; ``features.folding`` takes them into the table.

A push is done when the online store has it. One that was cut short before (its process was killed, the
store could not be reached) stays in the log, and whoever next pushes, syncs or runs brings it online;
its rows then get a new created_timestamp, for that is when they became visible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from features.compute import stored_schema
from features.entity import DataType
from features.errors import InvalidInput, NotRegistered, StorageError
from features.feature_group import FeatureGroup
from features.feature_rows import CREATED, DELETED, EPOCH, EVENT, winners
from features.frames import as_frame
from features.stored_types import cast_exactly
from features.stores import FeatureTable, OfflineStore, OnlineStore, PushLog
from features.times import EPOCH as BEGINNING
from features.times import TICK, UTC_US, Clock, utc_column

RowCheck = Callable[[FeatureGroup, pl.DataFrame], Sequence[str]]
"""Why a group's rows must not be served, as reasons for people; none where they are fine."""


@dataclass(frozen=True)
class Push:
    """What a push did: rows written and their created_timestamp, None where there was nothing to write."""

    group: str
    rows: int
    created_timestamp: datetime | None


class Pusher:
    """Takes rows into the push log and from there to the online store."""

    def __init__(
        self,
        offline: OfflineStore,
        online: OnlineStore,
        log: PushLog,
        clock: Clock,
        check: RowCheck,
        fold_after: timedelta | None,
    ) -> None:
        self._fold_after = fold_after
        self._offline = offline
        self._online = online
        self._log = log
        self._clock = clock
        self._check = check
        self._tables: dict[str, FeatureTable] = {}  # to open one takes longer than to push

    def push(self, group: FeatureGroup, df: Any, push_id: str | None = None) -> Push:
        """Log rows and write them online; see FeatureStore.push."""
        if not group.online:
            raise InvalidInput(
                f"feature group {group.name!r} is offline only (online=False): write to its source instead of pushing"
            )
        now = self._clock()
        rows = conform(group, as_frame(df, f"rows of feature group {group.name!r}"), now)
        if reasons := self._check(group, rows):
            raise InvalidInput(f"feature group {group.name!r}: nothing was pushed: {'; '.join(reasons)}")
        with self._log.lock(group.table_id):
            return self._push(group, rows, now, push_id)

    def deliver(self, group: FeatureGroup) -> None:
        """Bring online what pushes that were cut short left in the log."""
        with self._log.lock(group.table_id), _explained(group):
            self._deliver(group, self._clock())

    def reached(self, group: FeatureGroup) -> datetime | None:
        """The stamp up to which pushes are known to be online; None for none."""
        known = (self._log.ends(group.table_id).served, self._pushed(group))
        return max((stamp for stamp in known if stamp is not None), default=None)

    def overdue(self, group: FeatureGroup) -> bool:
        """Whether the oldest push in the log has waited long enough to be folded."""
        oldest = self._log.ends(group.table_id).oldest
        return self._fold_after is not None and oldest is not None and self._clock() - oldest >= self._fold_after

    def close(self) -> None:
        """Release the log."""
        self._log.close()

    def _push(self, group: FeatureGroup, rows: pl.DataFrame, now: datetime, push_id: str | None) -> Push:
        table = self._table(group)
        if group.on_conflict == "first":
            rows = self._new(group, table, rows)
        if rows.is_empty():
            return Push(group.name, 0, None)
        state = table.state()
        # Series by series here and in `conform`: a frame of one row spends more time in Polars' planner than in work.
        rows = rows.hstack([_repeated(EPOCH, state.epoch, pl.Int64(), rows.height)])
        floor = now if state.stamp is None else max(now, state.stamp + TICK)
        before, there = self._log.ends(group.table_id).newest, self._pushed(group)
        served = self.reached(group)
        stamp = self._log.append(group.table_id, rows, floor=floor, served=served, push_id=push_id)
        with _explained(group):
            if stamp is not None and _covers(there, before):
                self._write(group, rows.hstack([_repeated(CREATED, stamp, UTC_US, rows.height)]), stamp)
            else:
                self._deliver(group, now)
        return Push(group.name, rows.height if stamp else 0, self._log.ends(group.table_id).newest if stamp else None)

    def _deliver(self, group: FeatureGroup, now: datetime) -> None:
        """The pushes that the online store lacks; those that were never there get stamps from now on."""
        there, newest = self._online.pushed(group.table_id), self._log.ends(group.table_id).newest
        if _covers(there, newest):
            return
        self._log.restamp(group.table_id, self.reached(group), now)
        dtypes = {**stored_schema(group), EVENT: UTC_US, EPOCH: pl.Int64()}
        rows = self._log.read(group.table_id, dtypes, there, None)
        self._write(group, rows, rows[CREATED].max())  # type: ignore[arg-type]  # a datetime: there are rows

    def _write(self, group: FeatureGroup, rows: pl.DataFrame, through: datetime) -> None:
        rows = rows if rows.height == 1 else winners(rows.lazy(), group.keys).collect()
        living = _repeated(DELETED, False, pl.Boolean(), rows.height)  # noqa: FBT003 - a value
        self._online.push(group.table_id, group.keys, rows.hstack([living]), through)

    def _pushed(self, group: FeatureGroup) -> datetime | None:
        """Up to where pushes are in the online store, None for none or where it cannot be asked."""
        try:
            return self._online.pushed(group.table_id)
        except StorageError:
            return None

    def _table(self, group: FeatureGroup) -> FeatureTable:
        known = self._tables.get(group.table_id)
        if known is None:
            known = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
            self._tables[group.table_id] = known
        return known

    def _new(self, group: FeatureGroup, table: FeatureTable, rows: pl.DataFrame) -> pl.DataFrame:
        """The rows whose entity has none with this event_timestamp, neither in the table nor in the log."""
        key = [*group.keys, EVENT]
        dates = rows[EVENT].dt.date()
        logged = self._log.read(group.table_id, {name: rows.schema[name] for name in key}, None, None)
        rows = rows.join(logged, on=key, how="anti", maintain_order="left")
        there = table.scan(since=dates.min(), until=dates.max()).select(key)  # type: ignore[arg-type]  # dates
        return rows.lazy().join(there, on=key, how="anti", maintain_order="left").collect()


def _repeated(name: str, value: Any, dtype: DataType, height: int) -> pl.Series:
    """A column of one value."""
    return pl.Series(name, [value], dtype).new_from_index(0, height)


def _covers(there: datetime | None, newest: datetime | None) -> bool:
    return newest is None or (there is not None and there >= newest)


@contextmanager
def _explained(group: FeatureGroup) -> Iterator[None]:
    """Say of an online store that cannot be written what became of the rows."""
    try:
        yield
    except StorageError as error:
        raise StorageError(
            f"feature group {group.name!r}: pushed rows are safe in the push log but not online yet ({error}): "
            f"they go there with the next push, sync or fold"
        ) from error


def conform(group: FeatureGroup, frame: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Pushed rows as the group's table keeps them: keys, event_timestamp, every feature; no entity twice at a time.

    A feature that is not given is null: a push is a whole row. Raises InvalidInput where a key or the
    time is missing, null, of another type or (the time) later than ``now``, NotRegistered for a column
    that is no feature.
    """
    who, schema = f"feature group {group.name!r}", stored_schema(group)
    missing = [c for c in (*group.keys, EVENT) if c not in frame.columns]
    if missing:
        raise InvalidInput(f"{who}: the pushed rows lack column(s) {missing}; add them")
    given = [f for f in group.feature_names if f in frame.columns]
    if unknown := sorted(set(frame.columns) - {*group.keys, EVENT, *given}):
        raise NotRegistered(f"{who} has no feature(s) {unknown}: it has {group.feature_names}")
    if not given:
        raise InvalidInput(f"{who}: the pushed rows hold no feature: add some of {group.feature_names}")
    dtypes = {c: schema[c] for c in (*group.keys, *given)} | {EVENT: UTC_US}
    if any(frame.schema[column] != dtype for column, dtype in dtypes.items()):
        frame = frame.with_columns(utc_column(EVENT, frame.schema[EVENT]))
        frame = cast_exactly(frame, dtypes, f"{who}: a pushed column has the wrong type")
    _check_keys(who, frame, [*group.keys, EVENT], now)
    columns = [*group.keys, EVENT, *group.feature_names]
    return pl.DataFrame([frame[c] if c in dtypes else _repeated(c, None, schema[c], frame.height) for c in columns])


def _check_keys(who: str, rows: pl.DataFrame, key: Sequence[str], now: datetime) -> None:
    for column in key:
        if nulls := rows[column].null_count():
            raise InvalidInput(f"{who}: {nulls} pushed row(s) have no {column!r}: every row needs one")
    if late := int((rows[EVENT] > now).sum()):
        raise InvalidInput(
            f"{who}: {late} pushed row(s) are later than now, {now:%F %T} UTC: push them when it is time"
        )
    if early := int((rows[EVENT] < BEGINNING).sum()):
        raise InvalidInput(f"{who}: {early} pushed row(s) have an {EVENT!r} before 1970; correct the times")
    if rows.height > 1 and (doubled := int(rows.select(key).is_duplicated().sum())):
        raise InvalidInput(f"{who}: {doubled} pushed rows share entity and {EVENT!r} with another: push one of each")


def check_ranges(group: FeatureGroup, rows: pl.DataFrame) -> list[str]:
    """The features whose values (NaN is none) lie outside the range that they declare; implements ``RowCheck``."""
    outside = {}
    for feature in group.features:
        low, high = feature.range or (None, None)
        value = pl.col(feature.name).fill_nan(None) if rows.schema[feature.name].is_float() else pl.col(feature.name)
        bounds = [value < low] if low is not None else []
        bounds += [value > high] if high is not None else []
        if bounds:
            outside[feature.name] = (pl.any_horizontal(bounds).sum(), feature.range)
    if not outside:
        return []
    counts = rows.select(count.alias(name) for name, (count, _) in outside.items()).row(0, named=True)
    return [f"{n} value(s) of {name!r} outside its range {outside[name][1]}" for name, n in counts.items() if n]
