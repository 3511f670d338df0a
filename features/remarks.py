"""What a backfill should tell whoever asked for it, though it is no error."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from features.feature_group import FeatureGroup
from features.inputs import Input
from features.intervals import DAY
from features.source import EVENT_DATE
from features.stores import Plan
from features.times import EPOCH as BEGINNING
from features.times import duration, utc_column


def remarks(group: FeatureGroup, inputs: Mapping[str, Input], plan: Plan, asked_end: datetime) -> str:
    """That the end was moved to now, and which inputs have no rows for the interval; "" where all is as asked.

    Of the inputs only the first gives rows their event time: of the others it is said that they have none at all.
    """
    start, end = plan.chunks[0][0], plan.chunks[-1][1]
    said = []
    if end < asked_end:
        said.append(f"the end was moved to now, {plan.stamp:%F %T} UTC: later rows are materialized when they are due")
    every = duration(group.every or "0s")
    reach = max((duration(f.window) for f in group.features if f.window), default=every)
    since = max(start, BEGINNING + reach) - reach
    for number, (name, item) in enumerate(inputs.items()):
        version, kind = plan.sources[name][1], "feature group" if isinstance(item.origin, FeatureGroup) else "source"
        if version is None:
            said.append(f"{kind} {item.origin.name!r} has no rows yet")
        elif number == 0 and not _has_rows(item, version, plan.stamp, since, end):
            said.append(f"{kind} {item.origin.name!r} has no rows from {since:%F %T} to {end:%F %T} UTC")
    return "; ".join(said)


def _has_rows(item: Input, version: int, cutoff: datetime, start: datetime, end: datetime) -> bool:
    """Whether an input has rows in [start, end); rows are read only where the first and last date must decide."""
    midnight = utc_column(EVENT_DATE, pl.Date())
    dates = item.days(version).filter(pl.col("rows") > 0, midnight > start - DAY, midnight < end)
    if not dates.filter(midnight >= start, midnight <= end - DAY).is_empty():
        return True
    return not dates.is_empty() and not item.scan(version, cutoff, start, end).head(1).collect().is_empty()
