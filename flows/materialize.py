"""The materialize flow: the live path of some or all feature groups."""

from __future__ import annotations

from datetime import datetime

from flows.choice import chosen
from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts, each
from flows.tasks import materialize_group
from infra.settings import load_settings
from infra.wiring import load_registry


@platform_flow("materialize")
def materialize(groups: list[str] | None = None, now: datetime | None = None) -> list[Facts]:
    """Emit the feature rows that new source commits and the passing of time made necessary.

    Args:
        groups: The feature groups; empty for all.
        now: The moment the run counts as; empty for the present.
    """
    registry = load_registry(load_settings().registry)
    moment = moment_of(now)
    return each(chosen(registry, groups), lambda name: materialize_group(name, moment))
