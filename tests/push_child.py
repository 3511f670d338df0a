"""Pushes to a home and dies by SIGKILL at a chosen commit: the child of the proofs of push.

``python push_child.py LINE HOME [STEP [before|after COMMIT]]``, as ``crash_child.py`` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl

from card_payments import DAY, HOUR, T0, last_payment, payments
from crash_child import REGISTRY, obey, payments_of
from features import FeatureStore
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore
from infra.storage.push_log import LmdbPushLog

PUSHES = 20
BEGIN = T0 + 4 * DAY


def open_store(home: Path, now: datetime) -> FeatureStore:
    """A store on a home whose clock stands at ``now``; it folds when it is told to, and before runs."""
    lake, online, log = DeltaLake(home / "lake"), LmdbOnlineStore(home / "online"), LmdbPushLog(home / "push_log")
    return FeatureStore(REGISTRY, lake, online, clock=lambda: now, push_log=log, fold_after=None)


def pushed(*rows: tuple[int, float, float]) -> pl.DataFrame:
    """Rows of (card, hours after the first day, amount)."""
    moments = [(card, T0 + hours * HOUR, amount) for card, hours, amount in rows]
    schema = {"card_id": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC"), "amount_last": pl.Float64}
    return pl.DataFrame(moments, schema=schema, orient="row")


STEPS: list[Callable[[FeatureStore], object]] = [
    lambda store: store.write_source(payments, pl.concat(map(payments_of, range(3))), "first days"),
    lambda store: store.materialize_incremental(last_payment),
    lambda store: store.push(last_payment, pushed((0, 80, 1.0), (1, 1, 2.0), (1, 81, 3.0)), "a"),
    lambda store: store.sync(last_payment),
    lambda store: store.push(last_payment, pushed((0, 82, 4.0), (7, 1, 5.0)), "b"),
    lambda store: store.fold(last_payment),
    lambda store: store.push(last_payment, pushed((0, 83, 6.0)), "c"),
    lambda store: store.write_source(payments, payments_of(3), "last day"),
    lambda store: store.materialize_incremental(last_payment),
    lambda store: store.sync(last_payment),
]


def run_steps(home: Path, first: int = 0) -> None:
    """Push before and after syncs, runs and folds, each step at a moment of its own."""
    for number, step in enumerate(STEPS[first:], first):
        print(number, flush=True)
        with open_store(home, BEGIN + number * HOUR) as store:
            step(store)


def run_pushers(home: Path, first: int = 0) -> None:
    """Push rows of one's own and rows that everybody pushes, all at one moment, and fold now and then."""
    with open_store(home, BEGIN) as store:
        for number in range(PUSHES):
            store.push(last_payment, pushed((100 * (first + 1) + number, 1.5, number)))
            store.push(last_payment, pushed((number, 2.5, number)), f"shared {number}")
            if number % 5 == first:
                store.fold(last_payment)


def run_runner(home: Path, first: int = 0) -> None:  # noqa: ARG001  # as the others
    """Materialize again and again: every time there is something new, and pushes come in between."""
    for number in range(5):
        with open_store(home, BEGIN + number * HOUR) as store:
            store.write_source(payments, payments_of(number % 4).with_columns(pl.col("payment_id") + 10_000 * number))
            store.materialize_incremental(last_payment)
            store.sync(last_payment)


LINES = {"steps": run_steps, "pushers": run_pushers, "runner": run_runner}

if __name__ == "__main__":
    obey(LINES)
