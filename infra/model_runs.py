"""Model runs: train a model on point-in-time examples, and ask a registered one about recent entities."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from features.errors import TrackingError
from features.examples import LABELLED_AT, examples
from features.feature_rows import EVENT
from features.model import ModelSpec
from features.source import BOOKKEEPING
from features.store import FeatureStore, ingestion_stamp
from features.stores import ModelVersion, Tracker
from features.times import UTC_US, to_micros
from features.training import fit, predict
from infra.storage.delta import DeltaLake
from infra.tracking import TRAINING_KEY

SAMPLE_ROWS = 100


@dataclass(frozen=True)
class Scored:
    """What a model answered for some entities: how many, and by which version."""

    model: str
    version: str
    rows: int


def train(store: FeatureStore, tracker: Tracker, spec: ModelSpec) -> ModelVersion:
    """Train a model on what its features would have been answered, and register it.

    The same data, definition and moment give the version that is registered already. Raises
    TrainingError where the examples do not suffice, IncompatibleFeatureVersion where less is applied than
    the model requires.
    """
    store.versions.require(spec)
    spine = examples(store, spec).filter(pl.col(EVENT) <= store.now())  # later ones cannot be answered yet
    asked = store.get_historical_features(spine, spec.service)
    names = list(asked.features)
    fitted = fit(spec, asked.to_polars(), names, now=store.now(), statuses=asked.statuses)
    manifest = {
        **asked.manifest,
        "model": spec.name,
        "label": {"ref": spec.label, **store.provenance(spec.label_ref.head)},
        "predict_after": spec.predict_after,
        "label_delay": spec.label_delay,
    }
    key = {
        "content": manifest["content_hash"],
        "model": spec.name,
        # In full: by itself the text of a long pipeline leaves its middle out.
        "estimator": spec.estimator.__repr__(N_CHAR_MAX=10**6),
        "times": [spec.predict_after, spec.label_delay, str(spec.embargo_span)],
        # More labels become known as time passes: other examples, another model.
        "examples": [fitted.n_train, fitted.n_test, fitted.cutoff.isoformat(), dict(fitted.left_out)],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    params = {"service": spec.service.name, "label": spec.label, "estimator": type(spec.estimator).__name__}
    return tracker.log_training(
        spec.name,
        fitted.model,
        params={**params, **fitted.facts},
        metrics=fitted.metrics,
        manifest=manifest,
        entity_rows=asked.entity_rows,
        sample=asked.to_polars().select(names).head(SAMPLE_ROWS),
        trained_at=store.now(),
        tags={TRAINING_KEY: digest, "requires": json.dumps(list(spec.requires)), "owner": spec.owner},
    )


def score(
    store: FeatureStore, tracker: Tracker, lake: DeltaLake, spec: ModelSpec, start: datetime, end: datetime
) -> Scored:
    """Ask the champion about the entities labelled in [start, end), with the features online now.

    The predictions are kept in ``predictions/<model>``, once per model and moment, where groups can read them
    (``ModelSpec.predictions``).
    """
    store.versions.require(spec)
    version = tracker.model_version(spec.name)
    asked = examples(store, spec, start, end)
    if asked.is_empty():
        return Scored(spec.name, version.version, 0)
    entities = asked.drop(EVENT, LABELLED_AT, spec.label_ref.feature)
    answer = store.get_online_features(spec.service, entities, defaults=False)
    names = list(answer.values)
    found = answer.to_polars()
    available = pl.any_horizontal(pl.col(f"{n}__status") != "NOT_FOUND" for n in names)
    predicted = predict(tracker.load_model(spec.name, version.version), found, names)
    group = store.versions.current().group(spec.label_ref.head)
    rows = found.select(*group.keys, available.alias("_answered")).with_columns(
        asked[LABELLED_AT].alias(EVENT),
        predicted.alias("prediction"),
        pl.lit(store.now(), UTC_US).alias("predicted_at"),
        pl.lit(version.version).alias("model_version"),
        pl.lit(version.run_id).alias("run_id"),
    )
    rows = rows.filter("_answered")
    if not rows.is_empty():
        source = spec.predictions(group.entity)
        rows = source.taken_in(rows, ingestion_stamp(lake, source.name, store.now()))
        # An id for each moment: they need not come in order, as when a night is run again for a past one.
        app_id, dtypes = f"score:{to_micros(store.now())}", {**source.dtypes, **BOOKKEEPING}
        lake.append_source(source.name, rows, app_id=app_id, number=1, dtypes=dtypes)
    return Scored(spec.name, version.version, rows.height)


def judged(store: FeatureStore, lake: DeltaLake, spec: ModelSpec) -> pl.DataFrame:
    """Every prediction with its label: keys, event_timestamp, prediction, model_version, label (or null).

    Asked again about the same moment, a model version is judged by its first answer alone.
    """
    label = spec.label_ref
    group = store.versions.current().group(label.head)
    source = spec.predictions(group.entity)
    predictions = lake.scan_source(source.name)
    truth = store.current_rows(group).select(*group.keys, EVENT, pl.col(label.feature).alias("label"))
    if predictions is None:
        predictions = pl.LazyFrame(schema=source.dtypes)
    asked = [*group.keys, EVENT, "model_version"]
    predictions = predictions.select(*source.dtypes).sort("predicted_at")
    predictions = predictions.unique(subset=asked, keep="first", maintain_order=True)
    return predictions.join(truth, on=[*group.keys, EVENT], how="left").collect()


def untrained(store: FeatureStore, tracker: Tracker) -> list[str]:
    """The models that have no registered version yet."""
    missing = []
    for name in store.registry.models:
        try:
            tracker.model_version(name)
        except TrackingError:
            missing.append(name)
    return missing
