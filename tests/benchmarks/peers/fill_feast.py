"""Make a Feast repository over a Redis with the cards of a Parquet file; a Python that has Feast runs this.

Arguments: the folder of the repository, the file, the Redis as "host:port". The registry is cached in the background,
which is what Feast's guide to tuning its online server advises.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

_SETTINGS = """
project: cards
provider: local
registry:
  path: registry.db
  cache_ttl_seconds: 3600
  cache_mode: thread
online_store:
  type: redis
  connection_string: "{redis}"
offline_store:
  type: file
entity_key_serialization_version: 3
"""


def fill(folder: Path, file: Path, redis: str) -> None:
    """Apply the definitions and write the cards online."""
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(_SETTINGS.format(redis=redis))
    cards = pd.read_parquet(file)
    card = Entity(name="card", join_keys=["card_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="cards",
        entities=[card],
        schema=[Field(name=name, dtype=Float64) for name in cards if name.startswith("v")],
        source=FileSource(path=str(file), timestamp_field="at"),
        ttl=timedelta(0),
    )
    store = FeatureStore(repo_path=str(folder))
    store.apply([card, view])
    store.write_to_online_store("cards", cards)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
