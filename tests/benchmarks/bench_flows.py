"""What Prefect costs: until everything answers, and a year of features chunk by chunk against a script."""

from __future__ import annotations

import shutil
import tempfile
import time
from datetime import date, timedelta
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
    """365 daily chunks of 100,000 rows by the backfill flow, against a script that does the same day by day."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _year(home)
        ours = _by_the_flow(home)
        theirs = seconds(lambda: _by_a_script(home, home / "script"))
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

        return seconds(lambda: backfill(T0, T0 + DAYS * DAY, "doubled", chunk_days=1, parallel=2))


def _by_a_script(home: Path, out: Path) -> None:
    """What one would write by hand: each day's rows once, those appended that are not there, with their moment."""
    shutil.rmtree(out, ignore_errors=True)
    source = pl.scan_delta(DeltaTable(str(home / "lake" / "bronze" / "payments")))
    for day in (date(2025, 1, 1) + number * DAY for number in range(DAYS)):
        of_day = source.filter(pl.col("event_date") == day).unique(["card_id", "at"], keep="last")
        rows = of_day.select("card_id", "event_date", event_timestamp="at", twice=pl.col("amount") * 2)
        if out.exists():
            there = pl.scan_delta(DeltaTable(str(out))).filter(pl.col("event_date") == day)
            rows = rows.join(there, on=["card_id", "event_timestamp", "twice"], how="anti")
        stamped = rows.with_columns(created_timestamp=pl.lit(utc_now())).sort("card_id", "event_timestamp")
        write_deltalake(str(out), stamped.collect(), mode="append", partition_by=["event_date"])
