"""Maintenance killed at any step and run again: every row, every pinned version and the next day as if undisturbed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

import crash_child
from card_payments import DAY, HOUR, T0, payments
from children import KILLED, run, run_for
from crash_child import open_store, payments_of, spending
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from maintain_child import PINNED, run_maintain

CHILD = "maintain_child.py"

ALL = ("merge", "checkpoint", "clean", "vacuum")
STEPS = [
    *(f"{step} lake/{table}" for table in ("bronze/payments", "features/spending/v1", "publish_log") for step in ALL),
    *("checkpoint lake/registry/groups", "clean lake/registry/groups"),  # one file: nothing to merge
    *(f"{step} lake/tiles/spending/v1" for step in ALL),
]
QUICK = {("before", 1), ("after", 5), ("before", 6), ("before", 8), ("after", 8), ("after", 9)}
POINTS = [
    pytest.param(when, number, id=f"{when}-{number}-{what}", marks=marks)
    for number, what in enumerate(STEPS, 1)
    for when in ("before", "after")
    for marks in [() if (when, number) in QUICK else (pytest.mark.prove,)]
]


def content(home: Path) -> dict[str, object]:
    """Every row of every table, of its pinned versions and of the online store, in an order of its own."""
    found: dict[str, object] = {}
    lake = DeltaLake(home / "lake")
    for path in lake.paths():
        for version in (None, *sorted(PINNED.get(path, ()))):
            rows = lake.table(path).scan(version).collect()
            found[f"{path} at {version}"] = sorted(rows.select(sorted(rows.columns)).rows(), key=repr)
    online = LmdbOnlineStore(home / "online")
    found["online"] = online.read(spending.table_id, [(card,) for card in range(crash_child.CARDS)])
    online.close()
    return found


def next_day(home: Path) -> None:
    with open_store(home, T0 + 6 * DAY) as store:
        store.write_source(payments, payments_of(4), "next day")
        store.materialize_incremental(spending)
        store.sync(spending)


class Bench:
    """A home of some days beside its copies, and what it holds now and after the next day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._start = folder / "start" / "home"
        self._start.mkdir(parents=True)
        crash_child.run_features(self._start)
        for day in (5, 6):  # so that each table has several files
            with open_store(self._start, T0 + 5 * DAY + day * HOUR) as store:
                store.write_source(payments, payments_of(1).with_columns(amount=float(day) + payments_of(1)["amount"]))
                store.materialize_incremental(spending)
                store.sync(spending)
        self.now = content(self._start)
        undisturbed = self.home("undisturbed")
        next_day(undisturbed)
        self.then = content(undisturbed)

    def home(self, name: str) -> Path:
        home = self._folder / name / "home"
        shutil.copytree(self._start, home)
        return home

    def check(self, home: Path) -> None:
        """What was killed is whole; run again it is still; the next day finds nothing missing."""
        assert content(home) == self.now
        run_maintain(home)
        assert content(home) == self.now
        next_day(home)
        assert content(home) == self.then
        shutil.rmtree(home.parent)


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("maintain"))


def test_these_are_the_steps(bench):
    home = bench.home("counted")
    assert run(CHILD, "maintain", home) == (0, STEPS)
    bench.check(home)


@pytest.mark.parametrize(("when", "number"), POINTS)
def test_killed_at_a_step_nothing_is_lost(bench, when, number):
    home = bench.home(f"{when}-{number}")
    assert run(CHILD, "maintain", home, 0, when, number)[0] == KILLED
    bench.check(home)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment_nothing_is_lost(bench, seed):
    home = bench.home(f"moment-{seed}")
    # Any moment will do: in the midst of a commit, of a deletion.
    run_for(random.Random(seed).uniform(0, 0.5), CHILD, "maintain", home)
    bench.check(home)
