"""The command up: everything that runs all the time, in one terminal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import typer

from features.errors import InvalidInput
from flows.console import clear_errors, complain, out, print_json, print_table
from infra.settings import LOOPBACK, Settings, apply_isolation, environment_kept, load_settings
from infra.supervisor import Service, Supervisor

PREFECT, MLFLOW, FEATURES, RUNNER = "prefect", "mlflow", "features", "runner"
SERVICES = (PREFECT, MLFLOW, FEATURES, RUNNER)
"""What `up` can run, in the order in which they are started."""

_WHAT = {
    PREFECT: "flows, schedules and backfills: start them here",
    MLFLOW: "training runs and models",
    FEATURES: "features over HTTP; see /docs",
    RUNNER: "runs what is due or was started in the UI",
}


class Ports(NamedTuple):
    """Where the servers listen."""

    prefect: int
    mlflow: int
    features: int


def up(only: Sequence[str], ports: Ports, *, home: Path | None, json: bool) -> None:
    """Start the services, say where they answer, start anew what ends, until Ctrl-C."""
    began = time.monotonic()
    with clear_errors(), environment_kept(), _until_signalled():
        settings, services = _chosen(load_settings(home=home), only, ports)
        settings.prefect_home.mkdir(parents=True, exist_ok=True)
        with Supervisor(services, settings.logs) as supervisor:
            apply_isolation(settings, _for_the_ui(settings))
            supervisor.start()
            if not json:
                out.print(f"starting {', '.join(service.name for service in services)} ...")
            supervisor.wait_until_healthy()
            _say_where(supervisor, services, time.monotonic() - began, json=json)
            supervisor.watch(threading.Event(), lambda what: complain(f"{datetime.now().astimezone():%H:%M:%S}", what))


@contextmanager
def _until_signalled() -> Iterator[None]:
    """End the block where the terminal closes or somebody asks for it, as on Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a shell's background jobs ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        complain("stopped", "schedules wait until `featurefab up` runs again")
        raise typer.Exit from None


def _chosen(settings: Settings, only: Sequence[str], ports: Ports) -> tuple[Settings, list[Service]]:
    """The services to start, and the settings with which all find the Prefect server."""
    if unknown := sorted(set(only) - set(SERVICES)):
        raise InvalidInput(f"--only {unknown[0]}: there is no such service; there are {', '.join(SERVICES)}")
    wanted = [name for name in SERVICES if name in (only or SERVICES)]
    if settings.prefect_api_url is not None:
        wanted = [name for name in wanted if name != PREFECT]  # one runs elsewhere
    elif PREFECT in wanted or RUNNER in wanted:
        settings = load_settings(home=settings.home, prefect_api_url=f"http://{LOOPBACK}:{ports.prefect}/api")
    if settings.mlflow_tracking_uri is not None:
        wanted = [name for name in wanted if name != MLFLOW]
    if not wanted:
        raise InvalidInput("nothing to start: the settings name a Prefect server and an MLflow server elsewhere")
    services = {
        PREFECT: Service(PREFECT, "flows.prefect_ui", ports.prefect, "/api/health"),
        MLFLOW: Service(MLFLOW, "infra.mlflow_server", ports.mlflow, "/health"),
        FEATURES: Service(FEATURES, "infra.serving.server", ports.features, "/ready"),
        RUNNER: Service(RUNNER, "flows.runner", 0, "/health"),
    }
    return settings, [services[name] for name in wanted]


def _for_the_ui(settings: Settings) -> dict[str, str]:
    """What the pages of Prefect's UI show and ask: on another port than 4200 they would ask the wrong server."""
    logs = {"PREFECT_LOGGING_LEVEL": "INFO"}
    return logs | ({"PREFECT_SERVER_UI_API_URL": settings.prefect_api_url} if settings.prefect_api_url else {})


def _say_where(supervisor: Supervisor, services: Sequence[Service], seconds: float, *, json: bool) -> None:
    where = [
        {
            "service": service.name,
            "address": supervisor.url(service.name),
            "what": _WHAT[service.name],
            "log": str(supervisor.log(service.name)),
        }
        for service in services
    ]
    if json:
        print_json({"services": where, "seconds": round(seconds, 1)})
    else:
        print_table(f"up after {seconds:.0f} s; Ctrl-C ends all", where)
