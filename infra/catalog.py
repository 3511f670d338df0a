"""The catalog: what an auditor asks of a definition, read from the registry and the tables.

Nothing is written: asking about a group neither applies its definition nor makes a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

import polars as pl

from features.compute import stored_schema
from features.description import fingerprint
from features.entity import DataType, Entity
from features.errors import NotRegistered
from features.feature_group import REQUEST_TIMESTAMP, Feature, FeatureGroup
from features.feature_rows import EVENT, PLAN
from features.feature_service import FeatureService, Ref
from features.fingerprint import source_text
from features.model import ModelSpec, Predictions
from features.registry import Registry
from features.source import Source
from features.store import FeatureStore
from features.stores import OfflineStore
from features.times import UTC_US
from infra.catalog_lineage import entered, readers_of_columns, source_columns

Facts = dict[str, Any]
"""Scalars, and lists of rows (dicts of equal keys) that read as tables."""

NEVER = "never"
"""Instead of a moment or version, where a thing has not happened yet."""


@dataclass(frozen=True)
class TableFacts:
    """What a table holds: rows, corrections included, its Delta version, newest event time and closed plan.

    All None where there is no table.
    """

    rows: int | None = None
    version: int | None = None
    newest_event: datetime | None = None
    plan: int | None = None


def describe(store: FeatureStore, ref: str) -> Facts:
    """Everything known of a group, a feature ("group:feature"), service, model, source or entity.

    Raises NotRegistered naming the nearest references there are, DefinitionError where ``ref`` is none.
    """
    registry = store.registry
    if ":" in ref:
        return _describe_feature(store, _resolved(registry, ref))
    kinds: Sequence[tuple[Mapping[str, Any], Callable[[FeatureStore, Any], Facts]]] = (
        (registry.groups, _describe_group),
        (registry.services, _describe_service),
        (registry.models, _describe_model),
        (registry.sources, _describe_source),
        (registry.entities, _describe_entity),
    )
    found = [facts_of(store, known[ref]) for known, facts_of in kinds if ref in known]
    if not found:
        raise _unknown(registry, ref)
    also = ", ".join(facts["kind"] for facts in found[1:])
    return found[0] | ({"also the name of a": also} if also else {})


def feature_facts(offline: OfflineStore, group: FeatureGroup) -> TableFacts:
    """What a group's table holds, rows of closed plans only."""
    if not offline.has_feature_table(group.table_id):
        return TableFacts()
    # The keys alone: to name features that the table has not got would add them to it.
    table = offline.feature_table(group.table_id, {k: group.entity.keys[k] for k in group.keys}, group.keys)
    state = table.state()
    rows = table.scan(state.version).filter(pl.col(PLAN) <= state.closed)
    count, newest = rows.select(pl.len(), pl.col(EVENT).max()).collect().row(0)
    return TableFacts(count, state.version, newest, state.closed)


def source_facts(offline: OfflineStore, source: Source) -> TableFacts:
    """What a source's table holds."""
    version = offline.source_version(source.name)
    frame = offline.scan_source(source.name, version)
    if frame is None:
        return TableFacts()
    count, newest = frame.select(pl.len(), pl.col(source.event_timestamp).max()).collect().row(0)
    return TableFacts(count, version, newest)


def _resolved(registry: Registry, ref: str) -> Ref:
    parsed = Ref.parse(ref)
    majors = registry.majors(parsed.group)
    meant = [group for group in majors if parsed.major in (None, group.major)] or majors
    if not any(parsed.feature in _features(group) for group in meant):
        raise _unknown(registry, ref)
    return registry.resolve([ref])[0]  # which knows about majors


def _unknown(registry: Registry, ref: str) -> NotRegistered:
    names: list[str] = [*registry.groups, *registry.services, *registry.models, *registry.sources, *registry.entities]
    if ":" in ref:
        names = [f"{group.name}:{name}" for group in registry.groups.values() for name in _features(group)]
    nearest = get_close_matches(ref, names, n=3, cutoff=0)
    return NotRegistered(f"{ref!r} is not registered; the nearest: {', '.join(nearest) or 'none'}")


def _describe_group(store: FeatureStore, group: FeatureGroup) -> Facts:
    applied = store.offline.definitions().filter(pl.col("name") == group.name).sort("applied_at")
    registry_name = store.registry.name_of(group)
    return {
        "kind": "feature group",
        "name": group.name,
        "description": group.description,
        "owner": group.owner,
        "version": group.version,
        **_entity_facts(group.entity),
        **_timing(group),
        "on_conflict": group.on_conflict,
        "online": group.online,
        "inputs": ", ".join(origin.name for origin in group.inputs.values()),
        "prepare_by": ", ".join(group.prepare_by) or None,
        "prepare": source_text(group.prepare) if group.prepare else None,
        "fingerprint": fingerprint(group),
        "definition": _agreement(applied, group),
        **_standing(store.offline, group),
        "features": [_feature_row(group, feature) for feature in group.features],
        "derived": [_feature_row(group, feature) for feature in group.derived],
        "read from": [
            {"input": name, "kind": _kind(origin), "name": origin.name} for name, origin in group.inputs.items()
        ],
        "used by": _users(store.registry, {Ref(group.name, name) for name in _features(group)}, group),
        "source columns": source_columns(store.lineage(registry_name)),
        "applied versions": applied.select("version", "applied_at", "fingerprint").to_dicts(),
    }


