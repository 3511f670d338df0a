"""What is asked for on a command line: the groups to run, features, entity keys."""

from __future__ import annotations

from collections.abc import Sequence

from features.entity import DataType
from features.errors import InvalidInput
from features.feature_service import FeatureService
from features.registry import Registry
from features.store import FeatureStore
from flows.choice import chosen
from flows.console import complain


def due(store: FeatureStore, groups: Sequence[str] | None) -> list[str]:
    """The groups to run: those that are named, or all but those that a rollback holds or that are retired."""
    resting = {name: store.versions.resting(store.registry.group(name)) for name in chosen(store.registry, groups)}
    for name, why in resting.items() if not groups else ():
        if why:
            complain("note", f"{name} is passed over: {why}")
    return [name for name, why in resting.items() if groups or not why]


def asked_features(registry: Registry, names: list[str]) -> tuple[FeatureService | list[str], dict[str, DataType]]:
    """One feature service by name, or references; with the types of its entity keys and request values."""
    service = registry.service(names[0]) if len(names) == 1 and ":" not in names[0] else None
    asked = names if service is None else service
    refs = registry.resolve(asked)
    dtypes = {dict(r.keys).get(k, k): t for r in refs for k, t in registry.group(r.head).entity.keys.items()}
    return asked, dtypes | dict(service.request or {} if service else {})


def entity_keys(text: str) -> dict[str, str]:
    """Keys written like name=value,name=value.

    >>> entity_keys("lot_id=L1, wafer_id=W2")
    {'lot_id': 'L1', 'wafer_id': 'W2'}
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(eq for _, eq, _ in pairs):
        raise InvalidInput(f"entity {text!r} is not written like name=value,name=value")
    return {name.strip(): value.strip() for name, _, value in pairs}
