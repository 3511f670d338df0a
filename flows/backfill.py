"""The backfill flow: a half-open interval of event time, of some or all feature groups."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from features.times import as_utc
from flows.choice import chosen
from flows.moment import moment_of
from flows.tasks import Facts, backfill_group
from infra.settings import load_settings
from infra.wiring import load_registry


@flow(name="backfill", flow_run_name="backfill {start:%Y-%m-%d} to {end:%Y-%m-%d}")
def backfill(
    start: datetime, end: datetime, groups: list[str] | None = None, now: datetime | None = None
) -> list[Facts]:
    """Emit the rows that the schedule would have emitted in [start, end).

    Args:
        start: The first moment, UTC.
        end: The moment after the last one, UTC; a future end is cut to the present.
        groups: The feature groups; empty for all.
        now: The moment the run counts as; empty for the present.
    """
    registry = load_registry(load_settings().registry)
    moment = moment_of(now)
    return [backfill_group(name, as_utc(start), as_utc(end), moment) for name in chosen(registry, groups)]
