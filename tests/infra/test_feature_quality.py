"""What comes into a feature group's table is judged by the group's suite, each run's rows once, and stays."""

from __future__ import annotations

import json
from datetime import timedelta

import polars as pl
import pytest

from card_payments import DAY, HOUR, T0, group, hours, payments
from expectations.result import Severity
from expectations.rules import Between, Expression, suite_of_group
from faults import Crash, Faults, FaultyLake
from features import Feature, FeatureStore, Registry
from features.capacity import Capacity
from html_page import Page
from infra.data_quality import write_quality
from infra.feature_quality import FeatureQuality, open_feature_quality
from infra.monitoring import write_report
from infra.storage.memory_store import MemoryOnlineStore
from infra.wiring import open_platform

AMOUNT = [Feature("amount", pl.col("amount"), range=(0, 1000), unit="USD"), Feature("payment", pl.col("payment_id"))]
PAID = group("paid", AMOUNT, grain="event")
DOUBTED = suite_of_group(
    PAID,
    rows=[
        Expression(name="known", ok=pl.col("payment") != 3, why="it never was", severity=Severity.HIGH),
        Between(name="small", column="amount", high=10, severity=Severity.LOW, tolerance=None),
    ],
)


class Shop:
    """Payments on a folder, and what judges the rows of the group ``PAID`` by a suite."""

    def __init__(self, folder, suite=None):
        self.now, self.faults = T0, Faults()
        registry, self.lake = Registry([PAID]), FaultyLake(folder, self.faults)
        self.store = FeatureStore(registry, self.lake, MemoryOnlineStore(), lambda: self.now, Capacity())
        judged_by = suite or suite_of_group(PAID)
        self.quality = FeatureQuality(self.lake, registry, lambda _: judged_by, lambda: self.now)

    def pay(self, *rows):
        self.store.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))

    def night(self):
        """Materialize and judge: what was found, as (plan, rule, severity, failed, checked)."""
        self.store.materialize_incremental(PAID)
        return said(self.quality.judge("paid"))

    def verdicts(self):
        return self.quality.verdicts(T0, T0 + 30 * DAY)


def said(found):
    return found.select("plan", "rule", "severity", "failed", "checked").rows()


def test_each_runs_rows_are_judged_once_and_stay(tmp_path):
    shop = Shop(tmp_path)
    shop.pay((1, 1, 5.0, T0), (2, 4, -5.0, T0), (3, 2, None, T0), (4, 3, float("nan"), T0))
    assert shop.night() == [(1, "amount_range", "high", 1, 2)]
    assert shop.night() == []
    shop.now += DAY
    shop.pay((5, 1, 7.0, hours(1)))
    assert shop.night() == []
    whole = shop.verdicts().filter(pl.col("rule").is_null())
    rules = len(suite_of_group(PAID).schema) + len(suite_of_group(PAID).rows)
    assert whole.select("plan", "severity", "checked", "rules").rows() == [(1, "high", 4, rules), (2, None, 1, rules)]
    assert shop.store.current_rows(PAID).collect().height == 5


def test_rules_of_ones_own_judge_with_their_severity(tmp_path):
    shop = Shop(tmp_path, DOUBTED)
    shop.pay(*((n, n, 20.0 if n == 4 else 5.0, T0) for n in range(1, 30)))
    assert shop.night() == [(1, "known", "high", 1, 29), (1, "small", "low", 1, 29)]


def test_rows_of_backfills_are_judged_when_they_are_in_the_table(tmp_path):
    shop = Shop(tmp_path, DOUBTED)
    shop.pay(*((n, 7, 50.0, hours(n)) for n in (1, 2)))
    shop.now += DAY
    shop.store.materialize(PAID, T0, T0 + DAY)
    assert said(shop.quality.judge("paid")) == [(1, "small", "low", 2, 2)]


