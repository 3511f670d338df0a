"""Wide groups: 10,000 features of 10,000 entities, materialized, planned, synced, and 20 of them served."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.measurement import Measurement, seconds
from features import Entity, Feature, FeatureGroup, Registry, Source
from infra.wiring import connect

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ENTITIES, ROWS_EACH, COLUMNS, FEATURES = 10_000, 3, 100, 10_000
ABOUT = {"owner": "bench", "description": "bench"}


def wide_10k() -> Measurement:
    """Materialize the group; what comes after it has to work, and is not timed."""
    machine = Entity("machine", keys={"machine_id": pl.Int64})
    names = [f"c{i}" for i in range(COLUMNS)]
    schema = {"machine_id": pl.Int64, "at": pl.Datetime("us", "UTC")} | dict.fromkeys(names, pl.Float64)
    readings = Source("readings", schema=schema, event_timestamp="at")
    features = [Feature(f"f{i}", (pl.col(names[i % COLUMNS]) * (1 + i // COLUMNS)).mean()) for i in range(FEATURES)]
    group = FeatureGroup("wide", "1.0.0", machine, readings, features, grain="entity", settle="1h", **ABOUT)
    with tempfile.TemporaryDirectory() as folder:
        store = connect(Registry([group]), Path(folder), lambda: T0 + timedelta(days=1))
        random, rows = np.random.default_rng(7), ENTITIES * ROWS_EACH
        values = {name: random.normal(size=rows) for name in names}
        minutes = pl.Series(np.tile(np.arange(ROWS_EACH), ENTITIES))
        frame = pl.DataFrame({"machine_id": np.repeat(np.arange(ENTITIES), ROWS_EACH), **values})
        store.write_source(readings, frame.with_columns((T0 + pl.duration(minutes=minutes)).alias("at")))
        taken = seconds(lambda: store.materialize_incremental(group))
        assert store.plan().exit_code == 0
        store.sync(group)
        asked = [f"wide:f{i}" for i in range(0, FEATURES, FEATURES // 20)]
        served = store.get_online_features(asked, [{"machine_id": 7}]).to_dict()
        history = pl.DataFrame({"machine_id": [7], "event_timestamp": [T0 + timedelta(days=1)]})
        offline = store.get_historical_features(history, asked).to_polars()
        assert [served[ref.split(":")[1]][0] for ref in asked] == [offline[ref.split(":")[1]][0] for ref in asked]
        store.close()
    return Measurement(taken, "s")
