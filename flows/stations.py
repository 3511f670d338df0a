"""Stations: what one run does for several names, where one that fails must not keep the others from their work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from prefect import State, task
from prefect.client.schemas.objects import TaskRun
from prefect.tasks import Task

from features.errors import FeatureFabError, StationsLost, StorageError

P = ParamSpec("P")
R = TypeVar("R")

Facts = dict[str, Any]


def station(name: str, run_name: str | None = None) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a station's task: tried again, a little later each time, where the failure may pass.

    ``run_name`` is what a run is called; words in braces are parameters.
    """
    return task(name=name, task_run_name=run_name, retries=2, retry_delay_seconds=[1, 4], retry_condition_fn=may_pass)


def each(names: Iterable[str], run: Callable[[str], Facts]) -> list[Facts]:
    """What ``run`` says of every name; StationsLost, once all were tried, where it raised for some.

    The next run does what this one could not: every station starts from what is there.
    """
    facts, lost = [], {}
    for name in names:
        try:
            facts.append(run(name))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other names have nothing to do with it
            lost[name] = sentence(error)
    if lost:
        raise StationsLost(lost, facts)
    return facts


def sentence(error: BaseException) -> str:
    """An error in one line; one of ours says what is wrong by itself, others are called by their type."""
    words = " ".join(str(error).split())
    return words if isinstance(error, FeatureFabError) else f"{type(error).__name__}: {words}"


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed task may succeed when it is tried again: a table, a store or a network that did not answer."""
    return isinstance(state.result(raise_on_failure=False), StorageError | OSError)
