"""Reinstatement: the rows that take every entity of a group back to what it was answered at another time.

Used for rollbacks (as of the last plan that an earlier version wrote) and for releases (as if the rollback
had never been). Rows are appended, never restored: each entity's row of then is written again, of a greater
epoch, and entities unknown then get a tombstone (SEMANTICS.md §4).
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import polars as pl

from features.changes import stored
from features.compute import stored_schema
from features.feature_group import FeatureGroup
from features.feature_rows import AS_IF, DELETED, EVENT, ORDER, PLAN, winners
from features.runs import Chunks
from features.stores import FeatureTable, Plan
from features.times import EPOCH as BEGINNING
from features.times import UTC_US

ROLLBACK = "rollback"
RELEASE = "release"

THROUGH = "through"
"""A rollback's detail: the last plan whose rows count."""
WITHOUT = "without"
"""A release's detail: the plans (those of rollbacks) whose rows do not count."""


class Reinstatement:
    """Implements features.runs.Work for the kinds "rollback" and "release"."""

    def start(self, group: FeatureGroup, table: FeatureTable, plan: Plan) -> Chunks:
        """Per chunk the rows of then whose event time it holds; the same whoever finishes the plan."""
        places = table.scan().filter(pl.col(PLAN) < plan.number).select(*group.keys, *ORDER, PLAN)
        counts = pl.col(PLAN) <= plan.details[THROUGH] if plan.kind == ROLLBACK else _untouched(plan)
        chosen = winners(places.filter(counts), group.keys)
        unknown = winners(places.join(chosen, on=group.keys, how="anti"), group.keys)
        if plan.kind == RELEASE:
            chosen = pl.concat([chosen, _standing(group, places, chosen, plan, counts)])
        then, buried = pl.collect_all([chosen, unknown.select(*group.keys, EVENT)])
        return partial(_chunk, group, table, plan, then, buried)


def _untouched(plan: Plan) -> pl.Expr:
    return ~pl.col(PLAN).is_in(plan.details[WITHOUT])


def _standing(
    group: FeatureGroup, places: pl.LazyFrame, chosen: pl.LazyFrame, plan: Plan, counts: pl.Expr
) -> pl.LazyFrame:
    """The rows that stood under other keys that rollbacks wrote: they stand again, though they are no answers."""
    key = [*group.keys, EVENT]
    written = places.filter(~_untouched(plan)).select(key).join(chosen, on=key, how="anti")
    return winners(places.filter(counts).join(written, on=key, how="semi"), key)


def _chunk(
    group: FeatureGroup, table: FeatureTable, plan: Plan, chosen: pl.DataFrame, unknown: pl.DataFrame, number: int
) -> pl.DataFrame:
    """The rows of one chunk: those of then, and tombstones."""
    start, end = plan.chunks[number]
    inside = (pl.col(EVENT) >= start) & (pl.col(EVENT) < end)
    place = [*group.keys, *ORDER]
    since = None if start == BEGINNING else start.date()
    rows = table.scan(since=since, until=(end - timedelta(microseconds=1)).date())
    then = rows.filter(inside & (pl.col(PLAN) < plan.number)).join(
        chosen.lazy().filter(inside).select(place), on=place, how="semi"
    )
    columns = [*group.keys, EVENT, *group.feature_names]
    as_if = pl.lit(None, UTC_US).alias(AS_IF)
    schema = stored_schema(group)
    nothing = [pl.lit(None, schema[feature]).alias(feature) for feature in group.feature_names]
    buried = unknown.lazy().filter(inside).select(*group.keys, EVENT, *nothing, as_if, pl.lit(True).alias(DELETED))
    both = pl.concat([then.select(*columns, as_if, DELETED), buried]).collect()
    return stored(both, group, plan, plan.details["epoch"])
