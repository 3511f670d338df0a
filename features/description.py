"""Descriptions of groups: what is recorded when a definition is applied, and what two definitions are compared by.

The fingerprint is a hash of what decides a group's values (``meaning``): types, expressions, the source of
``prepare``. What only documents or operates a group (owner, description, ttl, schedule, ...) is recorded
beside it, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

from features.compute import stored_schema
from features.entity import DataType
from features.errors import DefinitionError
from features.feature_group import REQUEST_TIMESTAMP, Feature, FeatureGroup
from features.fingerprint import captured, serialized, source_text
from features.source import Source
from features.times import UTC_US

Description = Mapping[str, Any]
"""A definition as plain JSON-able data."""


def describe_group(group: FeatureGroup) -> dict[str, Any]:
    """Everything that is recorded of a definition: its version, its meaning and, as "about", the rest."""
    about = {
        "owner": group.owner,
        "description": group.description,
        "ttl": group.ttl,
        "schedule": group.schedule,
        "retention": group.retention,
        "online": group.online,
        "sla": group.sla,
        "retire": group.retire.isoformat() if group.retire else None,
        "tags": list(group.tags),
    }
    return {**meaning(group), "version": group.version, "about": about}


def meaning(group: FeatureGroup) -> dict[str, Any]:
    """Everything that decides a group's values and how they are stored.

    Raises DefinitionError where an expression does not fit its inputs, or cannot be told apart from another.
    """
    types = stored_schema(group)
    seen = {**types, REQUEST_TIMESTAMP: UTC_US}  # by derived features
    return {
        "name": group.name,
        "entity": {"name": group.entity.name, "keys": [[key, str(types[key])] for key in group.keys]},
        "inputs": {name: _input(origin) for name, origin in group.inputs.items()},
        "grain": group.grain,
        "every": group.every,
        "settle": group.settle,
        "on_conflict": group.on_conflict,
        "publish_delay": group.publish_delay,
        "prepare": source_text(group.prepare) if group.prepare else None,
        "prepare_uses": captured(group.prepare) if group.prepare else [],
        "prepare_by": list(group.prepare_by),
        "features": [_feature(f, types[f.name]) for f in group.features],
        "derived": [_feature(f, _derived_type(group, f, seen)) for f in group.derived],
    }


@cache
def fingerprint(group: FeatureGroup) -> str:
    """SHA-256 of a group's meaning; equal for definitions that compute the same, whatever their versions.

    >>> from features.definitions import REGISTRY
    >>> group = next(iter(REGISTRY.groups.values()))
    >>> fingerprint(group) == fingerprint(group)
    True
    """
    return hashlib.sha256(json.dumps(meaning(group), sort_keys=True).encode()).hexdigest()


def _input(origin: Source | FeatureGroup) -> dict[str, Any]:
    if isinstance(origin, Source):
        return {"source": origin.name, "event_timestamp": origin.event_timestamp, "keys": list(origin.keys or ())}
    return {"group": origin.table_id}


def _feature(feature: Feature, dtype: DataType | None) -> dict[str, Any]:
    return {
        "name": feature.name,
        "expr": str(feature.expr),
        "exact": hashlib.sha256(serialized(feature.expr).encode()).hexdigest(),
        "window": feature.window,
        "unit": feature.unit,
        "type": None if dtype is None else str(dtype),
    }


def _derived_type(group: FeatureGroup, feature: Feature, types: Mapping[str, DataType]) -> DataType | None:
    """The type that a derived feature computes; None where it reads more than the group stores."""
    if not set(feature.expr.meta.root_names()) <= set(types):
        return None
    try:
        return pl.LazyFrame(schema=types).select(feature.expr.alias(feature.name)).collect_schema()[feature.name]
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DefinitionError(
            f"derived feature {group.name}:{feature.name} does not fit the group: {reason}; mend it"
        ) from error
