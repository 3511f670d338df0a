"""Defaults: they answer when the online store cannot be asked, and neither online nor offline otherwise."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from card_payments import ABOUT, HOUR, T0, amount, group, payments
from features import Feature, FeatureService, FeatureStore, Registry
from features.errors import DefinitionError, StorageError
from infra.parity import check_parity
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.memory_store import MemoryOnlineStore

spending = group(
    "spending",
    [Feature("amount_last", amount, default=0), Feature("payment", pl.col("payment_id"))],
    grain="event",
    derived=[Feature("cents", pl.col("amount_last") * 100 + 1)],
)
service = FeatureService("s", ["spending:amount_last", "spending:cents"], **ABOUT)
STORES = {"memory": lambda _: MemoryOnlineStore(), "lmdb": lambda folder: LmdbOnlineStore(folder / "online")}


@pytest.fixture(params=STORES.values(), ids=STORES)
def store(request, tmp_path):
    """Card 1 has paid 5, card 2 has a payment of an unknown amount, card 3 none."""
    now = T0 + 5 * HOUR
    registry = Registry([spending, service])
    with FeatureStore(registry, DeltaLake(tmp_path / "lake"), request.param(tmp_path), lambda: now) as found:
        rows = [(1, 1, 5.0, T0), (2, 2, None, T0)]
        found.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
        found.materialize_incremental(spending)
        found.sync(spending)
        yield found


ASKED = pl.DataFrame({"card_id": [1, 2, 3]})


def test_while_the_store_answers_a_default_is_seen_neither_online_nor_offline(store):
    online = store.get_online_features(service, ASKED)
    offline = store.get_historical_features(ASKED.with_columns(event_timestamp=store.now()), service)
    assert online.values == {"amount_last": [5.0, None, None], "cents": [501.0, None, None]}
    assert online.values == offline.to_polars().select("amount_last", "cents").to_dict(as_series=False)
    statuses = ["PRESENT", "NULL_VALUE", "NOT_FOUND"]
    assert online.statuses == {"amount_last": statuses, "cents": statuses}
    assert online.statuses == offline.statuses.select("amount_last", "cents").to_dict(as_series=False)
    assert online.origins == {"amount_last": "store", "cents": "store"}
    assert store.current_rows(spending).sort("card_id").collect()["amount_last"].to_list() == [5.0, None]
    assert [p.agreement for p in check_parity(store)] == [1.0]


def test_when_the_store_cannot_be_asked_defaults_answer_and_say_so(store):
    store.online.close()
    found = store.get_online_features(service, ASKED)
    assert found.to_dict() == {"card_id": [1, 2, 3], "amount_last": [0.0] * 3, "cents": [1.0] * 3}
    assert found.to_polars().schema["amount_last"] == pl.Float64
    assert found.statuses == {name: ["PRESENT"] * 3 for name in ("amount_last", "cents")}
    assert found.event_timestamps == {name: [None] * 3 for name in ("amount_last", "cents")}
    assert found.origins == {"amount_last": "default", "cents": "default"}


def test_without_a_default_for_each_feature_the_store_must_answer(store):
    store.online.close()
    with pytest.raises(StorageError, match="is closed"):
        store.get_online_features(["spending:amount_last", "spending:payment"], ASKED)
    with pytest.raises(StorageError, match="is closed"):
        store.get_online_features(service, ASKED, defaults=False)
    with pytest.raises(StorageError, match="is closed"):
        check_parity(store)


@pytest.mark.parametrize("value", ["none", 1.5, 2**40, date(2026, 1, 1), [1]], ids=str)
def test_a_default_is_of_its_features_type(tmp_path, value):
    wrong = group("wrong", [Feature("n", amount.cast(pl.Int32), default=value)], grain="event")
    store = FeatureStore(Registry([wrong]), DeltaLake(tmp_path), MemoryOnlineStore())
    with pytest.raises(DefinitionError, match=r"default of feature 'n': .* is not Int32: give a value of that type"):
        store.materialize_incremental(wrong)


def test_a_derived_feature_has_the_defaults_of_what_it_reads():
    with pytest.raises(DefinitionError, match="'cents' has a default: give one to each stored feature that it reads"):
        group("g", spending.features, grain="event", derived=[Feature("cents", pl.col("amount_last"), default=1)])
    with pytest.raises(DefinitionError, match="'cents' has a default"):
        FeatureService("s", ["a:b"], derived=[Feature("cents", pl.col("b"), default=1)], **ABOUT)
