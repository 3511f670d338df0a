"""Upkeep of one Delta table, which no reader may notice.

Merging commits ``dataChange=false``: the rows stay, and the change feed tells of nothing. delta-rs
measures the age of files by their own times, which the clock of the machine set.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable, WriterProperties

from features.errors import StorageError
from infra.storage.delta_files import files_below
from infra.storage.delta_io import ROW_GROUP, Table, translated

SMALL_FILE = 50_000_000
"""Bytes below which a file counts as small; delta-rs writes files of 100 MB."""

_SAFE_HOURS = 24
"""A file that no commit names may be one that a writer is about to commit; not after so many hours."""


@dataclass(frozen=True)
class Keep:
    """What vacuum must leave: the files of these versions, and the change feed if somebody still reads it."""

    versions: frozenset[int] = frozenset()
    feed: bool = False


def merge_small_files(table: Table, keys: Sequence[str], *, dry_run: bool = False) -> int:
    """Merge the files of every partition that has several small ones; how many there were.

    Rows are sorted by the keys within a partition, so that statistics tell which file holds an entity;
    without keys they keep their order. By one key the order is exact, by several it is a Z-order, which
    serves each of them. The event time is left out: within a date it would scatter the entities.
    """

    def step(handle: DeltaTable) -> int:
        crowded = _crowded(handle)
        count = int(crowded["files"].sum())
        if not count or dry_run:
            return count
        partitions = [(c, "in", crowded[c].unique().to_list()) for c in crowded.columns if c != "files"]
        written = WriterProperties(compression="ZSTD", max_row_group_size=ROW_GROUP)
        known = {field.name for field in handle.schema().fields}
        if keys and set(keys) <= known:
            handle.optimize.z_order(keys, partition_filters=partitions or None, writer_properties=written)
        else:
            handle.optimize.compact(partition_filters=partitions or None, writer_properties=written)
        return count

    return table.work(step) or 0


def checkpoint(table: Table) -> None:
    """Write a checkpoint, so that opening the table reads no long log; drop the log beyond its retention of years."""

    def step(handle: DeltaTable) -> None:
        handle.create_checkpoint()
        handle.cleanup_metadata()

    table.work(step)


def remove_old_files(table: Table, keep: Keep, hours: int, *, dry_run: bool = False) -> int:
    """Delete the files that neither the newest nor a kept version needs, if ``hours`` have passed since they were.

    Returns how many there were. Files that a killed writer left go too; but not, since their age is all
    that tells them from those of a running one, where ``hours`` is less than a day, nor while the feed of
    changes is read, which lies in such files. Raises StorageError where a kept version is gone.
    """
    versions = sorted(keep.versions)
    whole = not keep.feed and hours >= _SAFE_HOURS

    def vacuum(handle: DeltaTable, *, dry: bool) -> list[str]:
        return handle.vacuum(
            hours, dry_run=dry, enforce_retention_duration=False, full=whole, keep_versions=versions or None
        )

    def step(handle: DeltaTable) -> int:
        # delta-rs names every file ever removed, and commits twice even if all of them are gone already.
        stale = set(vacuum(handle, dry=True)) & files_below(table.uri, table.options)
        if stale and not dry_run:
            vacuum(handle, dry=False)
        return len(stale)

    try:
        return table.work(step) or 0
    except StorageError:
        _check_kept(table, versions)
        raise


def _crowded(handle: DeltaTable) -> pl.DataFrame:
    """The partitions (their values as text) with several small files, and how many files each has."""
    prefix = "partition."
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    by = [f"{prefix}{name}" for name in handle.metadata().partition_columns]
    small = pl.col("size_bytes") < SMALL_FILE
    # The file count comes last and by a constant, so that a table without partitions is one.
    found = actions.group_by(pl.lit(0).alias("_"), *by).agg(pl.len().alias("files"), small.sum().alias("_small"))
    found = found.filter(pl.col("_small") > 1, *(pl.col(c).is_not_null() for c in by))
    return found.select(*(pl.col(c).cast(pl.String).alias(c.removeprefix(prefix)) for c in by), "files")


def _check_kept(table: Table, versions: Collection[int]) -> None:
    for version in versions:
        try:
            with translated(table.uri):
                DeltaTable(table.uri, version=version, storage_options=table.options)
        except StorageError as error:
            raise StorageError(
                f"{table.uri}: version {version}, which a registered model or a logged training set was made from, "
                f"cannot be opened: restore its log, or delete what needs it"
            ) from error
