"""One Delta table: opened, created, appended to exactly once, scanned, with vendor errors translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date

import polars as pl
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from features.entity import DataType
from features.errors import ConcurrentRun, StorageError
from features.source import EVENT_DATE

TABLE_PROPERTIES = {
    "delta.enableChangeDataFeed": "true",
    # Audits reach back years; Delta's defaults are 30 and 7 days.
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}


RACES = 20
"""How often an append is tried again after another writer's commit came in between."""


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


class Table:
    """A Delta table at a place, existing or not yet; one handle for checks and writes."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri
        self._options = dict(storage_options or {})
        self._handle: DeltaTable | None = None

    def handle(self) -> DeltaTable | None:
        """The handle at its newest version, or None while the table does not exist."""
        with translated(self.uri):
            if self._handle is not None:
                self._handle.update_incremental()
                return self._handle
            try:
                self._handle = DeltaTable(self.uri, storage_options=self._options)
            except TableNotFoundError:
                return None
        return self._handle

    def version(self) -> int | None:
        """The newest version, or None while the table does not exist."""
        handle = self.handle()
        return None if handle is None else handle.version()

    def ensure(self, columns: Mapping[str, DataType], partition_by: list[str] | None = None) -> DeltaTable:
        """The handle; the table is created, or widened by columns that are new."""
        handle = self.handle()
        empty = pl.DataFrame(schema=dict(columns))
        with translated(self.uri):
            if handle is None:
                schema = Schema.from_arrow(empty.to_arrow().schema)
                # "ignore": two processes may create the table at the same moment.
                handle = DeltaTable.create(
                    self.uri,
                    schema=schema,
                    mode="ignore",
                    partition_by=partition_by,
                    configuration=TABLE_PROPERTIES,
                    storage_options=self._options,
                )
                self._handle = handle
            elif set(columns) - {f.name for f in handle.schema().fields}:
                write_deltalake(handle, empty, mode="append", schema_mode="merge")
        return handle

    def append(
        self, rows: pl.DataFrame, transactions: Mapping[str, int], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Append rows and move app ids to their numbers in one commit; ConcurrentRun if that was lost.

        The caller has checked the numbers on this same handle (``reached``).
        """
        handle = self._handle
        if handle is None:
            raise StorageError(f"{self.uri}: append before the table was ensured")
        properties = CommitProperties(
            custom_metadata=dict(metadata or {}),
            app_transactions=[Transaction(app, number) for app, number in transactions.items()],
        )
        with translated(self.uri):
            write_deltalake(handle, rows, mode="append", commit_properties=properties)

    def append_once(
        self,
        rows: pl.DataFrame,
        app_id: str,
        number: int,
        *,
        partition_by: list[str] | None = None,
        marks: Mapping[str, int] | None = None,
    ) -> int | None:
        """Append rows unless ``app_id`` has reached ``number``; the new version, or None if it had.

        ``marks`` are app ids raised to at least these numbers along with it. A race lost to a process
        doing the same step counts as done; one lost over a mark is run again.
        """
        for _ in range(RACES):
            handle = self.ensure(rows.schema, partition_by)
            if self.reached(app_id) >= number:
                return None
            raised = {mark: max(self.reached(mark), value) for mark, value in (marks or {}).items()}
            try:
                self.append(rows, {app_id: number, **raised})
            except ConcurrentRun:
                self._handle = None
            else:
                return handle.version()
        raise ConcurrentRun(f"{self.uri}: {RACES} races for a commit were lost to other writers; run again")

    def reached(self, app_id: str) -> int:
        """The number that an app id has reached; -1 for none."""
        number = self._handle.transaction_version(app_id) if self._handle is not None else None
        return -1 if number is None else number

    def scan(
        self, version: int | None = None, since: date | None = None, until: date | None = None
    ) -> pl.LazyFrame | None:
        """The rows at a version, event dates in [since, until]; None while the table does not exist."""
        handle = self.handle()
        if handle is None:
            return None
        with translated(self.uri):
            if version is not None and version != handle.version():
                handle = DeltaTable(self.uri, version=version, storage_options=self._options)
            frame = pl.scan_delta(handle)
        if since is not None:
            frame = frame.filter(pl.col(EVENT_DATE) >= since)
        if until is not None:
            frame = frame.filter(pl.col(EVENT_DATE) <= until)
        return frame

    def changes(self, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The distinct values of columns in rows that commits (after, through] added."""
        if after is None:
            frame = self.scan(through)
            assert frame is not None  # a version was seen
            return frame.select(columns).unique().collect()
        handle = self.handle()
        if handle is None or after >= through:
            raise StorageError(f"{self.uri}: no commits after {after} through {through}")
        with translated(self.uri):
            feed = handle.load_cdf(starting_version=after + 1, ending_version=through, columns=list(columns))
            return pl.DataFrame(feed.read_all()).select(columns).unique()
