"""The full gate on a file of 1,000,000 PTR, from its rows as they were read."""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from benchmarks.measurement import Measurement, seconds
from expectations.days import measure
from expectations.gate import validate
from expectations.quality import GOOD_DAYS, JUDGED, judge
from expectations.suites import suite_for
from expectations.suites.watches import watch_for
from features.definitions.wafer_sources import test_results
from features.source import FILE_SHA256
from infra.sources.simulated_fab import big_wafer
from infra.sources.stdf import StdfReader

ROUNDS = 3
EVERY = 101
"""One row in so many goes to quarantine: 101 has no factor in common with the 100 tests of a part."""
DAY = date(2026, 3, 2)


def gate_1m() -> Measurement:
    """Rules, outliers, the day against thirty good ones and the quarantine split; against reading the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.stdf"
        path.write_bytes(big_wafer())
        reader = StdfReader()
        rows = _with_bad(reader.read(path).tables[test_results.name])
        history = _good_days(rows)
        assert _gate(rows, history) == -(-rows.height // EVERY)
        ours, reading = [], []
        for _ in range(ROUNDS):
            ours.append(seconds(lambda: _gate(rows, history)))
            reading.append(seconds(lambda: reader.read(path)))
    value, baseline = median(ours), median(reading)
    return Measurement(value, "s", baseline, value / baseline)


def _gate(rows: pl.DataFrame, history: pl.DataFrame) -> int:
    """Judge the file's rows, then its day by the rows that land; how many do not."""
    verdict = validate(suite_for(test_results), rows)
    judged = judge(measure(verdict.split.valid, watch_for(test_results), DAY), history, over=True)
    assert set(judged["state"]) == {"ok"}
    return verdict.split.rejected.height


def _with_bad(read: pl.DataFrame) -> pl.DataFrame:
    """The rows of a file, one in a hundred of a kind that there is not."""
    bad = pl.int_range(pl.len()) % EVERY == 0
    kind = pl.when(bad).then(pl.lit("?")).otherwise("kind").alias("kind")
    return read.with_columns(kind, pl.lit("0" * 64).alias(FILE_SHA256))


def _good_days(rows: pl.DataFrame) -> pl.DataFrame:
    """Thirty days such as the file's, each mean a little elsewhere."""
    lines = measure(validate(suite_for(test_results), rows).split.valid, watch_for(test_results), DAY)
    draw = np.random.default_rng(7)
    days = []
    for number in range(1, GOOD_DAYS + 1):
        moved = pl.col("mean") + pl.col("sd").fill_null(0) * pl.Series(draw.normal(0, 0.01, lines.height))
        said = {"state": "ok", "good": True, "findings": [], "day": DAY - timedelta(days=number)}
        days.append(lines.with_columns(moved, **{name: pl.lit(v, JUDGED[name]) for name, v in said.items()}))
    return pl.concat(days).select(list(JUDGED))
