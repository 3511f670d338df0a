"""A day against its good days: what is found, with which severity, and what is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.days import Watch, measure
from expectations.quality import GOOD_DAYS, HORIZON, JUDGED, judge
from expectations.result import Severity

START = date(2026, 3, 2)  # a Monday
WATCH = Watch(["vdd", "kind"], cohorts=["tester"])
Make = Callable[[int, np.random.Generator], pl.DataFrame]


def at(number: int) -> date:
    return START + timedelta(days=number)


def frame(values: Iterable[float | None], tester: str = "T1") -> pl.DataFrame:
    column = pl.Series("vdd", values, dtype=pl.Float64, nan_to_null=True)
    return pl.DataFrame({"vdd": column}).with_columns(pl.lit(tester).alias("tester"), pl.lit("x").alias("kind"))


def clean(_: int, draw: np.random.Generator) -> pl.DataFrame:
    """A day like every other: its mean moves a little from day to day."""
    return frame(draw.normal(1.2 + 0.002 * draw.normal(), 0.01, 400))


def replay(days: Iterable[int], make: Make, watch: Watch = WATCH, spoiled: Iterable[int] = (), seed: int = 5):
    """The judged lines of days, each compared with those before."""
    draw = np.random.default_rng(seed)
    history = pl.DataFrame(schema=JUDGED)
    for number in days:
        lines = measure(make(number, draw), watch, at(number))
        history = pl.concat([history, judge(lines, history, over=True, spoiled=number in set(spoiled))])
    return history


def findings(judged: pl.DataFrame, number: int | None = None) -> list[dict[str, object]]:
    """What was found, on a day or on all, with what it is about."""
    found = judged if number is None else judged.filter(pl.col("day") == at(number))
    found = found.filter(pl.col("findings").list.len() > 0).explode("findings").unnest("findings")
    return found.select("cohort", "column", "rule", "severity", "failed", "checked", "message").to_dicts()


def rules(judged: pl.DataFrame, number: int) -> set[tuple[str, str]]:
    return {(one["rule"], one["severity"]) for one in findings(judged, number)}


def last_day(make: Make) -> Make:
    """Thirty clean days, then one that is made differently."""
    return lambda number, draw: clean(number, draw) if number < 30 else make(number, draw)


def test_below_seven_good_days_nothing_is_said():
    judged = replay(range(7), lambda n, draw: frame(draw.normal(n * 100.0, 1, 50)))
    assert findings(judged) == []
    assert set(judged["state"]) == {"insufficient_data"}
    eighth = replay(range(8), lambda n, draw: frame(draw.normal(1e4 if n == 7 else 1.0, 1, 50)))
    assert rules(eighth, 7) == {("mean_shift", "high")}
    assert set(replay(range(8), clean).filter(pl.col("day") == at(7), pl.col("column") == "vdd")["state"]) == {"ok"}


def test_a_shift_of_twenty_sigma_in_microamperes_is_found():
    amps = last_day(lambda _, draw: frame(draw.normal(3e-6 + 20 * 1e-8, 1e-8, 400)))
    judged = replay(range(31), lambda n, draw: amps(n, draw) if n == 30 else frame(draw.normal(3e-6, 1e-8, 400)))
    assert {(one["cohort"], one["rule"], one["severity"]) for one in findings(judged, 30)} == {
        ("", "mean_shift", "high"),
        ("tester=T1", "mean_shift", "high"),
    }
    message = findings(judged, 30)[0]["message"]
    said = re.fullmatch(r"'vdd': mean (\S+) over 30 good days, (\S+) now: \+(\S+) SDs of the daily values", message)
    assert [float(group) for group in said.groups()[:2]] == pytest.approx([3e-6, 3.2e-6], rel=1e-3)
    assert float(said[3]) > 100
    assert findings(judged.filter(pl.col("day") < at(30))) == []


def test_a_shift_of_one_tester_is_found_there():
    def make(number: int, draw: np.random.Generator) -> pl.DataFrame:
        offset = 0.05 if number == 20 else 0.0
        both = [frame(draw.normal(1.2 + (t == "T2") * offset, 0.05, 200), t) for t in ("T1", "T2")]
        return pl.concat(both)

    found = findings(replay(range(21), make), 20)
    assert ("tester=T2", "mean_shift") in {(one["cohort"], one["rule"]) for one in found}
    assert all(one["cohort"] != "tester=T1" for one in found)


def test_clean_lognormal_values_raise_no_outlier_finding_but_more_of_them_do():
    def make(_: int, draw: np.random.Generator) -> pl.DataFrame:
        return frame(draw.lognormal(0, 1, 2000))

    judged = replay(range(40), make)
    assert judged.filter(pl.col("column") == "vdd")["outliers_iqr"].mean() > 0.07 * 2000
    assert findings(judged) == []
    planted = replay(range(31), last_day(lambda _, draw: frame([*draw.normal(1.2, 0.01, 372), *[1.27] * 28])))
    assert rules(planted, 30) == {("outliers_iqr", "low"), ("outliers_mad", "low"), ("outliers_z", "low")}
    assert all(28 <= one["failed"] < 36 and one["checked"] == 400 for one in findings(planted, 30))


@pytest.mark.parametrize(("nulls", "severity"), [(24, "high"), (12, "medium")])
def test_missing_values_are_high_above_five_percent_and_medium_below(nulls, severity):
    made = last_day(lambda _, draw: frame([*draw.normal(1.2, 0.01, 400 - nulls), *[None] * nulls]))
    judged = replay(range(31), made)
    assert rules(judged, 30) == {("null_rate", severity)}
    one = findings(judged, 30)[0]
    assert (one["failed"], one["checked"]) == (nulls, 400)
    assert one["message"].startswith(f"'vdd': 0.00% missing or not finite over 30 good days, {nulls / 400:.2%} now")


def test_a_column_that_always_has_gaps_may_have_them():
    judged = replay(range(40), lambda _, draw: frame(np.where(draw.random(400) < 0.3, np.nan, draw.normal(1, 1, 400))))
    assert findings(judged) == []


def test_a_day_with_far_fewer_rows_is_found_once_it_is_over():
    few = last_day(lambda _, draw: frame(draw.normal(1.2, 0.01, 40)))
    judged = replay(range(31), few)
    assert rules(judged, 30) == {("volume", "medium")}
    assert (
        findings(judged, 30)[0]["message"] == "40 rows; 400 a day over 30 good days, and no two of those days differed"
    )
    today = judged.filter(pl.col("day") == at(30)).drop("state", "good", "findings")
    assert findings(judge(today, judged, over=False)) == []


def test_a_silent_day_is_found_but_not_a_weekend():
    def make(number: int, draw: np.random.Generator) -> pl.DataFrame:
        return clean(number, draw).head(0 if number % 7 >= 5 or number == 31 else 400)

    judged = replay(range(33), make)
    assert findings(judged) == []  # Thursday was no longer than a weekend
    daily = replay(range(12), lambda n, draw: clean(n, draw).head(0 if n >= 10 else 400))
    assert [one["rule"] for one in findings(daily)] == ["freshness", "freshness"]
    assert findings(daily, 11)[0]["message"] == (
        "no rows since 2026-03-11, 2 day(s) before; over 10 good days there were rows at least every 1 day(s)"
    )


def test_columns_that_come_go_or_change_their_type_are_found_on_that_day_alone():
    changes = {
        "gone": lambda rows: rows.drop("kind"),
        "empty": lambda rows: rows.with_columns(pl.lit(None, pl.String).alias("kind")),
        "new": lambda rows: rows.with_columns(pl.lit(1.0).alias("idd")),
        "type": lambda rows: rows.with_columns(pl.lit(1.0).alias("kind")),
    }
    expected = {"gone": "column_gone", "empty": "column_gone", "new": "column_new", "type": "column_type"}
    watch = Watch(["vdd", "kind", "idd"])
    for name, change in changes.items():
        made = lambda n, draw, change=change: change(clean(n, draw)) if n >= 10 else clean(n, draw)  # noqa: E731
        judged = replay(range(12), made, watch)
        schema = [one for one in findings(judged) if one["rule"].startswith("column")]
        assert [one["rule"] for one in schema] == [expected[name]]
        assert schema[0]["severity"] == ("low" if name == "new" else "high")


def test_spoiled_and_drifted_days_are_no_baseline():
    judged = replay(range(20), clean, spoiled=range(10, 20))
    assert judged.filter(pl.col("good"))["day"].max() == at(9)
    shifted = replay(range(25), lambda n, draw: frame(draw.normal(1.2 if n < 10 else 1.5, 0.01, 100)))
    vdd = shifted.filter(pl.col("column") == "vdd", pl.col("day") >= at(10))
    assert not vdd["good"].any()
    assert set(vdd["state"]) == {"drift"}  # the new level does not become the old one by itself


def test_what_changed_for_good_is_learnt_anew_after_the_horizon():
    def make(number: int, draw: np.random.Generator) -> pl.DataFrame:
        return frame(draw.normal(1.2 if number < 10 else 1.5, 0.01, 100))

    states = replay([*range(11), *range(100, 108)], make).filter(pl.col("column") == "vdd", pl.col("cohort") == "")
    after = dict(states.select("day", "state").iter_rows())
    assert HORIZON.days == 90
    assert after[at(10)] == "drift"
    assert [after[at(n)] for n in range(100, 108)] == ["insufficient_data"] * 7 + ["ok"]


def test_the_last_thirty_good_days_are_the_baseline():
    # Ten days at another level, long ago: with them the days' own spread would hide today.
    def make(number: int, draw: np.random.Generator) -> pl.DataFrame:
        level = 1.0 if number < 10 else 1.2 + 0.01 * (number == 10 + GOOD_DAYS)
        return frame(draw.normal(level, 0.002, 100))

    judged = replay(range(10 + GOOD_DAYS), make).with_columns(good=pl.lit(value=True))
    today = measure(make(10 + GOOD_DAYS, np.random.default_rng(1)), WATCH, at(10 + GOOD_DAYS))
    assert rules(judge(today, judged, over=True), 10 + GOOD_DAYS) == {("mean_shift", "high")}


def test_clean_nights_raise_a_false_alarm_in_less_than_one_of_twenty():
    """Twelve quantities of all shapes in two testers, in lots that move together: 3 x 50 nights."""
    names = [f"q{i}" for i in range(12)]

    def make(_: int, draw: np.random.Generator) -> pl.DataFrame:
        parts = []
        for tester in ("T1", "T2"):
            lot = draw.normal(0, 0.3, 12)
            values = draw.normal(lot, 1, (80, 12))
            values[:, 4:8] = np.exp(values[:, 4:8])
            values[:, 8:] = np.where(draw.random((80, 4)) < 0.1, np.nan, np.round(values[:, 8:]))
            parts.append(pl.DataFrame(values, schema=names).fill_nan(None).unpivot(variable_name="name"))
            parts[-1] = parts[-1].with_columns(pl.lit(tester).alias("tester"))
        return pl.concat(parts)

    nights, alarms = 0, 0
    for seed in range(3):
        judged = replay(range(50), make, Watch(["value"], pl.col("name"), ["tester"]), seed=seed)
        by_day = judged.group_by("day").agg((pl.col("findings").list.len() > 0).any().alias("alarm"))
        nights, alarms = nights + by_day.height - 7, alarms + by_day["alarm"].sum()
    assert alarms < 0.05 * nights


anything = st.lists(st.one_of(st.none(), st.floats(width=32), st.sampled_from([0.0, 1.0])), max_size=12)


@settings(max_examples=20)
@given(st.lists(anything, min_size=8, max_size=9))
def test_whatever_a_column_holds_it_ends_in_a_state_and_never_blocks(days):
    judged = replay(range(len(days)), lambda n, _: pl.DataFrame({"vdd": pl.Series(days[n], dtype=pl.Float64)}))
    assert set(judged["state"]) <= {"ok", "drift", "insufficient_data"}
    assert not judged["good"].is_null().any()
    assert all(one["severity"] != Severity.CRITICAL.label for one in findings(judged))
