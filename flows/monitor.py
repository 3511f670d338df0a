"""The monitor flow: score the last day's entities, then report on the night."""

from __future__ import annotations

from datetime import datetime

from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts
from flows.tasks import report_night, score_model
from infra.monitoring import day_before
from infra.settings import load_settings
from infra.wiring import load_registry


@platform_flow("monitor")
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
