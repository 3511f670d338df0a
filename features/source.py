"""Sources: the raw records that features are computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from features.entity import DataType, check_name
from features.errors import DefinitionError, InvalidInput
from features.times import UTC_US, as_utc, utc_column

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
    ``columns`` documents columns.
    """

    name: str
    schema: Mapping[str, DataType]
    event_timestamp: str
    keys: Sequence[str] | None = None
    live_since: datetime | None = None
    description: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("source", self.name)
        if self.event_timestamp not in self.schema:
            raise DefinitionError(
                f"source {self.name!r}: event_timestamp {self.event_timestamp!r} is not in its schema; "
                f"add it or name one of {sorted(self.schema)}"
            )
        for column in [*(self.keys or ()), *self.columns]:
            if column not in self.schema:
                raise DefinitionError(f"source {self.name!r}: column {column!r} is not in its schema")
        for column in self.schema:
            if column in BOOKKEEPING:
                raise DefinitionError(f"source {self.name!r}: column {column!r} is reserved; rename it")
        if self.live_since is not None:
            object.__setattr__(self, "live_since", as_utc(self.live_since))

    @property
    def dtypes(self) -> dict[str, DataType]:
        """The stored schema: the declared columns, event time as UTC microseconds."""
        return {**self.schema, self.event_timestamp: UTC_US}

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame's declared columns in declared order and types; other columns are dropped.

        Raises InvalidInput naming the columns that are missing or cannot be cast without loss.
        """
        missing = [c for c in self.schema if c not in frame.columns]
        if missing:
            raise InvalidInput(f"source {self.name!r}: the rows lack column(s) {missing}; add them")
        time = self.event_timestamp
        exprs = [utc_column(c, frame.schema[c]) if c == time else pl.col(c).cast(t) for c, t in self.dtypes.items()]
        try:
            conformed = frame.select(exprs)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise InvalidInput(f"source {self.name!r}: a column has the wrong type: {reason}") from error
        cut = [c for c, t in self.schema.items() if frame.schema[c].is_float() and conformed.schema[c].is_integer()]
        for column in cut:
            if not conformed[column].cast(pl.Float64).eq_missing(frame[column].cast(pl.Float64)).all():
                raise InvalidInput(
                    f"source {self.name!r}: {column!r} holds fractions, its type is an integer: round them"
                )
        if nulls := conformed[time].null_count():
            raise InvalidInput(f"source {self.name!r}: {nulls} row(s) have no {time!r}; every event needs its time")
        return conformed
