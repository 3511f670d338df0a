"""Model runs on a real lake, online store and tracker: when a training is another one, and what scoring keeps."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from sklearn.linear_model import LinearRegression

from features import Entity, Feature, FeatureGroup, FeatureService, FeatureStore, ModelSpec, Registry, Source
from infra.model_runs import judged, score, train
from infra.storage.delta import DeltaLake
from infra.storage.memory_store import MemoryOnlineStore
from infra.tracking import MlflowTracker

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ABOUT = {"owner": "o", "description": "d"}
card = Entity("card", keys={"card_id": pl.Int64})
payments = Source("payments", {"card_id": pl.Int64, "x": pl.Float64, "y": pl.Float64, "at": pl.Datetime}, "at")
inputs = FeatureGroup("inputs", "1.0.0", card, payments, [Feature("x", pl.col("x"))], grain="event", **ABOUT)
labels = FeatureGroup(
    "labels", "1.0.0", card, payments, [Feature("y", pl.col("y"))], grain="event", online=False, **ABOUT
)
service = FeatureService("service", [inputs], **ABOUT)
spec = ModelSpec("model", service, "labels:y", LinearRegression(), label_delay="1h", **ABOUT)


def test_a_training_of_other_terms_is_another_and_every_night_keeps_its_predictions(tmp_path):
    moment = [T0 + 60 * HOUR]
    lake = DeltaLake(tmp_path / "lake")
    store = FeatureStore(Registry([labels, spec]), lake, MemoryOnlineStore(), clock=lambda: moment[0])
    times = [T0 + i * HOUR for i in range(60)]
    values = [float(i) for i in range(60)]
    store.write_source(payments, pl.DataFrame({"card_id": range(60), "x": values, "y": values, "at": times}))
    for group in (inputs, labels):
        store.materialize(group, T0, moment[0])
    store.sync(inputs)
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    first = train(store, tracker, spec).version
    assert train(store, tracker, spec).version == first
    assert train(store, tracker, replace(spec, embargo="5h")).version != first
    for hour in (62, 61):  # a night that was missed is made up for later
        moment[0] = T0 + hour * HOUR
        assert score(store, tracker, lake, spec, T0, T0 + 10 * HOUR).rows == 10
    kept = lake.scan_log(f"predictions/{spec.name}").collect()
    assert kept["predicted_at"].unique().sort().to_list() == [T0 + 61 * HOUR, T0 + 62 * HOUR]
    found = judged(store, lake, spec)
    assert found["predicted_at"].unique().to_list() == [T0 + 61 * HOUR]  # each moment is judged once
    assert found["label"].null_count() == 0
    assert found.height == 10
