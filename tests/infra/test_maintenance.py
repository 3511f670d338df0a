"""Maintenance changes files, never rows: nobody notices, and whatever somebody may open stays."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from card_payments import ABOUT, DAY, HOUR, T0, card, paid, payments
from features import Feature, FeatureGroup, Registry
from features.errors import StorageError
from features.stores import Plan
from infra.maintenance import (
    age_in_hours,
    lookup_keys,
    maintain,
    maintain_table,
    pinned_versions,
    sort_key,
    unread_versions,
)
from infra.storage.delta import DeltaLake
from infra.storage.delta_upkeep import Keep
from infra.wiring import Platform, fixed_clock, open_platform

last = FeatureGroup("last", "1.0.0", card, payments, [Feature("amount", pl.col("amount"))], grain="event", **ABOUT)
spending = FeatureGroup(
    "spending",
    "1.0.0",
    card,
    payments,
    [Feature("sum_1d", pl.col("amount").sum(), window="1d"), Feature("n_1d", pl.len(), window="1d")],
    grain="window",
    every="6h",
    **ABOUT,
)
total = FeatureGroup(
    "total", "1.0.0", card, last, [Feature("all", pl.col("amount").sum())], grain="entity", every="6h", **ABOUT
)
GROUPS = (last, spending, total)
REGISTRY = Registry(GROUPS)
FEATURES = ["last:amount", "spending:sum_1d", "spending:n_1d", "total:all"]
AHEAD = timedelta(days=2 * 365)
"""So far ahead of the machine's clock that every file is old."""


def days(first: int, count: int) -> pl.DataFrame:
    """Payments of some days, each with a correction to the day before."""
    rows = [
        (100 * day + i, (7 * i) % 4, float(day + i), T0 + day * DAY + 2 * i * HOUR)
        for day in range(first, first + count)
        for i in range(12)
    ]
    rows += [(100 * day, 0, 50.0, T0 + day * DAY) for day in range(max(first - 1, 0), first + count - 1)]
    return paid(*rows)


def open_home(home: Path, now: datetime) -> Platform:
    return open_platform(REGISTRY, home, fixed_clock(now))


def run_day(home: Path, day: int, *, upto: int = 3) -> None:
    """A day's rows, and what the first ``upto`` groups make of them."""
    with open_home(home, T0 + (day + 1) * DAY) as platform:
        platform.store.write_source(payments, days(day, 1), f"day {day}")
        for group in GROUPS[:upto]:
            platform.store.materialize_incremental(group)
            platform.store.sync(group)


def later() -> datetime:
    return datetime.now(UTC) + AHEAD


def state(home: Path, now: datetime) -> dict[str, object]:
    """All that a reader sees, now and in the past."""
    moments = [T0 + hour * HOUR for hour in range(0, 24 * 6, 5)]
    asked = pl.DataFrame(
        {"card_id": [0, 1, 2, 3] * len(moments), "event_timestamp": [m for m in moments for _ in "1234"]}
    )
    found: dict[str, object] = {}
    with open_home(home, now) as platform:
        store = platform.store
        for history in ("as_served", "backfilled"):
            answer = store.get_historical_features(asked, FEATURES, history=history)
            found[history] = answer.to_polars().rows() + answer.statuses.rows()
        found["online"] = store.get_online_features(FEATURES, [{"card_id": i} for i in range(5)]).to_dict()
        for path in platform.lake.paths():
            rows = platform.lake.table(path).scan().collect()
            found[path] = sorted(rows.select(sorted(rows.columns)).rows(), key=repr)
    return found


