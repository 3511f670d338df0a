"""The lines of a day: figures known by hand, and against a naive computation of each group."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from expectations.days import LINE, Watch, measure, measure_days
from expectations.suites.watches import watch_for
from features import Source
from features.definitions import wafer_sources
from features.source import EVENT_DATE
from features.times import UTC_US

DAY = date(2026, 3, 1)
FIGURES = ["mean", "sd", "min", "max", "p25", "p50", "p75", "p95"]


def line(values: list[object], dtype: pl.DataType | None = None) -> dict[str, object]:
    """The line of a column "v" with these values."""
    frame = pl.DataFrame({"v": pl.Series(values, dtype=dtype, strict=False)})
    return measure(frame, Watch(["v"]), DAY).filter(pl.col("column") == "v").row(0, named=True)


def test_a_day_has_the_figures_known_by_hand():
    found = line([1.0, 2.0, 3.0, 4.0, 10.0, None, math.nan, math.inf])
    assert {k: found[k] for k in ("rows", "nulls", "nonfinite")} == {"rows": 8, "nulls": 1, "nonfinite": 2}
    assert [found[k] for k in FIGURES] == pytest.approx([4.0, math.sqrt(12.5), 1.0, 10.0, 2.0, 3.0, 4.0, 8.8])
    # Quartiles 2 and 4: beyond 1.5 x 2 lies 10. MAD 1: beyond 3.5 x 1.4826 lies 10. The SD is 3.5: none beyond 3.
    assert (found["outliers_iqr"], found["outliers_mad"], found["outliers_z"]) == (1, 1, 0)


def test_one_wild_value_is_an_outlier_and_leaves_the_mean_where_it_was():
    found = line([*np.linspace(-1, 1, 1001), 1e9])
    assert abs(found["mean"]) < 0.05
    assert found["max"] == 1e9
    assert [found[k] for k in ("outliers_iqr", "outliers_z", "outliers_mad")] == [1, 1, 1]


def test_booleans_have_a_share_and_categories_only_gaps():
    assert (line([True, False, True, None])["mean"], line([True, False])["max"]) == (2 / 3, None)
    of_text = line(["a", None, "b", "b"])
    assert (of_text["rows"], of_text["nulls"], of_text["mean"]) == (4, 1, None)


def test_what_holds_no_number_has_no_figures():
    for empty in (line([None, None], pl.Float64()), line([math.nan, math.inf])):
        assert [empty[k] for k in FIGURES] == [None] * 8
        assert [empty[k] for k in ("outliers_iqr", "outliers_z", "outliers_mad")] == [0, 0, 0]
    lines = measure(pl.DataFrame(schema={"v": pl.Float64, "tester": pl.String}), Watch(["v"], cohorts=["tester"]), DAY)
    assert lines.select("column", "rows").rows() == [("", 0)]
    assert lines.schema == LINE


def test_columns_that_are_not_there_or_have_no_distribution_have_no_line():
    rows = pl.DataFrame({"v": [1.0], "at": [DAY]})
    lines = measure(rows, Watch(["v", "at", "gone"], pl.col("name"), ["tester"]), DAY)
    assert lines["column"].to_list() == ["", "v"]


def test_a_source_implies_its_columns_without_keys_and_event_time():
    schema = {"id": pl.Int64(), "at": UTC_US, "price": pl.Float64(), "kind": pl.String(), "tags": pl.List(pl.String())}
    assert Watch.of(Source("orders", schema=schema, event_timestamp="at", keys=["id"])).columns == ["price", "kind"]


def test_a_test_without_a_name_goes_by_its_number():
    rows = pl.DataFrame({"test_name": ["vdd", None, None, None], "test_num": [1, 7, 7, None], "result": [1.0] * 4})
    lines = measure(rows, watch_for(wafer_sources.test_results), DAY).filter(pl.col("column") == "result")
    assert lines.select("quantity", "rows").rows() == [("", 1), ("test 7", 2), ("vdd", 1)]


def test_the_lines_of_the_only_tester_are_those_of_all_rows():
    rows = pl.DataFrame(
        {"v": [1.0, 2.0, None, 9.0], "name": ["a", "a", "b", "b"], "tester": "T1", "site": [1, 1, 1, None]}
    )
    lines = measure(rows, Watch(["v"], pl.col("name"), ["tester", "site"]), DAY).filter(pl.col("column") == "v")
    cohorts = {cohort: found.drop("cohort") for (cohort,), found in lines.partition_by("cohort", as_dict=True).items()}
    assert_frame_equal(cohorts["tester=T1"], cohorts[""])
    assert cohorts["site=1"].select("quantity", "rows").rows() == [("a", 2), ("b", 1)]


values = st.one_of(st.none(), st.sampled_from([0.0, 1.0, math.nan, -math.inf]), st.floats(-1e6, 1e6, width=32))
rows = st.lists(
    st.tuples(values, st.sampled_from(["T1", "T2", None]), st.sampled_from(["vdd", "idd", None])), max_size=60
)


@given(rows)
def test_every_line_is_what_a_naive_computation_says(drawn):
    frame = pl.DataFrame(drawn, schema={"v": pl.Float64, "tester": pl.String, "name": pl.String}, orient="row")
    lines = measure(frame, Watch(["v"], pl.col("name"), ["tester"]), DAY)
    naive: dict[tuple[str, str], list[float | None]] = {}
    for value, tester, name in drawn:
        for cohort in ["", *([f"tester={tester}"] if tester else [])]:
            naive.setdefault((cohort, name or ""), []).append(value)
    found = {(one["cohort"], one["quantity"]): one for one in lines.iter_rows(named=True) if one["column"] == "v"}
    assert found.keys() == naive.keys()
    for key, held in naive.items():
        _agrees(found[key], held)


def _agrees(found: dict[str, object], held: list[float | None]) -> None:
    there = [v for v in held if v is not None]
    finite = np.array([v for v in there if math.isfinite(v)])
    assert (found["rows"], found["nulls"]) == (len(held), len(held) - len(there))
    assert found["nonfinite"] == len(there) - len(finite)
    if not len(finite):
        assert found["mean"] is None
        return
    low, middle, high, top = np.quantile(finite, [0.25, 0.5, 0.75, 0.95])
    width = high - low
    tame = np.clip(finite, low - 30 * width, high + 30 * width) if width > 0 else finite
    expected = [tame.mean(), tame.std(ddof=1) if len(tame) > 1 else None, finite.min(), finite.max()]
    scale = max(1.0, np.abs(finite).max())
    for name, value in zip(FIGURES, [*expected, low, middle, high, top], strict=True):
        assert (found[name] is None) == (value is None), name
        assert value is None or abs(found[name] - value) <= 1e-9 * scale, name
    _outliers_agree(found, finite, tame, scale)


def _outliers_agree(found: dict[str, object], finite: np.ndarray, tame: np.ndarray, scale: float) -> None:
    """Counts agree but for values that lie on a limit to the last digits."""
    low, middle, high = np.quantile(finite, [0.25, 0.5, 0.75])
    away = np.abs(finite - middle)
    mad = np.median(away)
    excess = {
        "outliers_iqr": np.maximum(low - finite, finite - high) - 1.5 * (high - low),
        "outliers_z": np.abs(finite - tame.mean()) - 3 * (tame.std(ddof=1) if len(tame) > 1 else np.inf),
        "outliers_mad": away - 3.5 * 1.4826 * mad if mad > 0 else np.full(len(finite), -scale),
    }
    for name, beyond in excess.items():
        least, most = (beyond > 1e-9 * scale).sum(), (beyond > -1e-9 * scale).sum()
        assert least <= found[name] <= most, name


def test_days_together_have_the_lines_of_each_by_itself():
    random = np.random.default_rng(4)
    days = [DAY + timedelta(days=n) for n in (0, 1, 2, 5)]
    rows = pl.DataFrame(
        {
            "v": random.normal(size=400),
            "tester": random.choice(["A", "B", None], 400).tolist(),
            "name": random.choice(["vdd", "idd"], 400),
            EVENT_DATE: random.choice(days[:3], 400).tolist(),
        },
        schema_overrides={"tester": pl.String, EVENT_DATE: pl.Date},
    )
    watch = Watch(["v", "name"], pl.col("name"), ["tester"])
    alone = [measure(rows.filter(pl.col(EVENT_DATE) == day).drop(EVENT_DATE), watch, day) for day in days]
    assert_frame_equal(measure_days(rows, watch, days), pl.concat(alone))
