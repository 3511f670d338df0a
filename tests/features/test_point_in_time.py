"""The point-in-time join against a double loop over rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from features.feature_rows import table_columns
from features.point_in_time import Limits, StoredRows, Visibility, feature_status, join, questions_of

T0 = datetime(2026, 3, 1, tzinfo=UTC)
STEP = timedelta(hours=5)
NOW = T0 + 40 * STEP
KEYS = {"a": pl.Int64(), "b": pl.String()}
SCHEMA = table_columns({**KEYS, "value": pl.Float64()}, list(KEYS))

minutes = st.integers(0, 30).map(lambda m: T0 + m * STEP)
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


NEWEST = 99


@st.composite
def tables(draw):
    """Rows in files as a table may have them, some of them pushed and not folded in yet, and a publish log."""
    rows = draw(st.lists(ROW, max_size=14).map(by_order))
    published = draw(st.dictionaries(st.integers(1, 4), minutes, max_size=3))
    folds = draw(st.sets(st.integers(1, 4), max_size=1)) - set(published)
    for row in rows:
        row["plan"] = draw(st.just(row["plan"]) | st.just(row["plan"]) | st.none())
    return rows, published, folds


def log_of(published, folds=()):
    entries = [(plan - 1, plan, at) for plan, at in published.items()] + [(plan - 1, plan, None) for plan in folds]
    schema = {"after": pl.Int64, "plan": pl.Int64, "published_at": pl.Datetime("us", "UTC")}
    return pl.DataFrame(entries, schema=schema, orient="row")


def stored(rows, epoch=1):
    """The rows with a plan as a table, the others as pushed."""
    return StoredRows(
        frame_of([r for r in rows if r["plan"] is not None]),
        NEWEST,
        epoch,
        frame_of([r for r in rows if r["plan"] is None]).collect(),
    )


@settings(max_examples=300, deadline=None)
@given(
    table=tables(),
    asked=st.lists(st.tuples(st.none() | keys, st.integers(0, 60).map(lambda m: T0 + m * STEP))),
    history=st.sampled_from(["as_served", "backfilled"]),
    ttl=st.none() | st.integers(0, 20).map(lambda m: m * STEP),
    online=st.booleans(),
    rollback=st.none() | st.tuples(st.integers(1, 4), minutes),
    limits=st.builds(Limits, st.integers(1, 20), st.sampled_from([0, 16]), st.sampled_from([0, 100_000])),
)
def test_join_equals_a_double_loop(table, asked, history, ttl, online, rollback, limits):
    rows, published, folds = table
    if rollback is None:
        rows = by_order([row | {"epoch": 0} for row in rows])
    entities = pl.DataFrame(
        [(*(k or (None, "x")), t) for k, t in asked],
        schema={**KEYS, "event_timestamp": pl.Datetime("us", "UTC")},
        orient="row",
    )
    found = join(
        entities["event_timestamp"],
        questions_of(entities, KEYS, NOW),
        stored(rows, int(rollback is not None)),
        Visibility(log_of(published, folds), history, online, [] if rollback is None else [rollback]),
        features=["value"],
        ttl=ttl,
        limits=limits,
    )
    found = found.with_columns(feature_status("value").alias("status"))

    def published_at(plan, created):
        if not online or plan is None or plan in folds:
            return created
        reaching = [reached for reached in published if reached >= plan]
        return published[min(reaching)] if reaching else None

    begun = None if rollback is None else published_at(*rollback)
    seen = [row | {"available": published_at(row["plan"], row["created"])} for row in rows]
    if history == "backfilled":  # each row is one of the epoch in which it claims to have been known as well
        for row in [row for row in rows if row["as_if"] is not None]:
            then = int(begun is not None and row["as_if"] >= begun)
            seen.append(row | {"available": row["as_if"], "epoch": min(row["epoch"], then)})
    expected = [
        oracle.answer([r for r in seen if r["key"] == key], at, NOW, ttl) if key else (None, "NOT_FOUND")
        for key, at in asked
    ]
    assert list(zip(found["value"].to_list(), found["status"].to_list(), strict=True)) == expected


def test_exactly_ttl_old_is_kept_and_a_microsecond_more_is_not():
    row = {"key": (1, "x"), "event_timestamp": T0, "created": T0, "plan": 1, "as_if": T0, "epoch": 0}
    rows = stored([row | {"deleted": False, "value": 1.0}])
    moments = [T0 + timedelta(minutes=5), T0 + timedelta(minutes=5, microseconds=1)]
    asked = pl.DataFrame({"a": [1, 1], "b": ["x", "x"], "event_timestamp": moments})
    questions = questions_of(asked, KEYS, NOW)
    visibility = Visibility(log_of({}), "backfilled", online=True)
    found = join(asked["event_timestamp"], questions, rows, visibility, features=["value"], ttl=timedelta(minutes=5))
    assert found["status"].to_list() == ["PRESENT", "OUTSIDE_MAX_AGE"]
    assert found["value"].to_list() == [1.0, None]
