"""How fresh the features are that a server answers: F = max(0, 1 - age / sla), group by group."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import polars as pl

from features.compute import stored_schema
from features.errors import StorageError
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT, PLAN
from features.store import FeatureStore
from features.times import duration

_SECONDS = 30.0


class GroupFreshness:
    """The freshness of the groups that are served and have an ``sla``; looked at again after a while."""

    def __init__(
        self, store: FeatureStore, seconds: float = _SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._seconds = seconds
        self._clock = clock
        self._known: dict[str, float] = {}
        self._looked: float | None = None

    def now(self) -> dict[str, float]:
        """The freshness by group: 1 for a row of this moment, 0 for one as old as the sla or older, or for none.

        Groups whose tables cannot be asked are left out.
        """
        now = self._clock()
        if self._looked is None or now - self._looked >= self._seconds:
            groups = {n: g for n, g in self._store.registry.groups.items() if g.online and g.sla is not None}
            found = {name: self._of(group) for name, group in groups.items()}
            self._known, self._looked = {name: value for name, value in found.items() if value is not None}, now
        return self._known

    def _of(self, group: FeatureGroup) -> float | None:
        """By the newest row that was published, of whichever entity."""
        try:
            through = self._store.online.watermark(group.table_id)
            if not self._store.offline.has_feature_table(group.table_id):
                return 0.0
            table = self._store.offline.feature_table(group.table_id, stored_schema(group), group.keys)
            published = table.scan().filter(pl.col(PLAN) <= through)
            newest: datetime | None = published.select(pl.col(EVENT).max()).collect().item()
        except StorageError:
            return None
        if newest is None:
            return 0.0
        return max(0.0, 1.0 - (self._store.now() - newest) / duration(group.sla or ""))
