"""The feature server and syncs are killed while clients read and push: nothing wrong is answered, no push is lost."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from threading import Thread

import httpx
import pytest

from children import KILLED
from infra.wiring import connect
from serving_load import READ, Load, Processes, check_home
from state_home import CARDS, REGISTRY, make
from valkey_servers import ValkeyServer


class Syncs:
    """Versions made one after another by children that may be killed."""

    def __init__(self, processes: Processes, load: Load) -> None:
        self._processes, self._load = processes, load
        self._child, self._next = processes.syncer(), processes.syncer()
        self._ready = False
        self.took = 0.0
        self.killed = 0

    def make(self, last: float | None = None) -> None:
        """Bring the next version online, in a child that is killed after so many seconds if it lasts so long."""
        child, version = self._child, self._load.begun + 1
        self._ready = self._ready or child.stdout.readline() == "ready\n"
        assert self._ready
        self._load.begun = version
        began = time.monotonic()
        child.stdin.write(f"{version}\n")
        child.stdin.flush()
        if last is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(last)
            child.kill()
        done = bool(child.stdout.readline())
        if done:
            self._load.done, self.took = version, time.monotonic() - began
        if last is None:
            assert done
        else:
            child.communicate()
            assert child.returncode == KILLED
            self.killed += not done
            self._child, self._next, self._ready = self._next, self._processes.syncer(), False

    def close(self) -> None:
        for child in (self._child, self._next):
            child.kill()
            child.communicate()


LONG = [(online, 25, workers) for online in ("lmdb", "redis") for workers in (1, 2)]


@pytest.mark.parametrize(
    ("online", "rounds", "workers"),
    [("lmdb", 1, 1), *(pytest.param(*each, marks=pytest.mark.prove) for each in LONG)],
)
def test_a_killed_server_and_killed_syncs_lose_nothing_and_answer_nothing_wrong(
    tmp_path, monkeypatch, online, rounds, workers
):
    seed = random.randrange(2**32) if rounds > 1 else 1
    chosen = random.Random(seed)
    settings = {"FEATUREFAB_ONLINE": online}
    with ExitStack() as stack:
        if online == "redis":
            settings["FEATUREFAB_REDIS_URL"] = stack.enter_context(ValkeyServer()).url
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        home = tmp_path / "home"
        with connect(REGISTRY, home) as store:
            make(store, 0)
        processes = Processes(home, settings, f"--workers={workers}")
        load = Load(processes.url)
        syncs = Syncs(processes, load)
        stack.callback(syncs.close)
        stack.callback(processes.kill_server)
        processes.serve()
        with load.running(seed):
            load.answers(20)
            syncs.make()
            for _ in range(rounds):
                syncs.make(chosen.uniform(0, 1.2 * syncs.took))
                load.answers(20)
                killer = Thread(target=kill_later, args=(processes, chosen.uniform(0, syncs.took)))
                killer.start()
                syncs.make()
                killer.join()
                processes.serve()
                load.answers(20)
        print(
            f"seed {seed}: {dict(load.told)}, {syncs.killed} syncs killed in their middle, one took {syncs.took:.2f} s"
        )
        assert not load.wrong, load.wrong[:3]
        check_answers(load)
        check_home(home, load)


def kill_later(processes: Processes, seconds: float) -> None:
    time.sleep(seconds)
    processes.kill_server()


def check_answers(load: Load) -> None:
    """Every card is of its newest version."""

    def versions(cards: Iterable[int]) -> list[int]:
        asked = {"features": ["state:version"], "entities": {"card_id": list(cards)}}
        return client.post(READ, json=asked).json()["results"][1]["values"]

    with httpx.Client(base_url=load.url, timeout=60, trust_env=False) as client:
        for first in range(0, CARDS, 1_000):
            assert set(versions(range(first, first + 1_000))) == {load.done}
        assert versions(load.acknowledged) == [pushes[-1][1] for pushes in load.acknowledged.values()]
