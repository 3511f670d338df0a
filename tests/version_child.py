"""Rolls a home back and releases it, and dies by SIGKILL at a chosen commit: the child of the proofs of versions.

``python version_child.py LINE HOME [STEP [before|after COMMIT]]``, as ``crash_child.py`` does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from card_payments import DAY, HOUR, T0, last_payment, payments
from crash_child import obey, payments_of
from features import Feature, FeatureGroup, FeatureStore, Registry
from features.capacity import Capacity
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore

BEGIN = T0 + 4 * DAY
GROUP = last_payment.name
tenfold = replace(last_payment, version="1.1.0", features=[Feature("amount_last", pl.col("amount") * 10)])


def open_store(home: Path, step: int, group: FeatureGroup) -> FeatureStore:
    """A store on a home at the moment of a step, with the code of a version."""
    lake, online = DeltaLake(home / "lake"), LmdbOnlineStore(home / "online")
    now = BEGIN + step * HOUR
    return FeatureStore(Registry([group]), lake, online, clock=lambda: now, capacity=Capacity(rows=12), user="ann")


STEPS: list[tuple[FeatureGroup, Callable[[FeatureStore], object]]] = [
    (last_payment, lambda store: store.write_source(payments, pl.concat(map(payments_of, range(2))), "first days")),
    (last_payment, lambda store: store.materialize_incremental(GROUP)),
    (last_payment, lambda store: store.sync(GROUP)),
    (tenfold, lambda store: store.apply()),
    (tenfold, lambda store: store.materialize(GROUP, T0, T0 + 3 * DAY)),
    (tenfold, lambda store: store.write_source(payments, payments_of(2), "third day")),
    (tenfold, lambda store: store.materialize_incremental(GROUP)),
    (tenfold, lambda store: store.sync(GROUP)),
    (tenfold, lambda store: store.rollback(GROUP, "1.0.0")),
    (tenfold, lambda store: store.write_source(payments, payments_of(3), "last day")),
    (tenfold, lambda store: store.release(GROUP)),
    (tenfold, lambda store: store.materialize_incremental(GROUP)),
    (tenfold, lambda store: store.sync(GROUP)),
]
ROLLBACK = 8
"""The step that rolls back."""


def run_steps(home: Path, first: int = 0, until: int | None = None) -> None:
    """Materialize as one version and as the next, roll back, release, go on: each step at a moment of its own."""
    for number, (group, step) in list(enumerate(STEPS))[first:until]:
        print(number, flush=True)
        with open_store(home, number, group) as store:
            step(store)


def run_rollback(home: Path, first: int = ROLLBACK) -> None:
    """One rollback or release."""
    run_steps(home, first, first + 1)


def run_apply(home: Path, first: int = 0) -> None:
    """Apply a definition that others know nothing of."""
    extra = Feature(f"extra_{first}", pl.col("amount"))
    wider = replace(last_payment, version="1.1.0", features=[*last_payment.features, extra])
    with open_store(home, len(STEPS), wider) as store:
        store.versions.plan()
        print("planned", flush=True)
        store.apply()


LINES = {"steps": run_steps, "rollback": run_rollback, "apply": run_apply}

if __name__ == "__main__":
    obey(LINES)
