"""Redis and Valkey: a first sync of a million rows, an increment, and reads of a hundred keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import redis

from benchmarks.measurement import Measurement, seconds
from features.stores import OnlineStore, Publication
from features.times import UTC_US
from infra.storage.redis_store import RedisOnlineStore
from valkey_servers import ValkeyServer

ROWS, CHANGED, FEATURES = 1_000_000, 10_000, 10
READS, ASKED = 1_000, 100
TABLE = "cards/v1"
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def sync_valkey() -> Measurement:
    """Rows a second of the first sync of a million rows, against a plain MSET of the same bytes in pipelines."""
    with _server() as (store, client):
        first = rows(ROWS, 1)
        value = ROWS / seconds(lambda: write(store, first, 1))
        pairs = _stored(client)
        client.flushall()
        baseline = ROWS / seconds(lambda: _set_all(client, pairs))
    return Measurement(value, "rows/s", baseline, baseline / value)


def increment_valkey() -> Measurement:
    """A sync of one percent of a million rows, against the first sync of all of them."""
    with _server() as (store, _):
        first, changed = rows(ROWS, 1), rows(CHANGED, 2)
        baseline = seconds(lambda: write(store, first, 1))
        value = seconds(lambda: write(store, changed, 2))
    return Measurement(value, "s", baseline, value / baseline)


def read_valkey() -> Measurement:
    """A read of a hundred of a million rows, the median of a thousand, against MGET without decoding."""
    with _server() as (store, client):
        write(store, rows(ROWS, 1), 1)
        chosen = np.random.default_rng(0).integers(0, ROWS, (READS, ASKED)).tolist()
        keys = list(_stored(client, ASKED * 10))
        value = _median(lambda n: store.read(TABLE, [(card,) for card in chosen[n]]))
        baseline = _median(lambda n: client.mget(keys[n % 10 * ASKED :][:ASKED]))
    return Measurement(value, "s", baseline, value / baseline)


@contextmanager
def _server() -> Iterator[tuple[RedisOnlineStore, redis.Redis]]:
    """A store in a Valkey of its own, and a plain client of it."""
    with ValkeyServer() as server, server.client() as client:
        store = RedisOnlineStore(server.url)
        yield store, client
        store.close()


def rows(count: int, plan: int) -> pl.DataFrame:
    """Some of a million cards as a plan has them, in no order."""
    random = np.random.default_rng(plan)
    created = pl.lit(BEGIN + timedelta(days=plan), UTC_US)
    frame = pl.DataFrame({"card_id": random.permutation(ROWS)[:count]})
    frame = frame.with_columns(pl.Series(f"v{n}", random.random(count)) for n in range(FEATURES))
    times = {"event_timestamp": pl.lit(BEGIN, UTC_US), "created_timestamp": created}
    return frame.with_columns(**times, _epoch=0, _deleted=False)


def write(store: OnlineStore, frame: pl.DataFrame, plan: int) -> None:
    """Publish a plan's rows, all of which are new."""
    won = store.write(TABLE, ["card_id"], frame, Publication(TABLE, plan - 1, plan, BEGIN))
    assert won == frame.height


def _stored(client: redis.Redis, some: int = ROWS) -> dict[bytes, bytes]:
    """Rows as they are stored, by their keys."""
    found: dict[bytes, bytes] = {}
    for key in client.scan_iter("*}\x91*".encode("latin-1"), count=10_000):
        found[key] = b""
        if len(found) == some:
            break
    keys = list(found)
    for start in range(0, len(keys), 10_000):
        part = keys[start : start + 10_000]
        found.update(zip(part, client.mget(part), strict=True))
    return found


def _set_all(client: redis.Redis, pairs: dict[bytes, bytes]) -> None:
    keys = list(pairs)
    for start in range(0, len(keys), 50_000):
        with client.pipeline(transaction=False) as pipeline:
            for part in range(start, min(start + 50_000, len(keys)), 1_000):
                pipeline.mset({key: pairs[key] for key in keys[part : part + 1_000]})
            pipeline.execute()


def _median(read: Callable[[int], object]) -> float:
    taken = []
    for number in range(READS):
        began = time.perf_counter()
        read(number)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))