def files(home: Path) -> set[str]:
    return {str(f.relative_to(home)) for f in (home / "lake").rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def tended(tmp_path_factory) -> Path:
    """A home of six days."""
    home = tmp_path_factory.mktemp("tended") / "my home"
    for day in range(6):
        run_day(home, day)
    return home


def test_nobody_notices_and_the_next_day_is_as_if_nothing_had_been(tended, tmp_path):
    now = T0 + 6 * DAY
    twin = tmp_path / "twin"
    shutil.copytree(tended, twin)
    before = state(tended, now)
    with open_home(tended, now) as other, open_home(tended, later()) as platform:
        other.store.get_historical_features(pl.DataFrame({"card_id": [1], "event_timestamp": [T0]}), FEATURES)
        versions = {path: platform.lake.table(path).version() for path in platform.lake.paths()}
        done = {d.table: d for d in maintain(platform)}
        assert done.keys() == versions.keys()
        assert all(done[path].merged and done[path].removed for path in ("bronze/payments", "features/spending/v1"))
        assert state(tended, now) == before
        # A store that was open all the time finds the new files.
        again = other.store.get_historical_features(pl.DataFrame({"card_id": [1], "event_timestamp": [T0]}), FEATURES)
        assert again.to_polars().height == 1
        for path, version in versions.items():
            table = platform.lake.table(path)
            assert table.changes(version, table.version(), table.scan().collect_schema().names()).is_empty()
    for home in (tended, twin):
        run_day(home, 6)
    assert state(tended, now + 3 * DAY) == state(twin, now + 3 * DAY)
    with open_home(tended, now + DAY) as platform:
        maintain(platform)
        for group in GROUPS:
            assert platform.store.materialize_incremental(group).rows == 0
            assert platform.store.sync(group).rows == 0


def test_a_month_later_there_is_nothing_to_do(tended):
    with open_home(tended, later()) as platform:
        maintain(platform)
        first, listed = maintain(platform), files(tended)
        assert {(d.merged, d.removed) for d in first} == {(0, 0)}
        assert maintain(platform) == first
    assert files(tended) == listed


def test_merged_files_are_sorted_by_key_and_one_a_date(tended):
    with open_home(tended, later()) as platform:
        maintain(platform)
    table = DeltaTable(str(tended / "lake/features/last/v1"))
    for uri in table.file_uris():
        keys = pq.ParquetFile(unquote(uri)).read()["card_id"].to_pylist()
        assert keys == sorted(keys)
    assert len(table.file_uris()) == len(table.to_pyarrow_table(columns=["event_date"])["event_date"].unique())


def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path):
    for day in range(2):
        run_day(tmp_path, day)
    listed = files(tmp_path)
    with open_home(tmp_path, later()) as platform:
        said = {d.table: d.merged for d in maintain(platform, dry_run=True)}
        assert files(tmp_path) == listed
        assert {d.table: d.merged for d in maintain(platform)} == said
    assert max(said.values()) > 0


def test_files_stay_for_as_long_as_the_retention_says(tmp_path):
    for day in range(2):
        run_day(tmp_path, day)
    with open_home(tmp_path, datetime.now(UTC)) as platform:
        assert {d.removed for d in maintain(platform)} == {0}
    with open_home(tmp_path, datetime.now(UTC) + timedelta(days=29)) as platform:
        assert {d.removed for d in maintain(platform)} == {0}
    with open_home(tmp_path, datetime.now(UTC) + timedelta(days=31)) as platform:
        assert max(d.removed for d in maintain(platform)) > 0


def test_what_a_group_has_not_taken_in_waits_for_it(tmp_path):
    """The change feed of the commits that a group has yet to read outlives maintenance, deletions included."""
    late, quick = tmp_path / "late", tmp_path / "quick"
    for home in (late, quick):
        run_day(home, 0)
        for day in range(1, 4):
            run_day(home, day, upto=0)
        with open_home(home, T0 + 5 * DAY) as platform:
            platform.lake.table("bronze/payments").delete({"at": [T0 + DAY + 4 * HOUR]})
    with open_home(late, later()) as platform:
        maintain(platform)
    for home in (late, quick):
        with open_home(home, T0 + 6 * DAY) as platform:
            for group in GROUPS:
                platform.store.materialize_incremental(group)
                platform.store.sync(group)
    assert state(late, T0 + 7 * DAY) == state(quick, T0 + 7 * DAY)


