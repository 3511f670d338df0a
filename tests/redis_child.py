"""Rows that several processes write to one Redis at once, and the processes: ``python redis_child.py url seed``."""

from __future__ import annotations

import random
import sys
from datetime import UTC, datetime, timedelta

import polars as pl

from features.stores import Publication
from features.times import UTC_US
from infra.storage.redis_store import RedisOnlineStore

CARDS = "cards/v1"
ENTITIES = 20
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
FAR = datetime(9999, 12, 30, tzinfo=UTC)


def batches(seed: int) -> list[pl.DataFrame]:
    """Some batches of rows whose orders differ by little, in any order; each value names its row."""
    chosen = random.Random(seed)
    return [_batch(chosen, seed, number) for number in range(30)]


def _batch(chosen: random.Random, seed: int, number: int) -> pl.DataFrame:
    rows = []
    for entity in chosen.sample(range(ENTITIES), chosen.randint(1, ENTITIES)):
        event = chosen.choice([BEGIN, FAR]) + timedelta(microseconds=chosen.randint(0, 3))
        created = BEGIN + timedelta(microseconds=100 * number + seed)
        rows.append((entity, event, created, chosen.randint(0, 1), chosen.random() < 0.2, 1_000 * seed + number))
    schema = {"card_id": pl.Int64, "event_timestamp": UTC_US, "created_timestamp": UTC_US}
    schema |= {"_epoch": pl.Int64, "_deleted": pl.Boolean, "value": pl.Int64}
    return pl.DataFrame(rows, schema, orient="row")


def write_all(url: str, seed: int) -> None:
    """Write the batches of a seed, every other one by a sync; one whose plan another published first is pushed."""
    store = RedisOnlineStore(url)
    for number, rows in enumerate(batches(seed)):
        if number % 2:
            at = store.watermark(CARDS)
            store.write(CARDS, ["card_id"], rows, Publication(CARDS, at, at + 1, BEGIN))
        store.push(CARDS, ["card_id"], rows, BEGIN + timedelta(seconds=100 * number + seed))
    store.close()


if __name__ == "__main__":
    write_all(sys.argv[1], int(sys.argv[2]))
