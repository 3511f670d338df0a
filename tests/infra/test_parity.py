"""Parity: equal stores agree to the last bit; a value or an entity that was tampered with is named."""

from __future__ import annotations

from datetime import timedelta
from math import isnan

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from card_payments import ABOUT, HOUR, T0, card
from features import Feature, FeatureGroup, FeatureService, FeatureStore, Registry, Source
from features.definitions import REGISTRY
from features.errors import InvalidInput
from features.feature_rows import CREATED, DELETED, EPOCH, EVENT
from features.parity import compare, sample_entities
from features.stores import Publication
from features.times import UTC_US
from infra.ingest import open_ingestor
from infra.parity import check_parity, parity_of_home
from infra.sources.simulated_fab import SimulatedFab
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from infra.wiring import open_platform

SCHEMA = {"card_id": pl.Int64, "shop": pl.String, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")}
payments = Source("payments", SCHEMA, "at")
paid = FeatureGroup(
    "paid",
    "1.0.0",
    card,
    payments,
    [Feature("amount", pl.col("amount")), Feature("shop", pl.col("shop"))],
    derived=[Feature("twice", pl.col("amount") * 2)],
    grain="event",
    ttl="50h",
    **ABOUT,
)
hidden = FeatureGroup("hidden", "1.0.0", card, payments, paid.features, grain="event", online=False, **ABOUT)
checkout = FeatureService("checkout", ["paid:twice"], **ABOUT)
CARDS = 200


@pytest.fixture
def store(tmp_path):
    """Half of the cards are past their ttl; some amounts are null, one is NaN."""
    now = [T0 + 60 * HOUR]
    store = FeatureStore(
        Registry([paid, hidden, checkout]), DeltaLake(tmp_path), MemoryOnlineStore(), clock=lambda: now[0]
    )
    rows = [(i, f"s{i % 3}", None if i % 7 == 0 else i / 3, T0 + (i % 2) * 20 * HOUR) for i in range(CARDS)]
    rows[1] = (1, "s1", float("nan"), T0 + 20 * HOUR)
    store.write_source(payments, pl.DataFrame(rows, SCHEMA, orient="row"))
    store.materialize_incremental(paid)
    store.sync(paid)
    now[0] += HOUR
    return store


def tamper(store, card_id, *, deleted=False, amount=None):
    """Write another row of a card into the online store, by its own interface, behind the platform's back."""
    row = {"card_id": card_id, EVENT: T0 + 21 * HOUR, CREATED: store.now(), EPOCH: 0, DELETED: deleted}
    rows = pl.DataFrame([row | {"amount": amount, "shop": "s0"}], schema_overrides={EVENT: UTC_US, CREATED: UTC_US})
    rows = rows.cast({"amount": pl.Float64})
    plan = store.online.watermark(paid.table_id)
    assert store.online.write(paid.table_id, ["card_id"], rows, Publication(paid.table_id, plan, plan + 1, store.now()))


def test_equal_stores_agree_in_every_feature(store):
    (report,) = check_parity(store)
    assert (report.group, report.entities, report.agreement, report.ok) == ("paid", CARDS, 1.0, True)
    facts = {f.feature: (f.entities, f.consistency, f.skew, f.other_status) for f in report.features}
    assert facts == {
        "amount": (CARDS, 1.0, 0.0, 0),
        "shop": (CARDS, None, None, 0),
        "twice": (CARDS, 1.0, 0.0, 0),
    }


def test_another_value_online_is_named(store):
    tamper(store, 3, amount=10.0)
    (report,) = check_parity(store)
    assert not report.ok
    amount, shop, twice = report.features
    assert (amount.agreement, shop.agreement, twice.agreement) == (1 - 1 / CARDS, 1.0, 1 - 1 / CARDS)
    (difference,) = amount.differences
    assert (difference.entity, difference.online, difference.offline) == ({"card_id": 3}, 10.0, 1.0)
    with_number = sum(i % 2 == 1 and i % 7 != 0 and i != 1 for i in range(CARDS))
    assert amount.consistency == pytest.approx(1 - (1 - 1.0 / 10.0) / with_number)
    assert amount.skew == pytest.approx((10.0 - 1.0) / with_number)


def test_an_entity_that_is_gone_online_is_named(store):
    tamper(store, 5, deleted=True)
    (report,) = check_parity(store, "paid")
    assert not report.ok
    for feature in report.features:
        (difference,) = feature.differences
        assert difference.entity == {"card_id": 5}
        assert (difference.online_status, difference.offline_status) == ("NOT_FOUND", "PRESENT")
        assert feature.other_status == 1


def test_an_entity_that_is_gone_past_its_ttl_is_no_difference(store):
    tamper(store, 6, deleted=True)  # as an online store does that evicts what is too old
    (report,) = check_parity(store)
    assert report.agreement == 1.0


def test_a_sync_that_is_still_due_is_no_difference(store):
    rows = pl.DataFrame([(3, "s9", 99.0, T0 + 59 * HOUR)], SCHEMA, orient="row")
    store.write_source(payments, rows)
    store.materialize_incremental(paid)
    (report,) = check_parity(store)
    assert report.agreement == 1.0
    store.sync(paid)


def test_a_service_is_compared_by_its_groups(store):
    (report,) = check_parity(store, "checkout")
    assert [f.feature for f in report.features] == ["twice"]
    assert report.ok


def test_what_cannot_be_compared_is_refused(store):
    with pytest.raises(InvalidInput, match="offline only"):
        check_parity(store, "hidden")
    with pytest.raises(InvalidInput, match="compares nothing"):
        check_parity(store, "paid", sample=0)


def test_a_group_never_materialized_has_nothing_to_compare(tmp_path):
    empty = FeatureStore(Registry([paid]), DeltaLake(tmp_path), MemoryOnlineStore(), clock=lambda: T0)
    (report,) = check_parity(empty)
    assert (report.entities, report.agreement) == (0, 1.0)


NUMBER = st.one_of(st.none(), st.floats(width=64), st.integers(-5, 5).map(float))


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1))
def test_the_measures_are_those_of_their_formulas(pairs):
    online, offline = (
        pl.DataFrame({"k": range(len(side)), "f": pl.Series(side, dtype=pl.Float64)}).with_columns(
            f__status=pl.lit("PRESENT")
        )
        for side in zip(*pairs, strict=True)
    )
    (found,) = compare(["k"], ["f"], online, offline)

    def same(a, b):
        return a == b or (a is not None and b is not None and isnan(a) and isnan(b))

    assert found.agreement == pytest.approx(sum(same(a, b) for a, b in pairs) / len(pairs))
    numbers = [tuple(None if x is None or isnan(x) else x for x in pair) for pair in pairs]
    finite = [(a, b) for a, b in numbers if a is not None and b is not None and abs(a) < 1e300 and abs(b) < 1e300]
    if finite == numbers:
        parts = [1.0 if a == b else 1 - abs(a - b) / max(abs(a), abs(b)) for a, b in finite]
        assert found.consistency == pytest.approx(sum(parts) / len(parts), abs=1e-9)
        assert found.skew == pytest.approx(sum(abs(a - b) for a, b in finite) / len(finite))


