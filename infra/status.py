"""What a home holds: folders, files, sources, groups and models, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from features.errors import TrackingError
from features.feature_group import FeatureGroup
from features.model import ModelSpec
from features.stores import ModelVersion
from features.times import as_utc
from infra.catalog import feature_facts, source_facts
from infra.ledger import Ledger
from infra.settings import Settings
from infra.storage.redis_address import RedisAddress
from infra.wiring import Platform

Rows = list[dict[str, Any]]
"""Rows of equal keys; None where there is nothing yet."""


def status(platform: Platform) -> dict[str, Rows]:
    """The tables ``home``, ``files``, ``sources``, ``groups`` and ``models``; sizes in bytes on disk.

    Nothing is written. MLflow is asked, and imported, only where a model may have been registered;
    isolate the environment before (``apply_isolation``).
    """
    registry = platform.store.registry
    return {
        "home": _places(platform),
        "files": _files(platform),
        "sources": [_source(platform, name) for name in registry.sources],
        "groups": [_group(platform, group) for group in registry.in_order()],
        "models": [_model(platform, spec) for spec in registry.models.values()],
    }


def _places(platform: Platform) -> Rows:
    settings = platform.settings
    places: dict[str, Path | str] = {
        "home": settings.home,
        "lake": settings.lake,
        "online store": _online_place(settings),
        "tracking": settings.mlflow_tracking_uri or settings.mlflow_db,
        "models": settings.mlflow_artifacts,
        "flow runs": settings.prefect_home,
        "reports": settings.reports,
        "landing": settings.landing,
    }
    return [{"what": what, "bytes": _size(place), "path": str(place)} for what, place in places.items()]


def _online_place(settings: Settings) -> Path | str:
    if settings.online == "redis" and settings.redis_url is not None:
        return RedisAddress.parse(settings.redis_url.get_secret_value()).shown
    return settings.online_path


def _size(place: Path | str) -> int | None:
    """Bytes that a file or folder takes up on the disk; None where it is elsewhere or not there."""
    path = Path(place)
    if "://" in str(place) or not path.exists():
        return None
    # Blocks, not lengths: the online store is a sparse file.
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_blocks * 512 for file in files if file.is_file())


def _files(platform: Platform) -> Rows:
    counted = Ledger(platform.lake).entries().group_by("status", maintain_order=True)
    return counted.agg(
        pl.len().alias("files"),
        pl.col("rows", "quarantined").sum(),
        pl.col("size").sum().alias("bytes"),
        pl.col("ingested_at").max().alias("last_ingested"),
    ).to_dicts()


def _source(platform: Platform, name: str) -> dict[str, Any]:
    offline = platform.store.offline
    table = source_facts(offline, platform.store.registry.source(name))
    return {
        "source": name,
        "rows": table.rows or 0,
        "delta_version": table.version,
        "newest_event": table.newest_event,
        "last_ingested": offline.last_ingested(name),
    }


def _group(platform: Platform, group: FeatureGroup) -> dict[str, Any]:
    """``last_plan`` is the newest plan that is done, ``online_plan`` the newest one that is online.

    ``held`` says where a rollback holds the group.
    """
    store, online = platform.store, platform.store.online
    hold = store.versions.hold(group.name)
    table = feature_facts(platform.store.offline, group)
    published = online.publications(group.table_id) if group.online else []
    return {
        "group": store.registry.name_of(group),
        "version": group.version,
        "held": None if hold is None else str(hold),
        "rows": table.rows or 0,
        "delta_version": table.version,
        "newest_event": table.newest_event,
        "last_plan": table.plan,
        "online_plan": online.watermark(group.table_id) if group.online else None,
        "online_entities": online.count(group.table_id) if group.online else None,
        "published_at": published[-1].published_at if published else None,
    }


def _model(platform: Platform, spec: ModelSpec) -> dict[str, Any]:
    settings = platform.settings
    version, note = None, f"there is no model {spec.name!r}: train it first"
    if settings.mlflow_tracking_uri is not None or settings.mlflow_db.exists():
        try:
            version = platform.tracker.model_version(spec.name)
        except TrackingError as error:  # says so in its row; the rest of the home is still told
            note = str(error)
    return {
        "model": spec.name,
        "champion": None if version is None else version.version,
        "trained_at": None if version is None else as_utc(version.manifest["now"]),
        "metrics": None if version is None else _main_metrics(spec, version),
        "run_id": None if version is None else version.run_id,
        "note": None if version is not None else note,
    }


def _main_metrics(spec: ModelSpec, version: ModelVersion) -> Mapping[str, float]:
    """The metrics that the specification names; all where it names none that was logged."""
    named = {name: version.metrics[name] for name in spec.metrics if name in version.metrics}
    return named or dict(version.metrics)
