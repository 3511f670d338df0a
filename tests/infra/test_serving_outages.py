"""Valkey is killed and comes back under the feature server's load: what was there, a marked default, or a 503."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import polars as pl
import pytest

from features.feature_rows import EVENT
from infra.wiring import connect
from serving_load import FIRST_PUSHED, Load, Processes, check_home
from state_home import CARDS, GROUPS, REGISTRY, make, state
from valkey_servers import ValkeyServer, until

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@contextmanager
def loaded(tmp_path, monkeypatch, valkey: ValkeyServer, seed: int) -> Iterator[Load]:
    """A server over a home in Valkey, and clients that read and push while the block lasts."""
    settings = {"FEATUREFAB_ONLINE": "redis", "FEATUREFAB_REDIS_URL": valkey.url}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    home = tmp_path / "home"
    with connect(REGISTRY, home) as store:
        make(store, 0)
        make(store, 1)
    processes = Processes(home, settings)
    try:
        processes.serve()
        load = Load(processes.url, begun=1, done=1)
        with load.running(seed):
            load.answers(20)
            yield load
    finally:
        processes.kill_server()
    print(f"seed {seed}: {dict(load.told)}")
    assert not load.wrong, load.wrong[:3]


def outage(load: Load, valkey: ValkeyServer) -> float:
    """Kill Valkey, see that clients are told so, start it; how long until the first answer from it, in seconds."""
    valkey.kill()
    seen = load.told.copy()
    until(lambda: load.wrong or all(load.told[kind] > seen[kind] + 2 for kind in ("default", "503 read", "503 push")))
    assert not load.wrong, load.wrong[:3]
    valkey.start()
    began, stored = time.monotonic(), load.told["store"] + load.told["missing"]
    until(lambda: load.wrong or load.told["store"] + load.told["missing"] > stored)
    return time.monotonic() - began


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.prove)])
def test_a_valkey_that_keeps_its_rows_answers_them_again(tmp_path, monkeypatch, rounds):
    chosen = random.Random(seed := random.randrange(2**32) if rounds > 1 else 0)
    with ValkeyServer(*ALWAYS) as valkey:
        recoveries = []
        with loaded(tmp_path, monkeypatch, valkey, seed) as load:
            for _ in range(rounds):
                recoveries.append(outage(load, valkey))
                load.answers(chosen.randrange(1, 200))
        print(f"first answers after {min(recoveries):.3f} to {max(recoveries):.3f} s")
        check_home(tmp_path / "home", load)


@pytest.mark.prove
@pytest.mark.parametrize("rounds", [10])
def test_a_valkey_that_comes_back_empty_gets_everything_with_the_next_sync(tmp_path, monkeypatch, rounds):
    seed = random.randrange(2**32) if rounds > 1 else 0
    home = tmp_path / "home"
    with ValkeyServer() as valkey:
        with loaded(tmp_path, monkeypatch, valkey, seed) as load:
            for _ in range(rounds):
                with connect(REGISTRY, home) as store:
                    store.fold(state)  # what was pushed so far is in the table alone
                known = datetime.now(UTC)
                load.answers(20)
                before, missing = served(home, known), load.told["missing"]
                load.lost = True
                outage(load, valkey)
                until(lambda missing=missing: load.wrong or load.told["missing"] > missing)
                with connect(REGISTRY, home) as store:
                    assert [store.online.watermark(group.table_id) for group in GROUPS] == [0, 0]
                    for group in GROUPS:
                        store.sync(group)
                load.lost = False
                load.answers(50)
                assert served(home, known).equals(before)
        check_home(home, load)


def served(home, at: datetime) -> pl.DataFrame:
    """What was answered of some cards at a moment."""
    cards = [0, 1, CARDS - 1, FIRST_PUSHED, FIRST_PUSHED + 1]
    asked = pl.DataFrame({"card_id": cards, EVENT: at}, schema_overrides={EVENT: pl.Datetime("us", "UTC")})
    with connect(REGISTRY, home) as store:
        return store.get_historical_features(asked, ["state:version"], history="as_served").to_polars()
