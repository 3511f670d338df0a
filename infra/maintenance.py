"""Maintenance: every table compact and sorted, its log short, and no file kept that nobody can ask for.

What must stay is what somebody may open: the versions that the manifests of registered models and of
logged training sets name, what a group has not taken in yet, and whatever is younger than the retention.
Nothing else may notice: rows, change feed, plans, cursors and answers stay as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from features.feature_group import FeatureGroup
from features.registry import Registry
from features.source import Source
from features.stores import FeatureTable, OfflineStore
from features.times import utc_now
from infra.storage.delta import PUBLISH_LOG, DeltaLake, source_path
from infra.storage.delta_upkeep import Keep, checkpoint, merge_small_files, remove_old_files
from infra.wiring import Platform

Versions = Mapping[str, frozenset[int]]
"""Versions by the table's path in the lake."""

_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Maintained:
    """What was done to a table, or what would be: files merged and removed, versions kept for their readers."""

    table: str
    version: int
    merged: int
    removed: int
    kept: int


def maintain(platform: Platform, *, dry_run: bool = False) -> list[Maintained]:
    """Merge small files, write a checkpoint and remove old files, table by table.

    Raises TrackingError where a manifest cannot be read, and StorageError where a version that one names
    is gone: rather nothing is removed than what is still needed.
    """
    lake, store = platform.lake, platform.store
    pinned = pinned_versions(platform.tracker.manifests(), store.registry)
    unread = unread_versions(store.registry, store.offline)
    order = lookup_keys(store.registry)
    hours = age_in_hours(platform.settings.retention_days, store.now())
    return [
        maintain_table(
            lake,
            path,
            sort_key(order, path),
            Keep(pinned.get(path, frozenset()) | unread.get(path, frozenset()), feed=path in unread),
            hours,
            dry_run=dry_run,
        )
        for path in lake.paths()
    ]


def maintain_table(
    lake: DeltaLake, path: str, keys: Sequence[str], keep: Keep, hours: int, *, dry_run: bool = False
) -> Maintained:
    """Look after one table; killed at any point and run again, it ends the same."""
    table = lake.table(path)
    merged = merge_small_files(table, keys, dry_run=dry_run)
    if not dry_run:
        checkpoint(table)
    removed = remove_old_files(table, keep, hours, dry_run=dry_run)
    return Maintained(path, table.version() or 0, merged, removed, len(keep.versions))


def pinned_versions(manifests: Iterable[Mapping[str, Any]], registry: Registry) -> Versions:
    """The versions that training sets were made from: of feature tables, their inputs and the publish log."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for manifest in manifests:
        if manifest["publish_log_version"] is not None:
            found[PUBLISH_LOG].add(manifest["publish_log_version"])
        read = list(manifest["groups"].items())
        if "label" in manifest:
            read.append((manifest["label"]["ref"].partition(":")[0], manifest["label"]))
        for head, facts in read:
            major = facts["version"].partition(".")[0]
            found[f"features/{head.partition('@')[0]}/v{major}"].add(facts["table_version"])
            for name, version in facts["sources"].items():
                if version is not None:
                    found[_input_path(registry, name)].add(version)
    return {path: frozenset(versions) for path, versions in found.items()}


def unread_versions(registry: Registry, offline: OfflineStore) -> Versions:
    """The versions whose commits some group has yet to take in, and those that an open plan reads."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for group in registry.groups.values():
        if offline.has_feature_table(group.table_id):
            for path, versions in _unread(group, offline):
                found[path] |= versions
    return {path: frozenset(versions) for path, versions in found.items() if versions}


def lookup_keys(registry: Registry) -> dict[str, list[str]]:
    """By what rows are looked up, by the path of their table: the keys of its group, or of the first that reads it."""
    order: dict[str, list[str]] = {}
    for group in registry.groups.values():
        order[f"features/{group.table_id}"] = group.keys
        for origin in group.inputs.values():
            if isinstance(origin, Source) and set(group.keys) <= set(origin.schema):
                order.setdefault(source_path(origin.name), group.keys)
    return order


def sort_key(lookup: Mapping[str, list[str]], path: str) -> Sequence[str]:
    """The columns by which a table is sorted; tiles (``tiles/<group>/v<major>/<layout>``) like their group."""
    kind, _, rest = path.partition("/")
    return lookup.get(f"features/{rest.rpartition('/')[0]}" if kind == "tiles" else path, ())


def age_in_hours(days: int, now: datetime) -> int:
    """How old, by the machine's clock, a removed file is when ``days`` have passed by the platform's clock.

    Files bear the machine's time and are compared with it, so a clock that was moved ahead makes them
    older, and one that was moved back younger.
    """
    ahead = now - utc_now()
    return max(0, math.ceil((timedelta(days=days) - ahead) / _HOUR))


def _unread(group: FeatureGroup, offline: OfflineStore) -> Iterator[tuple[str, set[int]]]:
    table = _table(offline, group.table_id)
    plan = table.unfinished()
    for name, origin in group.inputs.items():
        path, newest = _path(origin), _newest(origin, offline)
        cursor = table.cursor(name)
        if cursor is not None and newest is not None and cursor < newest:
            yield path, set(range(cursor + 1, newest + 1))
        read = plan.sources.get(name, (None, None))[1] if plan else None
        if read is not None:
            yield path, {read}


def _newest(origin: Source | FeatureGroup, offline: OfflineStore) -> int | None:
    if isinstance(origin, Source):
        return offline.source_version(origin.name)
    if not offline.has_feature_table(origin.table_id):
        return None
    return _table(offline, origin.table_id).state().version


def _table(offline: OfflineStore, table_id: str) -> FeatureTable:
    """A table that is there, without a group's columns: maintenance must not add those of a newer definition."""
    return offline.feature_table(table_id, {}, [])


def _path(origin: Source | FeatureGroup) -> str:
    return source_path(origin.name) if isinstance(origin, Source) else f"features/{origin.table_id}"


def _input_path(registry: Registry, name: str) -> str:
    """Where an input of a group lies that a manifest names."""
    return f"features/{registry.group(name).table_id}" if name in registry.groups else source_path(name)
