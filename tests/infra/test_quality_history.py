"""The memory of quality: each file's verdict and each day's lines stand once, whatever is killed or comes late."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations.days import Watch
from faults import Crash, Faults, FaultyLake
from features.errors import InvalidInput, NotRegistered
from features.source import BOOKKEEPING, FILE_SHA256
from infra.ledger import LEDGER
from infra.quality import Quality
from infra.storage.delta import DeltaLake
from shop_orders import orders_with, prices_up_to, registry_of, taker, write_orders

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)
orders = orders_with("shop", keys=["id"])
REGISTRY = registry_of(orders)
SUITE = prices_up_to(1000, orders)


class Shop:
    """A home that takes in the files of its landing folder, at a moment of its own."""

    def __init__(self, folder: Path, faults: Faults | None = None) -> None:
        self.landing = folder / "landing"
        (self.landing / "orders").mkdir(parents=True, exist_ok=True)
        place = folder / "lake"
        self.lake = DeltaLake(place) if faults is None else FaultyLake(place, faults)
        self.now = START
        self.quality = Quality(self.lake, REGISTRY, lambda: self.now)

    def deliver(self, name: str, day: int, prices: Sequence[float | None]) -> None:
        """Put a file with orders of a day into the landing folder."""
        at = START + day * DAY
        rows = [
            f"{1000 * day + i},{(at + i * timedelta(seconds=1)).isoformat()},{'' if p is None else p},S{i % 2}"
            for i, p in enumerate(prices)
        ]
        write_orders(self.landing, name, orders, rows)

    def ingest(self, now: datetime) -> None:
        self.now = now
        taker(self.lake, REGISTRY, SUITE, lambda: self.now, batch_files=2).ingest([self.landing])

    def live(self, days: range, level: float = 10.0) -> None:
        """Days of fifty orders, taken in on the morning after the last."""
        for day in days:
            self.deliver(f"{day:02}", day, prices_of(day, level))
        self.ingest(morning_after(days[-1]))

    def write(self, day: int, number: int, shop: str = "S0") -> None:
        """One more order of a day, not from a file."""
        row = {"id": [-number], "at": [START + day * DAY], "price": [10.0], "shop": [shop]}
        taken = orders.taken_in(pl.DataFrame(row), morning_after(day))
        dtypes = {**orders.dtypes, **BOOKKEEPING}
        self.lake.append_source("orders", taken, app_id="by hand", number=number, dtypes=dtypes)


def prices_of(day: int, level: float = 10.0, count: int = 50) -> list[float]:
    return np.random.default_rng(day).normal(level, 1, count).round(3).tolist()


def morning_after(day: int) -> datetime:
    return START + (day + 1) * DAY + timedelta(hours=3)


def date_of(day: int) -> date:
    return (START + day * DAY).date()


def found(shop: Shop) -> list[tuple[object, ...]]:
    verdicts = shop.quality.verdicts().filter(pl.col("rule").is_not_null())
    return verdicts.select("day", "cohort", "column", "rule", "severity").rows()


def held(lake: DeltaLake) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but the ledger, which tells where files lie."""
    paths = sorted(set(lake.paths()) - {LEDGER})
    return {path: sorted(lake.scan_log(path).collect().rows(), key=repr) for path in paths}


def test_every_file_leaves_its_verdict_clean_ones_too(tmp_path):
    shop = Shop(tmp_path)
    shop.deliver("clean", 0, [1.0, 2.0])
    shop.deliver("dear", 0, [3.0, 5000.0])
    shop.ingest(morning_after(0))
    verdicts = shop.quality.verdicts()
    assert set(verdicts["number"]) == {1}
    whole = verdicts.filter(pl.col("rule").is_null()).sort("failed")
    rules = len(SUITE.schema) + len(SUITE.rows)
    assert whole.select("source", "failed", "checked", "rules", "severity").rows() == [
        ("orders", 0, 2, rules, None),
        ("orders", 1, 2, rules, "high"),
    ]
    broken = verdicts.filter(pl.col("rule").is_not_null())
    assert broken.select("rule", "severity", "failed", "checked").rows() == [("price_range", "high", 1, 2)]
    assert broken[FILE_SHA256].to_list() == whole.filter(pl.col("failed") == 1)[FILE_SHA256].to_list()
    assert shop.quality.verdicts(since=morning_after(0)).height == 3
    assert shop.quality.verdicts(since=morning_after(1)).is_empty()


