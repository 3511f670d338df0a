"""Deployments: every flow as something that people start from the Prefect UI, some on a schedule.

Registered from Python and loaded by module, never by path: a flow file loaded by path would put
``flows/`` first on ``sys.path`` (``flows/sync.py`` would be a top-level module ``sync``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import getdoc
from typing import Any

from prefect import Flow
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType

from features.registry import Registry
from flows.backfill import backfill
from flows.choice import ALL
from flows.ingest import ingest
from flows.maintain import maintain
from flows.materialize import materialize
from flows.monitor import monitor
from flows.nightly import nightly
from flows.parity import parity
from flows.sync import sync, warm_up
from flows.train import train
from infra.settings import Settings
from infra.wiring import load_registry

NIGHTLY = "0 2 * * *"
WARM_UP = "0 6 * * *"
MONTHLY = "0 4 1 * *"
"""When the shipped schedules fire, in the settings' ``schedule_timezone``."""

_BY_HAND: tuple[Flow[Any, Any], ...] = (ingest, materialize, sync, parity, train, monitor, backfill)


def deployments(settings: Settings, registry: Registry | None = None) -> list[RunnerDeployment]:
    """Every flow, and the materialization of each group that declares a ``schedule``.

    The nightly flow, the warm-up and the monthly maintenance are scheduled, the others wait to be started.
    Cron lines are read in the settings' ``schedule_timezone``, across its changes of clock. ``registry``
    is that of the settings if None.
    """
    known = load_registry(settings.registry) if registry is None else registry
    zone = settings.schedule_timezone
    crons = ((nightly, NIGHTLY), (warm_up, WARM_UP), (maintain, MONTHLY))
    scheduled = [_deployment(flow, cron=cron, zone=zone) for flow, cron in crons]
    groups = [
        _deployment(
            materialize,
            name=f"materialize-{known.name_of(group)}",
            cron=group.schedule,
            zone=zone,
            parameters={"groups": [known.name_of(group)]},
            description=f"Materialize {known.name_of(group)} alone: {group.description}",
            tags=group.tags,
        )
        for group in known.in_order()
        if group.schedule is not None
    ]
    return [
        *scheduled,
        *(_listing(_deployment(by_hand, parameters=_settled(by_hand, settings)), known) for by_hand in _BY_HAND),
        *groups,
    ]


def _settled(flow: Flow[Any, Any], settings: Settings) -> dict[str, Any]:
    """What a form holds to begin with where a setting says so."""
    return {"parallel": settings.parallel} if flow is backfill else {}


def _listing(deployment: RunnerDeployment, registry: Registry) -> RunnerDeployment:
    """A deployment whose form lists the feature groups where it asks for one."""
    form = deployment._parameter_openapi_schema  # noqa: SLF001 - Prefect reads it off the signature alone
    if (field := form.properties.get("group")) is not None:
        field["enum"] = [ALL, *(registry.name_of(group) for group in registry.in_order())]
    return deployment


def _deployment(
    flow: Flow[Any, Any],
    *,
    name: str | None = None,
    cron: str | None = None,
    zone: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    description: str | None = None,
    tags: Sequence[str] = (),
) -> RunnerDeployment:
    return RunnerDeployment.from_flow(
        flow,
        name or flow.name,
        schedule=Cron(cron, timezone=zone) if cron else None,
        parameters=dict(parameters or {}),
        description=description or _about(flow),
        tags=list(dict.fromkeys([flow.name, *tags])),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def _about(flow: Flow[Any, Any]) -> str:
    """A flow's docstring without its ``Args:``, which the run form shows field by field."""
    return (getdoc(flow.fn) or "").partition("\nArgs:")[0].strip()
