"""The monitor flow: score the last day's entities, then report on the night."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows.moment import moment_of
from flows.resume import resume
from flows.stations import Facts
from flows.tasks import report_night, score_model
from infra.monitoring import day_before
from infra.settings import load_settings
from infra.wiring import load_registry


@flow(name="monitor", flow_run_name="monitor", on_crashed=[resume])
def monitor(now: datetime | None = None) -> Facts:
    """Ask the models about the day before, and watch data, features, predictions and models.

    Args:
        now: The moment the run counts as; empty for the present. The day watched is the UTC day before.
    """
    registry = load_registry(load_settings().registry)
    moment = moment_of(now)
    start, end = day_before(moment)
    scored = [score_model(name, start, end, moment) for name in registry.models]
    return {"scored": scored, **report_night(moment)}
