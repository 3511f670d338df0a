"""Point-in-time joins on groups of 10 M rows × 10 features, against joins written by hand on the same files.

Ours and theirs run in turns, each in a process of its own that says its time and peak memory.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import polars as pl
from deltalake import DeltaTable

from benchmarks.measurement import Measurement
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.feature_rows import AS_IF, CREATED, DELETED, EPOCH, EVENT, PLAN
from features.stores import FeatureTable, Plan
from features.times import UTC_US
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore

ROUNDS = 3
ROWS, DAYS, BACKFILLED, ENTITIES = 10_000_000, 30, 20, 100_000
"""Rows in all, over so many days, of which the first ones are a backfill and the others a daily increment each."""

T0 = datetime(2026, 3, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=60)
DAY, DELAY = timedelta(days=1), timedelta(minutes=15)
SHARE = 0.05
"""Of the corrected group's rows so many are late, so many are corrected and so many backfilled anew."""

NAMES = [f"f{i}" for i in range(10)]
card = Entity("card", keys={"card_id": pl.Int64})
events = Source("events", schema={"card_id": pl.Int64, "at": pl.Datetime, "x": pl.Float64}, event_timestamp="at")


def group(name: str) -> FeatureGroup:
    """A group of ten floats per event."""
    features = [Feature(f, pl.col("x") * i) for i, f in enumerate(NAMES)]
    about = {"owner": "benchmarks", "description": "Ten random features."}
    return FeatureGroup(name, "1.0.0", card, events, features, grain="event", publish_delay="15m", **about)


def open_store(lake: Path, groups: int = 1) -> FeatureStore:
    """A store on a lake with groups g0, g1, ..., two months after the first row."""
    registry = Registry([group(f"g{i}") for i in range(groups)])
    return FeatureStore(registry, DeltaLake(lake), MemoryOnlineStore(), clock=lambda: NOW)