def test_an_open_plan_finds_the_versions_it_reads(tmp_path):
    run_day(tmp_path, 0)
    with open_home(tmp_path, T0 + 2 * DAY) as platform:
        table = platform.lake.feature_table(last.table_id, {}, [])
        spans = {"payments": (None, 1)}
        number = table.state().opened + 1
        table.open_plan(Plan(number, "backfill", T0 + 2 * DAY, None, spans, [(T0, T0 + DAY)]))
        assert 1 in unread_versions(REGISTRY, platform.lake)["bronze/payments"]


def test_a_killed_writers_file_goes_when_it_is_old(tmp_path):
    run_day(tmp_path, 0)
    folder = next((tmp_path / "lake/features/last/v1").glob("event_date=*"))
    old, young = folder / "old.parquet", folder / "young.parquet"
    for file in (old, young):
        file.write_bytes(next(folder.glob("part-*")).read_bytes())
    os.utime(old, (T0.timestamp(), T0.timestamp()))
    lake = DeltaLake(tmp_path / "lake")
    assert maintain_table(lake, "features/last/v1", [], Keep(), hours=0).removed == 0  # it may be at work yet
    assert maintain_table(lake, "features/last/v1", [], Keep(), hours=48).removed == 1
    assert (old.exists(), young.exists()) == (False, True)


def test_kept_versions_can_be_opened_and_others_are_gone(tmp_path):
    lake = DeltaLake(tmp_path)
    for number in range(8):
        lake.append_log("log", pl.DataFrame({"n": [number]}), app_id="a", number=number)
    assert maintain_table(lake, "log", [], Keep(frozenset({3, 5})), hours=0).removed == 3
    assert [lake.table("log").scan(v).collect().height for v in (3, 5)] == [3, 5]
    with pytest.raises(FileNotFoundError):
        lake.table("log").scan(7).collect()
    with pytest.raises(StorageError, match=r"log: version 77, which a registered model .* cannot be opened"):
        maintain_table(lake, "log", [], Keep(frozenset({3, 77})), hours=0)


def test_writers_at_work_lose_nothing(tmp_path):
    writer, keeper = DeltaLake(tmp_path), DeltaLake(tmp_path)
    writer.append_log("log", pl.DataFrame({"k": [0]}), app_id="a", number=0)

    def write() -> None:
        for number in range(1, 40):
            writer.append_log("log", pl.DataFrame({"k": [number]}), app_id="a", number=number)

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        maintain_table(keeper, "log", ["k"], Keep(), hours=24)
    thread.join()
    maintain_table(keeper, "log", ["k"], Keep(), hours=24)
    assert keeper.table("log").scan().collect()["k"].to_list() == list(range(40))


def test_what_manifests_name_is_pinned():
    label = {"ref": "total:all", "version": "1.0.0", "table_version": 8, "sources": {"last": 5}}
    facts = {"version": "2.1.0", "table_version": 7, "sources": {"payments": 4, "gone": None}}
    manifests = [
        {"publish_log_version": None, "groups": {"old@2": facts}},
        {"publish_log_version": 3, "groups": {"last": facts | {"version": "1.0.0"}}, "label": label},
    ]
    assert pinned_versions(manifests, REGISTRY) == {
        "publish_log": {3},
        "features/old/v2": {7},
        "features/last/v1": {5, 7},
        "features/total/v1": {8},
        "bronze/payments": {4},
    }


def test_tables_are_sorted_by_the_keys_they_are_looked_up_by():
    lookup = lookup_keys(REGISTRY)
    assert sort_key(lookup, "tiles/spending/v1/4c62") == sort_key(lookup, "features/spending/v1") == ["card_id"]
    assert sort_key(lookup, "publish_log") == ()
    assert lookup == {
        "features/last/v1": ["card_id"],
        "features/spending/v1": ["card_id"],
        "features/total/v1": ["card_id"],
        "bronze/payments": ["card_id"],
    }


def test_a_clock_that_was_moved_makes_files_older_or_younger():
    now = datetime.now(UTC)
    assert age_in_hours(30, now) in (720, 721)
    assert age_in_hours(30, now + timedelta(days=400)) == 0
    assert age_in_hours(30, now - timedelta(days=10)) in (960, 961)
