"""What a server remembers of a Valkey under a trace as people ask: some entities often, most of them hardly ever."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from benchmarks.measurement import Measurement
from features.stores import Publication
from features.times import UTC_US
from infra.storage.redis_store import RedisOnlineStore
from infra.storage.row_cache import RowCache
from valkey_servers import ValkeyServer, until

CARDS, ASKED, EXPONENT, SEED = 100_000, 300_000, 1.1, 20_260_301
MINUTE = 60_000
"""Requests of the first minute after a warm-up, at 1,000 a second."""
TABLE, FEATURES = "cards/v1", [f"v{n}" for n in range(10)]
AT = datetime(2026, 3, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Trace:
    """Of what was asked, the share found in memory, that found there or in Valkey, and that right after a warm-up."""

    first: float
    both: float
    warmed: float
    seconds: float
    bare_seconds: float


def cache_zipf() -> Measurement:
    """The share of a Zipf(1.1) trace that a cache of a tenth of the rows answers; the time is against none at all."""
    trace = _traced()
    return Measurement(trace.first, "of 1", trace.both, trace.seconds / trace.bare_seconds)


def cache_zipf_warmed() -> Measurement:
    """The share that it answers in the first minute after a warm-up, against that of the whole trace."""
    trace = _traced()
    return Measurement(trace.warmed, "of 1", trace.first, trace.warmed / trace.first)


def _traced() -> Trace:
    """A trace over a Valkey that lacks one card in twenty, of which nobody knows."""
    draw = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, CARDS + 1) ** EXPONENT
    asked = draw.permutation(CARDS)[draw.choice(CARDS, ASKED + MINUTE, p=weights / weights.sum())].tolist()
    with ValkeyServer() as server:
        bare = RedisOnlineStore(server.url)
        bare.write(TABLE, ["card"], _rows(), Publication(TABLE, 0, 1, AT))
        bare_seconds, found = _read(bare, asked[:ASKED])
        cache = RowCache(_size(CARDS // 10), 3_600)
        store = RedisOnlineStore(server.url, cache=cache)
        until(lambda: cache.trusted)
        seconds, _ = _read(store, asked[:ASKED])
        hits = cache.stats.hits
        fresh = RowCache(_size(CARDS // 10), 3_600)
        again = RedisOnlineStore(server.url, cache=fresh)
        until(lambda: fresh.trusted)
        again.warm(cache.hot(CARDS // 10))
        _read(again, asked[ASKED:])
        for one in (bare, store, again):
            one.close()
    return Trace(hits / ASKED, found / ASKED, fresh.stats.hits / MINUTE, seconds, bare_seconds)


def _read(store: RedisOnlineStore, asked: Sequence[int]) -> tuple[float, int]:
    """How long one request after the other takes, and how many find a row."""
    began, found = time.perf_counter(), 0
    for card in asked:
        columns = store.at_hand(TABLE, [(card,)], FEATURES) or store.read_columns(TABLE, [(card,)], FEATURES)
        found += columns.event_timestamps[0] is not None
    return time.perf_counter() - began, found


def _rows() -> pl.DataFrame:
    cards = pl.int_range(CARDS, eager=True).alias("card")
    frame = cards.to_frame().filter(pl.col("card") % 20 != 0)
    times = [pl.lit(AT, UTC_US).alias(name) for name in ("event_timestamp", "created_timestamp")]
    values = [(pl.col("card") / (n + 1)).alias(name) for n, name in enumerate(FEATURES)]
    return frame.with_columns(*times, *values, pl.lit(0).alias("_epoch"), pl.lit(value=False).alias("_deleted"))


def _size(rows: int) -> int:
    """The bytes that so many of these rows take in a cache."""
    cache = RowCache(10**9, 3_600)
    cache.trust()
    key, row = b"featurefab:{cards%2Fv1:00}" + b"0" * 6, b"0" * 115
    cache.put(cache.expect([key]), [key], [row])
    return rows * cache.weight