def _describe_feature(store: FeatureStore, ref: Ref) -> Facts:
    registry = store.registry
    group = registry.group(ref.head)
    feature = _features(group)[ref.feature]
    found = store.lineage(str(ref))
    derived = feature in group.derived
    reads = sorted(set(feature.expr.meta.root_names()))
    return {
        "kind": "derived feature" if derived else "feature",
        "name": f"{group.name}:{feature.name}",
        "description": feature.description,
        "type": str(_dtype(group, feature)),
        "unit": feature.unit,
        "range": _range(feature),
        "window": feature.window,
        "default": feature.default,
        "owner": group.owner,
        "version": group.version,
        **_entity_facts(group.entity),
        **_timing(group, feature),
        "inputs": ", ".join(origin.name for origin in group.inputs.values()),
        "expression": str(feature.expr),
        "reads": ", ".join(reads) or None,
        "prepare": source_text(group.prepare) if group.prepare else None,
        **_standing(store.offline, group),
        "derived from": [_feature_row(group, f) for f in group.features if f.name in reads] if derived else [],
        "derived features": [
            _feature_row(group, f) for f in group.derived if feature.name in f.expr.meta.root_names() and not derived
        ],
        "source columns": source_columns(found),
        "used by": _users(registry, {Ref(group.name, feature.name)}),
        "enters": entered(found),
    }


def _describe_service(store: FeatureStore, service: FeatureService) -> Facts:
    registry = store.registry
    pairs = [(registry.group(r.head), r) for r in registry.resolve(service)]
    return {
        "kind": "feature service",
        "name": service.name,
        "description": service.description,
        "owner": service.owner,
        "sla": service.sla,
        "request": _typed(service.request or {}) or None,
        "groups": ", ".join(dict.fromkeys(f"{group.name} {group.version}" for group, _ in pairs)),
        "features": [{"group": g.name, **_feature_row(g, _features(g)[r.feature])} for g, r in pairs],
        "derived": [
            {
                "feature": f.name,
                "unit": f.unit,
                "range": _range(f),
                "expression": str(f.expr),
                "description": f.description,
            }
            for f in service.derived
        ],
        "source columns": source_columns(store.lineage(service.name)),
        "used by": [
            {"kind": "model", "name": m.name, "as": "inputs", "owner": m.owner}
            for m in registry.models.values()
            if m.service is service
        ],
    }


def _describe_model(store: FeatureStore, model: ModelSpec) -> Facts:
    registry = store.registry
    label = registry.group(model.label_ref.head)
    service = _describe_service(store, model.service)
    return {
        "kind": "model",
        "name": model.name,
        "description": model.description,
        "owner": model.owner,
        "service": model.service.name,
        "label": model.label,
        **_entity_facts(label.entity),
        "estimator": " ".join(repr(model.estimator).split()),
        "predict_after": model.predict_after,
        "label_delay": model.label_delay,
        "embargo": model.embargo or model.label_delay,
        "metrics": ", ".join(model.metrics) or None,
        "requires": ", ".join(model.requires) or None,
        "groups": service["groups"],
        "features": service["features"],
        "derived": service["derived"],
        "source columns": source_columns(store.lineage(model.name)),
        "used by": [
            {"kind": "feature group", "name": group.name, "as": name, "owner": group.owner}
            for group in registry.groups.values()
            for name, origin in group.inputs.items()
            if isinstance(origin, Predictions) and origin.model is model
        ],
    }


def _describe_source(store: FeatureStore, source: Source) -> Facts:
    table = source_facts(store.offline, source)
    readers = readers_of_columns(store.lineage(source.name))
    return {
        "kind": "source",
        "name": source.name,
        "description": source.description,
        "event_timestamp": source.event_timestamp,
        "keys": ", ".join(source.keys or ()) or None,
        "live_since": source.live_since,
        "rows": table.rows or 0,
        "delta_version": _or_never(table.version),
        "newest_event": _or_never(table.newest_event),
        "last_ingested": _or_never(store.offline.last_ingested(source.name)),
        "columns": [
            {
                "column": name,
                "type": str(dtype),
                "features": readers[name][0],
                "row choices": readers[name][1],
                "description": source.columns.get(name, ""),
            }
            for name, dtype in source.dtypes.items()
        ],
        "used by": [
            {"kind": "feature group", "name": group.name, "as": name, "owner": group.owner}
            for group in store.registry.groups.values()
            for name, origin in group.inputs.items()
            if origin is source
        ],
    }


