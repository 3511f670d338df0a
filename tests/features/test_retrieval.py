"""Retrieval from a real lake and a real online store: shapes, names, statuses, manifests, derived features."""

from __future__ import annotations

from datetime import date, timedelta, timezone
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from card_payments import ABOUT, T0, card
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.content_hash import content_hash
from features.errors import DefinitionError, InvalidInput, NotRegistered, StorageError
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from shop_payments import REFS, asked, checkout, fill, open_copy, payments, rows_of, spending, typed


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def store(filled, tmp_path):
    with open_copy(filled, tmp_path) as store:
        yield store


def test_rows_keep_their_order_number_duplicates_and_own_columns(store):
    later = T0 + timedelta(days=2)
    rows = asked((1, later), (9, later), (1, T0), (1, later), (None, later), note=pl.lit("mine"))
    found = store.get_historical_features(rows, REFS).to_polars()
    assert found.columns == ["card_id", "event_timestamp", "note", "amount_last", "large"]
    assert found.select(rows.columns).equals(rows)
    assert found["amount_last"].to_list() == [60.0, None, 10.0, 60.0, None]


@pytest.mark.parametrize(
    "moment",
    [
        (T0 + timedelta(hours=30)).replace(tzinfo=None),
        (T0 + timedelta(hours=30)).astimezone(timezone(timedelta(hours=-5))),
        date(2026, 3, 3),
    ],
    ids=["naive", "zoned", "date"],
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_moments_may_be_written_in_any_way(store, moment, unit):
    times = pl.Series("event_timestamp", [moment])
    times = times.dt.cast_time_unit(unit) if isinstance(times.dtype, pl.Datetime) else times
    found = store.get_historical_features(pl.DataFrame({"card_id": [1]}).with_columns(times), REFS)
    assert found.to_polars()["amount_last"].to_list() == [60.0]


def test_statuses_say_why_a_value_is_missing(store):
    rows = asked((1, T0), (2, T0), (9, T0), (1, T0 + timedelta(days=20)))
    with pytest.warns(UserWarning, match="later than now"):
        found = store.get_historical_features(rows, REFS)
    assert found.statuses["amount_last"].to_list() == ["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]
    assert found.statuses.columns == ["amount_last", "large"]


def test_pandas_arrow_and_dicts_are_entity_rows_too(store):
    rows = asked((1, T0), (2, T0))
    expected = store.get_historical_features(rows, REFS).to_polars()["amount_last"].to_list()
    for given in (rows.to_pandas(), rows.to_arrow(), rows.to_dicts(), rows.lazy()):
        assert store.get_historical_features(given, REFS).to_polars()["amount_last"].to_list() == expected
    found = store.get_historical_features(rows, REFS)
    assert found.to_pandas()["amount_last"].tolist()[0] == 10.0
    assert found.to_arrow().num_rows == found.lazy().collect().height == 2


def test_no_entity_rows_give_an_empty_training_set(store):
    found = store.get_historical_features(asked(), REFS).to_polars()
    assert found.is_empty()
    assert found.columns == ["card_id", "event_timestamp", "amount_last", "large"]


def test_composite_keys_are_compared_column_by_column(store):
    rows = pl.DataFrame({"shop_id": ["a", "a", "a1"], "till": [1, 12, 2], "event_timestamp": [T0] * 3})
    assert store.get_historical_features(rows, ["tills:amount_last"]).to_polars()["amount_last"].to_list() == [
        10.0,
        None,
        None,
    ]
    assert store.get_historical_features(rows, ["tills:amount_last"]).statuses["amount_last"].to_list() == [
        "PRESENT",
        "NULL_VALUE",
        "NOT_FOUND",
    ]


def test_names_that_collide_are_refused_until_they_are_full(store):
    rows = pl.DataFrame({"card_id": [1], "shop_id": ["a"], "till": [1], "event_timestamp": [T0]})
    both = ["spending:amount_last", "tills:amount_last"]
    with pytest.raises(DefinitionError, match="full_feature_names=True"):
        store.get_historical_features(rows, both)
    found = store.get_historical_features(rows, both, full_feature_names=True).to_polars()
    assert found.columns[-2:] == ["spending__amount_last", "tills__amount_last"]


@pytest.mark.parametrize(
    ("change", "refs", "error", "message"),
    [
        ({}, ["spending:nothing"], NotRegistered, "'spending:nothing' is not defined"),
        ({}, ["nothing:x"], NotRegistered, "feature group 'nothing' is not registered"),
        ({}, ["spending"], DefinitionError, "no feature reference"),
        ({"amount_last": pl.lit(1)}, REFS, InvalidInput, r"already have column\(s\) \['amount_last'\]"),
        ({"card_id": pl.lit("one")}, REFS, InvalidInput, "does not fit its declared type"),
        ({"event_timestamp": pl.lit(3)}, REFS, InvalidInput, "not a time"),
    ],
)
def test_wrong_questions_are_refused_by_name(store, change, refs, error, message):
    with pytest.raises(error, match=message):
        store.get_historical_features(asked((1, T0)).with_columns(**change), refs)
    for missing in ("card_id", "event_timestamp"):
        with pytest.raises(InvalidInput, match=missing):
            store.get_historical_features(asked((1, T0)).drop(missing), REFS)


def test_an_entity_row_of_the_future_sees_what_is_visible_now(store):
    with pytest.warns(UserWarning, match=r"2 entity row\(s\) are later than now, 2026-03-06 00:00:00 UTC") as warned:
        found = store.get_historical_features(asked((1, T0 + timedelta(days=7)), (9, T0 + timedelta(days=8))), REFS)
    assert len(warned) == 1
    assert found.to_polars()["amount_last"].to_list() == [60.0, None]


def test_derived_features_are_equal_offline_and_online(store):
    rows = asked((1, T0 + timedelta(days=5))).with_columns(basket=pl.lit(30.0))
    offline = store.get_historical_features(rows, checkout).to_polars()
    online = store.get_online_features(checkout, [{"card_id": 1}], request={"basket": 30.0}).to_dict()
    assert offline["basket_ratio"].to_list() == online["basket_ratio"] == [0.5]
    cents = store.get_online_features(["spending:amount_cents"], [{"card_id": 1}]).to_dict()
    assert cents == {"card_id": [1], "amount_cents": [6000.0]}


def test_request_values_must_be_given(store):
    with pytest.raises(InvalidInput, match=r"request value\(s\) \['basket'\]"):
        store.get_online_features(checkout, [{"card_id": 1}])
    with pytest.raises(InvalidInput, match=r"request value\(s\) \['basket'\]"):
        store.get_historical_features(asked((1, T0)), checkout)


def test_online_answers_carry_status_and_event_time(store):
    found = store.get_online_features(REFS, [{"card_id": 1}, {"card_id": 9}, {"card_id": 2}]).to_polars()
    assert found["amount_last"].to_list() == [60.0, None, None]
    assert found["amount_last__status"].to_list() == ["PRESENT", "NOT_FOUND", "NULL_VALUE"]
    assert found["amount_last__event_timestamp"].to_list() == [T0 + timedelta(days=1), None, T0]


def test_offline_as_of_now_equals_online(store):
    entities = pl.DataFrame({"card_id": [1, 2, 9]})
    offline = store.get_historical_features(entities.with_columns(event_timestamp=pl.lit(store.now())), REFS)
    online = store.get_online_features(REFS, entities).to_polars()
    for name in ("amount_last", "large"):
        assert offline.to_polars()[name].equals(online[name])
        assert offline.statuses[name].equals(online[f"{name}__status"].alias(name))


def test_the_manifest_says_what_was_read(store):
    rows = asked((1, T0))
    found = store.get_historical_features(rows, REFS)
    manifest = found.manifest
    assert manifest["features"] == REFS
    assert (manifest["history"], manifest["rows"]) == ("backfilled", 1)
    assert manifest["entity_hash"] == content_hash(rows)
    assert manifest["content_hash"] == content_hash(found.to_polars())
    facts = manifest["groups"]["spending"]
    assert (facts["version"], facts["sources"]) == ("1.0.0", {"payments": 1})
    again = store.get_historical_features(rows, REFS, pins={"spending": facts["table_version"]})
    assert again.manifest["content_hash"] == manifest["content_hash"]


def test_a_sync_publishes_only_what_is_new(store):
    assert store.sync(spending).rows == 0
    late = rows_of((1, "a", 1, 99.0, T0 + timedelta(days=4)))
    store.write_source(payments, late)
    store.materialize_incremental(spending)
    assert store.get_online_features(REFS, [{"card_id": 1}]).to_dict()["amount_last"] == [60.0]
    assert store.sync(spending).rows == 1
    assert store.get_online_features(REFS, [{"card_id": 1}]).to_dict()["amount_last"] == [99.0]


def test_an_older_row_never_replaces_a_newer_one_online(store):
    early = rows_of((1, "a", 1, 5.0, T0 - timedelta(days=1)))
    store.write_source(payments, early)
    store.materialize_incremental(spending)
    assert store.sync(spending).rows == 0
    assert store.get_online_features(REFS, [{"card_id": 1}]).to_dict()["amount_last"] == [60.0]


def test_a_derived_feature_is_as_missing_as_its_inputs(store):
    keys = [{"card_id": 1}, {"card_id": 9}, {"card_id": 2}]
    online = store.get_online_features(["spending:amount_cents"], keys).to_polars()
    assert online["amount_cents__status"].to_list() == ["PRESENT", "NOT_FOUND", "NULL_VALUE"]
    assert online["amount_cents__event_timestamp"].to_list() == [T0 + timedelta(days=1), None, T0]
    rows = asked(*((k["card_id"], store.now()) for k in keys))
    offline = store.get_historical_features(rows, ["spending:amount_cents"])
    assert offline.statuses["amount_cents"].to_list() == online["amount_cents__status"].to_list()


def test_a_key_with_a_fraction_is_no_integer_key_and_a_nan_is_none(store):
    rows = asked((1, T0))
    for keys in ([1.5], [1e300]):
        with pytest.raises(InvalidInput, match="an entity key does not fit its declared type"):
            store.get_historical_features(rows.with_columns(card_id=pl.Series(keys)), REFS)
        with pytest.raises(InvalidInput, match="an entity key does not fit its declared type"):
            store.get_online_features(REFS, [{"card_id": keys[0]}])
    floats = pl.DataFrame({"card_id": [1.0, float("nan")], "event_timestamp": [T0 + timedelta(days=2)] * 2})
    assert store.get_historical_features(floats, REFS).to_polars()["amount_last"].to_list() == [60.0, None]
    assert store.get_online_features(REFS, floats.select("card_id")).to_dict()["amount_last"] == [60.0, None]


def test_request_values_take_their_declared_type_and_one_serves_all(store):
    keys = [{"card_id": 1}, {"card_id": 2}]
    for basket in (3, [3, 3], (3.0, 3.0), pl.Series([3, 3])):
        answer = store.get_online_features(typed, keys, request={"basket": basket}).to_polars()
        assert answer.select("whole", "one", "one__event_timestamp").rows() == [(1.0, 1, None)] * 2
        assert answer.schema["whole"] == pl.Float64
    rows = asked((1, T0), (2, T0), basket=pl.lit(3))
    assert store.get_historical_features(rows, typed).to_polars().select("whole", "one").rows() == [(1.0, 1)] * 2
    for basket, problem in (([3], r"1 value\(s\) for 2 entity row"), ("x", "is not Float64")):
        with pytest.raises(InvalidInput, match=problem):
            store.get_online_features(typed, keys, request={"basket": basket})


def test_a_column_with_the_full_name_of_an_answer_may_stay(store):
    found = store.get_historical_features(asked((1, T0), spending__amount_last=pl.lit("mine")), REFS).to_polars()
    assert found.select("spending__amount_last", "amount_last").rows() == [("mine", 10.0)]


@pytest.mark.parametrize("given", [None, "card_id", [1, 2], 7, {"card_id": [1], "event_timestamp": [T0, T0]}])
def test_what_is_no_table_is_refused(store, given):
    with pytest.raises(InvalidInput, match=r"entity rows are a .*: give a Polars, pandas or Arrow table, or dicts"):
        store.get_historical_features(given, REFS)
    with pytest.raises(InvalidInput, match=r"rows of source 'payments' are a .*: give a Polars"):
        store.write_source(payments, given)


def test_a_source_takes_lazy_and_pandas_rows_with_their_zone(store):
    late = rows_of((5, "a", 1, 1.0, T0))
    late = late.with_columns(pl.col("at").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"))
    for rows in (late.lazy(), late.to_pandas()):
        store.write_source(payments, rows)
    found = store.offline.scan_source("payments").filter(pl.col("card_id") == 5).collect()
    assert found["at"].to_list() == [T0, T0]


def test_an_input_may_be_renamed_in_a_minor_version(store):
    renamed = FeatureGroup(
        "spending",
        "1.1.0",
        card,
        {"paid": payments},
        spending.features,
        grain="event",
        derived=spending.derived,
        ttl="10d",
        **ABOUT,
    )
    again = FeatureStore(Registry([renamed]), store.offline, store.online, clock=store.now)
    again.apply()
    found = again.get_historical_features(asked((1, T0)), REFS)
    assert found.manifest["groups"]["spending"]["sources"] == {"payments": 1}


def test_a_file_that_is_gone_is_said_in_one_line_that_names_the_group(store, tmp_path):
    for file in (tmp_path / "lake/features/spending").rglob("*.parquet"):
        file.unlink()
    with pytest.raises(StorageError, match=r"feature group\(s\) \['spending'\]: a table cannot be read"):
        store.get_historical_features(asked((1, T0)), REFS)
    with pytest.raises(StorageError, match="a table cannot be read"):
        store.materialize(spending, T0, T0 + timedelta(days=1))


def test_one_group_may_be_read_twice_under_different_keys(store):
    names = ["amount_last", "amount_cents"]
    refs = [f"spending[card_id={role}_id]:{name}" for role in ("from", "to") for name in names]
    rows = pl.DataFrame({"from_id": [1, 2, None], "to_id": [9, 1, 1], "event_timestamp": [T0 + timedelta(days=2)] * 3})
    with pytest.raises(DefinitionError, match="full_feature_names=True"):
        store.get_historical_features(rows, refs)
    found = store.get_historical_features(rows, refs, full_feature_names=True)
    named = [f"spending_by_{role}_id__{name}" for role in ("from", "to") for name in names]
    assert found.to_polars().select(named).rows() == [
        (60.0, 6000.0, None, None),
        (None, None, 60.0, 6000.0),
        (None, None, 60.0, 6000.0),
    ]
    assert found.statuses.row(0)[:3:2] == ("PRESENT", "NOT_FOUND")
    assert found.statuses.row(1)[:3:2] == ("NULL_VALUE", "PRESENT")
    assert list(found.manifest["groups"]) == ["spending"]
    online = store.get_online_features(refs, rows.drop("event_timestamp"), full_feature_names=True).to_polars()
    assert online.select(named).equals(found.to_polars().select(named))


@pytest.mark.parametrize("ref", ["spending[card_id]:large", "spending[=a]:large", "spending[card_id=a:large", "s[]:x"])
def test_a_key_that_is_taken_from_a_column_is_written_in_one_way(store, ref):
    with pytest.raises(DefinitionError, match=r"write .* or 'group\[key=column\]:feature'"):
        store.get_historical_features(asked((1, T0)), [ref])


def test_a_reference_may_rename_only_keys_that_the_group_has(store):
    with pytest.raises(NotRegistered, match=r"names key\(s\) \['card'\]; 'spending' has \['card_id'\]"):
        store.get_historical_features(asked((1, T0)), ["spending[card=from_id]:large"])
    with pytest.raises(InvalidInput, match=r"lack key column\(s\) \['from_id'\]"):
        store.get_historical_features(asked((1, T0)), ["spending[card_id=from_id]:large"])


def test_an_entity_row_without_a_moment_is_refused(store):
    with pytest.raises(InvalidInput, match=r"1 entity row\(s\) have no 'event_timestamp'"):
        store.get_historical_features(asked((1, T0), (1, None)), REFS)


KEY_VALUES = {
    "bool": (pl.Boolean, [True, False]),
    "small": (pl.UInt8, [0, 255]),
    "large": (pl.UInt64, [0, 2**62]),
    "float": (pl.Float64, [0.1, -2.5]),
    "text": (pl.String, ["", "O'Hara ü"]),
    "bytes": (pl.Binary, [b"\x00", b"ab"]),
    "day": (pl.Date, [date(1971, 1, 1), date(2026, 3, 1)]),
    "time": (pl.Datetime("ns", "Asia/Tokyo"), [T0, T0 + timedelta(hours=1)]),
    "money": (pl.Decimal(10, 2), [Decimal("1.10"), Decimal("-7.25")]),
    "kind": (pl.Enum(["a", "b"]), ["a", "b"]),
}


@pytest.mark.parametrize("names", [[name] for name in KEY_VALUES] + [list(KEY_VALUES)], ids="-".join)
def test_keys_may_be_of_any_type_and_number(tmp_path, names):
    types = {name: KEY_VALUES[name][0] for name in names}
    thing = Entity("thing", keys=types)
    seen = Source("seen", schema={**types, "x": pl.Int64, "at": pl.Datetime}, event_timestamp="at")
    group = FeatureGroup("things", "1.0.0", thing, seen, [Feature("x", pl.col("x"))], grain="event", **ABOUT)
    ones, others = ([KEY_VALUES[name][1][i] for name in names] for i in (0, 1))
    mixed = [*ones[:-1], others[-1]]
    rows = pl.DataFrame(
        [(*ones, 1, T0), (*others, 2, T0)],
        schema={**types, "x": pl.Int64, "at": pl.Datetime("us", "UTC")},
        orient="row",
    )
    with FeatureStore(
        Registry([group]),
        DeltaLake(tmp_path / "lake"),
        LmdbOnlineStore(tmp_path / "o"),
        clock=lambda: T0 + timedelta(9),
    ) as store:
        store.write_source(seen, rows)
        store.materialize(group, T0, T0 + timedelta(days=1))
        asked_keys = [others, ones, mixed, [None] * len(names), others]
        asking = pl.DataFrame(asked_keys, schema=types, orient="row").with_columns(event_timestamp=pl.lit(T0))
        found = store.get_historical_features(asking, ["things:x"]).to_polars()
        assert found["x"].to_list() == [2, 1, 2 if len(names) == 1 else None, None, 2]
        assert found.drop("x").equals(asking)
        some = store.get_offline_features(["things:x"], T0, T0 + timedelta(1), entities=asking.head(1).select(names))
        assert some.to_polars()["x"].to_list() == [2]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_moments_of_pandas_and_arrow_may_have_any_unit_and_zone(store, unit, zone):
    stamps = [T0 + timedelta(hours=30), T0]
    moments = pd.Series(pd.to_datetime(stamps, utc=True))
    moments = moments.dt.tz_convert(zone) if zone else moments.dt.tz_localize(None)
    frame = pd.DataFrame({"card_id": [1, 1], "event_timestamp": moments.dt.as_unit(unit)})
    for given in (frame, pa.table({"card_id": [1, 1], "event_timestamp": pa.array(stamps, pa.timestamp(unit, zone))})):
        found = store.get_historical_features(given, REFS).to_polars()
        assert found["amount_last"].to_list() == [60.0, 10.0]


def test_another_column_may_have_the_moments(store):
    rows = asked((1, T0)).rename({"event_timestamp": "asked_at"}).with_columns(event_timestamp=pl.lit("mine"))
    found = store.get_historical_features(rows, REFS, event_timestamp="asked_at").to_polars()
    assert found.columns == ["card_id", "asked_at", "event_timestamp", "amount_last", "large"]
    assert found.select("event_timestamp", "amount_last").rows() == [("mine", 10.0)]
