"""Sync: the newest row of every entity from the offline to the online store, plan by plan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.compute import stored_schema
from features.errors import InvalidInput
from features.feature_group import FeatureGroup
from features.feature_rows import CREATED, DELETED, EPOCH, EVENT, PLAN, winners
from features.stores import OfflineStore, OnlineStore, Publication
from features.times import TICK, UTC_US, Clock


@dataclass(frozen=True)
class SyncRun:
    """What a sync did: entities whose row moved, the last plan now visible, and since when."""

    group: str
    rows: int
    plan: int
    published_at: datetime | None


class Syncer:
    """Moves feature rows online and logs when what became visible.

    Data, watermark and publication go online in one transaction; the publication is then copied to
    the offline publish log, by the next sync if this one dies in between.
    """

    def __init__(self, offline: OfflineStore, online: OnlineStore, clock: Clock) -> None:
        self._offline = offline
        self._online = online
        self._clock = clock

    def sync(self, group: FeatureGroup) -> SyncRun:
        """Publish every closed plan that is not online yet."""
        if not group.online:
            raise InvalidInput(f"feature group {group.name!r} is offline only (online=False): there is nothing to sync")
        table = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
        watermark, closed = self._online.watermark(group.table_id), table.state().closed
        published_at, moved = None, 0
        if closed > watermark:
            fresh = table.scan().filter((pl.col(PLAN) > watermark) & (pl.col(PLAN) <= closed))
            columns = [*group.keys, EVENT, CREATED, EPOCH, DELETED, *group.feature_names]
            rows = winners(fresh, group.keys).select(columns).collect()
            published_at = self._published_at(group)
            publication = Publication(group.table_id, watermark, closed, published_at)
            moved = self._online.write(group.table_id, group.keys, rows, publication)
        self._copy_publications(group)
        return SyncRun(group.name, moved, max(closed, watermark), published_at)

    def _published_at(self, group: FeatureGroup) -> datetime:
        """Now, but after every publication of the group so far, whatever the clock does."""
        now = self._clock()
        earlier = [p.published_at for p in self._online.publications(group.table_id)]
        return max([now, *(e + TICK for e in earlier[-1:])])

    def _copy_publications(self, group: FeatureGroup) -> None:
        """Copy to the offline log what the online store published and the log does not have."""
        kept = self._online.publications(group.table_id)
        logged = self._offline.publications(group.table_id)
        # Entries without a moment are about pushes: they say nothing of the plans before theirs.
        ours = logged.filter((pl.col("target") == self._online.target) & pl.col("published_at").is_not_null())
        there = set(ours["plan"])
        for entry in kept:
            if entry.plan not in there:
                row = {
                    "table_id": [entry.table_id],
                    "target": [self._online.target],
                    "after": [entry.after],
                    "plan": [entry.plan],
                    "published_at": [entry.published_at],
                }
                frame = pl.DataFrame(row, schema_overrides={"published_at": UTC_US})
                app_id = f"{self._online.target}:{entry.table_id}"
                self._offline.append_publications(frame, app_id=app_id, number=entry.plan)