def _describe_entity(store: FeatureStore, entity: Entity) -> Facts:
    groups = [group for group in store.registry.groups.values() if group.entity is entity]
    return {
        "kind": "entity",
        "name": entity.name,
        "description": entity.description,
        "keys": _typed(entity.keys),
        "groups": [
            {"group": g.name, "version": g.version, "features": len(_features(g)), "owner": g.owner} for g in groups
        ],
    }


def _features(group: FeatureGroup) -> dict[str, Feature]:
    return {feature.name: feature for feature in (*group.features, *group.derived)}


def _kind(origin: Source | FeatureGroup) -> str:
    if isinstance(origin, Predictions):
        return "predictions"
    return "source" if isinstance(origin, Source) else "feature group"


def _entity_facts(entity: Entity) -> Facts:
    return {"entity": entity.name, "keys": _typed(entity.keys)}


def _typed(columns: Mapping[str, DataType]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in columns.items())


def _timing(group: FeatureGroup, feature: Feature | None = None) -> Facts:
    """What says when rows come about, how long they hold, and what they are filed under."""
    tags = dict.fromkeys([*group.tags, *(feature.tags if feature else ())])
    return {
        "grain": group.grain,
        "every": group.every,
        "settle": group.settle,
        "ttl": group.ttl,
        "publish_delay": group.publish_delay,
        "retention": group.retention,
        "retire": group.retire,
        "sla": group.sla,
        "schedule": group.schedule,
        "tags": ", ".join(tags) or None,
    }


def _standing(offline: OfflineStore, group: FeatureGroup) -> Facts:
    """When the group was first applied, when this version was, and what the table holds."""
    applied = offline.definitions().filter(pl.col("name") == group.name)
    table = feature_facts(offline, group)
    return {
        "created_at": _or_never(applied["applied_at"].min()),
        "applied_at": _or_never(applied.filter(pl.col("version") == group.version)["applied_at"].min()),
        "rows": table.rows or 0,
        "delta_version": _or_never(table.version),
        "newest_event": _or_never(table.newest_event),
    }


def _agreement(applied: pl.DataFrame, group: FeatureGroup) -> str:
    """Whether the definition in the code is the one that was applied as this version."""
    marks = applied.filter(pl.col("version") == group.version)["fingerprint"]
    if marks.is_empty():
        return "never applied"
    return "as applied" if fingerprint(group) in marks else f"differs from what was applied as {group.version}"


def _or_never(value: Any) -> Any:
    return NEVER if value is None else value


def _feature_row(group: FeatureGroup, feature: Feature) -> Facts:
    return {
        "feature": feature.name,
        "type": str(_dtype(group, feature)),
        "unit": feature.unit,
        "range": _range(feature),
        "window": feature.window,
        "description": feature.description,
    }


def _dtype(group: FeatureGroup, feature: Feature) -> DataType:
    """The type a stored feature has in its table, or that a derived one computes."""
    stored = stored_schema(group)
    if feature.name in stored:
        return stored[feature.name]
    return (
        pl.LazyFrame(schema={**stored, REQUEST_TIMESTAMP: UTC_US})
        .select(feature.expr.alias(feature.name))
        .collect_schema()[feature.name]
    )


def _range(feature: Feature) -> str | None:
    if feature.range is None:
        return None
    low, high = feature.range
    return f"{'-∞' if low is None else f'{low:g}'} to {'∞' if high is None else f'{high:g}'}"


def _users(registry: Registry, refs: set[Ref], group: FeatureGroup | None = None) -> list[Facts]:
    """Who reads any of the features: services, the models behind them, models by their label, other groups."""
    services = [s for s in registry.services.values() if refs & _plain(registry.resolve(s))]
    rows = [("feature service", s.name, "features", s.owner) for s in services]
    rows += [("model", m.name, "inputs", m.owner) for m in registry.models.values() if m.service in services]
    rows += [("model", m.name, "label", m.owner) for m in registry.models.values() if m.label_ref in refs]
    if group is not None:
        readers = [g for g in registry.groups.values() if group in g.inputs.values()]
        rows += [("feature group", g.name, "input", g.owner) for g in readers]
    return [dict(zip(("kind", "name", "as", "owner"), row, strict=True)) for row in rows]


def _plain(refs: Iterable[Ref]) -> set[Ref]:
    """The references without the major they may ask for, which the registry has checked."""
    return {Ref(ref.group, ref.feature) for ref in refs}