class Writer:
    """Fills a group's table plan by plan, as runs and syncs would have."""

    def __init__(self, lake: Path, name: str) -> None:
        self._lake, self._group = DeltaLake(lake), group(name)
        self._random = np.random.default_rng(0)
        columns = {"card_id": pl.Int64()} | dict.fromkeys(NAMES, pl.Float64())
        self._table: FeatureTable = self._lake.feature_table(self._group.table_id, columns, ["card_id"])
        self._number = 0

    def day(self, number: int) -> pl.DataFrame:
        """A day's feature rows, unordered, one per card and moment."""
        count = ROWS // DAYS
        moments = self._random.integers(0, 86_400_000_000, count)
        rows = pl.DataFrame({"card_id": self._random.integers(0, ENTITIES, count), EVENT: moments})
        when = pl.lit(T0 + number * DAY, UTC_US) + pl.col(EVENT).cast(pl.Duration("us"))
        return self.valued(rows.with_columns(when.alias(EVENT)).unique(["card_id", EVENT]))

    def valued(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows with new values."""
        return rows.with_columns(pl.Series(f, self._random.standard_normal(rows.height)) for f in NAMES)

    def run(self, kind: str, stamp: datetime, chunks: list[Callable[[], pl.DataFrame]]) -> None:
        """One plan over chunks of rows, and its publication five minutes later."""
        self._number += 1
        spans = [(T0, T0 + DAYS * DAY)] * len(chunks)
        plan = Plan(self._number, kind, stamp, None, {"events": (None, 0)}, spans, {})
        self._table.open_plan(plan)
        for number, rows in enumerate(chunks):
            as_if = pl.col(EVENT) + DELAY if kind == "backfill" else pl.lit(None, UTC_US)
            stored = rows().with_columns(
                pl.lit(stamp, UTC_US).alias(CREATED),
                pl.lit(self._number, pl.Int64).alias(PLAN),
                as_if.alias(AS_IF),
                pl.lit(0, pl.Int64).alias(EPOCH),
                pl.lit(False).alias(DELETED),
            )
            self._table.append(plan, number, stored.sort("card_id", EVENT))
        self._table.close_plan(plan, {})
        entry = {"table_id": self._group.table_id, "target": "memory", "after": self._number - 1, "plan": self._number}
        log = pl.DataFrame([entry]).with_columns(pl.lit(stamp + timedelta(minutes=5), UTC_US).alias("published_at"))
        self._lake.append_publications(log, app_id=f"memory:{self._group.table_id}", number=self._number)


def fill(lake: Path, name: str, *, corrected: bool = False) -> None:
    """A backfill of twenty days and ten daily increments; ``corrected`` adds late rows, corrections, a backfill."""
    writer = Writer(lake, name)
    kept: list[pl.DataFrame] = []

    def backfilled(number: int) -> pl.DataFrame:
        rows = writer.day(number)
        kept.append(rows.sample(fraction=SHARE if corrected else 0.0, seed=number))
        return rows

    begin = T0 + BACKFILLED * DAY + timedelta(hours=1)
    writer.run("backfill", begin, [lambda n=n: backfilled(n) for n in range(BACKFILLED)])
    late = corrections = writer.day(0).clear()
    for number in range(BACKFILLED, DAYS):
        rows = writer.day(number)
        delayed = rows.sample(fraction=SHARE if corrected else 0.0, seed=number)
        on_time = rows.join(delayed, on=["card_id", EVENT], how="anti") if corrected else rows
        written = pl.concat([on_time, late, writer.valued(corrections)])
        writer.run("incremental", T0 + (number + 1) * DAY + timedelta(hours=1), [lambda rows=written: rows])
        late, corrections = delayed, on_time.sample(fraction=SHARE if corrected else 0.0, seed=number)
    if corrected:
        writer.run("backfill", T0 + (DAYS + 1) * DAY, [lambda rows=rows: writer.valued(rows) for rows in kept])


def asked(count: int) -> pl.DataFrame:
    """Random cards at random moments of the thirty days."""
    random = np.random.default_rng(1)
    moments = pl.Series(EVENT, random.integers(0, DAYS * 86_400_000_000, count)).cast(pl.Duration("us"))
    frame = pl.DataFrame({"card_id": random.integers(0, ENTITIES, count)}).with_columns(moments)
    return frame.with_columns((pl.lit(T0, UTC_US) + pl.col(EVENT)).alias(EVENT))


def files(lake: Path, name: str) -> list[str]:
    """The Parquet files of a group's table."""
    return DeltaTable(str(lake / "features" / name / "v1")).file_uris()


def ours(lake: Path, rows: pl.DataFrame, groups: int = 1) -> pl.DataFrame:
    """Our training set."""
    refs = [f"g{i}:{f}" for i in range(groups) for f in NAMES]
    return open_store(lake, groups).get_historical_features(rows, refs, full_feature_names=True).to_polars()


def by_polars(lake: Path, rows: pl.DataFrame, groups: int = 1, buckets: int = 1) -> pl.DataFrame:
    """What one writes by hand: an as-of join by event time, which knows of no lateness, in buckets of entities."""
    parts = []
    for bucket in range(buckets):
        mine = pl.col("card_id") % buckets == bucket
        part = rows.lazy().filter(mine).sort(EVENT)
        for number in range(groups):
            table = pl.scan_parquet(files(lake, f"g{number}"), hive_partitioning=False)
            right = table.filter(mine).select("card_id", EVENT, *NAMES).sort(EVENT)
            part = part.join_asof(right, on=EVENT, by="card_id", suffix=f"_{number}", check_sortedness=False)
        parts.append(part.collect())
    return pl.concat(parts)


def by_duckdb(lake: Path, rows: pl.DataFrame) -> pl.DataFrame:
    """The same in DuckDB."""
    entities = rows.to_arrow()
    values = ", ".join(f"t.{f}" for f in NAMES)
    query = f"""
        SELECT e.*, {values} FROM entities e ASOF LEFT JOIN read_parquet($files, hive_partitioning=false) t
        ON e.card_id = t.card_id AND e.{EVENT} >= t.{EVENT}"""
    connection = duckdb.connect()
    connection.register("entities", entities)
    return pl.DataFrame(connection.sql(query, params={"files": files(lake, "g0")}).to_arrow_table())


SIDES: dict[str, Callable[[Path], pl.DataFrame]] = {
    "ours_1m": lambda lake: ours(lake, asked(1_000_000)),
    "polars_1m": lambda lake: by_polars(lake, asked(1_000_000)),
    "duckdb_1m": lambda lake: by_duckdb(lake, asked(1_000_000)),
    "ours_3x10m": lambda lake: ours(lake, asked(10_000_000), 3),
    "polars_3x10m": lambda lake: by_polars(lake, asked(10_000_000), 3, buckets=8),
}


def apart(side: str, lake: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one side in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_pit", side, str(lake)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    seconds, peak = json.loads(told)
    return seconds, peak


def in_turns(lake: Path, mine: str, theirs: str, rounds: int = ROUNDS) -> tuple[float, float, float]:
    """The median seconds of both sides, and the greatest peak megabytes of the first."""
    pairs = [(apart(mine, lake), apart(theirs, lake)) for _ in range(rounds)]
    return median(m[0] for m, _ in pairs), median(t[0] for _, t in pairs), max(m[1] for m, _ in pairs)


def _compared(theirs: str, *, corrected: bool = False) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), "g0", corrected=corrected)
        value, baseline, peak = in_turns(Path(folder), "ours_1m", theirs)
    return Measurement(value, "s", baseline, value / baseline, peak)


