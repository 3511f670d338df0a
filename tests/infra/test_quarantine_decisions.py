"""Rows in quarantine wait for a decision: they are let in once, after a fix, or never."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from features.errors import NotRegistered
from features.source import FILE_SHA256, INGESTED_AT
from infra.quarantine import Quarantine
from infra.wiring import Platform, open_platform
from shop_orders import orders_with, prices_up_to, registry_of, taker, write_orders

NOW = datetime(2026, 3, 2, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
orders = orders_with()
REGISTRY = registry_of(orders)
"""What is let in is materialized as any late row is."""


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """A shop that took in three orders of three files' five: two cost more than its rule allows."""
    landing = tmp_path / "landing"
    for name, rows in {"a": ["1,{},5", "2,{},50"], "b": ["3,{},7"], "c": ["4,{},8", "5,{},500"]}.items():
        write_orders(landing, name, orders, [row.format("2026-03-01T12:00:00Z") for row in rows])
    with open_platform(REGISTRY, tmp_path / "home", lambda: NOW) as opened:
        taker(opened.lake, REGISTRY, prices_up_to(10, orders), lambda: NOW).ingest([landing])
        yield opened


def held(platform: Platform, high: float) -> Quarantine:
    """Its quarantine a day later, when orders up to a price are allowed."""
    return Quarantine(platform.lake, REGISTRY, lambda _: prices_up_to(high, orders), lambda: LATER)


def bronze(platform: Platform) -> list[tuple[int, datetime]]:
    rows = platform.lake.scan_source("orders")
    assert rows is not None
    return rows.select("id", INGESTED_AT).sort("id").collect().rows()


TAKEN = [(1, NOW), (3, NOW), (4, NOW)]


def test_what_waits_is_listed_with_its_reasons(platform):
    listed = held(platform, 10).summary().drop("since")
    assert listed.rows() == [("orders", "high", "price_range", 2, 2)]
    rows = held(platform, 10).rows("orders")
    assert sorted(rows["id"]) == [2, 5]
    assert rows["_rules"].to_list() == [["price_range"]] * 2
    of_one = held(platform, 10).rows("orders", [rows[FILE_SHA256][0][:8]])
    assert of_one.rows() == rows.head(1).rows()
    assert held(platform, 10).rows("orders", rules=["id_not_null"]).is_empty()


def test_rows_come_in_once_when_the_rule_was_relaxed_and_as_late_rows(platform):
    done = held(platform, 100).release("orders", reason="50 is a price")
    assert (done.rows, done.waiting) == (1, 1)
    assert bronze(platform) == [TAKEN[0], (2, LATER), *TAKEN[1:]]
    assert held(platform, 100).rows("orders")["id"].to_list() == [5]

    again = held(platform, 100).release("orders")
    assert (again.rows, again.waiting) == (0, 1)
    assert held(platform, 1000).release("orders").rows == 1
    assert bronze(platform) == [TAKEN[0], (2, LATER), *TAKEN[1:], (5, LATER + timedelta(microseconds=1))]
    assert held(platform, 1000).summary().is_empty()


def test_nothing_comes_in_while_the_rule_stands(platform):
    done = held(platform, 10).release("orders")
    assert (done.rows, done.waiting) == (0, 2)
    assert bronze(platform) == TAKEN


def test_dropped_rows_never_come_in_and_stay_on_record(platform):
    expensive = held(platform, 10).rows("orders").filter(pl.col("id") == 5)[FILE_SHA256].to_list()
    assert held(platform, 10).drop("orders", expensive, reason="a joke").rows == 1
    assert held(platform, 1000).release("orders").rows == 1
    assert [number for number, _ in bronze(platform)] == [1, 2, 3, 4]
    quarantined = platform.lake.scan_log("quarantine/orders")
    assert quarantined is not None
    assert quarantined.select(pl.len()).collect().item() == 2


def test_a_released_row_reaches_the_features_by_the_next_run(platform):
    store = platform.store
    store.materialize_incremental("prices")
    held(platform, 100).release("orders")
    assert store.materialize_incremental("prices").rows == 1
    found = store.current_rows("prices").select("id", "created_timestamp").sort("id").collect()
    assert found["id"].to_list() == [1, 2, 3, 4]


def test_an_unknown_file_or_source_is_refused(platform):
    with pytest.raises(NotRegistered, match="no file whose hash begins with 'zz'"):
        held(platform, 10).rows("orders", ["zz"])
    with pytest.raises(NotRegistered, match="nothing"):
        held(platform, 10).release("nothing")
