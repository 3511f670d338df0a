"""Lineage with what only the platform knows: which model versions there are, and what they predicted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from features.errors import TrackingError
from features.lineage import Edge, Lineage, Node, lineage
from features.stores import ModelVersion
from infra.wiring import Platform


def platform_lineage(platform: Platform, ref: str) -> Lineage:
    """``FeatureStore.lineage`` with model versions ("wafer_yield@3") and their predictions.

    The versions are the champion and those that predicted. Raises NotRegistered for an unknown reference.
    """
    registry = platform.store.registry
    base = ref.removeprefix("predictions/").partition("@")[0]
    if base in registry.models:
        models = [base]
    else:
        models = [node.name for node in platform.store.lineage(ref).nodes if node.kind == "model"]
    return lineage(registry, ref, [edge for name in models for edge in _runs(platform, name)])


def _runs(platform: Platform, name: str) -> Iterator[Edge]:
    """From a model to its versions, and from these to its predictions."""
    champion = _champion(platform, name)
    log = platform.lake.scan_log(f"predictions/{name}")
    answered: Mapping[str, Mapping[str, Any]] = {}
    if log is not None:
        counted = log.group_by("model_version", "run_id").agg(pl.len().alias("rows"), pl.col("predicted_at").max())
        answered = {row["model_version"]: row for row in counted.collect().sort("predicted_at").to_dicts()}
    for version in dict.fromkeys([*answered, *([champion.version] if champion else [])]):
        run = answered.get(version)
        said = _trained(champion) if champion and champion.version == version else []
        said += [f"{run['rows']:,} predictions, the last at {run['predicted_at']:%F %T}"] if run else []
        run_id = run["run_id"] if run else champion.run_id if champion else ""
        node = Node("model version", f"{name}@{version}", "; ".join([f"run {run_id}", *said]))
        yield Edge(Node("model", name), node, "run")
        if run:
            yield Edge(node, Node("predictions", f"predictions/{name}"), "run")


def _champion(platform: Platform, name: str) -> ModelVersion | None:
    settings = platform.settings
    if settings.mlflow_tracking_uri is None and not settings.mlflow_db.exists():
        return None  # asking would make the database
    try:
        return platform.tracker.model_version(name)
    except TrackingError:  # never trained, or not to be asked: what the definitions say stands all the same
        return None


def _trained(champion: ModelVersion) -> list[str]:
    """What the manifest says that a champion was trained on."""
    groups = champion.manifest.get("groups", {})
    tables = [
        f"{group} {facts['version']} at table version {facts['table_version']}" for group, facts in groups.items()
    ]
    return [
        ", ".join(champion.aliases),
        f"trained on {champion.manifest.get('rows', 0):,} rows of " + ", ".join(tables),
    ]
