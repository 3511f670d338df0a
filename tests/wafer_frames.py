"""Random wafers as the raw rows of the wafer sources, with the oddities of real files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from features.definitions.wafer_sources import parts as parts_source
from features.definitions.wafer_sources import test_results as results_source
from features.entity import DataType
from features.feature_group import FeatureGroup

START = datetime(2026, 3, 1, tzinfo=UTC)
TESTS = {
    # name: (lower limit, upper limit, unit)
    "vdd": (1.1, 1.3, "V"),
    "idd": (20.0, 120.0, "mA"),
    "frequency": (1800.0, 2200.0, "MHz"),
    "temperature": (20.0, 30.0, "degC"),
    "leakage": (None, 50.0, "uA"),
    "vth": (0.3, 0.5, "V"),
    "scan": (0.0, 10.0, ""),
    "memory": (0.0, 10.0, ""),
}


KEYS = ["lot_id", "wafer_id", "x", "y", "tested_at", "part_index"]

maps = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "wafers": st.integers(1, 2),
        "side": st.integers(1, 7),
        "sites": st.integers(1, 5),
        "die_mm": st.sampled_from([(2.0, 1.5), (1.0, 1.0), (3.0, 5.0), (7.0, 0.75), (0.1, 9.0)]),
        "wafer_mm": st.sampled_from([None, 12.0, 40.0]),
        "retests": st.sampled_from([0.0, 0.3]),
        "undecided": st.sampled_from([0.0, 0.2]),
        "test_ms": st.sampled_from([(None,), (200,), (1000,), (None, 700, 2_500)]),
        "apart_us": st.sampled_from([0, 1]),
    }
)


def random_wafers(
    seed: int,
    *,
    wafers: int = 1,
    side: int = 8,
    sites: int = 2,
    die_mm: tuple[float, float] | None = (2.0, 1.5),
    wafer_mm: float | None = None,
    retests: float = 0.15,
    undecided: float = 0.05,
    datalogged: float = 0.8,
    test_ms: Sequence[int | None] = (200,),
    apart_us: int = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """``parts`` and ``test_results`` of square die maps, some of whose dies are probed again an hour later.

    ``sites`` dies are probed at once, one touchdown a second, ending ``apart_us`` after one another,
    each in one of the times ``test_ms``. ``wafer_mm`` None leaves the wafers without a configuration
    record. ``undecided`` parts have no pass/fail indication, only ``datalogged`` ones have results.
    """
    rng = np.random.default_rng(seed)
    first = np.tile(np.arange(side * side), (wafers, 1))
    again = [rng.choice(side * side, int(retests * side * side), replace=False) for _ in range(wafers)]
    die = np.concatenate([np.concatenate([a, b]) for a, b in zip(first, again, strict=True)])
    wafer = np.repeat(np.arange(wafers), [len(a) + len(b) for a, b in zip(first, again, strict=True)])
    parts = pl.DataFrame({"wafer": wafer, "die": die}).with_columns(
        pl.int_range(pl.len()).over("wafer").alias("part_index"),
        pl.Series("share", rng.random(len(die))),
        pl.Series("doubt", rng.random(len(die))),
        pl.Series("hard_bin", rng.integers(2, 9, len(die))),
    )
    width, height = die_mm or (None, None)
    parts = parts.with_columns(
        pl.format("L{}", pl.col("wafer") // 25).alias("lot_id"),
        pl.format("W{}", pl.col("wafer") % 25).alias("wafer_id"),
        pl.lit("chip").alias("product"),
        pl.format("T{}", pl.col("wafer") % 2).alias("tester_id"),
        (pl.col("part_index") + 1).cast(pl.String).alias("part_id"),
        (pl.col("part_index") % sites).alias("site"),
        (pl.col("die") % side - 3).alias("x"),
        (pl.col("die") // side + 5).alias("y"),
        pl.when(pl.col("doubt") >= undecided).then(pl.col("share") < 0.7).alias("passed"),
        pl.Series("test_time_ms", rng.choice(np.array(test_ms, dtype=object), len(die)).tolist(), dtype=pl.Int64),
        pl.lit(width, pl.Float64).alias("die_width_mm"),
        pl.lit(height, pl.Float64).alias("die_height_mm"),
        pl.lit(None if wafer_mm is None else side // 2 - 3).alias("center_x"),
        pl.lit(None if wafer_mm is None else side // 2 + 5).alias("center_y"),
        pl.lit(wafer_mm, pl.Float64).alias("wafer_size_mm"),
        (
            pl.lit(START)
            + pl.duration(hours=pl.col("wafer") * 3 + (pl.col("part_index") >= side * side))
            + pl.duration(seconds=pl.col("part_index") // sites, microseconds=pl.col("part_index") % sites * apart_us)
        ).alias("tested_at"),
    ).with_columns(pl.when("passed").then(1).otherwise("hard_bin").alias("hard_bin"))
    return _fit(parts, parts_source.dtypes), _results(parts, rng, datalogged)


def _results(parts: pl.DataFrame, rng: np.random.Generator, datalogged: float) -> pl.DataFrame:
    logged = parts.filter(pl.Series(rng.random(parts.height) < datalogged))
    tests = pl.DataFrame(
        [(i, 100 + i, n, lo, hi, unit) for i, (n, (lo, hi, unit)) in enumerate(TESTS.items())],
        schema=["test_index", "test_num", "test_name", "lo_limit", "hi_limit", "unit"],
        orient="row",
    )
    rows = logged.drop("passed").join(tests, how="cross")
    noise = pl.Series(rng.normal(scale=0.4, size=rows.height))
    low = pl.col("lo_limit").fill_null(0.0)
    result = (low + pl.col("hi_limit")) / 2 + noise * (pl.col("hi_limit") - low) / 2
    rows = rows.with_columns(result.alias("result"), pl.lit("PTR").alias("kind")).with_columns(
        (pl.col("result").is_between(low, "hi_limit")).alias("passed")
    )
    return _fit(rows, results_source.dtypes)


def _fit(rows: pl.DataFrame, dtypes: dict[str, DataType]) -> pl.DataFrame:
    return rows.select((pl.col(c) if c in rows.columns else pl.lit(None)).cast(t).alias(c) for c, t in dtypes.items())


def began(row: dict[str, Any]) -> datetime:
    """When a die's own test began, give or take the millisecond in which test times are told."""
    spent = row["test_time_ms"] or 1
    return row["tested_at"] - timedelta(milliseconds=spent - 1)  # type: ignore[no-any-return]


def event_rows(group: FeatureGroup, **frames: pl.DataFrame) -> pl.DataFrame:
    """One row per attempt: what the group's expressions make of its prepared rows."""
    assert group.prepare is not None
    prepared = group.prepare(**{name: frame.lazy() for name, frame in frames.items()})
    exprs = [f.expr.alias(f.name) for f in group.features]
    return prepared.select(*KEYS, *exprs).sort(KEYS).collect()
