"""The feature server with everything on, with ten thousand connections, and beside syncs of a million rows."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl

from benchmarks.bench_push import BEGIN, FEATURES, group, payments
from benchmarks.measurement import Measurement
from benchmarks.served import CARDS, FULL_NAMES, PATH, REGISTRY, bare, by_turns, featurefab, fill
from features import Feature, FeatureStore, Registry
from infra.wiring import connect

FULL = Registry([replace(group, derived=[Feature("spread", pl.col("v0") - pl.col("v1"))])])
ACCESS: dict[str, str] = {}
"""Settings that turn API keys and the log of who asked on: until the server has them, it counts its requests alone."""
HEADERS: dict[str, str] = {}
"""What a request shows to be let in: the API key."""

RATE = 5_000
MANY, MANY_SECONDS = 10_000, 20
FEW = 100
ROWS, QUIET_SECONDS, SYNC_SECONDS = 1_000_000, 10, 60


def http_1_full() -> Measurement:
    """Requests a second for one entity of ten features and a derived one, all on; the bare handler does none of it."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(home, ACCESS, FULL)
        with featurefab(home, ACCESS, "bench_serving_load:FULL") as ours, bare(f"{folder}/bare") as other:
            return by_turns(ours, other, 1, [*FULL_NAMES, f"{group.name}:spread"], HEADERS).rate()


def http_10k_connections() -> Measurement:
    """The 99th percentile of the latency at 5,000 requests a second over 10,000 open connections."""
    _allow_files(MANY + 1_000)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(home)
        with featurefab(home) as url:
            ours = _p99_of_many(url)
        with bare(f"{folder}/bare") as url:
            other = _p99_of_many(url)
    return Measurement(ours, "s", other, ours / other)


def serve_during_sync() -> Measurement:
    """The 99th percentile of the latency at 5,000 requests a second while a million rows sync, against no sync.

    For a minute new versions of all rows are written, materialized and synced, over and over; what counts is what was
    asked during the syncs. No request may fail at any time, and no answer may mix two versions: all ten values of a
    row are its version.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with connect(REGISTRY, home) as store:
            _materialize(store, 1)
            store.sync(group)
            with featurefab(home) as url:
                with _load(url, QUIET_SECONDS, FEW, ROWS) as quiet:
                    pass
                with _load(url, SYNC_SECONDS, FEW, ROWS) as busy:
                    spans = _sync_for(store, SYNC_SECONDS)
    asked = busy()
    assert (asked["outcome"] == "same").all(), dict(asked["outcome"].value_counts().iter_rows())
    during = pl.any_horizontal(*(pl.col("at").is_between(*span) for span in spans))
    value, baseline = _p99(asked.filter(during)), _p99(quiet())
    said = f"{len(spans)} syncs, {sum(end - begin for begin, end in spans):.1f} s of {SYNC_SECONDS} s"
    print(f"{said}; p99 beside the rest of the work {_p99(asked.filter(~during)):.4f} s", file=sys.stderr)
    return Measurement(value, "s", baseline, value / baseline)


def _sync_for(store: FeatureStore, duration: float) -> list[tuple[float, float]]:
    """Sync version after version until the time is over; when each sync began and ended."""
    spans, end, version = [], time.perf_counter() + duration, 2
    while time.perf_counter() < end:
        _materialize(store, version)
        began = time.perf_counter()
        assert store.sync(group).rows == ROWS
        spans.append((began, time.perf_counter()))
        version += 1
    return spans


def _materialize(store: FeatureStore, version: int) -> None:
    card = pl.int_range(ROWS, eager=True).alias("card_id")
    values = [pl.lit(float(version)).alias(f"v{n}") for n in range(FEATURES)]
    at = pl.lit(BEGIN + timedelta(minutes=version), payments.dtypes["at"]).alias("at")
    store.write_source(payments, card.to_frame().with_columns(*values, at))
    store.materialize_incremental(group)


def _p99_of_many(url: str) -> float:
    with _load(url, MANY_SECONDS, MANY, CARDS) as load:
        pass
    failed = load()["latency"].null_count()
    assert failed < 0.001 * load().height, dict(load()["outcome"].value_counts().iter_rows())
    return _p99(load())


def _p99(asked: pl.DataFrame) -> float:
    latency = asked["latency"].quantile(0.99)
    assert latency is not None
    return latency


@contextmanager
def _load(url: str, duration: float, connections: int, cards: int) -> Iterator[Callable[[], pl.DataFrame]]:
    """A load that has begun; it has ended when the block has, and then there is what came of it."""
    with tempfile.NamedTemporaryFile(suffix=".arrow") as file:
        arguments = [url + PATH, connections, RATE, duration, cards, ",".join(FULL_NAMES), file.name]
        command = [sys.executable, "-m", "benchmarks.open_load", *map(str, arguments)]
        found: list[pl.DataFrame] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield lambda: found[0]
        assert process.returncode == 0
        found.append(pl.read_ipc(file.name))


def _allow_files(count: int) -> None:
    """Let this process and those it starts have as many files open."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < count:
        raise RuntimeError(f"only {most:,} files may be open at a time: raise the hard limit (ulimit -Hn) to {count:,}")
    if now != resource.RLIM_INFINITY and now < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
