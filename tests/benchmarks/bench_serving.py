"""The feature server under load from wrk, one worker, against a bare Starlette handler in the same run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.measurement import Measurement, seconds
from benchmarks.served import ROUNDS, Turns, bare, by_turns, featurefab, fill


def http_1_lmdb() -> Measurement:
    """Requests a second for one entity of ten features."""
    return _turns(1).rate()


def http_100_lmdb() -> Measurement:
    """Requests a second for a hundred entities of ten features."""
    return _turns(100).rate()


def http_1_lmdb_p99() -> Measurement:
    """The 99th percentile of the latency for one entity."""
    return _turns(1).p99()


def http_100_lmdb_p99() -> Measurement:
    """The 99th percentile of the latency for a hundred entities."""
    return _turns(100).p99()


def cold_start() -> Measurement:
    """From the command to its first answer, against a Python that starts and ends."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder))
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            with featurefab(Path(folder)):
                times.append(time.perf_counter() - began)
    nothing = seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True))
    return Measurement(median(times), "s", nothing, median(times) / nothing)


def _turns(entities: int) -> Turns:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        fill(home)
        with featurefab(home) as ours, bare(f"{folder}/bare") as other:
            return by_turns(ours, other, entities)
