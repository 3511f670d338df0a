"""The feature server under load from wrk, one worker, against a bare Starlette handler in the same run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import polars as pl

from benchmarks.bench_push import BEGIN, FEATURES, group, payments
from benchmarks.measurement import Measurement
from features import Registry
from infra.wiring import connect

CARDS = 20_000
CONNECTIONS, SECONDS, ROUNDS = 16, 4, 3
REGISTRY = Registry([group])
PATH = "/get-online-features"
_TESTS = Path(__file__).resolve().parents[1]
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_ASK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  local cards = {}
  for i = 1, %d do cards[i] = math.random(0, %d) end
  return wrk.format(nil, nil, nil, '{"features":[%s],"entities":{"card_id":[' .. table.concat(cards, ",") .. ']}}')
end
"""


def http_1_lmdb() -> Measurement:
    """Requests a second for one entity of ten features."""
    ours, bare = _rates(1)
    return Measurement(ours, "requests/s", bare, bare / ours)


def http_100_lmdb() -> Measurement:
    """Requests a second for a hundred entities of ten features."""
    ours, bare = _rates(100)
    return Measurement(ours, "requests/s", bare, bare / ours)


def http_1_lmdb_p99() -> Measurement:
    """The 99th percentile of the latency for one entity."""
    ours, bare = _p99s(1)
    return Measurement(ours, "s", bare, ours / bare)


def http_100_lmdb_p99() -> Measurement:
    """The 99th percentile of the latency for a hundred entities."""
    ours, bare = _p99s(100)
    return Measurement(ours, "s", bare, ours / bare)


def cold_start() -> Measurement:
    """From the command to its first answer, against a Python that starts and ends."""
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder))
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            with _featurefab(Path(folder)):
                times.append(time.perf_counter() - began)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        bare = time.perf_counter() - began
    return Measurement(median(times), "s", bare, median(times) / bare)


def _rates(entities: int) -> tuple[float, float]:
    ours, bare = _measured(entities)
    return median(rate for rate, _ in ours), median(rate for rate, _ in bare)


def _p99s(entities: int) -> tuple[float, float]:
    ours, bare = _measured(entities)
    return median(p99 for _, p99 in ours), median(p99 for _, p99 in bare)


def _measured(entities: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Rate and p99 of each round, of ours and of the bare handler, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        _fill(home)
        script = Path(folder) / "ask.lua"
        named = ",".join(f'"{group.name}:{name}"' for name in group.feature_names)
        script.write_text(_ASK % (entities, CARDS - 1, named))
        with _featurefab(home) as ours, _bare(Path(folder)) as bare:
            rounds = [(_load(ours, script), _load(bare, script)) for _ in range(ROUNDS)]
    return [one for one, _ in rounds], [other for _, other in rounds]


def _fill(home: Path) -> None:
    cards = pl.int_range(CARDS, eager=True)
    values = [(cards / (n + 1)).alias(f"v{n}") for n in range(FEATURES)]
    at = pl.lit(BEGIN).cast(payments.dtypes["at"]).alias("at")
    with connect(REGISTRY, home) as store:
        store.write_source(payments, pl.DataFrame({"card_id": cards}).with_columns(*values, at))
        store.materialize_incremental(group)
        store.sync(group)


@contextmanager
def _featurefab(home: Path) -> Iterator[str]:
    port = _free_port()
    named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": "benchmarks.bench_serving:REGISTRY"}
    with _started(["-m", "flows", "serve", f"--port={port}"], port, named) as url:
        yield url


@contextmanager
def _bare(folder: Path) -> Iterator[str]:
    port = _free_port()
    arguments = [str(folder / "bare"), str(port), str(CARDS), str(FEATURES)]
    with _started(["-m", "benchmarks.bare_server", *arguments], port, {}) as url:
        yield url


@contextmanager
def _started(command: Sequence[str], port: int, named: dict[str, str]) -> Iterator[str]:
    """A server once it answers a request for one entity."""
    url = f"http://127.0.0.1:{port}"
    path = os.pathsep.join([str(_TESTS.parent), str(_TESTS)])
    asked = {"features": [f"{group.name}:v0"], "entities": {"card_id": [1]}}
    with subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **named, "PYTHONPATH": path}, stdout=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    httpx.post(url + PATH, json=asked, timeout=60, trust_env=False).raise_for_status()
                    break
                except httpx.ConnectError:
                    time.sleep(0.005)
            yield url
        finally:
            process.kill()


def _load(url: str, script: Path) -> tuple[float, float]:
    """Requests a second and the 99th percentile of their latency, in seconds."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("the load comes from wrk: install Debian's package `wrk`")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script), url + PATH]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None
    assert p99 is not None
    return float(rate[1]), float(p99[1]) * _UNITS[p99[2]]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
