"""The point-in-time join: for each entity row, what the online store would have answered then.

A row is available from the publication of its plan; in the history "backfilled" a counterfactual row
already from its ``_as_if``. The answer at t is the winner by order among the rows available at or
before t (SEMANTICS.md §2). Answers are found on keys and bookkeeping alone (``features.replay``); the
feature columns are then read for the rows that answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from features.entity import DataType
from features.errors import InvalidInput
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, ORDER, PLAN
from features.replay import AT, AVAILABLE, ROW, Questions, among, in_rows
from features.source import EVENT_DATE
from features.stored_types import cast_exactly
from features.times import UTC_US

History = Literal["backfilled", "as_served"]

PRESENT = "PRESENT"
NULL_VALUE = "NULL_VALUE"
NOT_FOUND = "NOT_FOUND"
OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"
STATUS = pl.Enum([PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE])
"""The type of statuses: four words in a byte each."""


_ROW_BYTES = 100
"""What a row's key, position and bookkeeping take while they are sorted, copies included (measured)."""


@dataclass(frozen=True)
class Limits:
    """What a join holds in memory at once.

    ``rows`` is about how many rows of a table, keys and bookkeeping alone, and of values of features.
    Of up to ``entities`` entities the rows are read once, features and all. Up to ``answers`` rows are picked
    while columns are read; for more, whole columns are read and picked from.
    """

    rows: int = 10_000_000
    entities: int = 16
    answers: int = 100_000

    @classmethod
    def within(cls, memory: int) -> Limits:
        """The limits that leave a join about a quarter of so many bytes; the answers need the rest."""
        return cls(max(1, memory // (4 * _ROW_BYTES)))


ANY_LIMITS = Limits()


@dataclass(frozen=True)
class Visibility:
    """When the rows of a group's plans became visible, in one history.

    ``publications`` is the publish log of the primary target (after, plan, published_at): plans in
    (after, plan] became visible at published_at; where that is null, each of their rows was pushed, and
    visible from its own created_timestamp. So is a row of no plan, pushed and not folded into the table
    yet; and any row of an offline-only group (``online=False``), where a commit is its publication.
    ``epochs`` are the number and the stamp of each plan that raised the table's epoch, in order.
    """

    publications: pl.DataFrame
    history: History
    online: bool
    epochs: Sequence[tuple[int, datetime]] = ()

    def of(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Rows with the moment AVAILABLE; those that never are, are left out, and some are there twice."""
        rows = self._served(rows)
        if self.history == "backfilled":
            rows = self._backfilled(rows)
        return rows.filter(pl.col(AVAILABLE).is_not_null())

    def by(self, moment: datetime) -> pl.Expr:
        """Whether a row may have been visible by a moment, told by columns that file statistics cover."""
        known = pl.col(CREATED) <= moment
        if self.online:
            reached = self.publications.filter(pl.col("published_at") <= moment).select(
                pl.col("plan").max().fill_null(-1)
            )
            known = (known & self._pushed()) | (pl.col(PLAN) <= reached.item())
        return known | (pl.col(AS_IF) <= moment) if self.history == "backfilled" else known

    def _served(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Rows with the moment AVAILABLE at which they were published, null for never."""
        if not self.online:
            return rows.with_columns(pl.col(CREATED).alias(AVAILABLE))
        rows = rows.join(self._published().lazy(), on=PLAN, how="left")
        return rows.with_columns(pl.when(self._pushed()).then(CREATED).otherwise(AVAILABLE).alias(AVAILABLE))

    def _backfilled(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Served rows, AVAILABLE from their ``_as_if`` where that is earlier.

        A row that was written after a rollback as if before it is one of the epoch of then as well: until its
        publication it may not win over later rows of that epoch.
        """
        earlier = pl.min_horizontal(AVAILABLE, AS_IF)
        if not self.epochs:
            return rows.with_columns(earlier.alias(AVAILABLE))
        begun = self._served(pl.LazyFrame(self.epochs, {PLAN: pl.Int64, CREATED: UTC_US}, orient="row"))
        moments = begun.select(AVAILABLE).drop_nulls().collect().to_series()
        epoch = sum(((pl.col(AS_IF) >= moment).cast(pl.Int64) for moment in moments), start=pl.lit(0, pl.Int64))
        past = pl.col(AS_IF).is_not_null() & (epoch < pl.col(EPOCH))
        then = rows.filter(past).with_columns(epoch.alias(EPOCH), pl.col(AS_IF).alias(AVAILABLE))
        return pl.concat([rows.with_columns(pl.when(past).then(AVAILABLE).otherwise(earlier).alias(AVAILABLE)), then])

    def _published(self) -> pl.DataFrame:
        """Each plan that a publication reached, and its moment: of the first one that reached it."""
        reached = self.publications.filter(pl.col("published_at").is_not_null())
        newest = reached.select(pl.col("plan").max().fill_null(-1)).item()
        first = reached.group_by(pl.col("plan").alias(PLAN)).agg(pl.col("published_at").min().alias(AVAILABLE))
        plans = pl.DataFrame({PLAN: pl.int_range(newest + 1, eager=True)}, schema={PLAN: pl.Int64})
        return plans.join_asof(first.sort(PLAN), on=PLAN, strategy="forward")

    def _pushed(self) -> pl.Expr:
        """Whether a row was pushed: its plan folded pushes, or it waits to be folded."""
        folded = self.publications.filter(pl.col("published_at").is_null())
        plans = folded.select(pl.int_ranges(pl.col("after") + 1, pl.col("plan") + 1).alias(PLAN)).explode(PLAN)
        waiting = pl.col(PLAN).fill_null(0) == 0
        return waiting if plans.is_empty() else waiting | among(pl.col(PLAN), plans[PLAN])


@dataclass(frozen=True)
class StoredRows:
    """The rows of a group: its table at one version, and pushed rows that are not in it yet.

    Every scan of ``table`` must give the same rows in the same order; of them those of plans up to ``closed``
    count. ``epoch`` is the table's: 0 if it was never rolled back. ``pushed`` have the table's columns.
    """

    table: pl.LazyFrame
    closed: int
    epoch: int
    pushed: pl.DataFrame | None = None

    def where(self, predicate: pl.Expr) -> pl.LazyFrame:
        """The rows for which a predicate holds, with their position AT; those pushed come after the table's."""
        rows = self.table.with_row_index(AT).filter((pl.col(PLAN) <= self.closed) & predicate)
        if self.pushed is None or self.pushed.is_empty():
            return rows
        after = self.table.select(pl.len()).collect().item()
        pushed = self.pushed.with_row_index(AT, after)
        return pl.concat([rows.select(pushed.columns), pushed.lazy().filter(predicate)])

    def held(self, questions: Questions, visibility: Visibility, features: Sequence[str]) -> StoredRows:
        """The rows of a few entities alone, in memory."""
        columns = [*questions.keys, *ORDER, PLAN, AS_IF, DELETED, EVENT_DATE, *features]
        mine = self.where(questions.near() & visibility.by(questions.last)).select(columns)
        # Rows that were pushed and wait have no plan; here they are part of the table.
        rows = mine.with_columns(pl.col(PLAN).fill_null(0)).collect(engine="streaming")
        return StoredRows(rows.lazy(), self.closed, self.epoch)

    def values(self, answers: pl.DataFrame, near: pl.Expr, features: Sequence[str], limits: Limits) -> pl.DataFrame:
        """The features of some rows, given by AT and EVENT, in that order; nulls where these are null.

        ``near`` holds for all of the rows.
        """
        wanted, dates = answers[AT], answers[EVENT].dt.date().drop_nulls()
        rows = self.where(among(pl.col(EVENT_DATE), dates) & near)
        if len(wanted) <= limits.answers:
            some = rows.join(wanted.unique().to_frame().lazy(), on=AT, how="semi").select(AT, *features)
            found = some.collect(engine="streaming")
            return wanted.to_frame().join(found, on=AT, how="left", maintain_order="left").drop(AT)
        numbers = rows.select(AT).collect().to_series().to_numpy()
        # Where files were passed over, the rows that are read stand at other positions.
        place = np.zeros(numbers[-1] + 1, dtype=np.uint32)
        place[numbers] = np.arange(len(numbers), dtype=np.uint32)
        positions, there = pl.Series(place[wanted.fill_null(numbers[0]).to_numpy()]), wanted.is_not_null()
        width = max(1, limits.rows // len(numbers))
        batches = []
        for start in range(0, len(features), width):
            batch = rows.select(features[start : start + width]).collect().rechunk()[positions]
            batches.append(batch if there.all() else batch.select(pl.when(there).then(pl.all())))
        return pl.concat(batches, how="horizontal")


def join(
    asked: pl.Series,
    questions: Questions,
    stored: StoredRows,
    visibility: Visibility,
    *,
    features: Sequence[str],
    ttl: timedelta | None,
    limits: Limits = ANY_LIMITS,
) -> pl.DataFrame:
    """What each asked row would have been answered; same rows, same order.

    ``asked`` are the rows' own moments (UTC), to which ttl is measured, ``questions`` come from
    ``questions_of``. The result has the features, event_timestamp of the answer and ``status`` of the row as a
    whole (PRESENT, NOT_FOUND or OUTSIDE_MAX_AGE).
    """
    if questions.entities.height <= limits.entities and questions.asked.height:
        stored = stored.held(questions, visibility, features)
    found = in_rows(_answers(questions, stored, visibility, ttl, limits), len(asked))
    missing = pl.col(EVENT).is_null() | pl.col(DELETED)
    expired = pl.lit(False) if ttl is None else asked - pl.col(EVENT) > ttl
    status = pl.when(missing).then(pl.lit(NOT_FOUND)).when(expired).then(pl.lit(OUTSIDE_MAX_AGE))
    found = found.with_columns(status.otherwise(pl.lit(PRESENT)).cast(STATUS).alias("status"))
    visible = found["status"] == PRESENT
    if not visible.any():
        dtypes = stored.table.collect_schema()
        nothing = pl.DataFrame(schema={f: dtypes[f] for f in features} | {EVENT: UTC_US}).clear(len(asked))
        return nothing.with_columns(found["status"])
    place = found.select(pl.when(visible).then(pl.col(AT, EVENT)))
    values = stored.values(place, questions.near(), features, limits)
    return values.with_columns(place[EVENT], found["status"])


def questions_of(
    asked: pl.DataFrame, keys: Mapping[str, DataType], now: datetime, named: Mapping[str, str] | None = None
) -> Questions:
    """Entity rows (keys, event_timestamp) as questions: keys in stored types, moments not after ``now``.

    Rows later than ``now`` see what is visible now. Null keys match nothing. ``named``: see ``entity_keys``.
    """
    moments = asked.select(pl.min_horizontal(EVENT, pl.lit(now, UTC_US))).to_series()
    return Questions.of(entity_keys(asked, keys, named), moments)


def _answers(
    questions: Questions, stored: StoredRows, visibility: Visibility, ttl: timedelta | None, limits: Limits
) -> pl.DataFrame:
    """The answers among the rows; first among those young enough, then for who found none there."""
    if questions.asked.is_empty():
        return questions.answers(stored.where(pl.lit(False)), limits.rows)
    known = visibility.by(questions.last) & questions.near()
    if ttl is None or stored.epoch:  # after a rollback an old row may stand before a young one
        return questions.answers(visibility.of(stored.where(known)), limits.rows)
    young = pl.col(EVENT_DATE) >= (questions.first - ttl).date()
    found = questions.answers(visibility.of(stored.where(known & young)), limits.rows)
    # Whether the others have a row that is too old, or none, is told by the older rows.
    rest = questions.but(found[ROW])
    return pl.concat([found, rest.answers(visibility.of(stored.where(known & ~young)), limits.rows)])


def feature_status(feature: str, row_status: str = "status") -> pl.Expr:
    """A feature's status from its value and the status of its row."""
    empty = (pl.col(row_status) == PRESENT) & pl.col(feature).is_null()
    return pl.when(empty).then(pl.lit(NULL_VALUE, STATUS)).otherwise(pl.col(row_status))


def entity_keys(
    asked: pl.DataFrame, keys: Mapping[str, DataType], named: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """The key columns of entity rows in their stored types; InvalidInput if one is missing or does not fit.

    ``named`` says which columns some keys come from, where these do not have the keys' names.
    """
    there = {key: (named or {}).get(key, key) for key in keys}
    missing = [column for column in there.values() if column not in asked.columns]
    if missing:
        raise InvalidInput(f"the entity rows lack key column(s) {missing}; they have {asked.columns}")
    asked = asked.select(pl.col(column).alias(key) for key, column in there.items())
    return cast_exactly(asked, keys, f"an entity key does not fit its declared type {dict(keys)}")
