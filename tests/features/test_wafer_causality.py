"""The die features: neighbours against brute force, and nothing of what comes later."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.definitions.wafer import device_parametrics, spatial_correlations
from features.definitions.wafer_prepare import (
    K_TESTS,
    final_outcomes,
    first_tests,
    spatial_history,
)
from wafer_frames import KEYS, began, event_rows, maps, random_wafers

Quadrants = dict[tuple[int, int], tuple[bool, bool]]


def die_rows(parts: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """All features of both die groups, per attempt."""
    parametric = event_rows(device_parametrics, parts=parts, results=results)
    spatial = event_rows(spatial_correlations, parts=parts)
    return parametric.join(spatial, on=KEYS, how="full", coalesce=True, validate="1:1").sort(KEYS)


# ----------------------------------------------------------------------------------------- neighbours


def known_before(dies: list[dict[str, Any]], when: datetime) -> list[dict[str, Any]]:
    """Of each die the last attempt before a moment, where that one has a verdict."""
    last: dict[tuple[int, int], dict[str, Any]] = {}
    for row in dies:
        if row["tested_at"] < when:
            last[row["x"], row["y"]] = row
    return [row for row in last.values() if row["passed"] is not None]


def share(rows: list[dict[str, Any]]) -> float | None:
    """The share that passed; None of none."""
    return sum(r["passed"] for r in rows) / len(rows) if rows else None


def geometry(row: dict[str, Any], dies: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Centre (in dies) and radius (mm): as recorded, else of the box of what was probed until then."""
    if row["wafer_size_mm"] is not None:
        return row["center_x"], row["center_y"], row["wafer_size_mm"] / 2
    seen = [row, *(r for r in dies if r["tested_at"] < began(row))]
    xs, ys = [r["x"] for r in seen], [r["y"] for r in seen]
    width, height = (max(xs) - min(xs)) / 2 * row["die_width_mm"], (max(ys) - min(ys)) / 2 * row["die_height_mm"]
    return (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2, max(width, height)


def quadrants(dies: list[dict[str, Any]]) -> Quadrants:
    """On which side of the centre each die lay when it was first tested."""
    sides: Quadrants = {}
    for row in dies:
        if (row["x"], row["y"]) not in sides:
            x, y, _ = geometry(row, dies)
            sides[row["x"], row["y"]] = (row["x"] >= x, row["y"] >= y)
    return sides


def brute_force(row: dict[str, Any], dies: list[dict[str, Any]], sides: Quadrants) -> dict[str, float | None]:
    """The spatial features of one attempt, from all attempts of its wafer in order."""
    known = known_before(dies, began(row))

    def within(reach: float) -> list[dict[str, Any]]:
        return [
            r
            for r in known
            if (r["x"], r["y"]) != (row["x"], row["y"])
            and np.hypot((r["x"] - row["x"]) * row["die_width_mm"], (r["y"] - row["y"]) * row["die_height_mm"])
            <= reach + 1e-6
        ]

    wafer, near, far = share(known), share(within(3)), share(within(5))
    own = share([r for r in known if sides[r["x"], r["y"]] == sides[row["x"], row["y"]]])
    x, y, radius = geometry(row, dies)
    distance = np.hypot((row["x"] - x) * row["die_width_mm"], (row["y"] - y) * row["die_height_mm"])
    return {
        "neighbor_yield_avg_3mm": near,
        "neighbor_fail_rate_5mm": None if far is None else 1 - far,
        "radial_position_normalized": min(distance / radius, 1.0) if radius > 0 else None,
        "quadrant_yield_delta": None if own is None or wafer is None else own - wafer,
        "wafer_yield_before": wafer,
    }


@given(maps)
@settings(max_examples=40, deadline=None)
def test_spatial_features_equal_brute_force(drawn: dict[str, Any]) -> None:
    parts, _ = random_wafers(**drawn)
    computed = event_rows(spatial_correlations, parts=parts.sample(fraction=1, shuffle=True, seed=drawn["seed"]))
    assert computed.height == parts.height
    groups = parts.sort("tested_at", "part_index").group_by("lot_id", "wafer_id", maintain_order=True)
    wafers = {key: rows.to_dicts() for key, rows in groups}
    sides = {key: quadrants(dies) for key, dies in wafers.items()}
    originals = parts.sort(KEYS).to_dicts()
    for row, original in zip(computed.drop(KEYS).to_dicts(), originals, strict=True):
        key = (original["lot_id"], original["wafer_id"])
        assert row == pytest.approx(brute_force(original, wafers[key], sides[key]), abs=1e-9)


def test_dies_tested_in_one_moment_do_not_see_each_other() -> None:
    parts, _ = random_wafers(0, side=4, sites=100, retests=0)
    rows = event_rows(spatial_correlations, parts=parts)
    unseen = rows.drop(*KEYS, "radial_position_normalized")
    assert unseen.null_count().row(0) == (parts.height,) * unseen.width


def test_dies_probed_side_by_side_do_not_see_each_other_but_the_touchdown_before() -> None:
    parts, _ = random_wafers(0, side=4, sites=4, retests=0, undecided=0, test_ms=(1000,), apart_us=1)
    rows = spatial_history(parts.lazy()).sort("part_index").collect()
    assert rows["tested_before"].to_list() == [None] * 4 + [4] * 4 + [8] * 4 + [12] * 4


@pytest.mark.parametrize("size", [None, 0.0, float("nan"), float("inf")])
def test_without_a_die_size_there_are_no_millimetres(size: float | None) -> None:
    parts, _ = random_wafers(0, side=5)
    rows = event_rows(spatial_correlations, parts=parts.with_columns(pl.lit(size, pl.Float64).alias("die_width_mm")))
    nulls = rows.null_count().row(0, named=True)
    for name in ("neighbor_yield_avg_3mm", "neighbor_fail_rate_5mm", "radial_position_normalized"):
        assert nulls[name] == parts.height
    assert nulls["wafer_yield_before"] < parts.height


def test_a_centre_without_a_wafer_size_is_a_placeholder() -> None:
    parts, _ = random_wafers(0, side=5)
    placeholder = parts.with_columns(pl.lit(128, pl.Int32).alias("center_x"), pl.lit(128, pl.Int32).alias("center_y"))
    for size in (None, 0.0):
        given_size = placeholder.with_columns(pl.lit(size, pl.Float64).alias("wafer_size_mm"))
        rows = event_rows(spatial_correlations, parts=given_size)
        assert_frame_equal(rows, event_rows(spatial_correlations, parts=parts))


def test_dies_without_coordinates_or_wafer_have_no_row() -> None:
    parts, results = random_wafers(0, side=4)
    holed = parts.with_columns(
        pl.when(pl.col("part_index") != 0).then("x").alias("x"),
        pl.when(pl.col("part_index") != 1).then("wafer_id").alias("wafer_id"),
    )
    expected = parts.height - 2
    assert spatial_history(holed.lazy()).collect().height == expected
    assert first_tests(holed.lazy(), results.lazy()).collect().height == expected
    assert final_outcomes(holed.lazy()).collect()["part_index"].is_in([0, 1]).sum() == 0


def test_a_wafer_of_ten_thousand_dies_equals_brute_force_on_a_sample() -> None:
    parts, _ = random_wafers(7, side=100, die_mm=(2.6, 2.7), wafer_mm=300.0, retests=0.01)
    rows = event_rows(spatial_correlations, parts=parts)
    dies = parts.sort("tested_at", "part_index").to_dicts()
    sides = quadrants(dies)
    for original in parts.sort(KEYS).with_row_index().sample(10, seed=1).to_dicts():
        row = rows.drop(KEYS).row(original["index"], named=True)
        assert row == pytest.approx(brute_force(original, dies, sides), abs=1e-9)


# ------------------------------------------------------------------------------------------ causality


def rewritten_future(
    parts: pl.DataFrame, results: pl.DataFrame, when: datetime, part: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Everything changed that one part, whose test begins at a moment, must not know.

    Outcomes of all parts that end at or after the moment, its own too; place and size of the others;
    all their results and every result with test_index ≥ k.
    """
    rng = np.random.default_rng(seed)
    n = parts.height
    later = pl.col("tested_at") >= when
    other = later & (pl.col("part_index") != part)
    changed_parts = parts.with_columns(
        pl.when(later).then(pl.Series(rng.random(n) < 0.5)).otherwise("passed").alias("passed"),
        pl.when(later).then(pl.Series(rng.integers(1, 9, n))).otherwise("hard_bin").cast(pl.Int32).alias("hard_bin"),
        pl.when(other).then(pl.Series(rng.integers(-20, 20, n))).otherwise("x").cast(pl.Int32).alias("x"),
        pl.when(other).then(0.5).otherwise("die_width_mm").alias("die_width_mm"),
        pl.when(other).then(99.0).otherwise("wafer_size_mm").alias("wafer_size_mm"),
    )
    unseen = other | (pl.col("test_index") >= K_TESTS)
    m = results.height
    changed_results = results.with_columns(
        pl.when(unseen).then(pl.Series(rng.normal(size=m) * 1e6)).otherwise("result").alias("result"),
        pl.when(unseen).then(pl.Series(rng.random(m) < 0.5)).otherwise("passed").alias("passed"),
        pl.when(unseen).then(-1.0).otherwise("lo_limit").alias("lo_limit"),
    )
    gone = other & pl.Series(rng.random(m) < 0.3)
    return changed_parts.sample(fraction=1, shuffle=True, seed=seed), changed_results.filter(~gone)


@given(maps, st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_the_future_of_a_die_does_not_change_its_features(drawn: dict[str, Any], pick: int) -> None:
    parts, results = random_wafers(**drawn | {"wafers": 1})
    die = parts.row(pick % parts.height, named=True)
    when, part = began(die), die["part_index"]
    own = (pl.col("tested_at") < when) | (pl.col("part_index") == part)
    before = die_rows(parts, results)
    after = die_rows(*rewritten_future(parts, results, when, part, pick))
    # Not exact: Polars divides by a constant column through its reciprocal, which moves the last bit.
    assert_frame_equal(after.filter(own), before.filter(own), rel_tol=1e-13, abs_tol=0)


def test_tests_from_k_on_do_not_enter_any_die_feature() -> None:
    parts, results = random_wafers(8, wafers=2)
    assert results["test_index"].max() >= K_TESTS  # type: ignore[operator]
    full = die_rows(parts, results)
    assert_frame_equal(die_rows(parts, results.filter(pl.col("test_index") < K_TESTS)), full, check_exact=True)


def test_the_past_of_a_die_does_change_its_features() -> None:
    parts, results = random_wafers(9, side=6, datalogged=1.0)
    when = parts["tested_at"].max()
    flipped = parts.with_columns(pl.when(pl.col("tested_at") < when).then(~pl.col("passed")).otherwise("passed"))
    last = pl.col("tested_at") == when
    assert not die_rows(flipped, results).filter(last).equals(die_rows(parts, results).filter(last))
    slower = results.with_columns(
        pl.when(pl.col("tested_at") < when).then(pl.col("result") * 2).otherwise("result").alias("result")
    )
    assert not die_rows(parts, slower).filter(last).equals(die_rows(parts, results).filter(last))
