"""Against Feast's Python feature server, on the same Valkey: `make bench-peers` installs it and runs these."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.measurement import Measurement
from benchmarks.served import CARDS, FULL_NAMES, PATH, TESTS, Turns, by_turns, cards, featurefab, fill, started
from valkey_servers import ValkeyServer, free_port

PEERS = TESTS.parent / "build/peers/.venv/bin"
SAMPLE = 200


def feast_1() -> Measurement:
    """Requests a second for one entity of ten features."""
    return _turns(1).rate()


def feast_100() -> Measurement:
    """Requests a second for a hundred entities of ten features."""
    return _turns(100).rate()


def feast_1_p99() -> Measurement:
    """The 99th percentile of the latency for one entity."""
    return _turns(1).p99()


def feast_100_p99() -> Measurement:
    """The 99th percentile of the latency for a hundred entities."""
    return _turns(100).p99()


def _turns(entities: int) -> Turns:
    """Loads of both, once it is known that they answer the same."""
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(port=free_port()) as valkey:
        settings = {"FEATUREFAB_ONLINE": "redis", "FEATUREFAB_REDIS_URL": valkey.url}
        home = Path(folder) / "home"
        fill(home, settings)
        with featurefab(home, settings) as ours, _feast(Path(folder), valkey.port) as feast:
            asked = random.Random(0).sample(range(CARDS), SAMPLE)
            assert _answer(ours, asked) == _answer(feast, asked)
            return by_turns(ours, feast, entities)


@contextmanager
def _feast(folder: Path, redis_port: int) -> Iterator[str]:
    """The URL of Feast's server with one worker, which need not start anew after a thousand requests, as it would."""
    if not (PEERS / "feast").exists():
        raise RuntimeError("Feast is not installed: run `make bench-peers`")
    file, repository, port = folder / "cards.parquet", folder / "feast", free_port()
    cards().write_parquet(file)
    script = Path(__file__).with_name("peers") / "fill_feast.py"
    arguments = [str(repository), str(file), f"127.0.0.1:{redis_port}"]
    subprocess.run([str(PEERS / "python"), str(script), *arguments], check=True, stdout=sys.stderr)
    command = [str(PEERS / "feast"), "--chdir", str(repository), "serve", f"--port={port}"]
    home = {"HOME": str(folder)}  # its Gunicorn keeps a socket there
    with started([*command, "--no-access-log", "--max-requests=0"], port, home) as url:
        yield url


def _answer(url: str, asked: list[int]) -> dict[str, list[Any]]:
    """The values of some cards by name."""
    body = {"features": FULL_NAMES, "entities": {"card_id": asked}}
    answer = httpx.post(url + PATH, json=body, timeout=60, trust_env=False).raise_for_status().json()
    results = [result["values"] for result in answer["results"]]
    return dict(zip(answer["metadata"]["feature_names"], results, strict=True))
