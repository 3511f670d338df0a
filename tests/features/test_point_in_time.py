"""The point-in-time join against a double loop over rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from features.feature_rows import table_columns
from features.point_in_time import feature_status, join, with_availability

T0 = datetime(2026, 3, 1, tzinfo=UTC)
NOW = T0 + timedelta(minutes=40)
KEYS = {"a": pl.Int64(), "b": pl.String()}
SCHEMA = table_columns({**KEYS, "value": pl.Float64()}, list(KEYS))

minutes = st.integers(0, 30).map(lambda m: T0 + timedelta(minutes=m))
keys = st.tuples(st.integers(1, 2), st.sampled_from(["x", "12"]))
ROW = st.fixed_dictionaries(
    {
        "key": keys,
        "event_timestamp": minutes,
        "created": minutes,
        "plan": st.integers(1, 4),
        "as_if": st.none() | minutes,
        "epoch": st.integers(0, 1),
        "deleted": st.booleans(),
        "value": st.none() | st.integers(0, 99).map(float),
    }
)


def by_order(rows):
    """Rows with unique order within a key, as a real table has them: one row per run and key."""
    unique = {(r["key"], r["epoch"], r["event_timestamp"], r["created"]): r for r in rows}
    return list(unique.values())


def frame_of(rows):
    columns = ["a", "b", "event_timestamp", "created_timestamp", "_plan", "_as_if", "_epoch", "_deleted", "event_date"]
    return pl.DataFrame(
        [
            (
                *(*r["key"], r["event_timestamp"], r["created"], r["plan"], r["as_if"], r["epoch"], r["deleted"]),
                *(r["event_timestamp"].date(), r["value"]),
            )
            for r in rows
        ],
        schema={c: SCHEMA[c] for c in [*columns, "value"]},
        orient="row",
    ).lazy()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(ROW, max_size=12).map(by_order),
    published=st.dictionaries(st.integers(1, 4), minutes, max_size=3),
    asked=st.lists(st.tuples(st.none() | keys, st.integers(0, 60).map(lambda m: T0 + timedelta(minutes=m)))),
    history=st.sampled_from(["as_served", "backfilled"]),
    ttl=st.none() | st.integers(0, 20).map(lambda m: timedelta(minutes=m)),
    online=st.booleans(),
)
def test_join_equals_a_double_loop(rows, published, asked, history, ttl, online):
    log = pl.DataFrame(
        {"plan": list(published), "published_at": list(published.values())},
        schema={"plan": pl.Int64, "published_at": pl.Datetime("us", "UTC")},
    )
    entities = pl.DataFrame(
        [(*(k or (None, "x")), t) for k, t in asked],
        schema={**KEYS, "event_timestamp": pl.Datetime("us", "UTC")},
        orient="row",
    )
    available = with_availability(frame_of(rows), log, history, online=online)
    found = join(entities, available, keys=KEYS, features=["value"], now=NOW, ttl=ttl)
    found = found.with_columns(feature_status("value").alias("status"))

    def published_at(row):
        later = [at for plan, at in published.items() if plan >= row["plan"]]
        first = min((p for p in published if p >= row["plan"]), default=None)
        moment = row["created"] if not online else (published[first] if later else None)
        if history == "backfilled" and row["as_if"] is not None:
            moment = row["as_if"] if moment is None else min(moment, row["as_if"])
        return moment

    for row in rows:
        row["available"] = published_at(row)
    expected = [
        oracle.answer([r for r in rows if r["key"] == key], at, NOW, ttl) if key else (None, "NOT_FOUND")
        for key, at in asked
    ]
    assert list(zip(found["value"].to_list(), found["status"].to_list(), strict=True)) == expected


def test_exactly_ttl_old_is_kept_and_a_microsecond_more_is_not():
    row = {"key": (1, "x"), "event_timestamp": T0, "created": T0, "plan": 1, "as_if": T0, "epoch": 0}
    rows = with_availability(frame_of([row | {"deleted": False, "value": 1.0}]), no_log(), "backfilled", online=True)
    moments = [T0 + timedelta(minutes=5), T0 + timedelta(minutes=5, microseconds=1)]
    asked = pl.DataFrame({"a": [1, 1], "b": ["x", "x"], "event_timestamp": moments})
    found = join(asked, rows, keys=KEYS, features=["value"], now=NOW, ttl=timedelta(minutes=5))
    assert found["status"].to_list() == ["PRESENT", "OUTSIDE_MAX_AGE"]
    assert found["value"].to_list() == [1.0, None]


def no_log():
    return pl.DataFrame(schema={"plan": pl.Int64, "published_at": pl.Datetime("us", "UTC")})
