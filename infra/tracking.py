"""Experiment tracking and model registry: MLflow on a database behind ``features.stores.Tracker``.

MLflow is driven through clients with explicit addresses, never through its process-wide state, and
models are kept in the skops format: loading one runs no code but the types listed here.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import TrackingError
from features.stores import LoggedTrainingSet, ModelVersion
from features.times import to_micros
from infra.mlflow_client import MlflowConnection, load_mlflow
from infra.training_sets import MANIFEST_HASH, RECOVER, all_manifests, keep, kept, lineage_tags, manifest_of, pages

CHAMPION = "champion"
"""The alias of the version that predicts."""

TRAINING_KEY = "featurefab.training_key"
"""The tag that makes logging exactly once: a hash of manifest and specification."""

TRUSTED_TYPES = (
    "numpy.dtype",  # in scalers and linear models
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""The types a stored model may hold beyond those that skops trusts by itself; none can call anything else."""

_MODEL_HASH = "featurefab.model_sha256"
_MODEL_FILE = "model.skops"
_TRAINING_SETS = "training-sets"
_PACKAGES = ("scikit-learn", "skops", "numpy", "pandas")


class MlflowTracker:
    """``features.stores.Tracker`` on an MLflow database (``sqlite:///...``) and a folder of artifacts.

    Making one costs nothing: MLflow is imported, and the database made, by the first call. Models get
    an experiment each, named like them, whose artifacts lie in ``artifact_root/<name>``. Several
    trackers may share a database. Every method raises TrackingError for whatever MLflow raises.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        self._uri = tracking_uri
        self._root = artifact_root
        self._mlflow = MlflowConnection(tracking_uri)

    def log_training(
        self,
        name: str,
        model: Any,
        *,
        params: Mapping[str, Any],
        metrics: Mapping[str, float],
        manifest: Mapping[str, Any],
        entity_rows: pl.DataFrame,
        sample: pl.DataFrame,
        trained_at: datetime,
        tags: Mapping[str, str],
    ) -> ModelVersion:
        """Log one training run and register its model under ``name`` with the alias "champion".

        ``manifest`` and ``entity_rows`` are those of the training set, ``sample`` some of its feature
        columns' rows in the order the model takes them, ``trained_at`` the run's start and end. With a tag
        ``featurefab.training_key``, a training that was registered before is not logged again: its
        version is returned. A run of that key which never got so far is closed as KILLED.
        """
        with self._mlflow.session(f"the training of model {name!r} cannot be logged") as client:
            lineage = lineage_tags(f"model {name!r}", manifest)
            trusted = _needed_types(name, model)
            key = tags.get(TRAINING_KEY)
            found = _registered(client, name, key)
            if found is None:
                facts = {"trained_at": trained_at.isoformat(), **tags}
                experiment = _experiment(client, name, self._root)
                _abandon(client, experiment, key)
                run_id: str = client.create_run(experiment, _millis(trained_at), facts, name).info.run_id
                try:
                    _log_facts(client, run_id, {**_shown(lineage), **params}, metrics, trained_at)
                    keep(client, run_id, name, LoggedTrainingSet(manifest, entity_rows), lineage, sample)
                    location, facts[_MODEL_HASH] = _log_model(client, experiment, run_id, name, model, sample, trusted)
                    found = client.create_model_version(name, location, run_id, {**lineage, **facts})
                except Exception:
                    client.set_terminated(run_id, "FAILED", _millis(trained_at))
                    raise
            _finish(client, found)
            return _described(client, client.get_model_version(name, found.version))

    def log_training_set(self, logged: LoggedTrainingSet, at: datetime, run_id: str | None = None) -> str:
        """Keep a training set with a run, or with a new one that stands for it alone; the run's id.

        A new run begins and ends at the moment ``at``. Raises TrackingError where the run keeps a training
        set already.
        """
        with self._mlflow.session("the training set cannot be logged") as client:
            tags = lineage_tags("the training set", logged.manifest)
            if run_id is not None and MANIFEST_HASH in client.get_run(run_id).data.tags:
                raise TrackingError(f"run {run_id!r} keeps a training set already: log this one with another run")
            found = run_id
            if found is None:
                experiment = _experiment(client, _TRAINING_SETS, self._root)
                found = str(client.create_run(experiment, _millis(at), run_name=_TRAINING_SETS).info.run_id)
            keep(client, found, "logged", logged, tags, logged.entity_rows.head(1))
            if run_id is None:
                client.set_terminated(found, "FINISHED", _millis(at))
            return found

    def training_set(self, run_id: str) -> LoggedTrainingSet:
        """The training set that a run keeps. Raises TrackingError if there is no such run, or it keeps none."""
        with self._mlflow.session(f"run {run_id!r} cannot be looked up") as client:
            return kept(client, run_id)

    def manifests(self) -> list[Mapping[str, Any]]:
        """The manifest of every registered model version and of every run that keeps a training set."""
        with self._mlflow.session("the logged training sets cannot be listed") as client:
            return list(all_manifests(client))

    def registered_models(self) -> list[ModelVersion]:
        """Every version of every registered model that was logged by ``log_training``; makes no database."""
        if self._mlflow.is_empty():
            return []
        with self._mlflow.session("the registered models cannot be listed") as client:
            versions = [found for found in pages(client.search_model_versions) if MANIFEST_HASH in found.tags]
            # Looked up one by one: a search leaves the aliases out.
            return [_described(client, _find(client, found.name, str(found.version))) for found in versions]

    def model_version(self, name: str, version: str | None = None) -> ModelVersion:
        """A registered version; None means the champion. Raises TrackingError if there is none."""
        with self._mlflow.session(f"model {name!r} cannot be looked up") as client:
            return _described(client, _find(client, name, version))

    def load_model(self, name: str, version: str | None = None) -> Any:
        """The fitted estimator of a registered version.

        Raises TrackingError for a model that holds any type but those skops or ``TRUSTED_TYPES`` name.
        """
        with self._mlflow.session(f"model {name!r} cannot be loaded") as client:
            found = _find(client, name, version)
            folder = load_mlflow().artifacts.download_artifacts(artifact_uri=found.source, tracking_uri=self._uri)
            file, who = Path(folder) / _MODEL_FILE, f"model {name!r} version {found.version}"
            content = file.read_bytes()
            if hashlib.sha256(content).hexdigest() != found.tags.get(_MODEL_HASH):
                raise TrackingError(f"{who}: {file} is not the model that was logged: {RECOVER}")
            skops = import_module("skops.io")
            _check_types(who, skops.get_untrusted_types(data=content))
            return skops.loads(content, trusted=list(TRUSTED_TYPES))


def _shown(lineage: Mapping[str, str]) -> dict[str, str]:
    """The tags that are parameters, too: runs are compared by parameters and searched for by tags."""
    return {k: lineage[k] for k in ("feature_groups", "feature_versions", "delta_versions", "history")}


def _log_facts(
    client: Any, run_id: str, params: Mapping[str, Any], metrics: Mapping[str, float], trained_at: datetime
) -> None:
    """Parameters and metrics in one transaction."""
    entities = load_mlflow().entities
    client.log_batch(
        run_id,
        metrics=[entities.Metric(k, v, _millis(trained_at), 0) for k, v in metrics.items()],
        params=[entities.Param(k, str(v)) for k, v in params.items()],
    )


def _log_model(
    client: Any, experiment: str, run_id: str, name: str, model: Any, sample: pl.DataFrame, trusted: list[str]
) -> tuple[str, str]:
    """Keep the model as a logged model of the run; returns where it lies and its SHA-256."""
    mlflow = load_mlflow()
    logged = client.create_logged_model(experiment, name, run_id)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.sklearn.save_model(
            model,
            f"{folder}/model",
            mlflow_model=mlflow.models.Model(
                artifact_path=logged.artifact_location, run_id=run_id, model_id=logged.model_id
            ),
            serialization_format="skops",
            skops_trusted_types=trusted,
            signature=_signature(sample),
            # Given, or MLflow would find out by loading the model in another process: half a minute.
            pip_requirements=[f"{package}=={installed(package)}" for package in _PACKAGES],
            pyfunc_predict_fn="predict_proba" if hasattr(model, "predict_proba") else "predict",
        )
        digest = hashlib.sha256(Path(folder, "model", _MODEL_FILE).read_bytes()).hexdigest()
        client.log_model_artifacts(logged.model_id, f"{folder}/model")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    # Not models:/<id>: that, the registry resolves through MLflow's process-wide address.
    return logged.artifact_location, digest


def _signature(sample: pl.DataFrame) -> Any:
    """Input columns as ``features.training.prepare_features`` makes them, each of which may be missing."""
    mlflow = load_mlflow()
    text = (pl.String, pl.Categorical, pl.Enum)
    columns = [
        mlflow.types.ColSpec("string" if dtype in text else "double", column, required=False)
        for column, dtype in sample.schema.items()
    ]
    outputs = mlflow.types.Schema([mlflow.types.ColSpec("double")])
    return mlflow.models.ModelSignature(mlflow.types.Schema(columns), outputs)


def _needed_types(name: str, model: Any) -> list[str]:
    """The types beyond skops' own that this model needs; TrackingError if one is not trusted."""
    skops = import_module("skops.io")  # as slow as scikit-learn, and needed with MLflow only
    needed: list[str] = skops.get_untrusted_types(data=skops.dumps(model))
    _check_types(f"model {name!r}", needed)
    return needed


