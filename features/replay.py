"""Replay: which row of a table was the answer, for each of many (entity, moment) questions.

The answer at t is the greatest by order among the entity's rows available at or before t. Read
backwards by order, a row that became available no earlier than one already seen was never the answer;
of the others availability grows with order, so that an as-of search finds the answer. Entity and
moment are packed into one integer: dominance is then one running minimum over all entities, the
search one merge of two sorted columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from features.entity import DataType
from features.feature_rows import DELETED, EVENT, ORDER
from features.frames import by_key_and_time, reach
from features.times import UTC_US

AVAILABLE = "_available"
"""From when a row may be an answer."""

AT = "_at"
"""The position of a row in its table, as a scan in file order counts."""

ENTITY, MOMENT, ROW = "_entity", "_moment", "_row"
_KEY = "_key"
_FEW = 1_000
"""Up to so many entities are looked for by their keys."""


@dataclass(frozen=True)
class Questions:
    """Moments at which entities are asked for, sorted.

    ``entities`` has the distinct keys and their number ENTITY; ``asked`` has ENTITY, MOMENT and ROW, the
    row that asks, by entity and moment. Rows with a null key ask nothing.
    """

    entities: pl.DataFrame
    asked: pl.DataFrame
    keys: Mapping[str, DataType]

    @classmethod
    def of(cls, keys: pl.DataFrame, moments: pl.Series) -> Questions:
        """Questions from key columns and moments (UTC µs) of equal height."""
        entities = keys.drop_nulls().unique().sort(keys.columns).with_row_index(ENTITY)
        rows = keys.with_columns(moments.alias(MOMENT)).with_row_index(ROW)
        numbered = rows.join(entities, on=keys.columns).select(ENTITY, MOMENT, ROW)
        return cls(entities, by_key_and_time(numbered, [ENTITY], MOMENT), dict(keys.schema))

    @property
    def first(self) -> datetime:
        """The earliest moment; there must be a question."""
        earliest: datetime = self.asked.select(pl.col(MOMENT).min()).item()
        return earliest

    @property
    def last(self) -> datetime:
        """The latest moment; there must be a question."""
        latest: datetime = self.asked.select(pl.col(MOMENT).max()).item()
        return latest

    def but(self, rows: pl.Series) -> Questions:
        """The questions of all but these rows."""
        asked = self.asked.join(rows.to_frame(), on=ROW, how="anti", maintain_order="left")
        entities = self.entities.join(asked, on=ENTITY, how="semi", maintain_order="left")
        return Questions(entities, asked, self.keys)

    def near(self) -> pl.Expr:
        """True for all rows of these entities and, where they are few, for few others."""
        return near_keys(self.entities.select(*self.keys))

    def answers(self, rows: pl.LazyFrame, capacity: int) -> pl.DataFrame:
        """ROW, and AT, EVENT and DELETED of its answer, for the rows that have one.

        ``rows`` have the keys, the columns of the order, DELETED, AVAILABLE and AT. About ``capacity`` of them
        are in memory at once, more only where one entity has more.
        """
        if self.asked.is_empty():
            return pl.DataFrame(schema=_ANSWER)
        rows = rows.filter(pl.col(AVAILABLE) <= self.last)
        return pl.concat(self._searched(entities, rows) for entities in self._buckets(rows, capacity))

    def _searched(self, entities: pl.DataFrame, rows: pl.LazyFrame) -> pl.DataFrame:
        """The answers of a run of entities."""
        first, last = entities[ENTITY][0], entities[ENTITY][-1]
        start, end = self.asked[ENTITY].search_sorted(pl.Series([first, last + 1], dtype=pl.UInt32))
        theirs = rows.join(entities.lazy(), on=list(self.keys)).select(_SEARCHED).collect(engine="streaming")
        low, span = reach(self.asked[MOMENT])
        return _search(self.asked.slice(start, end - start), theirs, first, low, span)

    def _buckets(self, rows: pl.LazyFrame, capacity: int) -> Iterator[pl.DataFrame]:
        """The entities in runs of which each has few enough rows for memory and few enough numbers for a key."""
        widest = 2**62 // reach(self.asked[MOMENT])[1]
        load: pl.Expr = pl.lit(0)
        sized = self.entities
        if sized.height > 1 and rows.select(pl.len()).collect(engine="streaming").item() > capacity:
            own = rows.join(self.entities.lazy(), on=list(self.keys)).group_by(ENTITY).len()
            sized = sized.join(own.collect(engine="streaming"), on=ENTITY, how="left", maintain_order="left")
            load = pl.col("len").fill_null(0).cast(pl.Int64).cum_sum() // capacity
        named = sized.with_columns(load.alias("_load"), (pl.col(ENTITY) // widest).alias("_width"))
        for bucket in named.partition_by("_load", "_width", maintain_order=True):
            yield bucket.select(ENTITY, *self.keys)


_SEARCHED = [ENTITY, AT, *ORDER, DELETED, AVAILABLE]
_ANSWER: dict[str, DataType] = {ROW: pl.UInt32(), AT: pl.UInt32(), EVENT: UTC_US, DELETED: pl.Boolean()}


def _search(asked: pl.DataFrame, rows: pl.DataFrame, first: int, low: int, span: int) -> pl.DataFrame:
    """The answers to sorted questions among rows of their entities, numbered from ``first`` on.

    All moments lie in [low, low + span) µs; no row becomes available after it.
    """

    def packed(moment: str) -> pl.Expr:
        # What was available before the first question counts as available at it.
        offset = (pl.col(moment).dt.timestamp("us") - low).clip(lower_bound=0)
        return (pl.col(ENTITY).cast(pl.Int64) - first) * span + offset

    ranked = _in_order(rows).with_columns(packed(AVAILABLE).alias(_KEY))
    # A later row by order that was there no later hides this one; other entities' keys are all greater.
    shown = pl.col(_KEY) < pl.col(_KEY).shift(-1).cum_min(reverse=True)
    ranked = ranked.filter(shown.fill_null(value=True)).select(_KEY, ENTITY, AT, EVENT, DELETED)
    asked = asked.select(ROW, ENTITY, packed(MOMENT).alias(_KEY))
    found = asked.join_asof(ranked, on=_KEY, suffix="_found", check_sortedness=False)
    return found.filter(pl.col(ENTITY) == pl.col(f"{ENTITY}_found")).select(ROW, AT, EVENT, DELETED)


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows sorted by entity and order."""
    # That sorts by one packed integer, in half the time of sorting by four columns, and usually does it.
    ranked = by_key_and_time(rows, [ENTITY], EVENT)
    earlier = pl.any_horizontal(
        pl.all_horizontal(
            *(pl.col(same) == pl.col(same).shift(1) for same in [ENTITY, *ORDER[:place]]),
            pl.col(column) < pl.col(column).shift(1),
        )
        for place, column in enumerate(ORDER)
    )
    return rows.sort(ENTITY, *ORDER) if ranked.select(earlier.any()).item() else ranked


