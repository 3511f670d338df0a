"""Drift: every trap that popular tools fall into, the false-alarm rate of clean nights, the ranking."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from expectations import statistics
from expectations.baseline import ColumnBaseline
from expectations.comparison import MIN_DAYS
from expectations.drift import ColumnData, ColumnDrift, detect
from expectations.pictures import daily_shifts, picture

DAY = date(2026, 1, 1)


def dates(index: np.ndarray) -> pl.Series:
    return pl.Series([DAY + timedelta(days=i) for i in range(int(index.max(initial=0)) + 1)], dtype=pl.Date).gather(
        pl.Series(index)
    )


def column(baseline, current, per_day: int | None = None, dtype: pl.DataType | None = None) -> ColumnData:
    """A baseline cut into days of equal size (30, or of ``per_day`` rows), and today."""
    per_day = per_day or max(len(baseline) // 30, 1)
    return ColumnData(
        pl.Series(baseline, dtype=dtype, strict=False),
        dates(np.arange(len(baseline)) // per_day),
        pl.Series(current, dtype=dtype, strict=False),
    )


def one(data: ColumnData) -> ColumnDrift:
    (found,) = detect({"source:column": data})
    return found


def normal(seed: int, rows: int, mean: float = 0.0, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, sd, rows)


# ------------------------------------------------------------------------------------ statistics


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.booleans())
@settings(max_examples=60, deadline=None)
def test_ks_and_wasserstein_agree_with_naive_ones(seed, n, m, ties):
    rng = np.random.default_rng(seed)
    a, b = np.sort(rng.normal(size=n)), np.sort(rng.normal(size=m))
    if ties:
        a, b = a.round(), b.round()
    d, _, distance = statistics.kolmogorov_smirnov(a, b)
    assert d == pytest.approx(max(abs((a <= x).mean() - (b <= x).mean()) for x in (*a, *b)))
    assert distance == pytest.approx(stats.wasserstein_distance(a, b), abs=1e-12)


def test_the_ks_p_value_is_close_to_the_exact_one():
    a, b = np.sort(normal(1, 150)), np.sort(normal(2, 5, 1.2))
    exact = stats.ks_2samp(a, b, method="exact").pvalue
    assert statistics.kolmogorov_smirnov(a, b)[1] == pytest.approx(exact, rel=0.25)


def test_psi_of_a_shift_of_one_sigma_is_one():
    frozen = ColumnBaseline.of(pl.Series(normal(1, 200_000)), pl.Series([DAY] * 200_000))
    psi = statistics.population_stability(np.array(frozen.counts), frozen.count(pl.Series(normal(2, 200_000, 1.0))))
    assert 0.85 < psi < 1.0  # 1.0 without bins (the symmetric divergence of N(0,1) and N(1,1))


def test_an_empty_bin_leaves_psi_finite():
    psi = statistics.population_stability(np.array([1000, 0]), np.array([500, 500]))
    assert 0 < psi < 5


def test_the_critical_value_of_psi_keeps_its_level_where_fixed_cuts_do_not():
    rng = np.random.default_rng(3)
    pairs = rng.multinomial(200, [0.1] * 10, size=(2000, 2))
    values = np.array([statistics.population_stability(a, b) for a, b in pairs])
    critical = np.array([statistics.population_stability_critical(a, b) for a, b in pairs])
    assert (values > 0.1).mean() > 0.25
    assert (values > critical).mean() == pytest.approx(0.05, abs=0.02)


def test_jensen_shannon_is_bounded():
    same, other = np.array([10_000, 0]), np.array([0, 10_000])
    assert statistics.jensen_shannon(same, same) == pytest.approx(0)
    assert 0.99 < statistics.jensen_shannon(same, other) <= 1


def test_chi_square_treats_the_baseline_as_a_sample():
    rng = np.random.default_rng(4)
    pairs = rng.multinomial(500, [0.4, 0.3, 0.2, 0.1], size=(2000, 2))
    p_values = np.array([statistics.contingency(a, b)[2] for a, b in pairs])
    assert (p_values < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_one_unseen_category_does_not_decide():
    test, _, p = statistics.contingency(np.array([1000, 1000, 0]), np.array([500, 499, 1]))
    assert test == "chi2"
    assert p > 0.9


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
def test_pooling_keeps_rows_and_leaves_nothing_rare(pairs):
    a, b = np.array(pairs).T
    x, y = statistics.pool_rare(a, b)
    assert (x.sum(), y.sum()) == (a.sum(), b.sum())
    total = (x + y).sum()
    if len(x) > 1 and total:
        assert ((x + y) * min(x.sum(), y.sum()) / total >= 5).all()


def test_cramers_v_does_not_shrink_with_the_baseline():
    days = [one(column(["a", "b"] * 150 * k, ["a"] * 60 + ["b"] * 40, 10 * k)).effect for k in (1, 10)]
    assert days[0] == pytest.approx(days[1])


# ------------------------------------------------------------------------------------- the traps


def test_a_tiny_shift_of_many_rows_is_not_a_drift():
    found = one(column(normal(1, 400_000), normal(2, 400_000, 0.03)))
    assert found.q_value < 0.001
    assert found.effect < found.floor
    assert found.state == "ok"


def test_a_quarter_sigma_shift_is_found():
    assert one(column(normal(1, 90_000), normal(2, 3000, 0.25))).state == "drift"


def test_microamperes_are_as_visible_as_volts():
    volts = one(column(normal(1, 9000), normal(2, 300, 20)))
    micro = one(column(normal(1, 9000) * 1e-6, normal(2, 300, 20) * 1e-6))
    assert micro.state == "drift"
    assert micro.wasserstein == pytest.approx(volts.wasserstein)
    assert 15 < micro.wasserstein < 25


@pytest.mark.parametrize("side", ["baseline", "current"])
def test_one_wild_value_hides_nothing_and_raises_nothing(side):
    def wild(values: np.ndarray, where: bool) -> np.ndarray:
        return np.concatenate([values[:-1], [1e9]]) if where else values

    clean = column(wild(normal(1, 30_000), side == "baseline"), wild(normal(2, 1000), side == "current"))
    shifted = column(wild(normal(1, 30_000), side == "baseline"), wild(normal(2, 1000, 1.0), side == "current"))
    assert one(clean).state == "ok"
    found = one(shifted)
    assert found.state == "drift"
    assert 0.7 < found.psi < 1.2


def test_ties_do_not_abort():
    zeros = [0.0] * 2400 + list(range(1, 601))
    rng = np.random.default_rng(5)
    baseline = rng.permutation(zeros)
    assert one(column(baseline, rng.permutation(zeros)[:100])).state == "ok"
    assert one(column(baseline, [0.0] * 30 + list(range(70)))).state == "drift"


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_half_of_the_values_gone_is_a_drift(bad):
    current = [bad if i % 2 else float(v) for i, v in enumerate(normal(2, 200))]
    found = one(column(normal(1, 6000), current))
    assert (found.state, found.test) == ("drift", "missing")
    assert found.null_rate_current == 0.5
    assert found.null_rate_baseline == 0


def test_all_values_gone_is_a_drift():
    assert one(column(normal(1, 3000), [None] * 100)).state == "drift"
    assert one(column(["a", "b"] * 1500, [None] * 100)).state == "drift"


def test_values_where_there_were_none_are_a_drift():
    assert one(column([None] * 3000, normal(1, 100))).state == "drift"
    assert one(column([None] * 3000, ["a"] * 100)).state == "drift"


def test_missing_values_at_their_usual_rate_are_ok():
    rng = np.random.default_rng(6)
    values = [None if gone else 1.0 + v for gone, v in zip(rng.random(3100) < 0.1, rng.normal(size=3100), strict=True)]
    assert one(column(values[:3000], values[3000:])).state == "ok"


def test_a_wider_spread_with_the_same_mean_is_found():
    found = one(column(normal(1, 30_000), normal(2, 1000, 0.0, 2.0)))
    assert found.state == "drift"
    assert abs(found.daily_z) < found.daily_limit < abs(found.spread_z)
    assert "spread" in found.message


def test_rounding_is_no_spread():
    values = np.repeat(92 + 0.1 * normal(1, 31), 6)
    found = one(column(values[:-6], values[-6:]))
    assert found.state == "ok"
    assert found.spread_z == 0


def test_a_new_common_category_is_a_drift_and_a_rare_one_is_not():
    baseline = ["a", "b"] * 1500
    assert one(column(baseline, ["a", "b"] * 30 + ["c"] * 40)).state == "drift"
    assert one(column(baseline, ["a", "b"] * 49 + ["c"])).state == "ok"


def test_identifiers_that_are_new_every_day_are_ok():
    lots = [f"lot-{i // 100}" for i in range(3100)]
    assert one(column(lots[:3000], lots[3000:])).state == "ok"


def test_a_boolean_that_falls_is_a_drift():
    rng = np.random.default_rng(7)
    found = one(column((rng.random(9000) < 0.95).tolist(), (rng.random(300) < 0.7).tolist()))
    assert found.state == "drift"
    assert found.mean_baseline == pytest.approx(0.95, abs=0.01)
    assert found.daily_z < -found.daily_limit


# ------------------------------------------------------------------------------------ the states


@pytest.mark.parametrize(
    ("data", "state", "word"),
    [
        (column([], []), "insufficient_data", "0 baseline"),
        (column(normal(1, 300), []), "insufficient_data", "0 current"),
        (column(normal(1, 300), [1.0, 2.0]), "insufficient_data", "2 current"),
        (column(normal(1, 300), normal(2, 50, 9), per_day=50), "insufficient_data", "6 baseline day"),
        (column([None] * 300, [None] * 10), "constant", "missing"),
        (column([2.5] * 300, [2.5] * 10), "constant", "2.5"),
        (column(["x"] * 300, ["x"] * 10), "constant", "'x'"),
        (column([True] * 300, [True] * 10), "constant", "true"),
        (column([[1]] * 300, [[1]] * 10), "error", "distribution"),
        (column(normal(1, 300), ["a"] * 10), "error", "type changed"),
    ],
)
def test_each_column_ends_in_a_state_that_says_why(data, state, word):
    found = one(data)
    assert found.state == state
    assert word in found.message


def test_a_constant_that_changes_is_a_drift():
    found = one(column([2.5] * 300, [2.6] * 10))
    assert found.state == "drift"
    assert found.daily_z == math.inf
    assert one(column(["x"] * 300, ["y"] * 10)).state == "drift"


@given(
    st.lists(st.one_of(st.none(), st.floats()), max_size=60),
    st.lists(st.one_of(st.none(), st.floats()), max_size=30),
)
@settings(deadline=None)
def test_no_numbers_end_in_an_error(baseline, current):
    assert one(column(baseline, current, per_day=5, dtype=pl.Float64())).state != "error"


def test_one_bad_column_does_not_touch_the_others():
    good = column(normal(1, 3000, 1.20, 0.01), normal(2, 100, 1.25, 0.01))
    found = detect({"a:bad": column([[1]] * 300, [[1]] * 10), "a:good": good})
    assert [(c.ref, c.state) for c in found] == [("a:good", "drift"), ("a:bad", "error")]


def test_no_columns_no_findings():
    assert detect({}) == []


def test_seven_days_suffice_for_a_clear_shift():
    per_day = 50
    found = one(column(normal(1, per_day * MIN_DAYS, 1.20, 0.01), normal(2, per_day, 1.25, 0.01), per_day))
    assert found.state == "drift"


# ----------------------------------------------------------------------- whole nights of one fab


def fab(seed: int, *, shift: float = 0.0, days: int = 31) -> dict[str, ColumnData]:
    """A small fab: lots that differ, yield that follows vdd, windows that overlap; today is the last day."""
    rng = np.random.default_rng(seed)
    warm = 30
    lots_a_day = rng.integers(1, 4, warm + days)
    lot_day = np.repeat(np.arange(warm + days), lots_a_day)
    today = warm + days - 1
    wafer_day, lots = np.repeat(lot_day, 5), len(lot_day)

    def lot_noise(sd: float) -> np.ndarray:
        return np.repeat(rng.normal(0, sd, lots), 5)

    vdd = 1.20 + lot_noise(0.004) + rng.normal(0, 0.002, lots * 5) + shift * (wafer_day == today)
    yields = 92 - 300 * (vdd - 1.20) + lot_noise(2.0) + rng.normal(0, 1.5, lots * 5)
    die_day = np.repeat(wafer_day, 20)
    tester = np.repeat(rng.choice(["T1", "T2", "T3"], lots), 100)
    daily = np.array([yields[wafer_day == d].mean() for d in range(warm + days)])
    columns: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "wafer:avg_vdd": (wafer_day, vdd),
        "wafer:yield_pct": (wafer_day, yields),
        "wafer:avg_idd": (wafer_day, 80 + lot_noise(3) + rng.normal(0, 1, lots * 5)),
        "wafer:leakage": (wafer_day, np.exp(lot_noise(0.4) + rng.normal(0, 0.3, lots * 5))),
        "die:temperature": (die_day, rng.normal(25, 0.5, len(die_day))),
        "die:passed": (die_day, rng.random(len(die_day)) < np.repeat(yields, 20) / 100),
        "die:tester": (die_day, tester),
        "die:lot": (die_day, np.repeat(np.arange(lots), 100).astype(str)),
    }
    for window in (7, 30):
        trailing = np.convolve(daily, np.ones(window) / window)[: warm + days]
        hours = np.repeat(np.arange(warm + days), 24)
        columns[f"trend:yield_{window}d"] = (hours, np.repeat(trailing, 24) + rng.normal(0, 0.01, len(hours)))
        columns[f"trend:daily_yield_{window}d"] = (hours, np.repeat(trailing, 24))
    return {
        ref: ColumnData(
            pl.Series(values[(day >= warm) & (day < today)]),
            dates(day[(day >= warm) & (day < today)]),
            pl.Series(values[day == today]),
        )
        for ref, (day, values) in columns.items()
    }


def alarms(nights: range, days: int = 31) -> float:
    return sum(any(c.state == "drift" for c in detect(fab(seed, days=days))) for seed in nights) / len(nights)


def test_clean_nights_stay_quiet():
    assert alarms(range(150)) < 0.05


def test_without_the_daily_guard_clean_nights_would_not_be_quiet():
    significant = [c for seed in range(5) for c in detect(fab(seed)) if c.q_value <= 0.05 and c.effect >= c.floor]
    assert len(significant) >= 10
    assert {c.state for c in significant} == {"ok"}


@pytest.mark.prove
@pytest.mark.parametrize("days", [31, 9])
def test_clean_nights_stay_quiet_over_two_years(days):
    assert alarms(range(1000, 1800), days) < 0.05


def test_the_process_change_is_found_and_ranked_above_what_it_drags_along():
    for seed in range(8):
        found = detect(fab(seed, shift=0.05))
        drifted = [c.ref for c in found if c.state == "drift"]
        assert drifted[0] == "wafer:avg_vdd"
        assert {"wafer:avg_idd", "wafer:leakage", "die:temperature", "die:tester", "die:lot"}.isdisjoint(drifted)


def test_a_stored_baseline_gives_the_same_answer():
    for ref, data in fab(3, shift=0.05).items():
        frozen = ColumnBaseline.from_dict(data.profile.to_dict())
        assert detect({ref: data}) == detect({ref: ColumnData(data.baseline, data.day, data.current, frozen)})


# --------------------------------------------------------------------------------------- pictures


def test_a_picture_holds_shares_and_daily_means():
    drawn = picture(column(normal(1, 3000), normal(2, 100, 5)))
    assert len(drawn.edges) == len(drawn.baseline) + 1 == len(drawn.current) + 1
    assert sum(drawn.baseline) == pytest.approx(1)
    assert sum(drawn.current) == pytest.approx(1)
    assert len(drawn.days) == len(drawn.means) == 30
    assert drawn.today == pytest.approx(5, abs=0.5)
    assert drawn.quantiles_current[2] - drawn.quantiles_baseline[2] == pytest.approx(5, abs=0.5)


def test_a_picture_of_categories_names_the_new_and_the_vanished():
    drawn = picture(column(["a", "b"] * 150, ["b", "c"] * 10))
    assert set(drawn.labels) == {"a", "b", "c"}
    assert (drawn.new, drawn.vanished) == (("c",), ("a",))


def test_daily_shifts_are_the_z_of_each_good_day():
    shifts = list(daily_shifts(column(normal(1, 3000), [])).values())
    assert np.mean(shifts) == pytest.approx(0, abs=1e-9)
    assert np.std(shifts, ddof=1) == pytest.approx(1)
    categories = list(daily_shifts(column(np.random.default_rng(1).choice(["a", "b"], 3000).tolist(), [])).values())
    assert math.sqrt(np.mean(np.square(categories))) == pytest.approx(1)
