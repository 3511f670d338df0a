"""Columns as they are stored and answered: every type, and features that came later."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pytest

from card_payments import ABOUT, HOUR, T0, Home, amount, group, hours, last_payment, payments
from features import Entity, Feature, FeatureGroup, Source
from features.compute import stored_schema
from features.errors import DefinitionChanged, DefinitionError


def test_a_changed_definition_needs_a_new_version(tmp_path):
    Home(tmp_path).store.materialize_incremental(last_payment)
    changed = group("last_payment", [Feature("amount_last", amount * 2)], grain="event")
    with pytest.raises(DefinitionChanged, match="raise its version"):
        Home(tmp_path, [changed]).store.materialize_incremental(changed)


def test_a_new_feature_is_null_in_old_rows_until_they_are_computed_again(tmp_path):
    old = Home(tmp_path)
    old.now = hours(10)
    old.write([(1, 1, 5.0, hours(1))])
    old.store.materialize_incremental(last_payment)
    features = [*last_payment.features, Feature("twice", amount * 2)]
    wider = group("last_payment", features, "1.1.0", grain="event")
    new = Home(tmp_path, [wider])
    new.now = hours(11)
    new.store.apply()
    assert new.rows("last_payment")["twice"].to_list() == [None]
    assert new.store.materialize(wider, T0, hours(11)).rows == 1
    assert new.rows("last_payment")["twice"].to_list() == [10.0]


TYPED = [
    (pl.UInt8, [1, 255], pl.Int16),
    (pl.UInt64, [1, 2**63 - 1], pl.Int64),
    (pl.Categorical, ["b", "a"], pl.String),
    (pl.Enum(["lo", "hi"]), ["lo", "hi"], pl.String),
    (pl.Decimal(10, 2), [Decimal("1.10"), Decimal("2.20")], pl.Decimal(10, 2)),
    (pl.Date, [date(2026, 1, 1), date(2026, 1, 2)], pl.Date),
    (pl.Datetime("ns"), [datetime(2026, 1, 1), datetime(2026, 1, 2)], pl.Datetime("us", "UTC")),  # noqa: DTZ001
    (pl.Datetime("ms", "America/New_York"), [T0, T0 + HOUR], pl.Datetime("us", "UTC")),
]


@pytest.mark.parametrize(("declared", "values", "stored"), TYPED, ids=lambda v: str(v) if isinstance(v, type) else None)
def test_every_type_of_a_key_and_a_feature_stays_alike_in_sources_tables_and_answers(
    tmp_path, declared, values, stored
):
    thing = Entity("thing", keys={"thing_id": declared})
    schema = {"thing_id": declared, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
    typed = Source("typed", schema=schema, event_timestamp="at")
    settled = [Feature("same", pl.col("thing_id").last())]
    groups = [
        FeatureGroup("entity", "1.0.0", thing, typed, settled, grain="entity", settle="1h", **ABOUT),
        FeatureGroup("event", "1.0.0", thing, typed, [Feature("a", pl.col("amount"))], grain="event", **ABOUT),
        FeatureGroup(
            "w", "1.0.0", thing, typed, [Feature("w", pl.len(), window="1d")], grain="window", every="6h", **ABOUT
        ),
    ]
    home = Home(tmp_path, groups)
    ids = pl.Series("thing_id", values, dtype=declared)
    for hour in (1, 2):
        home.now = hours(20 + hour)
        rows = pl.DataFrame({"thing_id": ids, "amount": [1.0, 2.0], "at": [hours(hour), hours(hour)]})
        home.store.write_source(typed, rows)
        for one in groups:
            home.store.materialize_incremental(one)
            home.store.sync(one)
    refs = ["entity:same", "event:a", "w:w"]
    asked = pl.DataFrame({"thing_id": ids, "event_timestamp": [home.now] * 2})
    offline = home.store.get_historical_features(asked, refs).to_polars().select("same", "a", "w")
    online = home.store.get_online_features(refs, pl.DataFrame({"thing_id": ids})).to_polars().select("same", "a", "w")
    assert offline.equals(online)
    assert offline.schema["same"] == stored
    assert offline.select("a", "w").rows() == [(1.0, 2), (2.0, 2)]
    assert home.store.materialize("entity", T0, hours(10)).rows == 0


def test_types_that_no_table_can_hold_are_refused_where_they_are_declared():
    with pytest.raises(DefinitionError, match=r"'die' is Struct.*cannot be stored"):
        Source("s", {"die": pl.Struct({"x": pl.Int8}), "at": pl.Datetime()}, "at")
    text = Source("s", {"card_id": pl.String(), "at": pl.Datetime()}, "at")
    one = group("g", [Feature("n", pl.len())], source=text, grain="entity", settle="1h")
    with pytest.raises(
        DefinitionError, match="'card_id' is String in input 's' and Int64 in entity 'card': declare it"
    ):
        stored_schema(one)


WITH_SHOP = Source("payments", {**dict(payments.schema), "shop": pl.String}, "at", keys=["payment_id"])
SHOP = pl.col("shop")


@pytest.mark.parametrize("written_since", [True, False], ids=["since the last run", "before"])
@pytest.mark.parametrize(
    "grain",
    [
        {"grain": "event", "prepare": lambda rows: rows, "prepare_by": ["shop"]},
        {"grain": "window", "every": "3h", "prepare": lambda rows: rows, "prepare_by": ["shop"]},
        {"grain": "window", "every": "3h"},
        {"grain": "entity", "every": "3h"},
    ],
    ids=["event by shop", "window by shop", "window", "entity"],
)
def test_rows_written_before_a_source_was_given_a_column_have_nulls_there(tmp_path, grain, written_since):
    def version(number, source, **features):
        span = {"window": "6h"} if grain["grain"] == "window" else {}
        made = [Feature(name, expr, **span) for name, expr in features.items()]
        options = grain if source is WITH_SHOP else {k: v for k, v in grain.items() if "prepare" not in k}
        return group("spent", made, number, source, **options)

    last = (lambda expr: expr) if grain["grain"] == "event" else (lambda expr: expr.last())
    before = version("1.0.0", payments, amount_6h=last(amount))
    after = version("1.1.0", WITH_SHOP, amount_6h=last(amount), shop_6h=last(SHOP.fill_null("none")))
    old = Home(tmp_path, [before])
    old.now = hours(4)
    old.write([(1, 1, 5.0, hours(1))])
    old.store.materialize_incremental(before)
    if written_since:
        old.write([(2, 2, 6.0, hours(2))])
    new = Home(tmp_path, [after])
    new.now = hours(5)
    new.store.apply()
    new.store.materialize_incremental(after)
    new.now = hours(6)
    new.write([(3, 3, 7.0, hours(5), "x")], source=WITH_SHOP)
    new.store.materialize_incremental(after)
    new.now = hours(7)
    new.store.materialize(after, T0, hours(7))
    rows = new.rows("spent").filter(pl.col("shop_6h").is_not_null())
    found = dict(rows.select("card_id", "shop_6h").iter_rows())
    assert found == ({1: "none", 2: "none", 3: "x"} if written_since else {1: "none", 3: "x"})
