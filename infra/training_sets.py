"""Training sets in MLflow: a run keeps the manifest, the entity rows, and the tags that it is found by."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import TrackingError
from features.stores import LoggedTrainingSet
from infra.mlflow_client import load_mlflow

MANIFEST_HASH = "featurefab.manifest_sha256"
"""The tag of every run, and every registered version, that a training set stands behind."""

RECOVER = "restore it from a backup, or train again"

_MANIFEST = "manifest.json"
_ENTITY_ROWS = "entity_rows.parquet"
_PAGE = 1000


def lineage_tags(who: str, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a manifest says, as the tags that runs and model versions are found by."""
    try:
        groups = manifest["groups"]
        return {
            "required_features": canonical_json(manifest["features"]),
            "feature_groups": ",".join(groups),
            "feature_versions": canonical_json({group: facts["version"] for group, facts in groups.items()}),
            "delta_versions": canonical_json({group: facts["table_version"] for group, facts in groups.items()}),
            "publish_log_version": str(manifest["publish_log_version"]),
            "history": str(manifest["history"]),
            "rows": str(manifest["rows"]),
            "content_hash": str(manifest["content_hash"]),
            MANIFEST_HASH: _sha256(canonical_json(manifest)),
        }
    except KeyError as error:
        raise TrackingError(f"{who}: the manifest lacks {error}: log that of the training set") from error
    except TypeError as error:
        raise TrackingError(f"{who}: the manifest does not fit into JSON: {error}") from error


def keep(
    client: Any, run_id: str, name: str, logged: LoggedTrainingSet, tags: Mapping[str, str], sample: pl.DataFrame
) -> None:
    """Keep manifest and entity rows as artifacts, the training set as the run's dataset input, and its tags."""
    mlflow, manifest = load_mlflow(), logged.manifest
    client.log_text(run_id, canonical_json(manifest), _MANIFEST)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, _ENTITY_ROWS)
        logged.entity_rows.write_parquet(file, compression="zstd")
        client.log_artifact(run_id, str(file))
    source = mlflow.data.code_dataset_source.CodeDatasetSource({"manifest": f"runs:/{run_id}/{_MANIFEST}"})
    # MLflow keeps 36 characters of a digest; the tag content_hash has them all.
    digest = str(manifest["content_hash"])[:36]
    described = mlflow.data.from_polars(sample, source, name=f"{name}_training_set", digest=digest).to_dict()
    described["profile"] = canonical_json(
        {"num_rows": manifest["rows"], "num_elements": manifest["rows"] * sample.width}
    )
    context = mlflow.entities.InputTag("mlflow.data.context", "training")
    dataset = mlflow.entities.DatasetInput(mlflow.entities.Dataset(**described), [context])
    client.log_inputs(run_id, datasets=[dataset])
    # Last: a run that has the tags keeps all there is to keep.
    client.log_batch(run_id, tags=[mlflow.entities.RunTag(k, v) for k, v in tags.items()])


def manifest_of(client: Any, run_id: str, expected: str | None, who: str) -> dict[str, Any]:
    """The manifest that a run keeps; TrackingError, which begins with ``who``, if it is not the one of that hash."""
    try:
        text = Path(client.download_artifacts(run_id, _MANIFEST)).read_text(encoding="utf-8")
    except OSError as error:
        raise TrackingError(f"{who}: the manifest of run {run_id} is gone: {RECOVER}") from error
    if _sha256(text) != expected:
        raise TrackingError(f"{who}: the manifest of run {run_id} is not the one that was logged: {RECOVER}")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


def kept(client: Any, run_id: str) -> LoggedTrainingSet:
    """The training set that a run keeps; TrackingError where it keeps none."""
    who, mark = f"run {run_id!r}", client.get_run(run_id).data.tags.get(MANIFEST_HASH)
    if mark is None:
        raise TrackingError(f"{who} keeps no training set: name the run of a training or of a logged training set")
    manifest = manifest_of(client, run_id, mark, who)
    try:
        rows = pl.read_parquet(client.download_artifacts(run_id, _ENTITY_ROWS))
    except (OSError, pl.exceptions.ComputeError) as error:
        raise TrackingError(f"{who}: its entity rows, {_ENTITY_ROWS}, cannot be read: {RECOVER}") from error
    return LoggedTrainingSet(manifest, rows)


def all_manifests(client: Any) -> Iterator[dict[str, Any]]:
    """The manifest of every registered model version and of every run that was not deleted."""
    marks = {v.run_id: v.tags.get(MANIFEST_HASH) for v in pages(client.search_model_versions)}
    experiments = [e.experiment_id for e in pages(client.search_experiments)]
    with_a_set = f"tags.`{MANIFEST_HASH}` != ''"
    runs = pages(lambda **page: client.search_runs(experiments, with_a_set, **page)) if experiments else ()
    marks |= {run.info.run_id: run.data.tags[MANIFEST_HASH] for run in runs}
    for run_id, mark in marks.items():
        if mark is not None:  # else a model that somebody registered by other means
            yield manifest_of(client, run_id, mark, f"run {run_id!r}")


def canonical_json(value: Any) -> str:
    """JSON of which equal values have equal text, and so equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def pages(search: Any) -> Iterator[Any]:
    """Everything that a search finds, page by page."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
