"""What Prefect costs: until everything answers, and a year of features chunk by chunk against a script."""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import DeltaTable, write_deltalake

from benchmarks.measurement import Measurement, seconds
from features.times import utc_now
from flows.runtime import prefect_runtime
from infra.settings import load_settings
from infra.wiring import connect
from up_home import REGISTRY, T0, fill, running

DAYS, ROWS = 365, 100_000
DAY = timedelta(days=1)


def up_healthy() -> Measurement:
    """Seconds of `featurefab up`, in a home that was up before, until everything answers."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), 1, 10)
        with running(Path(folder)):
            pass
        began = time.perf_counter()
        with running(Path(folder)):
            return Measurement(time.perf_counter() - began, "s")


def backfill_365() -> Measurement:
    """365 daily chunks of 100,000 rows by the backfill flow, one at a time, against a script that writes the same."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _year(home)
        ours = _by_the_flow(home)
        theirs = seconds(lambda: _by_a_script(home, home / "script"))
        _check_alike(home / "lake" / "features" / "doubled" / "v1", home / "script")
        return Measurement(ours, "s", theirs, ours / theirs)


def _year(home: Path) -> None:
    """A year of payments, a day per commit."""
    random = np.random.default_rng(0)
    with connect(REGISTRY, home) as store:
        for day in range(DAYS):
            offsets = pl.Series("at", np.sort(random.integers(0, 86_400_000_000, ROWS))).cast(pl.Duration("us"))
            frame = pl.DataFrame({"card_id": random.integers(0, 5_000, ROWS), "amount": random.normal(50, 10, ROWS)})
            at = (pl.lit(T0 + day * DAY, pl.Datetime("us", "UTC")) + pl.lit(offsets)).alias("at")
            store.write_source("payments", frame.with_columns(at))


def _by_the_flow(home: Path) -> float:
    """Seconds of the flow's run, its private server started before."""
    settings = load_settings(home=home, registry="up_home:REGISTRY")
    with prefect_runtime(settings):
        from flows.backfill import backfill  # noqa: PLC0415 - Prefect reads its environment when it is imported

        return seconds(lambda: backfill(T0, T0 + DAYS * DAY, "doubled", chunk_days=1, parallel=1))


def _by_a_script(home: Path, out: Path) -> None:
    """What one would write by hand: a day's rows, one for each card and moment, in order, stamped and appended."""
    source = pl.scan_delta(DeltaTable(str(home / "lake" / "bronze" / "payments")))
    for day in (T0.date() + number * DAY for number in range(DAYS)):
        of_day = source.filter(pl.col("event_date") == day)
        values = of_day.select("card_id", event_timestamp="at", twice=pl.col("amount") * 2)
        rows = values.unique(["card_id", "event_timestamp"], keep="last").sort("card_id", "event_timestamp")
        stamped = rows.with_columns(
            event_date=pl.lit(day),
            created_timestamp=pl.lit(utc_now()),
            _plan=pl.lit(1, pl.Int64),
            _as_if="event_timestamp",
            _epoch=pl.lit(0, pl.Int64),
            _deleted=pl.lit(value=False),
        )
        write_deltalake(str(out), stamped.collect(), mode="append", partition_by=["event_date"])


def _check_alike(ours: Path, theirs: Path) -> None:
    """Both tables have the same columns, and the same rows but for what a run stamps."""
    tables = [pl.scan_delta(DeltaTable(str(path))) for path in (ours, theirs)]
    assert set(tables[0].collect_schema()) == set(tables[1].collect_schema())
    row = pl.struct("card_id", "event_timestamp", "twice", "_as_if", "event_date")
    sums = [table.select(pl.len(), row.hash().sum()).collect(engine="streaming").row(0) for table in tables]
    assert sums[0] == sums[1]
