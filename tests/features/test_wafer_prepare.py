"""The wafer prepares: which attempt counts, named tests, and what the first k tests tell."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.definitions.wafer import device_parametrics
from features.definitions.wafer_prepare import (
    K_TESTS,
    MIN_DIES_BEFORE,
    Retest,
    final_outcomes,
    first_tests,
    kept_attempts,
    one_row_per_die,
    one_row_per_part,
)
from wafer_frames import KEYS, START, began, event_rows, maps, random_wafers

# ------------------------------------------------------------------------------------- retest policy


def attempts(*rows: dict[str, Any]) -> pl.LazyFrame:
    """Parts of one wafer, a second apart, from the columns given."""
    base: dict[str, Any] = {"lot_id": "A", "wafer_id": "1", "x": 0, "y": 0, "hard_bin": 1, "passed": True}
    schema = {"x": pl.Int32, "y": pl.Int32, "part_id": pl.String, "passed": pl.Boolean, "hard_bin": pl.Int32}
    filled = [
        {**base, "part_id": str(i), "part_index": i, "tested_at": START + timedelta(seconds=i), **row}
        for i, row in enumerate(rows)
    ]
    return pl.LazyFrame(filled, schema_overrides=schema)


@pytest.mark.parametrize(("policy", "kept"), [("last", [2]), ("first", [0]), ("best bin", [1])])
def test_one_attempt_per_die_counts(policy: Retest, kept: list[int]) -> None:
    tries = attempts({"hard_bin": 7, "passed": False}, {"hard_bin": 1}, {"hard_bin": 5, "passed": False})
    assert kept_attempts(tries, policy).collect()["part_index"].to_list() == kept


def test_best_bin_prefers_a_pass_then_the_lowest_bin_then_the_later() -> None:
    fails = attempts(*({"hard_bin": b, "passed": False} for b in (4, 3, 3, 9)))
    assert kept_attempts(fails, "best bin").collect()["part_index"].item() == 2
    mixed = attempts({"hard_bin": 0, "passed": False}, {"hard_bin": 6}, {"hard_bin": None, "passed": None})
    assert kept_attempts(mixed, "best bin").collect()["part_index"].item() == 1


def test_the_last_attempt_counts_even_without_a_verdict() -> None:
    tries = attempts({"passed": True}, {"passed": None})
    assert final_outcomes(tries).collect()["failed"].to_list() == [None]


def test_without_coordinates_a_part_id_is_a_die() -> None:
    bare = {"wafer_id": None, "x": None, "y": None}
    tries = attempts(
        {**bare, "part_id": "a"}, {**bare, "part_id": "b"}, {**bare, "part_id": "a"}, *([{**bare, "part_id": None}] * 2)
    )
    assert kept_attempts(tries).collect()["part_index"].sort().to_list() == [1, 2, 3, 4]
    half = attempts({"x": None, "y": 4, "part_id": "a"}, {"x": None, "y": 4, "part_id": "b"})
    assert kept_attempts(half).collect().height == 2


@given(maps, st.sampled_from(["last", "first", "best bin"]))
@settings(max_examples=15, deadline=None)
def test_kept_attempts_are_one_per_die_whatever_the_input_order(drawn: dict[str, Any], policy: Retest) -> None:
    parts, _ = random_wafers(**drawn)
    kept = kept_attempts(parts.lazy(), policy).collect()
    dies = ["lot_id", "wafer_id", "x", "y"]
    assert_frame_equal(kept.select(dies), parts.select(dies).unique(), check_row_order=False)
    shuffled = parts.sample(fraction=1, shuffle=True, seed=1)
    assert_frame_equal(kept_attempts(shuffled.lazy(), policy).collect(), kept, check_row_order=False)


# --------------------------------------------------------------------------------------- named tests


def test_results_join_their_part_and_no_other() -> None:
    parts, results = random_wafers(3, wafers=2, datalogged=0.5)
    rows = one_row_per_part(parts.lazy(), results.lazy()).collect()
    assert rows.height == parts.height
    expected = {
        (r["lot_id"], r["wafer_id"], r["part_index"]): r["result"]
        for r in results.filter(pl.col("test_name") == "vdd").to_dicts()
    }
    assert 0 < len(expected) < parts.height
    for row in rows.to_dicts():
        assert row["vdd"] == expected.get((row["lot_id"], row["wafer_id"], row["part_index"]))


def test_final_test_parts_find_their_results_without_wafer_or_coordinates() -> None:
    parts, results = random_wafers(4, datalogged=1.0)
    none = [pl.lit(None, pl.String).alias("wafer_id"), pl.lit(None, pl.Int32).alias("x")]
    rows = one_row_per_part(parts.with_columns(none).lazy(), results.with_columns(none).lazy()).collect()
    assert rows.height == parts.height
    assert rows["vdd"].null_count() == 0


def test_two_files_may_repeat_part_numbers() -> None:
    parts, results = random_wafers(5, side=3, retests=0, datalogged=1.0)
    later = (pl.col("tested_at") + pl.duration(days=1)).alias("tested_at")
    twice = pl.concat([results, results.with_columns(later, (pl.col("result") + 100).alias("result"))])
    rows = one_row_per_die(pl.concat([parts, parts.with_columns(later)]).lazy(), twice.lazy()).collect()
    assert rows.height == parts.height
    assert rows["vdd"].min() > 100  # type: ignore[operator]


def test_infinite_results_are_no_measurements() -> None:
    parts, results = random_wafers(6, side=4, datalogged=1.0)
    broken = results.with_columns(
        pl.when(pl.col("part_index") % 2 == 0).then(float("inf")).otherwise(float("nan")).alias("result")
    )
    rows = one_row_per_die(parts.lazy(), broken.lazy()).collect()
    assert rows["vdd"].null_count() == rows.height
    first = first_tests(parts.lazy(), broken.lazy()).collect()
    assert first.select("min_margin", "frequency_deviation_z").null_count().row(0) == (parts.height, parts.height)


def test_defects_need_a_verdict_and_an_area() -> None:
    sizes = {"die_width_mm": 5.0, "die_height_mm": 4.0}
    tries = attempts(
        {**sizes, "passed": False}, sizes, {**sizes, "passed": None}, {"die_width_mm": 0.0, "die_height_mm": 4.0}
    )
    _, results = random_wafers(0, side=1)
    rows = one_row_per_part(tries, results.lazy()).sort("part_index").collect()
    assert rows["defects"].to_list() == [1, 0, None, None]
    assert rows["tested_area_cm2"].to_list() == [0.2, 0.2, None, None]


# ------------------------------------------------------------------------------------ first k tests


def test_margins_are_one_in_the_middle_and_zero_at_a_limit() -> None:
    parts, results = random_wafers(0, side=5, retests=0, datalogged=1.0)
    values = {0: 1.2, 1: 1.1, 2: 1.3, 3: 1.35, 4: 1.15}
    chosen = results.filter(pl.col("test_name") == "vdd", pl.col("part_index") < len(values))
    chosen = chosen.with_columns(pl.col("part_index").replace_strict(values).alias("result"))
    rows = first_tests(parts.lazy(), chosen.lazy()).filter(pl.col("part_index") < len(values)).sort("part_index")
    assert rows.collect()["vdd_margin"].to_list() == pytest.approx([1.0, 0.0, 0.0, -0.5, 0.5])


def test_a_margin_needs_two_distinct_limits() -> None:
    parts, results = random_wafers(0, side=2, retests=0, datalogged=1.0)
    for change in (
        pl.lit(None, pl.Float64).alias("lo_limit"),
        pl.col("lo_limit").alias("hi_limit"),
        pl.lit(float("inf")).alias("hi_limit"),
    ):
        rows = first_tests(parts.lazy(), results.with_columns(change).lazy()).collect()
        assert rows["vdd_margin"].null_count() == rows["min_margin"].null_count() == rows.height


def test_failures_among_the_first_tests_are_counted_and_named() -> None:
    parts, results = random_wafers(1, side=1, retests=0, datalogged=1.0)
    failing = {"idd", "leakage", "memory"}
    judged = results.with_columns((~pl.col("test_name").is_in(list(failing))).alias("passed")).reverse()
    row = first_tests(parts.lazy(), judged.lazy()).collect().row(0, named=True)
    assert (row["failures_first_k"], row["first_failing_test"], row["tests_seen"]) == (2, "idd", K_TESTS)
    unjudged = results.with_columns(pl.lit(None, pl.Boolean).alias("passed"))
    row = first_tests(parts.lazy(), unjudged.lazy()).collect().row(0, named=True)
    assert (row["failures_first_k"], row["first_failing_test"]) == (0, None)


def test_a_part_that_was_not_datalogged_has_nulls_and_not_zeros() -> None:
    parts, results = random_wafers(2, side=3)
    row = event_rows(device_parametrics, parts=parts, results=results.clear()).drop(KEYS)
    assert row["tests_seen"].to_list() == [0] * parts.height
    assert row.drop("tests_seen").null_count().row(0) == (parts.height,) * (row.width - 1)


@given(maps)
@settings(max_examples=15, deadline=None)
def test_frequency_z_is_against_the_attempts_before(drawn: dict[str, Any]) -> None:
    parts, results = random_wafers(**drawn)
    rows = first_tests(parts.lazy(), results.lazy()).collect().to_dicts()
    for row in rows:
        earlier = [
            r["frequency"]
            for r in rows
            if r["wafer_id"] == row["wafer_id"] and r["tested_at"] < began(row) and r["frequency"] is not None
        ]
        if row["frequency"] is None or len(earlier) < MIN_DIES_BEFORE:
            assert row["frequency_deviation_z"] is None
        else:
            expected = (row["frequency"] - np.mean(earlier)) / np.std(earlier, ddof=1)
            assert row["frequency_deviation_z"] == pytest.approx(expected, rel=1e-6)


def test_equal_frequencies_have_no_spread_to_deviate_by() -> None:
    parts, results = random_wafers(3, datalogged=1.0)
    same = results.with_columns(pl.lit(2000.1).alias("result"))
    rows = first_tests(parts.lazy(), same.lazy()).collect()
    assert rows["frequency_deviation_z"].null_count() == rows.height
