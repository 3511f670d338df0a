"""A group's raw rows rewound to a past moment, and how what is made of them differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import polars as pl

from features.compute import Frames, compute, stored_schema
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT, differs
from features.inputs import ARRIVAL, within
from features.intervals import Interval
from features.times import EPOCH as BEGINNING
from features.times import TICK, duration

_HERE = "_here"
_THERE = "_there"


@dataclass(frozen=True)
class Rewind:
    """Raw rows of a group's inputs, held in memory; ``times`` names each input's column of event time."""

    group: FeatureGroup
    times: Mapping[str, str]
    held: Mapping[str, pl.DataFrame]

    def frames(self, until: datetime, *, arrived: bool = False) -> Frames:
        """The rows with event time ≤ ``until``; with ``arrived`` only those that had arrived by then."""
        found = {}
        for name, rows in self.held.items():
            known = pl.col(self.times[name]) <= until
            found[name] = rows.lazy().filter(known & (pl.col(ARRIVAL) <= until) if arrived else known)
        return found

    def rows(self, until: datetime, *, last: datetime | None = None, arrived: bool = False) -> pl.DataFrame:
        """What the group makes of the rows until a moment; its rows up to ``last`` (None: that moment)."""
        events = self.event_times()
        # From the first boundary that can have a row: some groups are computed boundary by boundary.
        start = BEGINNING if events.is_empty() else cast("datetime", events[0]) - duration(self.group.every or "0s")
        interval = Interval(start, min(until, last or until) + TICK, until)
        return compute(self.group, self.frames(until, arrived=arrived), interval)

    def only(self, scope: pl.DataFrame) -> Rewind:
        """The same with the raw rows of a scope, in the inputs that have its columns."""
        held = {
            name: within(rows.lazy(), scope).collect() if set(scope.columns) <= set(rows.columns) else rows
            for name, rows in self.held.items()
        }
        return replace(self, held=held)

    def event_times(self) -> pl.Series:
        """The event times of all inputs, each once, in order."""
        return pl.concat([rows[self.times[name]].rename(EVENT) for name, rows in self.held.items()]).unique().sort()

    def arrivals(self) -> pl.Series:
        """The moments at which rows of any input arrived, each once, in order."""
        return pl.concat([rows[ARRIVAL] for rows in self.held.values()]).unique().sort()

    def last_arrival(self) -> datetime | None:
        """The newest of these; None without a row."""
        return cast("datetime | None", self.arrivals().max())


def then(feature: str) -> str:
    """The column of ``differences`` with what a feature was."""
    return f"{feature}__then"


def moved(feature: str) -> str:
    """The column of ``differences`` that says whether a feature changed."""
    return f"{feature}__moved"


def differences(group: FeatureGroup, now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """The rows of either frame by key, with each feature now, ``then`` and whether it ``moved``.

    A row that is in one frame only has moved in every feature, nulls too: no row is not a null.
    """
    key: Sequence[str] = [*group.keys, EVENT]
    schema = stored_schema(group)
    before = before.select(*key, *(pl.col(f).alias(then(f)) for f in group.feature_names), pl.lit(True).alias(_THERE))
    both = now.select(*key, *group.feature_names, pl.lit(True).alias(_HERE))
    both = both.join(before, on=key, how="full", coalesce=True)
    alone = pl.col(_HERE).is_null() | pl.col(_THERE).is_null()
    return both.with_columns(
        (alone | differs(f, then(f), schema[f])).alias(moved(f)) for f in group.feature_names
    ).drop(_HERE, _THERE)
