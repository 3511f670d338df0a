"""The runner: registers the deployments and runs what falls due, each run in a process of its own.

Run by `infra.supervisor`: its health is answered once all deployments are known to the Prefect server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from prefect.runner import Runner

from flows.deployments import deployments
from flows.runtime import require_server
from infra.loopback import answer_health, end_with_parent
from infra.settings import Settings, load_settings

_POLL_SECONDS = 2.0


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Register all deployments with the Prefect server of the settings and run what falls due, until stopped.

    ``ready`` is called in between. The environment must lead the runs, which are processes of their own, to the
    home (`flows.runtime.prefect_runtime`). Raises SettingsError where no server answers.
    """
    require_server(settings.prefect_api_url or "")
    # What was planned for a time when nothing ran is late, not lost: schedules do not pause.
    runner = Runner(name="featurefab", query_seconds=_POLL_SECONDS, pause_on_shutdown=False)
    for deployment in deployments(settings):
        runner.add_deployment(deployment)
    ready()
    asyncio.run(runner.start())


if __name__ == "__main__":
    end_with_parent()
    serve(load_settings(), lambda: answer_health(sys.argv[1:]))
