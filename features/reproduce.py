"""Reproduction: a training set from the entity rows, versions and moment that its run kept, or what is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import polars as pl

from features.compute import stored_schema
from features.content_hash import content_hash
from features.description import fingerprint
from features.errors import FeatureFabError, NotRegistered, ReproductionError, StorageError, TrackingError
from features.feature_group import FeatureGroup
from features.feature_rows import EVENT
from features.feature_service import FeatureService
from features.registry import Registry
from features.retrieval import HistoricalRetrieval, TrainingSet, expression_mark
from features.stores import LoggedTrainingSet, OfflineStore, Tracker
from features.times import Clock

UNREADABLE = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises over a file that is missing, cut or of another kind."""


class RetrievalOf(Protocol):
    """Makes retrieval by some definitions, as one online store (``target``) would have answered."""

    def __call__(self, registry: Registry, *, target: str) -> HistoricalRetrieval:
        """The retrieval."""


class TrainingSets:
    """Keeps training sets with runs of the tracker, and rebuilds them."""

    def __init__(
        self, registry: Registry, offline: OfflineStore, retrieval: RetrievalOf, tracker: Tracker | None, clock: Clock
    ) -> None:
        self._registry = registry
        self._offline = offline
        self._retrieval = retrieval
        self._tracker = tracker
        self._clock = clock

    def log(self, training_set: TrainingSet, run_id: str | None = None) -> str:
        """Keep a training set with a run, or with a new one of its own; the run's id."""
        logged = LoggedTrainingSet(training_set.manifest, training_set.entity_rows)
        return self._known_tracker().log_training_set(logged, self._clock(), run_id)

    def reproduce(self, run_id: str) -> TrainingSet:
        """The training set of a run, rebuilt and equal by its content hash; else ReproductionError says why."""
        try:
            logged = self._known_tracker().training_set(run_id)
        except TrackingError as error:
            raise ReproductionError(f"run {run_id!r} cannot be reproduced: {error}") from error
        if content_hash(logged.entity_rows) != logged.manifest["entity_hash"]:
            raise ReproductionError(f"run {run_id!r} cannot be reproduced: its entity rows are not those it was given")
        try:
            rebuilt = self._rebuilt(logged)
        except (FeatureFabError, *UNREADABLE) as error:
            reasons = [*self._differences(logged.manifest)] or [str(error).splitlines()[0]]
            raise ReproductionError(f"run {run_id!r} cannot be reproduced: {'; '.join(reasons)}") from error
        if rebuilt.manifest["content_hash"] == logged.manifest["content_hash"]:
            return rebuilt
        unknown = "its definitions and the versions of its tables are the same: were files of a table changed?"
        reasons = [*self._differences(logged.manifest)] or [unknown]
        raise ReproductionError(f"run {run_id!r} was rebuilt with another content: {'; '.join(reasons)}")

    def _known_tracker(self) -> Tracker:
        if self._tracker is None:
            raise TrackingError("this store has no tracker: open it with connect, or hand one to FeatureStore")
        return self._tracker

    def _rebuilt(self, logged: LoggedTrainingSet) -> TrainingSet:
        manifest = logged.manifest
        groups: Mapping[str, Mapping[str, Any]] = manifest["groups"]
        registry = self._registry.at({head: _major(f) for head, f in groups.items() if "@" not in head})
        asked = manifest["features"] if manifest["service"] is None else _service_then(registry, manifest, logged)
        pins = {head: facts["table_version"] for head, facts in groups.items()}
        pins |= {f"{head}:pushed": facts["pushed"] for head, facts in groups.items() if facts.get("pushed") is not None}
        # Version 0 of a table has no rows: what was answered before the first publication must not see it.
        log_version = manifest["publish_log_version"] or 0
        moment = datetime.fromisoformat
        retrieval = self._retrieval(registry, target=manifest["target"])
        how = {
            "full_feature_names": manifest["full_feature_names"],
            "history": manifest["history"],
            "pins": {**pins, "publish_log": log_version},
            "now": moment(manifest["now"]),
        }
        if "start" in manifest:  # it had no list of moments
            start, end = moment(manifest["start"]), moment(manifest["end"])
            return retrieval.between(asked, start, end, entities=logged.entity_rows, **how)
        return retrieval.get(logged.entity_rows, asked, event_timestamp=manifest["event_timestamp"], **how)

    def _differences(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """What is not as the manifest says, one sentence each."""
        for head, facts in manifest["groups"].items():
            was = f"feature group {head!r} {facts['version']}"
            try:
                group = self._registry.group(f"{head.partition('@')[0]}@{_major(facts)}")
            except NotRegistered:
                yield f"{was} is defined no more"
                continue
            yield from _changes(was, group, facts)
            if not self._readable(group, facts["table_version"]):
                yield f"version {facts['table_version']} of table {group.table_id!r} is gone, which {was} was read at"
        if not self._log_readable(manifest):
            yield f"version {manifest['publish_log_version']} of the publish log is gone"
        yield from self._changed_derived(manifest)

    def _changed_derived(self, manifest: Mapping[str, Any]) -> Iterator[str]:
        """What is not as it was of a service and its derived features; a group's are in its fingerprint."""
        name = manifest["service"]
        if name is None:
            return
        service = self._registry.services.get(name)
        if service is None:
            yield f"feature service {name!r} is defined no more"
            return
        now = {f.name: expression_mark(f.expr) for f in service.derived}
        for feature, mark in manifest["derived"].items():
            if feature not in now:
                yield f"derived feature {feature!r} of service {name!r} is defined no more"
            elif now[feature] != mark:
                yield f"derived feature {feature!r} of service {name!r} has another expression"

    def _log_readable(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the publish log's version and the files that speak of these groups are there."""
        version = manifest["publish_log_version"]
        tables = [f"{head.partition('@')[0]}/v{_major(facts)}" for head, facts in manifest["groups"].items()]
        return version is None or _works(lambda: [self._offline.publications(table, version) for table in tables])

    def _readable(self, group: FeatureGroup, version: int) -> bool:
        """Whether a version of a group's table and all its files are there."""
        if not self._offline.has_feature_table(group.table_id):
            return False
        table = self._offline.feature_table(group.table_id, stored_schema(group), group.keys)
        return _works(lambda: table.scan(version).select(pl.col(EVENT).max()).collect())


def _major(facts: Mapping[str, Any]) -> int:
    return int(facts["version"].split(".")[0])


def _service_then(registry: Registry, manifest: Mapping[str, Any], logged: LoggedTrainingSet) -> FeatureService:
    """The service without what was added to it since."""
    service = registry.service(manifest["service"])
    return replace(
        service,
        features=manifest["features"],
        derived=[feature for feature in service.derived if feature.name in manifest["derived"]],
        request={n: dtype for n, dtype in (service.request or {}).items() if n in logged.entity_rows.columns},
    )


def _changes(was: str, group: FeatureGroup, facts: Mapping[str, Any]) -> Iterator[str]:
    if fingerprint(group) != facts["fingerprint"]:
        yield f"{was} had another definition (fingerprint) than {group.version} has now"
    if group.ttl != facts["ttl"]:
        yield f"{was} had ttl {facts['ttl']}, it has {group.ttl} now"


def _works(read: Callable[[], object]) -> bool:
    try:
        read()
    except (StorageError, *UNREADABLE):
        return False
    return True
