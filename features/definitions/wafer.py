"""Wafer-test features: yield, parametrics, neighbours, trends, and the labels of two models.

What a feature may know: the die features of a moment come from the first `K_TESTS` results of that
die and from dies tested before it; the rows are made by `wafer_prepare`, which also states the retest
policy. Measurements are in the unit the tester reports; the shipped expectations hold vdd to volts,
idd to milliamperes and frequency to megahertz.
"""

from __future__ import annotations

import polars as pl

from features.definitions.wafer_prepare import (
    K_TESTS,
    final_outcomes,
    first_tests,
    kept_attempts,
    one_row_per_die,
    one_row_per_part,
    ratio,
    spatial_history,
)
from features.definitions.wafer_sources import parts, test_results
from features.entity import Entity
from features.feature_group import Feature, FeatureGroup

OWNER = "yield-analytics"
WAFER_KEYS = ["lot_id", "wafer_id"]

wafer = Entity("wafer", keys={"lot_id": pl.String(), "wafer_id": pl.String()}, description="One wafer of a lot.")
die = Entity(
    "die",
    keys={"lot_id": pl.String(), "wafer_id": pl.String(), "x": pl.Int32(), "y": pl.Int32()},
    description="One die of a wafer, by its prober coordinates.",
)
tester_product = Entity(
    "tester_product",
    keys={"tester_id": pl.String(), "product": pl.String()},
    description="A tester while it tests one product.",
)

yield_pct = Feature(
    "yield_pct",
    pl.col("passed").mean() * 100,
    unit="%",
    range=(0, 100),
    description="Share of the dies with a pass/fail indication that passed, by the last attempt at each die.",
)

wafer_aggregates = FeatureGroup(
    name="wafer_aggregates",
    version="1.0.0",
    entity=wafer,
    grain="entity",
    settle="30m",
    source={"parts": parts, "results": test_results},
    prepare=one_row_per_die,
    prepare_by=WAFER_KEYS,
    features=[
        yield_pct,
        Feature(
            "avg_vdd",
            pl.col("vdd").mean(),
            unit="V",
            range=(1.0, 1.4),
            description="Mean supply voltage over the datalogged dies.",
        ),
        Feature(
            "std_vdd",
            pl.col("vdd").std(),
            unit="V",
            range=(0.0, 0.2),
            description="Standard deviation (n - 1) of the supply voltage over the datalogged dies.",
        ),
        Feature(
            "avg_idd",
            pl.col("idd").mean(),
            unit="mA",
            range=(0, 200),
            description="Mean supply current over the datalogged dies.",
        ),
        Feature(
            "idd_percentile_95",
            pl.col("idd").quantile(0.95, interpolation="linear"),
            unit="mA",
            range=(0, 200),
            description="95th percentile of the supply current, interpolated linearly.",
        ),
        Feature(
            "avg_test_time_ms",
            pl.col("test_time_ms").mean(),
            unit="ms",
            range=(10, 500),
            description="Mean test time of a die; null where the tester records none.",
        ),
        Feature(
            "device_count",
            pl.len().cast(pl.Int64),
            unit="dies",
            range=(1, None),
            description="Number of dies tested, each counted once however often it was probed.",
        ),
    ],
    derived=[
        Feature(
            "vdd_cv",
            pl.col("std_vdd") / pl.col("avg_vdd"),
            unit="1",
            range=(0.0, 0.2),
            description="Coefficient of variation of the supply voltage: std_vdd / avg_vdd.",
        )
    ],
    ttl="90d",
    publish_delay="15m",
    sla="1d",
    tags=["wafer", "yield"],
    owner=OWNER,
    description="Test results of one wafer, once no part of it was tested for 30 minutes. Of a die probed "
    "several times the last attempt counts.",
)


def _margin(test: str, what: str) -> Feature:
    return Feature(
        f"{test}_margin",
        pl.col(f"{test}_margin"),
        unit="1",
        range=(None, 1.0),
        description=f"Distance of the {what} to its nearer limit, over half the limits' width: 1 in the middle, "
        f"0 at a limit, negative outside.",
    )


