"""What a server says of its work: parts of requests, breaches of an sla, all workers, how fresh features are."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from card_payments import DAY, T0, group, hours, payments
from features import Feature, FeatureService, FeatureStore, Registry
from features.errors import DefinitionError
from infra.serving.freshness import GroupFreshness
from infra.serving.latency import BOUNDS, Figures, Histogram
from infra.serving.workers import Worker, figures_of, wish
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from infra.storage.row_cache import RowCache
from serving_store import serving

ABOUT = {"owner": "payments", "description": "What a payment needs."}
paid = group("paid", [Feature("amount", pl.col("amount"))], grain="event", sla="10d")
soon = FeatureService("soon", ["paid:amount"], sla="1us", **ABOUT)
late = FeatureService("late", ["paid:amount"], sla="1h", **ABOUT)
READ = "/get-online-features"


@pytest.fixture
def store(tmp_path):
    now = [hours(2)]
    store = FeatureStore(Registry([paid, soon, late]), DeltaLake(tmp_path), MemoryOnlineStore(), lambda: now[0])
    store.turn = lambda moment: now.__setitem__(0, moment)
    rows = [(n, n, float(n), hours(n - 1)) for n in range(3)]
    store.write_source(payments, pl.DataFrame(rows, schema=dict(payments.schema), orient="row"))
    store.materialize_incremental(paid)
    store.sync(paid)
    return store


def told(text):
    """The samples of a metrics text: {name{labels}: value}."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_metrics_tell_of_parts_groups_services_and_breaches(store):
    with serving(store) as client:
        for name in ("soon", "soon", "late"):
            asked = {"feature_service": name, "entities": {"card_id": [1]}}
            assert client.post(READ, json=asked).status_code == 200
        found = told(client.get("/metrics").text)
    for part in ("decode", "store", "compute", "serialise"):
        assert found["featurefab_part_seconds_count", part] == 3
    assert found["featurefab_group_seconds_count", paid.table_id] == 3
    assert found["featurefab_service_seconds_count", "soon"] == 2
    assert found["featurefab_sla_breaches_total", "soon"] == 2
    assert ("featurefab_sla_breaches_total", "late") not in found
    whole = found["featurefab_request_seconds_sum", READ]
    assert 0 < sum(found["featurefab_part_seconds_sum", part] for part in ("decode", "store", "compute")) < whole
    assert found["featurefab_freshness", "paid"] == pytest.approx(1 - timedelta(hours=1) / timedelta(days=10))


@pytest.mark.parametrize("sla", ["fast", "0s", "-1s", 5])
def test_an_sla_is_a_duration(sla):
    with pytest.raises(DefinitionError, match="feature service 'soon': sla"):
        FeatureService("soon", ["paid:amount"], sla=sla, **ABOUT)


def test_freshness_falls_to_nothing_with_age_and_is_looked_at_now_and_then(store):
    clock = [0.0]
    fresh = GroupFreshness(store, 30.0, lambda: clock[0])
    assert fresh.now() == {"paid": pytest.approx(1 - 1 / 240)}
    store.turn(T0 + 5 * DAY + timedelta(hours=1))
    assert fresh.now() == {"paid": pytest.approx(1 - 1 / 240)}
    clock[0] = 31.0
    assert fresh.now() == {"paid": pytest.approx(0.5)}
    store.turn(T0 + 30 * DAY)
    clock[0] = 62.0
    assert fresh.now() == {"paid": 0.0}


def test_workers_tell_what_all_of_them_did(tmp_path: Path):
    mine, other = Worker(tmp_path), Figures(gauges={"workers": 1.0})
    mine.figures.answered(READ, 200, 0.001)
    other.answered(READ, 200, 0.002)
    other.answered(READ, 422, 0.2)
    other.count("breaches", "soon", 3)
    (tmp_path / "1.json").write_bytes(msgspec.json.encode(other))
    for _ in range(2):  # its own file is not counted beside itself
        mine.beat(mine.own())
        total = mine.all()
        assert total.requests == {READ: {200: 2, 422: 1}}
        assert total.seconds["path"][READ].summary()["longest"] == 0.2
        assert (total.counts, total.gauges) == ({"breaches": {"soon": 3}}, {"workers": 2.0})
    mine.close()
    assert figures_of(tmp_path).requests == {READ: {200: 1, 422: 1}}
    os.utime(tmp_path / "1.json", (0, 0))  # killed long ago
    assert figures_of(tmp_path) == Figures()


def test_who_asks_to_clear_clears_every_worker(tmp_path):
    caches = [RowCache(1_000, 60) for _ in range(2)]
    workers = [Worker(tmp_path, cache) for cache in caches]
    for cache in caches:
        cache.trust()
        cache.put(cache.expect([b"a"]), [b"a"], [b"row"])
    workers[0].beat(workers[0].own())
    assert [len(cache) for cache in caches] == [1, 1]
    wish(tmp_path, "clear")
    for worker in workers:
        worker.beat(worker.own())
    assert [len(cache) for cache in caches] == [0, 0]
    assert workers[0].own().gauges["cache_entries"] == 0


durations = st.lists(st.floats(0, 20), max_size=50)


@given(mine=durations, theirs=durations)
def test_merged_histograms_are_one_of_all(mine, theirs):
    together, one, other = Histogram(), Histogram(), Histogram()
    for histogram, seconds in ((one, mine), (other, theirs), (together, mine + theirs)):
        for each in seconds:
            histogram.add(each)
    one.merge(other)
    assert (one.counts, one.longest, one.count) == (together.counts, together.longest, len(mine + theirs))
    assert one.total == pytest.approx(together.total)
    exact = sorted(mine + theirs)
    if exact:
        bound, true = one.quantile(0.5), exact[(len(exact) - 1) // 2]
        assert true <= bound or bound == one.longest
        assert bound <= min(one.longest, next((b for b in BOUNDS if b >= true), one.longest))
