"""What a source takes in, and what it refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest

from features import Source
from features.errors import DefinitionError, InvalidInput

visits = Source("visits", schema={"shop": pl.String, "n": pl.Int32, "at": pl.Datetime}, event_timestamp="at")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
YEAR_10000 = pl.Series([253_402_300_800_000_000]).cast(pl.Datetime("us", "UTC"))
"""Its first moment: the folder of its date could not be read back."""


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        NOON.replace(tzinfo=None),
        NOON.astimezone(timezone(timedelta(hours=5, minutes=30))),
        pl.Series([NOON.replace(tzinfo=None)]).cast(pl.Datetime("ns"))[0],
    ],
    ids=["utc", "naive", "zoned", "ns"],
)
def test_every_way_to_write_a_moment_is_stored_as_utc_microseconds(moment):
    frame = pl.DataFrame({"shop": ["a"], "n": [1], "at": [moment]})
    found = visits.conform(frame)
    assert found.schema == {"shop": pl.String, "n": pl.Int32, "at": pl.Datetime("us", "UTC")}
    assert found["at"].to_list() == [NOON]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_time_units_are_converted(unit):
    at = pl.Series([NOON]).cast(pl.Datetime(unit, "UTC"))
    assert visits.conform(pl.DataFrame({"shop": ["a"], "n": [1], "at": at}))["at"].to_list() == [NOON]


def test_a_date_is_its_midnight_and_other_columns_are_dropped():
    frame = pl.DataFrame({"extra": [1], "shop": ["a"], "n": [1.0], "at": [date(2026, 3, 1)]})
    found = visits.conform(frame)
    assert found["at"].to_list() == [NOON.replace(hour=0)]
    assert found.columns == ["shop", "n", "at"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shop": ["a"], "at": [NOON]}, r"lack column\(s\) \['n'\]"),
        ({"shop": ["a"], "n": [1.5], "at": [NOON]}, "'n' holds fractions"),
        ({"shop": ["a"], "n": [2**40], "at": [NOON]}, "wrong type"),
        ({"shop": ["a"], "n": [1], "at": [None]}, "1 row.* have no 'at'"),
        ({"shop": ["a"], "n": [1], "at": ["noon"]}, "not a time"),
        ({"shop": ["a"], "n": [1], "at": [date(1969, 12, 31)]}, "before 1970"),
        ({"shop": ["a"], "n": [1], "at": YEAR_10000}, "1 row.* after 9999"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(columns, message):
    with pytest.raises(InvalidInput, match=message):
        visits.conform(pl.DataFrame(columns))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_timestamp": "when"}, "event_timestamp 'when' is not in its schema"),
        ({"keys": ["id"]}, "column 'id' is not in its schema"),
        ({"columns": {"id": "x"}}, "column 'id' is not in its schema"),
        ({"name": "../x"}, "a name is lower case"),
        ({"schema": {"at": pl.Datetime, "event_date": pl.Date}}, "'event_date' is reserved"),
    ],
)
def test_a_wrong_definition_is_refused_when_it_is_written_down(options, message):
    given = {"name": "visits", "schema": {"at": pl.Datetime}, "event_timestamp": "at"}
    with pytest.raises(DefinitionError, match=message):
        Source(**(given | options))
