"""The nightly flow: the whole line, station by station."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.runtime import flow_run

from features.errors import InvalidInput, StationsLost
from features.times import as_utc, utc_now
from flows.console import complain
from flows.ingest import ingest
from flows.materialize import materialize
from flows.moment import moment_of
from flows.monitor import monitor
from flows.night_page import show_night
from flows.parity import parity
from flows.platform_flow import platform_flow
from flows.stations import Facts, sentence
from flows.sync import sync
from flows.train import train
from infra.model_runs import untrained
from infra.settings import load_settings
from infra.turns import NIGHT, turn
from infra.wiring import fixed_clock, open_platform


def _name() -> str:
    return f"night of {as_utc(flow_run.parameters.get('now') or utc_now()):%Y-%m-%d}"


@platform_flow("nightly", _name)
def nightly(landing: str | None = None, now: datetime | None = None) -> Facts:
    """Ingest, materialize, sync, check parity, train the models that have no version yet, score and report.

    A station that fails is left for the next night, which finds its work undone, and the others do theirs; the
    night then fails with the station's name. What one can read of it in ten seconds is its page. Where another
    night is at work, this one comes after it, and does what is left to do.

    Args:
        landing: The folder in which files arrive; empty for the home's own.
        now: The moment the night counts as; empty for the present.
    """
    with turn(load_settings().turns, NIGHT, flow_run.name or "a night", waiting=_waits):
        return _night(landing, moment_of(now))


def _waits(holder: str) -> None:
    """Say so, in the run's log and where the command was typed: what a private server logs is not shown."""
    said = f"the night waits for its turn after {holder}"
    get_run_logger().info(said)
    complain("note", said)


def _night(landing: str | None, moment: datetime) -> Facts:
    """The stations, and the page."""
    line = _Line()
    facts: Facts = {
        "now": moment.isoformat(),
        "ingested": line.station("ingest", lambda: take_in(landing, moment), {"files": 0}),
        "materialized": line.station("materialize", lambda: materialize(now=moment), []),
        "synced": line.station("sync", lambda: sync(now=moment), []),
        "parity": line.station("parity", lambda: _agreement(parity(now=moment)), {}),
        "trained": line.station("train", lambda: _train(moment), []),
        "monitored": line.station("monitor", lambda: monitor(now=moment), {"scored": []}),
    }
    with open_platform(clock=fixed_clock(moment)) as platform:
        show_night(platform, facts, line.lost)
    if line.lost:
        raise StationsLost(line.lost, [facts])
    return facts


class _Line:
    """Runs stations one after the other, whatever becomes of each; ``lost`` says which failed, and why."""

    def __init__(self) -> None:
        self.lost: dict[str, str] = {}

    def station(self, name: str, run: Callable[[], Any], nothing: Any) -> Any:
        """What a station did; ``nothing``, or what of it was done, where it failed."""
        try:
            return run()
        except StationsLost as error:
            self.lost |= {f"{name} {part}": why for part, why in error.lost.items()}
            return error.facts
        except Exception as error:  # noqa: BLE001 - whatever it is, the night goes on without this station
            self.lost[name] = sentence(error)
            return nothing


def _train(moment: datetime) -> list[Facts]:
    with open_platform() as platform:
        missing = untrained(platform.store, platform.tracker)
    return train(missing, now=moment) if missing else []


def _agreement(found: list[Facts]) -> Facts:
    lowest = min((fact["agreement"] for fact in found), default=1.0)
    return {"verdict": "ok", "entities": sum(fact["entities"] for fact in found), "agreement": lowest}


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
