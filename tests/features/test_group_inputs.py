"""Groups over groups and sources of any time column, and prepares that look across rows."""

from __future__ import annotations

import polars as pl
import pytest

from card_payments import SCHEMA, T0, Home, group, hours, last_payment, sessions
from features import Feature, Source


def test_the_entity_grain_reads_groups_and_sources_whose_time_is_called_event_timestamp(tmp_path):
    schema = {"card_id": pl.Int64, "amount": pl.Float64, "event_timestamp": pl.Datetime("us", "UTC")}
    named_alike = Source("named_alike", schema=schema, event_timestamp="event_timestamp")
    counted = group("counted", sessions.features, source=named_alike, grain="entity", every="1d")
    summed = [Feature("sum_of_last", pl.col("amount_last").sum())]
    above = group("above", summed, source=last_payment, grain="entity", settle="2h")
    home = Home(tmp_path, [counted, last_payment, above])
    home.now = hours(30)
    home.write([(1, 1, 5.0, hours(1)), (2, 1, 6.0, hours(2))])
    home.write([(1, 5.0, hours(1)), (1, 6.0, hours(2))], source=named_alike)
    for one in (counted, last_payment, above):
        home.store.materialize_incremental(one)
    assert home.rows("counted").select("event_timestamp", "n", "total").rows() == [(hours(24), 2, 11.0)]
    assert home.rows("above").select("event_timestamp", "sum_of_last").rows() == [(hours(2), 11.0)]


def test_an_increment_leaves_alone_what_other_values_of_prepare_by_had_made(tmp_path):
    raw = Source("raw", {**SCHEMA, "shop": pl.String}, "at", keys=["payment_id"])
    before = pl.int_range(pl.len()).over("shop", order_by="at")
    within = {"prepare": lambda frame: frame.with_columns(before=before), "prepare_by": ["shop"]}
    queue = group("queue", [Feature("before", pl.col("before"))], source=raw, grain="event", **within)
    home = Home(tmp_path, [queue])
    for number, shop in enumerate("aba", 1):
        home.now = hours(10 + number)
        home.write([(number, number, 1.0, hours(number), shop)], source=raw)
        assert home.store.materialize_incremental(queue).rows == 1
    assert sorted(home.rows("queue").select("card_id", "before").rows()) == [(1, 0), (2, 0), (3, 1)]


@pytest.mark.parametrize("shop", ["a", None])
def test_a_counterfactual_row_is_known_when_the_late_rows_are_that_prepare_looked_at(tmp_path, shop):
    raw = Source("raw", {**SCHEMA, "shop": pl.String}, "at", keys=["payment_id"], live_since=T0)
    earlier = pl.col("amount").shift().over("shop", order_by="at")
    within = {"prepare": lambda frame: frame.with_columns(earlier=earlier), "prepare_by": ["shop"]}
    one = group("g", [Feature("v", pl.col("earlier"))], source=raw, grain="event", **within)
    home = Home(tmp_path, [one])
    for now, row in ((2, (2, 1, 20.0, hours(2), shop)), (10, (1, 1, 10.0, hours(1), shop))):
        home.now = hours(now)
        home.write([row], source=raw)
    home.now = hours(12)
    home.store.materialize(one, T0, hours(12))
    asked = pl.DataFrame({"card_id": [1, 1], "event_timestamp": [hours(9), hours(10)]})
    assert home.store.get_historical_features(asked, ["g:v"]).to_polars()["v"].to_list() == [None, 10.0]


@pytest.mark.parametrize("chunk_rows", [None, 1])
def test_windows_see_whole_what_prepare_may_look_across(tmp_path, chunk_rows):
    within = {"prepare": lambda frame: frame.with_columns(size=pl.len().over("card_id")), "prepare_by": ["card_id"]}
    largest = Feature("size", pl.col("size").max(), window="6h")
    one = group("sized", [largest], grain="window", every="6h", **within)
    home = Home(tmp_path, [one], rows=chunk_rows)
    home.now = hours(30)
    home.write([(1, 1, 1.0, hours(20)), (2, 1, 1.0, hours(23))])
    home.store.materialize_incremental(one)
    home.now = hours(100)
    home.write([(3, 1, 1.0, hours(48))])  # on the next day, it changes nothing of the day before
    home.store.materialize_incremental(one)
    found = home.rows("sized").sort("event_timestamp")
    assert found["event_timestamp"].to_list() == [hours(24), hours(30), hours(54), hours(60)]
    assert found["size"].to_list() == [2, None, 3, None]
    assert home.store.materialize(one, T0, hours(100)).rows == 0