device_parametrics = FeatureGroup(
    name="device_parametrics",
    version="1.0.0",
    entity=die,
    grain="event",
    source={"parts": parts, "results": test_results},
    prepare=first_tests,
    prepare_by=WAFER_KEYS,
    features=[
        _margin("vdd", "supply voltage"),
        _margin("idd", "supply current"),
        _margin("frequency", "maximum frequency"),
        _margin("leakage", "leakage current"),
        _margin("vth", "threshold voltage"),
        Feature(
            "min_margin",
            pl.col("min_margin"),
            unit="1",
            range=(None, 1.0),
            description=f"The smallest margin among the first {K_TESTS} tests that have both limits.",
        ),
        Feature(
            "frequency_deviation_z",
            pl.col("frequency_deviation_z"),
            unit="1",
            range=(-20.0, 20.0),
            description="Standard deviations between the die's frequency and the mean of the attempts before it on "
            "the same wafer; null for the first few.",
        ),
        Feature(
            "failures_first_k",
            pl.col("failures_first_k"),
            unit="tests",
            range=(0, K_TESTS),
            description=f"Number of the first {K_TESTS} tests that failed; null for a part without results.",
        ),
        Feature(
            "first_failing_test",
            pl.col("first_failing_test"),
            unit="1",
            description=f"Name of the first test among the first {K_TESTS} that failed; null where none did.",
        ),
        Feature(
            "tests_seen",
            pl.col("tests_seen"),
            unit="tests",
            range=(0, K_TESTS),
            description=f"How many of the first {K_TESTS} results the datalog holds; 0 where it was sampled out.",
        ),
    ],
    ttl="90d",
    publish_delay="15m",
    sla="1d",
    tags=["die", "parametric"],
    owner=OWNER,
    description=f"What the first {K_TESTS} tests say of a die, per attempt; nothing from later tests. The newest "
    "attempt answers for the die.",
)

spatial_correlations = FeatureGroup(
    name="spatial_correlations",
    version="1.0.0",
    entity=die,
    grain="event",
    source=parts,
    prepare=spatial_history,
    prepare_by=WAFER_KEYS,
    features=[
        Feature(
            "neighbor_yield_avg_3mm",
            ratio(pl.col("passed_near"), pl.col("tested_near")),
            unit="1",
            range=(0.0, 1.0),
            description="Share of passed dies among those tested before and at most 3 mm away, centre to centre.",
        ),
        Feature(
            "neighbor_fail_rate_5mm",
            1 - ratio(pl.col("passed_far"), pl.col("tested_far")),
            unit="1",
            range=(0.0, 1.0),
            description="Share of failed dies among those tested before and at most 5 mm away, centre to centre.",
        ),
        Feature(
            "radial_position_normalized",
            pl.col("radial_position_normalized"),
            unit="1",
            range=(0.0, 1.0),
            description="Distance from the wafer's centre over its radius: 0 in the centre, 1 at the edge.",
        ),
        Feature(
            "quadrant_yield_delta",
            ratio(pl.col("passed_quadrant"), pl.col("tested_quadrant"))
            - ratio(pl.col("passed_before"), pl.col("tested_before")),
            unit="1",
            range=(-1.0, 1.0),
            description="Yield so far of the die's quadrant minus yield so far of its wafer.",
        ),
        Feature(
            "wafer_yield_before",
            ratio(pl.col("passed_before"), pl.col("tested_before")),
            unit="1",
            range=(0.0, 1.0),
            description="Share of passed dies among those of the wafer tested before.",
        ),
    ],
    derived=[
        Feature(
            "yield_vs_neighbor_delta",
            pl.col("wafer_yield_before") - pl.col("neighbor_yield_avg_3mm"),
            unit="1",
            range=(-1.0, 1.0),
            description="Yield so far of the wafer minus that of the die's neighbours within 3 mm.",
        )
    ],
    ttl="90d",
    publish_delay="15m",
    sla="1d",
    tags=["die", "spatial"],
    owner=OWNER,
    description="Where a die lies and how the dies tested before it on the same wafer did, each by its last attempt "
    "until then. Null where nothing was tested before, or where the file gives no die size.",
)


