"""Task runners: where the chunks of a backfill are computed, by setting."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from features.errors import SettingsError
from infra.settings import Settings


def task_runner(settings: Settings, workers: int) -> TaskRunner[Any]:
    """A runner with so many workers: threads of this process, or processes of a local Dask or Ray.

    Raises SettingsError where the setting names a runner whose extra is not installed.
    """
    if settings.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=workers)
    try:
        if settings.task_runner == "dask":
            from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415 - an extra, and slow to import

            # A thread each: Polars has threads of its own.
            return DaskTaskRunner(
                cluster_kwargs={"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
            )
        from prefect_ray.task_runners import RayTaskRunner  # noqa: PLC0415 - likewise

        ray: TaskRunner[Any] = RayTaskRunner(init_kwargs={"num_cpus": workers, "include_dashboard": False})
    except ImportError as error:
        extra = settings.task_runner
        raise SettingsError(
            f"setting 'task_runner' is {extra!r}, and {error.name!r} is not installed: "
            f"pip install 'featurefab[{extra}]', or set it to 'threads'"
        ) from error
    return ray