def test_a_sample_draws_entities_not_rows_and_others_with_another_seed():
    often = pl.DataFrame({"k": [0] * 50_000 + list(range(20_000))}).lazy()
    first, again, other = (sample_entities(often, ["k"], 500, seed) for seed in (1, 1, 2))
    assert first.equals(again)
    assert first["k"].n_unique() == other["k"].n_unique() == 500
    assert len(set(first["k"]) & set(other["k"])) < 60


def test_the_shipped_definitions_agree_on_a_simulated_fab(tmp_path):
    fab = SimulatedFab(days=2, wafers_per_day=2, dies_per_wafer=60)
    fab.write(tmp_path / "landing")
    now = fab.start + timedelta(days=3)
    with open_platform(REGISTRY, tmp_path / "home", lambda: now) as platform:
        open_ingestor(platform).ingest([tmp_path / "landing"])
        for group in REGISTRY.in_order():
            platform.store.materialize_incremental(group)
            if group.online:
                platform.store.sync(group)
    reports = parity_of_home(now=now, home=tmp_path / "home")
    assert [report.group for report in reports] == [group.name for group in REGISTRY.in_order() if group.online]
    for report in reports:
        assert report.entities > 0
        assert {f.feature: f.agreement for f in report.features} == {f.feature: 1.0 for f in report.features}
