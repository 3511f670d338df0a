"""Rollback and release of a group of 1 M entities × 10 features, on Delta and LMDB, published."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measurement import Measurement, seconds
from features import Entity, Feature, FeatureGroup, FeatureStore, Registry, Source
from infra.storage.delta import DeltaLake
from infra.storage.lmdb_store import LmdbOnlineStore

ENTITIES, DAYS = 1_000_000, 10
T0 = datetime(2026, 3, 1, tzinfo=UTC)
card = Entity("card", keys={"card_id": pl.Int64})
events = Source("events", schema={"card_id": pl.Int64, "at": pl.Datetime, "x": pl.Float64}, event_timestamp="at")


def group(version: str, factor: float) -> FeatureGroup:
    """A group of ten floats per event; versions differ in every value."""
    features = [Feature(f"f{i}", pl.col("x") * (i + factor)) for i in range(10)]
    about = {"owner": "benchmarks", "description": "Ten random features."}
    return FeatureGroup("g", version, card, events, features, grain="event", **about)


class Home:
    """A home where two versions wrote and published a row of every entity."""

    def __init__(self, folder: Path) -> None:
        self._now = T0 + timedelta(days=DAYS)
        self._lake, self._online = DeltaLake(folder / "lake"), LmdbOnlineStore(folder / "online")
        self.store = self._deploy("1.0.0", 0.5)
        self.store.write_source(events, _rows())
        self.store.materialize_incremental("g")
        self.store.sync("g")
        self.store = self._deploy("1.0.1", 1.5)
        self.store.materialize("g", T0, self._now)
        self.sync_seconds = seconds(lambda: self.store.sync("g"))

    def _deploy(self, version: str, factor: float) -> FeatureStore:
        store = FeatureStore(Registry([group(version, factor)]), self._lake, self._online, clock=self._clock)
        store.apply()
        return store

    def _clock(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def answer(self) -> float:
        """The first feature of one entity as it is served."""
        found: float = self.store.get_online_features(["g:f0"], [{"card_id": 7}]).to_dict()["f0"][0]
        return found


def _rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    at = T0 + pl.Series(rng.integers(0, DAYS * 86_400, ENTITIES)).cast(pl.Duration("ms")) * 1000
    return pl.DataFrame({"card_id": np.arange(ENTITIES), "at": at, "x": rng.random(ENTITIES)})


def _measured(*, release: bool) -> Measurement:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        served = home.answer()
        took = seconds(lambda: home.store.rollback("g", "1.0.0"))
        assert home.answer() < served
        if release:
            took = seconds(lambda: home.store.release("g"))
            assert home.answer() == served
        return Measurement(took, "s", home.sync_seconds, took / home.sync_seconds)


def rollback_1m() -> Measurement:
    """Seconds of a rollback, publication included, against one sync of as many rows."""
    return _measured(release=False)


def release_1m() -> Measurement:
    """Seconds of the release after it, likewise."""
    return _measured(release=True)
