"""The aggregates against NumPy, SciPy and pandas: formulas, gaps, huge and tiny values."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from features.aggregates import approx_quantile, bucket_of, ewm_mean, slope, value_of
from features.errors import DefinitionError
from features.times import UTC_US

START = datetime(2026, 3, 1, tzinfo=UTC)
VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda v: round(v, 3)))
ROWS = st.lists(st.tuples(st.integers(0, 10**12), VALUES), max_size=30)


def frame_of(rows):
    times = [START + timedelta(microseconds=us) for us, _ in rows]
    return pl.DataFrame({"at": times, "v": [v for _, v in rows]}, schema={"at": UTC_US, "v": pl.Float64})


@given(ROWS)
def test_slope_is_scipys(rows):
    frame = frame_of(rows)
    found = frame.select(slope("v", "at")).item()
    known = [(us / 1e6, v) for us, v in rows if v is not None]
    if len({us for us, _ in known}) < 2:
        assert found is None
        return
    t, y = np.array(known).T
    scale = np.abs(y).max() / (t.max() - t.min())
    assert found == pytest.approx(stats.linregress(t - t.min(), y).slope, rel=1e-6, abs=1e-6 * scale + 1e-300)


def test_slope_keeps_microseconds_that_the_epoch_would_swallow():
    frame = frame_of([(0, 0.0), (1, 1.0), (2, 2.0)])
    assert frame.select(slope("v", "at")).item() == pytest.approx(1e6, rel=1e-12)


@given(ROWS.filter(lambda rows: any(v is not None for _, v in rows)))
def test_ewm_mean_is_pandas_last(rows):
    rows = sorted(rows, key=lambda row: row[0])
    known = [(us, v) for us, v in rows if v is not None]
    series = pd.Series([v for _, v in known])
    times = pd.to_datetime([us for us, _ in known], unit="us")
    expected = series.ewm(halflife="6h", times=times).mean().iloc[-1]
    found = frame_of(rows).select(ewm_mean("v", "at", half_life="6h")).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_value_long_before_the_newest_row_still_counts():
    old, new = (0, 5.0), (10**15, None)
    assert frame_of([old, new]).select(ewm_mean("v", "at", half_life="1s")).item() == 5.0


def test_nothing_to_aggregate_is_null_also_per_group():
    frame = frame_of([(0, None), (5, 2.0)]).with_columns(k=pl.Series([1, 2]))
    aggregates = {"s": slope("v", "at"), "e": ewm_mean("v", "at"), "q": approx_quantile("v", 0.5).round(1)}
    found = frame.group_by("k").agg(**aggregates).sort("k").rows()
    assert found == [(1, None, None, None), (2, None, 2.0, 2.0)]


FLOATS = st.one_of(st.none(), st.floats(width=64), st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324]))


def close(found, exact, accuracy):
    if math.isnan(exact) or math.isinf(exact):
        return math.isnan(found) == math.isnan(exact) and (math.isnan(exact) or found == exact)
    if abs(exact) < 2.2250738585072014e-308:
        return found == 0
    return abs(found - exact) <= accuracy * (1 + 1e-6) * abs(exact)


@given(st.lists(FLOATS, max_size=40), st.floats(0, 1), st.sampled_from([1e-6, 0.001, 0.01, 0.3]))
@example([None, 0.0, 1.0], 0.9999999999999999, 1e-6)
def test_approx_quantile_is_within_its_accuracy_of_the_lower_one(values, q, accuracy):
    column = pl.Series("v", values, dtype=pl.Float64)
    found = column.to_frame().select(approx_quantile("v", q, accuracy)).item()
    known = column.drop_nulls().sort()  # NaN last
    if known.is_empty():
        assert found is None
    else:
        exact = known.to_frame().select(pl.int_range(pl.len()).quantile(q, interpolation="lower")).item()
        assert close(found, known[int(exact)], accuracy)


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_buckets_order_as_their_values_do(values):
    frame = pl.DataFrame({"v": sorted(values)}, schema={"v": pl.Float64})
    found = frame.select(bucket_of(pl.col("v"), 0.01).alias("b"))
    assert found["b"].is_sorted()
    assert found.select(value_of(pl.col("b"), 0.01)).to_series().is_sorted()


def test_integers_have_quantiles_too():
    frame = pl.DataFrame({"v": list(range(-1000, 1001))})
    found = frame.select(approx_quantile("v", 0.9)).item()
    assert found == pytest.approx(800, rel=0.01)
    assert found != 800


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: approx_quantile("v", 95), "between 0 and 1"),
        (lambda: approx_quantile("v", 0.5, accuracy=0), "accuracy 0"),
        (lambda: ewm_mean("v", "at", half_life="soon"), "'soon' is not a duration"),
        (lambda: ewm_mean("v", "at", half_life="0s"), "longer than zero"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make, complaint):
    with pytest.raises(DefinitionError, match=complaint):
        make()


def test_equal_arguments_give_equal_expressions():
    for make in (lambda: slope("v", "at"), lambda: ewm_mean("v", "at", "2h"), lambda: approx_quantile("v", 0.5)):
        assert make().meta == make().meta
