"""The offline store on Delta Lake: sources, feature tables, the publish log and plain logs.

Exactly once rests on Delta's transaction ids: each append names (app id, number), and the number an
app id has reached is checked and written through one table handle, so a lost race fails the commit
instead of appending twice (SEMANTICS.md §5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl

from features.entity import DataType
from features.source import EVENT_DATE, INGESTED_AT
from features.times import UTC_US, from_micros, to_micros
from infra.storage.delta_features import DeltaFeatureTable
from infra.storage.delta_files import tables_below
from infra.storage.delta_io import Table, translated
from infra.storage.delta_tiles import DeltaTileTable

PUBLISH_LOG = "publish_log"
_PUBLISH_COLUMNS: dict[str, DataType] = {
    "table_id": pl.String(),
    "target": pl.String(),
    "after": pl.Int64(),
    "plan": pl.Int64(),
    "published_at": UTC_US,
}
_INGESTED = "ingested_at"

DEFINITIONS = "registry/groups"
_DEFINITION_COLUMNS: dict[str, DataType] = {
    "name": pl.String(),
    "version": pl.String(),
    "fingerprint": pl.String(),
    "definition": pl.String(),
    "applied_at": UTC_US,
    "applied_by": pl.String(),
}


def source_path(name: str) -> str:
    """Where the rows of a source lie: in bronze; of ``predictions/<model>``, which alone has a slash, just there."""
    return name if "/" in name else f"bronze/{name}"


HOLDS = "registry/holds"
_HOLD_COLUMNS: dict[str, DataType] = {
    "name": pl.String(),
    "number": pl.Int64(),
    "version": pl.String(),
    "frozen": pl.Boolean(),
    "at": UTC_US,
    "by": pl.String(),
}


class DeltaLake:
    """Implements features.stores.OfflineStore under one root, a folder or an object-store URL.

    Besides sources and feature tables it keeps plain logs (the ingest ledger, quarantine,
    predictions, ...) by their path under the root.
    """

    def __init__(self, root: str | Path, storage_options: Mapping[str, str] | None = None) -> None:
        self.root = str(root).rstrip("/")
        self._options = dict(storage_options or {})
        self._tables: dict[str, Table] = {}
        self._feature_tables: dict[Any, DeltaFeatureTable] = {}
        self._small_logs: dict[str, tuple[int | None, pl.DataFrame]] = {}

    def table(self, path: str) -> Table:
        """The table at a path under the root, existing or not yet."""
        if path not in self._tables:
            self._tables[path] = Table(f"{self.root}/{path}", self._options)
        return self._tables[path]

    def paths(self) -> list[str]:
        """The path under the root of every table there is."""
        with translated(self.root):
            return tables_below(self.root, self._options)

    def append_log(self, path: str, rows: pl.DataFrame, *, app_id: str, number: int) -> int | None:
        """Append to a plain log once per (app_id, number); its new version, or None if there already."""
        return self.table(path).append_once(rows, app_id, number)

    def scan_log(self, path: str, version: int | None = None) -> pl.LazyFrame | None:
        """A plain log's rows; None while it was never written."""
        return self.table(path).scan(version)

    def append_source(
        self, name: str, rows: pl.DataFrame, *, app_id: str, number: int, dtypes: Mapping[str, DataType]
    ) -> int | None:
        """Append rows once per (app_id, number) and return the table's version; None if there already."""
        table = self.table(source_path(name))
        table.ensure(dtypes, [EVENT_DATE])
        newest = rows.select(pl.col(INGESTED_AT).max()).item()
        marks = {_INGESTED: to_micros(newest)} if newest is not None else {}
        return table.append_once(rows.select(list(dtypes)), app_id, number, partition_by=[EVENT_DATE], marks=marks)

    def last_ingested(self, name: str) -> datetime | None:
        """The newest moment at which rows of a source were taken in; None while there are none."""
        table = self.table(source_path(name))
        table.handle()
        newest = table.reached(_INGESTED)
        return from_micros(newest) if newest >= 0 else None

    def check_source(self, name: str, dtypes: Mapping[str, DataType]) -> None:
        """Raise StorageError where the source's table holds a column with another type."""
        self.table(source_path(name)).check(dtypes)

    def source_version(self, name: str) -> int | None:
        """The newest version of a source's table; None while it has none."""
        return self.table(source_path(name)).version()

    def scan_source(
        self, name: str, version: int | None = None, since: date | None = None, until: date | None = None
    ) -> pl.LazyFrame | None:
        """A source's rows, bookkeeping included, at a version; None while there is no table."""
        return self.table(source_path(name)).scan(version, since, until)

    def source_columns(self, name: str, version: int) -> set[str]:
        """The columns that a source's table has at a version; a definition may have been given more since."""
        return self.table(source_path(name)).columns(version)

    def source_days(self, name: str, version: int) -> pl.DataFrame:
        """About how many rows each event date of a source has: event_date, rows; sorted."""
        return self.table(source_path(name)).days(version)

    def source_changes(self, name: str, after: int | None, through: int, columns: Sequence[str]) -> pl.DataFrame:
        """The values of columns in rows that commits (after, through] added or deleted, some more than once."""
        return self.table(source_path(name)).changes(after, through, columns)

    def feature_table(self, table_id: str, columns: Mapping[str, DataType], keys: Sequence[str]) -> DeltaFeatureTable:
        """The table of a group's major version, created (or widened by new columns) when needed."""
        asked = table_id, tuple(columns.items()), tuple(keys)
        if asked not in self._feature_tables:
            self._feature_tables[asked] = DeltaFeatureTable(self.table(f"features/{table_id}"), columns, keys)
        return self._feature_tables[asked]

    def has_feature_table(self, table_id: str) -> bool:
        """Whether the group's major was ever materialized."""
        return self.table(f"features/{table_id}").version() is not None

    def tile_table(self, table_id: str, layout: str, columns: Mapping[str, DataType]) -> DeltaTileTable:
        """The tiles of a group's major in a layout, created when needed."""
        return DeltaTileTable(self.table(f"tiles/{table_id}/{layout}"), columns)

    def publications(self, table_id: str, version: int | None = None) -> pl.DataFrame:
        """The publish log of a group: target, after, plan, published_at."""
        return self._small_log(PUBLISH_LOG, _PUBLISH_COLUMNS, version).filter(pl.col("table_id") == table_id)

    def append_publications(self, entries: pl.DataFrame, *, app_id: str, number: int) -> None:
        """Copy publish entries (table_id, target, after, plan, published_at), once per (app_id, number)."""
        self.append_log(PUBLISH_LOG, entries.select(list(_PUBLISH_COLUMNS)), app_id=app_id, number=number)

    def definitions(self) -> pl.DataFrame:
        """Every applied group definition: name, version, fingerprint, definition (JSON), applied_at, applied_by."""
        return self._small_log(DEFINITIONS, _DEFINITION_COLUMNS)

    def record_definition(self, row: pl.DataFrame, number: int) -> bool:
        """Append a group's definition (one row) as its ``number``-th; False if another was faster."""
        app_id = f"definition:{row['name'].item()}"
        return (
            self.append_log(DEFINITIONS, row.select(list(_DEFINITION_COLUMNS)), app_id=app_id, number=number)
            is not None
        )

    def holds(self) -> pl.DataFrame:
        """Every hold and release of a group: name, number, version (null: released), frozen, at, by."""
        return self._small_log(HOLDS, _HOLD_COLUMNS)

    def record_hold(self, row: pl.DataFrame) -> bool:
        """Append a hold or release (one row) under the group's ``number``; False if another was faster."""
        app_id, number = f"hold:{row['name'].item()}", row["number"].item()
        return self.append_log(HOLDS, row.select(list(_HOLD_COLUMNS)), app_id=app_id, number=number) is not None

    def _small_log(self, path: str, columns: Mapping[str, DataType], version: int | None = None) -> pl.DataFrame:
        """A plain log whole, now or at a version; read again only where it differs, since every call asks for it."""
        version, known = self.table(path).version() if version is None else version, self._small_logs.get(path)
        if known is None or known[0] != version:
            frame = pl.LazyFrame(schema=columns) if version is None else self.table(path).scan(version)
            assert frame is not None  # it has a version
            lacking = [pl.lit(None, dtype).alias(c) for c, dtype in columns.items() if c not in frame.collect_schema()]
            known = self._small_logs[path] = (version, frame.with_columns(lacking).select(list(columns)).collect())
        return known[1]

    def publish_log_version(self) -> int | None:
        """The newest version of the publish log."""
        return self.table(PUBLISH_LOG).version()
