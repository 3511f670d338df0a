"""The nightly flow: the whole line, station by station."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow

from flows.ingest import ingest
from flows.materialize import materialize
from flows.moment import moment_of
from flows.monitor import monitor
from flows.sync import sync
from flows.tasks import Facts
from flows.train import train
from infra.model_runs import untrained
from infra.settings import load_settings
from infra.wiring import open_platform


@flow(name="nightly", flow_run_name="nightly")
def nightly(landing: str | None = None, now: datetime | None = None) -> Facts:
    """Ingest, materialize, sync, train the models that have no version yet, score and report.

    Args:
        landing: The folder in which files arrive; empty for the home's own.
        now: The moment the night counts as; empty for the present.
    """
    moment = moment_of(now)
    folder = landing or str(load_settings().landing)
    arrived = Path(folder).is_dir() and any(path.is_file() for path in Path(folder).rglob("*"))
    ingested = ingest([folder], now=moment) if arrived else {"files": 0, "skipped": f"nothing in {folder}"}
    materialized = materialize(now=moment)
    synced = sync(now=moment)
    with open_platform() as platform:
        missing = untrained(platform.store, platform.tracker)
    trained = train(missing, now=moment) if missing else []
    return {
        "now": moment.isoformat(),
        "ingested": ingested,
        "materialized": materialized,
        "synced": synced,
        "trained": trained,
        "monitored": monitor(now=moment),
    }
