"""The nightly flow: the whole line, station by station."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow

from features.errors import InvalidInput
from flows.ingest import ingest
from flows.materialize import materialize
from flows.moment import moment_of
from flows.monitor import monitor
from flows.parity import parity_verdict
from flows.resume import resume
from flows.sync import sync
from flows.tasks import Facts
from flows.train import train
from infra.model_runs import untrained
from infra.settings import load_settings
from infra.wiring import open_platform


@flow(name="nightly", flow_run_name="nightly", on_crashed=[resume])
def nightly(landing: str | None = None, now: datetime | None = None) -> Facts:
    """Ingest, materialize, sync, check parity, train the models that have no version yet, score and report.

    Where the stores do not agree, the parity run fails and the rest of the night goes on.

    Args:
        landing: The folder in which files arrive; empty for the home's own.
        now: The moment the night counts as; empty for the present.
    """
    moment = moment_of(now)
    ingested = take_in(landing, moment)
    materialized = materialize(now=moment)
    synced = sync(now=moment)
    agreed = parity_verdict(moment)
    with open_platform() as platform:
        missing = untrained(platform.store, platform.tracker)
    trained = train(missing, now=moment) if missing else []
    return {
        "now": moment.isoformat(),
        "ingested": ingested,
        "materialized": materialized,
        "synced": synced,
        "parity": agreed,
        "trained": trained,
        "monitored": monitor(now=moment),
    }


def take_in(landing: str | None, moment: datetime) -> Facts:
    """What was taken in; a folder without a file for us is no reason to give the night up.

    Raises InvalidInput where the folder was named and is not there.
    """
    folder = Path(landing) if landing else load_settings().landing
    if landing and not folder.is_dir():
        raise InvalidInput(f"landing {landing}: there is no such folder")
    arrived = folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))
    try:
        return ingest([str(folder)], now=moment) if arrived else {"files": 0, "skipped": f"nothing in {folder}"}
    except InvalidInput as error:
        return {"files": 0, "skipped": str(error)}
