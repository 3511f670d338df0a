"""Withdrawals: versions of records that an input no longer holds, since later ones say otherwise.

What is computed without a row could not be known before it was known that the row is gone: a correction may
have moved its record to another entity, and no row that is left tells when (SEMANTICS.md §7, leak).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from features.compute import Frames, first_time, prepared, scope_columns, translated
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.inputs import ARRIVAL, SUPERSEDED, Input
from features.intervals import Interval
from features.stores import Plan
from features.times import TICK, duration


@dataclass(frozen=True)
class Withdrawals:
    """What was taken from a group's inputs, and when that became known: ``rows`` have ``by``, EVENT and SUPERSEDED.

    With ``exact`` it matters to feature rows of the same event time alone, otherwise to all from EVENT on.
    """

    rows: pl.DataFrame
    by: list[str]
    exact: bool

    @classmethod
    def of(
        cls,
        group: FeatureGroup,
        inputs: Mapping[str, Input],
        plan: Plan,
        interval: Interval,
        scope: pl.DataFrame | None,
    ) -> Withdrawals:
        """Those that matter in an interval, of the scope that is computed."""
        exact = scope_columns(group) == [first_time(group)]
        start, end = (interval.start, interval.end) if exact else (None, None)
        found = {n: i.replaced(plan.sources[n][1], plan.stamp, start, end, scope) for n, i in inputs.items()}
        taken = {name: rows for name, rows in found.items() if rows is not None}
        with translated(group):
            own = _own(group, taken) if exact and len(taken) == len(inputs) == 1 else None
            if own is not None:
                return cls(own.collect(), group.keys, exact)
            by = [c for c in scope_columns(group) if c in group.keys]
            since = timedelta(0) if exact else _reach(group)
            each = [
                rows.select(*by, (pl.col(inputs[name].time) + since).alias(EVENT), SUPERSEDED)
                for name, rows in taken.items()
            ]
            return cls(pl.concat(each, how="vertical_relaxed").collect() if each else pl.DataFrame(), by, exact)

    def bound(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Feature rows with an ARRIVAL that is not before that of what was taken from them."""
        if self.rows.is_empty() or rows.is_empty():
            return rows
        taken = self.rows.with_columns(pl.col(c).cast(rows.schema[c]) for c in self.by).sort(EVENT)
        if self.exact:
            newest = taken.group_by(*self.by, EVENT).agg(pl.col(SUPERSEDED).max())
            known = rows.join(newest, on=[*self.by, EVENT], how="left")
        else:
            latest = pl.col(SUPERSEDED).cum_max()
            taken = taken.with_columns(latest.over(self.by) if self.by else latest)
            known = rows.sort(EVENT).join_asof(taken, on=EVENT, by=self.by or None, check_sortedness=False)
        return known.with_columns(pl.max_horizontal(ARRIVAL, SUPERSEDED)).drop(SUPERSEDED)


def _own(group: FeatureGroup, taken: Frames) -> pl.LazyFrame | None:
    """The keys and times of the feature rows that rows made; None where ``prepare`` does not keep them row by row."""
    frame = prepared(group, taken)
    if SUPERSEDED not in frame.collect_schema():
        return None
    return frame.select(*group.keys, pl.col(first_time(group)).alias(EVENT), SUPERSEDED)


def _reach(group: FeatureGroup) -> timedelta:
    """How long after a raw row the first feature rows are that depend on it, of groups that look back."""
    if group.settle is not None:
        return TICK - duration(group.settle)  # without it an earlier row may be the last one for long enough
    return timedelta(0) if group.every is None else TICK
