"""Tiles when definitions, settings and digits change: what a run keeps must fit what the next one reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.capacity import Capacity
from features.errors import InvalidInput
from features.feature_rows import differs
from features.tiles import tile_layout, wide_layout
from infra.storage.delta import DeltaLake
from infra.storage.delta_tiles import DeltaTileTable
from infra.storage.memory_store import MemoryOnlineStore

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ABOUT = {"owner": "o", "description": "d"}
card = Entity("card", keys={"card_id": pl.Int64})
SCHEMA = {"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
payments = Source("payments", SCHEMA, "at", keys=["payment_id"])
live = Source("payments", SCHEMA, "at", keys=["payment_id"], live_since=T0)
x = pl.col("amount")


def windowed(features, every, version="1.0.0", source=payments) -> FeatureGroup:
    return FeatureGroup("w", version, card, source, features, grain="window", every=every, **ABOUT)


class Home:
    """A lake under a clock, used by one version of the code after another."""

    def __init__(self, folder, now):
        self.lake, self.online, self.now = DeltaLake(folder), MemoryOnlineStore(), now

    def use(self, group, capacity=None):
        registry, capacity = Registry([group]), capacity or Capacity()
        store = FeatureStore(registry, self.lake, self.online, lambda: self.now, capacity)
        store.apply()
        return store

    def write(self, store, *rows):
        self.now += timedelta(seconds=1)
        store.write_source("payments", pl.DataFrame(list(rows), schema=SCHEMA, orient="row"))

    def run(self, store, group) -> pl.DataFrame:
        self.now += timedelta(seconds=1)
        store.materialize_incremental(group)
        return store.current_rows(group).select("card_id", "event_timestamp", *group.feature_names).collect()


def rows_of(folder, group, now, rows) -> pl.DataFrame:
    """What one run over all rows makes."""
    home = Home(folder, now)
    store = home.use(group)
    home.write(store, *rows)
    return home.run(store, group).sort("event_timestamp")


SHORT, LONG = Feature("n_1d", pl.len(), window="1d"), Feature("n_7d", pl.len(), window="7d")


def test_a_version_with_a_longer_window_does_not_read_tiles_of_another_width(tmp_path) -> None:
    before, after = windowed([SHORT], "1h"), windowed([SHORT, LONG], "1h", "1.1.0")
    narrow, wide = (wide_layout(tile_layout(group)) for group in (before, after))
    assert narrow.width != wide.width
    assert narrow.name != wide.name
    rows = [(i, 1, 1.0, T0 + 5 * i * HOUR) for i in range(40)]
    home = Home(tmp_path / "a", T0 + 9 * DAY)
    home.write(home.use(before), *rows)
    home.run(home.use(before), before)
    store = home.use(after)
    home.write(store, (99, 1, 1.0, home.now))
    found = home.run(store, after)
    store.materialize(after, T0, home.now)
    found = store.current_rows(after).select(found.columns).collect().sort("event_timestamp")
    assert found.equals(
        rows_of(tmp_path / "b", after, home.now, [*rows, (99, 1, 1.0, T0 + 9 * DAY + 2 * timedelta(seconds=1))])
    )


def test_late_rows_that_a_short_window_had_passed_count_in_a_longer_one(tmp_path) -> None:
    brief = windowed([Feature("n_2h", pl.len(), window="2h")], "1h", source=live)
    longer = windowed([*brief.features, SHORT], "1h", "1.1.0", source=live)
    home = Home(tmp_path, T0 + 2 * HOUR)
    home.write(home.use(brief), (1, 1, 1.0, T0 + HOUR))
    home.run(home.use(brief), brief)
    home.now = T0 + 10 * HOUR
    home.write(home.use(brief), (2, 1, 1.0, T0 + HOUR))  # too late for any window of two hours
    home.run(home.use(brief), brief)
    store = home.use(longer)
    home.now = T0 + 12 * HOUR
    found = home.run(store, longer)
    store.materialize(longer, T0, home.now)
    found = store.current_rows(longer).select("event_timestamp", "n_1d").collect()
    assert found.filter(pl.col("event_timestamp") == T0 + 11 * HOUR)["n_1d"].to_list() == [2]


class Killed(BaseException):
    """Ends a run as a kill does."""


def test_a_run_that_was_killed_between_tiles_goes_on_with_more_memory(tmp_path, monkeypatch) -> None:
    group = windowed([Feature("n_2d", pl.len(), window="2d")], "1d")
    rows = [(i, 1, 1.0, T0 + 6 * i * HOUR) for i in range(16)]
    home = Home(tmp_path / "a", T0 + 5 * DAY)
    store = home.use(group, Capacity(rows=1))
    home.write(store, *rows)
    append = DeltaTileTable.append

    def once(table, plan, step, frame):
        append(table, plan, step, frame)
        raise Killed

    monkeypatch.setattr(DeltaTileTable, "append", once)
    with pytest.raises(Killed):
        home.run(store, group)
    monkeypatch.undo()
    found = home.run(home.use(group), group).sort("event_timestamp")
    assert found.equals(rows_of(tmp_path / "b", group, T0 + 5 * DAY, rows))


def test_a_median_beside_a_count_follows_a_correction_that_no_tile_sees(tmp_path) -> None:
    group = windowed([Feature("n_6h", pl.len(), window="6h"), Feature("median_6h", x.median(), window="6h")], "3h")
    home = Home(tmp_path, T0 + 12 * HOUR)
    store = home.use(group)
    home.write(store, (1, 1, 10.0, T0 + HOUR))
    home.run(store, group)
    home.write(store, (1, 1, 99.0, T0 + HOUR))
    assert home.run(store, group)["median_6h"].drop_nulls().to_list() == [99.0]


def test_tiles_keep_the_digits_that_a_difference_of_them_needs(tmp_path) -> None:
    group = windowed([Feature("std_6h", x.std(), window="6h")], "3h")
    home = Home(tmp_path, T0 + 18 * HOUR)
    store = home.use(group)
    home.write(store, (1, 1, 1e9, T0 + HOUR), (2, 1, 1e9 + 0.2, T0 + 4 * HOUR))
    home.run(store, group)
    home.write(store, (2, 1, 1e9 + 0.9, T0 + 4 * HOUR))
    found = home.run(store, group).filter(pl.col("event_timestamp") == T0 + 6 * HOUR)
    assert found["std_6h"].to_list() == [pytest.approx(0.9 / 2**0.5, rel=1e-6)]


def test_rows_that_an_aggregate_cannot_take_are_said_plainly(tmp_path) -> None:
    schema = {**SCHEMA, "amount": pl.String}
    texts = Source("payments", schema, "at")
    group = windowed([Feature("sum_6h", x.cast(pl.Int64).sum(), window="6h")], "3h", source=texts)
    home = Home(tmp_path, T0 + DAY)
    store = home.use(group)
    store.write_source(texts, pl.DataFrame([(1, 1, "many", T0)], schema=schema, orient="row"))
    with pytest.raises(InvalidInput, match="'w' cannot be computed"):
        home.run(store, group)


def test_an_infinity_that_changes_its_sign_is_a_change() -> None:
    frame = pl.DataFrame({"a": [float("inf"), float("inf")], "b": [float("-inf"), float("inf")]})
    assert frame.select(differs("a", "b", pl.Float64())).to_series().to_list() == [True, False]
