"""Retrieval without entity rows: what stood between two moments, of all entities or of some."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import polars as pl
import pytest

from card_payments import ABOUT, T0, card
from features import Feature, FeatureGroup, FeatureStore, Registry
from features.errors import InvalidInput
from shop_payments import REFS, asked, checkout, fill, open_copy, payments, rows_of, spending, tills


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def store(filled, tmp_path):
    with open_copy(filled, tmp_path) as store:
        yield store


visits = FeatureGroup(
    "visits",
    "1.0.0",
    card,
    payments,
    [Feature("shop_id", pl.col("shop_id")), Feature("till", pl.col("till")), Feature("spent", pl.col("amount"))],
    grain="event",
    **ABOUT,
)


@pytest.fixture
def visited(store):
    """The store with the group of visits, whose features are the keys of tills."""
    again = FeatureStore(Registry([spending, tills, visits, checkout]), store.offline, store.online, clock=store.now)
    again.materialize(visits, T0, T0 + timedelta(days=3))
    return again


def test_all_rows_of_a_group_between_two_moments(store):
    found = store.get_offline_features([*REFS, "spending:amount_cents"], T0, T0 + timedelta(days=1, microseconds=1))
    assert found.to_polars().columns == ["card_id", "event_timestamp", "amount_last", "large", "amount_cents"]
    later = T0 + timedelta(days=1)
    assert found.to_polars().rows() == [
        (1, T0, 10.0, False, 1000.0),
        (2, T0, None, None, None),
        (1, later, 60.0, True, 6000.0),
    ]
    assert found.statuses["amount_last"].to_list() == ["PRESENT", "NULL_VALUE", "PRESENT"]
    assert found.statuses["amount_cents"].to_list() == ["PRESENT", "NULL_VALUE", "PRESENT"]
    assert store.get_offline_features(REFS, T0, later).to_polars()["card_id"].to_list() == [1, 2]
    assert store.get_offline_features(REFS, later.date(), "2026-03-05").to_polars().height == 1
    assert store.get_offline_features(REFS, "2027-01-01", "2027-01-02").to_polars().is_empty()


def test_rows_between_two_moments_of_some_entities(store):
    for entities, cards in (([1, 7, None, 1], [1, 1]), ([], []), (list(range(2, 3000)), [2])):
        frame = pl.DataFrame({"card_id": entities}, schema={"card_id": pl.Int32})
        found = store.get_offline_features(REFS, T0, T0 + timedelta(days=3), entities=frame)
        assert found.to_polars()["card_id"].to_list() == cards
    with pytest.raises(InvalidInput, match=r"lack key column\(s\) \['card_id'\]"):
        store.get_offline_features(REFS, T0, T0 + timedelta(days=3), entities=[{"card": 1}])


def test_rows_that_stand_are_asked_for_in_any_zone(store):
    tokyo = timezone(timedelta(hours=9))
    for start in (T0 + timedelta(hours=20), (T0 + timedelta(hours=20)).astimezone(tokyo), datetime(2026, 3, 1, 20)):  # noqa: DTZ001
        assert store.current_rows(spending, start).collect()["amount_last"].to_list() == [60.0]


def test_a_corrected_row_stands_once_with_its_newest_value(store):
    right = rows_of((1, "a", 1, 11.0, T0))
    store.write_source(payments, right)
    store.materialize_incremental(spending)
    found = store.get_offline_features(REFS, T0, T0 + timedelta(days=3), entities=[{"card_id": 1}]).to_polars()
    assert found["event_timestamp"].is_unique().all()
    assert 60.0 in found["amount_last"].to_list()
    standing = store.current_rows(spending, T0, T0 + timedelta(days=3)).filter(pl.col("card_id") == 1).collect()
    assert sorted(found["amount_last"]) == sorted(standing["amount_last"])


def test_other_groups_are_asked_at_the_rows_of_the_first(visited):
    refs = ["visits:spent", "tills:amount_last", "spending[card_id=card_id]:large"]
    found = visited.get_offline_features(refs, T0, T0 + timedelta(days=3)).to_polars()
    assert found.columns == ["card_id", "event_timestamp", "shop_id", "till", "spent", "amount_last", "large"]
    assert found.select("card_id", "shop_id", "till", "spent", "amount_last").rows() == [
        (1, "a", 1, 10.0, 10.0),
        (2, "a", 12, None, None),
        (1, "b", 2, 60.0, 60.0),
    ]
    as_asked = visited.get_historical_features(found.drop("spent", "amount_last", "large"), refs[1:]).to_polars()
    assert found.select("amount_last", "large").equals(as_asked.select("amount_last", "large"))


def test_wrong_questions_between_two_moments_are_refused(visited):
    with pytest.raises(InvalidInput, match="'tills' needs the key 'shop_id', which the rows of 'spending' lack"):
        visited.get_offline_features(["spending:large", "tills:amount_last"], T0, T0 + timedelta(days=1))
    with pytest.raises(InvalidInput, match="is not before end"):
        visited.get_offline_features(REFS, T0, T0)
    with pytest.raises(InvalidInput, match=r"request value\(s\) \['basket'\] belong to entity rows"):
        visited.get_offline_features(checkout, T0, T0 + timedelta(days=1))


def test_a_group_without_rows_answers_nothing(store):
    empty = FeatureGroup("empty", "1.0.0", card, payments, [Feature("x", pl.col("amount"))], grain="event", **ABOUT)
    again = FeatureStore(Registry([spending, empty]), store.offline, store.online, clock=store.now)
    rows = asked((1, T0), (2, T0))
    found = again.get_historical_features(rows, ["empty:x", "spending:large"])
    assert found.to_polars()["x"].to_list() == [None, None]
    assert found.to_polars().schema["x"] == pl.Float64
    assert found.statuses["x"].to_list() == ["NOT_FOUND"] * 2
    assert again.get_offline_features(["empty:x"], T0, T0 + timedelta(days=9)).to_polars().is_empty()