def pit_1m_10m() -> Measurement:
    """1 M entity rows against Polars' join_asof on the same files."""
    return _compared("polars_1m")


def pit_1m_10m_duckdb() -> Measurement:
    """1 M entity rows against DuckDB's ASOF join on the same files."""
    return _compared("duckdb_1m")


def pit_corrected() -> Measurement:
    """1 M entity rows against join_asof, with late rows, corrections and a second backfill in the group."""
    return _compared("polars_1m", corrected=True)


def pit_3x10m() -> Measurement:
    """10 M entity rows on three groups, in rows a second, against join_asof in eight buckets."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            fill(Path(folder), f"g{number}")
        value, baseline, peak = in_turns(Path(folder), "ours_3x10m", "polars_3x10m", 1)
    return Measurement(10_000_000 / value, "rows/s", 10_000_000 / baseline, value / baseline, peak)


def lookup_offline() -> Measurement:
    """One entity row, against a filter on the same files; the median of twenty cards."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder)
        fill(lake, "g0")
        store, mine, theirs = open_store(lake), [], []
        refs = [f"g0:{f}" for f in NAMES]
        for row in asked(21).iter_slices(1):
            began = time.perf_counter()
            store.get_historical_features(row, refs)
            middle = time.perf_counter()
            found = pl.scan_parquet(files(lake, "g0")).filter(pl.col("card_id") == row["card_id"][0])
            found.filter(pl.col(EVENT) <= row[EVENT][0]).sort(EVENT).last().collect()
            mine.append(middle - began)
            theirs.append(time.perf_counter() - middle)
    value, baseline = median(mine[1:]), median(theirs[1:])  # the first opens the store's tables
    return Measurement(value, "s", baseline, value / baseline)


if __name__ == "__main__":
    start = time.perf_counter()
    answered = SIDES[sys.argv[1]](Path(sys.argv[2]))
    taken = time.perf_counter() - start
    unit = 1_000_000 if sys.platform == "darwin" else 1_000  # ru_maxrss counts bytes there, kilobytes here
    print(json.dumps([taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit]))
