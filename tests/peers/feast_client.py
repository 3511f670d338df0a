"""Asks a feature server through Feast's client for remote online stores; runs in an environment that has Feast.

``python feast_client.py URL`` reads what to define and ask as JSON from its input: ``entity`` and ``key``, the name and
Feast type of each; ``views``, the Feast types of features by view; ``services``, references by name; and ``asks``, the
arguments of ``get_online_features``, where ``service`` names a service. It prints the answers as a JSON list, each with
``values`` and ``statuses`` by feature.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import feast
import feast.types
import pyarrow as pa
import pyarrow.parquet as pq
from feast.infra.registry.registry import Registry
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

PROJECT = "asking"


def defined(url: str, told: dict[str, Any], folder: Path) -> tuple[feast.FeatureStore, dict[str, feast.FeatureService]]:
    """A Feast store whose online store is the server, and its services; all is in its registry."""
    nothing = folder / "nothing.parquet"  # a view needs a source, which nobody reads here
    pq.write_table(pa.table({"at": pa.array([], pa.timestamp("us", "UTC"))}), nothing)
    store = feast.FeatureStore(
        config=feast.RepoConfig(
            project=PROJECT,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "remote", "path": url},
            entity_key_serialization_version=3,
        )
    )
    assert isinstance(store.registry, Registry)
    name, kind = told["key"]
    entity = feast.Entity(name=told["entity"], join_keys=[name], value_type=feast.ValueType[kind])
    store.registry.apply_entity(entity, PROJECT)
    views = {}
    for view, features in told["views"].items():
        fields = [feast.Field(name=feature, dtype=typed(kind)) for feature, kind in features.items()]
        source = feast.FileSource(path=str(nothing), timestamp_field="at")
        views[view] = feast.FeatureView(name=view, entities=[entity], schema=fields, source=source)
        store.registry.apply_feature_view(views[view], PROJECT)
    services = {}
    for service, references in told["services"].items():
        asked = [views[view][[feature]] for view, feature in (reference.split(":") for reference in references)]
        services[service] = feast.FeatureService(name=service, features=asked)
        store.registry.apply_feature_service(services[service], PROJECT)
    return store, services


def typed(kind: str) -> Any:
    """A Feast type by its name, ``[Int64]`` for a list of them."""
    if kind.startswith("["):
        return feast.types.Array(typed(kind[1:-1]))
    return getattr(feast.types, kind)


def main(url: str) -> None:
    """Define, ask, and print what was answered."""
    told = json.load(sys.stdin)
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        store, services = defined(url, told, Path(folder))
        for ask in told["asks"]:
            if "service" in ask:
                ask["features"] = services[ask.pop("service")]
            answer = store.get_online_features(**ask)
            names = answer.proto.metadata.feature_names.val
            statuses = [[FieldStatus.Name(status) for status in one.statuses] for one in answer.proto.results]
            answers.append({"values": answer.to_dict(), "statuses": dict(zip(names, statuses, strict=True))})
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
