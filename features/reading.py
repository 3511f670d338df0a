"""Readings: the states of tables and of the publish log that one retrieval reads, and what it finds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from features.derived import Selection
from features.description import fingerprint
from features.feature_group import FeatureGroup
from features.feature_rows import CREATED, DELETED, EVENT, winners
from features.point_in_time import History, Limits, StoredRows, Visibility, join, questions_of
from features.replay import Questions
from features.source import EVENT_DATE
from features.stored_types import key_dtypes
from features.stores import FeatureTable, TableState


@dataclass(frozen=True)
class GroupReading:
    """A group's table, the state in which it is read, and the pushed rows that it lacks in that state."""

    group: FeatureGroup
    table: FeatureTable
    state: TableState
    pushed: pl.DataFrame | None

    @property
    def rows(self) -> StoredRows:
        """What the table holds in that state."""
        return StoredRows(self.table.scan(self.state.version), self.state.closed, self.state.epoch, self.pushed)

    def standing(self, start: datetime, end: datetime, near: pl.Expr) -> pl.LazyFrame:
        """The rows that stand, one per entity and event time in [start, end); ``near`` keeps some entities."""
        dates = pl.col(EVENT_DATE).is_between(start.date(), end.date())
        inside = dates & (pl.col(EVENT) >= start) & (pl.col(EVENT) < end)
        return winners(self.rows.where(inside & near), [*self.group.keys, EVENT]).filter(~pl.col(DELETED))

    def provenance(self) -> dict[str, Any]:
        """What a manifest says of it."""
        stamps = None if self.pushed is None or self.pushed.is_empty() else self.pushed[CREATED].to_physical()
        newest = None if stamps is None else stamps.max()
        return provenance(self.group, self.table, self.state) | {"pushed": newest}


@dataclass(frozen=True)
class Reading:
    """What one retrieval reads: the tables and publish logs of its groups, by the heads of references."""

    tables: Mapping[str, GroupReading]
    logs: Mapping[str, Visibility]
    log_version: int | None
    history: History
    now: datetime
    limits: Limits

    def answers(self, asked: pl.DataFrame, selection: Selection, places: Sequence[str]) -> dict[str, pl.DataFrame]:
        """By place its stored features, event_timestamp and ``status`` for each entity row (keys, event_timestamp)."""
        questions: dict[tuple[Any, ...], Questions] = {}
        found = {}
        for place in places:
            ref, wanted = selection.reads[place], selection.stored[place]
            read, log = self.tables[ref.head], self.logs[ref.head]
            keys, ttl = key_dtypes(read.group.entity), read.group.ttl_span
            same = (*keys.items(), *ref.keys)
            if same not in questions:
                questions = {same: questions_of(asked, keys, self.now, dict(ref.keys))}  # one at a time: they are large
            found[place] = join(
                asked[EVENT], questions[same], read.rows, log, features=list(wanted), ttl=ttl, limits=self.limits
            )
        return found


def provenance(group: FeatureGroup, table: FeatureTable, state: TableState) -> dict[str, Any]:
    """What a manifest says of one group whose table was read in a state."""
    sources = table.plan(state.closed).sources if state.closed else {}
    inputs = group.inputs  # a plan of an earlier version may know an input by another name
    return {
        "version": group.version,
        "fingerprint": fingerprint(group),
        "ttl": group.ttl,
        "table_version": state.version,
        "plan": state.closed,
        "sources": {inputs[name].name if name in inputs else name: read for name, (_, read) in sources.items()},
    }
