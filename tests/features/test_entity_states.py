"""States of entities after corrections: what took a row from an entity does not stay in its newest state."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import HOUR, T0, Home, group, hours, total
from features import Feature, FeatureStore, Registry
from features.feature_rows import PLAN
from features.source import INGESTED_AT
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.push_log import LmdbPushLog

settled = group("totals", [Feature("n", pl.len()), Feature("total", total)], grain="entity", settle="30m")
hourly = group("totals", [Feature("n", pl.len()), Feature("total", total)], grain="entity", every="1h")
REFS = ["totals:n", "totals:total"]
each = pytest.mark.parametrize("one", [settled, hourly], ids=["settle", "every"])


def answers(home):
    """What both stores answer now for cards 1 and 2, which must be the same."""
    home.store.sync("totals")
    home.now += HOUR / 60
    online = home.store.get_online_features(REFS, [{"card_id": c} for c in (1, 2)]).to_polars().select("n", "total")
    asked = pl.DataFrame({"card_id": [1, 2], "event_timestamp": [home.now] * 2})
    for history in ("as_served", "backfilled"):
        found = home.store.get_historical_features(asked, REFS, history=history).to_polars()
        assert found.select("n", "total").rows() == online.rows(), history
    return online.rows()


def world(folder, one):
    """Two payments of card 1, of which the second is then said to be of card 2."""
    home = Home(folder, [one])
    home.now = hours(4)
    home.write([(1, 1, 10.0, hours(1)), (2, 1, 5.0, hours(2))])
    home.store.materialize_incremental(one)
    assert answers(home) == [(2, 15.0), (None, None)]
    home.now = hours(5)
    home.write([(2, 2, 5.0, hours(2))])
    return home


@each
@pytest.mark.parametrize("run", ["incremental", "backfill", "backfill of the moment"])
def test_a_correction_that_takes_the_newest_row_of_an_entity_counts_in_both_stores(tmp_path, one, run):
    home = world(tmp_path, one)
    if run == "incremental":
        home.store.materialize_incremental(one)
    else:
        home.store.materialize(one, T0 if run == "backfill" else hours(2), hours(5))
    assert answers(home) == [(1, 10.0), (1, 5.0)]
    assert home.store.materialize(one, T0, hours(5)).rows == 0
    assert home.store.materialize_incremental(one).rows == 0
    served = pl.DataFrame({"card_id": [1], "event_timestamp": [hours(4.5)]})
    for history in ("as_served", "backfilled"):  # what was answered before the correction stays
        then = home.store.get_historical_features(served, REFS, history=history).to_polars()
        assert then.select("n", "total").rows() == [(2, 15.0)]


@each
def test_what_comes_after_such_a_correction_counts_as_ever(tmp_path, one):
    home = world(tmp_path, one)
    home.store.materialize_incremental(one)
    home.now = hours(8)
    home.write([(3, 1, 1.0, hours(6))])
    home.store.materialize_incremental(one)
    assert answers(home) == [(2, 11.0), (1, 5.0)]
    home.now = hours(9)
    home.write([(1, 1, 20.0, hours(1))])  # every state since then has it, those without a row of their own too
    home.store.materialize_incremental(one)
    assert home.values(one).filter(card_id=1)["total"].to_list() == [20.0, 20.0, 21.0]


@each
def test_a_state_of_which_no_row_is_left_is_withdrawn(tmp_path, one):
    home = Home(tmp_path, [one])
    home.now = hours(4)
    home.write([(1, 1, 10.0, hours(1)), (2, 1, 5.0, hours(2.5))])
    home.store.materialize_incremental(one)
    home.now = hours(5)
    home.write([(1, 2, 10.0, hours(1))])
    home.store.materialize_incremental(one)
    assert home.values(one).filter(card_id=1)["total"].to_list() == [5.0]


def test_what_was_pushed_stays_although_no_row_makes_it(tmp_path):
    home = world(tmp_path, settled)
    log = LmdbPushLog(tmp_path / "log")
    home.store = FeatureStore(Registry([settled]), home.lake, MemoryOnlineStore(), lambda: home.now, push_log=log)
    home.store.push("totals", [{"card_id": 1, "event_timestamp": hours(3), "n": 7, "total": 70.0}])
    home.store.materialize_incremental(settled)
    assert answers(home) == [(7, 70.0), (1, 5.0)]


def test_a_state_that_is_not_settled_any_more_stays_until_the_next_one(tmp_path):
    home = Home(tmp_path, [settled])
    home.now = hours(2.6)
    home.write([(1, 1, 10.0, hours(2))])
    home.store.materialize_incremental(settled)
    home.now = hours(2.8)
    home.write([(2, 1, 5.0, hours(2.4))])
    assert home.store.materialize_incremental(settled).rows == 0
    assert answers(home)[0] == (1, 10.0)
    home.now = hours(6)
    home.store.materialize_incremental(settled)
    assert answers(home)[0] == (2, 15.0)


def test_the_last_row_before_one_that_is_gone_becomes_a_state(tmp_path):
    home = Home(tmp_path, [settled])
    home.now = hours(10)
    home.write([(1, 1, 10.0, hours(2)), (3, 1, 1.0, hours(9))])
    home.now = hours(10.1)
    home.write([(2, 1, 5.0, hours(2.25))])
    home.store.materialize_incremental(settled)
    assert home.values(settled)["event_timestamp"].to_list() == [hours(2.25), hours(9)]
    home.lake.table("bronze/payments").delete({INGESTED_AT: [home.now]})
    home.now = hours(11)
    home.store.materialize_incremental(settled)
    states = [(1, hours(2), 1, 10.0), (1, hours(2.25), 1, 10.0), (1, hours(9), 2, 11.0)]
    assert home.values(settled).rows() == states


def test_an_increment_looks_at_moments_from_the_first_change_on(tmp_path):
    home = Home(tmp_path, [hourly])
    home.now = hours(100)
    home.write([(n, 1, 1.0, hours(n)) for n in range(99)])
    home.store.materialize_incremental(hourly)
    home.now = hours(101)
    home.write([(99, 1, 1.0, hours(90.5)), (100, 2, 1.0, hours(100.5))])
    run = home.store.materialize_incremental(hourly)
    added = home.lake.table("features/totals/v1").scan().filter(pl.col(PLAN) == run.plan).collect()
    assert added.filter(card_id=1)["event_timestamp"].min() == hours(91)
    assert home.values(hourly).filter(card_id=1)["n"].to_list() == [*range(1, 91), *range(92, 101)]


def test_more_moments_than_are_computed_at_once(tmp_path):
    home, count = Home(tmp_path, [hourly]), 1_500  # as many rows, of which each is copied for every moment after it
    home.now = hours(count)
    home.write([(n, 1, float(n), hours(n)) for n in range(count)])
    home.store.materialize_incremental(hourly)
    found = home.values(hourly)
    assert found["n"].to_list() == [*range(1, count + 1)]
    assert found["total"].to_list() == [n * (n + 1) / 2 for n in range(count)]
