"""Inputs of a group as the engine reads them: sources and upstream groups behind one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.entity import DataType
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, CREATED, DELETED, EVENT, ORDER, PLAN
from features.source import EVENT_DATE, FILE_SHA256, INGESTED_AT, RECORD_OFFSET, Source
from features.stores import FeatureTable, OfflineStore
from features.times import UTC_US

ARRIVAL = "_arrival"
"""When a raw row became known: its ingestion once the source was live, else its event time."""
SUPERSEDED = "_superseded"
"""When the first of the record's later versions became known; null for the newest version."""


@dataclass(frozen=True)
class Input:
    """A source or an upstream group under the name that ``prepare`` knows it by.

    ``dtypes`` are the columns it delivers: declared or stored columns and bookkeeping.
    """

    name: str
    origin: Source | FeatureGroup
    dtypes: Mapping[str, DataType]
    store: OfflineStore

    @property
    def time(self) -> str:
        """The column with the event time."""
        return event_time(self.origin)

    @property
    def arrives_late(self) -> bool:
        """Whether rows may have arrived after their event time."""
        return isinstance(self.origin, FeatureGroup) or self.origin.live_since is not None

    @property
    def _corrected(self) -> bool:
        """Whether a row may be taken away, or made another's, later than it arrived."""
        return self.arrives_late and (isinstance(self.origin, FeatureGroup) or bool(self.origin.keys))

    def version(self) -> int | None:
        """The newest version of the input's table at which no run was half done; None while there is none."""
        if isinstance(self.origin, Source):
            return self.store.source_version(self.origin.name)
        if not self.store.has_feature_table(self.origin.table_id):
            return None
        return self._table(self.origin).settled_version()

    def days(self, version: int) -> pl.DataFrame:
        """About how many rows each event date has at a version: event_date, rows; sorted."""
        if isinstance(self.origin, Source):
            return self.store.source_days(self.origin.name, version)
        return self._table(self.origin).days(version)

    def scan(
        self,
        version: int | None,
        cutoff: datetime,
        start: datetime | None = None,
        end: datetime | None = None,
        scope: pl.DataFrame | None = None,
        *,
        superseded: bool = False,
    ) -> pl.LazyFrame:
        """The rows at a version with event time ≤ cutoff and in [start, end), one per record.

        ``scope`` keeps the rows whose values in its columns occur in it (those it has of this input).
        With ``superseded`` there is a row per version of a record that was known for a while, and the
        column SUPERSEDED.
        """
        raw = self._between(version, cutoff, start, end)
        if raw is None:
            added = {ARRIVAL: UTC_US, SUPERSEDED: UTC_US} if superseded else {ARRIVAL: UTC_US}
            return pl.LazyFrame(schema={**self.dtypes, **added})
        return self._standing(raw, version, scope, superseded)

    def replaced(
        self,
        version: int | None,
        cutoff: datetime,
        start: datetime | None = None,
        end: datetime | None = None,
        scope: pl.DataFrame | None = None,
    ) -> pl.LazyFrame | None:
        """Of what ``scan`` gives with ``superseded`` the versions that others replaced; None where nothing was."""
        raw = self._between(version, cutoff, start, end) if self._corrected else None
        if raw is None:
            return None
        record = _record(self.origin)
        near = raw if scope is None or not set(scope.columns) <= set(record) else within(raw, scope)
        # Most records have one version, and to count them takes a small part of the time of putting them in order.
        several = near.group_by(record).len().filter(pl.col("len") > 1).drop("len").collect()
        if several.is_empty():
            return None
        rows = self._standing(within(raw, several), version, scope, superseded=True)
        return rows.filter(pl.col(SUPERSEDED).is_not_null())

    def changes(self, after: int | None, through: int | None, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in the rows that commits (after, through] added or replaced, some more than once."""
        if through is None or (after is not None and after >= through):
            return pl.DataFrame(schema={c: self.dtypes[c] for c in columns})
        if not isinstance(self.origin, Source):
            return self._table(self.origin).changes(after, through, columns)
        record = _record(self.origin)
        changed = self._changed(self.origin, after, through, columns)
        if set(columns) <= set(record) or not self.origin.keys:
            return changed
        # A correction may move a record to other values of these columns: those it had before count as well.
        records = self._changed(self.origin, after, through, record)
        if records.is_empty():
            return changed
        raw = self._raw(through, None, records.select(pl.col(self.time).max()).item())
        assert raw is not None  # it has commits
        return pl.concat([changed, within(raw, records).select(columns).unique().collect()]).unique()

    def _table(self, group: FeatureGroup) -> FeatureTable:
        columns = {c: self.dtypes[c] for c in (*group.keys, *group.feature_names)}
        return self.store.feature_table(group.table_id, columns, group.keys)

    def _raw(self, version: int | None, start: datetime | None, last: datetime) -> pl.LazyFrame | None:
        if version is None:
            return None
        since = start.date() if start else None
        if isinstance(self.origin, Source):
            raw = self.store.scan_source(self.origin.name, version, since, last.date())
            lacking = self._lacking(self.origin, version)
            return raw.with_columns(lacking) if raw is not None and lacking else raw
        return self._table(self.origin).scan(version, since, last.date())

    def _between(
        self, version: int | None, cutoff: datetime, start: datetime | None, end: datetime | None
    ) -> pl.LazyFrame | None:
        """The raw rows at a version with event time ≤ cutoff and in [start, end); None while there is no table."""
        raw = self._raw(version, start, min(cutoff, end or cutoff))
        if raw is None:
            return None
        time = pl.col(self.time)
        raw = raw.filter(time <= cutoff)
        raw = raw if start is None else raw.filter(time >= start)
        return raw if end is None else raw.filter(time < end)

    def _changed(self, source: Source, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        lacking = self._lacking(source, through)
        there = [c for c in columns if c not in {null.meta.output_name() for null in lacking}]
        changed = self.store.source_changes(source.name, after, through, there or [self.time])
        return changed.with_columns(lacking).select(columns).unique() if len(there) < len(columns) else changed

    def _lacking(self, source: Source, version: int) -> list[pl.Expr]:
        """Nulls for the columns that the source was given after the version: older rows have no value there."""
        there = self.store.source_columns(source.name, version)
        return [pl.lit(None, dtype).alias(c) for c, dtype in self.dtypes.items() if c not in there]

    def _standing(
        self, raw: pl.LazyFrame, version: int | None, scope: pl.DataFrame | None, superseded: bool
    ) -> pl.LazyFrame:
        """Of raw rows those that stand, or every version of their records; see ``scan``."""
        if isinstance(self.origin, Source):
            return self._records(self.origin, raw, scope, superseded)
        return self._feature_rows(self.origin, raw, version, scope, superseded)

    def _records(self, source: Source, raw: pl.LazyFrame, scope: pl.DataFrame | None, superseded: bool) -> pl.LazyFrame:
        record = _record(source)
        # The scope comes first where it can only take or leave all versions of a record.
        early = scope is not None and (not source.keys or set(scope.columns) <= set(record))
        raw = within(raw, scope) if early and scope is not None else raw
        arrival = pl.col(source.event_timestamp)
        if source.live_since is not None:
            live = pl.col(INGESTED_AT) >= source.live_since
            arrival = pl.when(live).then(pl.max_horizontal(INGESTED_AT, source.event_timestamp)).otherwise(arrival)
        raw = raw.with_columns(arrival.alias(ARRIVAL))
        if source.keys:
            # Within one ingestion the later record wins: what is kept must not depend on a scan's order.
            raw = _versions(raw.sort(INGESTED_AT, FILE_SHA256, RECORD_OFFSET), record, superseded)
        elif superseded:
            raw = raw.with_columns(pl.lit(None, UTC_US).alias(SUPERSEDED))
        return within(raw, scope) if scope is not None and not early else raw

    def _feature_rows(
        self,
        group: FeatureGroup,
        raw: pl.LazyFrame,
        version: int | None,
        scope: pl.DataFrame | None,
        superseded: bool,
    ) -> pl.LazyFrame:
        """Rows of an upstream group's closed plans; those it deleted are left out."""
        # A plan that is open now was not when the version was chosen, or is not of that version.
        raw = raw.filter(pl.col(PLAN) <= self._table(group).state(version).closed)
        raw = raw if scope is None else within(raw, scope)
        raw = raw.with_columns(pl.coalesce(AS_IF, CREATED).alias(ARRIVAL), pl.col(CREATED).alias(INGESTED_AT))
        rows = _versions(raw.sort(ORDER), _record(group), superseded).filter(~pl.col(DELETED))
        return rows.select(*self.dtypes, ARRIVAL, *([SUPERSEDED] if superseded else []))


def _versions(rows: pl.LazyFrame, record: Sequence[str], superseded: bool) -> pl.LazyFrame:
    """The last of the rows of a record, or of those of a record that became known at one moment."""
    if not superseded:
        return rows.unique(subset=list(record), keep="last")
    kept = rows.unique(subset=[*record, ARRIVAL], keep="last", maintain_order=True)
    # The first to be known, not the next: clocks step back, and a correction may be known before what it corrects.
    following = pl.col(ARRIVAL).shift(-1).cum_min(reverse=True).over(record)
    return kept.with_columns(following.alias(SUPERSEDED))


def _record(origin: Source | FeatureGroup) -> list[str]:
    """The columns whose equal values make two rows one record, where a source has keys."""
    return [*(origin.keys or ()), event_time(origin)]


def event_time(origin: Source | FeatureGroup) -> str:
    """The column with the event time of a source or of a group's rows."""
    return origin.event_timestamp if isinstance(origin, Source) else EVENT


def within(frame: pl.LazyFrame, scope: pl.DataFrame) -> pl.LazyFrame:
    """The rows whose values in the scope's columns occur in the scope; nulls match nulls."""
    first = scope.columns[0]
    if 0 < scope.height <= 10_000:
        # A literal filter on one column lets file and row-group statistics prune; the join decides.
        values = scope[first].unique()
        held = pl.col(first).is_in(pl.lit(values.drop_nulls()).implode())
        frame = frame.filter(held | pl.col(first).is_null() if values.null_count() else held)
    return frame.join(scope.lazy(), on=scope.columns, how="semi", nulls_equal=True)


def upstream_dtypes(stored: Mapping[str, DataType]) -> dict[str, DataType]:
    """What an upstream group delivers: keys, event time, features, and when its rows were written."""
    return {**stored, EVENT: UTC_US, INGESTED_AT: UTC_US, EVENT_DATE: pl.Date()}
