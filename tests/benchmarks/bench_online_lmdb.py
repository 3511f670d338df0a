"""LMDB: a first sync of a million rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import lmdb

from benchmarks.bench_online_redis import ROWS, rows, write
from benchmarks.measurement import Measurement, seconds
from infra.storage.lmdb_store import LmdbOnlineStore

_ROOM = 2 << 30


def sync_lmdb() -> Measurement:
    """Rows a second of the first sync of a million rows, against a plain putmulti of the same bytes, sorted."""
    with tempfile.TemporaryDirectory() as folder:
        store, first = LmdbOnlineStore(Path(folder) / "ours"), rows(ROWS, 1)
        value = ROWS / seconds(lambda: write(store, first, 1))
        store.close()
        with lmdb.open(f"{folder}/ours", readonly=True, map_size=_ROOM) as env, env.begin() as txn:
            pairs = list(txn.cursor())
        with lmdb.open(f"{folder}/plain", map_size=_ROOM) as env:
            baseline = ROWS / seconds(lambda: _put(env, pairs))
    return Measurement(value, "rows/s", baseline, baseline / value)


def _put(env: lmdb.Environment, pairs: list[tuple[bytes, bytes]]) -> None:
    with env.begin(write=True) as txn:
        txn.cursor().putmulti(pairs, append=True)