def _check_types(who: str, types: list[str]) -> None:
    refused = sorted(set(types) - set(TRUSTED_TYPES))
    if refused:
        raise TrackingError(
            f"{who} holds {refused}, which could run code when it is loaded: build it from scikit-learn's tree "
            f"ensembles, linear models, imputers, scalers and encoders, without functions of your own"
        )


def _experiment(client: Any, name: str, root: Path) -> str:
    """The id of a model's experiment, made when it is missing."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, (root / name).resolve().as_uri()))
        except load_mlflow().MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    return str(found.experiment_id)


def _registered(client: Any, name: str, key: str | None) -> Any:
    """The version of a training key, if there is one; makes the registered model when it is missing."""
    try:
        client.create_registered_model(name)
    except load_mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{name}'") if key else []
    return next((v for v in versions if v.tags.get(TRAINING_KEY) == key), None)


def _abandon(client: Any, experiment: str, key: str | None) -> None:
    """Close the runs of a training that was killed before it registered its model."""
    if key is None:
        return
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if run.data.tags.get(TRAINING_KEY) == key:
            client.set_terminated(run.info.run_id, "KILLED", run.info.start_time)


def _finish(client: Any, found: Any) -> None:
    """Close the run of a registered version, and make it the champion unless a newer one is."""
    run = client.get_run(found.run_id)
    if run.info.status == "RUNNING":
        client.set_terminated(found.run_id, "FINISHED", run.info.start_time)
    champion = client.get_registered_model(found.name).aliases.get(CHAMPION)
    if champion is None or int(champion) < int(found.version):
        client.set_registered_model_alias(found.name, CHAMPION, found.version)


def _find(client: Any, name: str, version: str | None) -> Any:
    mlflow_error = load_mlflow().MlflowException
    try:
        if version is None:
            return client.get_model_version_by_alias(name, CHAMPION)
        return client.get_model_version(name, version)
    except mlflow_error as error:
        try:
            newest = [int(v.version) for v in client.get_registered_model(name).latest_versions]
        except mlflow_error:
            newest = []
        if not newest:
            raise TrackingError(f"there is no model {name!r}: train it first") from error
        which = CHAMPION if version is None else f"version {version!r}"
        raise TrackingError(f"model {name!r} has no {which}: its newest version is {max(newest)}") from error


def _described(client: Any, found: Any) -> ModelVersion:
    """A registered version with the facts of its run; the manifest must be the one that was logged."""
    run = client.get_run(found.run_id)
    who = f"model {found.name!r} version {found.version}"
    manifest = manifest_of(client, found.run_id, found.tags.get(MANIFEST_HASH), who)
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        run_id=found.run_id,
        aliases=tuple(found.aliases),
        metrics=dict(run.data.metrics),
        params=dict(run.data.params),
        manifest=manifest,
    )


def _millis(moment: datetime) -> int:
    return to_micros(moment) // 1000
