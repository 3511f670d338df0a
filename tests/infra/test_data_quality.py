"""The quality report: what share is clean, what was wrong with the rest, and what to do; of a run and over days."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from features import Source
from features.errors import DefinitionError
from features.times import UTC_US
from html_page import Page
from infra.data_quality import write_quality, write_run_quality
from infra.ingest import Ingestor
from infra.quality import open_quality
from infra.reports.quality_report import AcceptedChange, QualityDay, QualityReport, render, to_json
from infra.wiring import Platform, open_platform
from shop_orders import orders_with, prices_up_to, registry_of, taker, write_orders

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
EVIL = '<script>alert("x")</script>'
orders = orders_with("card", "note", sensitive=["card"])
REGISTRY = registry_of(orders)
RULES = prices_up_to(100, orders)


def ingestor(platform: Platform) -> Ingestor:
    return taker(platform.lake, REGISTRY, RULES, platform.store.now)


def deliver(folder: Path, name: str, prices: list[float], note: str = "none", on: str = "2026-03-01") -> Path:
    """A file of orders of a day at these prices."""
    write_orders(folder, name, orders, [f"{n},{on}T12:00:00Z,{p},4111-1111,{note}" for n, p in enumerate(prices)])
    return folder


@pytest.fixture
def days(tmp_path: Path) -> Iterator[tuple[Platform, Path]]:
    """A shop two days of whose files came in: a hundred good orders, then fifty of which two are too dear."""
    clock = [NOW]
    with open_platform(REGISTRY, tmp_path / "home", lambda: clock[0]) as platform:
        takes = ingestor(platform)
        takes.ingest([deliver(tmp_path / "in", "monday", [5.0] * 100)])
        clock[0] += timedelta(days=1)
        deliver(tmp_path / "in", "tuesday", [7.0] * 48 + [500.0, 600.0], EVIL)
        (tmp_path / "in" / "orders" / "torn.csv").write_bytes(b"id,at\n\xff\xfe,")
        takes.ingest([tmp_path / "in"])
        yield platform, tmp_path


def test_over_days_the_shares_are_those_of_what_came_in(days):
    report = write_quality(days[0], 30).report
    assert (report.files, report.rows, report.quarantined) == (3, 150, 2)
    assert report.clean_share == 1 - 2 / 150
    judged = 2 * (len(RULES.schema) + len(RULES.rows))  # in two files
    assert report.pass_rate == 1 - 1 / judged
    assert [day for day in report.days if day.rows] == [
        QualityDay(NOW.date(), 100, 0),
        QualityDay(NOW.date() + timedelta(days=1), 50, 2),
    ]
    assert len(report.days) == 31
    assert [(b.source, b.rule, b.failed, b.checked, b.files) for b in report.broken] == [
        ("orders", "price_range", 2, 50, 1)
    ]
    assert [(f.field, f.failed) for f in report.fields] == [("orders.price", 2)]
    assert report.level == "action"
    assert [severity.severity for severity in report.severities] == ["critical", "medium"]
    ((path, why),) = report.refused
    assert path.endswith("torn.csv")
    assert why


def test_the_days_end_where_they_end(days):
    platform, _ = days
    assert write_quality(platform, 1).report.rows == 50  # Monday's came in exactly a day ago
    assert write_quality(platform, 2).report.rows == 150


def test_a_run_is_judged_by_itself(days):
    platform, _ = days
    first, second = (write_run_quality(platform, [number]) for number in (1, 2))
    assert (first.report.rows, first.report.quarantined, first.report.level) == (100, 0, "clear")
    assert (second.report.rows, second.report.quarantined, second.report.level) == (50, 2, "action")
    assert first.path != second.path
    assert first.report.sentence == "100 % of 100 rows are clean, which keeps the target of 99.90 %."


def test_examples_are_masked_where_the_column_is_sensitive_and_nothing_of_the_data_is_markup(days):
    written = write_quality(days[0], 30)
    (example,) = written.report.examples
    assert example.rules == ["price_range"]
    assert (example.values["card"], example.values["price"], example.values["note"]) == ("***", "600.0", EVIL)
    for path in (written.path, written.path.with_suffix(".json")):
        assert "4111" not in path.read_text("utf-8")
    page = Page(written.path.read_text("utf-8"))
    assert "script" not in page.tags
    assert EVIL in page.text
    assert "torn.csv" in page.text


def test_the_json_beside_the_page_says_the_same(days):
    written = write_quality(days[0], 30)
    said = json.loads(written.path.with_suffix(".json").read_text("utf-8"))
    assert said == to_json(written.report)
    assert (said["clean_share"], said["target"], said["level"]) == (1 - 2 / 150, 0.999, "action")


def test_a_day_unlike_the_good_ones_is_told_of(tmp_path):
    clock = [NOW]
    with open_platform(REGISTRY, tmp_path / "home", lambda: clock[0]) as platform:
        takes, ordinary, runs = ingestor(platform), [5.0, 5.5, 6.0, 6.5] * 30, []
        for number in range(9):
            clock[0] = NOW + timedelta(days=number)
            prices = ordinary if number < 8 else [price + 20 for price in ordinary]
            on = f"{clock[0]:%Y-%m-%d}"
            takes.ingest([deliver(tmp_path / f"in{number}", on, [price + number % 3 / 10 for price in prices], on=on)])
            runs.append(write_run_quality(platform, [number + 1]).report)
    assert [run.level for run in runs] == ["clear"] * 8 + ["action"]
    (shift,) = [found for run in runs for found in run.unusual if found.rule == "mean_shift"]
    assert (shift.source, shift.day, shift.severity, shift.column) == ("orders", clock[0].date(), "high", "price")
    assert runs[-1].severities[0].severity == "high"
    assert shift.message in Page(render(runs[-1])).text


def test_what_was_accepted_is_told_with_its_reason_as_long_as_it_shortens_baselines(days):
    platform, _ = days
    quality = open_quality(platform)
    for day, reason in ((1, "a new till"), (2, EVIL)):
        quality.accept("orders", date(2026, 3, day), reason)
    written = write_quality(platform, 30)
    newest, _ = written.report.accepted
    assert newest == AcceptedChange("orders", date(2026, 3, 2), EVIL, NOW + timedelta(days=1))
    page = Page(written.path.read_text("utf-8"))
    assert "script" not in page.tags
    assert "Accepted as the new normal" in page.text
    assert EVIL in page.text
    with open_platform(REGISTRY, platform.settings.home, lambda: NOW + timedelta(days=89)) as later:
        assert [change.since for change in write_quality(later, 30).report.accepted] == [date(2026, 3, 2)]


def test_where_nothing_came_in_nothing_is_called_clean(tmp_path):
    with open_platform(REGISTRY, tmp_path / "home", lambda: NOW) as platform:
        report = write_quality(platform, 30).report
    assert (report.clean_share, report.pass_rate, report.level) == (None, None, "attention")
    assert report.sentence == "No row came in."
    assert Page(render(report)).text


@pytest.mark.parametrize(
    ("rows", "quarantined", "level", "said"),
    [
        (100_000, 0, "clear", "100 % of 100,000 rows"),
        (100_000, 1, "clear", "99.99 % of 100,000 rows"),
        (100_000, 100, "clear", "keeps the target"),
        (100_000, 101, "attention", "misses the target"),
    ],
)
def test_the_target_is_kept_from_exactly_there_on(rows, quarantined, level, said):
    report = QualityReport("A day", NOW, NOW, files=1, days=[QualityDay(NOW.date(), rows, quarantined)], judged=1)
    assert report.level == level
    assert said in report.sentence


def test_a_sensitive_column_must_be_there():
    with pytest.raises(DefinitionError, match="column 'cards' is not in its schema"):
        Source("orders", schema={"at": UTC_US}, event_timestamp="at", sensitive=["cards"])
