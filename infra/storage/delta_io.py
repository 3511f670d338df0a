"""One Delta table: opened, created, appended to exactly once, scanned, with vendor errors translated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any, TypeVar
from urllib.parse import unquote

import polars as pl
from deltalake import (
    ColumnProperties,
    CommitProperties,
    DeltaTable,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from features.entity import DataType
from features.errors import ConcurrentRun, StorageError
from features.source import EVENT_DATE

T = TypeVar("T")

TABLE_PROPERTIES = {
    "delta.enableChangeDataFeed": "true",
    # Audits reach back years; Delta's defaults are 30 and 7 days.
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}

_FOLLOWED = 25
"""After so many commits a handle is opened anew: one that followed them reads all of them at each question."""

ROW_GROUP = 16_384
"""Rows in a row group: whoever looks for one entity reads only row groups whose statistics admit its keys."""

_PLAIN = ColumnProperties(dictionary_enabled=False)

RACES = 100
"""How often a commit is tried again after another writer's came in between; each loss is another's progress."""


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what delta-rs and the file system raise into StorageError or ConcurrentRun."""
    try:
        yield
    except CommitFailedError as error:
        raise ConcurrentRun(f"{what}: another process committed the same step first; run again") from error
    except (DeltaError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"{what}: {reason}; check that the folder or bucket can be reached and written") from error


def among(column: str, values: Collection[str | datetime]) -> str:
    """The SQL predicate that ``column`` is one of ``values``; the only place that writes SQL.

    >>> print(among("name", ["O'Hara", "x"]))
    "name" IN ('O''Hara', 'x')
    """
    texts = [value.isoformat() if isinstance(value, datetime) else value for value in values]
    quoted = ", ".join("'" + text.replace("'", "''") + "'" for text in texts)
    return '"' + column.replace('"', '""') + f'" IN ({quoted})'


def _written(rows: pl.DataFrame) -> WriterProperties:
    """How files are written: a dictionary of floats, which seldom repeat, would take longer than all the rest."""
    floats = {name: _PLAIN for name, dtype in rows.schema.items() if dtype.is_float()}
    return WriterProperties(compression="SNAPPY", max_row_group_size=ROW_GROUP, column_properties=floats or None)


def _widened(rows: pl.DataFrame, handle: DeltaTable) -> pl.DataFrame:
    """Rows with the table's columns that they lack, as nulls: a definition may drop what a table once had."""
    there = set(rows.columns)
    missing = [f.name for f in handle.schema().fields if f.name not in there]
    if not missing:
        return rows
    known = pl.scan_delta(handle).collect_schema()
    return rows.with_columns(pl.lit(None, known[name]).alias(name) for name in missing)


class _LocalTable(DeltaTable):
    """A table in a folder: delta-rs gives its files percent-encoded, which Polars takes literally."""

    def file_uris(self, *arguments: Any, **options: Any) -> list[str]:
        return [unquote(uri) for uri in super().file_uris(*arguments, **options)]

    @property
    def table_uri(self) -> str:
        return unquote(super().table_uri)


