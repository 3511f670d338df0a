"""What benchmarks of serving share: a home with cards, servers that run, and their load from wrk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx
import polars as pl

from benchmarks.bench_push import BEGIN, FEATURES, group, payments
from benchmarks.measurement import Measurement
from features import Registry
from infra.settings import environment_kept
from infra.wiring import connect
from valkey_servers import free_port

CARDS = 20_000
CONNECTIONS, SECONDS, ROUNDS = 16, 4, 3
REGISTRY = Registry([group])
FULL_NAMES = tuple(f"{group.name}:{name}" for name in group.feature_names)
PATH = "/get-online-features"
TESTS = Path(__file__).resolve().parents[1]

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_ASK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
%s
function request()
  local cards = {}
  for i = 1, %d do cards[i] = math.random(0, %d) end
  return wrk.format(nil, nil, nil, '{"features":[%s],"entities":{"card_id":[' .. table.concat(cards, ",") .. ']}}')
end
"""


class Load(NamedTuple):
    """What a server did under load: requests a second, and the 99th percentile of their latency in seconds."""

    rate: float
    p99: float


class Turns(NamedTuple):
    """The rounds of two servers that were loaded by turns: ours, and what it is compared to."""

    ours: Sequence[Load]
    other: Sequence[Load]

    def rate(self) -> Measurement:
        """Requests a second, the median of the rounds."""
        ours, other = (median(load.rate for load in loads) for loads in self)
        return Measurement(ours, "requests/s", other, other / ours)

    def p99(self) -> Measurement:
        """The 99th percentile of the latency, the median of the rounds."""
        ours, other = (median(load.p99 for load in loads) for loads in self)
        return Measurement(ours, "s", other, ours / other)


def by_turns(
    ours: str,
    other: str,
    entities: int,
    features: Sequence[str] = FULL_NAMES,
    headers: Mapping[str, str] | None = None,
) -> Turns:
    """Load two servers by turns with requests for some cards, drawn anew each time."""
    said = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in (headers or {}).items())
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "ask.lua"
        script.write_text(_ASK % (said, entities, CARDS - 1, ",".join(f'"{name}"' for name in features)))
        rounds = [(_load(ours, script), _load(other, script)) for _ in range(ROUNDS)]
    return Turns(*zip(*rounds, strict=True))


def cards(count: int = CARDS) -> pl.DataFrame:
    """Cards with ten numbers each, as the bare server has them too."""
    card = pl.int_range(count, eager=True).alias("card_id")
    values = [(card / (n + 1)).alias(f"v{n}") for n in range(FEATURES)]
    return card.to_frame().with_columns(*values, pl.lit(BEGIN).cast(payments.dtypes["at"]).alias("at"))


def fill(home: Path, settings: Mapping[str, str] | None = None, registry: Registry = REGISTRY) -> None:
    """Put the cards into a home and sync them."""
    with environment_kept():
        os.environ.update(settings or {})
        with connect(registry, home) as store:
            store.write_source(payments, cards())
            store.materialize_incremental(group.name)
            store.sync(group.name)


@contextmanager
def featurefab(
    home: Path, settings: Mapping[str, str] | None = None, registry: str = "served:REGISTRY"
) -> Iterator[str]:
    """The URL of a feature server of its own over a home; ``registry`` is named as below ``benchmarks``."""
    port = free_port()
    named = {"FEATUREFAB_HOME": str(home), "FEATUREFAB_REGISTRY": f"benchmarks.{registry}", **(settings or {})}
    with started([sys.executable, "-m", "flows", "serve", f"--port={port}"], port, named) as url:
        yield url


@contextmanager
def bare(place: str) -> Iterator[str]:
    """The URL of a bare Starlette handler over an LMDB folder or a Redis URL, which it fills with the cards."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.bare_server", place, str(port), str(CARDS), str(FEATURES)]
    with started(command, port) as url:
        yield url


@contextmanager
def started(command: Sequence[str], port: int, named: Mapping[str, str] | None = None) -> Iterator[str]:
    """A server once it answers a request for one entity."""
    url = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **(named or {}), "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said) as process,
    ):
        try:
            while not _answers(url):
                assert process.poll() is None, f"{command} ended with {process.returncode}"
                time.sleep(0.005)
            yield url
        except BaseException:
            said.seek(0)
            sys.stderr.buffer.write(said.read())
            raise
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    asked = {"features": FULL_NAMES[:1], "entities": {"card_id": [1]}}
    try:
        httpx.post(url + PATH, json=asked, timeout=60, trust_env=False).raise_for_status()
    except httpx.ConnectError:
        return False
    return True


def _load(url: str, script: Path) -> Load:
    wrk = shutil.which("wrk")
    if wrk is None:
        raise RuntimeError("the load comes from wrk: install Debian's package `wrk`")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--latency", "-s", str(script), url + PATH]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Non-2xx" not in said, said
    assert "Socket errors" not in said, said
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert rate is not None
    assert p99 is not None
    return Load(float(rate[1]), float(p99[1]) * _UNITS[p99[2]])
