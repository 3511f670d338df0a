"""The Prefect server that a command needs: started privately in the home, or the one that is set.

Measured on two cores, ten flows of twelve tasks, a new SQLite database: Prefect's own temporary server
takes 17 s to the first task and 1.1 s a flow, and prints tracebacks at exit. Here: a server without
background services on a socket bound beforehand, and no events and no heartbeats (a flow's heartbeat
thread sleeps in whole seconds, and the flow waits for it).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from features.errors import SettingsError
from infra.loopback import LoopbackServer
from infra.settings import Settings, apply_isolation, environment_kept

_PRIVATE_SERVER = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the command itself says what went wrong, once
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
}


@contextmanager
def prefect_runtime(settings: Settings, *, wait: bool = True) -> Iterator[None]:
    """Make flows runnable inside the block, in an environment isolated to the home.

    With ``prefect_api_url`` set, that server is used. Otherwise a private server runs until the block
    ends: it keeps the flow runs in the home's database, but no task runs, events or logs. With
    ``wait=False`` the block starts at once and the first flow waits for the server instead. Raises
    FeatureFabError if the server does not start, or if none answers at the address that is set. Enter
    it before anything imports Prefect or MLflow.
    """
    with ExitStack() as stack:
        stack.enter_context(environment_kept())
        _make_home(settings)
        apply_isolation(settings, None if settings.prefect_api_url else _PRIVATE_SERVER)
        if settings.prefect_api_url is None:
            server = stack.enter_context(LoopbackServer("flows.prefect_server", settings.prefect_home / "server.log"))
            apply_isolation(settings, {**_PRIVATE_SERVER, "PREFECT_API_URL": f"{server.url}/api"})
            stack.enter_context(_client_of(f"{server.url}/api"))
            if wait:
                server.wait_until_healthy("/api/health")
        else:
            require_server(settings.prefect_api_url)
        yield


def require_server(api_url: str) -> None:
    """Raise SettingsError unless a Prefect server answers at the address."""
    from prefect.client.orchestration import get_client  # noqa: PLC0415 - after the environment was set
    from prefect.settings import temporary_settings  # noqa: PLC0415

    with temporary_settings({"api.url": api_url}), get_client(sync_client=True) as client:
        if (problem := client.api_healthcheck()) is not None:
            where = f"setting 'prefect_api_url' is {api_url!r}"
            raise SettingsError(f"{where}, where no Prefect server answers ({problem}): start it first")


def _make_home(settings: Settings) -> None:
    """Make Prefect's folder: by itself Prefect makes the last folder of the path only, or warns."""
    try:
        settings.prefect_home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"home {settings.home} cannot be written ({error}): name another folder") from error


@contextmanager
def _client_of(api_url: str) -> Iterator[None]:
    """Prefect's client in this process set to a private server: no heartbeats, no events."""
    # 1 to 2 s, and only now: Prefect reads the environment when it is imported.
    from prefect.events.clients import NullEventsClient  # noqa: PLC0415
    from prefect.events.worker import EventsWorker  # noqa: PLC0415
    from prefect.settings import temporary_settings  # noqa: PLC0415

    EventsWorker.set_client_override(NullEventsClient)
    try:
        with temporary_settings({"api.url": api_url, "flows.heartbeat_frequency": None}):
            yield
    finally:
        EventsWorker.set_client_override(None)
