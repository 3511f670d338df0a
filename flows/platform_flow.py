"""What every flow of the platform has: a name and tags that say what a run is about, and plain errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import prefect
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run as this_run

from features.errors import FeatureFabError
from features.times import as_utc, utc_now
from flows.choice import ALL
from flows.resume import resume
from flows.stations import sentence

P = ParamSpec("P")
R = TypeVar("R")

_NAMING = ("group", "groups", "models", "name")
"""The parameters that name groups, services and models."""
_SHOWN = 3
"""Names in the name of a run; of more, how many."""


def platform_flow(name: str, run_name: Callable[[], str] | None = None) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a function a flow: Prefect's decorator, with what all flows here have.

    A run is called by ``run_name``, or by the flow, the names that it is about and the UTC day it counts as; the
    names are its tags too. It is run again where its process died.
    """
    return prefect.flow(
        name=name, flow_run_name=run_name or (lambda: _called(name)), on_running=[settle_in], on_crashed=[resume]
    )


def subjects(parameters: Mapping[str, Any]) -> list[str]:
    """The groups, services and models that a run was asked to deal with; none where it deals with all.

    >>> subjects({"groups": ["die_results", "wafer_context"], "now": None}), subjects({"group": "all groups"})
    (['die_results', 'wafer_context'], [])
    """
    given = [parameters.get(name) or [] for name in _NAMING]
    names = [name for found in given for name in ([found] if isinstance(found, str) else found)]
    return [name for name in names if name != ALL]


def _called(name: str) -> str:
    names = subjects(this_run.parameters)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    about = f" {', '.join(names[:_SHOWN])}{more}" if names else ""
    return f"{name}{about} on {as_utc(this_run.parameters.get('now') or utc_now()):%Y-%m-%d}"


def settle_in(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - as Prefect calls it
    """Before a run begins: tag it with what it is about, and log our errors as sentences."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(in_a_sentence)
    tags = list(dict.fromkeys([*flow_run.tags, *subjects(flow_run.parameters)]))
    if flow_run.deployment_id is not None and tags != flow_run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, tags=tags)


def in_a_sentence(record: logging.LogRecord) -> bool:
    """Log an error of ours by what it says; one of another kind keeps its traceback, which is all that it says."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FeatureFabError):
        record.msg, record.args, record.exc_info, record.exc_text = sentence(error), (), None, None
    return True
