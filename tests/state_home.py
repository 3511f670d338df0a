"""Cards in versions: rows tell which version they are of, and whether they are whole.

``python state_home.py`` works on the home of its environment. For each number in its input it makes that version of
every card, materializes and syncs it, and prints the number when that is done.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.times import UTC_US
from infra.wiring import connect

CARDS = 3_000
T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOT_ASKED = -1
"""The default of the features that declare one."""

card = Entity("card", keys={"card_id": pl.Int64})
versions = Source("versions", {"card_id": pl.Int64, "version": pl.Int64, "at": UTC_US}, "at")


def group(name: str, default: int | None) -> FeatureGroup:
    """A group whose rows have a version, and one more column that follows from version and card."""
    version, twin = pl.col("version"), 7 * pl.col("version") + pl.col("card_id")
    features = [Feature("version", version, default=default), Feature("twin", twin, default=default)]
    about = {"owner": "cards", "description": "The version of a card."}
    return FeatureGroup(name, "1.0.0", card, versions, features, grain="event", **about)


state, backed = group("state", None), group("backed", NOT_ASKED)
GROUPS = (state, backed)
REGISTRY = Registry(GROUPS)


def made_at(version: int) -> datetime:
    """The event time of a version that was synced."""
    return T0 + version * timedelta(seconds=1)


def twin(card_id: int, version: int) -> int:
    """What stands beside a version."""
    return 7 * version + card_id


def make(store: FeatureStore, version: int) -> None:
    """Bring a version of every card online."""
    rows = {"card_id": range(CARDS), "version": version, "at": made_at(version)}
    store.write_source(versions, pl.DataFrame(rows, schema=dict(versions.schema)))
    for group in GROUPS:
        store.materialize_incremental(group)
        store.sync(group)


def pushed(card_id: int, version: int, at: datetime) -> dict[str, list[Any]]:
    """The columns of a row of ``state`` that is pushed."""
    time = at.isoformat()
    return {"card_id": [card_id], "event_timestamp": [time], "version": [version], "twin": [twin(card_id, version)]}


if __name__ == "__main__":
    with connect(REGISTRY) as opened:
        print("ready", flush=True)
        for line in sys.stdin:
            make(opened, int(line))
            print(line, end="", flush=True)
