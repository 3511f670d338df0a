"""Push: one-row pushes a second, durable and online each, and rows a second in pushes of ten thousand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from benchmarks.measurement import Measurement
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.times import UTC_US
from infra.storage.delta import DeltaLake
from infra.wiring import connect

FEATURES = 10
PUSHES = 1_000
COMMITS = 50
ROWS, BATCHES = 10_000, 20
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"card_id": pl.Int64, "at": UTC_US, **{f"v{n}": pl.Float64 for n in range(FEATURES)}},
    event_timestamp="at",
)
group = FeatureGroup(
    "cards",
    "1.0.0",
    card,
    payments,
    [Feature(f"v{n}", pl.col(f"v{n}")) for n in range(FEATURES)],
    grain="event",
    owner="benchmarks",
    description="Ten numbers of a card.",
)


def push_one_row() -> Measurement:
    """Pushes of one row a second, against one-row commits to a Delta table; the fold is not counted."""
    rows = [_rows(1, number) for number in range(PUSHES)]
    with tempfile.TemporaryDirectory() as folder:
        with _store(Path(folder)) as store:
            store.push(group, _rows(1, PUSHES))  # opens the table
            seconds = _seconds(lambda: [store.push(group, row) for row in rows])
            assert store.fold(group).rows == PUSHES + 1
        lake = DeltaLake(Path(folder) / "commits")
        commits = _seconds(
            lambda: [lake.append_log("rows", row, app_id="row", number=n) for n, row in enumerate(rows[:COMMITS], 1)]
        )
    value, baseline = PUSHES / seconds, COMMITS / commits
    return Measurement(value, "pushes/s", baseline, baseline / value)


def push_ten_thousand_rows() -> Measurement:
    """Rows a second in pushes of 10,000 rows, against the same rows through a source: write, materialize, sync."""
    batches = [_rows(ROWS, number) for number in range(BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        with _store(Path(folder) / "pushed") as store:
            store.push(group, _rows(1, ROWS))
            value = ROWS * BATCHES / _seconds(lambda: [store.push(group, batch) for batch in batches])
        with _store(Path(folder) / "written") as store:
            for batch in batches:
                store.write_source(payments, batch.rename({"event_timestamp": "at"}))
            baseline = ROWS * BATCHES / _seconds(lambda: (store.materialize_incremental(group), store.sync(group)))
    return Measurement(value, "rows/s", baseline, baseline / value)


def _store(home: Path) -> FeatureStore:
    return connect(Registry([group]), home, clock=lambda: BEGIN)


def _rows(count: int, number: int) -> pl.DataFrame:
    first = number * count
    keys = pl.int_range(first, first + count, eager=True).alias("card_id")
    values = [pl.lit(float(n + number)).alias(f"v{n}") for n in range(FEATURES)]
    return keys.to_frame().select("card_id", pl.lit(BEGIN, UTC_US).alias("event_timestamp"), *values)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
