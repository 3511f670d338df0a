"""Runs whose process died: they are run again, and go on where they stopped, since every station can."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import AwaitingRetry, Cancelled, Crashed

ATTEMPTS = 3
"""A run whose process dies so many times stays crashed: it may be what kills it."""


def resume(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - as Prefect calls it
    """Run a crashed run again: for a flow's ``on_crashed``; what no runner started is left alone."""
    if flow_run.deployment_id is not None:
        with get_client(sync_client=True) as client:
            _again(client, flow_run)


def take_over(deployments: Collection[UUID]) -> None:
    """Deal with what a runner that died left in the middle; call it before another one starts."""
    asked = {
        "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}},
        "deployments": {"id": {"any_": [str(identity) for identity in deployments]}},
    }
    with get_client(sync_client=True) as client:
        # Not by `read_flow_runs`: it sends nulls for the filters that are not given, which the server refuses.
        left = client.request("POST", "/flow_runs/filter", json=asked).json()
        for run in map(FlowRun.model_validate, left):
            if run.state_type == StateType.CANCELLING:
                client.set_flow_run_state(run.id, Cancelled(message="its process ended before"), force=True)
            else:
                _again(client, run)


def _again(client: SyncPrefectClient, run: FlowRun) -> None:
    if run.run_count >= ATTEMPTS:
        died: State[Any] = Crashed(message=f"its process died {run.run_count} times: start it again when you know why")
        client.set_flow_run_state(run.id, died, force=True)
        return
    state: State[Any] = AwaitingRetry(message="its process died: it is run again and goes on where it stopped")
    client.set_flow_run_state(run.id, state, force=True)
