"""The runner: registers the deployments and runs what falls due, each run in a process of its own.

Run by `infra.supervisor`: its health is answered once all deployments are known to the Prefect server.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import cast
from uuid import UUID

from prefect.runner import Runner

from features.errors import SettingsError
from flows.deployments import deployments
from flows.resume import take_over
from flows.runtime import require_server
from infra.loopback import answer_health, end_with_parent
from infra.settings import Settings, load_settings

_POLL_SECONDS = 2.0


def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Register all deployments with the Prefect server of the settings and run what falls due, until stopped.

    ``ready`` is called in between. The environment must lead the runs, which are processes of their own, to the
    home, as those of `featurefab up` do. Raises SettingsError where no server is named, or none answers.
    """
    if settings.prefect_api_url is None:
        raise SettingsError(
            "setting 'prefect_api_url' is not set: schedules need a Prefect server that runs all the time"
        )
    require_server(settings.prefect_api_url)
    # What was planned for a time when nothing ran is late, not lost: schedules do not pause.
    runner = Runner(name="featurefab", query_seconds=_POLL_SECONDS, pause_on_shutdown=False)
    # Prefect declares that these may be coroutines; outside of one they are not.
    take_over([cast("UUID", runner.add_deployment(deployment)) for deployment in deployments(settings)])
    ready()
    asyncio.run(runner.start())


if __name__ == "__main__":
    end_with_parent()
    serve(load_settings(), lambda: answer_health(sys.argv[1:]))