def _trend(name: str, expr: pl.Expr, window: str, unit: str, top: float | None, description: str) -> Feature:
    return Feature(name, expr, window=window, unit=unit, range=(0.0, top), description=description)


temporal_trends = FeatureGroup(
    name="temporal_trends",
    version="1.0.0",
    entity=tester_product,
    grain="window",
    every="6h",
    source={"parts": parts, "results": test_results},
    prepare=one_row_per_part,
    prepare_by=WAFER_KEYS,
    features=[
        _trend("vdd_mean_24h", pl.col("vdd").mean(), "24h", "V", 1.4, "Mean supply voltage of the last 24 hours."),
        _trend("idd_mean_24h", pl.col("idd").mean(), "24h", "mA", 200, "Mean supply current of the last 24 hours."),
        _trend(
            "lot_yield_7d",
            pl.col("passed").mean() * 100,
            "7d",
            "%",
            100,
            "Share of the parts of the last 7 days that passed.",
        ),
        _trend(
            "lot_yield_30d",
            pl.col("passed").mean() * 100,
            "30d",
            "%",
            100,
            "Share of the parts of the last 30 days that passed.",
        ),
        _trend(
            "defect_density_30d",
            ratio(pl.col("defects").sum(), pl.col("tested_area_cm2").sum()),
            "30d",
            "1/cm²",
            None,
            "Failed parts per tested square centimetre over the last 30 days.",
        ),
        _trend(
            "equipment_uptime_ratio_7d",
            pl.col("tested_at").dt.truncate("1h").n_unique() / (7 * 24),
            "7d",
            "1",
            1.0,
            "Share of the clock hours of the last 7 days in which the tester finished a part of the product.",
        ),
    ],
    ttl="45d",
    publish_delay="15m",
    sla="1d",
    tags=["line", "trend"],
    owner=OWNER,
    description="Trends of one tester on one product. Every attempt counts when it is made, retests too: a window "
    "must not change because a die was probed again later.",
)

wafer_outcomes = FeatureGroup(
    name="wafer_outcomes",
    version="1.0.0",
    entity=wafer,
    grain="entity",
    settle="30m",
    source=parts,
    prepare=kept_attempts,
    prepare_by=WAFER_KEYS,
    features=[
        yield_pct,
        Feature(
            "tester_id",
            pl.col("tester_id").sort_by("tested_at", "part_index").last(),
            unit="1",
            description="The tester of the wafer's last part; key of its trends.",
        ),
        Feature(
            "product",
            pl.col("product").sort_by("tested_at", "part_index").last(),
            unit="1",
            description="The product of the wafer's last part; key of its trends.",
        ),
    ],
    ttl="3650d",
    publish_delay="15m",
    online=False,
    tags=["wafer", "label"],
    owner=OWNER,
    description="How a wafer turned out: labels for training, never served.",
)

die_outcomes = FeatureGroup(
    name="die_outcomes",
    version="1.0.0",
    entity=die,
    grain="event",
    source=parts,
    prepare=final_outcomes,
    prepare_by=WAFER_KEYS,
    features=[
        Feature(
            "failed",
            pl.col("failed"),
            unit="1",
            range=(0, 1),
            description="Whether the die failed in its last attempt; null without a pass/fail indication.",
        ),
        Feature(
            "hard_bin",
            pl.col("hard_bin"),
            unit="1",
            range=(0, 32767),
            description="The hardware bin of the die's last attempt.",
        ),
    ],
    ttl="3650d",
    publish_delay="15m",
    online=False,
    tags=["die", "label"],
    owner=OWNER,
    description="How a die turned out, one row per die at its last attempt: labels for training, never served.",
)
