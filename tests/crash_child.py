"""Works on a home and dies by SIGKILL at a chosen commit: the child of the crash proofs.

``python crash_child.py LINE HOME [STEP [before|after COMMIT]]`` says "ready", waits for a line or the end
of its input, runs the line from the step numbered STEP on, prints the number of each step as it begins
and at the end every commit there was. A commit is a Delta commit (a table created, rows appended or
deleted) or an LMDB write transaction; the first one has number 1. HOME is a folder named "home".
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from card_payments import DAY, HOUR, T0, amount, group, last_payment, paid, payments
from features import Feature, FeatureStore, Registry
from features.capacity import Capacity
from infra.storage import delta_io
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_environment import LmdbEnvironment
from infra.storage.lmdb_store import LmdbOnlineStore

CARDS = 3
BATCHES = 5
spending = group(
    "spending",
    [Feature("n_1d", pl.len(), window="1d"), Feature("sum_1d", amount.sum(), window="1d")],
    grain="window",
    every="6h",
)
REGISTRY = Registry([last_payment, spending])


def payments_of(day: int) -> pl.DataFrame:
    """Twelve payments of a day, and from the second day on a late one and a correction to the day before."""
    rows = [(100 * day + i, i % CARDS, float(i), T0 + day * DAY + 2 * i * HOUR) for i in range(12)]
    if day:
        rows += [(100 * day - 1, 1, 50.0, T0 + (day - 1) * DAY + HOUR), (100 * (day - 1), 0, 7.0, T0 + (day - 1) * DAY)]
    return paid(*rows)


def open_store(home: Path, now: datetime = T0) -> FeatureStore:
    """A store on a home whose clock stands at ``now``, with chunks of about a day."""
    lake, online = DeltaLake(home / "lake"), LmdbOnlineStore(home / "online")
    return FeatureStore(REGISTRY, lake, online, clock=lambda: now, capacity=Capacity(rows=48))


STEPS: list[Callable[[FeatureStore], object]] = [
    lambda store: store.write_source(payments, pl.concat(map(payments_of, range(3))), "first days"),
    lambda store: store.materialize(spending, T0, T0 + 3 * DAY),
    lambda store: store.sync(spending),
    lambda store: store.write_source(payments, payments_of(3), "last day"),
    lambda store: store.materialize_incremental(spending),
    lambda store: store.sync(spending),
]


def run_features(home: Path, first: int = 0, until: int | None = None) -> None:
    """Write, backfill, sync, write more, materialize what that made necessary, sync: each at a moment of its own."""
    for number, step in enumerate(STEPS[first:until], first):
        print(number, flush=True)
        with open_store(home, T0 + 4 * DAY + number * HOUR) as store:
            step(store)


def run_backfill(home: Path, first: int = 0) -> None:
    """The backfill alone."""
    run_features(home, first + 1, first + 2)


def run_writers(home: Path, first: int = 0) -> None:
    """Write batches: some of this writer's own, and some that all writers write."""
    with open_store(home) as store:
        for batch in range(BATCHES):
            rows = payments_of(0).with_columns(pl.col("payment_id") + 10_000 * (first + 1) + 100 * batch)
            store.write_source(payments, rows, f"writer {first}, batch {batch}")
            store.write_source(payments, payments_of(0), f"shared batch {batch}")


def run_ingest(home: Path, first: int = 0) -> None:
    """Take in the files of the folder "landing" two levels above, two at a time."""
    # Here, so that children that need no Great Expectations start in half a second.
    from expectations.suites import suite_for  # noqa: PLC0415
    from features.definitions import REGISTRY as WAFERS  # noqa: PLC0415
    from infra.ingest import Ingestor  # noqa: PLC0415
    from infra.sources.stdf import StdfReader  # noqa: PLC0415
    from infra.sources.tabular import TabularReader  # noqa: PLC0415

    print(first, flush=True)
    lake, registry = DeltaLake(home / "lake"), Registry([*WAFERS.sources.values(), last_payment])
    ingestor = Ingestor(lake, registry, StdfReader((5.0, 5.0)), TabularReader, suite_for, lambda: T0, batch_files=2)
    ingestor.ingest([home.parents[1] / "landing"])


def run_release(home: Path, first: int = 0) -> None:
    """Let in what waits in quarantine, by rules that allow any reading."""
    from expectations.suites import suite_for, wafer  # noqa: PLC0415
    from features.definitions import REGISTRY as WAFERS  # noqa: PLC0415
    from infra.quarantine import Quarantine  # noqa: PLC0415

    print(first, flush=True)
    relaxed = replace(wafer.test_results, rows=[rule for rule in wafer.test_results.rows if not rule.where])
    lake, registry = DeltaLake(home / "lake"), Registry([*WAFERS.sources.values(), last_payment])
    suites = {"test_results": relaxed}
    Quarantine(lake, registry, lambda s: suites.get(s.name) or suite_for(s), lambda: T0).release("test_results")


LINES = {
    "features": run_features,
    "backfill": run_backfill,
    "writers": run_writers,
    "ingest": run_ingest,
    "release": run_release,
}


class Executioner:
    """Notes every commit, and kills this process exactly before or after one of them."""

    def __init__(self, when: str = "never", number: int = 0) -> None:
        self.commits: list[str] = []
        self._fate = (when, number)

    def watch(self) -> None:
        """Stand beside everything that commits."""
        table: Any = delta_io.DeltaTable
        delta_io.write_deltalake = self._beside("append", delta_io.write_deltalake)
        table.create_write_transaction = self._beside("append", table.create_write_transaction)
        table.create = self._beside("create", table.create)
        table.delete = self._beside("delete", table.delete)
        LmdbEnvironment.write = self._beside("write", LmdbEnvironment.write)

    def _beside(self, verb: str, commit: Callable[..., object]) -> Callable[..., object]:
        def watched(place, *args, **kwargs):
            where = str(getattr(place, "table_uri", None) or getattr(place, "path", place))
            named = where.partition("/home/")[2].strip("/")
            named = re.sub(r"(tiles/.*)/.*", r"\1", named)  # without the layout's hash
            self.commits.append(f"{verb} {named}")
            self._strike("before")
            done = commit(place, *args, **kwargs)
            self._strike("after")
            return done

        return watched

    def _strike(self, when: str) -> None:
        if self._fate == (when, len(self.commits)):
            os.kill(os.getpid(), signal.SIGKILL)


def obey(lines: Mapping[str, Callable[..., None]], kind: type[Executioner] = Executioner) -> None:
    """Do what the command line says."""
    line, place, *rest = sys.argv[1:]
    executioner = kind(*rest[1:2], *map(int, rest[2:]))
    executioner.watch()
    print("ready", flush=True)
    sys.stdin.readline()
    lines[line](Path(place), *map(int, rest[:1]))
    print("\n".join(executioner.commits))


if __name__ == "__main__":
    obey(LINES)