def test_pushed_rows_are_judged_by_what_is_not_asked_of_a_push_and_versions_of_a_row_are_no_duplicates(tmp_path):
    now = [T0]
    with open_platform(Registry([PAID]), tmp_path / "home", lambda: now[0]) as platform:
        for amount in (20.0, 30.0):
            now[0] += HOUR
            platform.store.push(PAID, [{"card_id": 7, "event_timestamp": T0, "amount": amount, "payment": 1}])
        platform.store.fold(PAID)
        quality = FeatureQuality(platform.lake, platform.store.registry, lambda _: DOUBTED, platform.store.now)
        assert said(quality.judge("paid")) == [(1, "small", "low", 2, 2)]


@pytest.mark.parametrize("after", [False, True])
def test_a_judgement_that_is_killed_is_made_once(tmp_path, after):
    shop = Shop(tmp_path)
    shop.pay((1, 1, -5.0, T0))
    shop.store.materialize_incremental(PAID)
    shop.faults.crash(1, after=after)
    with pytest.raises(Crash):
        shop.quality.judge("paid")
    shop.faults.disarm()
    shop.now += HOUR
    assert shop.night() == ([] if after else [(1, "amount_range", "high", 1, 1)])
    assert said(shop.verdicts().drop_nulls("rule")) == [(1, "amount_range", "high", 1, 1)]


def test_of_two_who_judge_at_once_one_does(tmp_path):
    shop = Shop(tmp_path)
    shop.pay((1, 1, -5.0, T0))
    shop.store.materialize_incremental(PAID)
    found = []

    def other():
        shop.now += DAY
        shop.pay((2, 2, -6.0, hours(2)))
        found.extend(shop.night())

    shop.faults.interrupt(1, other)
    assert said(shop.quality.judge("paid")) == []
    assert found == [(1, "amount_range", "high", 1, 1), (2, "amount_range", "high", 1, 1)]
    assert said(shop.verdicts().drop_nulls("rule")) == found


def test_a_rule_that_cannot_be_judged_is_critical_and_the_others_are(tmp_path):
    broken = suite_of_group(
        PAID, rows=[Expression(name="wrong", ok=pl.col("amount").str.len_chars() > 1, why="no text")]
    )
    shop = Shop(tmp_path, broken)
    shop.pay((1, 1, -5.0, T0))
    found = {rule: severity for _, rule, severity, *_ in shop.night()}
    assert found == {"wrong": "critical", "amount_range": "high"}


def test_reports_and_the_night_tell_of_them_and_judge_what_no_run_did(tmp_path):
    with open_platform(Registry([PAID]), tmp_path / "home", lambda: T0 + DAY) as platform:
        frame = pl.DataFrame(
            [(n, n, -5.0 if n < 3 else 5.0, T0) for n in range(20)], schema=dict(payments.schema), orient="row"
        )
        platform.store.write_source(payments, frame)
        platform.store.materialize_incremental(PAID)
        written = write_quality(platform, 30)
        night = write_report(platform)
        again = write_quality(platform, 30).report
    report = written.report
    (made,) = report.features
    assert (made.group, made.rule, made.severity, made.failed, made.checked, made.runs) == (
        "paid", "amount_range", "high", 3, 20, 1,
    )  # fmt: skip
    assert (report.feature_rows, report.level) == (20, "action")
    assert "of 20 feature rows, worst: paid, amount_range (high), 3 values" in report.sentence
    assert [(count.severity, count.findings, count.failed) for count in report.severities] == [("high", 1, 3)]
    assert ("paid.amount", 3) in [(field.field, field.failed) for field in report.fields]
    assert (again.features, again.feature_rows) == (report.features, 20)
    page = Page(written.path.read_text("utf-8"))
    assert "'amount' is outside 0 to 1000 USD in 3 of 20 rows (15.0%)" in page.text
    counts = json.loads(night.path.with_suffix(".json").read_text("utf-8"))["quality"]
    assert ("paid", "amount_range", "high", 3, "rows kept") in [tuple(count.values()) for count in counts]


def test_a_group_without_a_table_or_news_has_nothing_to_judge(tmp_path):
    with open_platform(Registry([PAID]), tmp_path / "home", lambda: T0) as platform:
        quality = open_feature_quality(platform)
        quality.judge_all()
        assert quality.judge("paid").is_empty()
        assert quality.verdicts(T0, T0 + timedelta(days=1)).is_empty()
        assert not platform.lake.paths()