def test_days_are_kept_and_a_shift_is_found_the_morning_after(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    assert found(shop) == []
    shop.live(range(9, 10), level=30.0)
    assert found(shop) == [(date_of(9), "", "price", "mean_shift", "high")]
    days = shop.quality.days("orders").filter(pl.col("column") == "price")
    assert days["day"].to_list() == [date_of(day) for day in range(10)]
    means = [float(np.mean(prices_of(day, 30.0 if day == 9 else 10.0))) for day in range(10)]
    assert days["mean"].to_list() == pytest.approx(means)
    assert days["state"].to_list() == ["insufficient_data"] * 7 + ["ok"] * 2 + ["drift"]
    assert days["good"].to_list() == [True] * 9 + [False]


@pytest.mark.parametrize("day", [0, 3])
def test_a_run_without_news_writes_nothing(tmp_path, day):
    shop = Shop(tmp_path)
    shop.deliver("00", 0, prices_of(0))
    shop.ingest(morning_after(day))
    before = held(shop.lake)
    shop.ingest(morning_after(day) + timedelta(hours=1))
    assert held(shop.lake) == before


def test_a_late_file_has_its_day_judged_again(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    shop.deliver("late", 7, [float(p) for p in [60] * 50])
    shop.ingest(morning_after(9) - DAY)
    days = shop.quality.days("orders", since=date_of(7)).filter(pl.col("column") == "price")
    assert days.select("day", "rows", "good").rows() == [(date_of(7), 100, False), (date_of(8), 50, True)]
    assert days["mean"][0] == pytest.approx((np.mean(prices_of(7)) + 60) / 2)
    assert {row[0] for row in found(shop)} == {date_of(7)}
    table = shop.lake.scan_log("quality/days/orders").collect()
    assert table.filter(pl.col("day") == date_of(7), pl.col("column") == "price").height == 2  # nothing is rewritten


def test_the_findings_of_a_day_are_those_of_its_last_judgement(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(8))
    shop.deliver("half", 8, prices_of(8)[:10])
    shop.ingest(morning_after(8))
    assert found(shop) == [(date_of(8), "", "", "volume", "medium")]
    shop.deliver("rest", 8, prices_of(8)[10:])
    shop.ingest(morning_after(8) + timedelta(hours=1))
    assert found(shop) == []


def test_a_day_that_goes_on_is_judged_by_its_rows_again_once_it_is_over(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(8))
    shop.deliver("08", 8, prices_of(8)[:10])
    shop.ingest(START + 8 * DAY + timedelta(hours=12))
    assert found(shop) == []
    shop.ingest(morning_after(8))
    assert found(shop) == [(date_of(8), "", "", "volume", "medium")]


def test_a_source_that_falls_silent_is_found(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(8))
    shop.ingest(morning_after(8))
    assert found(shop) == [(date_of(8), "", "", "freshness", "medium")]
    shop.ingest(morning_after(8) + timedelta(hours=1))
    assert len(found(shop)) == 1


def test_days_that_no_baseline_reaches_are_not_measured(tmp_path):
    shop = Shop(tmp_path)
    for day in (0, 11, 100):
        shop.deliver(f"{day}", day, prices_of(day))
    shop.deliver("wrong clock", 40_000, prices_of(1))
    shop.ingest(morning_after(100))
    days = shop.quality.days("orders").filter(pl.col("column") == "price")
    assert days["day"].to_list() == [date_of(11), date_of(100), date_of(40_000)]


def test_a_file_with_a_high_finding_spoils_its_day(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(2))
    shop.deliver("02", 2, [*prices_of(2), *[5000.0] * 10])
    shop.ingest(morning_after(2))
    days = shop.quality.days("orders").filter(pl.col("column") == "price")
    assert days["good"].to_list() == [True, True, False]


def test_cohorts_are_measured_apart_where_they_are_declared(tmp_path):
    shop = Shop(tmp_path)
    quality = Quality(shop.lake, REGISTRY, lambda: shop.now, lambda _: Watch(["price"], cohorts=["shop"]))
    shop.live(range(1))
    assert set(shop.quality.days("orders")["cohort"]) == {""}
    shop.write(0, 1, shop="S9")
    quality.judge()
    days = quality.days("orders").filter(pl.col("column") == "price")
    assert days.select("cohort", "rows").rows() == [("", 51), ("shop=S0", 25), ("shop=S1", 25), ("shop=S9", 1)]


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_commit_leaves_each_line_once(tmp_path, after):
    undisturbed = Shop(tmp_path / "undisturbed")
    undisturbed.live(range(1))
    undisturbed.live(range(1, 2))
    expected = held(undisturbed.lake)
    Shop(tmp_path / "begun").live(range(1))
    number, crashed = 0, True
    while crashed:
        number, crashed, faults = number + 1, False, Faults()
        shutil.copytree(tmp_path / "begun", tmp_path / str(number))
        shop = Shop(tmp_path / str(number), faults)
        shop.deliver("01", 1, prices_of(1))
        faults.crash(number, after=after)
        try:
            shop.ingest(morning_after(1))
        except Crash:
            crashed = True
        faults.disarm()
        again = Shop(tmp_path / str(number))
        again.ingest(morning_after(1))
        assert held(again.lake) == expected
    assert number == 6  # opened, landed, judged, closed, the days; the sixth was not reached


def test_where_the_change_feed_was_vacuumed_every_day_is_judged_again(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(2))
    for number in (1, 2):
        shop.write(2, number)
    handle = shop.lake.table("bronze/orders").handle()
    handle.optimize.compact(partition_filters=[("event_date", "=", date_of(2).isoformat())])
    handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    shop.quality.judge()
    judged = shop.lake.scan_log("quality/days/orders").filter(pl.col("column") == "price").collect()
    newest = judged.filter(pl.col("number") == judged["number"].max())
    assert newest.select("day", "rows").sort("day").rows() == [(date_of(0), 50), (date_of(1), 50), (date_of(2), 2)]


def states(shop: Shop, since: int) -> list[tuple[object, ...]]:
    days = shop.quality.days("orders", date_of(since)).filter(pl.col("column") == "price")
    return days.select("day", "state", "good").rows()


def live_on(shop: Shop, days: range, level: float) -> None:
    """Night after night."""
    for day in days:
        shop.live(range(day, day + 1), level)


def test_what_is_accepted_as_the_new_normal_alarms_no_more(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    live_on(shop, range(9, 13), 30.0)
    assert [(row[0], row[3]) for row in found(shop)] == [(date_of(day), "mean_shift") for day in range(9, 13)]
    before = states(shop, 0)[:9]
    shop.quality.accept("orders", date_of(9), "a new price list")
    assert found(shop) == []
    assert states(shop, 9) == [(date_of(day), "insufficient_data", True) for day in range(9, 13)]
    assert states(shop, 0)[:9] == before
    live_on(shop, range(13, 18), 30.0)
    assert found(shop) == []
    assert [state for _, state, _ in states(shop, 13)] == ["insufficient_data"] * 3 + ["ok"] * 2
    live_on(shop, range(18, 19), 10.0)  # what was usual before is a shift now
    live_on(shop, range(19, 20), 60.0)
    assert [(row[0], row[3]) for row in found(shop)] == [(date_of(day), "mean_shift") for day in (18, 19)]
    shop.quality.accept("orders", date_of(19), "once more")
    assert [row[0] for row in found(shop)] == [date_of(18)]
    (accepted, _) = shop.quality.accepted().rows(named=True)
    assert (accepted["source"], accepted["since"], accepted["reason"], accepted["accepted_at"]) == (
        "orders", date_of(9), "a new price list", morning_after(12),
    )  # fmt: skip


def test_days_of_a_shift_that_is_accepted_late_are_a_baseline_at_once(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    shop.live(range(9, 18), level=30.0)
    assert len(found(shop)) == 9
    shop.quality.accept("orders", date_of(9), "a new price list")
    assert [state for _, state, _ in states(shop, 9)] == ["insufficient_data"] * 7 + ["ok"] * 2
    live_on(shop, range(18, 19), 60.0)
    assert found(shop) == [(date_of(18), "", "price", "mean_shift", "high")]


def test_a_late_file_of_before_is_judged_by_the_days_before(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    shop.live(range(9, 12), level=30.0)
    shop.quality.accept("orders", date_of(9), "a new price list")
    shop.deliver("late", 8, [60.0] * 50)
    shop.ingest(morning_after(11) + timedelta(hours=1))
    assert [(row[0], row[3]) for row in found(shop)] == [(date_of(8), "mean_shift"), (date_of(8), "volume")]


def test_a_bad_file_spoils_its_day_also_after_the_change(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    shop.deliver("09", 9, [*prices_of(9, 30.0), *[5000.0] * 10])
    shop.ingest(morning_after(9))
    shop.live(range(10, 11), 30.0)
    shop.quality.accept("orders", date_of(9), "a new price list")
    assert [good for _, _, good in states(shop, 9)] == [False, True]


def test_accepting_twice_changes_nothing(tmp_path):
    shop = Shop(tmp_path)
    shop.live(range(9))
    shop.live(range(9, 12), level=30.0)
    shop.quality.accept("orders", date_of(9), "a new price list")
    before = held(shop.lake)
    shop.now += timedelta(hours=1)
    shop.quality.accept("orders", date_of(9), "a new price list, again")
    shop.ingest(shop.now)
    assert held(shop.lake) == before


@pytest.mark.parametrize("again", ["the command", "the next run"])
@pytest.mark.parametrize("after", [False, True])
def test_accepting_is_finished_where_it_was_killed(tmp_path, after, again):
    def accept(shop: Shop) -> None:
        shop.now = morning_after(10)
        shop.quality.accept("orders", date_of(9), "a new price list")

    begun = Shop(tmp_path / "begun")
    begun.live(range(9))
    begun.live(range(9, 11), level=30.0)
    undisturbed = shutil.copytree(tmp_path / "begun", tmp_path / "undisturbed")
    accept(Shop(undisturbed))
    expected = held(Shop(undisturbed).lake)
    number, crashed = 0, True
    while crashed:
        number, crashed, faults = number + 1, False, Faults()
        shop = Shop(shutil.copytree(tmp_path / "begun", tmp_path / str(number)), faults)
        faults.crash(number, after=after)
        try:
            accept(shop)
        except Crash:
            crashed = True
        recorded = not Shop(tmp_path / str(number)).quality.accepted().is_empty()
        shop = Shop(tmp_path / str(number))
        if recorded and again == "the next run":
            shop.ingest(morning_after(10))
        else:
            accept(shop)
        assert held(shop.lake) == expected
    assert number == 3  # recorded, judged; the third was not reached


@pytest.mark.parametrize(
    ("source", "day", "reason", "error", "says"),
    [
        ("order", 9, "why", NotRegistered, "source 'order' is not registered; there are \\['orders'\\]"),
        ("orders", 11, "why", InvalidInput, "2026-03-13 is after today, 2026-03-12 in UTC"),
        ("orders", 9, " ", InvalidInput, "give a reason"),
    ],
)
def test_what_cannot_be_accepted_is_refused(tmp_path, source, day, reason, error, says):
    shop = Shop(tmp_path)
    shop.now = morning_after(9)
    with pytest.raises(error, match=says):
        shop.quality.accept(source, date_of(day), reason)
    assert shop.quality.accepted().is_empty()
