"""Works on a home and dies by SIGKILL at a chosen commit: the child of the crash proofs.

``python crash_child.py LINE HOME [STEP [before|after COMMIT]]`` says "ready", waits for a line or the end
of its input, runs the line from the step numbered STEP on, prints the number of each step as it begins
and at the end every commit there was. A commit is a Delta commit (a table created, rows appended or
deleted) or an LMDB write transaction; the first one has number 1. HOME is a folder named "home".
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from features.capacity import Capacity
from infra.storage import delta_io
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_environment import LmdbEnvironment
from infra.storage.lmdb_store import LmdbOnlineStore

T0 = datetime(2026, 3, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CARDS = 3
BATCHES = 5

card = Entity("card", keys={"card_id": pl.Int64})
payments = Source(
    "payments",
    schema={"payment_id": pl.Int64, "card_id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    event_timestamp="at",
    keys=["payment_id"],
)
ABOUT = {"owner": "payments", "description": "About a card."}
last_payment = FeatureGroup(
    "last_payment", "1.0.0", card, payments, [Feature("amount_last", pl.col("amount"))], grain="event", **ABOUT
)
spending = FeatureGroup(
    "spending",
    "1.0.0",
    card,
    payments,
    [Feature("n_1d", pl.len(), window="1d"), Feature("sum_1d", pl.col("amount").sum(), window="1d")],
    grain="window",
    every="6h",
    **ABOUT,
)
REGISTRY = Registry([last_payment, spending])


def payments_of(day: int) -> pl.DataFrame:
    """Twelve payments of a day, and from the second day on a late one and a correction to the day before."""
    rows = [(100 * day + i, i % CARDS, float(i), T0 + day * DAY + 2 * i * HOUR) for i in range(12)]
    if day:
        rows += [(100 * day - 1, 1, 50.0, T0 + (day - 1) * DAY + HOUR), (100 * (day - 1), 0, 7.0, T0 + (day - 1) * DAY)]
    return pl.DataFrame(rows, schema=dict(payments.schema), orient="row")


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


LINES = {"features": run_features, "backfill": run_backfill, "writers": run_writers, "ingest": run_ingest}


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
            where = getattr(place, "table_uri", None) or getattr(place, "path", place)
            self.commits.append(f"{verb} {str(where).partition('/home/')[2].strip('/')}")
            self._strike("before")
            done = commit(place, *args, **kwargs)
            self._strike("after")
            return done

        return watched

    def _strike(self, when: str) -> None:
        if self._fate == (when, len(self.commits)):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    line, place, *rest = sys.argv[1:]
    executioner = Executioner(*rest[1:2], *map(int, rest[2:]))
    executioner.watch()
    print("ready", flush=True)
    sys.stdin.readline()
    LINES[line](Path(place), *map(int, rest[:1]))
    print("\n".join(executioner.commits))
