"""The feature server on Valkey under load from wrk, one worker, against a bare handler on the same Valkey."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measurement import Measurement
from benchmarks.served import Turns, bare, by_turns, featurefab, fill
from valkey_servers import ValkeyServer, free_port


def http_1_valkey() -> Measurement:
    """Requests a second for one entity of ten features."""
    return _turns(1).rate()


def http_100_valkey() -> Measurement:
    """Requests a second for a hundred entities of ten features."""
    return _turns(100).rate()


def http_1_valkey_p99() -> Measurement:
    """The 99th percentile of the latency for one entity."""
    return _turns(1).p99()


def http_100_valkey_p99() -> Measurement:
    """The 99th percentile of the latency for a hundred entities."""
    return _turns(100).p99()


def _turns(entities: int) -> Turns:
    """Over TCP, as between machines; the bare handler blocks on its client, which is the faster way here."""
    with tempfile.TemporaryDirectory() as folder, ValkeyServer(port=free_port()) as valkey:
        settings = {"FEATUREFAB_ONLINE": "redis", "FEATUREFAB_REDIS_URL": valkey.url}
        fill(Path(folder), settings)
        with featurefab(Path(folder), settings) as ours, bare(valkey.place) as other:
            return by_turns(ours, other, entities)