def near_keys(entities: pl.DataFrame) -> pl.Expr:
    """True for all rows of some entities (distinct keys) and, where they are few, for few others.

    Keys as literals are what lets file and row-group statistics prune.
    """
    if entities.height > _FEW:
        return pl.lit(True)
    return pl.all_horizontal(among(pl.col(key.name), key) for key in entities)


def among(column: pl.Expr, values: pl.Series) -> pl.Expr:
    """Whether a column's value is one of these, written so that Polars compares it with statistics.

    With ``values.implode()`` for the list it reads every row group.
    """
    return column.is_in(pl.lit(values.unique()).implode())


def in_rows(found: pl.DataFrame, height: int) -> pl.DataFrame:
    """AT, EVENT and DELETED in the order of the asking rows, with nulls where there is no answer."""
    rows = found[ROW].to_numpy()
    there = np.zeros(height, dtype=np.bool_)
    there[rows] = True

    def spread(column: str, dtype: Any) -> pl.Series:
        values = np.zeros(height, dtype=dtype)
        values[rows] = found[column].to_physical().to_numpy()
        return pl.Series(column, values)

    spread_out = pl.DataFrame([spread(AT, np.uint32), spread(EVENT, np.int64), spread(DELETED, np.bool_)])
    shown = spread_out.with_columns(pl.col(EVENT).cast(UTC_US))
    return shown if there.all() else shown.select(pl.when(pl.lit(pl.Series(there))).then(pl.all()))
