"""The nightly report: one safe, self-contained page; the same facts as JSON; the verdict."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.drift import ColumnData, ColumnDrift, detect
from expectations.performance import by_day, regression
from expectations.pictures import picture
from html_page import Page
from infra.reports import charts
from infra.reports.nightly_report import (
    MOST,
    Freshness,
    HeatRow,
    ModelNight,
    NightlyReport,
    Provenance,
    QualityCount,
    Volume,
    heat_row,
    render,
    to_json,
)

NOW = datetime(2026, 4, 1, 6, tzinfo=UTC)
DAY = date(2026, 3, 31)
EVIL = '<script>alert("x")</script>&\'"'


def column(baseline, current) -> ColumnData:
    days = pl.Series([DAY - timedelta(days=30 - i * 30 // len(baseline)) for i in range(len(baseline))])
    return ColumnData(pl.Series(baseline), days, pl.Series(current))


def night() -> NightlyReport:
    rng = np.random.default_rng(1)
    columns = {
        "wafer:vdd": column(rng.normal(1.2, 0.01, 3000), rng.normal(1.25, 0.01, 100)),
        "wafer:bin": column(rng.choice(["1", "2"], 3000), rng.choice(["1", "2", "new"], 100)),
        "wafer:idd": column(rng.normal(80, 5, 3000), rng.normal(80, 5, 100)),
        "wafer:site": column(np.ones(3000), np.ones(100)),
    }
    drift = detect(columns)
    frame = pl.DataFrame({"label": rng.normal(90, 2, 80), "day": [DAY - timedelta(days=i % 4) for i in range(80)]})
    frame = frame.with_columns(prediction=pl.col("label") + rng.normal(0, 1, 80))
    return NightlyReport(
        "Nightly report",
        NOW,
        DAY,
        drift=drift,
        pictures={c.ref: picture(columns[c.ref]) for c in drift if c.state == "drift"},
        heat=[heat_row(columns[c.ref], c, DAY) for c in drift if c.state in ("drift", "ok")],
        provenance=[Provenance("bronze/parts", "7", 3000, "9", 100)],
        quality=[QualityCount("parts", "vdd in range", "high", 12, "quarantined")],
        freshness=[Freshness("wafer", NOW - timedelta(hours=30), timedelta(days=90), timedelta(hours=24))],
        volume=[Volume("parts", {DAY: 100, DAY - timedelta(days=1): 90})],
        models=[ModelNight(regression("yield", frame), by_day(regression, "yield", frame, "day"))],
        untested=[("source logs", "no rows yet")],
        changes=["wafer:vdd: ok, now drift"],
    )


def test_the_page_is_well_formed_and_refers_to_nothing_outside():
    page = Page(render(night()))
    assert {"script", "link", "img", "iframe", "object", "style"} & set(page.tags) == {"style"}
    names = {name for name, _ in page.attributes}
    assert {"href", "src", "srcset", "onload", "onclick"}.isdisjoint(names)
    assert not re.search(r"url\(|@import|https?:", render(night()))


def test_the_page_shows_what_the_report_holds():
    page = Page(render(night()))
    for word in ("Nightly report", "Needs action", "wafer:vdd", "vdd in range", "bronze/parts", "no rows yet", "late"):
        assert word in page.text, word
    assert page.text.index("wafer:vdd") < page.text.index("wafer:idd")
    assert page.tags.count("svg") == 6  # vdd twice, bin once (a category has no daily mean), heat, volume, model
    assert "coverage 100.0 %" in page.text


def test_everything_is_escaped():
    drift = ColumnDrift(EVIL, "drift", EVIL, 10, 10, effect=0.5, effect_name=EVIL, daily_z=9.0, message=EVIL)
    letters = picture(column([EVIL, "a"] * 150, [EVIL, "b"] * 10))
    frame = pl.DataFrame({"label": np.arange(40.0), "prediction": np.arange(40.0)})
    report = NightlyReport(
        EVIL,
        NOW,
        DAY,
        drift=[drift],
        pictures={EVIL: replace(letters, new=(EVIL,), vanished=(EVIL,))},
        heat=[HeatRow(EVIL, {DAY: 9.0})],
        provenance=[Provenance(EVIL, EVIL, 1, EVIL, 1)],
        quality=[QualityCount(EVIL, EVIL, "high", 1, EVIL)],
        freshness=[Freshness(EVIL, NOW)],
        volume=[Volume(EVIL, {DAY: 1})],
        models=[ModelNight(regression(EVIL, frame))],
        untested=[(EVIL, EVIL)],
        changes=[EVIL],
        code_version=EVIL,
        verdict=EVIL,
    )
    html = render(report)
    assert "script" not in Page(html).tags
    assert "<script" not in html
    assert EVIL in Page(html).text


def test_an_empty_night_renders():
    report = NightlyReport("Empty", NOW, DAY)
    assert "Nothing was checked" in Page(render(report)).text
    assert report.level == "attention"


def test_a_huge_night_stays_under_one_megabyte_and_says_what_it_leaves_out():
    report = night()
    many = 500
    name = "temporal_trends_of_a_rather_long_name:feature_with_a_long_name_{:03d}".format
    drift = [replace(report.drift[0], ref=name(i)) for i in range(many)]
    days = {DAY - timedelta(days=d): 3.14159 * d for d in range(31)}
    big = replace(
        report,
        drift=drift,
        pictures={name(i): next(iter(report.pictures.values())) for i in range(many)},
        heat=[HeatRow(name(i), days) for i in range(many)],
        provenance=list(report.provenance) * many,
        quality=list(report.quality) * many,
        freshness=list(report.freshness) * many,
        volume=[Volume(name(i), dict.fromkeys(days, 100_000)) for i in range(many)],
        models=list(report.models) * many,
        untested=list(report.untested) * many,
    )
    html = render(big)
    assert len(html.encode()) < 1_000_000
    assert f"{many - MOST['drift']} more columns are in the JSON" in html
    assert len(to_json(big)["drift"]) == many


@pytest.mark.parametrize(
    ("age", "state"), [(23, "fresh"), (24, "fresh"), (25, "late"), (48, "late"), (49, "expired"), (None, "no rows")]
)
def test_freshness_has_closed_limits(age, state):
    newest = None if age is None else NOW - timedelta(hours=age)
    assert Freshness("g", newest, ttl=timedelta(hours=48), sla=timedelta(hours=24)).state(NOW) == state


def test_the_verdict_follows_the_facts():
    ok = ColumnDrift("a:b", "ok", "ks", 10, 10)
    calm = NightlyReport("t", NOW, DAY, drift=[ok, replace(ok, ref="a:c", state="constant")])
    assert (calm.level, calm.drifted, calm.checked) == ("clear", [], 1)
    assert calm.sentence == "No drift in the 1 of 2 columns that could be checked."
    assert replace(calm, drift=[replace(ok, state="error")]).level == "attention"
    moved = replace(calm, drift=[replace(ok, state="drift", message="mean up")])
    assert moved.level == "action"
    assert "a:b most (mean up)" in moved.sentence
    assert replace(calm, quality=[QualityCount("t", "r", "medium", 5, "logged")]).level == "clear"
    assert replace(calm, quality=[QualityCount("t", "r", "critical", 5, "blocked")]).level == "action"
    assert replace(calm, freshness=[Freshness("g", None)]).level == "action"
    assert replace(calm, verdict="My own words").sentence == "My own words"


def test_what_has_no_judgement_is_listed_with_its_reason():
    listed = dict(night().not_tested)
    assert "every value is 1" in listed["wafer:site"]
    assert listed["source logs"] == "no rows yet"
    assert "wafer:idd" not in listed


def test_json_holds_the_same_facts_and_is_strict():
    report = night()
    plain = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert plain["drifted"] == report.drifted
    assert plain["verdict"] == report.sentence
    assert [c["ref"] for c in plain["drift"]] == [c.ref for c in report.drift]
    assert plain["now"] == "2026-04-01T06:00:00+00:00"
    assert plain["freshness"][0]["state"] == "late"
    assert plain["freshness"][0]["sla"] == 86_400
    assert plain["heat"][0]["shifts"][DAY.isoformat()] == pytest.approx(report.drift[0].daily_z)
    endless = replace(report, drift=[replace(report.drift[0], daily_z=float("inf"))])
    assert to_json(endless)["drift"][0]["daily_z"] is None
    assert "∞" in Page(render(endless)).text


finite = st.floats(-1e12, 1e12)


@given(st.lists(finite, min_size=2, max_size=40, unique=True).map(sorted), st.data())
@settings(max_examples=40, deadline=None)
def test_histograms_draw_any_finite_data(edges, data):
    shares = st.lists(st.floats(0, 1), min_size=len(edges) - 1, max_size=len(edges) - 1)
    svg = charts.histogram(edges, data.draw(shares), data.draw(shares))
    assert not re.search(r"nan|inf", svg)
    Page(svg)


@given(st.lists(st.one_of(st.none(), finite), max_size=30), st.one_of(st.none(), finite))
@settings(max_examples=40, deadline=None)
def test_bands_draw_any_finite_data(means, today):
    days = [DAY - timedelta(days=len(means) - i) for i in range(len(means))]
    svg = charts.daily_band(days, means, DAY, today)
    assert not re.search(r"nan|inf", svg)
    Page(svg)


@given(finite, finite)
def test_ticks_are_few_and_inside(a, b):
    low, high = min(a, b), max(a, b)
    ticks = charts.Span(low, high, 0, 100).ticks()
    slack = 1e-6 * max(abs(low), abs(high), high - low)
    assert 1 <= len(ticks) <= 12 or high - low < slack
    assert all(low - slack <= t <= high + slack for t in ticks)
