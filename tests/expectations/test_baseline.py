"""Frozen baselines: bins that hold every value, wild values, ties, days, storage."""

from __future__ import annotations

import json
import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expectations.baseline import ColumnBaseline, build, kind_of
from features.errors import InvalidInput

DAY = date(2026, 3, 1)
anything = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
categories = st.one_of(st.none(), st.sampled_from("abcdef"))


def days(count: int, per_day: int = 1) -> pl.Series:
    return pl.Series([DAY + timedelta(days=i // per_day) for i in range(count)], dtype=pl.Date)


def of(values: list[object], dtype: pl.DataType | None = None) -> ColumnBaseline:
    return ColumnBaseline.of(pl.Series(values, dtype=dtype, strict=False), days(len(values)))


@given(st.lists(anything), st.lists(anything))
def test_every_numeric_value_falls_into_a_bin(baseline, current):
    frozen = of(baseline, pl.Float64())
    assert frozen.n == len(baseline)
    assert frozen.count(pl.Series(baseline, dtype=pl.Float64)).tolist() == list(frozen.counts)
    assert frozen.count(pl.Series(current, dtype=pl.Float64)).sum() == len(current)
    assert len(frozen.labels) == len(frozen.counts)


@given(st.lists(categories), st.lists(categories))
def test_every_category_falls_into_a_bin(baseline, current):
    frozen = of(baseline, pl.String())
    counts = frozen.count(pl.Series(current, dtype=pl.String))
    assert frozen.n == len(baseline)
    assert counts.sum() == len(current)
    assert counts[-2] == current.count(None)
    assert counts[-1] == sum(c is not None and c not in baseline for c in current)
    assert len(frozen.labels) == len(frozen.counts)


@given(st.lists(anything, min_size=1))
def test_a_baseline_survives_json(values):
    frozen = of(values, pl.Float64())
    assert ColumnBaseline.from_dict(json.loads(json.dumps(frozen.to_dict(), allow_nan=False))) == frozen


def test_values_beyond_the_edges_are_counted():
    frozen = of(list(np.linspace(0, 1, 1000)))
    assert frozen.count(pl.Series([7.0] * 5000))[-3] == 5000
    assert frozen.count(pl.Series([-7.0] * 5000))[0] == 5000


def test_null_nan_and_infinite_have_bins_of_their_own():
    frozen = of([0.0, 1.0, None, math.nan, math.inf])
    assert frozen.counts[-2:] == (1, 2)
    assert frozen.labels[-2:] == ["null", "not finite"]


def test_ties_leave_unique_edges_and_a_bin_for_the_tied_value():
    frozen = of([0.0] * 800 + list(range(1, 201)))
    assert len(set(frozen.edges)) == len(frozen.edges)
    assert max(frozen.counts) == 800
    assert frozen.count(pl.Series([-1.0])).argmax() != frozen.count(pl.Series([0.0])).argmax()
    assert frozen.scale > 0


def test_a_value_below_a_constant_does_not_share_its_bin():
    frozen = of([5.0] * 100)
    assert frozen.scale == 0
    assert frozen.count(pl.Series([4.9])).argmax() != frozen.count(pl.Series([5.0])).argmax()


def test_one_wild_value_moves_neither_edges_nor_daily_means():
    calm = np.random.default_rng(0).normal(size=3000)
    wild = calm.copy()
    wild[10] = 1e9
    before, after = (ColumnBaseline.of(pl.Series(v), days(3000, 100)) for v in (calm, wild))
    assert after.edges == pytest.approx(before.edges, abs=0.01)
    assert after.scale == pytest.approx(before.scale, rel=0.01)
    means = [[d.mean for d in b.days] for b in (before, after)]
    assert means[1] == pytest.approx(means[0], abs=0.6)


def test_daily_statistics():
    frame = pl.DataFrame({"day": days(10, 5), "vdd": [1.0, 2, 3, 4, 5, None, math.nan, 7, 7, 7]})
    first, second = build(frame, ["vdd"], "day")["vdd"].days
    assert (first.day, first.rows, first.nulls, first.nonfinite) == (DAY, 5, 0, 0)
    assert (first.mean, first.min, first.max, first.p25, first.p50, first.p75) == (3, 1, 5, 2, 3, 4)
    assert first.sd == pytest.approx(math.sqrt(2.5))
    assert (second.rows, second.nulls, second.nonfinite, second.present, second.mean) == (5, 1, 1, 3, 7)


def test_the_daily_mean_of_a_boolean_is_its_share_of_true():
    (day,) = ColumnBaseline.of(pl.Series([True, True, False, None]), pl.Series([DAY] * 4)).days
    assert day.mean == pytest.approx(2 / 3)
    assert day.nulls == 1


def test_another_baseline_has_another_id():
    assert of([1.0, 2.0]).id == of([1.0, 2.0]).id
    assert of([1.0, 2.0]).id != of([1.0, 2.5]).id


def test_another_format_is_refused():
    with pytest.raises(InvalidInput, match="build the baseline again"):
        ColumnBaseline.from_dict({**of([1.0]).to_dict(), "format": 99})


def test_a_missing_column_is_named():
    with pytest.raises(InvalidInput, match="vdd"):
        build(pl.DataFrame({"day": [DAY]}), ["vdd"], "day")


def test_days_must_match_values():
    with pytest.raises(InvalidInput, match="one day per value"):
        ColumnBaseline.of(pl.Series([1.0, 2.0]), pl.Series([DAY]))


@pytest.mark.parametrize("dtype", [pl.Date(), pl.Datetime("us", "UTC"), pl.List(pl.Int64())])
def test_types_without_a_distribution_are_refused(dtype):
    with pytest.raises(InvalidInput, match="no distribution"):
        kind_of(dtype)


def test_a_column_that_moved_as_a_whole_keeps_its_values_and_one_wild_value_is_held():
    baseline = ColumnBaseline.of(pl.Series([1.199, 1.2, 1.201] * 20), pl.Series([date(2026, 3, 1)] * 60))
    moved = np.array([1.249, 1.25, 1.25, 1.251])
    assert baseline.clip(moved).tolist() == moved.tolist()
    assert baseline.clip(np.array([1.249, 1.25, 1.25, 1.251, 1e9])).max() < 1.3