class Table:
    """A Delta table at a place, existing or not yet; one handle for checks and writes.

    Threads may share it: no other thread can move the handle between a check and its write.
    """

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self.options = dict(storage_options or {})
        self._handle: DeltaTable | None = None
        self._opened = 0  # the handle's version when it was opened
        self._past: DeltaTable | None = None
        self._fitting: Mapping[str, DataType] | None = None  # columns that the table is known to have, in their types
        self._lock = threading.RLock()
        self._feed: tuple[tuple[int, int], pl.DataFrame] | None = None

    def handle(self) -> DeltaTable | None:
        """The handle at its newest version, or None while the table does not exist."""
        with self._lock, translated(self.uri):
            if self._handle is not None:
                self._handle.update_incremental()
                if self._handle.version() - self._opened < _FOLLOWED:
                    return self._handle
            try:
                self._handle = self._open()
            except TableNotFoundError:
                return None
            self._opened = self._handle.version()
            return self._handle

    @contextmanager
    def held(self) -> Iterator[DeltaTable | None]:
        """The handle at its newest version, which no other thread moves meanwhile; None: no table."""
        with self._lock:
            yield self.handle()

    def version(self) -> int | None:
        """The newest version, or None while the table does not exist."""
        handle = self.handle()
        return None if handle is None else handle.version()

    def ensure(self, columns: Mapping[str, DataType], partition_by: list[str] | None = None) -> DeltaTable:
        """The handle; the table is created, or widened by columns that are new."""
        return self._racing(lambda: self._ensured(columns, partition_by))

    def append_once(
        self,
        rows: pl.DataFrame,
        app_id: str,
        number: int,
        *,
        partition_by: list[str] | None = None,
        marks: Mapping[str, int] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> int | None:
        """Append rows unless ``app_id`` has reached ``number``; the new version, or None if it had.

        ``marks`` are app ids raised to at least these numbers along with it. A race lost to a process
        doing the same step counts as done; one lost over a mark is run again.
        """

        def step() -> int | None:
            handle = self._ensured(rows.schema, partition_by)
            if self.reached(app_id) >= number:
                return None
            raised = {mark: max(self.reached(mark), value) for mark, value in (marks or {}).items()}
            properties = CommitProperties(
                custom_metadata=dict(metadata or {}),
                app_transactions=[Transaction(app, n) for app, n in {app_id: number, **raised}.items()],
            )
            if rows.is_empty():
                # Without a file there is nothing to convert: thousands of columns would take seconds.
                schema, parts = handle.schema(), handle.metadata().partition_columns
                handle.create_write_transaction([], "append", schema, parts, commit_properties=properties)
                handle.update_incremental()
                return handle.version()
            write_deltalake(
                handle,
                _widened(rows, handle),
                mode="append",
                commit_properties=properties,
                writer_properties=_written(rows),
            )
            return handle.version()

        return self._racing(step)

    def took(self, app_id: str, number: int) -> bool:
        """Whether the table exists and ``app_id`` has reached ``number`` in its newest version."""
        with self._lock:
            return self.handle() is not None and self.reached(app_id) >= number

    def delete(self, where: Mapping[str, Collection[str | datetime]]) -> None:
        """Delete the rows whose value in each of these columns is one of those given, if there are any.

        The change feed tells of them.
        """
        present = self.scan()
        matching = pl.all_horizontal(pl.col(column).is_in(list(values)) for column, values in where.items())
        if present is None or present.filter(matching).head(1).collect().is_empty():
            return
        predicate = " AND ".join(among(column, values) for column, values in where.items())

        def step() -> None:
            handle = self.handle()
            assert handle is not None  # it was just scanned
            handle.delete(predicate)

        self._racing(step)

    def _ensured(self, columns: Mapping[str, DataType], partition_by: list[str] | None) -> DeltaTable:
        handle = self.handle()
        empty = pl.DataFrame(schema=dict(columns))
        if handle is None:
            # "ignore": two processes may create the table at the same moment.
            DeltaTable.create(
                self.uri,
                schema=Schema.from_arrow(empty.to_arrow().schema),
                mode="ignore",
                partition_by=partition_by,
                configuration=TABLE_PROPERTIES,
                storage_options=self.options,
            )
            handle = self._handle = self._open()
        if columns == self._fitting:  # types never change, and columns are never taken away
            return handle
        self._check_types(handle, empty)
        if set(columns) - {f.name for f in handle.schema().fields}:
            write_deltalake(handle, empty, mode="append", schema_mode="merge")
        self._fitting = dict(columns)
        return handle

    def check(self, columns: Mapping[str, DataType]) -> None:
        """Raise StorageError where the table, if there is one, holds a column with another type."""
        handle = self.handle()
        if handle is not None:
            self._check_types(handle, pl.DataFrame(schema=dict(columns)))

    def _check_types(self, handle: DeltaTable, empty: pl.DataFrame) -> None:
        known = {field.name: field.type for field in handle.schema().fields}
        declared = Schema.from_arrow(empty.to_arrow().schema).fields
        other = [f"{f.name} ({known[f.name]})" for f in declared if f.name in known and known[f.name] != f.type]
        if other:
            raise StorageError(
                f"{self.uri}: the table holds column(s) {', '.join(other)} with another type than is declared now: "
                f"declare that type, or give the column or the source a new name"
            )

    def work(self, step: Callable[[DeltaTable], T]) -> T | None:
        """What ``step`` does with the newest handle, run again while other writers commit first; None: no table."""

        def stepped() -> T | None:
            handle = self.handle()
            return None if handle is None else step(handle)

        return self._racing(stepped)

    def _racing(self, step: Callable[[], T]) -> T:
        """What ``step`` returns, run again from the newest version while other writers commit first."""
        lost: ConcurrentRun | None = None
        for _ in range(RACES):
            try:
                with self._lock, translated(self.uri):
                    return step()
            except ConcurrentRun as error:
                lost = error
        raise ConcurrentRun(f"{self.uri}: {RACES} races for a commit were lost to other writers; run again") from lost

    def reached(self, app_id: str, version: int | None = None) -> int:
        """The number that an app id has reached, now or at a version; -1 for none."""
        handle = self._handle if version is None else self._at(version)
        number = handle.transaction_version(app_id) if handle is not None else None
        return -1 if number is None else number

    def _at(self, version: int) -> DeltaTable:
        """A handle that stays at a version; the last one asked for is kept, for it is asked for again."""
        with self._lock, translated(self.uri):
            if self._past is None or self._past.version() != version:
                self._past = self._open(version)
            return self._past

    def _open(self, version: int | None = None) -> DeltaTable:
        kind = DeltaTable if "://" in self.uri else _LocalTable
        return kind(self.uri, version=version, storage_options=self.options)

    def scan(
        self, version: int | None = None, since: date | None = None, until: date | None = None
    ) -> pl.LazyFrame | None:
        """The rows at a version, event dates in [since, until]; None while the table does not exist.

        With a version every collection reads the same files in the same order; without one, the newest.
        """
        # The newest handle moves on with the table: a version is read through one that stays.
        handle = self.handle() if version is None else self._at(version)
        if handle is None:
            return None
        with translated(self.uri):
            frame = pl.scan_delta(handle)
        if since is not None:
            frame = frame.filter(pl.col(EVENT_DATE) >= since)
        if until is not None:
            frame = frame.filter(pl.col(EVENT_DATE) <= until)
        return frame

    def columns(self, version: int) -> set[str]:
        """The columns that the table has at a version."""
        return {field.name for field in self._at(version).schema().fields}

    def days(self, version: int | None = None) -> pl.DataFrame:
        """The rows that files hold of each event date, from the log alone: event_date, rows; sorted."""
        handle = self.handle()
        if handle is not None and version not in (None, handle.version()):
            handle = self._at(version or 0)
        if handle is None:
            return pl.DataFrame(schema={EVENT_DATE: pl.Date(), "rows": pl.Int64()})
        with translated(self.uri):
            files = pl.DataFrame(handle.get_add_actions(flatten=True))
        rows = files.select(pl.col(f"partition.{EVENT_DATE}").alias(EVENT_DATE), pl.col("num_records").alias("rows"))
        return rows.group_by(EVENT_DATE).agg(pl.col("rows").sum()).sort(EVENT_DATE)

    def changes(self, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in rows that commits (after, through] added or deleted, some more than once."""
        if after is None:
            frame = self.scan(through)
            assert frame is not None  # a version was seen
            return frame.select(columns).unique().collect()
        if self._feed is None or self._feed[0] != (after, through) or not set(columns) <= set(self._feed[1].columns):
            self._feed = (after, through), self._changed(after, through, columns)
        # Planning a run and doing it ask for the same commits.
        feed = self._feed[1]
        return feed.select(columns) if set(columns) == set(feed.columns) else feed.select(columns).unique()

    def _changed(self, after: int, through: int, columns: Sequence[str]) -> pl.DataFrame:
        handle = self.handle()
        if handle is None or after >= through:
            raise StorageError(f"{self.uri}: no commits after {after} through {through}")
        with translated(self.uri):
            feed = handle.load_cdf(starting_version=after + 1, ending_version=through, columns=list(columns))
            try:
                return pl.DataFrame(feed.read_all()).select(columns)
            except Exception as error:
                if type(error) is not Exception:  # delta-rs raises just that where a file was vacuumed
                    raise
                raise StorageError(
                    f"{self.uri}: the changes after version {after} cannot be read, a file of them is gone; "
                    f"restore it, or compute anew what is computed from them"
                ) from error
