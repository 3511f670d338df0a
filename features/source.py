"""Sources: the raw records that features are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from features.checks import check_dtypes, check_is, check_several
from features.entity import DataType, check_name
from features.errors import DefinitionError, InvalidInput
from features.stored_types import cast_exactly, plain_dtype
from features.times import EPOCH, LATEST, UTC_US, as_utc, utc_column

FILE_SHA256 = "_file_sha256"
RECORD_OFFSET = "_record_offset"
INGESTED_AT = "_ingested_at"
EVENT_DATE = "event_date"
BOOKKEEPING: dict[str, DataType] = {
    FILE_SHA256: pl.String(),
    RECORD_OFFSET: pl.Int64(),
    INGESTED_AT: UTC_US,
    EVENT_DATE: pl.Date(),
}
"""What every bronze row carries besides its own columns."""


@dataclass(frozen=True, eq=False)
class Source:
    """A table of raw records, one row an event.

    ``schema`` are the columns with their types, ``event_timestamp`` names the one that says when a
    row happened. With ``keys``, rows of equal keys and event time are one record and the latest
    ingested wins; without, every row counts. ``live_since`` is the moment from which rows arrive
    when they are ingested; before it (default: always) a row counts as arrived at its event time.
    ``columns`` documents columns; values of those that are ``sensitive`` are masked in reports.
    """

    name: str
    schema: Mapping[str, DataType]
    event_timestamp: str
    keys: Sequence[str] | None = None
    live_since: datetime | None = None
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    sensitive: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._check_name()
        self._check_kinds()
        if self.event_timestamp not in self.schema:
            raise DefinitionError(
                f"source {self.name!r}: event_timestamp {self.event_timestamp!r} is not in its schema; "
                f"add it or name one of {sorted(self.schema)}"
            )
        for column in [*(self.keys or ()), *self.columns, *self.sensitive]:
            if column not in self.schema:
                raise DefinitionError(f"source {self.name!r}: column {column!r} is not in its schema")
        for column, dtype in self.schema.items():
            if column in BOOKKEEPING:
                raise DefinitionError(f"source {self.name!r}: column {column!r} is reserved; rename it")
            plain_dtype(f"source {self.name!r}", column, dtype)  # refuses what no table can hold
        if self.schema[self.event_timestamp].base_type() not in (pl.Datetime, pl.Date):
            raise DefinitionError(
                f"source {self.name!r}: event_timestamp {self.event_timestamp!r} is "
                f"{self.schema[self.event_timestamp]}, not a time: declare it as pl.Datetime"
            )
        if self.live_since is not None:
            object.__setattr__(self, "live_since", as_utc(self.live_since))

    def _check_name(self) -> None:
        check_name("source", self.name)

    def _check_kinds(self) -> None:
        who = f"source {self.name!r}"
        check_dtypes(who, "schema", self.schema)
        check_is(who, "event_timestamp", self.event_timestamp, str, "'paid_at'")
        check_is(who, "columns", self.columns, Mapping, "{'amount': 'What was paid, in euros.'}")
        check_several(who, "sensitive", self.sensitive, str, "['card_number']")
        if self.keys is not None:
            check_several(who, "keys", self.keys, str, "['card_id']")

    @property
    def dtypes(self) -> dict[str, DataType]:
        """The stored schema: the declared columns as tables keep them, event time as UTC microseconds."""
        return {c: plain_dtype(f"source {self.name!r}", c, t) for c, t in self._declared.items()}

    @property
    def _declared(self) -> dict[str, DataType]:
        return {**self.schema, self.event_timestamp: UTC_US}

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame's declared columns in declared order and stored types; other columns are dropped.

        Raises InvalidInput naming the columns that are missing or cannot be cast without loss.
        """
        missing = [c for c in self.schema if c not in frame.columns]
        if missing:
            raise InvalidInput(f"source {self.name!r}: the rows lack column(s) {missing}; add them")
        time = self.event_timestamp
        frame = frame.with_columns(utc_column(time, frame.schema[time]))
        complaint = f"source {self.name!r}: a column has the wrong type"
        # First to what is declared (a category must be one, a small number small), then to what is stored.
        conformed = cast_exactly(cast_exactly(frame, self._declared, complaint), self.dtypes, complaint)
        # Dates of five-digit years name folders that nothing reads again.
        if odd := conformed.filter(~pl.col(time).is_between(EPOCH, LATEST)).height:
            raise InvalidInput(
                f"source {self.name!r}: {odd} row(s) have a {time!r} before 1970 or after 9999; correct the times"
            )
        if nulls := conformed[time].null_count():
            raise InvalidInput(f"source {self.name!r}: {nulls} row(s) have no {time!r}; every event needs its time")
        return conformed

    def taken_in(self, frame: pl.DataFrame, at: datetime) -> pl.DataFrame:
        """The frame's rows as they are stored when they come without a file: conformed, with BOOKKEEPING.

        ``at`` is the moment at which they arrive (UTC). Raises what ``conform`` does.
        """
        return self.conform(frame).with_columns(
            pl.lit(None, pl.String).alias(FILE_SHA256),
            pl.int_range(pl.len(), dtype=pl.Int64).alias(RECORD_OFFSET),
            pl.lit(at, UTC_US).alias(INGESTED_AT),
            pl.col(self.event_timestamp).dt.date().alias(EVENT_DATE),
        )
