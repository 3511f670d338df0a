"""Windows: one day's increment against computing the same from raw rows, small and large; runs with nothing to do."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measurement import Measurement, seconds
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.compute import compute
from features.inputs import Input
from features.intervals import Interval
from features.stores import Plan
from features.times import duration
from infra.wiring import connect

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
DAYS = 30
ROWS = 1_000_000
ABOUT = {"owner": "bench", "description": "bench"}

user = Entity("user", keys={"user_id": pl.Int64})
clicks = Source(
    "clicks", schema={"user_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}, event_timestamp="at"
)
spent = pl.col("amount")
FEATURES = [
    Feature("spent_sum_30d", spent.sum(), window="30d"),
    Feature("spent_mean_30d", spent.mean(), window="30d"),
    Feature("clicks_30d", pl.len(), window="30d"),
]
daily = FeatureGroup("spending", "1.0.0", user, clicks, FEATURES, grain="window", every="1d", **ABOUT)
hourly = FeatureGroup("spending", "1.0.0", user, clicks, FEATURES, grain="window", every="1h", **ABOUT)


def increment_30d() -> Measurement:
    """A day's increment of 30-day windows each hour, 1 M events a day, 200,000 users, and the same from raw rows."""
    return _increment(hourly)


def increment_30d_daily() -> Measurement:
    """The same with one window a day, the least that raw rows can cost."""
    return _increment(daily)


def _increment(group: FeatureGroup) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        bench = _Spending(Path(folder), group, users=200_000)
        bench.month()
        bench.write(DAYS)
        ours = seconds(lambda: bench.store.materialize_incremental(group))
        raw = bench.from_raw()
        return Measurement(ours, "s", raw, raw / ours)


def increment_10m_entities() -> Measurement:
    """A day's increment of 30-day windows over 10 M users, of whom 1 M come each day."""
    with tempfile.TemporaryDirectory() as folder:
        bench = _Spending(Path(folder), daily, users=10_000_000)
        bench.month()
        bench.write(DAYS)
        return Measurement(seconds(lambda: bench.store.materialize_incremental(daily)), "s")


def noop_1000() -> Measurement:
    """An incremental run with nothing to do over 1,000 daily partitions."""
    with tempfile.TemporaryDirectory() as folder:
        now = T0 + 1000 * DAY
        store = connect(Registry([daily]), Path(folder), lambda: now)
        at = pl.datetime_range(T0, now, "1d", closed="left", eager=True)
        store.write_source(clicks, pl.DataFrame({"user_id": range(1000), "amount": 1.0, "at": at}))
        store.materialize_incremental(daily)
        run = seconds(lambda: store.materialize_incremental(daily))
        store.close()
        return Measurement(run, "s")


class _Spending:
    """A store with a month of clicks, a day per commit."""

    def __init__(self, folder: Path, group: FeatureGroup, users: int) -> None:
        self.now = T0
        self.group, self.users = group, users
        self.store: FeatureStore = connect(Registry([group]), folder, lambda: self.now)
        self._random = np.random.default_rng(7)

    def write(self, day: int) -> None:
        """One day's clicks, written at its end."""
        at = T0 + day * DAY
        rows = {
            "user_id": self._random.integers(0, self.users, ROWS),
            "amount": self._random.normal(50, 10, ROWS),
            "at": np.sort(self._random.integers(0, 86_400_000_000, ROWS)),
        }
        frame = pl.DataFrame(rows).with_columns(pl.lit(at) + pl.duration(microseconds="at"))
        self.now = at + DAY
        self.store.write_source(clicks, frame.with_columns(pl.col("literal").alias("at")).drop("literal"))

    def month(self) -> None:
        """A month's clicks and one run at its end that emits its last boundary alone, as if it came day by day."""
        self.store.apply()
        for day in range(DAYS):
            self.write(day)
        runs = self.store._runs  # the runs before it would take most of the time
        table = runs.table(self.group)
        version = self.store.offline.source_version("clicks")
        last = [(self.now - DAY, self.now)]
        runs.run(self.group, table, Plan(1, "incremental", self.now, None, {"clicks": (None, version)}, last))

    def from_raw(self) -> float:
        """Seconds to compute the last day's boundaries from raw rows, one after the other, without writing."""
        item = Input("clicks", clicks, dict(clicks.dtypes), self.store.offline)
        version, every = self.store.offline.source_version("clicks"), duration(self.group.every or "")

        def boundary(moment: datetime) -> None:
            raw = item.scan(version, moment, moment - (DAYS + 1) * DAY, moment)
            compute(self.group, {"clicks": raw}, Interval(moment - every, moment, moment))

        return sum(seconds(partial(boundary, self.now - n * every)) for n in range(DAY // every))
