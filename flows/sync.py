"""The sync flow, and the cache warm-up of the morning."""

from __future__ import annotations

from datetime import datetime

from flows.choice import served
from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts, each
from flows.tasks import sync_group, warm_group
from infra.serving.workers import wish
from infra.settings import load_settings
from infra.wiring import load_registry


@platform_flow("sync")
def sync(groups: list[str] | None = None, now: datetime | None = None) -> list[Facts]:
    """Publish what was materialized since the last sync to the online store.

    Args:
        groups: The feature groups; empty for all that are served online.
        now: The moment the run counts as; empty for the present.
    """
    registry = load_registry(load_settings().registry)
    moment = moment_of(now)
    return each(served(registry, groups), lambda name: sync_group(name, moment))


@platform_flow("warm-up")
def warm_up(now: datetime | None = None) -> list[Facts]:
    """Bring the online rows into memory before the day's first requests, and what is asked for often into servers'.

    Args:
        now: The moment the run counts as; empty for the present.
    """
    settings = load_settings()
    registry, moment = load_registry(settings.registry), moment_of(now)
    wish(settings.serving, "warm")
    return [warm_group(name, moment) for name in served(registry)]
